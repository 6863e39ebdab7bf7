"""What the arguments of the functions here may be. Layers call those too: whether all is right is a matter of some
hundred nanoseconds, and asks tensors nothing but their type and their shape.
"""

import numbers
from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_dropouts.random.backend import WORD, is_unknown_size, xp

# The backends' tensors have no type in common.
Tensor: TypeAlias = Any
Shape: TypeAlias = Sequence[int | Tensor]

KEY, FLOAT32 = getattr(xp, WORD), xp.float32
LARGEST = float(np.finfo("float32").max)


def checked_key(key):
    """Returns `key`."""
    right = getattr(key, "dtype", None) == KEY and key.ndim == 1
    # TensorFlow may not know the size of one that a graph is given.
    if not right or (key.shape[0] is not None and key.shape[0] < 3):
        raise ValueError(
            f"`key` must be what `keras_dropouts.random.key` or `fold_in` returns, or what a hook of a "
            f"`keras_dropouts.RandomLayer` is given. Received: key={key!r}"
        )
    return key


def checked_shape(shape):
    """Returns `shape` as a tuple, of integers and of what stands for sizes that are not known yet."""
    try:
        sizes = [int(size) if isinstance(size, np.integer) else size for size in shape]
    except TypeError:
        sizes = [None]
    for size in sizes:
        if (size < 0) if type(size) is int else not is_unknown_size(size):
            raise ValueError(
                f"`shape` must be a sequence of integers that are not negative, as `keras.ops.shape(x)` returns it. "
                f"Received: shape={shape!r}"
            )
    return tuple(sizes)


def checked_scalar(name, number, least=-LARGEST, most=LARGEST):
    """Returns a number from `least` to `most`, or a tensor without axes, as a float32 tensor."""
    if isinstance(number, (int, float, np.number)):
        right = not isinstance(number, bool) and least <= number <= most
    else:
        right = getattr(number, "ndim", None) == 0
        if right and number.dtype == FLOAT32:
            return number
    if not right:
        raise ValueError(
            f"`{name}` must be a number in [{least:g}, {most:g}], or a tensor without axes. Received: {name}={number!r}"
        )
    return keras.ops.convert_to_tensor(number, "float32")


def checked_word(name, word):
    """Returns `word` as a Python integer."""
    integer = isinstance(word, numbers.Integral) and not isinstance(word, bool)
    if not integer or not 0 <= word < 2**32:
        raise ValueError(f"`{name}` must be an integer in [0, 2**32). Received: {name}={word!r}")
    return int(word)
