"""VariationalRNNDropout against a loop in NumPy, and what its masks leave alone."""

import numpy as np
import pytest
from recurrent_oracle import ALL, FEATURES, LSTM, SEED, UNITS, agrees, keep_masks

from keras_dropouts import VariationalRNNDropout


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_one_mask_of_a_sequence_drops_what_each_timestep_reads(make):
    wrapper = VariationalRNNDropout(make(), 0.25, seed=SEED)
    inputs, outputs = keep_masks((0.25, 0.25), (FEATURES, UNITS))
    assert 0 < inputs.mean() < 1 and 0 < outputs.mean() < 1
    agrees(wrapper, inputs=inputs / 0.75, read=outputs / 0.75)


def test_the_input_may_have_a_rate_of_its_own():
    wrapper = VariationalRNNDropout(LSTM(), rate=0.25, input_rate=0.5, seed=SEED)
    inputs, outputs = keep_masks((0.5, 0.25), (FEATURES, UNITS))
    agrees(wrapper, inputs=inputs / 0.5, read=outputs / 0.75)
    wrapper = VariationalRNNDropout(LSTM(), rate=1, input_rate=0, seed=SEED)
    agrees(wrapper, read=0)
    with pytest.raises(AttributeError):
        wrapper.input_rate = 0.3


@pytest.mark.parametrize("rate", [-0.1, 1.5, np.nan, True, "0.5"], ids=repr)
def test_a_bad_input_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"(?s)`input_rate` must be.*\[0, 1\].*Received: input_rate="):
        VariationalRNNDropout(LSTM(), 0.5, input_rate=rate)
