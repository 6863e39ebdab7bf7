"""Gaussian sums, drawn as one number each: the local reparameterization trick of arXiv 1506.02557."""

from keras import ops

from keras_dropouts import random
from keras_dropouts.random.backend import rounded
from keras_dropouts.random.multiply import multiply
from keras_dropouts.random.rematerialize import rematerialized_product


def sampled(mean, variance, key):
    """Draws independent Gaussians, in the type of `mean`; that of `variance` may be wider."""
    spread = variance > 0
    # The root has no gradient at 0.
    return perturbed(mean, ops.where(spread, ops.sqrt(ops.where(spread, variance, 1)), 0), key)


def perturbed(mean, deviation, key):
    """The same for standard deviations, which may be negative. Nothing is kept for the backward pass but the key."""
    # In the place of a rate, of which none is needed, another tensor: PyTorch compiles no function of one twice.
    noise = rematerialized_product(_times_noise, deviation, key, key[:1])
    # The sum too, or else TensorFlow's optimizer fails on it where a ReLU follows.
    return ops.cast(rounded(ops.cast(mean, deviation.dtype) + rounded(noise)), mean.dtype)


def _times_noise(inputs, key, _):
    return multiply(inputs, random.normal(key, ops.shape(inputs)))
