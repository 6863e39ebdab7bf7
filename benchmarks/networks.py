"""The small networks that layers are measured in.

Each is a function of `drop(layer, inputs)`, which calls a layer of the network and drops what comes of it.
"""

import functools

import keras
import layers as measured
from keras import layers


def _of(name, shape):
    """Keras's layer of this name for as many dimensions as samples of `shape` have."""
    return getattr(layers, f"{name}{len(shape) - 1}D")


def _classifier(inputs, x):
    if len(x.shape) > 2:
        x = _of("GlobalAveragePooling", x.shape[1:])()(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def residual_cnn(drop, shape):
    """Two residual blocks of two convolutions, with a dropout after each."""
    conv = functools.partial(_of("Conv", shape), shape[-1], 3, padding="same")
    x = inputs = keras.Input(shape)
    for _ in range(2):
        y = drop(conv(activation="relu"), x)
        x = layers.add([x, drop(conv(), y)])
    return _classifier(inputs, x)


def sums_of_branches(drop, shape):
    """Four residual blocks of a convolution, whose branches are dropped where they are added."""
    x = inputs = keras.Input(shape)
    for _ in range(4):
        x = drop(layers.Add(), [x, _of("Conv", shape)(shape[-1], 3, padding="same", activation="relu")(x)])
    return _classifier(inputs, x)


class Residual(keras.layers.Layer):
    """Adds a branch to its input."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def build(self, input_shape):
        self.branch.build(input_shape)

    def call(self, inputs):
        return inputs + self.branch(inputs)


def residual_blocks(drop, width):
    """Four residual blocks of a normalization and an MLP, as in a transformer, on sequences."""
    x = inputs = keras.Input((128, width))
    for _ in range(4):
        branch = [layers.LayerNormalization(), layers.Dense(4 * width, activation="relu"), layers.Dense(width)]
        x = drop(Residual(keras.Sequential(branch)), x)
    return _classifier(inputs, x)


def pooling_cnn(drop, shape):
    """Two convolutions, each with a pooling."""
    x = inputs = keras.Input(shape)
    for _ in range(2):
        x = _of("Conv", shape)(shape[-1], 3, padding="same", activation="relu")(x)
        x = drop(_of("MaxPooling", shape)(2), x)
    return _classifier(inputs, x)


def mlp(drop, width):
    x = inputs = keras.Input((784,))
    for _ in range(2):
        x = drop(layers.Dense(width, activation="relu"), x)
    return _classifier(inputs, x)


def transformer(drop):
    """An encoder block, with a dropout of the attention's output and of the MLP's."""
    x = inputs = keras.Input((128, 256))
    return _classifier(inputs, _block(drop, x))


def transformer_of_tokens(drop):
    """An encoder block, with a dropout of the embeddings that it reads."""
    inputs = keras.Input((128,))
    # As many tokens as a batch of numbers tells apart.
    tokens = keras.ops.cast(keras.ops.abs(inputs) * 1000, "int32")
    x = drop(layers.Embedding(10_000, 256), tokens)
    return _classifier(inputs, _block(lambda layer, inputs: layer(inputs), x))


def _block(drop, x):
    attention = layers.MultiHeadAttention(4, 64)
    x = layers.add([x, drop(lambda y: attention(y, y), layers.LayerNormalization()(x))])
    y = layers.Dense(1024, activation="gelu")(layers.LayerNormalization()(x))
    return layers.add([x, drop(layers.Dense(256), y)])


def attention(drop):
    """Two blocks of attention, each of which is a function of what it attends to and of its class."""

    def attend(x, kind=layers.MultiHeadAttention, **kwargs):
        return kind(4, 64, **kwargs)(x, x)

    x = inputs = keras.Input((128, 256))
    for _ in range(2):
        x = layers.add([x, drop(attend, layers.LayerNormalization()(x))])
    return _classifier(inputs, x)


def recurrent(drop, layer):
    """Two recurrent layers, over 32 timesteps."""
    x = inputs = keras.Input((32, 64))
    for _ in range(2):
        x = drop(layer(128, return_sequences=True), x)
    return _classifier(inputs, x)


# By name: the function, and the samples of a batch.
NETWORKS = {
    measured.CNN: (functools.partial(residual_cnn, shape=(28, 28, 32)), 64),
    measured.SEQUENCES: (functools.partial(residual_cnn, shape=(128, 64)), 64),
    measured.VOLUMES: (functools.partial(residual_cnn, shape=(8, 8, 8, 16)), 16),
    measured.DEPTH: (functools.partial(sums_of_branches, shape=(28, 28, 32)), 64),
    measured.BLOCKS: (functools.partial(residual_blocks, width=128), 32),
    measured.POOLING1D: (functools.partial(pooling_cnn, shape=(256, 64)), 64),
    measured.POOLING2D: (functools.partial(pooling_cnn, shape=(28, 28, 32)), 64),
    measured.POOLING3D: (functools.partial(pooling_cnn, shape=(8, 8, 8, 16)), 16),
    measured.MLP: (functools.partial(mlp, width=1024), 128),
    measured.SMALL_MLP: (functools.partial(mlp, width=64), 32),
    measured.TRANSFORMER: (transformer, 32),
    measured.TOKENS: (transformer_of_tokens, 32),
    measured.ATTENTION: (attention, 32),
    measured.LSTM: (functools.partial(recurrent, layer=layers.LSTM), 32),
    measured.GRU: (functools.partial(recurrent, layer=layers.GRU), 32),
}
