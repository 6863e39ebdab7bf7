import keras

from keras_dropouts.layers.alpha_dropout import AlphaDropout
from keras_dropouts.layers.spatial_layer import FeatureMapLayer


class SpatialAlphaDropout(FeatureMapLayer, AlphaDropout):
    """What SpatialAlphaDropout1D, 2D and 3D share: one draw for each feature map.

    Alpha dropout for convolutions of SELU units: a dropped channel is the value that SELU saturates at in all its
    positions, and a scale and a shift keep the mean and the variance, as `keras_dropouts.AlphaDropout` does for single
    elements. Inference is the identity.

    Args:
        rate: The probability of dropping a feature map, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.AlphaDropout`.
        data_format: `"channels_last"` for inputs of shape `(batch, *space, channels)`, `"channels_first"` for
            `(batch, channels, *space)`. `None`: {`"channels_last"`
            |`keras.config.image_data_format()`}.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        name, dtype: As for `keras.layers.Layer`.
        **kwargs: As for `keras.layers.Layer`: `trainable`.

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
        Klambauer et al., "Self-Normalizing Neural Networks", NIPS 2017, arXiv 1706.02515, with one draw for each
        channel of a sample: PyTorch's feature alpha dropout.
    """


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialAlphaDropout1D(SpatialAlphaDropout):
    """Sets whole features of a sequence to SELU's least value while training, and keeps mean and variance.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialAlphaDropout1D
    >>> layer = SpatialAlphaDropout1D(0.5, seed=3)
    >>> y = np.array(layer(np.ones((1, 5, 4), "float32"), training=True))
    >>> np.ptp(y, axis=1).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 1


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialAlphaDropout2D(SpatialAlphaDropout):
    """Sets whole feature maps of an image to SELU's least value while training, and keeps mean and variance.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialAlphaDropout2D
    >>> layer = SpatialAlphaDropout2D(0.5, data_format="channels_last", seed=3)
    >>> y = np.array(layer(np.ones((1, 3, 5, 4), "float32"), training=True))
    >>> np.ptp(y, axis=(1, 2)).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 2


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SpatialAlphaDropout3D(SpatialAlphaDropout):
    """Sets whole feature maps of a volume to SELU's least value while training, and keeps mean and variance.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import SpatialAlphaDropout3D
    >>> layer = SpatialAlphaDropout3D(0.5, data_format="channels_last", seed=3)
    >>> y = np.array(layer(np.ones((1, 2, 3, 2, 4), "float32"), training=True))
    >>> np.ptp(y, axis=(1, 2, 3)).tolist()  # all positions of a channel are equal
    [[0.0, 0.0, 0.0, 0.0]]
    """

    dimensions = 3
