import functools
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.merge_layer import MergeLayer
from keras_dropouts.random.multiply import multiply, work_dtype
from keras_dropouts.random.rematerialize import rematerialized_product


@keras.saving.register_keras_serializable(package="keras_dropouts")
class FractalJoin(MergeLayer, RandomLayer):
    """Joins paths by their mean, of those that survive while training: the drop-path of FractalNet.

    In training each input is dropped for each sample with probability `rate`; where all would be, one of them survives,
    any with the same probability. The output is the mean of the survivors, and at inference that of all inputs; nothing
    else is scaled. For the residual branches of other networks see `keras_dropouts.DropPath`.

    This is local drop-path. Global drop-path, one path through the whole network for each sample, is `rate=1` with the
    same seed in all joins: one input survives in each, and that of the same place. A join of fewer inputs keeps it too
    if it is among its own: list the inputs from the deepest on, eight at most.

    Args:
        rate: The probability of dropping an input, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. The paper's is 0.15.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list or tuple of two or more tensors of a floating-point type.
        training: Whether to drop.

    Input shape:
        As many shapes, all the same. The first axis counts samples.

    Output shape:
        That of each input.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Larsson, Maire and Shakhnarovich, "FractalNet: Ultra-Deep Neural Networks without Residuals", ICLR 2017,
        arXiv 1605.07648.

    Read was the authors' program (`gustavla/fractalnet`), for Caffe, which draws once for the whole batch; here each
    sample has a draw of its own. It can mix batches of local and global drop-path: train with one, then with the other.

    Example:

    >>> import keras
    >>> from keras_dropouts import FractalJoin
    >>> x = inputs = keras.Input((16,))
    >>> for _ in range(3):
    ...     deep = keras.layers.Dense(16, "relu")(keras.layers.Dense(16, "relu")(x))
    ...     x = FractalJoin(0.15)([deep, keras.layers.Dense(16, "relu")(x)])
    >>> model = keras.Model(inputs, x)
    """

    def __init__(self, rate: Rate = 0.15, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)

    def call(self, inputs, training=False):
        paths = self._checked(inputs)
        # The work's type, of which only the mean is rounded.
        wide = [ops.cast(x, work_dtype(x)) for x in paths]
        if self._trains(training):
            key, rate = self._next_draw()
            joined = [
                rematerialized_product(functools.partial(_part, place, len(paths)), x, key, rate)
                for place, x in enumerate(wide)
            ]
        else:
            joined = [multiply(x, 1 / len(paths)) for x in wide]
        return ops.cast(functools.reduce(ops.add, joined), paths[0].dtype)


def _part(place, paths, inputs, key, rate):
    """Returns the part that the path in this place, of so many, has in the mean."""
    samples, *others = ops.shape(inputs)
    draws = random.uniform(key, (samples, paths))
    # Of those that are all below the rate, the largest is any with the same probability; the first, where two are it.
    largest = ops.equal(ops.arange(paths), ops.argmax(draws, axis=1, keepdims=True))
    survives = ops.logical_or(draws >= rate, largest)
    survivors = ops.sum(ops.cast(survives, inputs.dtype), axis=1)
    survivors, keep = (ops.reshape(x, (samples, *[1] * len(others))) for x in (survivors, survives[:, place]))
    # Divided, as TensorFlow's reciprocals are not exact.
    return random.multiply_where(keep, 1.0, inputs / survivors)
