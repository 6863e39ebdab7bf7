"""What a layer costs in a training step, on three networks, against no layer.

The step is the one that `fit` compiles and runs, called by `train_on_batch`: on TensorFlow the epochs of `fit` itself
last multiples of a third of a second, whatever the layer.
"""

import keras
import numpy as np
from keras import layers, ops
from layers import makers
from timing import interleaved, summary

BACKEND = keras.backend.backend()
NONE = "no layer"


def residual_cnn(drop):
    """Two residual blocks of two convolutions, with a dropout after each."""
    x = inputs = keras.Input((28, 28, 32))
    for _ in range(2):
        y = drop(layers.Conv2D(32, 3, padding="same", activation="relu")(x))
        y = drop(layers.Conv2D(32, 3, padding="same")(y))
        x = layers.add([x, y])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def mlp(drop):
    x = inputs = keras.Input((784,))
    for _ in range(2):
        x = drop(layers.Dense(1024, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def transformer(drop):
    """An encoder block, with a dropout of the attention's output and of the MLP's."""
    x = inputs = keras.Input((128, 256))
    y = layers.LayerNormalization()(x)
    x = layers.add([x, drop(layers.MultiHeadAttention(4, 64)(y, y))])
    y = layers.Dense(1024, activation="gelu")(layers.LayerNormalization()(x))
    x = layers.add([x, drop(layers.Dense(256)(y))])
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(x)))


ANY = ("Dropout", "GaussianDropout")
# The network, its batch, how many steps are timed as one, and the layers that it takes.
NETWORKS = {
    "residual CNN": (residual_cnn, 64, 4, (*ANY, "SpatialDropout2D", "DropBlock2D")),
    "MLP": (mlp, 128, 16, ANY),
    "Transformer block": (transformer, 32, 2, ANY),
}


def timed(build, batch, steps, makers, jit_compile, seconds):
    """Times the steps of a network without a layer and with each."""
    rng = np.random.default_rng(0)
    shape = build(lambda x: x).input_shape[1:]
    x = ops.convert_to_tensor(rng.standard_normal((batch, *shape)), "float32")
    y = ops.convert_to_tensor(rng.integers(0, 10, batch))

    def trainer(make):
        model = build(lambda x: make()(x) if make else x)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=jit_compile)
        return lambda: [model.train_on_batch(x, y) for _ in range(steps)]

    trainers = {name: trainer(make) for name, make in {NONE: None, **makers}.items()}
    return summary(interleaved(trainers, seconds), steps)


def measure(seconds=25):
    """Milliseconds a step and ratios to no layer, by network; the CNN also with `jit_compile=True`, if a choice."""
    if BACKEND == "torch":
        import torch

        # Keras compiles one function for all models, which PyTorch gives up on after 8.
        torch._dynamo.config.recompile_limit = 64
    results = {}
    for name, (*network, kinds) in NETWORKS.items():
        results[name] = timed(*network, makers(*kinds), "auto", seconds)
        if BACKEND != "jax" and name == "residual CNN":
            results[f"{name}, jit_compile=True"] = timed(*network, makers("Dropout"), True, seconds)
    return results
