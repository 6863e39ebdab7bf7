"""DropKey against the softmax in NumPy: which keys are left, masks, and numbers that are too large."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient

from keras_dropouts import DropKey

SHAPE = (3, 2, 5, 4)
SCORES = np.random.default_rng(0).standard_normal(SHAPE).astype("float32")
# Of each sample some keys are padding; of the last one all are.
PADDED = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]], bool)[:, None, None]


def left_of(seed, call, shape, rate, there=True):
    """The keys that are left: where none would be, all that are there."""
    kept = oracle.keep_mask(seed, call, shape, rate) & there
    return np.where(kept.any(-1, keepdims=True), kept, there)


def softmax(scores, left):
    """Over the last axis, of what is left; 0 where nothing is."""
    top = np.where(left, scores, -np.inf).max(-1, keepdims=True)
    powers = np.where(left, np.exp(scores.astype("float64") - np.where(np.isfinite(top), top, 0)), 0)
    return powers / np.maximum(powers.sum(-1, keepdims=True), 1e-300)


@pytest.mark.parametrize("rate", [0.3, 0.9])
@pytest.mark.parametrize("there", [None, PADDED])
def test_the_weights_are_the_softmax_of_what_is_left(rate, there):
    layer = DropKey(rate, seed=5)
    for call in range(2):
        left = left_of(5, call, SHAPE, rate, True if there is None else there)
        mask = None if there is None else keras.ops.convert_to_tensor(there)
        weights = to_numpy(layer(SCORES, mask=mask, training=True))
        np.testing.assert_allclose(weights, softmax(SCORES, left), rtol=1e-5, atol=1e-7)
        assert (weights[~left] == 0).all()
    some = True if there is None else there.any(-1)
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(some, SHAPE[:-1]), rtol=1e-6)


def test_a_query_all_of_whose_keys_are_dropped_keeps_them():
    layer = DropKey(1 - 2**-16, seed=1)
    np.testing.assert_allclose(train(layer, SCORES), to_numpy(layer(SCORES)), rtol=1e-5)
    masked = to_numpy(layer(SCORES, mask=keras.ops.convert_to_tensor(PADDED), training=True))
    np.testing.assert_allclose(masked, softmax(SCORES, np.broadcast_to(PADDED, SHAPE)), rtol=1e-5)


def test_what_is_masked_may_be_anything():
    scores = np.where(PADDED, SCORES, np.nan)
    layers = DropKey(0.5, seed=2), DropKey(0.5, seed=2)
    mask = keras.ops.convert_to_tensor(PADDED)
    one, other = (
        to_numpy(layer(x, mask=mask, training=True)) for layer, x in zip(layers, (scores, SCORES), strict=True)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_large_scores_stay_finite_and_rows_sum_to_1(dtype):
    # In float16 Keras's masks are -3e4.
    scores = np.array([[6e4, -6e4, 0, -5e4], [-6e4, -5.9e4, -6e4, -6.5e4]], "float32")[None]
    layer = DropKey(0.5, seed=3, dtype=dtype)
    for call in range(4):
        weights = train(layer, scores)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-2)
        assert (weights[~left_of(3, call, scores.shape, 0.5)] == 0).all()


def test_what_is_dropped_has_no_gradient_whatever_it_was():
    left = left_of(7, 0, SHAPE, 0.5)
    upstream = np.random.default_rng(1).standard_normal(SHAPE).astype("float32")
    scores = np.where(left, SCORES, np.inf).astype("float32")
    weights, gradient = value_and_gradient(lambda x: DropKey(0.5, seed=7)(x, training=True), scores, upstream)
    expected = softmax(SCORES, left)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-7)
    expected *= upstream - (expected * upstream).sum(-1, keepdims=True)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_without_keys_has_a_gradient_of_zero(dtype):
    layer, mask = DropKey(0.5, seed=7, dtype=dtype), keras.ops.convert_to_tensor(PADDED)
    weights, gradient = value_and_gradient(lambda x: layer(x, mask=mask, training=True), SCORES, np.ones(SHAPE))
    assert np.isfinite(weights).all() and np.isfinite(gradient).all()
    assert (weights[-1] == 0).all() and (gradient[-1] == 0).all()


def test_keys_along_several_axes():
    """As along one of all of them."""
    flat = train(DropKey(0.5, seed=4), SCORES.reshape(3, 2, 20))
    np.testing.assert_allclose(train(DropKey(0.5, axis=(2, 3), seed=4), SCORES).reshape(3, 2, 20), flat, rtol=1e-5)
    np.testing.assert_allclose(train(DropKey(0.5, axis=[-2, -1], seed=4), SCORES).reshape(3, 2, 20), flat, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, 1.0, True, "1", (), (0.5,)], ids=repr)
def test_a_bad_axis_is_refused(axis):
    with pytest.raises(ValueError, match=r"`axis` must be an integer, or a sequence of them. Received: axis="):
        DropKey(0.5, axis=axis)
