"""DropPath against the random bits of the oracle."""

import numpy as np
import oracle
import pytest
from backend import multiplier, train

from keras_dropouts import Dropout, DropPath


@pytest.mark.parametrize("shape", [(50,), (50, 7), (50, 3, 5, 2)])
def test_the_oracle_drops_the_same_samples(shape):
    layer = DropPath(0.3, seed=9)
    for call in range(3):
        keep = oracle.keep_mask(9, call, (50, *[1] * (len(shape) - 1)), 0.3)
        assert 0 < keep.mean() < 1
        np.testing.assert_allclose(multiplier(layer, shape), np.broadcast_to(keep / 0.7, shape), rtol=1e-4)


def test_the_branch_is_dropped_and_the_shortcut_stays():
    x = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    y = x + train(DropPath(0.5, seed=1), x)
    dropped = (y == x).all(1)
    assert 0 < dropped.sum() < 40
    np.testing.assert_array_equal(y[~dropped], 3 * x[~dropped])


def test_it_is_a_dropout_of_half_unless_told():
    layer = DropPath()
    assert isinstance(layer, Dropout) and layer.rate == 0.5
    assert DropPath.from_config(DropPath(0.1, scaling="inference").get_config()).scaling == "inference"
