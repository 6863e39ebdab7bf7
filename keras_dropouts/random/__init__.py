"""Random bits, the same on TensorFlow, JAX and PyTorch, and what layers do with them."""

from keras_dropouts.random.bits import keep_mask, keep_probability, keep_scale, normal, uniform
from keras_dropouts.random.keys import fold_in, key
from keras_dropouts.random.multiply import multiply_where
from keras_dropouts.random.rematerialize import rematerialized

__all__ = [
    "fold_in",
    "keep_mask",
    "keep_probability",
    "keep_scale",
    "key",
    "multiply_where",
    "normal",
    "rematerialized",
    "uniform",
]
