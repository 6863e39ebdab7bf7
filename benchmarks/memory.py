"""What a layer keeps from the forward pass for the backward pass, by each framework's own accounting."""

import math

import keras
import numpy as np
from keras import ops
from layers import LAYERS, makers

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch


def kept_bytes(layer, shape, inputs=lambda x: x):
    """The bytes that autodiff keeps of a call in training on float32 inputs, the inputs themselves not counted.

    `inputs` makes of a tensor what the layer is called with.

    TensorFlow: in the graph that `fit` would run, what operations of the forward pass hand to those of the gradient.
    JAX: the leaves of the function that `jax.vjp` returns. PyTorch: what `saved_tensors_hooks` sees.
    """
    layer.build(shape)
    x = ops.convert_to_tensor(np.ones(shape, "float32"))
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](layer, x, inputs)


def _tensorflow(layer, x, inputs):
    forward = []

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(inputs(x), training=True)
        graph = tf.compat.v1.get_default_graph()
        forward.extend(op.name for op in graph.get_operations())
        return tape.gradient(y, x, tf.ones_like(y))

    graph = step.get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    backward = [op for op in graph.get_operations() if op.name not in forward]
    kept = {
        tensor.name: tensor
        for op in backward
        for tensor in op.inputs
        if tensor.op.name in forward and tensor.op.type not in ("Placeholder", "Const")
    }
    return sum(tensor.shape.num_elements() * tensor.dtype.size for tensor in kept.values())


def _jax(layer, x, inputs):
    state = [v.value for v in layer.non_trainable_variables]
    _, pullback = jax.vjp(lambda x: layer.stateless_call([], state, inputs(x), training=True)[0], x)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(pullback) if leaf is not x)


def _torch(layer, x, inputs):
    x.requires_grad_(True)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = layer(inputs(x), training=True)
    del y
    kept.pop(x.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def measure(shape=(32, 28, 28, 32)):
    """Bytes an element, by layer."""
    return {"float32": {name: kept_bytes(make(), shape) / math.prod(shape) for name, make in makers(*LAYERS).items()}}
