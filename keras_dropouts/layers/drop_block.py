import math
from typing import Any

import keras
from keras import ops

from keras_dropouts.layers.arguments import DataFormat, Rate, Sizes, checked_flag, checked_sizes
from keras_dropouts.layers.spatial_layer import SpatialLayer
from keras_dropouts.random.backend import cast, xp
from keras_dropouts.random.bits import bit_count, rare_bits, unpacked
from keras_dropouts.random.compilation import fused

# `xp` and `cast` where small operations follow each other: those of `keras.ops` would take PyTorch longer.

NEWTON_STEPS = 8


class DropBlock(SpatialLayer):
    """What DropBlock1D, 2D and 3D share.

    For convolutional features: what a dropped element knew, its neighbours know too, unless they go with it.

    Args:
        rate: How much to drop, a number in `[0, 1]` or a schedule, as for `keras_dropouts.Dropout`; the paper lets it
            rise linearly from 0 over the training. 1 drops everything.
        block_size: The {length|height and width|depth, height and width} of a block: a positive integer{
            |, or one for each axis}.
            Where the feature map is smaller, the block is as large as the map.
        per_channel: Whether each channel is dropped for itself, as in the paper, or all of them together.
        exact_rate: `False`, the paper's: blocks start with a probability that would drop the share `rate` if they
            did not overlap. They do, so that it drops less: {0.095 for 0.1 and 0.40|0.093 for 0.1 and 0.36
            |0.091 for 0.1 and 0.33} for 0.5, where a map
            has {28|14 x 14|14 x 14 x 14} positions and a block {7|7 x 7|7 x 7 x 7}. `True`: blocks start with the
            probability that makes the expected share that is dropped `rate`.
        data_format: `"channels_last"` for inputs of shape `(batch, *space, channels)`, `"channels_first"` for
            `(batch, channels, *space)`. `None`: {`"channels_last"`; after a `Conv1D` that has them first, say so
            |`keras.config.image_data_format()`}.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    What is kept is scaled by the number of elements over that of the kept ones, counted over the whole batch, as in
    the paper; where nothing is kept, the output is 0. Inference is the identity.

    Call arguments:
        inputs: A tensor of rank {3|4|5}, of a floating-point type.
        training: Whether to drop.

    Input shape:
        `(batch, *space, channels)`, or `(batch, channels, *space)` with channels first.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Ghiasi, Lin and Le, "DropBlock: A regularization method for convolutional networks", NeurIPS 2018,
        arXiv 1810.12890, algorithm 1 and equation 1.
    """

    def __init__(
        self,
        rate: Rate,
        block_size: Sizes,
        per_channel: bool = True,
        exact_rate: bool = False,
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(rate, data_format, seed, **kwargs)
        self.block_size = checked_sizes("block_size", block_size, self.dimensions)
        self.per_channel = checked_flag("per_channel", per_channel)
        self.exact_rate = checked_flag("exact_rate", exact_rate)

    def training_call(self, inputs, key, rate):
        # No block fits.
        return inputs if 0 in tuple(inputs.shape) else super().training_call(inputs, key, rate)

    def keep_mask(self, inputs, key, rate):
        shape = list(ops.shape(inputs))
        channels, space, limits = self._channels, self._space, self._of_each_axis(self.block_size)
        if not self.per_channel:
            shape[channels] = 1
        sizes = [shape[axis] for axis in space]
        blocks = [_smaller(size, block) for size, block in zip(sizes, limits, strict=True)]
        gamma = (_exact_gamma if self.exact_rate else _paper_gamma)(rate, sizes, blocks)
        # Four channels share a byte.
        seeds = [*shape]
        seeds[channels] = (shape[channels] + 3) // 4
        for axis, size, block in zip(space, sizes, blocks, strict=True):
            seeds[axis] = size - block + 1
        seeds = rare_bits(key, seeds, gamma)
        largest = [block if isinstance(block, int) else n for block, n in zip(blocks, limits, strict=True)]
        steps = tuple((block - 1).bit_length() for block in largest)
        keep, dropped = _spread(seeds, shape[channels], channels, space, tuple(blocks), steps)
        # Counted in integers and summed in float32; float16 ends at 65504.
        total = ops.cast(shape[0], "float32") * ops.cast(math.prod(shape[1:]), "float32")
        kept = total - ops.sum(cast(dropped, "float32"))
        return keep, xp.where(kept > 0, total / kept, 0.0)

    def get_config(self):
        return {
            **super().get_config(),
            "block_size": self.block_size,
            "per_channel": self.per_channel,
            "exact_rate": self.exact_rate,
        }


def _smaller(size, block):
    return min(size, block) if isinstance(size, int) else ops.minimum(size, block)


def _paper_gamma(rate, sizes, blocks):
    """Equation 1 of the paper."""
    factor = math.prod(size / (block * (size - block + 1)) for size, block in zip(sizes, blocks, strict=True))
    return xp.where(rate < 1, rate * ops.cast(factor, "float32"), 1.0)


def _exact_gamma(rate, sizes, blocks):
    """Solves mean(1 - (1 - gamma)**n) = rate, where n counts the seeds that reach a position.

    In s = -log(1 - gamma) the logarithm of the kept fraction, log(mean(exp(-s * n))), is convex and falls. Newton's
    method, started below the root, therefore climbs to it and never passes it.
    """
    count, share = ops.ones((1,), "float32"), ops.ones((1,), "float32")
    for size, block in zip(sizes, blocks, strict=True):
        # Along an axis: n rises from 1 to most, stays there, and falls to 1.
        most = _smaller(size - block + 1, block)
        n = ops.arange(1, most + 1, dtype="float32")
        inner = ops.cast(size - 2 * most + 2, "float32")
        weight = ops.where(n < ops.cast(most, "float32"), 2.0, inner) / ops.cast(size, "float32")
        count = ops.reshape(count[:, None] * n, (-1,))
        share = ops.reshape(share[:, None] * weight, (-1,))
    target = ops.log1p(-ops.minimum(rate, 1 - 2**-24))
    s = -target / ops.sum(share * count)
    for _ in range(NEWTON_STEPS):
        kept = share * ops.exp(-s * count)
        s = s + (ops.log1p(ops.sum(share * ops.expm1(-s * count))) - target) * ops.sum(kept) / ops.sum(kept * count)
    return ops.where(rate < 1, -ops.expm1(-s), 1.0)


@fused
def _spread(seeds, size, channels, space, blocks, steps):
    """Returns the mask that the seeds leave, and how many elements of each sample it drops.

    Args:
        seeds: What `rare_bits` drew for the places where a block may start, four channels in a byte.
        size: How many channels there are.
        channels: Their axis.
        space: The axes of space.
        blocks: The size of a block along each of them.
        steps: How often a run must double to get that long.
    """
    dropped = seeds
    for axis, block, n in zip(space, blocks, steps, strict=True):
        dropped = _dilate(dropped, axis, block, n)
    shape = list(ops.shape(dropped))
    shape[channels] = 4 * shape[channels]
    keep = xp.reshape(_unpack(dropped ^ 15, channels), shape)
    if not isinstance(size, int) or size % 4:
        keep = keep[(slice(None),) * channels + (slice(size),)]
        shape[channels] = size
        dropped = dropped & _present(size, len(seeds.shape) - 1 - channels)
    return keep, bit_count(dropped)


def _present(size, axes):
    """The bits of each byte that stand for a channel, with so many axes of size 1 behind."""
    if isinstance(size, int):
        bits = [2 ** min(size - first, 4) - 1 for first in range(0, size, 4)]
    else:
        bits = 2 ** ops.minimum(size - 4 * ops.arange((size + 3) // 4), 4) - 1
    return ops.reshape(ops.cast(bits, "uint8"), (-1,) + (1,) * axes)


def _dilate(x, axis, block, steps):
    """Spreads each bit over `block` positions from its own on; the axis grows by `block - 1`."""
    if not steps:
        return x
    shape = list(ops.shape(x))
    # Flat, a shift along the axis is one of long runs of bytes.
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    half = _smaller(block, 2 ** (steps - 1))
    margin = ops.zeros((outer, (half - 1) * inner), x.dtype)
    x = xp.concat([margin, xp.reshape(x, (outer, shape[axis] * inner)), margin], axis=1)
    run, length = 1, shape[axis] + 2 * (half - 1)
    for _ in range(steps - 1):
        step = _smaller(half - run, run)
        run, length = run + step, length - step
        x = x[:, step * inner :] | x[:, : length * inner]
    # The last step joins where it could cut: XLA computes what it joins once, what it cuts at every use.
    step = block - half
    rest = length - step
    first, last = x[:, : step * inner], x[:, rest * inner :]
    x = xp.concat([first, x[:, step * inner :] | x[:, : rest * inner], last], axis=1)
    shape[axis] = shape[axis] + block - 1
    return xp.reshape(x, shape)


def _unpack(x, channels):
    """Spreads the bits of each byte over a new axis behind the channels'."""
    if channels == len(x.shape) - 1:
        return unpacked(x)
    bits = ops.reshape(ops.convert_to_tensor([1, 2, 4, 8], "uint8"), (4,) + (1,) * (len(x.shape) - 1 - channels))
    return ops.not_equal(ops.bitwise_and(ops.expand_dims(x, channels + 1), bits), 0)


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropBlock1D(DropBlock):
    """Drops runs of neighbouring positions of each feature map while training, and scales up the rest.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import DropBlock1D
    >>> layer = DropBlock1D(0.3, block_size=3, seed=4)
    >>> y = np.array(layer(np.ones((1, 14, 1), "float32"), training=True))
    >>> print((y[0, :, 0] > 0).astype(int))
    [1 1 1 1 0 0 0 0 0 1 1 1 1 1]
    """

    dimensions = 1


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropBlock2D(DropBlock):
    """Drops rectangular blocks of each feature map while training, and scales up the rest.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import DropBlock2D
    >>> layer = DropBlock2D(0.3, block_size=3, data_format="channels_last", seed=1)
    >>> y = np.array(layer(np.ones((1, 6, 10, 1), "float32"), training=True))
    >>> print((y[0, :, :, 0] > 0).astype(int))
    [[1 1 1 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 1 1 1]
     [1 1 1 1 1 1 1 1 1 1]
     [1 0 0 0 1 1 0 0 0 1]
     [1 0 0 0 1 1 0 0 0 1]
     [1 0 0 0 1 1 0 0 0 1]]
    """

    dimensions = 2


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropBlock3D(DropBlock):
    """Drops cuboid blocks of each feature map while training, and scales up the rest.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import DropBlock3D
    >>> layer = DropBlock3D(0.5, block_size=2, data_format="channels_last", seed=2)
    >>> y = np.array(layer(np.ones((1, 3, 4, 5, 1), "float32"), training=True))
    >>> print((y[0, ..., 0] > 0).astype(int))
    [[[1 0 0 1 1]
      [1 0 0 1 1]
      [0 0 1 1 1]
      [0 0 1 1 1]]
    <BLANKLINE>
     [[1 0 0 0 0]
      [1 0 0 0 0]
      [0 0 1 1 1]
      [0 0 1 1 1]]
    <BLANKLINE>
     [[1 0 0 0 0]
      [1 0 0 0 0]
      [1 1 1 1 1]
      [1 1 1 1 1]]]
    """

    dimensions = 3
