"""Zoneout against a loop in NumPy, and its mean."""

import numpy as np
import pytest
from backend import to_numpy
from recurrent_oracle import ALL, LSTM, SAMPLES, SEED, TIMESTEPS, UNITS, X, agrees, keep_masks

from keras_dropouts import Zoneout


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_each_timestep_keeps_some_of_the_states_and_inference_takes_the_mean(make):
    wrapper = Zoneout(make(), 0.25, seed=SEED)
    states = 2 if make is LSTM else 1
    kept = [~new for new in keep_masks((0.25,) * states, (UNITS,) * states, TIMESTEPS)]
    assert (kept[0][:, 0] != kept[0][:, 1]).any()
    agrees(wrapper, kept=kept)
    agrees(wrapper, training=False, kept=[0.25] * states)


def test_the_cell_state_may_have_a_rate_of_its_own():
    wrapper = Zoneout(LSTM(), rate=0.25, cell_rate=0.5, seed=SEED)
    agrees(wrapper, kept=[~new for new in keep_masks((0.25, 0.5), (UNITS, UNITS), TIMESTEPS)])
    agrees(wrapper, training=False, kept=[0.25, 0.5])
    with pytest.raises(AttributeError):
        wrapper.cell_rate = 0.3
    with pytest.raises(ValueError, match=r"(?s)`cell_rate` must be.*\[0, 1\].*Received: cell_rate="):
        Zoneout(LSTM(), 0.5, cell_rate=1.5)


def test_the_mean_of_a_timestep_is_that_at_inference():
    wrapper = Zoneout(LSTM(), rate=0.25, cell_rate=0.5, seed=SEED)
    x = np.repeat(X[:1, :1], 20_000, 0)
    states = [np.full((len(x), UNITS), 0.5, "float32"), np.full((len(x), UNITS), -0.5, "float32")]
    drawn, expected = (wrapper(x, initial_state=states, training=training)[1:] for training in (True, False))
    for one, other in zip(drawn, expected, strict=True):
        one, other = to_numpy(one).astype("float64"), to_numpy(other)[0]
        assert (one.std(0) > 0).all()
        assert (abs(one.mean(0) - other) < 4.5 * one.std(0) / np.sqrt(len(x))).all()


def test_a_rate_of_1_keeps_all():
    states = [np.full((SAMPLES, UNITS), value, "float32") for value in (0.5, -0.5)]
    outputs, *last = Zoneout(LSTM(), 1)(X, initial_state=states, training=True)
    assert (to_numpy(outputs) == 0.5).all()
    assert all((to_numpy(one) == other).all() for one, other in zip(last, states, strict=True))
