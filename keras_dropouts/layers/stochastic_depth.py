from typing import Any

import keras

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_inputs
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.multiply import multiply


@keras.saving.register_keras_serializable(package="keras_dropouts")
class StochasticDepth(RandomLayer):
    """Adds a residual branch to its shortcut, while training in some batches only: the others take the shortcut.

    `StochasticDepth(rate)([shortcut, residual])` stands where `keras.layers.Add()([shortcut, residual])` would. In
    training it is `shortcut + b * residual`, where one `b` for the whole batch is 0 with probability `rate`, else 1;
    at inference `shortcut + (1 - rate) * residual`, the scaling of the paper. For a draw per sample see
    `keras_dropouts.DropPath`.

    Args:
        rate: The probability of dropping the residual branch, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. The paper's are `keras_dropouts.linear_rates(0.5, depth)`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list or tuple of two tensors, shortcut and residual, the residual of a floating-point type.
        training: Whether to drop.

    Input shape:
        Two shapes: the same, or of the same rank and such that broadcast to one another.

    Output shape:
        That of the sum.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382, section 3.

    The ReLU that the paper puts behind the sum is a layer of its own. The residual branch is computed in any case: the
    time that the paper saves by skipping it, this layer does not.

    Example:

    >>> import keras
    >>> from keras_dropouts import StochasticDepth, linear_rates
    >>> x = inputs = keras.Input((16,))
    >>> for rate in linear_rates(0.5, depth=4):
    ...     residual = keras.layers.Dense(16)(x)
    ...     x = keras.layers.ReLU()(StochasticDepth(rate)([x, residual]))
    >>> model = keras.Model(inputs, x)
    """

    def __init__(self, rate: Rate = 0.5, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, seed=seed, **kwargs)
        self.input_spec = [keras.InputSpec(), keras.InputSpec()]

    def call(self, inputs, training=False):
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(f"`inputs` must be a list or tuple of two tensors. Received: inputs={inputs!r}")
        shortcut, residual = inputs
        residual = checked_inputs(self, residual, "residual")
        _check_shapes(shortcut.shape, residual.shape)
        # Not `ops.add`, which on TensorFlow takes an empty tensor for a bias.
        return shortcut + super().call(residual, training=training)

    def keep_mask(self, residual, key, rate):
        return random.keep_mask(key, (1,) * len(residual.shape), rate), 1.0

    def inference_call(self, residual):
        return multiply(residual, random.keep_probability(self._next_rate()))

    def compute_output_shape(self, input_shape):
        _check_shapes(*input_shape)
        return keras.layers.Add(name="add").compute_output_shape(input_shape)

    def compute_mask(self, inputs, previous_mask):
        # In each call, where torch.compile could not make a layer.
        return keras.layers.Add.compute_mask(self, inputs, previous_mask)


def _check_shapes(shortcut, residual):
    sizes = zip(shortcut, residual, strict=False)
    if len(shortcut) != len(residual) or any(m != n and not {1, None} & {m, n} for m, n in sizes):
        raise ValueError(
            f"`inputs` must be two tensors of the same rank whose shapes broadcast to one another. "
            f"Received: inputs of shapes {tuple(shortcut)} and {tuple(residual)}"
        )
