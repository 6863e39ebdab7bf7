import keras
import numpy as np
from keras import ops

from keras_dropouts.layers.arguments import checked_number
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.rematerialize import rematerialized_product


class FillingLayer(RandomLayer):
    """Base of the layers that put a number in the place of what they drop. What is kept is as it was.

    A subclass overrides `keep_mask`.

    Args:
        rate: As for `keras_dropouts.Dropout`.
        name_of_fill: What the number is called.
        fill: The number.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where an argument is not as described.
    """

    def __init__(self, rate, name_of_fill, fill, seed=None, **kwargs):
        super().__init__(rate, seed=seed, **kwargs)
        self._name_of_fill, self._fill = name_of_fill, checked_number(name_of_fill, fill)

    def training_call(self, inputs, key, rate):
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if keras.backend.is_int_dtype(dtype):
            if self._fill != int(self._fill):
                raise ValueError(
                    f"`{self._name_of_fill}` must be an integer where the inputs are. "
                    f"Received: {self._name_of_fill}={self._fill!r}"
                )
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            if not least <= self._fill <= most:
                # Some backends would take another number for it.
                raise ValueError(
                    f"`{self._name_of_fill}` must be in [{least}, {most}] for inputs of dtype {dtype}. "
                    f"Received: {self._name_of_fill}={self._fill!r}"
                )
            return self.filled(inputs, key, rate)
        # To multiply is faster on PyTorch.
        return rematerialized_product(self.multiply, inputs, key, rate, self.filled if self._fill else None)

    def filled(self, inputs, key, *args):
        """Returns the outputs; the arguments are those of `keep_mask`."""
        keep, _ = self.keep_mask(inputs, key, *args)
        whole = keras.backend.is_int_dtype(keras.backend.standardize_dtype(inputs.dtype))
        # On its way through a float, a large integer would be rounded.
        fill = int(self._fill) if whole else self._fill
        return ops.where(keep, inputs, ops.convert_to_tensor(fill, inputs.dtype))

    def get_config(self):
        return {**super().get_config(), self._name_of_fill: self._fill}
