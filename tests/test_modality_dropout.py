"""ModalityDropout: how often each input goes, together and alone."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy
from keras import ops

from keras_dropouts import ModalityDropout

SAMPLES = 40_000


def lost(layer, count, samples=SAMPLES):
    """For each sample which inputs it loses, as a tuple of booleans."""
    inputs = [np.ones((samples, *[2] * i), "float32") for i in range(count)]
    outputs = [to_numpy(x).reshape(samples, -1) for x in layer(inputs, training=True)]
    assert [x.shape for x in outputs] == [(samples, 2**i) for i in range(count)]
    assert all((x == x[:, :1]).all() for x in outputs)
    return np.stack([x[:, 0] == 0 for x in outputs], 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"rate": 0.3}, {(1, 0): 0.15, (0, 1): 0.15}),
        ({"rate": 1.0, "shares": [3, 1]}, {(1, 0): 0.75, (0, 1): 0.25}),
        # InstructPix2Pix's.
        ({"rate": 0.15, "all_share": 1}, {(1, 0): 0.05, (0, 1): 0.05, (1, 1): 0.05}),
        ({"rate": 0.6, "shares": (1, 0, 2), "all_share": 1}, {(1, 0, 0): 0.15, (0, 0, 1): 0.3, (1, 1, 1): 0.15}),
    ],
)
def test_the_joint_probabilities(arguments, expected):
    count = len(next(iter(expected)))
    drawn = lost(ModalityDropout(seed=1, **arguments), count)
    expected = {**expected, (0,) * count: 1 - arguments["rate"]}
    for which, share in expected.items():
        observed = (drawn == which).all(1).mean()
        assert abs(observed - share) <= 4.5 * np.sqrt(share * (1 - share) / SAMPLES)
    assert {tuple(row) for row in drawn.astype(int)} <= expected.keys()


def test_the_oracle_drops_the_same():
    layer = ModalityDropout(0.5, [1, 3], seed=4)
    for call in range(2):
        drawn = (oracle.draws(4, call, (50, 1))[:, 0] + 32768.5) / 65536
        expected = np.stack([drawn < 0.125, (drawn >= 0.125) & (drawn < 0.5)], 1)
        np.testing.assert_array_equal(lost(layer, 2, 50), expected)


def test_inference_and_masks():
    layer, x = ModalityDropout(1.0), [np.ones((2, 3, 1), "float32"), np.full((2, 3), 2, "float32")]
    for one, other in zip(layer(x), x, strict=True):
        np.testing.assert_array_equal(to_numpy(one), other)
    inputs = [keras.Input((3, 1)), keras.Input((3,))]
    masked = keras.layers.Masking()(inputs[0])
    model = keras.Model(inputs, keras.layers.LSTM(2)(layer([masked, inputs[1]])[0]))
    assert model(x, training=True).shape == (2, 2)
    mask = ops.ones((2, 3), "bool")
    assert layer.compute_mask(x, [mask, None]) == [mask, None]


def test_bad_arguments_are_refused():
    for name, bad in (("shares", []), ("shares", 1), ("shares", [1, -1]), ("all_share", -1)):
        with pytest.raises(ValueError, match=rf"`{name}` must be.*Received: {name}="):
            ModalityDropout(**{name: bad})
    with pytest.raises(ValueError, match="`shares` must not all be 0"):
        ModalityDropout(shares=[0, 0])
    x = np.ones((2, 3), "float32")
    for inputs in (x, [x], [x, x, x]):
        with pytest.raises(ValueError, match=r"`inputs` must be a list or tuple of 2 tensors\. Received: inputs="):
            ModalityDropout(0.5, [1, 1]).call(inputs)
