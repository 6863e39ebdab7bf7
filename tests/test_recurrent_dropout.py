"""RecurrentDropout against a loop in NumPy, and that no memory is lost."""

import keras
import numpy as np
import pytest
from backend import to_numpy
from recurrent_oracle import GATED, LSTM, SAMPLES, SEED, TIMESTEPS, UNITS, X, agrees, keep_masks, run

from keras_dropouts import RecurrentDropout


@pytest.mark.parametrize("make", GATED.values(), ids=GATED)
def test_each_timestep_drops_some_of_what_it_adds(make):
    (keep,) = keep_masks((0.25,), (UNITS,), TIMESTEPS)
    assert (keep[:, 0] != keep[:, 1]).any()
    agrees(RecurrentDropout(make(), 0.25, seed=SEED), update=keep / 0.75)


def test_what_is_remembered_stays_where_all_else_is_dropped():
    wrapper = RecurrentDropout(LSTM(), 1, seed=SEED)
    states = [np.full((SAMPLES, UNITS), 0.5, "float32")] * 2
    _, _, memory = wrapper(X, initial_state=states, training=True)
    memory = to_numpy(memory)
    np.testing.assert_allclose(memory, run(wrapper.layer, X, states=states, update=0)[1][1], atol=1e-6)
    assert (memory > 0).all()


def test_a_layer_without_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"(?s)`layer` must be a keras.layers.LSTM or GRU.*Received: layer="):
        RecurrentDropout(keras.layers.SimpleRNN(3), 0.5)
