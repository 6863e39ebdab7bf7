from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Rate, checked_flag
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.channels_layer import ChannelsLayer
from keras_dropouts.random.multiply import multiply, times_uniform


@keras.saving.register_keras_serializable(package="keras_dropouts")
class UniformDropout(ChannelsLayer, RandomLayer):
    """Multiplies its input by `1 + r` while training, with `r` uniform between `-beta` and `beta` (Uout).

    It drops nothing and shifts the variance far less than dropout: between training and inference that of a
    zero-mean input changes by a factor of `3 / (3 + beta**2)`, which spares a batch normalization that follows.
    Inference is the identity.

    Args:
        beta: The half-width of the noise, no probability: a number in `[0, 1]`, or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.beta = b` takes effect at the next batch.
        spatial: Whether one draw serves a whole feature map (a channel of a sample), as in the authors' networks and as
            in `keras_dropouts.SpatialDropout2D`, or each element has its own, as in the paper's formula (the default).
        data_format: Which axis `spatial` takes for the channels: the last (`"channels_last"`) or the second
            (`"channels_first"`). `None`: `keras.config.image_data_format()`, but the last for sequences, of rank 3.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of any rank (at least 2 with `spatial`).
        training: Whether to add noise.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Li et al., "Understanding the Disharmony between Dropout and Batch Normalization by Variance Shift",
        CVPR 2019, arXiv 1801.05134: Uout.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import UniformDropout
    >>> y = np.array(UniformDropout(0.2, seed=1)(np.ones((100, 1000), "float32"), training=True))
    >>> bool(0.8 < y.min() < 0.81), bool(abs(y.mean() - 1) < 0.01), bool(1.19 < y.max() < 1.2)
    (True, True, True)
    """

    parameter = "beta"

    def __init__(
        self,
        beta: Rate,
        spatial: bool = False,
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(data_format, rate=beta, seed=seed, **kwargs)
        self.spatial = checked_flag("spatial", spatial)
        if spatial:
            self.input_spec = keras.InputSpec(min_ndim=2)

    def multiply(self, inputs, key, beta):
        if not self.spatial:
            return times_uniform(inputs, key, beta)
        shape = ops.shape(inputs)
        channels = self._channels_of(shape)
        shape = tuple(n if axis in (0, channels) else 1 for axis, n in enumerate(shape))
        return multiply(inputs, random.uniform(key, shape, 1 - beta, 1 + beta))

    def get_config(self):
        return {**super().get_config(), "spatial": self.spatial}

    @classmethod
    def from_config(cls, config):
        # The name in files of version 0.1.
        if "per_channel" in config:
            config = {**config}
            config["spatial"] = config.pop("per_channel")
        return super().from_config(config)
