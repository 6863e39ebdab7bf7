from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import DataFormat, Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.channels_layer import ChannelsLayer
from keras_dropouts.random.multiply import multiply

# What a channel without activation has for a score, so that it is chosen last.
LEAST_SCORE = 1e-30


@keras.saving.register_keras_serializable(package="keras_dropouts")
class WeightedChannelDropout(ChannelsLayer, RandomLayer):
    """Drops channels of a sample while training, the more probably the less active they are.

    The score of a channel is its mean over all positions. For each sample as many channels are kept as the rate says,
    an exact number, chosen one after the other with a probability in proportion to their scores. They are scaled by the
    sum of all scores over the sum of those kept. At inference it is the identity.

    Args:
        rate: The part of the channels to drop, a number in `[0, 1]` or a schedule, as for `keras_dropouts.Dropout`.
            Kept are `channels * (1 - rate)`, rounded down, at least one.
        data_format: `"channels_last"` for inputs of shape `(batch, ..., channels)`, `"channels_first"` for
            `(batch, channels, ...)`. `None`: `keras.config.image_data_format()`, but the last for sequences, of rank 3.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of rank 3 or more, of features that are not negative, as behind a
            ReLU: scores below 0 count as 0.
        training: Whether to drop.

    Input shape:
        `(batch, ..., channels)`, or `(batch, channels, ...)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Hou and Wang, "Weighted Channel Dropout for Regularization of Deep Convolutional Neural Network", AAAI 2019.

    The definition is from secondary sources, a summary and another's program, of which none says more of the scale. No
    gradient flows through the scores. The second dropout that the paper may put behind it is
    `keras_dropouts.SpatialDropout2D`.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import WeightedChannelDropout
    >>> layer = WeightedChannelDropout(0.5, data_format="channels_last", seed=1)
    >>> y = np.array(layer(np.ones((1, 6, 8), "float32"), training=True))
    >>> int((y[0, 0] == 2).sum()), int((y[0, 0] == 0).sum())
    (4, 4)
    """

    def __init__(self, rate: Rate, data_format: DataFormat = None, seed: int | None = None, **kwargs: Any):
        super().__init__(data_format, rate=rate, seed=seed, **kwargs)
        self.input_spec = keras.InputSpec(min_ndim=3)

    def training_call(self, inputs, key, rate):
        if 0 in tuple(inputs.shape):
            # Nothing has a mean.
            return inputs
        return random.rematerialized(self._drop, inputs, key, rate)

    def _drop(self, inputs, key, rate):
        shape = tuple(ops.shape(inputs))
        axis = self._channels_of(shape)
        space = tuple(i for i in range(1, len(shape)) if i != axis)
        features = ops.cast(ops.stop_gradient(inputs), "float32")
        score = ops.maximum(ops.mean(features, space), LEAST_SCORE)
        # As if each were drawn from the scores that are left: the largest of u**(1 / score), and of their logarithms.
        weighed = ops.log(random.uniform(key, (shape[0], shape[axis]))) / score
        place = ops.argsort(ops.argsort(-weighed, axis=1), axis=1)
        # A little more, as floats may fall short of an integer.
        channels = ops.cast(shape[axis], "float32")
        kept = ops.maximum(ops.floor(channels * (1 - rate) + 1e-3), 1.0)
        keep = ops.cast(place, "float32") < kept
        scale = ops.sum(score, axis=1) / ops.sum(ops.where(keep, score, 0.0), axis=1)
        keep = ops.reshape(keep, [n if i in (0, axis) else 1 for i, n in enumerate(shape)])
        scale = ops.reshape(scale, [shape[0], *[1] * (len(shape) - 1)])
        return random.multiply_where(keep, 1.0, multiply(inputs, scale))
