import inspect
import re
from typing import Any

import keras

from keras_dropouts.layers.arguments import DataFormat, Rate, checked_data_format
from keras_dropouts.layers.base import RandomLayer

SPACE = "timesteps", "height, width", "depth, height, width"


class SpatialAxes(keras.layers.Layer):
    """Base of the families of layers for sequences, images and volumes, which have one, two and three axes of space.

    A family is a subclass that does the work, by `_space` and `_channels`, and describes it from its second paragraph
    on. Its variants say `dimensions = n`, and have a docstring of two parts: the summary, and the example. Between
    these comes the family's text, where `*space` stands for the names of a variant's axes, and each reads its own of
    the words in braces: `{one|two|three}`, or `{one|more}`. Line breaks at the ends of the words do not count.

    Args:
        data_format: `"channels_last"`, `"channels_first"`, or `None` for the default: `"channels_last"` for sequences,
            else `keras.config.image_data_format()`.
        **kwargs: As for the layer that a family draws by.

    Raises:
        ValueError: Where an argument is not as described.
    """

    dimensions: int

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # There are no docstrings in `python -OO`.
        if "dimensions" in vars(cls) and cls.__doc__:
            cls.__doc__ = _description(cls.__doc__, cls.__base__.__doc__, cls.dimensions)

    def __init__(self, data_format: DataFormat = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.data_format = checked_data_format(data_format, self.dimensions)
        self.input_spec = keras.InputSpec(ndim=self.dimensions + 2)

    @property
    def _channels(self):
        """The axis of the channels."""
        return 1 if self.data_format == "channels_first" else self.dimensions + 1

    @property
    def _space(self):
        """The axes of space."""
        first = 2 if self.data_format == "channels_first" else 1
        return tuple(range(first, first + self.dimensions))

    def _of_each_axis(self, sizes):
        """Returns a size for each axis of space, from what `checked_sizes` returns."""
        return sizes if isinstance(sizes, tuple) else (sizes,) * self.dimensions

    def get_config(self):
        return {**super().get_config(), "data_format": self.data_format}


class SpatialLayer(SpatialAxes, RandomLayer):
    """Base of such families that have a rate.

    Args:
        rate: As for `keras_dropouts.Dropout`.
        data_format: As for `SpatialAxes`.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, rate: Rate, data_format: DataFormat = None, seed: int | None = None, **kwargs: Any):
        super().__init__(data_format, rate=rate, seed=seed, **kwargs)


class FeatureMapLayer(SpatialLayer):
    """Base of the families of layers with a `noise_shape` that have one draw for each feature map.

    Args:
        rate, data_format, seed: As for `SpatialLayer`.
        name, dtype: As for `keras.layers.Layer`, in the places that they have in Keras's `SpatialDropout2D`.
        **kwargs: As for the layer that a family draws by.
    """

    def __init__(
        self,
        rate: Rate,
        data_format: DataFormat = None,
        seed: int | None = None,
        name: str | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        super().__init__(rate, data_format, seed, noise_shape=None, name=name, dtype=dtype, **kwargs)

    def _get_noise_shape(self, inputs):
        return tuple(1 if axis in self._space else None for axis in range(self.dimensions + 2))

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


def _description(variant, family, dimensions):
    def own(words):
        options = words[1].split("|")
        return re.sub(r"^\n *|\n *$", "", options[min(dimensions, len(options)) - 1])

    summary, _, example = inspect.cleandoc(variant).partition("\n\n")
    _, _, text = inspect.cleandoc(family).partition("\n\n")
    text = re.sub("{(.*?)}", own, text.replace("*space", SPACE[dimensions - 1]), flags=re.DOTALL)
    return f"{summary}\n\n{text}\n\n{example}"
