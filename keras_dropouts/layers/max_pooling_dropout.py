from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Rate, Sizes
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.pooling_layer import PoolingLayer, places
from keras_dropouts.random.compilation import fused, hinted
from keras_dropouts.random.multiply import work_dtype

# Sorted pair by pair up to this size: XLA makes one loop of that, but takes minutes to compile it for large windows.
PAIRWISE = 32


class MaxPoolingDropout(PoolingLayer, RandomLayer):
    """What MaxPoolingDropout1D, 2D and 3D share.

    In training every element is dropped with probability `rate`, none is scaled, and a window gives the largest element
    that it keeps, or 0. At inference it gives the mean of that, without random numbers: the largest element of a window
    times `1 - rate`, plus the second times `rate * (1 - rate)`, plus the third times `rate**2 * (1 - rate)`, and so on
    (probabilistic weighted pooling).

    Args:
        rate: The probability of dropping an element of the input, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        pool_size: The {length|height and width|depth, height and width} of a window: a positive integer{
            |, or one for each axis}.
        strides: From each window to the next{| along each axis}: as `pool_size`, which it is unless given.
        padding: `"valid"`: no padding. `"same"`: windows may reach over the edge, where nothing is, so that with
            strides of 1 the output is as large as the input.
        data_format: `"channels_last"` for inputs of shape `(batch, *space, channels)`, `"channels_first"` for
            `(batch, channels, *space)`. `None`{, as for Keras's `MaxPooling1D`
            |}: `keras.config.image_data_format()`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank {3|4|5}, of a floating-point type.
        training: Whether to drop.

    Input shape:
        `(batch, *space, channels)`, or `(batch, channels, *space)` with channels first.

    Output shape:
        That of `keras.layers.MaxPooling{1|2|3}D`.

    Raises:
        ValueError: Where an argument is not as described, or the input is smaller than a window.

    Reference:
        Wu and Gu, "Towards Dropout Training for Convolutional Neural Networks", Neural Networks 71 (2015) 1-10,
        arXiv 1512.00242, section 3.

    The paper pools what a ReLU returns, where a dropped element counts as 0. Here it counts as absent: that is the same
    for inputs that are not negative, and makes inference the mean of training for all others.

    The backward pass draws again: beside the input nothing is kept for it. Inference sorts each window: by comparing
    pairs of its places, which XLA makes one loop of, about as fast as max pooling; for windows of more than 32 elements
    by the backend's own sort, which is many times slower.
    """

    def __init__(
        self,
        rate: Rate,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Literal["valid", "same"] = "valid",
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, strides, padding, data_format, rate=rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        return super().call(self._checked(inputs), training=training)

    def training_call(self, inputs, key, rate):
        return random.rematerialized(self._drop_and_pool, inputs, key, rate)

    def _drop_and_pool(self, inputs, key, rate):
        kept = _kept(inputs, random.keep_mask(key, ops.shape(inputs), rate))
        if self.dimensions == 3:
            # TensorFlow has no kernel for float16 here.
            kept = ops.cast(kept, work_dtype(inputs))
        return ops.cast(_or_0(self._max_pool(kept)), inputs.dtype)

    def inference_call(self, inputs):
        keep = random.keep_probability(self._next_rate())
        # No infinities: in ONNX a selection may be a product with 0 and 1.
        padded = inputs if self.padding == "valid" else ops.maximum(self._padded(inputs, -np.inf), _lowest(inputs))
        return _weighted(padded, keep, self._space[0], self._windows())


@fused
def _kept(inputs, keep):
    return ops.where(keep, inputs, ops.cast(-np.inf, inputs.dtype))


def _or_0(x):
    """Returns 0 where nothing is."""
    # TensorFlow takes the maximum from the lowest finite number on.
    return ops.where(x <= _lowest(x), ops.zeros_like(x), x)


def _lowest(x):
    """The lowest finite number of the type of x."""
    return ops.nan_to_num(ops.cast(-np.inf, x.dtype))


@hinted
def _weighted(inputs, keep, first, windows):
    """Returns the mean of the largest kept element of each window.

    Args:
        inputs: The tensor to pool, with padding of its type's lowest number.
        keep: The probability of keeping an element.
        first: The first axis of space.
        windows: The size of a window and the stride to the next, for each axis of space.
    """
    keep = ops.cast(keep, work_dtype(inputs))
    mean = 0.0
    for x in _ascending(places(inputs, first, windows)):
        mean = keep * ops.cast(_or_0(x), keep.dtype) + (1 - keep) * mean
    return ops.cast(mean, inputs.dtype)


def _ascending(tensors):
    """Yields the smallest elements of the tensors, then the second smallest, and so on."""
    if len(tensors) > PAIRWISE:
        yield from ops.unstack(ops.sort(ops.stack(tensors), axis=0))
        return
    while tensors:
        smallest, *tensors = tensors
        for i, x in enumerate(tensors):
            smallest, tensors[i] = ops.minimum(smallest, x), ops.maximum(smallest, x)
        yield smallest


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MaxPoolingDropout1D(MaxPoolingDropout):
    """Pools sequences by the maximum, of the elements that dropout leaves while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import MaxPoolingDropout1D
    >>> layer = MaxPoolingDropout1D(0.5, data_format="channels_last", seed=2)
    >>> x = np.arange(8, dtype="float32").reshape(1, 8, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [0.0, 3.0, 4.0, 7.0]
    >>> np.array(layer(x)).ravel().tolist()
    [0.5, 2.0, 3.5, 5.0]
    """

    dimensions = 1


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MaxPoolingDropout2D(MaxPoolingDropout):
    """Pools images by the maximum, of the elements that dropout leaves while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import MaxPoolingDropout2D
    >>> layer = MaxPoolingDropout2D(0.5, data_format="channels_last", seed=2)
    >>> x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [5.0, 6.0, 13.0, 15.0]
    >>> np.array(layer(x)).ravel().tolist()
    [3.625, 5.5, 11.125, 13.0]
    """

    dimensions = 2


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MaxPoolingDropout3D(MaxPoolingDropout):
    """Pools volumes or videos by the maximum, of the elements that dropout leaves while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import MaxPoolingDropout3D
    >>> layer = MaxPoolingDropout3D(0.5, data_format="channels_last", seed=2)
    >>> x = np.arange(16, dtype="float32").reshape(1, 2, 4, 2, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [11.0, 15.0]
    >>> np.array(layer(x)).ravel().tolist()
    [9.7578125, 13.7421875]
    """

    dimensions = 3
