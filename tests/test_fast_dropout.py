"""Fast dropout against the dropout that it stands for, and against its formulas."""

import statistics

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient
from scipy import integrate, stats

from keras_dropouts import FastDropout


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return keras.ops.convert_to_tensor(np.random.default_rng(5).normal(0, 0.5, shape).astype("float32"))


def dense(activation=None):
    return keras.layers.Dense(4, activation, kernel_initializer=normal, bias_initializer="ones")


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def moments(layer, x, rate):
    """Mean and standard deviation of the sums, in 64 bits."""
    kernel, bias = (w.astype("float64") for w in layer.get_weights())
    return x @ kernel + bias, np.sqrt(rate / (1 - rate) * (x.astype("float64") ** 2 @ kernel**2))


def test_it_draws_the_sums_with_the_bits_of_the_oracle():
    layer, x = FastDropout(dense("relu"), 0.3, seed=6), inputs(5, 3, 7)
    table = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(65536)])
    for call in range(2):
        y = train(layer, x)
        mean, std = moments(layer, x, 0.3)
        expected = mean + std * table[oracle.draws(6, call, y.shape) + 32768]
        np.testing.assert_allclose(y, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def test_the_sums_have_the_moments_of_dropout_on_the_inputs():
    x, samples, rate = np.repeat(inputs(1, 50), 40_000, 0), 40_000, 0.4
    layer = FastDropout(dense(), rate, seed=2)
    fast = train(layer, x).astype("float64")
    dropped = np.where(np.random.default_rng(3).random(x.shape) < rate, 0, x / (1 - rate))
    kernel, bias = layer.get_weights()
    slow = dropped @ kernel + bias
    _, (std, *_) = moments(layer, x[:1], rate)
    # Two means, each as far off as that.
    assert (abs(fast.mean(0) - slow.mean(0)) < 4.5 * std * np.sqrt(2 / samples)).all()
    assert (abs(fast.std(0) / slow.std(0) - 1) < 4.5 * np.sqrt(1 / samples)).all()
    # Units are independent.
    correlations = np.corrcoef(fast.T)[np.triu_indices(4, 1)]
    assert (abs(correlations) < 4.5 / np.sqrt(samples)).all()


@pytest.mark.parametrize("activation", ["linear", "relu", "sigmoid", "tanh"])
def test_inference_is_the_mean_of_the_activation(activation):
    x = inputs(3, 7)
    drawing, fixed = (FastDropout(dense(activation), 0.4, sampled, seed=1) for sampled in (True, False))
    y = to_numpy(drawing(x))
    mean, std = moments(drawing, x, 0.4)
    function = {
        "linear": lambda u: u,
        "relu": lambda u: np.maximum(u, 0),
        "sigmoid": lambda u: 1 / (1 + np.exp(-u)),
        "tanh": np.tanh,
    }[activation]
    for i in np.ndindex(3, 4):
        density = stats.norm(mean[i], std[i])
        expected, _ = integrate.quad(
            lambda u, density=density: function(u) * density.pdf(u), mean[i] - 9 * std[i], mean[i] + 9 * std[i]
        )
        np.testing.assert_allclose(y[i], expected, atol=1e-3)
    # Without draws training is the same.
    np.testing.assert_array_equal(to_numpy(fixed(x)), y)
    np.testing.assert_array_equal(train(fixed, x), y)
    assert fixed._random_state.read()[1] == 1


def test_a_convolution_sums_over_its_window():
    x = inputs(2000, 5, 3)
    x[:] = x[:1]
    layer = FastDropout(keras.layers.Conv1D(2, 3, kernel_initializer=normal), 0.2, seed=4)
    y = train(layer, x).astype("float64")
    kernel = layer.get_weights()[0].astype("float64")
    for position in range(3):
        window = x[0, position : position + 3, :, None]
        mean, variance = (window * kernel).sum((0, 1)), 0.25 * (window**2 * kernel**2).sum((0, 1))
        assert (abs(y[:, position].mean(0) - mean) < 4.5 * np.sqrt(variance / 2000)).all()
        assert (abs(y[:, position].var(0) / variance - 1) < 4.5 * np.sqrt(2 / 2000)).all()


def test_inputs_of_zeros_have_no_noise_and_a_gradient():
    layer, x = FastDropout(dense("tanh"), 0.5, seed=1), np.zeros((2, 7), "float32")
    layer(x)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, np.ones((2, 4), "float32"))
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose(y, np.tile(np.tanh(bias), (2, 1)), rtol=1e-5)
    np.testing.assert_allclose(gradient, np.tile(kernel @ (1 - np.tanh(bias) ** 2), (2, 1)), rtol=1e-4, atol=1e-5)


def test_squares_do_not_overflow_in_narrow_types():
    layer = FastDropout(dense("relu"), 0.5, seed=1, dtype="mixed_float16")
    x = np.full((2, 7), 1000, "float32")
    assert np.isfinite(train(layer, x)).all() and np.isfinite(to_numpy(layer(x))).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`sampled` must be True or False\. Received: sampled=1"):
        FastDropout(dense(), sampled=1)
    with pytest.raises(ValueError, match=r"`rate` must be a number in \[0, 0\.999985\).*Received: rate=1"):
        FastDropout(dense(), 1)


def test_a_training_step_upsets_no_optimizer(capfd):
    dense = FastDropout(keras.layers.Dense(64, activation="relu"), 0.3)
    model = keras.Sequential([keras.Input((28,)), dense, keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    model.fit(np.ones((64, 28)), np.ones((64, 2)), verbose=0)
    # What TensorFlow says where its optimizer of graphs fails.
    assert "optimizer failed" not in capfd.readouterr().err
