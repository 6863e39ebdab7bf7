"""What compiling costs: many lengths and sizes of batches, first calls, and the first step of a deep model."""

import itertools
import statistics
import time

import keras
import numpy as np
from keras import layers, ops
from layers import FLOOR, NONE, OURS, makers
from timing import by_layer, in_fresh_processes

BACKEND = keras.backend.backend()
# JAX compiles the whole step for each length or size, a third of a second without any dropout.
LENGTHS, SIZES, PAIRS, DEPTH = (10, 10, 10, 10) if BACKEND == "jax" else (200, 30, 100, 10)


def variants():
    """Functions that make a layer, or `None` for none, by name and whose it is."""
    return {(NONE, OURS): None, **makers("Dropout")}


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


def sequences(sizes):
    """Seconds to train on batches of these numbers of samples and timesteps, once the first is compiled."""
    models = {which: compiled((None, 32), 2, 32, make) for which, make in variants().items()}
    taken = {which: [] for which in models}
    for batch, length in [(16, 201), *sizes]:
        x, y = np.ones((batch, length, 32), "float32"), np.ones((batch, 1), "float32")
        for which, model in models.items():
            taken[which].append(seconds_of(model.train_on_batch, x, y))
    return {which: sum(seconds[1:]) for which, seconds in taken.items()}


def batch_sizes(prepared):
    """Seconds to call layers on batches of 1 to `SIZES` samples, once one is compiled.

    Args:
        prepared: Makes a function of a tensor from a layer.
    """
    taken = {}
    for which, make in makers("Dropout").items():
        layer = make()
        layer.build((None, 1000))
        call = prepared(layer)
        batches = [ops.ones((samples, 1000)) for samples in range(1, SIZES + 2)]
        call(batches.pop())
        taken[which] = seconds_of(lambda call=call, batches=batches: [ops.convert_to_numpy(call(x)) for x in batches])
    return taken


def eager(layer):
    return lambda x: layer(x, training=True)


def in_one_graph(layer):
    """The layer in a graph whose batches may have any size; on JAX in one for each."""
    if BACKEND == "jax":
        import jax

        state = [v.value for v in layer.non_trainable_variables]
        return jax.jit(lambda x: layer.stateless_call([], state, x, training=True)[0])
    import tensorflow as tf

    return tf.function(eager(layer), input_signature=[tf.TensorSpec((None, 1000))])


def median_of_fresh(depth, epoch, rounds=5):
    """Median seconds of the first call of `epoch(model)`, of models that were never compiled before.

    Each round has a width of its own, so that no round profits from what another one compiled.
    """
    taken = {which: [] for which in variants()}
    for width in range(64, 64 + rounds):
        for which, make in variants().items():
            model = compiled((width,), depth, width, make)
            taken[which].append(seconds_of(epoch, model))
    return {which: statistics.median(seconds) for which, seconds in taken.items()}


def first_call(which):
    """Seconds of the first eager call of a layer in this process, after another layer's."""
    x = makers()[FLOOR, OURS]()(ops.ones((32, 1000)), training=True)
    layer = makers("Dropout")[which]()
    return seconds_of(lambda: ops.convert_to_numpy(layer(x, training=True)))


def first_calls(rounds=3):
    taken = in_fresh_processes(first_call, [(which,) for which in makers("Dropout")] * rounds)
    which = itertools.cycle(makers("Dropout"))
    by_which = {}
    for name, seconds in zip(which, taken, strict=False):
        by_which.setdefault(name, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in by_which.items()}


def data_for(model, samples):
    return np.ones((samples, *model.input_shape[1:]), "float32"), np.ones((samples, 1), "float32")


def measure():
    """Seconds, by what is compiled and by layer."""
    rng = np.random.default_rng(0)
    pairs = rng.permutation([(batch, length) for batch in range(1, 201) for length in range(10, 210, 10)])[:PAIRS]
    results = {
        f"{LENGTHS} sequence lengths": sequences([(16, n + 1) for n in rng.permutation(200)[:LENGTHS]]),
        f"{PAIRS} of 200 batch sizes x 20 lengths": sequences(pairs),
        f"{SIZES} batch sizes, eager": batch_sizes(eager),
        "the first eager call in a fresh process": first_calls(),
        "an epoch with a short last batch": median_of_fresh(
            2, lambda model: model.fit(*data_for(model, 10 * 32 + 7), batch_size=32, verbose=0)
        ),
        f"the first step of {DEPTH} layers": median_of_fresh(
            DEPTH, lambda model: model.train_on_batch(*data_for(model, 32))
        ),
    }
    if BACKEND != "torch":
        results[f"{SIZES} batch sizes, compiled"] = batch_sizes(in_one_graph)
    return {name: by_layer(seconds) for name, seconds in results.items()}
