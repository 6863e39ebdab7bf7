"""RNNDrop against a loop in NumPy, and that its scale does not compound."""

import keras
import numpy as np
import pytest
from backend import to_numpy
from recurrent_oracle import GATED, SEED, UNITS, agrees, keep_masks

from keras_dropouts import RNNDrop


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
def test_one_mask_of_a_sequence_drops_the_memory(make):
    (keep,) = keep_masks((0.25,), (UNITS,))
    assert 0 < keep.mean() < 1
    agrees(RNNDrop(make(), 0.25, seed=SEED), update=1 / 0.75, memory=keep)


def test_the_mean_of_the_memory_is_that_at_inference_however_long_the_sequence():
    lstm = keras.layers.LSTM(2000, kernel_initializer="ones", recurrent_initializer="zeros", return_state=True)
    wrapper = RNNDrop(lstm, 0.2, seed=SEED)
    x = np.full((1, 50, 2), 1.0, "float32")
    _, _, memory = wrapper(x, training=True)
    _, _, expected = wrapper(x)
    expected = to_numpy(expected)[0, 0]
    kept = to_numpy(memory)[0] / expected
    np.testing.assert_allclose(np.unique(kept.round(4)), [0, 1.25])
    assert abs(kept.mean() - 1) < 4.5 * 0.5 / np.sqrt(2000)
    # Scaled at each timestep, it would be 5000 times as much.
    assert expected > 1


def test_a_layer_without_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"(?s)`layer` must be a keras.layers.LSTM or GRU.*Received: layer="):
        RNNDrop(keras.layers.SimpleRNN(3), 0.5)
