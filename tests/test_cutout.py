"""Cutout against squares cut one by one, with the random bits of the oracle."""

import numpy as np
import oracle
import pytest
from backend import BACKEND, multiplier, to_numpy, train
from catalog import cutout_area

from keras_dropouts import Cutout

SIGMAS = 4.5


def squares(seed, call, size, length, rate):
    """Whether each of 40 images is cut, and what is left of it, one image at a time."""
    height, width = size
    # Of a draw from 65536, as integers: less than the rate, and as a part of the height and of the width.
    draws = oracle.draws(seed, call, (40, 3)) + 32768
    for cut, y, x in draws.tolist():
        y, x = (2 * y + 1) * height // 131072, (2 * x + 1) * width // 131072
        keep = np.ones(size)
        if 2 * cut + 1 < rate * 131072:
            top, left = y - length // 2, x - length // 2
            keep[max(top, 0) : top + length, max(left, 0) : left + length] = 0
        yield keep


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("rate", [1.0, 0.4])
@pytest.mark.parametrize(("size", "length"), [((7, 10), 1), ((7, 10), 4), ((10, 7), 5), ((6, 5), 9), ((4, 3), 30)])
def test_the_oracle_cuts_the_same(size, length, rate, data_format):
    layer = Cutout(length, rate, data_format, seed=3)
    channels = 1 if data_format == "channels_first" else 3
    for call in range(2):
        expected = np.expand_dims(np.stack(list(squares(3, call, size, length, rate))), channels)
        m = multiplier(layer, np.repeat(expected, 3, channels).shape)
        np.testing.assert_array_equal(m, np.repeat(expected, 3, channels))


def test_the_papers_area():
    mean, square = cutout_area(16, 32, 32)
    assert abs(mean - 0.191) < 5e-4
    m = multiplier(Cutout(16, data_format="channels_last", seed=1), (20_000, 32, 32, 1))
    areas = (m == 0).mean((1, 2, 3))
    assert abs(areas.mean() - mean) < SIGMAS * np.sqrt((square - mean**2) / len(areas))
    assert areas.min() == 64 / 1024 and areas.max() == 256 / 1024


def test_the_centre_may_be_any_pixel():
    m = multiplier(Cutout(1, data_format="channels_last", seed=5), (30_000, 3, 5, 1))
    hits = (m == 0).mean((0, 3))
    assert abs(hits - 1 / 15).max() < SIGMAS * np.sqrt(14 / 15**2 / len(m))


def test_a_cut_image_is_the_image_elsewhere():
    x = np.random.default_rng(0).standard_normal((8, 6, 9, 2)).astype("float32")
    layer = Cutout(4, data_format="channels_last", seed=2)
    y = train(layer, x)
    assert ((y == x) | (y == 0)).all() and (y == 0).any((1, 2, 3)).all()
    assert (to_numpy(layer(x)) == x).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_images_of_unknown_size():
    import tensorflow as tf

    layer, twin = (Cutout(3, data_format="channels_last", seed=2) for _ in range(2))
    call = tf.function(lambda x: layer(x, training=True), [tf.TensorSpec((None, None, None, 3))])
    for shape in [(2, 7, 8, 3), (3, 4, 9, 3)]:
        np.testing.assert_array_equal(to_numpy(call(np.ones(shape, "float32"))), multiplier(twin, shape))


@pytest.mark.parametrize("length", [0, -1, 2.0, True, "3", None, (3, 3)])
def test_a_bad_length_is_refused(length):
    with pytest.raises(ValueError, match=r"`length` must be a positive integer.*Received: length="):
        Cutout(length)
