"""EmbeddingNoise: its bits, its size, and what a mask does to both."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train
from keras import ops

from keras_dropouts import EmbeddingNoise


def noise_of(seed, call, shape):
    return (oracle.draws(seed, call, shape) + 0.5) / 32768


def test_the_oracle_adds_the_same():
    x, layer = np.random.default_rng(0).standard_normal((4, 6, 5)).astype("float32"), EmbeddingNoise(3, seed=2)
    for call in range(2):
        expected = x + 3 / np.sqrt(30) * noise_of(2, call, x.shape)
        np.testing.assert_allclose(train(layer, x), expected, rtol=1e-5, atol=1e-6)
    assert (to_numpy(layer(x)) == x).all()


@pytest.mark.parametrize("shape", [(2000, 4, 8), (2000, 16, 8)])
def test_the_norm_is_the_papers_whatever_the_length(shape):
    y = train(EmbeddingNoise(5, seed=1), np.zeros(shape, "float32")).astype("float64")
    assert abs(y).max() <= 5 / np.sqrt(shape[1] * shape[2])
    norms = (y**2).sum((1, 2))
    # Of n squares of uniform numbers, each of the mean 1/3 and the variance 4/45.
    deviation = 25 * np.sqrt(4 / 45 / (shape[1] * shape[2]))
    assert abs(norms.mean() - 25 / 3) < 4.5 * deviation / np.sqrt(len(y))


def test_a_mask_says_how_long_a_sequence_is():
    lengths = np.array([6, 3, 1, 0])
    x = np.ones((4, 6, 5), "float32")
    x[np.arange(6) >= lengths[:, None]] = 0
    model = keras.Sequential([keras.layers.Masking(), EmbeddingNoise(2, seed=3)])
    y = to_numpy(model(ops.convert_to_tensor(x), training=True))
    for sample, length in enumerate(lengths):
        noise = noise_of(3, 0, x.shape)[sample, :length]
        np.testing.assert_allclose(y[sample, :length], 1 + noise * 2 / np.sqrt(max(5 * length, 1)), rtol=1e-5)
        assert (y[sample, length:] == 0).all()


def test_a_bad_alpha_is_refused():
    for alpha in (-1, np.nan, np.inf, True, "5", None):
        with pytest.raises(ValueError, match=r"`alpha` must be a finite number that is not negative.*Received: alpha="):
            EmbeddingNoise(alpha)
