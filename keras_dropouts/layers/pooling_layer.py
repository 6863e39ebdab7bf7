import itertools
from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts.layers.arguments import (
    DataFormat,
    Sizes,
    checked_choice,
    checked_data_format,
    checked_inputs,
    checked_sizes,
)
from keras_dropouts.layers.spatial_layer import SpatialAxes


class PoolingLayer(SpatialAxes):
    """Base of the families of layers that pool, by windows as those of Keras's `MaxPooling1D`, `2D` and `3D`.

    Args:
        pool_size, strides, padding, data_format: As for those.
        **kwargs: As for the layer that a family draws by.
    """

    def __init__(
        self,
        pool_size: Sizes = 2,
        strides: Sizes | None = None,
        padding: Literal["valid", "same"] = "valid",
        data_format: DataFormat = None,
        **kwargs: Any,
    ):
        # Of sequences too, as Keras's own pooling.
        super().__init__(checked_data_format(data_format), **kwargs)
        self.pool_size = checked_sizes("pool_size", pool_size, self.dimensions)
        self.strides = checked_sizes("strides", pool_size if strides is None else strides, self.dimensions)
        self.padding = checked_choice("padding", padding, "valid", "same")
        # A mask of timesteps does not fit the windows.
        self.supports_masking = False

    def _checked(self, inputs):
        """Returns the inputs, after a look at their type and size."""
        inputs = checked_inputs(self, inputs)
        self._check_size(inputs.shape)
        return inputs

    def _check_size(self, input_shape):
        least = self._of_each_axis(self.pool_size if self.padding == "valid" else 1)
        sizes = [input_shape[axis] for axis in self._space]
        if any(n is not None and n < size for n, size in zip(sizes, least, strict=True)):
            raise ValueError(
                f"`pool_size` must be no larger than the inputs, or `padding` 'same'. "
                f"Received: pool_size={self.pool_size!r} for inputs of shape {tuple(input_shape)}"
            )

    def _windows(self):
        """Returns the size of a window and the stride to the next, for each axis of space."""
        return tuple(zip(*map(self._of_each_axis, (self.pool_size, self.strides)), strict=True))

    def _padded(self, inputs, value):
        """Returns the inputs with this value around them, where windows reach over the edge."""
        if self.padding == "valid":
            return inputs
        shape = ops.shape(inputs)
        edges = [(0, 0)] * len(shape)
        for axis, (size, stride) in zip(self._space, self._windows(), strict=True):
            missing = size - 1 - (shape[axis] - 1) % stride
            if size < stride:
                # At least 0, in arithmetic that a size of any kind takes.
                missing = (missing + abs(missing)) // 2
            edges[axis] = (missing // 2, missing - missing // 2)
        return ops.pad(inputs, edges, constant_values=value)

    def _max_pool(self, inputs):
        return ops.max_pool(inputs, self.pool_size, self.strides, self.padding, self.data_format)

    def compute_output_shape(self, input_shape):
        self._check_size(input_shape)
        return self._max_pool(keras.KerasTensor(input_shape)).shape

    def get_config(self):
        config = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
        return {**super().get_config(), **config}


def places(inputs, first, windows):
    """Returns a tensor for each place in a window: the elements there of all windows.

    Args:
        inputs: The tensor to pool, padded.
        first: The first axis of space.
        windows: The size of a window and the stride to the next, for each axis of space.
    """
    shape = ops.shape(inputs)
    if all(size == stride for size, stride in windows):
        # One pass there and one back, where a gradient of slices is a tensor of zeros for each.
        last = first + len(windows)
        counts = [shape[axis] // size for axis, (size, _) in enumerate(windows, first)]
        covered = [slice(0, n * size) for n, (size, _) in zip(counts, windows, strict=True)]
        inputs = inputs[(slice(None),) * first + tuple(covered)]
        split = [n for count, (size, _) in zip(counts, windows, strict=True) for n in (count, size)]
        tensors = [ops.reshape(inputs, (*shape[:first], *split, *shape[last:]))]
        for axis, (size, _) in enumerate(windows, first + 1):
            tensors = [place for tensor in tensors for place in ops.unstack(tensor, size, axis)]
        return tensors
    offsets = itertools.product(*(range(size) for size, _ in windows))
    tensors = []
    for offset in offsets:
        index = [slice(None)] * len(shape)
        for axis, ((size, stride), i) in enumerate(zip(windows, offset, strict=True), first):
            index[axis] = slice(i, shape[axis] - size + i + 1, stride)
        tensors.append(inputs[tuple(index)])
    return tensors
