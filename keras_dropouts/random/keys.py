"""Keys: one for each call of a layer, and others for what is drawn beside.

A *key* is a tensor that starts with three 32-bit integers: seed, call and the index of the first sample.
"""

import keras
import numpy as np

from keras_dropouts.random.backend import BACKEND, WORD, cast, xp
from keras_dropouts.random.bits import threefry2x32

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch


def key_of(state):
    """Returns the key for a state that `RandomState.next` gave, on this replica."""
    key, replica = cast(state, WORD), _replica()
    if replica is None:
        return key
    if BACKEND == "torch":
        return fold_in(key, replica) if replica else key
    return xp.where(replica == 0, key, fold_in(key, replica))


def fold_in(key, index):
    """Returns a key for one of many: another for each index (an integer or an integer scalar tensor) below 2**32."""
    # A place where no layer draws: of a sample that no batch has.
    words = threefry2x32((key[0], key[1]), (_word(key, index), _word(key, 2**32 - 1)), 13)
    return xp.concat([*words, key[2:]], axis=0)


def _word(key, index):
    """The index as one word, where the key is."""
    if BACKEND == "torch":
        return torch.full_like(key[:1], int(np.uint32(index).view(WORD)))
    return xp.reshape(keras.ops.cast(np.uint32(index) if isinstance(index, int) else index, WORD), (1,))


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
