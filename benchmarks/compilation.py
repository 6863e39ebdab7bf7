"""What compiling costs: many sequence lengths, a last short batch, and the first step of a deep model."""

import time

import keras
import numpy as np
from keras import layers
from layers import makers
from training_step import NONE

# JAX compiles the whole step for each length, a third of a second without any dropout.
LENGTHS, DEPTH = 20 if keras.backend.backend() == "jax" else 200, 10


def variants():
    """Functions that make a layer, or `None` for none, by name."""
    return {NONE: None, **makers("Dropout")}


def compiled(shape, depth, width, make):
    """A model of so many dense layers, with a dropout after each, for inputs of `shape`."""
    x = inputs = keras.Input(shape)
    for _ in range(depth):
        x = layers.Dense(width, activation="relu")(x)
        x = make()(x) if make else x
    for _ in shape[1:]:
        x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile("sgd", "mse")
    return model


def seconds_of(function, *args, **kwargs):
    start = time.perf_counter()
    function(*args, **kwargs)
    return time.perf_counter() - start


def sequence_lengths():
    """Seconds to train on a batch of each of so many lengths from 1 to 200, once the first is compiled."""
    models = {name: compiled((None, 32), 2, 32, make) for name, make in variants().items()}
    lengths = np.random.default_rng(0).permutation(200)[:LENGTHS] + 1
    taken = {name: [] for name in models}
    for length in (201, *lengths):
        x, y = np.ones((16, length, 32), "float32"), np.ones((16, 1), "float32")
        for name, model in models.items():
            taken[name].append(seconds_of(model.train_on_batch, x, y))
    return {name: sum(seconds[1:]) for name, seconds in taken.items()}


def median_of_fresh(depth, epoch, rounds=5):
    """Median seconds of the first call of `epoch(model)`, of models that were never compiled before.

    Each round has a width of its own, so that no round profits from what another one compiled.
    """
    taken = {name: [] for name in variants()}
    for width in range(64, 64 + rounds):
        for name, make in variants().items():
            model = compiled((width,), depth, width, make)
            taken[name].append(seconds_of(epoch, model))
    return {name: float(np.median(seconds)) for name, seconds in taken.items()}


def data_for(model, samples):
    return np.ones((samples, *model.input_shape[1:]), "float32"), np.ones((samples, 1), "float32")


def measure():
    """Seconds, by what is compiled and by layer."""
    return {
        f"{LENGTHS} sequence lengths": sequence_lengths(),
        "an epoch with a short last batch": median_of_fresh(
            2, lambda model: model.fit(*data_for(model, 10 * 32 + 7), batch_size=32, verbose=0)
        ),
        f"the first step of {DEPTH} layers": median_of_fresh(
            DEPTH, lambda model: model.train_on_batch(*data_for(model, 32))
        ),
    }
