"""What the tests need of each backend: gradients, compilation, and NumPy arrays."""

import hashlib

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
elif BACKEND == "torch":
    import torch


def to_numpy(x):
    return np.array(ops.convert_to_numpy(ops.cast(x, "float32")))


def train(layer, x):
    """One call in training, as float32."""
    return to_numpy(layer(ops.convert_to_tensor(x), training=True))


def multiplier(layer, shape):
    """What the layer multiplies its next input by: the answer to ones."""
    return train(layer, np.ones(shape, "float32"))


def digest(row):
    layer = row.make(0.5)
    calls = np.stack([multiplier(layer, row.shape) for _ in range(2)])
    return hashlib.sha256(calls.tobytes()).hexdigest()[:16]


def value_and_gradient(function, x, upstream):
    """`function(x)` and the gradient of `sum(function(x) * upstream)`, of the backend's own making."""
    x = ops.convert_to_tensor(x)
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return to_numpy(y), to_numpy(tape.gradient(y, x, tf.cast(upstream, y.dtype)))
    if BACKEND == "jax":
        y, pullback = jax.vjp(function, x)
        return to_numpy(y), to_numpy(pullback(ops.cast(upstream, y.dtype))[0])
    x.requires_grad_(True)
    y = function(x)
    y.backward(ops.cast(upstream, y.dtype))
    return to_numpy(y.detach()), to_numpy(x.grad)


def compiled_calls(layer, inputs, jit_compile=None):
    """Calls the layer in training on each input, within one compiled function, and returns the outputs."""
    inputs = [ops.convert_to_tensor(x) for x in inputs]
    if BACKEND == "tensorflow":
        call = tf.function(lambda x: layer(x, training=True), jit_compile=jit_compile)
        return [to_numpy(call(x)) for x in inputs]
    if BACKEND == "torch":
        call = torch.compile(lambda x: layer(x, training=True), backend="inductor" if jit_compile else "aot_eager")
        return [to_numpy(call(x)) for x in inputs]
    layer.build(inputs[0].shape)
    step = jax.jit(lambda trained, others, x: layer.stateless_call(trained, others, x, training=True))
    trained, others = ([v.value for v in vs] for vs in (layer.trainable_variables, layer.non_trainable_variables))
    outputs = []
    for x in inputs:
        y, others = step(trained, others, x)
        outputs.append(to_numpy(y))
    return outputs
