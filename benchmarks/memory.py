"""What a layer keeps from the forward pass for the backward pass, and what a training step takes at its peak."""

import ctypes
import gc
import math
import pathlib
import re
import sys

import keras
import numpy as np
from keras import ops
from layers import ALONE, LAYERS, drops, makers
from machine import ON_GPU
from networks import NETWORKS
from timing import by_layer, in_fresh_processes
from training_step import trainer

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


def peak_bytes(network, name, whose):
    """The most that a training step takes beside what is there before it, in a process of its own.

    On a GPU by the framework's own accounting. On a CPU, where no framework has one, by Linux's of the process.
    """
    train, x, y = trainer(network, drops(*LAYERS.keys() & {name})[name, whose], scale=2)
    if not ON_GPU:
        # What is freed goes back to the system at once, and does not hide what is needed next.
        libc, threshold = ctypes.CDLL(None), -3
        libc.mallopt(threshold, 2**16)
    if BACKEND == "tensorflow":
        # Compiles for any number of samples. What memory TensorFlow once had on a CPU it keeps.
        for samples in (1, 2):
            train(1, x[:samples], y[:samples])
    else:
        train(1)
    gc.collect()
    if ON_GPU:
        return _peak_of_gpu(train)
    libc.malloc_trim(0)
    before = _resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    train(1)
    return _resident("VmHWM") - before


def _resident(which):
    return 1024 * int(re.search(rf"{which}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])


def _peak_of_gpu(train):
    if BACKEND == "torch":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        train(1)
        return torch.cuda.max_memory_allocated() - before
    if BACKEND == "tensorflow":
        before = tf.config.experimental.get_memory_info("GPU:0")["current"]
        tf.config.experimental.reset_memory_stats("GPU:0")
        train(1)
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before
    # That of the step before, which was the same: JAX does not forget a peak.
    stats = jax.devices()[0].memory_stats()
    return stats["peak_bytes_in_use"] - stats["bytes_in_use"]


def peaks(networks=NETWORKS):
    """Megabytes, and ratios to no layer, by network and layer: of each layer in the first network that it suits."""
    results = {}
    for network in networks:
        cases = list(drops(*[name for name, kind in LAYERS.items() if kind.networks[0] == network]))
        if len(cases) == 2:
            continue
        taken = in_fresh_processes(peak_bytes, [(network, *which) for which in cases], workers=2)
        results[network] = by_layer(
            {which: {"MB": n / 1e6, "ratio": n / taken[0]} for which, n in zip(cases, taken, strict=True)}
        )
    return results


def measure(shape=(32, 28, 28, 32)):
    """Bytes an element that are kept, by layer; and the peaks, where they can be known."""
    kept = {which: kept_bytes(make(), shape) / math.prod(shape) for which, make in makers(*ALONE).items()}
    return {"kept": {"float32": by_layer(kept)}, "peak": peaks() if ON_GPU or sys.platform == "linux" else {}}
