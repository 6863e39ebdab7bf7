"""MaxDrop against a loop over feature maps or positions, and the random bits of the oracle."""

import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train, value_and_gradient

from keras_dropouts import MaxDrop


def by_loop(x, keep, across, data_format):
    """x without the largest of each feature map, or of the channels of each position, but where keep says so."""
    channels = 1 if data_format == "channels_first" else x.ndim - 1
    space = tuple(axis for axis in range(1, x.ndim) if axis != channels)
    axes = space if across == "feature_map" else (channels,)
    y = x.copy()
    for index in np.ndindex(*keep.shape):
        if not keep[index]:
            part = tuple(slice(None) if axis in axes else slice(i, i + 1) for axis, i in enumerate(index))
            # A view of one element after the other, of which NumPy gives the first largest.
            place = np.unravel_index(x[part].argmax(), x[part].shape)
            y[part][place] = 0
    return y


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("across", ["feature_map", "channels"])
@pytest.mark.parametrize("shape", [(3, 11, 6), (3, 5, 7, 6), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_oracle_drops_the_same(shape, across, data_format, ties):
    rng = np.random.default_rng(0)
    # Negative numbers too; with ties nearly every part has its largest more than once.
    x = (rng.integers(-2, 2, shape) if ties else rng.standard_normal(shape)).astype("float32")
    channels = 1 if data_format == "channels_first" else len(shape) - 1
    kept = [n if axis == 0 or (axis == channels) == (across == "feature_map") else 1 for axis, n in enumerate(shape)]
    layer = MaxDrop(0.4, across, data_format, seed=6)
    for call in range(2):
        expected = by_loop(x, oracle.keep_mask(6, call, tuple(kept), 0.4), across, data_format)
        np.testing.assert_array_equal(train(layer, x), expected)
    assert (to_numpy(layer(x)) == x).all()


def test_a_feature_map_loses_one_element_and_no_more():
    x = np.full((4, 5, 6, 3), 6, "float32")
    y = train(MaxDrop(1.0, data_format="channels_last"), x)
    assert ((y == 0).sum((1, 2)) == 1).all()
    assert (y[:, 0, 0] == 0).all()


def test_what_is_no_number_is_the_largest_and_a_map_of_the_lowest_has_a_first():
    x = np.array([[[1, -np.inf], [np.nan, -np.inf], [np.inf, -np.inf], [np.nan, -np.inf]]], "float32")
    expected = np.array([[[1, 0], [0, -np.inf], [np.inf, -np.inf], [np.nan, -np.inf]]])
    np.testing.assert_array_equal(train(MaxDrop(1.0), x), expected)


def test_the_gradient_flows_where_nothing_is_dropped():
    x, upstream = np.random.default_rng(2).standard_normal((2, 3, 5, 7, 4)).astype("float32")
    layer = MaxDrop(0.5, data_format="channels_last", seed=1)
    y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
    assert 0 < (y == 0).sum() < 12
    np.testing.assert_array_equal(gradient, np.where(y == 0, 0, upstream))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="sizes are known on the other backends")
@pytest.mark.parametrize("across", ["feature_map", "channels"])
def test_maps_of_unknown_size(across):
    import tensorflow as tf

    layer, twin = (MaxDrop(0.5, across, "channels_last", seed=2) for _ in range(2))
    call = tf.function(lambda x: layer(x, training=True), [tf.TensorSpec((None, None, None, 3))])
    for shape in [(2, 7, 8, 3), (3, 4, 9, 3)]:
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        np.testing.assert_array_equal(to_numpy(call(x)), train(twin, x))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`across` must be 'feature_map' or 'channels'\. Received: across='space'"):
        MaxDrop(0.5, "space")
    with pytest.raises(ValueError, match="min_ndim=3"):
        MaxDrop(0.5)(np.ones((2, 3)))
