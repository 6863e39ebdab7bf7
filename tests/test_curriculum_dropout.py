"""CurriculumDropout: the authors' rule, in compiled code and in files."""

import keras
import numpy as np
import pytest
from backend import compiled_calls, to_numpy

from keras_dropouts import CurriculumDropout, Dropout


def keep_probability(step, gamma, p):
    """The authors' rule for the probability of keeping a unit."""
    return (1.0 - p) * np.exp(-gamma * step) + p


def test_the_rate_is_the_authors():
    steps = np.array([0, 1, 7, 100, 1000, 5000, 10**7])
    schedule = CurriculumDropout(0.4, gamma=1e-3)
    rates = [float(to_numpy(schedule(int(step)))) for step in steps]
    assert rates[0] == 0
    np.testing.assert_allclose(rates, 1 - keep_probability(steps, 1e-3, 0.6), rtol=1e-6)


def test_a_layer_drops_more_and_more():
    # gamma = log(2): half of the way to the end at each step.
    layer = Dropout(CurriculumDropout(0.8, gamma=np.log(2)), seed=1)
    x = np.ones((1, 200_000), "float32")
    dropped = np.array([(y == 0).mean() for y in compiled_calls(layer, [x] * 4)])
    rates = 0.8 * (1 - 0.5 ** np.arange(4))
    assert (abs(dropped - rates) <= 4.5 * np.sqrt(rates * (1 - rates) / x.size)).all()


def test_a_saved_layer_has_its_schedule(tmp_path):
    model = keras.Sequential([keras.Input((3,)), Dropout(CurriculumDropout(0.5, gamma=0.1), name="it")])
    model(np.ones((2, 3)), training=True)
    model.save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").get_layer("it")
    assert layer.rate.get_config() == {"rate": 0.5, "gamma": 0.1}
    assert layer.current_rate() == pytest.approx(0.5 * (1 - np.exp(-0.1)), rel=1e-6)


@pytest.mark.parametrize(
    "arguments",
    [{"rate": rate} for rate in (-0.1, 1.5, np.nan, True, "0.5", None)]
    + [{"gamma": gamma} for gamma in (0, -1, np.nan, np.inf, True, "1", None)],
    ids=repr,
)
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be a.* number.*Received: {name}="):
        CurriculumDropout(**{"rate": 0.5, "gamma": 0.1, **arguments})
