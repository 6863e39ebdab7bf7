"""Inputs for a model of which none are given."""

import keras
import numpy as np
from keras import tree

from keras_dropouts.keras_internals import all_layers

SAMPLES = 16
# For an axis of any size: steps of a sequence, the sides of an image.
STEPS, SIDE = 12, 64


def inputs_for(model):
    """Returns inputs as those that a model says it takes: standard normal numbers, or indices into all embeddings.

    Raises:
        ValueError: Where it does not say so.
    """
    rng = np.random.default_rng(0)
    sizes = [layer.input_dim for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    # Models of a class of their own say no types.
    default = "int32" if sizes else keras.backend.floatx()

    def made(shape, dtype, name=""):
        axes = [SIDE if len(shape) > 3 else STEPS] * (len(shape) - 1)
        shape = [n if n is not None else axis for n, axis in zip(shape, [SAMPLES, *axes], strict=True)]
        if "mask" in name:
            return np.ones(shape, dtype)
        if keras.backend.is_float_dtype(dtype):
            return rng.standard_normal(shape).astype("float32")
        if keras.backend.is_int_dtype(dtype):
            return rng.integers(0, min(sizes, default=2), shape).astype(dtype)
        if dtype == "bool":
            return rng.random(shape) < 0.5
        raise _needed(model, f"an input of type {dtype}")

    if getattr(model, "inputs", None):
        structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return tree.map_structure(
            lambda x: made(x.shape, keras.backend.standardize_dtype(x.dtype), x.name.split(":")[0]), structure
        )
    shape = (model.get_build_config() or {}).get("input_shape")
    if shape is None:
        raise _needed(model, "a model that does not say what it takes")
    # Built by being called, it knows the batch of then.
    return tree.map_shape_structure(lambda shape: made((None, *shape[1:]), default), shape)


def few(x):
    """Returns the first samples of inputs, as arrays."""
    arrays = tree.map_structure(lambda each: keras.ops.convert_to_numpy(each)[: 2 * SAMPLES], x)
    return tree.map_structure(lambda each: each.astype("float32") if each.dtype == "float64" else each, arrays)


def _needed(model, why):
    return ValueError(
        f"`x` must be given, inputs as for `model.predict`, for none can be made. Received: {why}: {model}"
    )
