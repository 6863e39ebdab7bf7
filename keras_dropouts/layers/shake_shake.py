from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.merge_layer import MergeLayer
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import multiply, work_dtype
from keras_dropouts.random.rematerialize import rematerialized_product


@keras.saving.register_keras_serializable(package="keras_dropouts")
class ShakeShake(MergeLayer, SeededLayer):
    """Mixes two residual branches in random shares while training: others in the forward pass than in the backward.

    `x + ShakeShake()([branch(x), other(x)])`: for each sample the forward pass gives `a * branch + (1 - a) * other`
    with `a` drawn evenly between 0 and 1, and the backward pass hands the share `b` of the gradient to the one and
    `1 - b` to the other, with a `b` of its own. The gradient is not that of the function, on purpose. At inference
    both are multiplied by a half.

    Args:
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list or tuple of two tensors of a floating-point type.
        training: Whether to draw the shares.

    Input shape:
        Two shapes that are the same. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Gastaldi, "Shake-Shake regularization", ICLR 2017 workshop, arXiv 1705.07485: "Shake-Shake-Image", with shares
        for each sample.

    Read was the author's program (`xgastaldi/shake-shake`), which adds the shortcut too: here `keras.layers.Add` does.
    The backward pass draws its shares from the key: nothing is kept for it.

    Example:

    >>> import keras
    >>> from keras_dropouts import ShakeShake
    >>> x = inputs = keras.Input((16,))
    >>> for _ in range(4):
    ...     branches = [keras.layers.Dense(16, "relu")(x) for _ in range(2)]
    ...     x = keras.layers.add([x, ShakeShake()(branches)])
    >>> model = keras.Model(inputs, x)
    """

    branches = 2

    def __init__(self, seed: int | None = None, **kwargs: Any):
        super().__init__(seed=seed, **kwargs)

    def call(self, inputs, training=False):
        one, other = self._checked(inputs)
        if not self._trains(training):
            # Not `ops.add`, which on TensorFlow takes an empty tensor for a bias.
            return multiply(one, 0.5) + multiply(other, 0.5)
        key = key_of(self._next_state())
        # The type of all but the result is the work's, which is rounded once.
        wide = work_dtype(one)
        parts = [
            rematerialized_product(_backward, ops.cast(x, wide), key, ops.convert_to_tensor(place, wide), _forward)
            for place, x in enumerate((one, other))
        ]
        return ops.cast(parts[0] + parts[1], one.dtype)


def _forward(inputs, key, place):
    return _shared(inputs, key, place)


def _backward(inputs, key, place):
    return _shared(inputs, random.fold_in(key, 1), place)


def _shared(inputs, key, place):
    """Returns what a branch gives: a share that is drawn, or what is left of it in the second place."""
    shape = (ops.shape(inputs)[0], *[1] * (len(inputs.shape) - 1))
    return multiply(inputs, ops.abs(ops.cast(place, "float32") - random.uniform(key, shape)))
