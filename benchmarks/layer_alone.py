"""A layer alone, forward and forward with backward, compiled as `fit` compiles it, over sizes of input."""

import math

import keras
import numpy as np
from keras import ops
from layers import ALONE, makers
from machine import memory
from timing import interleaved, summary, wait

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch

# From 1 to 3e8 floats, in feature maps whose sizes networks have.
SHAPES = [
    (1, 1, 1, 1),
    (1, 4, 4, 64),
    (2, 8, 8, 64),
    (4, 20, 20, 64),
    (16, 32, 32, 64),
    (32, 56, 56, 64),
    (64, 86, 86, 64),
    (128, 112, 112, 64),
    (384, 112, 112, 64),
]
LARGE = (32, 56, 56, 64)
# As many float32 tensors as inputs, outputs, their gradients, and the words and masks between take at most.
TENSORS = 12


def calls(layer, x, upstream, jit_compile):
    """Two functions that run the layer in training, forward, and forward and backward, to their ends."""
    layer.build(x.shape)
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](layer, x, upstream, jit_compile)


def _tensorflow(layer, x, upstream, jit_compile):
    @tf.function(jit_compile=jit_compile)
    def forward(x):
        return layer(x, training=True)

    @tf.function(jit_compile=jit_compile)
    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return y, tape.gradient(y, x, upstream)

    return lambda: wait(forward(x)), lambda: wait(both(x)[1])


def _jax(layer, x, upstream, _):
    state = [v.value for v in layer.non_trainable_variables]

    def run(state, x):
        return layer.stateless_call([], state, x, training=True)

    def run_both(state, x):
        y, pullback, state = jax.vjp(lambda x: run(state, x), x, has_aux=True)
        return y, pullback(upstream), state

    forward, both = jax.jit(run), jax.jit(run_both)
    return lambda: jax.block_until_ready(forward(state, x)), lambda: jax.block_until_ready(both(state, x))


def _torch(layer, x, upstream, jit_compile):
    run = torch.compile(lambda x: layer(x, training=True)) if jit_compile else lambda x: layer(x, training=True)
    x_with_gradient = x.detach().requires_grad_(True)

    def forward():
        with torch.no_grad():
            wait(run(x))

    def both():
        run(x_with_gradient).backward(upstream)
        wait(x_with_gradient.grad)
        x_with_gradient.grad = None

    return forward, both


def compared(shape, names, seconds, jit_compile=False):
    """Milliseconds and ratios to `x * 2`, by direction; or what is in the way."""
    needed, there = TENSORS * 4 * math.prod(shape), memory()
    if needed > there:
        return f"not measured: may take {needed / 1e9:.0f} GB, and there are {there / 1e9:.0f}"
    rng = np.random.default_rng(0)
    x, upstream = (ops.convert_to_tensor(rng.standard_normal(shape, dtype="float32")) for _ in range(2))
    pairs = {which: calls(make(), x, upstream, jit_compile) for which, make in makers(*names).items()}
    directions = ("forward", "forward and backward")
    return {
        direction: summary(interleaved({which: pair[i] for which, pair in pairs.items()}, seconds))
        for i, direction in enumerate(directions)
    }


def measure(seconds=1.5):
    """Results of Dropout by size, of all layers at one large size, and there with `jit_compile=True`, by direction."""
    results = {str(math.prod(shape)): compared(shape, ["Dropout"], seconds) for shape in SHAPES}
    results[f"all layers, {math.prod(LARGE)}"] = compared(LARGE, ALONE, 2 * seconds)
    if BACKEND != "jax":
        results[f"jit_compile=True, {math.prod(LARGE)}"] = compared(LARGE, ["Dropout"], seconds, jit_compile=True)
    return results
