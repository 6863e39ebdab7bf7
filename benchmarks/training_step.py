"""What a layer costs in a training step of the networks that it suits, against no layer.

The step is the one that `fit` compiles and runs, called by `train_on_batch`: on TensorFlow the epochs of `fit` itself
last multiples of a third of a second, whatever the layer.
"""

import math
import time

import keras
import numpy as np
from keras import ops
from layers import CNN, LAYERS, drops
from machine import ON_GPU
from networks import NETWORKS
from timing import interleaved, summary, wait

BACKEND = keras.backend.backend()
# What is timed as one lasts so many seconds.
SLICE = 0.05


def trainer(network, drop, scale=8 if ON_GPU else 1, jit_compile="auto"):
    """A function that takes a number of training steps of a network, on batches that are `scale` times as large."""
    build, batch = NETWORKS[network]
    model = build(drop)
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.standard_normal((scale * batch, *model.input_shape[1:])), "float32")
    y = ops.convert_to_tensor(rng.integers(0, 10, scale * batch))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit_compile)

    def train(steps, x=x, y=y):
        for _ in range(steps):
            model.train_on_batch(x, y)
        # The weights of the first layer change last.
        wait(model.trainable_variables[0].value)

    return train, x, y


def timed(network, names, seconds, jit_compile="auto"):
    """Times the steps of a network without a layer and with each, for so many seconds each."""
    trainers = {which: trainer(network, drop, jit_compile=jit_compile)[0] for which, drop in drops(*names).items()}
    first = next(iter(trainers.values()))
    first(1)
    start = time.perf_counter()
    first(3)
    steps = math.ceil(3 * SLICE / (time.perf_counter() - start))
    calls = {which: lambda train=train: train(steps) for which, train in trainers.items()}
    return summary(interleaved(calls, seconds * len(calls)), steps)


def measure(seconds=1):
    """Milliseconds a step and ratios to no layer, by network; the CNN also with `jit_compile=True`, if a choice."""
    if BACKEND == "torch":
        import torch

        # Keras compiles one function for all models, which PyTorch gives up on after 8.
        torch._dynamo.config.recompile_limit = 64
    results = {}
    for network in NETWORKS:
        results[network] = timed(network, [n for n, kind in LAYERS.items() if network in kind.networks], seconds)
    if BACKEND != "jax":
        results[f"{CNN}, jit_compile=True"] = timed(CNN, ["Dropout"], seconds, jit_compile=True)
    return results
