"""ConditionDropout of labels and of embeddings, against the oracle's masks."""

import numpy as np
import oracle
import pytest
from backend import train
from keras import ops

from keras_dropouts import ConditionDropout


def test_labels_become_the_null_class():
    labels, layer = np.random.default_rng(0).integers(0, 10, 2000), ConditionDropout(0.2, null=10, seed=3)
    for call in range(2):
        y = ops.convert_to_numpy(layer(labels, training=True))
        np.testing.assert_array_equal(y, np.where(oracle.keep_mask(3, call, (2000,), 0.2), labels, 10))
    # Large ones are not rounded.
    large = np.full((50, 2), 2**24 + 1, "int32")
    assert set(np.ravel(ops.convert_to_numpy(layer(large, training=True))).tolist()) == {10, 2**24 + 1}
    assert ops.convert_to_numpy(ConditionDropout(1.0, null=2**24 + 1)(labels[:1], training=True)) == 2**24 + 1


def test_an_embedding_goes_as_a_whole():
    x, layer = np.random.default_rng(0).standard_normal((40, 3, 5)).astype("float32"), ConditionDropout(0.5, -1.5, 2)
    y = train(layer, x)
    np.testing.assert_array_equal(y, np.where(oracle.keep_mask(2, 0, (40, 1, 1), 0.5), x, -1.5))
    assert layer.null == layer.get_config()["null"] == -1.5


def test_a_bad_null_is_refused():
    for null in (np.nan, "0", None, True):
        with pytest.raises(ValueError, match=r"`null` must be a finite number\. Received: null="):
            ConditionDropout(0.1, null)
    with pytest.raises(ValueError, match=r"`null` must be an integer where the inputs are\. Received: null=0.5"):
        ConditionDropout(0.1, 0.5)(np.arange(4), training=True)
    for null in (-1, 256):
        with pytest.raises(ValueError, match=rf"`null` must be in \[0, 255\] for .* uint8\. Received: null={null}"):
            ConditionDropout(0.1, null)(ops.convert_to_tensor(np.arange(4, dtype="uint8")), training=True)
