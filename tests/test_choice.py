"""Integers and orders: what is chosen, against the oracle's bits, and how often."""

import numpy as np
import oracle
import pytest
from keras import ops

from keras_dropouts import random
from keras_dropouts.random.choice import gathered, integers, orders


def halves(seed, shape):
    samples, *sizes = shape
    drawn = oracle.draws(seed, 0, (samples, 2, *sizes)) + 32768
    return drawn[:, 0], drawn[:, 1]


def test_integers_are_the_oracles_and_equally_likely():
    shape = (20_000, 3)
    drawn = ops.convert_to_numpy(integers(random.key(5), shape, 7))
    high, low = halves(5, shape)
    # But for the rounding to 24 bits.
    exact = ((high * 65536 + low) * 7) >> 32
    assert drawn.dtype == "int32" and (drawn != exact).mean() < 1e-4
    np.testing.assert_array_equal(drawn, oracle.integers(5, 0, shape, 7))
    shares = np.stack([(drawn == n).mean(0) for n in range(7)])
    assert (abs(shares - 1 / 7) < 4.5 * np.sqrt(6 / 49 / shape[0])).all()


def test_integers_below_bounds_of_their_own():
    below = np.array([[0, 1, 2, 100_000]])
    drawn = ops.convert_to_numpy(integers(random.key(1), (5000, 4), ops.convert_to_tensor(below)))
    assert (drawn.max(0) == [0, 0, 1, drawn[:, 3].max()]).all() and (drawn >= 0).all()
    # More than 16 bits can tell apart.
    assert 65536 < drawn[:, 3].max() < 100_000 and len(set(drawn[:, 3] % 2)) == 2


# Of so many, some have the same 16 bits.
@pytest.mark.parametrize("n", [1, 600])
def test_orders_are_the_oracles(n):
    high, low = halves(3, (40, n))
    expected = np.argsort(high * 65536 + low, axis=1, kind="stable")
    drawn = ops.convert_to_numpy(orders(random.key(3), 40, n))
    np.testing.assert_array_equal(drawn, expected)


def test_what_is_gathered_is_each_samples_own():
    x = np.arange(2 * 5 * 3).reshape(2, 5, 3)
    places = np.array([[4, 0], [1, 1]], "int32")
    expected = np.stack([x[0, [4, 0]], x[1, [1, 1]]])
    for rank in (2, 3):
        tensor, wanted = (a[:, :, 0] if rank == 2 else a for a in (x, expected))
        y = gathered(ops.convert_to_tensor(tensor), ops.convert_to_tensor(places))
        np.testing.assert_array_equal(ops.convert_to_numpy(y), wanted)
