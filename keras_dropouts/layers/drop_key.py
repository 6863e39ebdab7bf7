from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_axes, checked_inputs
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.multiply import work_dtype

# Below all scores, and finite: infinity less infinity is no number.
LOWEST = -1e38


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropKey(RandomLayer, keras.layers.Softmax):
    """Makes attention weights of scores, by a softmax that leaves keys out at random while training.

    The real `keras.layers.Softmax`, subclassed: it stands where that would, between scores and values, or in a
    `keras_dropouts.MultiHeadAttention(..., dropout=DropKey(0.3))`. Dropped are scores, each query's and head's on its
    own, before the softmax: the weights of what is left still sum to 1, and nothing is scaled, where dropout of the
    weights leaves sums around 1. Inference is the plain softmax. A query all of whose keys would be dropped keeps them
    all, which is what the published sum comes to: to add one number to all scores changes no softmax.

    Let the rate fall with the depth of the block, as was published, to a last one that is small: block `l` of `depth`
    has `linear_rates(rate, depth)[-l]`.

    Args:
        rate: The probability of dropping a key: a number in `[0, 1)` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        axis: The axis of the keys, or a sequence of axes. A MultiHeadAttention knows them, whatever this is.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: Attention scores, a tensor of a floating-point type.
        mask: Which keys there are, a boolean tensor that broadcasts to the scores, or `None` for all. The weight of
            what it leaves out is 0, in a row without keys too. A large negative number that was added to scores instead
            is no mask: in a row whose other keys are dropped it takes part.
        training: Whether to drop.

    Input shape:
        Any, such as `(batch, heads, queries, keys)`. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Li et al., "DropKey for Vision Transformer", CVPR 2023, arXiv 2208.02646. Its abstract was read, and programs of
        others by its pseudo-code, which add a Bernoulli number times -1e12 to each score.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import DropKey
    >>> weights = DropKey(0.5, seed=1)(np.zeros((1, 3, 4), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(weights).sum(-1).tolist()
    [[1.0, 1.0, 1.0]]
    """

    # Without any keys there is no softmax.
    max_rate = 1 - 2**-16

    def __init__(self, rate: Rate, axis: int | Sequence[int] = -1, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.axis = checked_axes("axis", axis)

    def call(self, inputs, mask=None, training=False):
        inputs = checked_inputs(self, inputs)
        if not self._trains(training):
            return keras.layers.Softmax.call(self, inputs, mask=mask)
        masks = [] if mask is None else [ops.cast(mask, "bool")]
        return random.rematerialized(self._weights_of_kept, inputs, *self._next_draw(), *masks)

    def _weights_of_kept(self, scores, key, rate, there=None):
        def of_those(kept):
            return kept if there is None else ops.logical_and(kept, there)

        kept = of_those(random.keep_mask(key, ops.shape(scores), rate))
        kept = of_those(ops.logical_or(kept, ops.logical_not(self._some(kept))))
        wide = ops.cast(scores, work_dtype(scores))
        # Not `ops.where`, which takes PyTorch twice as long.
        wide = random.multiply_where(kept, 1.0, wide) + LOWEST * ops.cast(ops.logical_not(kept), wide.dtype)
        weights = keras.layers.Softmax.call(self, wide)
        if there is not None:
            # Uniform where nothing is.
            weights = random.multiply_where(self._some(kept), 1.0, weights)
        return ops.cast(weights, scores.dtype)

    def _some(self, kept):
        """Returns in which rows something is kept."""
        # As numbers: PyTorch takes ten times as long to ask booleans.
        return ops.sum(ops.cast(kept, "float32"), self.axis, keepdims=True) > 0
