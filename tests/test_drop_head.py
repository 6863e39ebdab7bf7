"""DropHead: which heads are left, and that some are."""

import itertools

import numpy as np
import oracle
import pytest
from backend import multiplier, train

from keras_dropouts import DropHead

HEADS, SAMPLES = 3, 20_000


def left(rate, seed=1):
    m = multiplier(DropHead(rate, seed=seed), (SAMPLES, 1, HEADS, 1))[:, 0, :, 0]
    # Scaled by what is left of each sample.
    np.testing.assert_array_equal(m, np.where(m == 0, 0, np.float32(HEADS) / np.count_nonzero(m, 1)[:, None]))
    return m != 0


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.0])
def test_heads_are_dropped_as_if_drawn_anew_until_one_is_left(rate):
    kept = left(rate)
    patterns = np.array(list(itertools.product([False, True], repeat=HEADS)))[1:]
    # At rate 1 the limit: one head, each as likely.
    rate = min(rate, 1 - 1e-9)
    chances = np.prod(np.where(patterns, 1 - rate, rate), 1)
    chances /= chances.sum()
    shares = (kept[:, None] == patterns).all(2).mean(0)
    assert (np.abs(shares - chances) <= 4.5 * np.sqrt(chances * (1 - chances) / SAMPLES) + 1e-8).all()


def test_a_head_after_the_first_that_is_left_is_as_keep_mask_draws_it():
    kept, drawn = left(0.5, seed=9), oracle.keep_mask(9, 0, (SAMPLES, HEADS), 0.5)
    after = np.arange(HEADS) > kept.argmax(1)[:, None]
    np.testing.assert_array_equal(kept[after], drawn[after])


def test_rate_0_and_one_head():
    assert left(0.0).all()
    np.testing.assert_array_equal(multiplier(DropHead(0.9, seed=1), (50, 2, 1, 3)), np.ones((50, 2, 1, 3)))


def test_a_head_is_dropped_for_all_between():
    x = np.random.default_rng(0).standard_normal((8, 2, 3, HEADS, 5)).astype("float32")
    m = train(DropHead(0.5, seed=2), x) / x
    np.testing.assert_allclose(m, np.broadcast_to(m[:, :1, :1, :, :1], x.shape), rtol=1e-6)
    assert 0 < (m == 0).mean() < 1


def test_what_has_no_heads_is_refused():
    with pytest.raises(ValueError, match="min_ndim=3"):
        DropHead(0.5)(np.ones((2, 3), "float32"))
