from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Sizes
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.pooling_layer import PoolingLayer, places
from keras_dropouts.random.compilation import hinted
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import work_dtype


class StochasticPooling(PoolingLayer, SeededLayer):
    """What StochasticPooling1D, 2D and 3D share.

    In training a window gives one of its elements, each with a probability in proportion to its value, and 0 where all
    are 0. At inference it gives their mean with those probabilities for weights. Nothing is scaled, and there is no
    rate. Put it behind a ReLU: negative elements count as 0.

    Args:
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
        training: Whether to draw.

    Input shape:
        `(batch, *space, channels)`, or `(batch, channels, *space)` with channels first.

    Output shape:
        That of `keras.layers.MaxPooling{1|2|3}D`.

    Raises:
        ValueError: Where an argument is not as described, or the input is smaller than a window.

    Reference:
        Zeiler and Fergus, "Stochastic Pooling for Regularization of Deep Convolutional Neural Networks", ICLR 2013,
        arXiv 1301.3557.

    Read was another's program (`szagoruyko/imagine-nn`, as in Caffe), which draws one number for each window, too. The
    gradient goes to the chosen element alone. The backward pass chooses again: beside the input nothing is kept for it.
    """

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Literal["valid", "same"] = "valid",
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(pool_size, strides, padding, data_format, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        inputs = self._checked(inputs)
        if not self._trains(training):
            return _mean(self._padded(inputs, 0), self._space[0], self._windows())
        return random.rematerialized(self._choose, inputs, key_of(self._next_state()))

    def _choose(self, inputs, key):
        elements = _positive(self._padded(inputs, 0), self._space[0], self._windows())
        bounds = []
        for x in elements:
            bounds.append(ops.stop_gradient(x) + (bounds[-1] if bounds else 0))
        drawn = ops.cast(random.uniform(key, ops.shape(elements[0])), bounds[-1].dtype) * bounds[-1]
        # From the last on, so that what remains is the first whose bound is not below; NaN, where one element is that.
        chosen = drawn
        for x, bound in zip(elements[::-1], bounds[::-1], strict=True):
            chosen = ops.where(drawn <= bound, x, chosen)
        return ops.cast(chosen, inputs.dtype)


def _positive(inputs, first, windows):
    """Returns the elements in each place of the windows, of which the negative ones are 0."""
    return places(ops.relu(ops.cast(inputs, work_dtype(inputs))), first, windows)


@hinted
def _mean(inputs, first, windows):
    """Returns the mean of each window's elements, weighed by themselves."""
    elements = _positive(inputs, first, windows)
    total = sum(elements)
    weights = ops.where(total > 0, total, 1)
    return ops.cast(sum(x * (x / weights) for x in elements), inputs.dtype)


@keras.saving.register_keras_serializable(package="keras_dropouts")
class StochasticPooling1D(StochasticPooling):
    """Pools sequences by an element that is drawn from each window while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import StochasticPooling1D
    >>> layer = StochasticPooling1D(data_format="channels_last", seed=2)
    >>> x = np.arange(8, dtype="float32").reshape(1, 8, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [1.0, 3.0, 4.0, 7.0]
    >>> [round(y, 2) for y in np.array(layer(x)).ravel().tolist()]
    [1.0, 2.6, 4.56, 6.54]
    """

    dimensions = 1


@keras.saving.register_keras_serializable(package="keras_dropouts")
class StochasticPooling2D(StochasticPooling):
    """Pools images by an element that is drawn from each window while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import StochasticPooling2D
    >>> layer = StochasticPooling2D(data_format="channels_last", seed=2)
    >>> x = np.arange(16, dtype="float32").reshape(1, 4, 4, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [4.0, 7.0, 12.0, 14.0]
    >>> [round(y, 2) for y in np.array(layer(x)).ravel().tolist()]
    [4.2, 5.44, 10.9, 12.84]
    """

    dimensions = 2


@keras.saving.register_keras_serializable(package="keras_dropouts")
class StochasticPooling3D(StochasticPooling):
    """Pools volumes or videos by an element that is drawn from each window while training.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import StochasticPooling3D
    >>> layer = StochasticPooling3D(data_format="channels_last", seed=2)
    >>> x = np.arange(16, dtype="float32").reshape(1, 2, 4, 2, 1)
    >>> np.array(layer(x, training=True)).ravel().tolist()
    [8.0, 14.0]
    >>> [round(y, 2) for y in np.array(layer(x)).ravel().tolist()]
    [8.64, 11.32]
    """

    dimensions = 3
