"""The laws on Keras's own layers: each test here fails on one of the faults this package exists for.

Strictly expected failures: where a release of Keras mends one, the suite says so.
"""

import keras
import numpy as np
import pytest
import test_laws
from backend import BACKEND, multiplier, train, value_and_gradient
from catalog import Row

if BACKEND == "jax":
    from jax.errors import UnexpectedTracerError
else:
    UnexpectedTracerError = None

DROPOUT = Row(keras.layers.Dropout, shape=(3, 5, 7), golden="", drops="elements")
SPATIAL = Row(keras.layers.SpatialDropout2D, shape=(3, 5, 7, 6), golden="", drops="channels of an image", tied=(1, 2))
GAUSSIAN = Row(
    keras.layers.GaussianDropout,
    shape=(3, 5, 7),
    golden="",
    drops="nothing",
    mask=False,
    std=lambda rate: np.sqrt(rate / (1 - rate)),
    accepts_max=False,
)
ALPHA = Row(keras.layers.AlphaDropout, shape=(3, 5, 7), golden="", drops="elements", product=False)
ALL = ("tensorflow", "jax", "torch")
# By pytest, where an error is missing.
NO_ERROR = pytest.fail.Exception


def fails(law, *args, on=ALL, by=AssertionError, why):
    """The law with its arguments, expected to fail, on the backends that have the fault: a list of one or none.

    `by` is the error that the fault comes to, or by backend that which is no AssertionError.
    """
    by = by.get(BACKEND, AssertionError) if isinstance(by, dict) else by
    mark = pytest.mark.xfail(strict=True, raises=by, reason=why)
    return [pytest.param(law, args, marks=mark, id=f"{law.__name__}-{args[0]}")] if BACKEND in on else []


def overriding_the_noise_shape_works(row):
    class Keras2TimestepDropout(row.layer):
        def _get_noise_shape(self, inputs):
            return (inputs.shape[0], inputs.shape[1], 1)

    m = multiplier(Keras2TimestepDropout(0.5, seed=1), (3, 5, 7))
    assert (np.ptp(m, axis=2) == 0).all()


def seeds_and_calls_do_not_add_up(row):
    one, two = row.make(0.5, seed=1), row.make(0.5, seed=2)
    multiplier(one, row.shape)
    assert (multiplier(one, row.shape) != multiplier(two, row.shape)).any()


def checkpointing_repeats_the_mask(row):
    layer, ones = row.make(0.5), np.ones(row.shape, "float32")
    for _ in range(2):
        y, gradient = value_and_gradient(keras.remat(lambda x: layer(x, training=True)), ones, ones)
        np.testing.assert_array_equal(y, gradient)


def a_large_seed_is_accepted(row):
    row.make(0.5, seed=2**32 - 1)


def the_spatial_config_is_whole(row):
    layer = row.make(0.5, dtype="mixed_bfloat16")
    layer.trainable = False
    twin = type(layer).from_config(layer.get_config())
    assert (twin.dtype_policy, twin.trainable) == (layer.dtype_policy, False)


def rate_1_is_refused_at_construction(row):
    test_laws.test_the_largest_rate(row)


def rate_1_drops_all(row):
    assert np.ptp(multiplier(row.make(1.0), row.shape)) == 0


def what_was_infinite_is_dropped_too(row):
    y = train(row.make(0.5), np.full(row.shape, np.inf, "float32"))
    assert not np.isnan(y).any()


def a_bad_rate_is_refused(row, rate):
    with pytest.raises(ValueError, match="rate"):
        row.make(rate)


@pytest.mark.parametrize(
    "law, args",
    [
        *fails(overriding_the_noise_shape_works, DROPOUT, why="1: an overridden _get_noise_shape is ignored"),
        *fails(
            test_laws.test_the_rate_is_right,
            DROPOUT,
            0.001,
            "mixed_bfloat16",
            on=["tensorflow"],
            why="2: the mask is drawn in the input's dtype",
        ),
        *fails(
            test_laws.test_replicas_are_independent_and_shards_are_not_replicas,
            DROPOUT,
            on=["tensorflow"],
            why="3: every replica draws the same mask",
        ),
        *fails(seeds_and_calls_do_not_add_up, DROPOUT, on=["torch"], why="4: seeds and calls add up"),
        *fails(
            checkpointing_repeats_the_mask,
            DROPOUT,
            by={"jax": UnexpectedTracerError},
            why="14: the backward pass draws another mask, JAX fails",
        ),
        *fails(
            a_large_seed_is_accepted, DROPOUT, on=["torch"], by=RuntimeError, why="a seed of 2**31 or more is refused"
        ),
        *fails(
            test_laws.test_a_rate_set_late_takes_effect_at_the_next_batch,
            DROPOUT,
            by={"torch": AttributeError},
            why="5: a rate set late does nothing; on PyTorch a layer made with rate 0 has no generator",
        ),
        *fails(the_spatial_config_is_whole, SPATIAL, why="8: dtype policy and trainable are not in the config"),
        *fails(
            rate_1_is_refused_at_construction,
            GAUSSIAN,
            by=NO_ERROR,
            why="9: rate 1 is accepted, and divides by zero later",
        ),
        *fails(rate_1_drops_all, ALPHA, by=dict.fromkeys(ALL, ZeroDivisionError), why="9: rate 1 divides by zero"),
        *fails(what_was_infinite_is_dropped_too, ALPHA, why="infinity times 0 is NaN"),
        *fails(a_bad_rate_is_refused, DROPOUT, "0.5", by=TypeError, why="9: a string raises a bare TypeError"),
        *fails(a_bad_rate_is_refused, DROPOUT, None, by=TypeError, why="9: None raises a bare TypeError"),
        *fails(a_bad_rate_is_refused, DROPOUT, True, by=NO_ERROR, why="9: True is accepted"),
        *fails(
            test_laws.test_the_mean_and_the_spread_are_right,
            GAUSSIAN,
            0.2,
            "mixed_bfloat16",
            on=["jax"],
            why="10: the noise is drawn in the input's dtype",
        ),
    ],
)
def test_stock(law, args):
    law(*args)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="6: the seed's state is not saved, so a resumed run repeats its masks",
)
def test_stock_resuming(tmp_path):
    test_laws.test_resuming_is_exact(DROPOUT, tmp_path)
