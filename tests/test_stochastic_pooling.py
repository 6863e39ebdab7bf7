"""Stochastic pooling against a loop over windows, its multinomial, and its mean."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train, value_and_gradient
from keras import ops
from test_max_pooling_dropout import pooled

from keras_dropouts import StochasticPooling1D, StochasticPooling2D, StochasticPooling3D

SIGMAS = 4.5
CASES = [
    (StochasticPooling1D, (3, 11, 5), {"pool_size": 3, "strides": 1, "padding": "same"}),
    (StochasticPooling2D, (3, 7, 10, 5), {"pool_size": (3, 2), "strides": (2, 1)}),
    (StochasticPooling2D, (3, 9, 7, 6), {"pool_size": 2, "strides": 3, "padding": "same"}),
    (StochasticPooling3D, (2, 3, 5, 4, 3), {"padding": "same"}),
]


def inputs(shape):
    """Small integers, of which sums are exact, a third of them below 0."""
    return np.random.default_rng(0).integers(-5, 11, shape).astype("float32")


def chosen(x, layer, seed, call, **arguments):
    """One window after the other, and each with its own number."""
    shape = layer.compute_output_shape(x.shape)
    draws = np.float32(oracle.uniform(seed, call, shape))
    if arguments["data_format"] == "channels_first":
        draws = np.moveaxis(draws, 1, -1)
    # As `pooled` goes: places outermost, then samples and channels.
    order = iter(np.moveaxis(draws, 0, -2).ravel())

    def choose(window):
        bounds = np.cumsum(np.maximum(window, 0))
        return max(window[np.argmax(bounds >= next(order) * bounds[-1])], 0)

    return pooled(x, choose, **arguments)


def mean(window):
    a = np.maximum(window.astype("float64"), 0)
    return (a**2).sum() / a.sum() if a.any() else 0


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(("kind", "shape", "arguments"), CASES)
def test_the_oracle_pools_the_same(kind, shape, arguments, data_format):
    x, arguments = inputs(shape), {**arguments, "data_format": data_format}
    layer = kind(seed=3, **arguments)
    for call in range(2):
        np.testing.assert_array_equal(train(layer, x), chosen(x, layer, 3, call, **arguments))
    np.testing.assert_allclose(to_numpy(layer(x)), pooled(x, mean, **arguments), rtol=1e-5)


def test_the_multinomial_of_a_window_and_its_mean():
    window, windows = np.array([1, -2, 4, 3], "float32"), 40_000
    x = np.tile(window.reshape(1, 2, 2, 1), (windows // 20, 1, 10, 2))
    layer = StochasticPooling2D(data_format="channels_last", seed=8)
    y = train(layer, x).ravel()
    for value, probability in ((1, 1 / 8), (4, 1 / 2), (3, 3 / 8)):
        error = SIGMAS * np.sqrt(probability * (1 - probability) / windows)
        assert abs((y == value).mean() - probability) < error + 2**-16
    np.testing.assert_allclose(to_numpy(layer(x)), (1 + 16 + 9) / 8, rtol=1e-6)


def test_windows_of_zeros_and_tiny_numbers(policy):
    layer = StochasticPooling1D(data_format="channels_last", seed=1, dtype=policy)
    tiny = {"float32": 1e-15, "float16": 1e-7, "bfloat16": 1e-15}[layer.compute_dtype]
    x = np.array([0, 0, -1, 0, 0, tiny, 200, 200], "float32").reshape(1, 8, 1)
    expected = to_numpy(ops.cast(np.array([0, 0, tiny, 200], "float32"), layer.compute_dtype))
    for training in (True, False):
        y, gradient = value_and_gradient(
            lambda x, training=training: layer(x, training=training), x, np.ones((1, 4, 1), "float32")
        )
        np.testing.assert_allclose(y.ravel(), expected, rtol=1e-2 if training is False else 0)
        assert np.isfinite(gradient).all() and (gradient[0, :4] == 0).all()


def test_nan_in_a_window_is_not_hidden():
    layer = StochasticPooling1D(2, data_format="channels_last", seed=1)
    x = np.array([np.nan, 1, 1, np.nan, 2, 2], "float32").reshape(1, 6, 1)
    for training in (True, False):
        np.testing.assert_array_equal(to_numpy(layer(x, training=training)).ravel(), [np.nan, np.nan, 2])


def test_the_gradient_goes_to_the_chosen():
    x, upstream = inputs((3, 6, 8, 5)), np.random.default_rng(1).standard_normal((3, 3, 4, 5)).astype("float32")
    # No two that are equal in a window.
    x = np.abs(x) * 4 + np.arange(4).reshape(1, 2, 2, 1)[:, np.arange(6) % 2][:, :, np.arange(8) % 2] + 1
    layer = StochasticPooling2D(data_format="channels_last", seed=1)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), x.astype("float32"), upstream)
    spread = y.repeat(2, 1).repeat(2, 2) == x
    np.testing.assert_array_equal(gradient, spread * upstream.repeat(2, 1).repeat(2, 2))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_maps_of_unknown_size():
    import tensorflow as tf

    arguments = {"pool_size": 3, "strides": 2, "padding": "same", "data_format": "channels_last"}
    layer, twin = (StochasticPooling2D(seed=2, **arguments) for _ in range(2))
    for training in (True, False):
        call = tf.function(
            lambda x, training=training: layer(x, training=training), [tf.TensorSpec((None, None, None, 3))]
        )
        for shape in [(2, 7, 8, 3), (3, 4, 9, 3)]:
            x = inputs(shape)
            np.testing.assert_allclose(to_numpy(call(x)), to_numpy(twin(x, training=training)), rtol=1e-6)


def test_it_takes_the_place_of_max_pooling():
    arguments = (2, 1, "same", "channels_first")
    config, other = (kind(*arguments).get_config() for kind in (StochasticPooling2D, keras.layers.MaxPooling2D))
    pairs = {name: np.broadcast_to(config[name], 2).tolist() for name in ("pool_size", "strides")}
    assert pairs == {name: list(other[name]) for name in pairs}
    assert all(config[name] == other[name] for name in ("padding", "data_format"))
    with pytest.raises(ValueError, match="`pool_size` must be no larger"):
        StochasticPooling1D(4, data_format="channels_last")(np.ones((2, 3, 1)))
