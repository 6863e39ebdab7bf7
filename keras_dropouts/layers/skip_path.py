from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.keras_internals import set_keras_mask
from keras_dropouts.layers.arguments import checked_share
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.path_wrapper import PathWrapper
from keras_dropouts.layers.shares import FixedRate, kept_count
from keras_dropouts.random.choice import order_of_samples
from keras_dropouts.random.keys import key_of


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SkipPath(FixedRate, PathWrapper, SeededLayer):
    """Adds the residual branch it wraps to its input, and computes it for a part of the batch only while training.

    Stochastic depth that saves the time. Of a batch of `b` samples, `m = b * (1 - rate)` (rounded down, at least one)
    are chosen at random, and become `x + branch(x) * b / m`; the others stay `x`, and the branch, forward and backward,
    does not see them. At inference it is `x + branch(x)`, the mean of that: nothing is scaled. For the same with a draw
    for each sample, which computes all, see `keras_dropouts.DropPath`.

    Args:
        layer: The branch: a layer or model that takes one tensor and returns one of the same shape. Batch normalization
            in it sees the `m` samples.
        rate: The part of the batch that skips the branch, a number in `[0, 1)`, taken to the nearest fraction of a
            denominator up to 2**15. It cannot be a schedule, nor be set later: how many samples there are is a size in
            a compiled program. Choosing and putting back take some time too: from about 0.1 on it is saved.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed choose the same samples.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer: one tensor.
        training: Whether to skip.
        mask: The mask of the timesteps. If the wrapped layer takes one, it is given that of the chosen samples.

    Input shape:
        The wrapped layer's. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described, or the wrapped layer changes the shape.

    Reference:
        Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024, arXiv 2304.07193:
        efficient stochastic depth.

    Read was the authors' code (`facebookresearch/dinov2`, `layers/block.py`), which does the same at rates above 0.1.
    Which samples are chosen depends on how many there are: a sample's draw is its own, and those with the largest are
    taken.

    Example:

    >>> import keras
    >>> from keras_dropouts import SkipPath
    >>> x = inputs = keras.Input((16,))
    >>> for _ in range(4):
    ...     branch = keras.Sequential([keras.layers.LayerNormalization(), keras.layers.Dense(16, "gelu")])
    ...     x = SkipPath(branch, rate=0.5)(x)
    >>> model = keras.Model(inputs, x)
    """

    def __init__(self, layer: keras.layers.Layer, rate: float = 0.5, seed: int | None = None, **kwargs: Any):
        super().__init__(layer, seed=seed, **kwargs)
        self._rate = checked_share("rate", rate)

    def call(self, inputs, training=False, mask=None):
        inputs = self._checked(inputs)
        if not self._trains(training):
            return inputs + self._wrapped(inputs, training, mask)
        samples = ops.shape(inputs)[0]
        chosen = kept_count(self._rate, samples)
        order = order_of_samples(key_of(self._next_state()), samples)
        taken, place = order[:chosen], ops.argsort(order)
        rows, own_mask = ops.take(inputs, taken, axis=0), None if mask is None else ops.take(mask, taken, axis=0)
        if mask is not None:
            # Beside the tensor too, where layers within a branch that takes no mask look for it.
            set_keras_mask(rows, own_mask)
        branch = self._wrapped(rows, training, own_mask)
        # Of an empty batch none are, and nothing is looked up or scaled.
        some = ops.maximum(chosen, 1)
        put_back = ops.take(branch, ops.minimum(place, some - 1), axis=0)
        is_taken = ops.reshape(place < chosen, (samples, *[1] * (len(inputs.shape) - 1)))
        scale = ops.cast(samples, "float32") / ops.cast(some, "float32")
        # Not `ops.add`, which on TensorFlow takes an empty tensor for a bias.
        return inputs + random.multiply_where(is_taken, scale, put_back)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}
