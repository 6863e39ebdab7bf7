"""A layer alone, forward and forward with backward, compiled as `fit` compiles it, over sizes of input."""

import math

import keras
import numpy as np
from keras import ops
from layers import LAYERS, makers
from timing import interleaved, summary

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch

# From 1e3 to 3e7 floats, in feature maps whose sizes networks have.
SHAPES = [(1, 4, 4, 64), (2, 8, 8, 64), (4, 20, 20, 64), (16, 32, 32, 64), (32, 56, 56, 64), (64, 86, 86, 64)]
LARGE = (32, 56, 56, 64)


def calls(layer, shape, jit_compile="auto"):
    """Two functions that run the layer in training, forward, and forward and backward, to their ends."""
    rng = np.random.default_rng(0)
    x, upstream = (ops.convert_to_tensor(rng.standard_normal(shape), "float32") for _ in range(2))
    layer.build(shape)
    return {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}[BACKEND](layer, x, upstream, jit_compile is True)


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

    # Reading one number waits for all.
    return lambda: forward(x)[(0,) * x.ndim].numpy(), lambda: both(x)[1][(0,) * x.ndim].numpy()


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
    x_with_gradient = x.clone().requires_grad_(True)

    def forward():
        with torch.no_grad():
            run(x)

    def both():
        x_with_gradient.grad = None
        run(x_with_gradient).backward(upstream)

    return forward, both


def compared(shape, makers, jit_compile, seconds):
    """Milliseconds, and ratios to `x * 2`, of the forward pass, and of both."""
    pairs = {name: calls(make(), shape, jit_compile) for name, make in makers.items()}
    directions = ("forward", "forward and backward")
    return {
        direction: summary(interleaved({name: pair[i] for name, pair in pairs.items()}, seconds))
        for i, direction in enumerate(directions)
    }


def measure(seconds=4):
    """Results of Dropout by size, of all layers at one large size, and there with `jit_compile=True`, by direction."""
    results = {str(math.prod(shape)): compared(shape, makers("Dropout"), "auto", seconds) for shape in SHAPES}
    results[f"all layers, {math.prod(LARGE)}"] = compared(LARGE, makers(*LAYERS), "auto", seconds)
    if BACKEND != "jax":
        results[f"jit_compile=True, {math.prod(LARGE)}"] = compared(LARGE, makers("Dropout"), True, seconds)
    return results
