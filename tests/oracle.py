"""The random bits once more, in NumPy and 64-bit integers, from the definition in `keras_dropouts.random`."""

import math

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def threefry2x32(key, counter, rounds):
    k = [np.uint64(key[0]), np.uint64(key[1])]
    k.append(k[0] ^ k[1] ^ np.uint64(0x1BD11BDA))
    x = [np.asarray(c, "uint64") for c in counter]
    x = [(x[0] + k[0]) & MASK, (x[1] + k[1]) & MASK]
    rotations = [13, 15, 26, 6, 17, 29, 16, 24]
    for r in range(rounds):
        x[0] = (x[0] + x[1]) & MASK
        d = np.uint64(rotations[r % 8])
        x[1] = ((x[1] << d) | (x[1] >> (np.uint64(32) - d))) & MASK
        x[1] = x[1] ^ x[0]
        if (r + 1) % 4 == 0:
            s = (r + 1) // 4
            x[0] = (x[0] + k[s % 3]) & MASK
            x[1] = (x[1] + k[(s + 1) % 3] + np.uint64(s)) & MASK
    return x


def block_words(seed, call, samples, blocks, first_sample=0, rounds=(13, 20)):
    """The four signed words of each block, along a new last axis."""
    block, sample = np.meshgrid(np.arange(blocks), np.arange(samples) + first_sample)
    words = [word for after in rounds for word in threefry2x32((seed, call), (block, sample), after)]
    return np.stack(words, -1).astype("<u4").view("<i4")


def all_draws(seed, call, samples, blocks, first_sample):
    """The eight signed 16-bit draws of each block: along new last axes, its four words and their halves."""
    return block_words(seed, call, samples, blocks, first_sample).view("<i2").reshape(samples, blocks, 4, 2)


def first_of(draws, shape):
    return draws.reshape(shape[0], math.prod(draws.shape[1:]))[:, : math.prod(shape[1:])].reshape(shape)


def draws(seed, call, shape, first_sample=0):
    """The signed 16-bit draw of each element of a tensor of numbers."""
    blocks = -(-math.prod(shape[1:]) // 8)
    return first_of(all_draws(seed, call, shape[0], blocks, first_sample).swapaxes(1, 2), shape).astype("int64")


def uniform(seed, call, shape, first_sample=0):
    """The numbers between 0 and 1, in float32."""
    return ((draws(seed, call, shape, first_sample) + 32768.5) / 65536).astype("float32")


def folded(seed, call, index):
    """The seed and the call of a key that comes from another one."""
    return tuple(int(word) for word in threefry2x32((seed, call), (index, 2**32 - 1), 13))


def mask_draws(seed, call, shape, first_sample=0):
    """The signed 16-bit draw of each element of a mask."""
    blocks = -(-math.prod(shape[1:]) // 8)
    drawn = all_draws(seed, call, shape[0], blocks, first_sample)
    # Of each of the two words its bytes, lowest first: those of even number come from a mixture.
    bytes = [np.stack([drawn[:, :, 2 + i], drawn[:, :, i]], -1).reshape(shape[0], blocks, 4) for i in (0, 1)]
    return first_of(np.stack(bytes, 1), shape)


def fold_in(seed, call, index):
    """The seed and the call of the key that comes of another."""
    return [int(word) for word in threefry2x32((seed, call), (index, 2**32 - 1), 13)]


def integers(seed, call, shape, below):
    """Integers below a bound, which may be an array, from two draws each."""
    drawn = (draws(seed, call, (shape[0], 2, *shape[1:])) + 32768).astype("float32")
    part = (drawn[:, 0] + drawn[:, 1] / np.float32(65536)) / np.float32(65536)
    below = np.asarray(below, "float32")
    return np.maximum(np.floor(np.minimum(part * below, below - 1)), 0).astype(int)


def keep_mask(seed, call, shape, rate, first_sample=0):
    return mask_draws(seed, call, shape, first_sample) >= round(rate * 65536) - 32768
