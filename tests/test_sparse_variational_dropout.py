"""Sparse variational dropout against its formulas, the exact divergence, and what is often got wrong."""

import keras
import numpy as np
import pytest
from backend import to_numpy, train
from keras.optimizers.schedules import PolynomialDecay
from sklearn.datasets import load_digits
from test_variational_dropout import exact_kl, inputs, kl, noise, normal

from keras_dropouts import RateLogger, SparseVariationalDropout


def dense(activation=None):
    return keras.layers.Dense(4, activation, kernel_initializer=normal, bias_initializer="ones")


def of(wrapped, shape, log_sigma2, **arguments):
    """A layer that is built, with the given logarithms of variances."""
    layer = SparseVariationalDropout(wrapped, 0.1, seed=6, **arguments)
    layer.build(shape)
    layer.log_sigma2.assign(np.broadcast_to(log_sigma2, layer.log_sigma2.shape))
    return layer


def log_alpha(layer, log_sigma2):
    return np.clip(log_sigma2 - np.log(layer.layer.get_weights()[0].astype("float64") ** 2 + 1e-8), -8, 8)


def test_it_draws_the_sums_with_the_bits_of_the_oracle():
    x, log_sigma2 = inputs(5, 3, 7), np.random.default_rng(2).uniform(-6, 2, (7, 4))
    layer = of(dense("relu"), x.shape, log_sigma2)
    kernel, bias = layer.layer.get_weights()
    ratio = log_alpha(layer, log_sigma2)
    kept = np.where(ratio < 3, kernel, 0)
    assert 3 < (kept == 0).sum() < 25
    # The noise of what is pruned stays in training.
    deviation = np.sqrt(x.astype("float64") ** 2 @ (np.exp(ratio) * kernel.astype("float64") ** 2))
    for call in range(2):
        expected = x @ kept + deviation * noise(6, call, (5, 3, 4)) + bias
        np.testing.assert_allclose(train(layer, x), np.maximum(expected, 0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(to_numpy(layer(x)), np.maximum(x @ kept + bias, 0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(layer.sparsity, (kept == 0).mean())
    np.testing.assert_array_equal(to_numpy(layer.pruned_weights()[0]), kept)
    np.testing.assert_array_equal(to_numpy(layer.pruned_weights()[1]), bias)


def test_a_convolution_sums_over_its_window():
    x, log_sigma2 = inputs(2, 5, 3), np.random.default_rng(2).uniform(-4, 2, (3, 3, 2))
    layer = of(keras.layers.Conv1D(2, 3, kernel_initializer=normal), x.shape, log_sigma2)
    kernel = layer.layer.get_weights()[0].astype("float64")
    ratio = log_alpha(layer, log_sigma2)
    kept, squares = np.where(ratio < 3, kernel, 0), np.exp(ratio) * kernel**2
    assert 0 < (kept == 0).sum() < 18
    windows = np.stack([x[:, i : i + 3] for i in range(3)], 1).astype("float64")
    mean, variance = (np.einsum("npij,ijk->npk", *pair) for pair in ((windows, kept), (windows**2, squares)))
    np.testing.assert_allclose(
        train(layer, x), mean + np.sqrt(variance) * noise(6, 0, mean.shape), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(to_numpy(layer(x)), mean, rtol=1e-4, atol=1e-4)


def test_the_variance_is_what_is_learnt_whatever_the_weight():
    x = np.eye(7, dtype="float32").repeat(2000, 0)
    layer = of(dense(), x.shape, -2.0)
    variances = train(layer, x).astype("float64").reshape(7, 2000, 4).var(1)
    # But where the ratio to the square of the weight is beyond its bounds.
    ratio = log_alpha(layer, -2.0)
    within = ratio < 7.9
    assert within.sum() > 20
    assert (abs(variances / np.exp(-2) - 1)[within] < 4.5 * np.sqrt(2 / 2000)).all()


def test_the_divergence_is_near_the_exact_one_and_falls_as_alpha_grows():
    layer = of(keras.layers.Dense(1, kernel_initializer="ones"), (None, 1), 0.0)
    found = []
    for ratio in np.linspace(-8, 8, 17):
        layer.log_sigma2.assign([[ratio]])
        found.append(kl(layer))
        assert abs(found[-1] - exact_kl(ratio)) < 0.0095
    assert (np.diff(found) < 0).all() and found[-1] > 0


def test_the_divergence_is_summed_over_weights_and_added_in_training_alone():
    log_sigma2 = np.random.default_rng(2).uniform(-9, 9, (7, 4))
    layer = of(dense(), (None, 7), log_sigma2)
    ratio = log_alpha(layer, log_sigma2)
    each = 0.63576 - 0.63576 / (1 + np.exp(-1.87320 - 1.48695 * ratio)) + 0.5 * np.log1p(np.exp(-ratio))
    np.testing.assert_allclose(kl(layer), each.sum(), rtol=1e-5)
    layer(inputs(2, 7))
    assert layer.losses == []
    train(layer, inputs(2, 7))
    np.testing.assert_allclose(to_numpy(layer.losses[0]), 0.1 * each.sum(), rtol=1e-5)


def test_weights_from_the_threshold_on_are_pruned():
    ones = keras.layers.Dense(1, kernel_initializer="ones")
    layer = of(ones, (None, 3), [[1.9], [2.0], [9.0]], threshold=2.0)
    np.testing.assert_array_equal(to_numpy(layer.pruned_weights()[0]), [[1], [0], [0]])
    # Log alpha is clipped.
    assert to_numpy(layer.log_alpha).max() == 8


def test_a_weight_of_0_has_finite_gradients_and_a_pruned_one_learns_its_variance():
    x, y = np.ones((4, 2), "float32"), np.ones((4, 1), "float32")
    layer = of(keras.layers.Dense(1, kernel_initializer="ones"), (None, 2), [[-3.0], [4.0]])
    layer.layer.kernel.assign([[0.0], [1.0]])
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    before = [to_numpy(w) for w in (layer.layer.kernel, layer.log_sigma2)]
    model.fit(x, y, verbose=0)
    after = [to_numpy(w) for w in (layer.layer.kernel, layer.log_sigma2)]
    assert np.isfinite(after).all()
    # Its noise does harm.
    assert after[1][1] < before[1][1]


def test_a_small_network_is_pruned_at_no_cost_if_the_divergence_comes_slowly():
    x, y = load_digits(return_X_y=True)
    x, n, steps = x.astype("float32") / 16, 1400, 14

    # A LeNet-300-100.
    keras.utils.set_random_seed(1)
    weight = PolynomialDecay(0.0, 6 * steps, end_learning_rate=0.3 / n)
    sizes = (300, "relu"), (100, "relu"), (10, "softmax")
    wrapped = [SparseVariationalDropout(keras.layers.Dense(*size), weight, 3.0, -8.0) for size in sizes]
    model = keras.Sequential([keras.Input((64,)), *wrapped])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    start = model.get_weights()

    def trained(epochs):
        """The accuracy and the sparsity after so many epochs."""
        logs = model.fit(x[:n], y[:n], 100, epochs, verbose=0, callbacks=[RateLogger()]).history
        assert logs[f"sparsity/{wrapped[0].name}"][-1] == wrapped[0].sparsity
        kernels = np.concatenate([to_numpy(layer.pruned_weights()[0]).ravel() for layer in wrapped])
        right = model.predict(x[n:], 500, verbose=0).argmax(-1) == y[n:]
        return np.mean(right), np.mean(kernels == 0)

    accuracy, sparsity = trained(8)
    # Without dropout 0.90 to 0.92.
    assert accuracy > 0.87 and sparsity > 0.75
    # From the first step on at full weight.
    model.set_weights(start)
    for layer in wrapped:
        layer.kl_weight = 1 / n
    accuracy, _ = trained(3)
    assert accuracy < 0.6


def test_bad_arguments_are_refused():
    for name in ("threshold", "initial_log_sigma2"):
        for value in (np.inf, np.nan, "3", None, True):
            with pytest.raises(ValueError, match=rf"`{name}` must be a finite number\. Received: {name}="):
                SparseVariationalDropout(dense(), 0.1, **{name: value})


def test_squares_do_not_overflow_in_narrow_types():
    layer = SparseVariationalDropout(dense("relu"), 0.1, initial_log_sigma2=0.0, dtype="mixed_float16")
    x = np.full((2, 7), 1000, "float32")
    assert np.isfinite(train(layer, x)).all() and np.isfinite(to_numpy(layer(x))).all()


def test_mixed_precision_prunes_by_the_numbers_as_they_are_stored():
    """Else a call would prune other weights than `compress`."""
    wrapped = keras.layers.Dense(50, use_bias=False, kernel_initializer=normal, dtype="mixed_bfloat16")
    layer = of(wrapped, (None, 40), -10.0)
    around = 3 + np.random.default_rng(0).normal(0, 0.1, (40, 50))
    layer.log_sigma2.assign(np.log(wrapped.get_weights()[0].astype("float64") ** 2 + 1e-8) + around)
    pruned = to_numpy(layer.pruned_weights()[0]) == 0
    np.testing.assert_array_equal(to_numpy(layer(np.eye(40, dtype="float32"))) == 0, pruned)
    train(layer, np.ones((1, 40), "float32"))
    np.testing.assert_allclose(to_numpy(layer.losses[0]), 0.1 * to_numpy(layer.kl_divergence()), rtol=1e-6)
