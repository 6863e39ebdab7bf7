"""The networks that several scripts train."""

import keras
from keras import layers


def dense_network(shape, widths, updates, noise=None, regularizer=None, constraint=None):
    """Returns a classifier of ten classes as of Srivastava et al. 2014, compiled.

    Args:
        shape: That of an input.
        widths: The units of each hidden layer.
        updates: How many there will be: over these the learning rate of SGD, with a momentum of 0.95, falls from 0.03
            to 0 by a cosine.
        noise: A function of a rate that returns a new layer, placed at the input with a rate of 0.2 and behind each
            hidden layer with 0.5.
        regularizer: Of all kernels.
        constraint: Of the hidden layers' kernels.
    """
    stack = [keras.Input(shape), layers.Flatten(), *([noise(0.2)] if noise else [])]
    for units in widths:
        dense = layers.Dense(
            units,
            "relu",
            kernel_initializer="he_uniform",
            kernel_regularizer=regularizer,
            kernel_constraint=constraint,
        )
        stack += [dense, *([noise(0.5)] if noise else [])]
    model = keras.Sequential([*stack, layers.Dense(10, "softmax", kernel_regularizer=regularizer)])
    schedule = keras.optimizers.schedules.CosineDecay(0.03, updates)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.95), "sparse_categorical_crossentropy")
    return model
