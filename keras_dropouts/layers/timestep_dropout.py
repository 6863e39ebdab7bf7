from typing import Any

import keras

from keras_dropouts.layers.arguments import DataFormat, Rate, checked_data_format
from keras_dropouts.layers.dropout import Dropout


@keras.saving.register_keras_serializable(package="keras_dropouts")
class TimestepDropout(Dropout):
    """Drops whole timesteps of a sequence while training: all features of a step, or none.

    For sequences whose neighbouring features carry the same information, and to make a model that does not lean on
    any single step (a word, a frame). The steps that are kept are divided by the probability of keeping; inference is
    the identity. After an embedding it is *word dropout*: each place of a word is dropped by itself, where
    `keras_dropouts.EmbeddingDropout` drops a word in all its places. The name is the Keras community's; no single paper
    defines the method.

    Args:
        rate: The probability of dropping a timestep, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        data_format: `"channels_last"`, which `None` is too, for inputs of shape `(batch, timesteps, features)`,
            `"channels_first"` for `(batch, features, timesteps)`.
        **kwargs: `scaling` as for `keras_dropouts.Dropout`, and `name`, `dtype`, `trainable` as for any Keras layer.

    Call arguments:
        inputs: A tensor of rank 3, of a floating-point type.
        training: Whether to drop.

    Input shape:
        `(batch, timesteps, features)`, or `(batch, features, timesteps)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Srivastava et al., JMLR 15 (2014) 1929-1958, with one draw for each timestep: Keras's noise shape
        `(batch, timesteps, 1)`.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import TimestepDropout
    >>> y = TimestepDropout(0.5, seed=2)(np.ones((1, 5, 3), "float32"), training=True)
    >>> np.ptp(np.array(y), axis=2).tolist()  # all features of a timestep are equal
    [[0.0, 0.0, 0.0, 0.0, 0.0]]
    """

    def __init__(self, rate: Rate, seed: int | None = None, *, data_format: DataFormat = None, **kwargs: Any):
        super().__init__(rate, None, seed, **kwargs)
        self.data_format = checked_data_format(data_format, 1)
        self.input_spec = keras.InputSpec(ndim=3)

    def _get_noise_shape(self, inputs):
        return (None, 1, None) if self.data_format == "channels_first" else (None, None, 1)

    def get_config(self):
        config = {**super().get_config(), "data_format": self.data_format}
        del config["noise_shape"]
        return config
