"""Alpha dropout against its definition in NumPy, and in a network of SELU units."""

import math

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, compiled_calls, to_numpy, train, value_and_gradient
from catalog import nearest, rows
from keras import ops

from keras_dropouts import AlphaDropout

LEAST = -1.7580993408473766
affine = [row for row in rows(product=False).args[1] if row.constant]
every = pytest.mark.parametrize("row", affine, ids=str)


def by_definition(x, keep, rate):
    """Scale, shift and outputs in 64 bits, at the rate that the mask has."""
    q = 1 - nearest(rate)
    a = (q + LEAST**2 * q * (1 - q)) ** -0.5 if q else 0.0
    b = -a * (1 - q) * LEAST
    return a, b, a * np.where(keep, x, LEAST) + b


def mask(row, rate):
    drawn = [1 if axis in row.tied else n for axis, n in enumerate(row.shape)]
    return np.broadcast_to(oracle.keep_mask(7, 0, tuple(drawn), rate), row.shape)


@every
@pytest.mark.parametrize("rate", [0.001, 0.3, 0.9, 1.0])
def test_the_definition_gives_the_same(row, rate, policy):
    x = np.random.default_rng(0).standard_normal(row.shape).astype("float32")
    layer = row.make(rate, dtype=policy)
    x = to_numpy(ops.cast(x, layer.compute_dtype))
    keep = mask(row, rate)
    _, _, expected = by_definition(x, keep, rate)
    y = train(layer, x)
    # Sum, product, and what they are of, in float32; then one rounding to the nearest.
    half = {"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[layer.compute_dtype]
    np.testing.assert_allclose(y, expected, rtol=half * 1.001, atol=4e-6)
    dropped = y[~keep]
    # One number, in any dtype that of float32, rounded.
    constant = train(row.make(rate), x)[~keep]
    np.testing.assert_array_equal(dropped, to_numpy(ops.cast(constant, layer.compute_dtype)))
    assert len(np.unique(dropped)) <= 1


@every
def test_compiled_is_eager_to_the_last_bit(row):
    x = np.random.default_rng(1).standard_normal(row.shape).astype("float32")
    (compiled,) = compiled_calls(row.make(0.3), [x])
    np.testing.assert_array_equal(compiled, train(row.make(0.3), x))


@every
def test_mean_and_variance_are_kept(row):
    shape = (400_000 // math.prod(row.shape[1:]), *row.shape[1:])
    x = np.random.default_rng(2).standard_normal(shape).astype("float32")
    for rate in (0.05, 0.5):
        y = train(row.make(rate), x).astype("float64")
        # Whose squares deviate by less than 2 from their mean, 1.
        assert abs(y.mean()) < 4.5 / np.sqrt(row.groups(shape))
        assert abs(y.var() - 1) < 4.5 * 2 / np.sqrt(row.groups(shape))


@every
def test_the_gradient_is_the_scale_where_it_is_kept(row, policy):
    layer = row.make(0.3, dtype=policy)
    x, upstream = (np.random.default_rng(i).standard_normal(row.shape).astype("float32") for i in (3, 4))
    upstream = to_numpy(ops.cast(upstream, layer.compute_dtype))
    keep = mask(row, 0.3)
    a, _, _ = by_definition(x, keep, 0.3)
    _, gradient = value_and_gradient(lambda x: layer(x, training=True), ops.cast(x, layer.compute_dtype), upstream)
    half = {"float32": 2e-7, "float16": 2**-11, "bfloat16": 2**-8}[layer.compute_dtype]
    np.testing.assert_allclose(gradient, np.where(keep, a * upstream, 0), rtol=half * 1.001, atol=1e-8)


@every
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_dropped_is_the_constant_whatever_it_was(row, bad):
    y = train(row.make(0.5), np.full(row.shape, bad, "float32"))
    keep = mask(row, 0.5)
    np.testing.assert_allclose(y, np.where(keep, bad, row.constant(0.5)), rtol=1e-6)
    assert (train(row.make(1.0), np.full(row.shape, bad, "float32")) == 0).all()


def test_a_noise_shape_ties_the_mask():
    x = np.random.default_rng(5).standard_normal((4, 5, 6)).astype("float32")

    class TimestepAlphaDropout(AlphaDropout):
        def _get_noise_shape(self, inputs):
            return (None, None, 1)

    _, _, expected = by_definition(x, oracle.keep_mask(7, 0, (4, 5, 1), 0.4), 0.4)
    for layer in (AlphaDropout(0.4, (None, 5, 1), seed=7), TimestepAlphaDropout(0.4, seed=7)):
        np.testing.assert_allclose(train(layer, x), expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"noise shape must have one entry for each axis"):
        AlphaDropout(0.4, (None, 1))(x, training=True)


@pytest.mark.skipif(BACKEND == "jax", reason="it has no 64 bits unless asked")
def test_64_bits_stay_64_bits():
    x = np.random.default_rng(6).standard_normal((3, 4))
    layer = AlphaDropout(0.4, seed=7, dtype="float64")
    y = layer(ops.convert_to_tensor(x, "float64"), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == layer.compute_dtype
    _, _, expected = by_definition(x, oracle.keep_mask(7, 0, (3, 4), 0.4), 0.4)
    np.testing.assert_allclose(to_numpy(y), expected, atol=1e-6)


def test_a_selu_network_stays_normal():
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(7).standard_normal((500, 300)).astype("float32")
    moments = {}
    for name, dropout in (("alpha", AlphaDropout), ("zeros", keras.layers.Dropout)):
        y = x
        for _ in range(4):
            y = keras.layers.Dense(300, "selu", kernel_initializer="lecun_normal")(y)
            y = dropout(0.2, seed=8)(y, training=True)
        moments[name] = to_numpy(y).mean(), to_numpy(y).var()
    assert abs(moments["alpha"][0]) < 0.1 and abs(moments["alpha"][1] - 1) < 0.15
    assert abs(moments["zeros"][1] - 1) > 0.2
