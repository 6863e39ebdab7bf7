"""SwapNoise against entries that are exchanged one by one."""

import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train
from keras import ops

from keras_dropouts import SwapNoise


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_the_oracle_swaps_the_same(dtype):
    x, layer = np.random.default_rng(0).integers(-(10**8), 10**8, (9, 4)).astype(dtype), SwapNoise(0.4, seed=5)
    for call in range(2):
        keep = oracle.keep_mask(5, call, x.shape, 0.4)
        steps = oracle.integers(*oracle.fold_in(5, call, 1), x.shape, 8)
        expected = x.copy()
        for row, column in zip(*np.nonzero(~keep), strict=True):
            expected[row, column] = x[(row + 1 + steps[row, column]) % 9, column]
        y = ops.convert_to_numpy(layer(x, training=True))
        assert y.dtype == dtype
        np.testing.assert_array_equal(y, expected)


def test_every_value_is_of_its_column_and_of_another_row():
    x = np.arange(5 * 6000, dtype="float32").reshape(5, 6000)
    y = train(SwapNoise(0.3, seed=1), x)
    # Of each column all values differ by multiples of its length.
    assert (y % 6000 == x[:1]).all()
    source, changed = y // 6000, y != x
    assert abs(changed.mean() - 0.3) < 4.5 * np.sqrt(0.21 / x.size)
    for row in range(5):
        shares = np.bincount(source[row][changed[row]].astype(int), minlength=5) / changed[row].sum()
        assert shares[row] == 0
        assert (abs(np.delete(shares, row) - 1 / 4) < 4.5 * np.sqrt(3 / 16 / changed[row].sum())).all()


def test_the_rate_is_of_entries_that_may_be_equal():
    x = np.repeat([[0.0], [1.0]], [6, 4], axis=0).repeat(20_000, axis=1).astype("float32")
    changed = train(SwapNoise(0.5, seed=2), x) != x
    # Two different rows differ with probability 2 * 6 * 4 / 90.
    share = 0.5 * 48 / 90
    assert abs(changed.mean() - share) < 4.5 * np.sqrt(share / x.size)


def test_one_row_stays_and_all_rows_go():
    x = np.arange(7, dtype="float32")
    assert (train(SwapNoise(1.0), x[None]) == x).all()
    two = np.stack([x, x + 100])
    assert (train(SwapNoise(1.0), two) == two[::-1]).all()


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
def test_batches_of_unknown_size():
    import tensorflow as tf

    one, other = (SwapNoise(0.5, seed=2) for _ in range(2))
    call = tf.function(lambda x: one(x, training=True), [tf.TensorSpec((None, 3))])
    for rows in (5, 1, 0):
        x = np.arange(3 * rows, dtype="float32").reshape(rows, 3)
        np.testing.assert_array_equal(to_numpy(call(x)), train(other, x))
