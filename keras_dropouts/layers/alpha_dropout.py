from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_noise_shape
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.dropout import fitted
from keras_dropouts.random.backend import rounded, xp
from keras_dropouts.random.compilation import fused
from keras_dropouts.random.multiply import affine_where, multiply_where
from keras_dropouts.random.rematerialize import rematerialized_product

# What SELU tends to far below 0 is the negative of this: scale times alpha.
SATURATION = 1.0507009873554805 * 1.6732632423543772


@keras.saving.register_keras_serializable(package="keras_dropouts")
class AlphaDropout(RandomLayer, keras.layers.AlphaDropout):
    """Sets elements to SELU's least value at random while training, and keeps the mean and the variance.

    For networks of SELU units, whose activations have mean 0 and variance 1 by themselves, which zeros would disturb:
    for that least value, `s = -1.758`, an element `x` becomes `a * x + b` where it is kept and `a * s + b` where it is
    dropped. With the probability `q` of keeping, the scale is `a = 1 / sqrt(q * (1 + (1 - q) * s**2))` and the shift
    `b = -a * (1 - q) * s`. At a rate of 1 all is 0, to which `a * s + b` tends as the rate rises. Inference is the
    identity.

    Args:
        rate: The probability of dropping: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        noise_shape: The shape of the mask, as for `keras_dropouts.Dropout`. A subclass may override
            `_get_noise_shape(inputs)` instead.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of any rank.
        training: Whether to drop.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described, or the noise shape does not fit the input.

    Reference:
        Klambauer et al., "Self-Normalizing Neural Networks", NIPS 2017, arXiv 1706.02515: alpha dropout.

    Read was the authors' program (`bioinf-jku/SNNs`), of which this is the default: the mean 0 and the variance 1 are
    kept, of inputs that have these, as SELU gives them behind kernels of `"lecun_normal"`. The program refuses a rate
    of 1. Scale and shift are computed in float32 from the probability that the mask has, in every dtype policy, and
    each element is rounded once.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import AlphaDropout
    >>> x = np.random.default_rng(0).standard_normal((1000, 100)).astype("float32")
    >>> y = np.array(AlphaDropout(0.1, seed=1)(x, training=True))
    >>> bool(abs(y.mean()) < 0.01), bool(abs(y.std() - 1) < 0.01)
    (True, True)
    """

    def __init__(
        self,
        rate: Rate,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(rate, seed=seed, **kwargs)
        self.noise_shape = checked_noise_shape(noise_shape)

    def _get_noise_shape(self, inputs):
        """Returns the mask's shape for `inputs`: a size, 1 or `None` (the input's size) for each axis."""
        return self.noise_shape

    def training_call(self, inputs, key, rate):
        return rematerialized_product(self.multiply, inputs, key, rate, self._drop)

    def multiply(self, inputs, key, rate):
        """Returns what depends on the inputs: `a * x` where `x` is kept, else 0."""
        return _scale(inputs, key, rate, self._tied_mask(inputs, key, rate))

    def _drop(self, inputs, key, rate):
        return _drop(inputs, key, rate, self._tied_mask(inputs, key, rate))

    def _tied_mask(self, inputs, key, rate):
        """Returns the mask of the noise shape. Without one it is `None`, to be drawn where it is used."""
        noise_shape = self._get_noise_shape(inputs)
        return None if noise_shape is None else random.keep_mask(key, fitted(noise_shape, inputs), rate)

    def get_config(self):
        return {**super().get_config(), "noise_shape": self.noise_shape}


@fused
def _scale(inputs, key, rate, keep):
    keep = random.keep_mask(key, ops.shape(inputs), rate) if keep is None else keep
    return multiply_where(keep, _slope(rate), inputs)


@fused
def _drop(inputs, key, rate, keep):
    keep = random.keep_mask(key, ops.shape(inputs), rate) if keep is None else keep
    slope = _slope(rate)
    # At a rate of 1 they cancel out.
    dropped, shift = slope * -SATURATION, slope * (SATURATION * (1 - random.keep_probability(rate)))
    return affine_where(keep, slope, inputs, dropped, shift)


def _slope(rate):
    # For a rate of 1 it is finite. Rounded, or else XLA would put another division in the place of two.
    scale, dropped = rounded(random.keep_scale(rate)), 1 - random.keep_probability(rate)
    return xp.sqrt(scale / (1 + rounded(SATURATION**2 * dropped)))
