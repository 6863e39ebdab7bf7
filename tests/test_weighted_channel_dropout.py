"""Weighted channel dropout against a loop over samples, and the probabilities of what is chosen first."""

import numpy as np
import oracle
import pytest
from backend import train, value_and_gradient

from keras_dropouts import WeightedChannelDropout

SIGMAS = 4.5


def features(shape, seed=0):
    return np.abs(np.random.default_rng(seed).standard_normal(shape)).astype("float32")


def multipliers(x, rate, seed):
    """What each channel of x, of channels last, is multiplied by in the first call."""
    score = np.maximum(x.reshape(len(x), -1, x.shape[-1]).mean(1, dtype="float64"), 1e-30)
    kept = max(int(x.shape[-1] * (1 - rate) + 1e-3), 1)
    weighed = np.log(oracle.uniform(seed, 0, score.shape).astype("float64")) / score
    m = np.zeros(score.shape)
    for row, own, keys in zip(m, score, weighed, strict=True):
        chosen = np.argsort(-keys)[:kept]
        row[chosen] = own.sum() / own[chosen].sum()
    return m.reshape(len(x), *[1] * (x.ndim - 2), -1)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_the_oracle_drops_the_same(rate, data_format):
    x, upstream = features((6, 3, 2, 10)), features((6, 3, 2, 10), 1)
    m = multipliers(x, rate, 3)
    assert ((m > 0).sum(-1) == max(round(10 * (1 - rate)), 1)).all()
    layer = WeightedChannelDropout(rate, data_format=data_format, seed=3)
    last = (lambda x: np.moveaxis(x, 1, -1)) if data_format == "channels_first" else (lambda x: x)
    first = (lambda x: np.moveaxis(x, -1, 1).copy()) if data_format == "channels_first" else (lambda x: x)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), first(x), first(upstream))
    np.testing.assert_allclose(last(y), x * m, rtol=1e-5)
    np.testing.assert_allclose(last(gradient), upstream * m, rtol=1e-5)


def test_the_first_choice_is_in_proportion_to_the_scores():
    scores = np.array([1.0, 2.0, 5.0, 0.0], "float32")
    x = np.tile(scores, (20_000, 3, 1))
    y = train(WeightedChannelDropout(1.0, seed=4), x)
    chosen = (y[:, 0] != 0).mean(0)
    expected = scores / scores.sum()
    assert (abs(chosen - expected) < SIGMAS * np.sqrt(expected * (1 - expected) / 20_000) + 1e-9).all()
    # The scale makes up for it: the sum over channels stays.
    np.testing.assert_allclose(y.sum(-1), x.sum(-1), rtol=1e-5)


def test_small_scores_and_none():
    """In logarithms: 0.5 ** (1 / 1e-6) is 0 in floats."""
    for x in (features((50, 4, 8)) * 1e-12, np.zeros((50, 4, 8), "float32"), -features((50, 4, 8))):
        y = train(WeightedChannelDropout(0.5, seed=5), x)
        assert np.isfinite(y).all()
        if x.any():
            assert ((y[:, 0] != 0).sum(-1) == 4).all()
            assert len({tuple(row) for row in y[:, 0] != 0}) > 10


def test_what_is_dropped_is_gone_whatever_it_was():
    x = features((40, 3, 4))
    x[..., 0], x[..., 1:] = np.inf, 0
    y = train(WeightedChannelDropout(0.75, seed=1), -x)
    dropped = y[..., 0] == 0
    assert dropped.any() and (y[dropped] == 0).all()
