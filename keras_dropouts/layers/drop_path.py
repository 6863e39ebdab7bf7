from typing import Any

import keras

from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropPath(Dropout):
    """Drops its whole input for some samples of a batch while training: the residual branch it stands on.

    `x + DropPath(rate)(branch(x))` leaves `x` alone in the samples that are dropped, and divides the branch by the
    probability of keeping in the others; inference is the identity. For one draw per batch and the
    scaling of the paper see `keras_dropouts.StochasticDepth`.

    Args:
        rate: The probability of dropping a sample's branch, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. Networks let it grow with the depth of the branch.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: `scaling` as for `keras_dropouts.Dropout`, and `name`, `dtype`, `trainable` as for any Keras layer.

    Call arguments:
        inputs: A tensor of a floating-point type, of any rank.
        training: Whether to drop.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382, with one draw for each
        sample. The name is from Larsson et al., "FractalNet", ICLR 2017, arXiv 1605.07648.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import DropPath
    >>> x = inputs = keras.Input((16,))
    >>> for rate in np.linspace(0, 0.2, 4):  # as in vision transformers, whose first block never drops
    ...     branch = keras.layers.Dense(16, "relu")(x)
    ...     x = keras.layers.add([x, DropPath(rate)(branch)])
    >>> model = keras.Model(inputs, x)
    """

    def __init__(self, rate: Rate = 0.5, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, None, seed, **kwargs)

    def _get_noise_shape(self, inputs):
        return (None,) + (1,) * (len(inputs.shape) - 1)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
