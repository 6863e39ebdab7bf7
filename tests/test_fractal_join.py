"""FractalJoin against a loop over samples, the probabilities of its survivors, and the paper's global drop-path."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import FractalJoin

SIGMAS = 4.5


def paths(n, samples=40, seed=0):
    return [x for x in np.random.default_rng(seed).standard_normal((n, samples, 3, 2)).astype("float32")]


def survivors(rate, seed, call, samples, n):
    """Which of n paths survive, sample by sample."""
    u = oracle.uniform(seed, call, (samples, n))
    survive = u >= np.float32(rate)
    for sample in range(samples):
        if not survive[sample].any():
            survive[sample, u[sample].argmax()] = True
    return survive


@pytest.mark.parametrize("rate", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("n", [2, 3])
def test_the_mean_of_the_survivors(rate, n):
    x, layer = paths(n), FractalJoin(rate, seed=4)
    for call in range(2):
        survive = survivors(rate, 4, call, 40, n)
        expected = [np.mean([x[i][s] for i in range(n) if survive[s, i]], axis=0) for s in range(40)]
        np.testing.assert_allclose(train(layer, x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(x)), np.mean(x, axis=0), rtol=1e-5, atol=1e-6)


def test_the_gradient_is_the_share():
    x, upstream = paths(3), paths(1, seed=1)[0]
    survive = survivors(0.6, 4, 0, 40, 3)
    for i in range(3):
        layer = FractalJoin(0.6, seed=4)
        call = lambda y, i=i, layer=layer: layer([*x[:i], y, *x[i + 1 :]], training=True)  # noqa: E731
        _, gradient = value_and_gradient(call, x[i], upstream)
        share = survive[:, i] / survive.sum(1)
        np.testing.assert_allclose(gradient, upstream * share[:, None, None], rtol=1e-6)


def test_one_survives_any_with_the_same_probability():
    n, samples, rate = 3, 20_000, 0.7
    x = [np.full((samples, 1), float(2**i), "float32") for i in range(n)]
    y = train(FractalJoin(rate, seed=9), x)[:, 0]
    # All are dropped, and one survives; or one is kept by itself.
    alone = rate**n / n + (1 - rate) * rate ** (n - 1)
    for value in (1, 2, 4):
        assert abs((y == value).mean() - alone) < SIGMAS * np.sqrt(alone * (1 - alone) / samples) + 2**-15
    assert abs((y == np.float32(7) * np.float32(1 / 3)).mean() - (1 - rate) ** n) < 0.01


def test_global_drop_path_is_rate_1_with_one_seed():
    """The survivor of a join of many is that of a join of fewer which has it."""
    many, few = FractalJoin(1.0, seed=3), FractalJoin(1.0, seed=3)
    x = [np.full((500, 1), float(i), "float32") for i in range(5)]
    for _ in range(2):
        column, part = train(many, x)[:, 0], train(few, x[:3])[:, 0]
        assert set(column) == set(range(5))
        np.testing.assert_array_equal(part[column < 3], column[column < 3])


def test_what_is_dropped_is_gone_whatever_it_was(policy):
    survive = survivors(0.5, 2, 0, 40, 2)
    bad = np.full((40, 2), np.inf, "float32")
    y = train(FractalJoin(0.5, seed=2, dtype=policy), [np.ones((40, 2), "float32"), bad])
    np.testing.assert_array_equal(y[~survive[:, 1]], 1)
    assert np.isinf(y[survive[:, 1]]).all()


def test_masks_and_shapes_are_those_of_add():
    symbols = [keras.Input((3, 4)) for _ in range(3)]
    assert FractalJoin()(symbols).shape == keras.layers.Average()(symbols).shape == (None, 3, 4)
    masks = [ops.convert_to_tensor(mask) for mask in ([True, False, False], [True, True, False], None)[:2]]
    joined = FractalJoin().compute_mask(symbols[:2], masks)
    np.testing.assert_array_equal(ops.convert_to_numpy(joined), [True, True, False])


@pytest.mark.parametrize("training", [False, True])
def test_anything_but_tensors_of_one_shape_is_refused(training):
    x = np.ones((2, 3), "float32")
    with pytest.raises(ValueError, match=r"(?s)`inputs` must be a list or tuple of two or more.*Received: inputs="):
        FractalJoin()([x], training=training)
    with pytest.raises(ValueError, match=r"`inputs` must be two or more tensors of the same shape.*\(2, 3\) and"):
        FractalJoin()([x, x, x[:, :2]], training=training)
