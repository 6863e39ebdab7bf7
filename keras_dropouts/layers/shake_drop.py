from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_inputs
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.multiply import multiply
from keras_dropouts.random.rematerialize import rematerialized_product


@keras.saving.register_keras_serializable(package="keras_dropouts")
class ShakeDrop(RandomLayer):
    """Shakes the residual branch it stands on for some samples while training: by other numbers forward than backward.

    `x + ShakeDrop(rate)(branch(x))`: with probability `rate` a sample's branch is multiplied by a number between -1 and
    1 in the forward pass, and its gradient by another one, between 0 and 1, in the backward pass. The gradient is not
    that of the function, on purpose. All other samples keep both. At inference the branch is multiplied by `1 - rate`,
    the mean of the forward pass.

    Args:
        rate: The probability of shaking a sample's branch, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. The paper's are `keras_dropouts.linear_rates(0.5, depth)`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of any rank.
        training: Whether to shake.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Yamada, Iwamura, Akiba and Kise, "ShakeDrop Regularization for Deep Residual Learning", IEEE Access 7 (2019),
        arXiv 1802.02375.

    Read was the authors' program (`imenurok/ShakeDrop`), whose numbers these are, with one gate for the whole batch and
    both factors drawn for each element: its "pixel level". Here all three are drawn for each sample. The backward pass
    draws its factor from the key: nothing is kept for it. A branch with a batch normalization at its end goes well
    with it.

    Example:

    >>> import keras
    >>> from keras_dropouts import ShakeDrop, linear_rates
    >>> x = inputs = keras.Input((16,))
    >>> for rate in linear_rates(0.5, depth=4):
    ...     branch = keras.layers.BatchNormalization()(keras.layers.Dense(16)(x))
    ...     x = keras.layers.add([x, ShakeDrop(rate)(branch)])
    >>> model = keras.Model(inputs, x)
    """

    def __init__(self, rate: Rate = 0.5, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)

    def training_call(self, inputs, key, rate):
        return rematerialized_product(self.multiply, inputs, key, rate, self._shake)

    def multiply(self, inputs, key, rate):
        """Returns what the backward pass makes of the gradient."""
        draws = _draws(inputs, key)
        return _where_shaken(inputs, draws[0] < rate, draws[2])

    def _shake(self, inputs, key, rate):
        draws = _draws(inputs, key)
        return _where_shaken(inputs, draws[0] < rate, 2 * draws[1] - 1)

    def inference_call(self, inputs):
        return multiply(checked_inputs(self, inputs), random.keep_probability(self._next_rate()))


def _draws(inputs, key):
    """Evenly spaced in (0, 1), for each sample: whether to shake it, how in the forward pass, how in the backward."""
    samples, *others = ops.shape(inputs)
    draws = ops.reshape(random.uniform(key, (samples, 3)), (samples, 3, *[1] * len(others)))
    return draws[:, 0], draws[:, 1], draws[:, 2]


def _where_shaken(inputs, shaken, factor):
    return multiply(inputs, ops.where(shaken, factor, 1.0))
