"""The kernels of `bits.py` and `multiply.py` as loops that Triton compiles, for PyTorch on the GPUs of CUDA and ROCm.

A program draws for a tile of blocks: of many samples where they are small, else of one. It reads the key and all other
numbers on the GPU, which the host need not know. The functions here take and give what those do.
"""

import contextlib

import torch
import triton
import triton.language as tl

from keras_dropouts.random.backend import materialized
from keras_dropouts.random.normals import normals_on

# The blocks of a program: two for each of its threads on CUDA, one on ROCm.
TILE = tl.constexpr(256)
# A product and a sum, rounded once, would be another number than elsewhere.
OPTIONS = {"enable_fp_fusion": False}


def keep(key, threshold, samples, blocks):
    kept = torch.empty((samples, 2, blocks), dtype=torch.int32, device=key.device)
    return _launched(_keep, kept, samples, blocks, key, threshold)


def rare(key, probability, samples, blocks):
    drawn = torch.empty((samples, 1, blocks), dtype=torch.uint8, device=key.device)
    return _launched(_rare, drawn, samples, blocks, key, probability)


def uniform(key, middle, step, samples, blocks):
    drawn = torch.empty((samples, 4, blocks, 2), device=key.device)
    return _launched(_uniform, drawn, samples, blocks, key, middle, step)


def looked_up(key, table, samples, blocks):
    drawn = torch.empty((samples, 4, blocks, 2), dtype=table.dtype, device=key.device)
    return _launched(_looked_up, drawn, samples, blocks, key, table)


def drop(inputs, key, rate, rescale):
    return _product(_drop, inputs, key, rate, RESCALE=rescale)


def times_uniform(inputs, key, width):
    return _product(_times_uniform, inputs, key, width)


def times_normal(inputs, key, stddev):
    return _product(_times_normal, inputs, key, stddev, normals_on(inputs.device))


def _product(kernel, inputs, *args, **options):
    # Samples lie one after the other, as their draws do: an input of other strides is copied.
    inputs = materialized(inputs).contiguous()
    samples = len(inputs) if inputs.ndim else 1
    size = inputs.numel() // max(samples, 1)
    return _launched(kernel, torch.empty_like(inputs), samples, (size + 7) // 8, *args, inputs, size, **options)


def _launched(kernel, result, samples, blocks, key, *args, **options):
    width = min(TILE.value, triton.next_power_of_2(max(blocks, 1)))
    across = triton.cdiv(blocks, width)
    programs = across * triton.cdiv(samples, TILE.value // width)
    if programs:
        # Triton launches on the current GPU, which need not be that of its arguments.
        with torch.cuda.device(key.device) if key.is_cuda else contextlib.nullcontext():
            kernel[(programs,)](
                result, key.contiguous(), *args, samples, blocks, across, WIDTH=width, **options, **OPTIONS
            )
    return result


@triton.jit
def _round(x0, x1, distance: tl.constexpr):
    x0 += x1
    return x0, (x1 << distance | x1 >> (32 - distance)) ^ x0


@triton.jit
def _four_rounds(x0, x1, d0: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr, d3: tl.constexpr):
    x0, x1 = _round(x0, x1, d0)
    x0, x1 = _round(x0, x1, d1)
    x0, x1 = _round(x0, x1, d2)
    return _round(x0, x1, d3)


@triton.jit
def _block(key, sample, block):
    """The words a, b, c and d of each block."""
    key0 = tl.load(key).to(tl.uint32, bitcast=True)
    key1 = tl.load(key + 1).to(tl.uint32, bitcast=True)
    first = tl.load(key + 2).to(tl.uint32, bitcast=True)
    key2 = key0 ^ key1 ^ 0x1BD11BDA
    x0, x1 = block.to(tl.uint32) + key0, sample.to(tl.uint32) + (first + key1)
    x0, x1 = _four_rounds(x0, x1, 13, 15, 26, 6)
    x0, x1 = _four_rounds(x0 + key1, x1 + (key2 + 1), 17, 29, 16, 24)
    x0, x1 = _four_rounds(x0 + key2, x1 + (key0 + 2), 13, 15, 26, 6)
    a, b = _round(x0 + key0, x1 + (key1 + 3), 17)
    x0, x1 = _round(a, b, 29)
    x0, x1 = _round(x0, x1, 16)
    x0, x1 = _round(x0, x1, 24)
    x0, x1 = _four_rounds(x0 + key1, x1 + (key2 + 4), 13, 15, 26, 6)
    c, d = x0 + key2, x1 + (key0 + 5)
    return (
        a.to(tl.int32, bitcast=True),
        b.to(tl.int32, bitcast=True),
        c.to(tl.int32, bitcast=True),
        d.to(tl.int32, bitcast=True),
    )


@triton.jit
def _places(across, WIDTH: tl.constexpr):
    """The samples (a column) and blocks (a row) of this program, in 64 bits, as what is drawn for may have more."""
    program = tl.program_id(0)
    sample = (program // across).to(tl.int64) * (TILE // WIDTH) + tl.arange(0, TILE // WIDTH)
    block = (program % across).to(tl.int64) * WIDTH + tl.arange(0, WIDTH)
    return sample[:, None], block[None, :]


@triton.jit
def _halves(word):
    """The signed 16-bit draws of each word, lower half first, along a new last axis."""
    return tl.join((word << 16) >> 16, word >> 16)


@triton.jit
def _draws(word):
    """The draws of each word, in the order in which numbers read them."""
    return _halves(word).reshape(word.shape[0], 2 * word.shape[1])


@triton.jit
def _mask_draws(even, odd):
    """The draws of each pair of words, in the order in which a mask reads them."""
    return tl.join(_halves(even), _halves(odd)).reshape(even.shape[0], 4 * even.shape[1])


@triton.jit
def _elements(i, n: tl.constexpr, sample, block, samples, blocks, size):
    """Where in memory those elements are that the i-th words serve, `n` elements a block, and which there are."""
    row = n * tl.cast(blocks, tl.int64)
    element = ((n * block)[:, :, None] + tl.arange(0, n)).reshape(1, n * block.shape[1]) + i * row
    return sample * size + element, (sample < samples) & (element < tl.minimum((i + 1) * row, size))


@triton.jit
def _bytes(even, odd, bound):
    kept = ((even << 16) >> 16 >= bound).to(tl.int32) | ((odd << 16) >> 16 >= bound).to(tl.int32) << 8
    return kept | (even >> 16 >= bound).to(tl.int32) << 16 | (odd >> 16 >= bound).to(tl.int32) << 24


# Compiled for all numbers of samples at once.
_kernel = triton.jit(do_not_specialize=["samples", "across"])


@_kernel
def _keep(kept, key, threshold, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    a, b, c, d = _block(key, sample, block)
    bound = tl.load(threshold) - 32768
    there = (sample < samples) & (block < blocks)
    place = kept + sample * 2 * blocks + block
    tl.store(place, _bytes(c, a, bound), there)
    tl.store(place + blocks, _bytes(d, b, bound), there)


@_kernel
def _rare(drawn, key, probability, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    a, b, c, d = _block(key, sample, block)
    scaled = tl.load(probability) * 65536
    whole = scaled.to(tl.int32)
    bound = (whole - 32768) * 65536 + ((scaled - whole) * 65536).to(tl.int32)
    bits = (a < bound).to(tl.uint8) | (b < bound).to(tl.uint8) << 1
    bits = bits | (c < bound).to(tl.uint8) << 2 | (d < bound).to(tl.uint8) << 3
    bits = tl.where(whole >= 65536, 15, bits)
    tl.store(drawn + sample * blocks + block, bits, (sample < samples) & (block < blocks))


@_kernel
def _uniform(drawn, key, middle, step, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    words = _block(key, sample, block)
    middle, step = tl.load(middle), tl.load(step)
    for i in tl.static_range(4):
        place, there = _elements(i, 2, sample, block, samples, blocks, 8 * tl.cast(blocks, tl.int64))
        tl.store(drawn + place, _draws(words[i]) * step + middle, there)


@_kernel
def _looked_up(drawn, key, table, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    words = _block(key, sample, block)
    for i in tl.static_range(4):
        place, there = _elements(i, 2, sample, block, samples, blocks, 8 * tl.cast(blocks, tl.int64))
        tl.store(drawn + place, tl.load(table + (_draws(words[i]) & 0xFFFF)), there)


@_kernel
def _drop(product, key, rate, inputs, size, samples, blocks, across, RESCALE: tl.constexpr, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    a, b, c, d = _block(key, sample, block)
    # Rounded to the nearest integer, ties to even: so large a number has no bits for a fraction.
    threshold = (tl.load(rate) * 65536 + 12582912.0) - 12582912.0
    bound = threshold.to(tl.int32) - 32768
    scale = tl.div_rn(65536.0, tl.maximum(65536.0 - threshold, 1.0)) if RESCALE else 1.0
    pairs = (c, a), (d, b)
    for i in tl.static_range(2):
        place, there = _elements(i, 4, sample, block, samples, blocks, size)
        kept = _mask_draws(pairs[i][0], pairs[i][1]) >= bound
        # Selected: infinity times 0 would be NaN.
        tl.store(product + place, tl.where(kept, tl.load(inputs + place, there) * scale, 0.0), there)


@_kernel
def _times_uniform(product, key, width, inputs, size, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    words = _block(key, sample, block)
    lower, upper = 1 - tl.load(width), 1 + tl.load(width)
    # The last number is 2**-16. No division: that of Triton is not to the nearest number.
    step = (upper - lower) * 1.52587890625e-05
    middle = (lower + upper) * 0.5 + step * 0.5
    for i in tl.static_range(4):
        place, there = _elements(i, 2, sample, block, samples, blocks, size)
        noise = _draws(words[i]) * step + middle
        tl.store(product + place, tl.load(inputs + place, there) * noise, there)


@_kernel
def _times_normal(product, key, stddev, table, inputs, size, samples, blocks, across, WIDTH: tl.constexpr):
    sample, block = _places(across, WIDTH)
    words = _block(key, sample, block)
    stddev = tl.load(stddev)
    for i in tl.static_range(4):
        place, there = _elements(i, 2, sample, block, samples, blocks, size)
        draws = _draws(words[i])
        # The table's second half mirrors its first, which fits in the fastest memory.
        upper = tl.load(table + (draws ^ draws >> 31))
        noise = tl.where(draws < 0, -upper, upper) * stddev + 1
        tl.store(product + place, tl.load(inputs + place, there) * noise, there)
