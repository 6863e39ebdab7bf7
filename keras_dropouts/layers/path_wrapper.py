import inspect

import keras
from keras import ops

from keras_dropouts.layers.arguments import checked_inputs
from keras_dropouts.layers.layer_wrapper import Wrapper


class PathWrapper(Wrapper):
    """Base of the wrappers around a part of a network that others go past: a layer or model that keeps the shape.

    Args:
        layer: The layer or model.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where `layer` is none.
    """

    def __init__(self, layer, **kwargs):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"`layer` must be a keras.layers.Layer or model. Received: layer={layer!r}")
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        parameters = inspect.signature(type(layer).call).parameters
        self._told = {name for name in ("training", "mask") if name in parameters}

    def _checked(self, inputs):
        """Returns the input, after a look at it."""
        return checked_inputs(self, inputs)

    def _wrapped(self, inputs, training, mask):
        """Returns what the wrapped layer makes of the inputs, in their type."""
        given = {"training": training, "mask": mask}
        outputs = self.layer(inputs, **{name: given[name] for name in self._told})
        return ops.cast(outputs, inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_mask(self, inputs, previous_mask):
        return previous_mask

    def build(self, input_shape):
        x = keras.KerasTensor(input_shape, self.compute_dtype)
        if type(self.layer).build is keras.layers.Layer.build:
            # What it holds is built as it is called, which its `compute_output_shape` may not do.
            outputs = keras.Operation.compute_output_spec(self.layer, x)
            self.layer.built = True
        else:
            super().build(input_shape)
            outputs = self.layer.compute_output_spec(x)
        if tuple(getattr(outputs, "shape", ())) != tuple(input_shape):
            raise ValueError(
                f"`layer` of {self.__class__.__name__} must return one tensor, of the shape of its input. "
                f"Received: layer={self.layer!r}, which returns {outputs!r} for inputs of shape {tuple(input_shape)}"
            )
