"""Variational dropout against its formulas, the exact divergence, and what is often got wrong."""

import math

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient
from keras.optimizers.schedules import PiecewiseConstantDecay
from scipy import integrate, stats

from keras_dropouts import RateLogger, VariationalDropout
from keras_dropouts.random.normals import normals


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return keras.ops.convert_to_tensor(np.random.default_rng(5).normal(0, 0.5, shape).astype("float32"))


def dense(activation=None):
    return keras.layers.Dense(4, activation, kernel_initializer=normal, bias_initializer="ones")


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def noise(seed, call, shape):
    """Normal deviates by the draws of the oracle."""
    return normals()[oracle.draws(seed, call, shape) % 65536].astype("float64")


def kl(layer):
    return float(to_numpy(layer.kl_divergence()))


def exact_kl(log_alpha):
    """Of `N(1, alpha)` from a log-uniform prior, less its limit for large alpha."""
    root = math.exp(log_alpha / 2)
    near = max(-12.0, -1 / root)
    parts = [
        integrate.quad(lambda e: math.log(abs(1 + root * e)) * stats.norm.pdf(e), *bounds, limit=200)[0]
        for bounds in ([-12, near], [near, 12])
    ]
    return -0.5 * log_alpha + sum(parts) + 0.5 * (np.euler_gamma + math.log(2))


@pytest.mark.parametrize("alphas", ["layer", "unit", "weight"])
def test_noise_on_weights_is_drawn_as_that_of_the_sums(alphas):
    layer, x = VariationalDropout(dense("relu"), 0.1, alphas=alphas, seed=6), inputs(5, 3, 7)
    layer.build(x.shape)
    shape = {"layer": (), "unit": (7,), "weight": (7, 4)}[alphas]
    alpha = np.random.default_rng(2).uniform(0.1, 1, shape)
    layer.log_alpha.assign(np.log(alpha))
    kernel, bias = layer.layer.get_weights()
    by_weight = np.broadcast_to(alpha[:, None] if alphas == "unit" else alpha, (7, 4))
    for call in range(2):
        # A variance: its root is what noise is multiplied by.
        deviation = np.sqrt(x.astype("float64") ** 2 @ (by_weight * kernel.astype("float64") ** 2))
        expected = x @ kernel + deviation * noise(6, call, (5, 3, 4)) + bias
        np.testing.assert_allclose(train(layer, x), np.maximum(expected, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.rate, alpha / (1 + alpha), rtol=1e-5)


@pytest.mark.parametrize("alphas", ["layer", "unit"])
def test_noise_on_inputs_is_shared_by_the_weights_of_a_unit(alphas):
    layer = VariationalDropout(dense(), 0.1, alphas=alphas, noise="inputs", seed=6)
    x = inputs(5, 3, 7)
    layer.build(x.shape)
    alpha = np.random.default_rng(2).uniform(0.1, 1, (7,) if alphas == "unit" else ())
    layer.log_alpha.assign(np.log(alpha))
    kernel, bias = layer.layer.get_weights()
    expected = x * (1 + np.sqrt(alpha) * noise(6, 0, x.shape)) @ kernel + bias
    np.testing.assert_allclose(train(layer, x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("noisy", ["weights", "inputs"])
def test_the_units_of_a_convolution_are_its_input_channels(noisy):
    conv = keras.layers.DepthwiseConv1D(3, depthwise_initializer=normal, use_bias=False)
    layer, x = VariationalDropout(conv, 0.1, alphas="unit", noise=noisy, seed=4), inputs(4, 6, 2)
    layer.build(x.shape)
    # Of the second channel there is hardly any noise.
    layer.log_alpha.assign([0.0, -40.0])
    difference = train(layer, x) - to_numpy(layer(x))
    assert np.abs(difference[..., 0]).min() > 1e-3 and np.abs(difference[..., 1]).max() < 1e-6


def test_inference_is_the_wrapped_layer_and_the_bias_has_no_noise():
    layer, x = VariationalDropout(dense("tanh"), 0.1, rate=0.5), inputs(3, 7)
    np.testing.assert_allclose(to_numpy(layer(x)), to_numpy(layer.layer(x)), rtol=1e-6)
    assert layer.losses == []
    np.testing.assert_array_equal(train(layer, 0 * x), np.broadcast_to(np.tanh(np.float32(1)), (3, 4)))


def test_the_divergence_is_near_the_exact_one_and_falls_as_alpha_grows():
    layer = VariationalDropout(keras.layers.Dense(1), 0.1)
    layer.build((None, 1))
    found = []
    for log_alpha in np.linspace(-8, 0, 9):
        layer.log_alpha.assign(log_alpha)
        found.append(kl(layer))
        assert abs(found[-1] - exact_kl(log_alpha)) < 0.0235
    assert (np.diff(found) < 0).all() and found[-1] > 0


@pytest.mark.parametrize("alphas", ["layer", "unit", "weight"])
def test_the_divergence_is_summed_over_weights(alphas):
    layer = VariationalDropout(dense(), 0.1, rate=0.2, alphas=alphas)
    layer.build((None, 7))
    alpha = 0.25
    each = 0.6524 - (0.5 * math.log(alpha) + 1.16145124 * alpha - 1.50204118 * alpha**2 + 0.58629921 * alpha**3)
    np.testing.assert_allclose(kl(layer), 28 * each, rtol=1e-5)


def test_the_loss_is_computed_anew_in_each_call_by_the_weight_of_that_call():
    layer, x = VariationalDropout(dense(), PiecewiseConstantDecay([1], [0.0, 0.5])), inputs(2, 7)
    layer.build(x.shape)
    for call, weight in enumerate([0.0, 0.0, 0.5, 0.5]):
        layer.log_alpha.assign(-float(call))
        train(layer, x)
        (loss,) = layer.losses
        np.testing.assert_allclose(to_numpy(loss), weight * kl(layer), rtol=1e-6)
    layer.kl_weight = 0.25
    train(layer, x)
    np.testing.assert_allclose(to_numpy(layer.losses[0]), 0.25 * kl(layer), rtol=1e-6)


def test_alpha_is_at_most_1_and_may_come_back():
    layer, x = VariationalDropout(dense(), 0.1, rate=0.5, seed=1), inputs(2, 7)
    y, divergence = train(layer, x), kl(layer)
    layer.log_alpha.assign(2.0)
    layer.seed = 1
    layer._random_state.write(calls=0)
    np.testing.assert_array_equal(train(layer, x), y)
    assert kl(layer) == divergence and layer.rate == 0.5
    model = keras.Sequential([keras.Input((7,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    layer.kl_weight = 100.0
    model.fit(x, np.zeros((2, 4)), verbose=0)
    assert float(to_numpy(layer.log_alpha)) == 0
    # From where an optimizer without constraints may have brought it.
    layer.log_alpha.assign(2.0)
    layer.kl_weight = 0.0
    model.fit(100 * x, np.zeros((2, 4)), verbose=0)
    assert layer.rate < 0.4


def test_the_rate_is_learnt_and_logged():
    x = inputs(256, 7)
    layer = VariationalDropout(keras.layers.Dense(1), PiecewiseConstantDecay([8], [0.0, 10.0]), rate=0.3, name="it")
    model = keras.Sequential([keras.Input((7,)), layer])
    model.compile(keras.optimizers.Adam(0.05), "mse")
    logs = model.fit(x, x[:, :1], epochs=2, verbose=0, callbacks=[RateLogger()]).history
    # The data pull it down, the divergence pushes it up.
    assert logs["rate/it"][0] < 0.29 and logs["rate/it"][1] > logs["rate/it"][0] + 0.01
    assert logs["kl_weight/it"] == [0.0, 10.0]
    np.testing.assert_allclose(layer.rate, logs["rate/it"][1])
    several = VariationalDropout(dense(), 0.1, alphas="unit")
    assert several.rate == 0.2 and list(several.readings()) == ["kl_weight"]


def test_squares_do_not_overflow_in_narrow_types():
    layer = VariationalDropout(dense("relu"), 0.1, seed=1, dtype="mixed_float16")
    assert np.isfinite(train(layer, np.full((2, 7), 1000, "float32"))).all()


def test_inputs_of_zeros_have_a_gradient():
    layer, x = VariationalDropout(dense(), 0.1), np.zeros((2, 7), "float32")
    layer(x)
    _, gradient = value_and_gradient(lambda x: layer(x, training=True), x, np.ones((2, 4), "float32"))
    kernel, _ = layer.layer.get_weights()
    np.testing.assert_allclose(gradient, np.tile(kernel.sum(1), (2, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0, 0.6, -0.1, math.nan, True, "0.2", None], ids=repr)
def test_a_bad_start_is_refused(rate):
    with pytest.raises(ValueError, match=r"`rate` must be a number in \(0, 0\.5\]\. Received: rate="):
        VariationalDropout(dense(), 0.1, rate=rate)


def test_bad_arguments_are_refused():
    for weight in (-1, math.nan, math.inf, "1", None, True):
        with pytest.raises(ValueError, match=r"(?s)`kl_weight` must be a number in \[0, inf\).*Received: kl_weight="):
            VariationalDropout(dense(), weight)
    with pytest.raises(ValueError, match="`alphas` must be 'layer' or 'unit' or 'weight'"):
        VariationalDropout(dense(), 0.1, alphas="units")
    with pytest.raises(ValueError, match="`noise` must be 'weights' or 'inputs'"):
        VariationalDropout(dense(), 0.1, noise="A")
    with pytest.raises(ValueError, match=r"(?s)`alphas` must be 'layer' or 'unit'.*Received: alphas='weight'"):
        VariationalDropout(dense(), 0.1, alphas="weight", noise="inputs")
    with pytest.raises(ValueError, match=r"(?s)`alphas` must be 'layer' or 'weight' for an EinsumDense"):
        VariationalDropout(keras.layers.EinsumDense("ab,bc->ac", 3), 0.1, alphas="unit")


def test_mixed_precision_computes_the_divergence_of_the_numbers_as_they_are_stored():
    layer = VariationalDropout(keras.layers.Dense(30, dtype="mixed_bfloat16"), 1.0, rate=0.2, alphas="weight")
    train(layer, np.ones((1, 20), "float32"))
    np.testing.assert_allclose(to_numpy(layer.losses[0]), to_numpy(layer.kl_divergence()), rtol=1e-6)
