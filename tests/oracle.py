"""The random bits once more, in NumPy and 64-bit integers, from the definition in `keras_dropouts.random`."""

import math

import numpy as np

MASK = np.uint64(0xFFFFFFFF)


def threefry2x32(key, counter, rounds=13):
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


def draws(seed, call, shape, first_sample=0):
    """The signed 16-bit draw of each element of a tensor, one by one."""
    samples, size = shape[0], math.prod(shape[1:])
    blocks = -(-size // 4)
    element = np.arange(size)
    block, draw = element % blocks, element // blocks
    sample = (np.arange(samples) + first_sample)[:, None]
    first, second = threefry2x32((seed, call), (np.broadcast_to(block, (samples, size)), sample))
    word = np.where(draw < 2, first, second)
    half = np.where(draw % 2 == 0, word & np.uint64(0xFFFF), word >> np.uint64(16)).astype("int64")
    return np.where(half >= 32768, half - 65536, half).reshape(shape)


def block_draws(words):
    """The signed 16-bit draws of the eight mask elements that a block serves, along a new last axis."""
    draws = []
    for word, other in (words, words[::-1]):
        for byte in range(4):
            main, before = (word >> np.uint64(8 * i) & np.uint64(0xFF) for i in (byte, (byte - 1) % 4))
            draws.append(256 * main + (before ^ other >> np.uint64(8 * byte) & np.uint64(0xFF)))
    return np.stack(draws, -1).astype("uint16").view("int16")


def mask_draws(seed, call, shape, first_sample=0):
    """The signed 16-bit draw of each element of a mask."""
    samples, size = shape[0], math.prod(shape[1:])
    blocks = -(-size // 8)
    block, sample = np.meshgrid(np.arange(blocks), np.arange(samples) + first_sample)
    draws = block_draws(threefry2x32((seed, call), (block, sample))).reshape(samples, blocks, 2, 4)
    return draws.swapaxes(1, 2).reshape(samples, 8 * blocks)[:, :size].reshape(shape)


def keep_mask(seed, call, shape, rate, first_sample=0):
    return mask_draws(seed, call, shape, first_sample) >= round(rate * 65536) - 32768
