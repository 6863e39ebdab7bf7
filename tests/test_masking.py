"""TimeMasking and FrequencyMasking against bands drawn one by one."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, multiplier, to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import FrequencyMasking, TimeMasking

SIGMAS = 4.5


def bands(seed, call, samples, count, rate, largest, length):
    """For each sample its bands, as begin and end. `largest` and `length` are numbers, or lists of one for each."""
    shape = samples, count
    largest, length = (np.broadcast_to(np.reshape(n, (-1, 1)), shape) for n in (largest, length))
    drawn = (oracle.draws(seed, call, shape) + 32768.5) / 65536 < rate
    width = oracle.integers(*oracle.fold_in(seed, call, 1), shape, largest + 1)
    begin = oracle.integers(*oracle.fold_in(seed, call, 2), shape, length - width + 1)
    return [
        [(b, b + w) for b, w, yes in zip(*row, strict=True) if yes] for row in zip(begin, width, drawn, strict=True)
    ]


@pytest.mark.parametrize("kind", [TimeMasking, FrequencyMasking])
@pytest.mark.parametrize(("width", "rate", "count", "proportion"), [(5, 1.0, 1, 1.0), (9, 0.6, 3, 0.3), (40, 1, 2, 1)])
def test_bands_are_where_they_are_drawn(kind, width, rate, count, proportion):
    axis = 1 if kind is TimeMasking else 2
    shape = [20, 4, 4]
    shape[axis] = 10
    layer = kind(width, rate, count, proportion, fill=-2.0, seed=4)
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    for call in range(2):
        expected = np.moveaxis(x.copy(), axis, 1)
        for sample, drawn in enumerate(bands(4, call, 20, count, rate, min(width, round(proportion * 10)), 10)):
            for begin, end in drawn:
                expected[sample, begin:end] = -2
        np.testing.assert_array_equal(train(layer, x), np.moveaxis(expected, 1, axis))


def test_no_place_is_preferred():
    # Widths of 0, 1 and 2, each in any of the places where it fits.
    m = multiplier(TimeMasking(2, seed=1), (40_000, 5, 1))[:, :, 0]
    dropped = 1 - m
    assert (abs(np.bincount(dropped.sum(1).astype(int)) / len(m) - 1 / 3) < SIGMAS * np.sqrt(2 / 9 / len(m))).all()
    share = np.array([1 / 5 + 1 / 4, 1 / 5 + 1 / 2, 1 / 5 + 1 / 2, 1 / 5 + 1 / 2, 1 / 5 + 1 / 4]) / 3
    assert (abs(dropped.mean(0) - share) < SIGMAS * np.sqrt(share * (1 - share) / len(m))).all()


def test_bands_lie_within_what_is_valid():
    lengths, start = [12, 7, 3, 0], 2
    x = np.zeros((4, 14, 2), "float32")
    for sample, n in enumerate(lengths):
        x[sample, start : start + n] = 1
    layer = TimeMasking(8, count=2, proportion=0.5, fill=7.0, seed=6)
    model = keras.Sequential([keras.layers.Masking(), layer])
    for call in range(2):
        expected = x.copy()
        drawn = bands(6, call, 4, 2, 1.0, [n // 2 for n in lengths], lengths)
        for sample, pairs in enumerate(drawn):
            for begin, end in pairs:
                expected[sample, start + begin : start + end] = 7
        np.testing.assert_array_equal(to_numpy(model(ops.convert_to_tensor(x), training=True)), expected)
    assert (expected == 7).any()


def test_what_is_filled_has_no_gradient():
    x = np.ones((5, 2, 8), "float32")
    layer = FrequencyMasking(6, fill=3.0, seed=2)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, 2 * x)
    np.testing.assert_array_equal(gradient, np.where(y == 3, 0, 2))
    assert (y == 3).any() and (y == 1).any()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_sequences_of_unknown_length():
    import tensorflow as tf

    one, other = (TimeMasking(5, proportion=0.5, seed=2) for _ in range(2))
    call = tf.function(lambda x: one(x, training=True), [tf.TensorSpec((None, None, 3))])
    for shape in ((2, 7, 3), (3, 4, 3)):
        np.testing.assert_array_equal(to_numpy(call(np.ones(shape, "float32"))), multiplier(other, shape))


def test_bad_arguments_are_refused():
    for name, bad, what in (
        ("max_width", 0, "a positive integer"),
        ("count", 1.5, "a positive integer"),
        ("proportion", 1.1, r"a number in \[0, 1\]"),
        ("fill", np.nan, "a finite number"),
    ):
        with pytest.raises(ValueError, match=rf"`{name}` must be {what}.*Received: {name}="):
            TimeMasking(**{"max_width": 3, name: bad})
