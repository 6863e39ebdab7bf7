from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_choice, checked_inputs, checked_noise_shape
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.multiply import drop, drop_together, multiply


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Dropout(RandomLayer, keras.layers.Dropout):
    """Sets elements of its input to zero at random while training, and scales up the rest.

    The real `keras.layers.Dropout`, subclassed: exact in its rate in every dtype, the same mask on every backend,
    with its random state saved along with the model. A subclass that overrides `_get_noise_shape(inputs)` ties the
    mask along the axes where the returned shape is 1.

    Args:
        rate: The probability of dropping: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        noise_shape: The shape of the mask, that is broadcast to the input: a sequence of one entry per axis, each 1
            (one draw for the whole axis), the axis's size, or `None` for that size. For inputs of shape
            `(batch, timesteps, features)`, `(None, 1, None)` drops a feature in all timesteps. `None`, the default,
            draws for every element.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        scaling: `"training"` (the default): kept elements are divided by the probability of keeping, and inference
            is the identity. `"inference"`: the paper's own; training only drops, and inference multiplies by the
            probability of keeping.
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
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 15 (2014)
        1929-1958, section 4; Hinton et al., arXiv 1207.0580.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import Dropout
    >>> layer = Dropout(0.5, seed=1)
    >>> y = layer(np.ones((2, 6), "float32"), training=True)
    >>> sorted(set(np.ravel(y).tolist()))
    [0.0, 2.0]
    """

    def __init__(
        self,
        rate: Rate,
        noise_shape: Sequence[int | None] | None = None,
        seed: int | None = None,
        *,
        scaling: Literal["training", "inference"] = "training",
        **kwargs: Any,
    ):
        super().__init__(rate, seed=seed, **kwargs)
        self.noise_shape = checked_noise_shape(noise_shape)
        self.scaling = checked_choice("scaling", scaling, "training", "inference")

    def _get_noise_shape(self, inputs):
        """Returns the mask's shape for `inputs`: a size, 1 or `None` (the input's size) for each axis."""
        return self.noise_shape

    def multiply(self, inputs, key, rate):
        noise_shape, rescale = self._get_noise_shape(inputs), self.scaling == "training"
        if noise_shape is None:
            return drop(inputs, key, rate, rescale)
        return drop_together(inputs, key, rate, rescale, fitted(noise_shape, inputs))

    def inference_call(self, inputs):
        if self.scaling == "training":
            return inputs
        return multiply(checked_inputs(self, inputs), random.keep_probability(self._next_rate()))

    def get_config(self):
        return {**super().get_config(), "noise_shape": self.noise_shape, "scaling": self.scaling}


def fitted(noise_shape, inputs):
    """Returns the noise shape with the input's sizes in place of `None`."""
    shape = ops.shape(inputs)
    entries = tuple(noise_shape)
    if len(entries) == len(shape):
        entries = tuple(size if n is None else n for n, size in zip(entries, shape, strict=True))
        known = [pair for pair in zip(entries, shape, strict=True) if all(isinstance(n, int) for n in pair)]
        if all(n in (1, size) for n, size in known):
            return entries
    raise ValueError(
        f"The noise shape must have one entry for each axis of the inputs: 1, None or the axis's size. "
        f"Received: noise_shape={noise_shape!r} for inputs of shape {tuple(inputs.shape)}"
    )
