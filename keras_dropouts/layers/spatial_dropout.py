from typing import Any

import keras

from keras_dropouts.layers.arguments import DataFormat, Rate
from keras_dropouts.layers.dropout import Dropout
from keras_dropouts.layers.spatial_layer import FeatureMapLayer


class SpatialDropout(FeatureMapLayer, Dropout):
    """What SpatialDropout1D, 2D and 3D share: one draw for each feature map.

    For {sequences whose neighbouring steps
    |convolutional features, whose neighbouring positions} are alike, so that dropping single ones hides nothing. The
    channels that are kept are divided by the probability of keeping; inference is the identity.

    Args:
        rate: The probability of dropping a feature map, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        data_format: {By keyword alone. |}`"channels_last"` for inputs of shape `(batch, *space, channels)`,
            `"channels_first"` for `(batch, channels, *space)`. `None`: {`"channels_last"`
            |`keras.config.image_data_format()`}.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        name, dtype: As for `keras.layers.Layer`.
        **kwargs: `scaling` as for `keras_dropouts.Dropout`, and `trainable` as for any Keras layer.

    Call arguments:
        inputs: A tensor of rank {3|4|5}, of a floating-point type.
        training: Whether to drop.

    Input shape:
        `(batch, *space, channels)`, or `(batch, channels, *space)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Tompson et al., "Efficient Object Localization Using Convolutional Networks", CVPR 2015, arXiv 1411.4280,
        section 3.2.
    """


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialDropout1D(SpatialDropout):
    """Drops whole features of a sequence while training: all positions of a channel, or none.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialDropout1D
    >>> layer = SpatialDropout1D(0.5, seed=3)
    >>> y = np.array(layer(np.ones((1, 5, 4), "float32"), training=True))
    >>> np.ptp(y, axis=1).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 1

    def __init__(
        self,
        rate: Rate,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        *,
        data_format: DataFormat = None,
        **kwargs: Any,
    ):
        super().__init__(rate, data_format, seed, name, dtype, **kwargs)


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialDropout2D(SpatialDropout):
    """Drops whole feature maps of an image while training: all positions of a channel, or none.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialDropout2D
    >>> layer = SpatialDropout2D(0.5, data_format="channels_last", seed=3)
    >>> y = np.array(layer(np.ones((1, 3, 5, 4), "float32"), training=True))
    >>> np.ptp(y, axis=(1, 2)).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 2


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialDropout3D(SpatialDropout):
    """Drops whole feature maps of a volume or video while training: all positions of a channel, or none.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialDropout3D
    >>> layer = SpatialDropout3D(0.5, data_format="channels_last", seed=3)
    >>> y = np.array(layer(np.ones((1, 2, 3, 2, 4), "float32"), training=True))
    >>> np.ptp(y, axis=(1, 2, 3)).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 3
