"""ShakeDrop and ShakeShake against the random bits of the oracle: what goes forward, and what comes back."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import ShakeDrop, ShakeShake

SIGMAS = 4.5


def normal(*shape, seed=3):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def factors(rate, seed, call, samples):
    """What a branch and its gradient are multiplied by, for each sample: the equations of ShakeDrop's paper."""
    u = oracle.uniform(seed, call, (samples, 3))
    b, alpha, beta = u[:, 0] >= rate, 2 * u[:, 1] - 1, u[:, 2]
    return b + alpha - b * alpha, b + beta - b * beta


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_shake_drop_is_the_papers(rate):
    x, upstream = normal(50, 3, 2), normal(50, 3, 2, seed=4)
    layer = ShakeDrop(rate, seed=5)
    for call in range(2):
        forward, backward = factors(rate, 5, call, 50)
        y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
        np.testing.assert_allclose(y, x * forward[:, None, None], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(gradient, upstream * backward[:, None, None], rtol=1e-6, atol=1e-7)
        assert rate == 0 or abs(forward - backward).max() > 0.5
    np.testing.assert_allclose(to_numpy(layer(x)), (1 - rate) * x, rtol=2e-5)


def test_inference_is_the_mean_of_shake_drop_in_training():
    y = train(ShakeDrop(0.3, seed=2), np.ones((40_000, 1), "float32"))
    assert abs(y.mean() - 0.7) < SIGMAS * y.std() / 200
    # Of the shaken, as many are turned around as not.
    shaken = y[y != 1]
    assert abs((shaken < 0).mean() - 0.5) < SIGMAS * 0.5 / np.sqrt(len(shaken))


def test_shake_shake_mixes_in_other_shares_backward():
    x, other, upstream = normal(2, 20, 3, 2), normal(20, 3, 2, seed=4), normal(20, 3, 2, seed=5)
    layer = ShakeShake(seed=6)
    for call in range(2):
        a = oracle.uniform(6, call, (20, 1, 1))
        b = oracle.uniform(*oracle.folded(6, call, 1), (20, 1, 1))
        for place, share in ((0, b), (1, 1 - b)):
            twin = ShakeShake(seed=6)
            twin._random_state.write(calls=call)

            def mix(x, twin=twin, place=place):
                return twin([x, other] if place == 0 else [other, x], training=True)

            y, gradient = value_and_gradient(mix, x[0], upstream)
            expected = a * x[0] + (1 - a) * other if place == 0 else a * other + (1 - a) * x[0]
            np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(gradient, share * upstream, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(train(layer, list(x)), a * x[0] + (1 - a) * x[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(list(x))), (x[0] + x[1]) / 2, rtol=1e-6)


def test_the_shares_of_shake_shake_are_rounded_once(policy):
    layer = ShakeShake(seed=1, dtype=policy)
    x = ops.cast(normal(500, 2, seed=1), layer.compute_dtype)
    y = layer([x, x], training=True)
    np.testing.assert_allclose(to_numpy(y), to_numpy(x), rtol=1e-6 if policy == "float32" else 0)


def test_they_train_a_network_with_add():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((6,))
    for seed in range(2):
        branches = [keras.layers.Dense(6, "tanh")(x) for _ in range(2)]
        x = keras.layers.add([x, ShakeDrop(0.5, seed=seed)(ShakeShake(seed=seed)(branches))])
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile(keras.optimizers.Adam(0.03), "mse")
    x = normal(64, 6)
    before = model.evaluate(x, x[:, :1], verbose=0)
    model.fit(x, x[:, :1], epochs=10, verbose=0)
    assert model.evaluate(x, x[:, :1], verbose=0) < before / 2


@pytest.mark.parametrize("training", [False, True])
def test_what_shake_shake_does_not_take(training):
    x = np.ones((2, 3), "float32")
    for inputs in (x, [x], [x] * 3, {"a": x, "b": x}):
        with pytest.raises(ValueError, match=r"(?s)`inputs` must be a list or tuple of two tensors.*Received: inputs="):
            ShakeShake()(inputs, training=training)
    for pair in ([x, x[:1]], [x, x[..., None]]):
        with pytest.raises(ValueError, match=r"`inputs` must be two tensors of the same shape.*Received.*\(2, 3\) and"):
            ShakeShake()(pair, training=training)
    with pytest.raises(ValueError, match="`inputs` must be two tensors of the same shape"):
        ShakeShake().compute_output_shape([(None, 3), (None, 4)])
