"""Keys: one for each call of a layer, and others for what is drawn beside.

A *key* is a tensor that starts with three 32-bit integers: seed, call and the index of the first sample.
"""

import keras
import numpy as np

from keras_dropouts.random.arguments import Tensor, checked_key, checked_word
from keras_dropouts.random.backend import BACKEND, WORD, cast, xp
from keras_dropouts.random.threefry import threefry2x32

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch


def key(seed: int, call: int = 0) -> Tensor:
    """Returns a key, for use outside of a layer. The hooks of a `RandomLayer` are given theirs.

    A key serves one tensor: what is drawn from it a second time is the same again. For two tensors take
    `fold_in(key, 0)` and `fold_in(key, 1)`; for the steps of a loop, `call=step` or `fold_in(key, step)`.

    Args:
        seed: An integer in `[0, 2**32)`.
        call: An integer in `[0, 2**32)`. The first call in training of a layer with this seed has the key of call 0.

    Returns:
        A tensor of three 32-bit integers: `seed`, `call`, and the index of the first sample that is drawn, 0.

    Raises:
        ValueError: Where an argument is not as described.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Dropout, random
    >>> kept = random.keep_mask(random.key(seed=1), (2, 1000), rate=0.5)
    >>> y = Dropout(0.5, seed=1)(np.ones((2, 1000), "float32"), training=True)
    >>> bool(keras.ops.all(keras.ops.equal(y > 0, kept)))
    True
    """
    words = np.array([checked_word("seed", seed), checked_word("call", call), 0], "uint32")
    return keras.ops.convert_to_tensor(words.view(WORD))


def key_of(state):
    """Returns the key for a state that `RandomState.next` gave, on this replica."""
    key, replica = cast(state, WORD), _replica()
    if replica is None:
        return key
    if BACKEND == "torch":
        return _folded(key, replica, REPLICAS) if replica else key
    return xp.where(replica == 0, key, _folded(key, replica, REPLICAS))


def fold_in(key: Tensor, index: int | Tensor) -> Tensor:
    """Returns one of many keys that come from a key: another for each index.

    Their numbers are independent of each other, and of those of the key itself.

    Args:
        key: What `key` or `fold_in` returned, or what a hook of a `RandomLayer` is given.
        index: An integer in `[0, 2**32)`, or an integer tensor without axes.

    Returns:
        A key, which may be given on to `fold_in` as well.

    Raises:
        ValueError: Where `key` is no key, or a number `index` is not as described.

    Example:

    >>> import keras
    >>> from keras_dropouts import random
    >>> one, other = (random.uniform(random.fold_in(random.key(seed=1), i), (9,)) for i in range(2))
    >>> bool(keras.ops.any(keras.ops.equal(one, other)))
    False
    """
    return _folded(checked_key(key), index, INDICES)


# Places where no layer draws, of samples that no batch has: a replica's key is not what its caller takes for another.
INDICES, REPLICAS = 2**32 - 1, 2**32 - 2


def _folded(key, index, place):
    words = threefry2x32((key[0], key[1]), (_word(key, index), _word(key, place)), 13)
    return xp.concat([*words, key[2:]], axis=0)


def _word(key, index):
    """The index as one word, where the key is."""
    integer = hasattr(index, "dtype") and keras.backend.is_int_dtype(keras.backend.standardize_dtype(index.dtype))
    if not integer or index.ndim:
        index = checked_word("index", index)
        if BACKEND == "torch":
            # The signed integer of the same bits.
            return torch.full_like(key[:1], (index + 2**31) % 2**32 - 2**31)
        index = np.uint32(index)
    return xp.reshape(keras.ops.cast(index, WORD), (1,))


def from_sample(key, sample):
    """Returns the key for the samples from `sample` on (an integer or an integer scalar tensor) alone."""
    return xp.concat([key[:2], key[2:3] + keras.ops.cast(sample, WORD)], axis=0)


def _replica():
    """The index of this replica where the backend runs a copy of the program's Python or graph for each, or `None`."""
    if BACKEND == "tensorflow":
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.replica_id_in_sync_group
    elif BACKEND == "torch" and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return None
