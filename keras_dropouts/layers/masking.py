from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_count, checked_fraction, checked_inputs
from keras_dropouts.layers.filling_layer import FillingLayer
from keras_dropouts.layers.shares import whole_part
from keras_dropouts.random.choice import integers


class BandMasking(FillingLayer):
    """What TimeMasking and FrequencyMasking share: bands of an axis.

    Args:
        max_width, rate, count, proportion, fill, seed, **kwargs: As for `TimeMasking`.
    """

    axis: int

    def __init__(
        self,
        max_width: int,
        rate: Rate = 1.0,
        count: int = 1,
        proportion: float = 1.0,
        fill: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(rate, "fill", fill, seed, **kwargs)
        self.max_width = checked_count("max_width", max_width)
        self.count = checked_count("count", count)
        self.proportion = checked_fraction("proportion", proportion)
        self.input_spec = keras.InputSpec(min_ndim=3, max_ndim=4)

    @property
    def fill(self) -> float:
        """What is put in the place of what is dropped."""
        return self._fill

    def keep_mask(self, inputs, key, rate, mask=None):
        shape, axis = ops.shape(inputs), self.axis
        if mask is None:
            places, length = ops.arange(shape[axis], dtype="int32")[None], shape[axis]
        else:
            # Bands are of places that are valid, wherever those are.
            valid = ops.cast(mask, "int32")
            places, length = ops.where(mask, ops.cumsum(valid, axis=1) - 1, -1), ops.sum(valid, axis=1, keepdims=True)
        bands = (shape[0], self.count)
        drawn = random.uniform(key, bands) < rate
        largest = ops.minimum(whole_part(self.proportion, length), self.max_width)
        width = integers(random.fold_in(key, 1), bands, largest + 1)
        begin = integers(random.fold_in(key, 2), bands, length - width + 1)
        begin, end = begin[:, :, None], ops.where(drawn, begin + width, 0)[:, :, None]
        within = ops.logical_and(places[:, None] >= begin, places[:, None] < end)
        keep = ops.logical_not(ops.any(within, axis=1))
        return ops.reshape(keep, [n if i in (0, axis) else 1 for i, n in enumerate(shape)]), 1.0

    def get_config(self):
        config = {"max_width": self.max_width, "count": self.count, "proportion": self.proportion}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_dropouts")
class TimeMasking(BandMasking):
    """Sets bands of timesteps of a spectrogram or of another sequence to a number while training.

    For features of audio as they enter the network, after their normalization, so that 0 is their mean. Each sample
    has bands of its own. A band's width is any from 0 to the largest, its place any where it fits, all equally likely;
    bands may overlap. Nothing is scaled, and inference is the identity.

    With a Keras mask a band lies within the timesteps that are valid, and never in the padding.

    Args:
        max_width: The largest width of a band in timesteps, a positive integer: SpecAugment's `T`, there 40 to 100.
        rate: The probability of each band, a number in `[0, 1]` or a schedule, as for `keras_dropouts.Dropout`. 1, the
            default, is the paper's.
        count: How many bands a sample has, a positive integer.
        proportion: The largest part of a sample's timesteps that one band may take, a number in `[0, 1]`: SpecAugment's
            `p`, for clips that a band could hide altogether.
        fill: The number to put there.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 3 or 4, of a floating-point type.
        training: Whether to mask.
        mask: `None`, or a boolean for each timestep of each sample, which Keras gives by itself.

    Input shape:
        `(batch, timesteps, frequencies)`, or with an axis of channels at the end.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech
        2019, arXiv 1904.08779, section 2.

    Read was torchaudio's `TimeMasking`. There a width is less than the largest one, never as much, and unless told
    otherwise all samples of a batch have the same bands.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import TimeMasking
    >>> y = TimeMasking(4, seed=1)(np.ones((3, 12, 2), "float32"), training=True)
    >>> print(np.array(y)[:, :, 0].astype(int))
    [[1 1 1 1 1 1 1 1 1 1 1 1]
     [1 0 0 0 0 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 0 0 0 0 1]]
    """

    axis = 1

    def call(self, inputs, training=False, mask=None):
        if mask is None or not self._trains(training):
            return super().call(inputs, training=training)
        return random.rematerialized(self.filled, checked_inputs(self, inputs), *self._next_draw(), mask)


@keras.saving.register_keras_serializable(package="keras_dropouts")
class FrequencyMasking(BandMasking):
    """Sets bands of frequencies of a spectrogram to a number while training.

    As `keras_dropouts.TimeMasking`, but for the axis: each sample has bands of its own, of any width from 0 to the
    largest and in any place. Nothing is scaled, and inference is the identity.

    Args:
        max_width: The largest width of a band in frequencies, a positive integer: SpecAugment's `F`, there 15 to 30.
        rate, count, seed: As for `keras_dropouts.TimeMasking`.
        proportion: The largest part of all frequencies that one band may take, a number in `[0, 1]`.
        fill: The number to put there.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 3 or 4, of a floating-point type.
        training: Whether to mask.

    Input shape:
        `(batch, timesteps, frequencies)`, or with an axis of channels at the end.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition", Interspeech
        2019, arXiv 1904.08779, section 2.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import FrequencyMasking
    >>> y = FrequencyMasking(4, seed=1)(np.ones((3, 2, 12), "float32"), training=True)
    >>> print(np.array(y)[:, 0].astype(int))
    [[1 1 1 1 1 1 1 1 1 1 1 1]
     [1 0 0 0 0 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 0 0 0 0 1]]
    """

    axis = 2
