"""UniformDropout: the paper's variance shift, the edges of the noise, channels."""

import numpy as np
import pytest
from backend import multiplier, train

from keras_dropouts import UniformDropout


@pytest.mark.parametrize("beta", [0.1, 0.5, 1.0])
def test_the_variance_shift_is_the_papers(beta):
    # Inference over training, for inputs of mean 0 that the noise does not depend on.
    x = np.random.default_rng(0).standard_normal((100, 10_000))
    ratio = x.var() / train(UniformDropout(beta, seed=1), x.astype("float32")).astype("float64").var()
    # var(x**2 * r**2 + 2 * x**2 * r) per element, of which the mean is taken.
    spread = np.sqrt((3 * beta**4 / 5 + 4 * beta**2 - beta**4 / 9) / x.size) + 1e-4
    assert abs(1 / ratio - (1 + beta**2 / 3)) < 4.5 * spread
    assert abs(ratio - 3 / (3 + beta**2)) < 4.5 * spread


def test_the_noise_fills_its_range_evenly():
    m = multiplier(UniformDropout(0.5, seed=2), (40, 5000)).ravel()
    assert 0.5 < m.min() < 0.501
    assert 1.499 < m.max() < 1.5
    counts = np.histogram(m, bins=20, range=(0.5, 1.5))[0]
    expected = m.size / 20
    # Chi squared with 19 degrees of freedom exceeds 54 once in 30,000 times.
    assert ((counts - expected) ** 2 / expected).sum() < 54


@pytest.mark.parametrize("data_format, channel", [("channels_last", 3), ("channels_first", 1)])
def test_a_feature_map_has_one_draw(data_format, channel):
    shape = (4, 5, 3, 6)
    m = multiplier(UniformDropout(0.5, spatial=True, data_format=data_format, seed=3), shape)
    space = tuple({1, 2, 3} - {channel})
    assert (np.ptp(m, axis=space) == 0).all()
    assert len(np.unique(m)) == 4 * shape[channel]
    # With this seed: one pair in 65536 is equal by chance.
    assert len(np.unique(multiplier(UniformDropout(0.5, data_format=data_format, seed=1), shape))) == m.size


@pytest.mark.parametrize("arguments", [{"spatial": 1}, {"spatial": "yes"}, {"data_format": "NCHW"}], ids=repr)
def test_bad_arguments_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"(?s)`{name}` must be .*Received: {name}="):
        UniformDropout(0.5, **arguments)


def test_channels_need_an_axis():
    with pytest.raises(ValueError, match="ndim=2"):
        UniformDropout(0.5, spatial=True)(np.ones(5, "float32"))
