from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.multiply import multiply


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropHead(RandomLayer):
    """Drops whole heads of an attention while training, and scales up the others by the share that is left.

    It takes what the heads return, before they are mixed: in a
    `keras_dropouts.MultiHeadAttention(..., dropout=DropHead(0.2))`, or after `keras.ops.dot_product_attention`. Each
    head of a sample is dropped with probability `rate`, for all queries; if that would be all of them, it is drawn anew
    until one is left. Of `heads` of which `n` are left, each is multiplied by `heads / n`. Inference is the identity.

    Args:
        rate: The probability of dropping a head: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch. What is dropped is a
            little less, as all heads never are. At 1 one head is left, any of them.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type.
        training: Whether to drop.

    Input shape:
        `(batch, ..., heads, features)`, as `keras.ops.dot_product_attention` returns it.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Zhou et al., "Scheduled DropHead: A Regularization Method for Transformer Models", Findings of EMNLP 2020, arXiv
        2004.13342.

    Read was its abstract, and the program of another (`Kirill-Kravtsov/drophead-pytorch`), which scales so and draws
    the masks of a whole batch anew where one sample has no head left. The paper's schedule falls from a high rate to 0
    and rises again: a `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import DropHead
    >>> y = DropHead(0.5, seed=8)(np.ones((1, 2, 4, 3), "float32"), training=True)  # of 4 heads 2 are left
    >>> keras.ops.convert_to_numpy(y)[0, :, :, 0].tolist()
    [[0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 2.0]]
    """

    def __init__(self, rate: Rate, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.input_spec = keras.InputSpec(min_ndim=3)

    def multiply(self, inputs, key, rate):
        samples, *between, heads, _ = ops.shape(inputs)
        kept = _some_kept(key, samples, heads, rate)
        # Not a mean and its reciprocal, of which TensorFlow makes another number in graphs.
        scale = ops.cast(heads, "float32") / ops.sum(ops.cast(kept, "float32"), 1)
        ones = [1] * len(between)
        kept = ops.reshape(kept, (samples, *ones, heads, 1))
        return multiply(random.multiply_where(kept, 1.0, inputs), ops.reshape(scale, (samples, *ones, 1, 1)))


def _some_kept(key, samples, heads, rate):
    """Returns a mask as `keep_mask` draws it, given that of each sample something is kept."""
    place = ops.arange(heads, dtype="float32")
    # The chances, given that, of so many being dropped before the first that is kept, each but for one factor.
    chances = ops.power(1 - random.keep_probability(rate), place)
    below = ops.cumsum(chances) / ops.sum(chances)
    drawn = random.uniform(random.fold_in(key, 1), (samples, 1))
    first = ops.sum(ops.cast(drawn > below[:-1], "float32"), 1, keepdims=True)
    others = ops.logical_and(place > first, random.keep_mask(key, (samples, heads), rate))
    return ops.logical_or(ops.equal(place, first), others)
