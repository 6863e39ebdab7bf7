from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Rate, checked_count, checked_data_format
from keras_dropouts.layers.base import RandomLayer


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Cutout(RandomLayer):
    """Sets a square of each image to zero while training, in all channels.

    Its centre may be any pixel, so that it hangs over the edge now and then and cuts less: 19 % of an image of 32 x 32
    on average for a side of 16. Nothing is scaled, and inference is the identity.

    It is a layer of the model, for images as they enter the network: floats, after their normalization, so that 0 is
    their mean. For integers, and in a `tf.data` pipeline for JAX or PyTorch, take `keras.layers.RandomErasing`.

    Args:
        length: The side of the square in pixels, a positive integer. The paper's is 16 for CIFAR-10, 8 for CIFAR-100
            and 20 for SVHN.
        rate: The probability that an image is cut, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. 1, the default, is the paper's.
        data_format: `"channels_last"` for inputs of shape `(batch, height, width, channels)`, `"channels_first"` for
            `(batch, channels, height, width)`. `None`: `keras.config.image_data_format()`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 4, of a floating-point type.
        training: Whether to cut.

    Input shape:
        `(batch, height, width, channels)`, or `(batch, channels, height, width)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", arXiv 1708.04552,
        section 3.

    The square covers `length // 2` pixels before its centre in each direction, and from there as many as make up its
    side; the authors' code makes that of an odd length one pixel shorter.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import Cutout
    >>> layer = Cutout(3, data_format="channels_last", seed=1)
    >>> y = np.array(layer(np.ones((1, 5, 8, 3), "float32"), training=True))
    >>> print(y[0, :, :, 0].astype(int))
    [[1 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 1]
     [1 1 1 1 1 0 0 0]
     [1 1 1 1 1 0 0 0]]
    """

    def __init__(
        self, length: int, rate: Rate = 1.0, data_format: DataFormat = None, seed: int | None = None, **kwargs: Any
    ):
        super().__init__(rate, seed=seed, **kwargs)
        self.length = checked_count("length", length)
        self.data_format = checked_data_format(data_format)
        self.input_spec = keras.InputSpec(ndim=4)

    def keep_mask(self, inputs, key, rate):
        shape = ops.shape(inputs)
        height = 2 if self.data_format == "channels_first" else 1
        # Evenly spaced in (0, 1): whether to cut, and where along each axis.
        draws = ops.reshape(random.uniform(key, (shape[0], 3)), (-1, 3, 1, 1, 1))
        cut = draws[:, 0] < rate
        for i, axis in ((1, height), (2, height + 1)):
            places = ops.reshape(ops.arange(shape[axis]), [-1 if j == axis else 1 for j in range(4)])
            centre = ops.cast(ops.floor(draws[:, i] * ops.cast(shape[axis], "float32")), places.dtype)
            distance = places - centre + self.length // 2
            cut = ops.logical_and(cut, ops.logical_and(distance >= 0, distance < self.length))
        return ops.logical_not(cut), 1.0

    def get_config(self):
        return {**super().get_config(), "length": self.length, "data_format": self.data_format}
