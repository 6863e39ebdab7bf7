from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.choice import integers


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SwapNoise(RandomLayer):
    """Replaces entries of a table by entries of the same column, from other rows of the batch, while training.

    For tables, whose columns have nothing in common: whatever takes the place of an entry is a value that occurs there,
    a number or a category. Each entry draws by itself whether it is replaced, and from which of the other rows.
    Nothing is scaled, and inference is the identity.

    What becomes of a row depends on the rest of its batch; which of its entries are replaced does not. A batch of one
    row stays as it is.

    Args:
        rate: The probability that an entry is replaced, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. Fewer change, where a column has a value more than once.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 2 or more, of a floating-point type or of integers: categories, before they are
            embedded. All that is not the first axis is columns.
        training: Whether to replace.

    Input shape:
        `(batch, ...)`.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Yoon et al., "VIME: Extending the Success of Self- and Semi-supervised Learning to Tabular Domain", NeurIPS
        2020.

    Read was the authors' program, which shuffles each column and takes from it, so that an entry may be replaced by
    itself. The name is from Kaggle's competitions, and no paper's.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import SwapNoise
    >>> x = np.array([[1, 10, 100], [2, 20, 200], [3, 30, 300], [4, 40, 400]])
    >>> print(keras.ops.convert_to_numpy(SwapNoise(0.3, seed=1)(x, training=True)))
    [[  2  10 300]
     [  2  20 200]
     [  2  10 300]
     [  4  30 400]]
    """

    takes_integers = True

    def __init__(self, rate: Rate = 0.15, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.input_spec = keras.InputSpec(min_ndim=2)

    def training_call(self, inputs, key, rate):
        if 0 in tuple(inputs.shape):
            return inputs
        return random.rematerialized(_swapped, inputs, key, rate)


def _swapped(inputs, key, rate):
    shape = ops.shape(inputs)
    rows = ops.reshape(ops.arange(shape[0], dtype="int32"), (-1,) + (1,) * (len(shape) - 1))
    # So many rows on, and never around to itself.
    others = (rows + 1 + integers(random.fold_in(key, 1), shape, shape[0] - 1)) % shape[0]
    return ops.where(random.keep_mask(key, shape, rate), inputs, ops.take_along_axis(inputs, others, axis=0))
