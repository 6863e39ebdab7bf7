"""Random bits: the same on TensorFlow, JAX and PyTorch, eager and compiled.

The rules here:

- Every bit comes from Threefry2x32 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). The key is
  (seed, call), the counter is (block in the sample, sample), so a sample's bits do not depend on the rest of the batch.
- A block serves eight elements: a sample of n takes q = ceil(n / 8) of them. It is four 32-bit words: a and b after 13
  rounds, the fewest that the authors found Crush-resistant, and c and d after 20. (Words that are as few as 3 to 6
  rounds apart are not independent: parities of a handful of their bits are far from fair, see
  `benchmarks/moments.py`.) Each half of a word is a signed 16-bit draw.
- Numbers read the halves, the lower one first, of the q words a, then of the q words b, c and d. A mask reads the
  draws of c, a, c, a (lower half, lower, upper, upper) of each block, then those of d and b: compared, they are the
  bytes of q words, then of q more.
- Nothing is drawn in the input's dtype, and nothing is kept for the backward pass but the key.

All this is version 2 of the bits. Another version is another `BITS_VERSION`, which files keep beside a layer's state;
from 1.0 of the package on, it comes with a major release only.
"""

import math

import keras
import numpy as np

from keras_dropouts.random.arguments import Shape, Tensor, checked_scalar, checked_shape
from keras_dropouts.random.backend import BACKEND, WORD, bits_as, cast, indices, rounded, shift_left, shift_right, xp
from keras_dropouts.random.compilation import fused, kernel, numba_kernels, opened, run, triton_kernels
from keras_dropouts.random.normals import normals
from keras_dropouts.random.threefry import threefry2x32

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax.numpy as jnp
else:
    import torch

    from keras_dropouts.random.normals import normals_on

BITS_VERSION = 2


def _words(key, samples, blocks):
    """The words a, b, c and d of each block: int32 of shape (samples, blocks).

    For all samples as one, `blocks` is a pair: how many there are, and how many of them are a sample's.
    """
    if isinstance(blocks, tuple):
        place, each = indices(blocks[0], key)[None], cast(blocks[1], WORD)
        return opened(_encrypted, key, place % each, place // each + key[2])
    return opened(_encrypted, key, indices(blocks, key)[None], (indices(samples, key) + key[2])[:, None])


def _encrypted(key, block, sample):
    return [bits_as(word, "int32") for word in threefry2x32((key[0], key[1]), (block, sample), 13, 20)]


def _halves(words):
    """The two signed 16-bit draws of each word, lower half first, along a new last axis; int16 on PyTorch."""
    if BACKEND == "torch":
        # Flat first: a tensor without entries may have strides that other types do not take.
        return words.view(-1).view(torch.int16).view(*words.shape, 2)
    return shift_right(shift_left(words[..., None], np.array([16, 0], "int32")), 16)


@kernel(cpu=numba_kernels and numba_kernels.keep, cuda=triton_kernels and triton_kernels.keep)
def _keep(key, threshold, samples, blocks):
    """Words whose bytes are 1 for the elements to keep, else 0: int32 of shape (samples, 2, blocks)."""
    draws, bound = _words(key, samples, blocks), threshold - 32768
    if BACKEND == "torch":
        kept = torch.empty((samples, 2, blocks), dtype=torch.int32, device=key.device)
        bound16 = bound.clamp(-32768, 32767).to(torch.int16)
        for word in draws:
            _halves(word).ge_(bound16)
        for i in range(2):
            torch.add(draws[2 + i], draws[i], alpha=256, out=kept[:, i])
        # No 16-bit bound is above all draws, so that a rate of 1 needs the factor 0.
        return kept.mul_(bound < 32768)
    kept = []
    for odd, even in zip(draws[:2], draws[2:], strict=True):
        order = (even * 65536, odd * 65536, even, odd)
        bytes = (cast(shift_right(word, 16) >= bound, "int32") * 256**i for i, word in enumerate(order))
        kept.append(sum(bytes))
    return _joined(kept)


@kernel(cpu=numba_kernels and numba_kernels.rare, cuda=triton_kernels and triton_kernels.rare)
def _rare(key, probability, samples, blocks):
    # 2**32 times the probability, less 2**31. The float itself could not tell such numbers apart.
    scaled = probability * 65536
    bound = (cast(scaled, "int32") - 32768) * 65536 + cast(scaled % 1 * 65536, "int32")
    words = _words(key, samples, blocks)
    if BACKEND == "torch":
        drawn = words[0].lt_(bound)
        for i in range(1, 4):
            drawn.add_(words[i].lt_(bound), alpha=2**i)
        drawn = drawn.to(torch.uint8)
    else:
        drawn = sum(cast(word < bound, "uint8") * 2**i for i, word in enumerate(words))
    return (drawn | cast(probability >= 1, "uint8") * 15)[:, None]


@kernel(cpu=numba_kernels and numba_kernels.uniform, cuda=triton_kernels and triton_kernels.uniform)
def _uniform(key, middle, step, samples, blocks):
    """The draws times `step`, plus `middle`."""
    draws = _words(key, samples, blocks)
    if BACKEND == "torch":
        uniform = torch.empty((samples, 4, blocks, 2), device=key.device)
        for i, word in enumerate(draws):
            uniform[:, i] = _halves(word)
    else:
        uniform = cast(_halves(_joined(draws)), "float32")
    uniform *= step
    uniform = rounded(uniform)
    uniform += middle
    return uniform


@kernel(cpu=numba_kernels and numba_kernels.looked_up, cuda=triton_kernels and triton_kernels.looked_up)
def _looked_up(key, table, samples, blocks):
    """The entries of a table of 65536 at the bits of the draws."""
    draws = _words(key, samples, blocks)
    if BACKEND == "torch":
        entries = torch.empty((samples, 4, 2 * blocks), dtype=table.dtype, device=key.device)
        # Once for each sample: PyTorch shares work among rows. A word at a time, to index with less memory.
        rows = table.expand(samples, -1)
        for i, word in enumerate(draws):
            bits = _halves(word).view(torch.uint16).view(samples, 2 * blocks).long()
            entries[:, i] = rows.gather(1, bits)
        return entries.view(samples, 4, blocks, 2)
    bits = _halves(_joined(draws)) & 0xFFFF
    return tf.gather(table, bits) if BACKEND == "tensorflow" else jnp.take(table, bits, mode="clip")


def _joined(draws):
    """One tensor of shape (samples, n, blocks) of n of shape (samples, blocks).

    Not stacked: XLA computes what it joins along an axis that is there once, else for each entry that is read.
    """
    samples, blocks = keras.ops.shape(draws[0])
    return xp.reshape(xp.concat(draws, axis=1), (samples, len(draws), blocks))


def _filled(draw, shape):
    """Reshapes what `draw(samples, blocks)` gives to `shape`, whose entries may be scalar tensors on TensorFlow."""
    shape = checked_shape(shape)
    samples, size = (shape[0], math.prod(shape[1:])) if len(shape) else (1, 1)
    blocks = (size + 7) // 8
    drawn = xp.reshape(draw(samples, blocks), (samples, 8 * blocks))
    if not isinstance(size, int) or size % 8:
        drawn = drawn[:, :size]
    return xp.reshape(drawn, shape)


def threshold_of(rate):
    """The rate in 65536ths, a float32 scalar without fraction: masks draw every rate as a multiple of 2**-16."""
    return xp.round(checked_scalar("rate", rate, 0, 1) * 65536.0)


def keep_probability(rate: float | Tensor) -> Tensor:
    """Returns the probability with which `keep_mask` keeps an element: 1 less the rate, to the nearest 2**-16.

    Args:
        rate: A number in `[0, 1]`, or a float tensor without axes, whose values are not looked at.

    Returns:
        A float32 tensor without axes.

    Raises:
        ValueError: Where `rate` is not as described.

    Example:

    >>> from keras_dropouts import random
    >>> float(random.keep_probability(0.001)) == 1 - 66 / 2**16
    True
    """
    return 1.0 - threshold_of(rate) / 65536.0


def keep_scale(rate: float | Tensor) -> Tensor:
    """Returns what to multiply that by which `keep_mask` keeps, for its mean to stay: 1 over `keep_probability`.

    Args:
        rate: As for `keep_probability`.

    Returns:
        A float32 tensor without axes; 65536 for a rate of 1, which keeps nothing.

    Raises:
        ValueError: Where `rate` is not as described.

    Example:

    >>> from keras_dropouts import random
    >>> float(random.keep_scale(0.75))
    4.0
    """
    kept = 65536.0 - threshold_of(rate)
    return 65536.0 / xp.maximum(kept, xp.ones_like(kept))


def keep_mask(key: Tensor, shape: Shape, rate: float | Tensor) -> Tensor:
    """Draws which elements to keep, each with the same probability and independently.

    The same key, shape and rate give the same mask on TensorFlow, JAX and PyTorch, eager and compiled; a sample's part
    does not depend on how many others there are.

    Args:
        key: What `key` or `fold_in` returned, or what a hook of a `RandomLayer` is given. A key serves one tensor.
        shape: The mask's shape, a tuple or list; sizes that are not known yet may be as `keras.ops.shape` returns
            them. The first axis counts samples, if there is one.
        rate: The probability of dropping, taken to the nearest 2**-16: a number in `[0, 1]`, or a float tensor without
            axes, whose values are not looked at.

    Returns:
        A boolean tensor of `shape`.

    Raises:
        ValueError: Where an argument is not as described.

    Example:

    >>> from keras_dropouts import random
    >>> mask = random.keep_mask(random.key(seed=1), (32, 100), rate=0.25)
    >>> tuple(mask.shape)
    (32, 100)
    """
    threshold = cast(threshold_of(rate), "int32")

    def draw(samples, blocks):
        words = run(_keep, key, samples, blocks, threshold)
        if BACKEND == "torch" and torch.compiler.is_compiling():
            # Inductor reads booleans one by one, which takes longer than all else in the loop that selects.
            return words.view(torch.uint8).int() != 0
        return _booleans(words)

    return _filled(draw, shape)


def rare_bits(key, shape, probability):
    """Draws four bits for each element, of any probability: to 2**-32, where `keep_mask` has 2**-17.

    Args:
        key: What `key_of` gave.
        shape: As for `keep_mask`.
        probability: Float32 scalar tensor, that of a 1.

    Returns:
        A uint8 tensor of `shape`, the bits in its lower half.
    """
    return xp.reshape(run(_rare, key, shape[0], math.prod(shape[1:]), probability), shape)


def unpacked(bits):
    """What `rare_bits` gave, or what was made of it, as booleans, with a new last axis of 4."""
    # Each bit to the bottom of its own byte of a word, and the word taken for four bytes.
    words = cast(bits, "int32")
    words *= 0x00204081
    words &= 0x01010101
    return _booleans(words)


def bit_count(bits):
    """The number of ones in each sample of such bits, int32."""
    pairs = bits - (shift_right(bits, 1) & 5)
    nibbles = (pairs & 3) + shift_right(pairs, 2)
    counts = cast(xp.reshape(nibbles, (keras.ops.shape(bits)[0], -1)), "int32")
    # PyTorch adds up in int64 if not told, five times as slow.
    return counts.sum(1, dtype=torch.int32) if BACKEND == "torch" else keras.ops.sum(counts, 1)


def _booleans(words):
    """The four bytes of each word, lowest first, each 0 or 1, along a new last axis."""
    if BACKEND == "tensorflow":
        return tf.cast(tf.bitcast(words, tf.uint8), tf.bool)
    if BACKEND == "jax":
        # No bitcast: what `jax.export` saves for a batch of any size could not be run.
        return words[..., None] >> np.arange(0, 32, 8, dtype="int32") & 1 != 0
    return words.view(torch.bool).view(*words.shape, 4)


def uniform(key: Tensor, shape: Shape, minval: float | Tensor = 0.0, maxval: float | Tensor = 1.0) -> Tensor:
    """Draws float32 numbers, each one of 65536 equally likely and equally spaced values between two bounds.

    The values are the middles of as many intervals: but for rounding, neither bound is among them.

    Args:
        key: What `key` or `fold_in` returned, or what a hook of a `RandomLayer` is given. A key serves one tensor.
        shape: As for `keep_mask`.
        minval: The lower bound: a number, or a float tensor without axes.
        maxval: The upper bound, likewise.

    Returns:
        A float32 tensor of `shape`.

    Raises:
        ValueError: Where an argument is not as described.

    Example:

    >>> import keras
    >>> from keras_dropouts import random
    >>> x = keras.ops.convert_to_numpy(random.uniform(random.key(seed=1), (4, 100), minval=-1.0))
    >>> bool((abs(x) < 1).all())
    True
    """
    minval, maxval = checked_scalar("minval", minval), checked_scalar("maxval", maxval)
    # In parts, for bounds whose difference or sum would overflow.
    step = maxval / 65536 - minval / 65536
    # A draw of -1 or 0 is next to the middle.
    middle = (minval / 2 + maxval / 2) + step / 2
    return _filled(lambda samples, blocks: run(_uniform, key, samples, blocks, middle, step), shape)


def normal(key: Tensor, shape: Shape, mean: float | Tensor = 0.0, stddev: float | Tensor = 1.0) -> Tensor:
    """Draws float32 normal deviates, each one of 65536 equally likely values.

    Args:
        key: What `key` or `fold_in` returned, or what a hook of a `RandomLayer` is given. A key serves one tensor.
        shape: As for `keep_mask`.
        mean: The mean: a number, or a float tensor without axes.
        stddev: The standard deviation, likewise. The values are the mean and up to 4.3 deviations on both sides.

    Returns:
        A float32 tensor of `shape`.

    Raises:
        ValueError: Where an argument is not as described.

    Example:

    >>> import keras
    >>> from keras_dropouts import random
    >>> x = keras.ops.convert_to_numpy(random.normal(random.key(seed=1), (4, 100), stddev=2.0))
    >>> bool((abs(x) < 8.7).all())
    True
    """
    mean, stddev = checked_scalar("mean", mean), checked_scalar("stddev", stddev)
    table = _scaled_normals(stddev, mean)
    return _filled(lambda samples, blocks: run(_looked_up, key, samples, blocks, table), shape)


@fused
def _scaled_normals(stddev, mean):
    table = normals_on(stddev.device) if BACKEND == "torch" else keras.ops.convert_to_tensor(normals())
    return rounded(table * stddev) + mean
