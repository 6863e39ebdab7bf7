"""The kernels of `bits.py` as loops over the elements, which Numba compiles, for PyTorch on a CPU.

PyTorch by itself runs the generator one operation after the other, each a pass over memory: some eighty for a mask. The
functions here take and give what those do.
"""

import numba
import numpy as np
import torch


def keep(key, threshold, samples, blocks):
    kept = torch.empty((samples, 2, blocks), dtype=torch.int32)
    _keep(kept.numpy(), key.numpy(), threshold.numpy())
    return kept


def rare(key, probability, samples, blocks):
    drawn = torch.empty((samples, 1, blocks), dtype=torch.uint8)
    _rare(drawn.numpy(), key.numpy(), probability.numpy())
    return drawn


# Zeros: a loop of one thread would wait for new memory longer than all of PyTorch's do.


def uniform(key, middle, step, samples, blocks):
    drawn = torch.zeros((samples, 4, blocks, 2))
    _uniform(drawn.numpy(), key.numpy(), middle.numpy(), step.numpy())
    return drawn


def looked_up(key, table, samples, blocks):
    drawn = torch.zeros((samples, 4, blocks, 2))
    _looked_up(drawn.numpy(), key.numpy(), table.numpy())
    return drawn


def _compiled(function):
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:
        # Neither the package nor the user has a folder that can be written to.
        return numba.njit(nogil=True)(function)


_inlined = numba.njit(inline="always")

# Numba computes with integers of 64 bits. Each cast back tells its compiler that 32 will do.


@_inlined
def _words(key):
    return np.uint32(key[0]), np.uint32(key[1]), np.uint32(key[2])


@_inlined
def _round(x0, x1, distance):
    x0 = np.uint32(x0 + x1)
    return x0, np.uint32(x1 << distance | x1 >> (32 - distance)) ^ x0


@_inlined
def _four_rounds(x0, x1, distance0, distance1, distance2, distance3):
    x0, x1 = _round(x0, x1, distance0)
    x0, x1 = _round(x0, x1, distance1)
    x0, x1 = _round(x0, x1, distance2)
    return _round(x0, x1, distance3)


@_inlined
def _block(key, sample, block):
    # Threefry2x32 written out: the compiler does not vectorise around a loop of rounds.
    key0, key1, first = key
    key2 = np.uint32(key0 ^ key1 ^ 0x1BD11BDA)
    x0, x1 = np.uint32(block + key0), np.uint32(first + sample + key1)
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + 1)
    x0, x1 = _four_rounds(x0, x1, 17, 29, 16, 24)
    x0, x1 = np.uint32(x0 + key2), np.uint32(x1 + key0 + 2)
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = np.uint32(x0 + key0), np.uint32(x1 + key1 + 3)
    x0, x1 = _round(x0, x1, 17)
    a, b = np.int32(x0), np.int32(x1)
    x0, x1 = _round(x0, x1, 29)
    x0, x1 = _round(x0, x1, 16)
    x0, x1 = _round(x0, x1, 24)
    x0, x1 = np.uint32(x0 + key1), np.uint32(x1 + key2 + 4)
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    return a, b, np.int32(x0 + key2), np.int32(x1 + key0 + 5)


@_inlined
def _lower(word):
    return np.int32(np.int32(word << 16) >> 16)


@_inlined
def _upper(word):
    return np.int32(word >> 16)


@_inlined
def _bytes(even, odd, bound):
    kept = np.int32(_lower(even) >= bound) | np.int32(_lower(odd) >= bound) << 8
    return np.int32(kept | np.int32(_upper(even) >= bound) << 16 | np.int32(_upper(odd) >= bound) << 24)


@_compiled
def _keep(kept, key, threshold):
    key, bound = _words(key), np.int32(threshold[()] - 32768)
    samples, _, blocks = kept.shape
    for sample in range(samples):
        for block in range(blocks):
            a, b, c, d = _block(key, sample, block)
            kept[sample, 0, block] = _bytes(c, a, bound)
            kept[sample, 1, block] = _bytes(d, b, bound)


@_compiled
def _rare(drawn, key, probability):
    key, p = _words(key), probability[()]
    bound = np.int32((int(p * 65536) - 32768) * 65536 + int(p * 65536 % 1 * 65536))
    samples, _, blocks = drawn.shape
    for sample in range(samples):
        for block in range(blocks):
            a, b, c, d = _block(key, sample, block)
            bits = (a < bound) | (b < bound) << 1 | (c < bound) << 2 | (d < bound) << 3
            drawn[sample, 0, block] = 15 if p >= 1 else bits


@_compiled
def _draws(words, key, sample):
    key = _words(key)
    for block in range(words.shape[1]):
        words[0, block], words[1, block], words[2, block], words[3, block] = _block(key, sample, block)


@_compiled
def _uniform(drawn, key, middle, step):
    samples, _, blocks, _ = drawn.shape
    rows, words = drawn.reshape((samples, 8 * blocks)), np.empty((4, blocks), np.int32)
    draws, middle, step = words.reshape(-1).view(np.int16), middle[()], step[()]
    for sample in range(samples):
        _draws(words, key, sample)
        for i in range(8 * blocks):
            rows[sample, i] = np.float32(draws[i]) * step + middle


@_compiled
def _looked_up(drawn, key, table):
    samples, _, blocks, _ = drawn.shape
    rows, words = drawn.reshape((samples, 8 * blocks)), np.empty((4, blocks), np.int32)
    draws = words.reshape(-1).view(np.uint16)
    for sample in range(samples):
        _draws(words, key, sample)
        for i in range(8 * blocks):
            rows[sample, i] = table[draws[i]]
