import math
from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Rate, checked_choice
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.channels_layer import ChannelsLayer
from keras_dropouts.random.backend import BACKEND
from keras_dropouts.random.compilation import fused


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MaxDrop(ChannelsLayer, RandomLayer):
    """Drops the largest element of each feature map, or of the channels at each position, at random while training.

    For convolutional features: the strongest response is what a filter is about, and the layers behind must do without
    it. One element goes, the first where several are the largest; nothing is scaled, and inference is the identity.

    Args:
        rate: The probability of dropping a largest element, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        across: Among which elements the largest is looked for. `"feature_map"` (the default): among all positions of
            a channel. `"channels"`: among all channels of a position.
        data_format: `"channels_last"` for inputs of shape `(batch, ..., channels)`, `"channels_first"` for
            `(batch, channels, ...)`. `None`: `keras.config.image_data_format()`, but the last for sequences, of rank 3.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of rank 3 or more: features of a sequence, an image or a volume.
        training: Whether to drop.

    Input shape:
        `(batch, ..., channels)`, or `(batch, channels, ...)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Park and Kwak, "Analysis on the Dropout Effect in Convolutional Neural Networks", ACCV 2016, LNCS 10112:189-204:
        max-drop, feature-wise and channel-wise, by the authors' program (`sungheonpark/Max-drop`), without its scale.

    Read were that program, for Caffe, and the paper's abstract. The program drops as here, the first of the largest, at
    a rate of 0.1 by default, and changes nothing at inference. It differs in three points. In training it multiplies
    all it returns by `1 / (1 - rate / positions)` if it looks across feature maps; the scale for channels comes out as
    1 there, by a division of integers. It looks for the largest above zero, and where there is none it drops the first
    element, which is zero already behind a ReLU. And it can drop a window around the largest. Nor is this MaxDropout
    (arXiv 2007.13723), which drops what is above a threshold.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import MaxDrop
    >>> x = np.array([[[1, 9], [5, 2], [3, 4]]], "float32")  # three positions, two channels
    >>> np.array(MaxDrop(1.0)(x, training=True)).tolist()
    [[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]]
    >>> np.array(MaxDrop(1.0, "channels")(x, training=True)).tolist()
    [[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]]
    """

    def __init__(
        self,
        rate: Rate,
        across: Literal["feature_map", "channels"] = "feature_map",
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(data_format, rate=rate, seed=seed, **kwargs)
        self.across = checked_choice("across", across, "feature_map", "channels")
        self.input_spec = keras.InputSpec(min_ndim=3)

    def training_call(self, inputs, key, rate):
        if 0 in tuple(inputs.shape):
            # Nothing is the largest.
            return inputs
        return random.rematerialized(self._drop, inputs, key, rate)

    def _drop(self, inputs, key, rate):
        shape = tuple(ops.shape(inputs))
        channels = self._channels_of(shape)
        if self.across == "channels":
            begin, end = channels, channels + 1
        else:
            begin, end = (2, len(shape)) if channels == 1 else (1, len(shape) - 1)
        # The axes to look across as one.
        flat = (*shape[:begin], math.prod(shape[begin:end]), *shape[end:])
        keep = random.keep_mask(key, (*shape[:begin], 1, *shape[end:]), rate)
        inputs = ops.reshape(inputs, flat)
        kept = _kept(ops.stop_gradient(inputs), keep, begin)
        return ops.reshape(random.multiply_where(kept, 1.0, inputs), shape)

    def get_config(self):
        return {**super().get_config(), "across": self.across}


@fused
def _kept(inputs, keep, axis):
    """Returns where the inputs are not the first of the largest along an axis, or that is to be kept."""
    size = ops.shape(inputs)[axis]
    places = ops.reshape(ops.arange(size, dtype="int32"), (-1,) + (1,) * (len(inputs.shape) - axis - 1))
    if BACKEND == "torch":
        first = ops.cast(ops.argmax(inputs, axis, keepdims=True), "int32")
    else:
        # XLA's own search for the place takes several times as long. The largest is NaN where there is one.
        largest = ops.logical_or(ops.equal(inputs, ops.max(inputs, axis, keepdims=True)), ops.isnan(inputs))
        first = ops.min(ops.where(largest, places, size), axis, keepdims=True)
    return ops.logical_or(keep, ops.not_equal(places, first))
