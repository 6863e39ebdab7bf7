"""The kernels of `bits.py` and `multiply.py` as loops over the elements, which Numba compiles, for PyTorch on a CPU.

PyTorch by itself runs the generator one operation after the other, each a pass over memory: some eighty for a mask. The
functions here take and give what those do.
"""

import numba
import numpy as np
import torch
from numba.extending import intrinsic

from keras_dropouts.random.backend import materialized
from keras_dropouts.random.normals import normals_on

# Blocks that a loop of products draws for at a time: what it draws stays in the fastest memory.
CHUNK = 256


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


def drop(inputs, key, rate, rescale):
    return _product(_drop, inputs, key, rate, rescale)


def times_uniform(inputs, key, width):
    return _product(_times_uniform, inputs, key, width)


def times_normal(inputs, key, stddev):
    return _product(_times_normal, inputs, key, stddev, normals_on(inputs.device).data_ptr())


def _product(loop, inputs, key, number, *args):
    inputs = materialized(inputs)
    # Samples lie one after the other, as their draws do. What has to be copied for that is written over.
    operand = (inputs if inputs.dtype in ZEROS else inputs.float()).contiguous()
    product = torch.empty_like(inputs) if operand is inputs else operand
    samples = inputs.shape[0] if inputs.ndim else 1
    size = inputs.numel() // max(samples, 1)
    blocks = samples * ((size + 7) // 8)
    key = key.contiguous()

    # Addresses: the arrays of NumPy that a loop could take instead are ten times as long in the making.
    addresses = product.data_ptr(), operand.data_ptr(), key.data_ptr(), number.data_ptr()
    loop(ZEROS[product.dtype], *addresses, *args, size, blocks)
    return product if operand is inputs else product.to(inputs.dtype)


# The types that the loops compute in. Numba compiles one for that of such a number.
ZEROS = {torch.float32: np.float32(0), torch.float64: 0.0}


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


@intrinsic
def _pointer(typing, address, like):
    """A pointer to that address, at which there are numbers of the type of `like`."""

    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return numba.types.CPointer(like)(address, like), code


@_compiled
def _drawn(words, parts, key, blocks, start, n):
    """Fills `words` for `n` blocks of all samples' from `start` on, and `parts` with what a sample has of those.

    A part is the place of its words, its number of blocks, its sample and its first block. Returns how many there are.
    """
    sample, block, place, count = start // blocks, start % blocks, 0, 0
    while place < n:
        length = min(n - place, blocks - block)
        parts[count, 0], parts[count, 1], parts[count, 2], parts[count, 3] = place, length, sample, block
        for i in range(length):
            words[0, place + i], words[1, place + i] = np.int32(block + i), np.int32(sample)
        place, sample, block, count = place + length, sample + 1, 0, count + 1
    for i in range(n):
        words[0, i], words[1, i], words[2, i], words[3, i] = _block(key, words[1, i], words[0, i])
    return count


@_inlined
def _served(part, row, n, size, blocks):
    """The elements that a part's words of one row serve, `n` a block: the first, and how many there are."""
    first = n * (row * blocks + part[3])
    return part[2] * size + first, min(n * part[1], size - first)


@_compiled
def _multiply(product, inputs, noise, parts, count, size, blocks, selects):
    """Multiplies what a chunk's blocks serve by the noise; where it `selects`, noise of 0 gives 0 from any input."""
    rows, n = noise.shape[0], 8 // noise.shape[0]
    for part in range(count):
        for row in range(rows):
            first, length = _served(parts[part], row, n, size, blocks)
            if length <= 0:
                break
            there = noise[row, n * parts[part, 0] :]
            if selects:
                for i in range(length):
                    scaled = inputs[first + i] * there[i]
                    product[first + i] = scaled if there[i] != 0 else 0
            else:
                for i in range(length):
                    product[first + i] = inputs[first + i] * there[i]


@_compiled
def _drop(zero, product, inputs, key, rate, rescale, size, stop):
    product, inputs = _pointer(product, zero), _pointer(inputs, zero)
    key, blocks = _words(_pointer(key, np.int32(0))), (size + 7) // 8
    # Rounded to the nearest integer, ties to even: so large a number has no bits for a fraction.
    threshold = (_pointer(rate, np.float32(0))[0] * np.float32(65536) + np.float32(12582912)) - np.float32(12582912)
    bound = np.int32(np.int32(threshold) - 32768)
    scale = np.float32(65536) / max(np.float32(65536) - threshold, np.float32(1)) if rescale else np.float32(1)
    words, parts = np.empty((4, CHUNK), np.int32), np.empty((CHUNK, 4), np.int64)
    kept, noise = words[:2].view(np.uint8), np.empty((2, 4 * CHUNK), np.float32)
    for place in range(0, stop, CHUNK):
        n = min(CHUNK, stop - place)
        count = _drawn(words, parts, key, blocks, place, n)
        for i in range(n):
            even, odd = _bytes(words[2, i], words[0, i], bound), _bytes(words[3, i], words[1, i], bound)
            words[0, i], words[1, i] = even, odd
        for i in range(2):
            for j in range(4 * n):
                noise[i, j] = scale if kept[i, j] != 0 else np.float32(0)
        _multiply(product, inputs, noise, parts, count, size, blocks, True)


@_compiled
def _times_uniform(zero, product, inputs, key, width, size, stop):
    product, inputs = _pointer(product, zero), _pointer(inputs, zero)
    key, blocks = _words(_pointer(key, np.int32(0))), (size + 7) // 8
    width = _pointer(width, np.float32(0))[0]
    lower, upper = np.float32(1) - width, np.float32(1) + width
    step = (upper - lower) * np.float32(2**-16)
    middle = (lower + upper) * np.float32(0.5) + step * np.float32(0.5)
    words, parts = np.empty((4, CHUNK), np.int32), np.empty((CHUNK, 4), np.int64)
    draws, noise = words.view(np.int16), np.empty((4, 2 * CHUNK), np.float32)
    for place in range(0, stop, CHUNK):
        n = min(CHUNK, stop - place)
        count = _drawn(words, parts, key, blocks, place, n)
        for i in range(4):
            for j in range(2 * n):
                noise[i, j] = draws[i, j] * step + middle
        _multiply(product, inputs, noise, parts, count, size, blocks, False)


@_compiled
def _times_normal(zero, product, inputs, key, stddev, table, size, stop):
    product, inputs = _pointer(product, zero), _pointer(inputs, zero)
    key, blocks = _words(_pointer(key, np.int32(0))), (size + 7) // 8
    stddev, table = _pointer(stddev, np.float32(0))[0], _pointer(table, np.float32(0))
    words, parts = np.empty((4, CHUNK), np.int32), np.empty((CHUNK, 4), np.int64)
    draws, noise = words.view(np.uint16), np.empty((4, 2 * CHUNK), np.float32)
    for place in range(0, stop, CHUNK):
        n = min(CHUNK, stop - place)
        count = _drawn(words, parts, key, blocks, place, n)
        for i in range(4):
            for j in range(2 * n):
                noise[i, j] = table[draws[i, j]] * stddev + np.float32(1)
        _multiply(product, inputs, noise, parts, count, size, blocks, False)
