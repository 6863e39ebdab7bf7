"""Max-pooling dropout against a loop over windows, its multinomial, and its mean."""

import itertools

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import MaxPoolingDropout1D, MaxPoolingDropout2D, MaxPoolingDropout3D

SIGMAS = 4.5
POOLING = {
    MaxPoolingDropout1D: keras.layers.MaxPooling1D,
    MaxPoolingDropout2D: keras.layers.MaxPooling2D,
    MaxPoolingDropout3D: keras.layers.MaxPooling3D,
}
CASES = [
    (MaxPoolingDropout1D, (3, 11, 5), {}),
    (MaxPoolingDropout1D, (3, 11, 5), {"pool_size": 3, "strides": 1, "padding": "same"}),
    (MaxPoolingDropout2D, (3, 7, 10, 5), {}),
    (MaxPoolingDropout2D, (3, 7, 10, 5), {"pool_size": (3, 2), "strides": (2, 1)}),
    (MaxPoolingDropout2D, (3, 8, 11, 5), {"pool_size": 3, "strides": 2, "padding": "same"}),
    # Gaps between the windows, and windows too large to be sorted pair by pair.
    (MaxPoolingDropout2D, (3, 9, 7, 6), {"pool_size": 2, "strides": 3, "padding": "same"}),
    (MaxPoolingDropout2D, (2, 8, 9, 8), {"pool_size": (6, 7), "strides": 2}),
    (MaxPoolingDropout3D, (2, 3, 5, 4, 3), {"padding": "same"}),
    (MaxPoolingDropout3D, (2, 4, 5, 3, 3), {"pool_size": (1, 3, 2), "strides": (2, 1, 1)}),
]
formats = pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
cases = pytest.mark.parametrize(("layer", "shape", "arguments"), CASES)


def inputs(shape):
    """Different numbers, negative ones too."""
    return np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape).astype("float32") - np.prod(shape) // 3


def pooled(x, function, pool_size=2, strides=None, padding="valid", data_format="channels_last"):
    """`function` of what is in each window, one window after the other, and the indices into x of what it holds."""
    if data_format == "channels_first":
        x = np.moveaxis(x, 1, -1)
    space = x.shape[1:-1]
    pool = np.broadcast_to(pool_size, len(space))
    strides = pool if strides is None else np.broadcast_to(strides, len(space))
    if padding == "same":
        outputs = [-(-n // s) for n, s in zip(space, strides, strict=True)]
        starts = [-(max((o - 1) * s + k - n, 0) // 2) for o, s, k, n in zip(outputs, strides, pool, space, strict=True)]
    else:
        outputs = [(n - k) // s + 1 for n, k, s in zip(space, pool, strides, strict=True)]
        starts = [0] * len(space)
    y = np.zeros((len(x), *outputs, x.shape[-1]))
    for place in np.ndindex(*outputs):
        corner = [a + i * s for a, i, s in zip(starts, place, strides, strict=True)]
        window = tuple(slice(max(c, 0), c + k) for c, k in zip(corner, pool, strict=True))
        for sample, channel in itertools.product(range(len(x)), range(x.shape[-1])):
            y[(sample, *place, channel)] = function(x[(sample, *window, channel)].ravel())
    return np.moveaxis(y, -1, 1) if data_format == "channels_first" else y


def largest(kept):
    kept = kept[~np.isnan(kept)]
    return kept.max() if len(kept) else 0


def weighted(rate):
    def mean(window):
        descending = np.sort(window.astype("float64"))[::-1]
        return sum((1 - rate) * rate**i * a for i, a in enumerate(descending))

    return mean


@formats
@cases
def test_the_oracle_pools_the_same(layer, shape, arguments, data_format):
    x = inputs(shape)
    arguments = {**arguments, "data_format": data_format}
    made = layer(0.5, seed=3, **arguments)
    for call in range(2):
        kept = np.where(oracle.keep_mask(3, call, shape, 0.5), x, np.nan)
        expected = pooled(kept, largest, **arguments)
        np.testing.assert_array_equal(train(made, x), expected)
    np.testing.assert_allclose(to_numpy(made(x)), pooled(x, weighted(0.5), **arguments), rtol=1e-5, atol=1e-3)
    assert made.compute_output_shape((None, *shape[1:])) == POOLING[layer](**arguments).compute_output_shape(
        (None, *shape[1:])
    )


@cases
def test_rate_0_is_max_pooling_and_rate_1_gives_zeros(layer, shape, arguments, policy):
    arguments = {**arguments, "data_format": "channels_last"}
    x = to_numpy(ops.cast(inputs(shape), keras.DTypePolicy(policy).compute_dtype))
    expected = to_numpy(POOLING[layer](**arguments)(x))
    for training in (False, True):
        np.testing.assert_array_equal(to_numpy(layer(0.0, dtype=policy, **arguments)(x, training=training)), expected)
        assert (to_numpy(layer(1.0, dtype=policy, **arguments)(x, training=training)) == 0).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_multinomial_of_a_window_and_its_mean(rate):
    window = np.array([0.5, -1.0, 3.0, 2.0], "float32")
    windows = 40_000
    x = np.tile(window.reshape(1, 2, 2, 1), (windows // 20, 1, 10, 2))
    layer = MaxPoolingDropout2D(rate, data_format="channels_last", seed=8)
    y = train(layer, x).ravel()
    assert y.size == windows
    probabilities = [(1 - rate) * rate**i for i in range(4)]
    for value, probability in zip([3.0, 2.0, 0.5, -1.0, 0.0], [*probabilities, rate**4], strict=True):
        error = SIGMAS * np.sqrt(probability * (1 - probability) / windows)
        assert abs((y == value).mean() - probability) < error + 2**-16
    mean = to_numpy(layer(x)).ravel()
    assert (mean == mean[0]).all()
    assert abs(y.mean() - mean[0]) < SIGMAS * y.std() / np.sqrt(windows)


def test_the_gradient_goes_to_the_largest_that_is_kept():
    x = inputs((3, 6, 8, 5))
    keep = oracle.keep_mask(1, 0, x.shape, 0.4)
    upstream = np.random.default_rng(1).standard_normal((3, 3, 4, 5)).astype("float32")
    expected = np.zeros_like(x)
    for sample, i, j, channel in np.ndindex(*upstream.shape):
        window = sample, slice(2 * i, 2 * i + 2), slice(2 * j, 2 * j + 2), channel
        kept = np.where(keep[window], x[window], -np.inf)
        if keep[window].any():
            expected[window][np.unravel_index(kept.argmax(), (2, 2))] = upstream[sample, i, j, channel]
    layer = MaxPoolingDropout2D(0.4, data_format="channels_last", seed=1)
    _, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
    np.testing.assert_array_equal(gradient, expected)


def test_the_gradient_at_inference_is_the_weight():
    x = inputs((2, 6, 5))
    layer = MaxPoolingDropout1D(0.25, pool_size=3, data_format="channels_last")
    _, gradient = value_and_gradient(layer, x, np.ones((2, 2, 5), "float32"))
    rank = 2 - x.reshape(2, 2, 3, 5).argsort(2).argsort(2)
    np.testing.assert_allclose(gradient, (0.75 * 0.25**rank).reshape(x.shape), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_dropped_is_gone_whatever_it_was(bad):
    x = np.full((1, 2000, 1), bad, "float32")
    y = train(MaxPoolingDropout1D(0.5, data_format="channels_last", seed=1), x)
    keep = oracle.keep_mask(1, 0, x.shape, 0.5).reshape(1000, 2).any(1)
    assert (y.ravel()[~keep] == 0).all() and not keep.all()
    if bad == np.inf:
        assert (y.ravel()[keep] == np.inf).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_maps_of_unknown_size(padding, jit_compile):
    import tensorflow as tf

    arguments = {"pool_size": 3, "strides": 2, "padding": padding, "data_format": "channels_last"}
    layer, twin = (MaxPoolingDropout2D(0.3, seed=2, **arguments) for _ in range(2))
    for training in (True, False):
        call = tf.function(
            lambda x, training=training: layer(x, training=training),
            [tf.TensorSpec((None, None, None, 3))],
            jit_compile=jit_compile,
        )
        for shape in [(2, 7, 8, 3), (3, 4, 9, 3)]:
            x = inputs(shape)
            np.testing.assert_allclose(to_numpy(call(x)), to_numpy(twin(x, training=training)), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool_size": 0}, "`pool_size` must be a positive integer, or a sequence of 2"),
        ({"pool_size": (2, 2, 2)}, "`pool_size` must be"),
        ({"strides": 0}, "`strides` must be"),
        ({"strides": "2"}, "`strides` must be"),
        ({"padding": "causal"}, "`padding` must be 'valid' or 'same'"),
        ({"data_format": "last"}, "`data_format` must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: {next(iter(arguments))}="):
        MaxPoolingDropout2D(0.5, **arguments)


def test_an_input_smaller_than_a_window_is_refused():
    with pytest.raises(ValueError, match="pool_size"):
        MaxPoolingDropout1D(0.5, pool_size=4, data_format="channels_last")(np.ones((2, 3, 1)))
