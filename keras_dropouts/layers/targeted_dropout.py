import math
from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.keras_internals import as_stored
from keras_dropouts.layers.arguments import Rate, checked_choice, checked_rate
from keras_dropouts.layers.base import RandomLayer, value_at
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.arguments import Tensor
from keras_dropouts.random.backend import bits_as
from keras_dropouts.random.compilation import hinted
from keras_dropouts.random.keys import key_of


@keras.saving.register_keras_serializable(package="keras_dropouts")
class TargetedDropout(KernelWrapper, RandomLayer):
    """Drops the smallest weights of the layer it wraps while training, and leaves them out at inference: it prunes.

    Candidates are the share `targeted` of the weights: of those of each unit the ones smallest in magnitude, or whole
    units, those whose weights have the smallest L2 norm. In training each candidate is dropped with probability `rate`,
    with one draw for the whole batch, so that the network learns to do without; at inference all candidates are 0.
    Nothing is scaled, and the bias is never dropped. Which are candidates is asked at each call anew.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own.
        rate: The probability of dropping a candidate: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        targeted: The share of the weights, or units, that are candidates, likewise, but not to be set later. Of `n`
            weights the first `int(targeted * n)` are, in float32 and but for those as large as the next one.
        by: `"weight"`, or `"unit"` for whole units, of a convolution whole channels.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to draw.

    Input shape:
        The wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not.

    Reference:
        Gomez et al., "Learning Sparse Networks Using Targeted Dropout", arXiv 1905.13678.

    Read was the authors' program (`for-ai/TD`). Its `by="unit"` draws for each weight of a candidate unit, where here
    one draw drops the unit. Its units are the last axis of a kernel; here those of transposed and depthwise
    convolutions and of EinsumDense are what the layer makes them.

    The ramp of that program, with which it prunes most, is of 40,000 steps: `rate` grows linearly, and `targeted` to
    95 % in the first half and to the whole in the second. `PolynomialDecay(0.0, 40_000, end_learning_rate=0.5)` is the
    one; `PolynomialDecay(0.0, 20_000, end_learning_rate=0.99)` for `targeted` is less than 5 % from the other.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import TargetedDropout
    >>> layer = TargetedDropout(keras.layers.Dense(3), rate=0.5, targeted=0.75, seed=1)
    >>> y = layer(np.ones((2, 8), "float32"), training=True)
    >>> kernel, bias = layer.pruned_weights()
    >>> (keras.ops.convert_to_numpy(kernel) == 0).sum(axis=0).tolist()
    [6, 6, 6]
    """

    also_scheduled = ("targeted",)

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: Rate = 0.5,
        targeted: Rate = 0.5,
        by: Literal["weight", "unit"] = "weight",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate=rate, seed=seed, **kwargs)
        self.targeted = checked_rate("targeted", targeted, 1.0)
        self.by = checked_choice("by", by, "weight", "unit")

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        if not self._trains(training):
            return self._activation(self._product(inputs, *self.pruned_weights()))
        state = self._next_state()
        kernel, bias, spared = self._weights_and_spared(state)
        # As one sample.
        drawn = random.keep_mask(key_of(state), (1, math.prod(spared.shape)), self._rate_at(state))
        keep = ops.logical_or(spared, ops.reshape(drawn, spared.shape))
        return self._activation(self._product(inputs, random.multiply_where(keep, 1.0, kernel), bias))

    def pruned_weights(self) -> tuple[Tensor, Tensor | None]:
        """Returns the weights that inference computes with: the kernel, 0 where pruned, and the bias or `None`."""
        kernel, bias, spared = self._weights_and_spared(self._random_state.state.value)
        return ops.where(spared, kernel, 0), bias

    def _weights_and_spared(self, state):
        """Returns kernel, bias, and which of the kernel are no candidates: booleans that broadcast to it."""
        with as_stored():
            # Rounded, more of them would be equal.
            kernel, bias = self._weights()
        magnitudes, axes = ops.cast(ops.abs(ops.stop_gradient(kernel)), "float32"), tuple(self._summed_axes(kernel))
        if self.by == "unit":
            magnitudes = ops.sqrt(ops.sum(ops.square(magnitudes), axes, keepdims=True))
            axes = tuple(range(len(kernel.shape)))
        count = math.prod([magnitudes.shape[axis] for axis in axes])
        first = ops.floor(value_at(state, self.targeted, 1.0) * count)
        return kernel, bias, _not_below(magnitudes, first, axes)

    def readings(self):
        targeted = value_at(self._fetched_state().state.value, self.targeted, 1.0)
        return {**super().readings(), "targeted": float(ops.convert_to_numpy(targeted))}

    def get_config(self):
        return {**super().get_config(), "by": self.by}


@hinted
def _not_below(numbers, place, axes):
    """Returns which numbers, none of them negative, are not below the one at a place of their order along the axes.

    The first has the place 0, a float32. Where the place is one after the last, none is.
    """
    # The bits of that number, one by one: it is the largest with no more than so many below. To sort the columns of a
    # kernel of 1024 x 1024 takes 16 times as long on JAX, 4 times on PyTorch.
    bits = bits_as(numbers, "int32")
    bound = ops.zeros_like(ops.sum(bits, axes, keepdims=True))
    for bit in reversed(range(31)):
        raised = bound + 2**bit
        # As floats, exact to 2**24: PyTorch takes longer to count integers.
        below = ops.sum(ops.cast(bits < raised, "float32"), axes, keepdims=True)
        bound = ops.where(below <= place, raised, bound)
    return bits >= bound
