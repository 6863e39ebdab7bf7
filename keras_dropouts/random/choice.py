"""What is chosen among few: a place for each element, or an order of places, at which layers look things up."""

from keras import ops

from keras_dropouts.random.backend import BACKEND
from keras_dropouts.random.bits import uniform

if BACKEND == "tensorflow":
    import tensorflow as tf


def integers(key, shape, below):
    """Draws integers from 0 to `below - 1`, each equally likely but for a rounding to 24 bits.

    Args:
        key: As for `uniform`.
        shape: A sequence of sizes, of which the first counts samples.
        below: An integer, or an integer tensor that broadcasts to `shape`. Where it is 0, so is what is drawn.

    Returns:
        An int32 tensor of `shape`.
    """
    high, low = _halves(key, shape)
    below = ops.cast(below, "float32")
    # A product may be rounded up to the bound itself.
    drawn = ops.floor(ops.minimum((high + low / 65536) / 65536 * below, below - 1))
    return ops.cast(ops.maximum(drawn, 0), "int32")


def orders(key, samples, n):
    """Draws an order of the integers from 0 to `n - 1` for each sample: an int32 tensor of shape `(samples, n)`.

    They are sorted by 32 bits each. Two of n have the same in one of 2**33 / n**2 orders, and stay as they were then:
    that changes how often any is among the first by less than 2**-31.
    """
    return _sorted_places(key, (samples, n), axis=1)


def order_of_samples(key, samples):
    """Draws an order of the samples, as `orders` does of integers: an int32 tensor of their places in the batch."""
    return _sorted_places(key, (samples,), axis=0)


def _sorted_places(key, shape, axis):
    high, low = (ops.cast(half, "int32") for half in _halves(key, shape))
    return ops.cast(ops.argsort((high - 32768) * 65536 + low, axis=axis), "int32")


def _halves(key, shape):
    """Returns two draws for each element: float32 integers from 0 to 65535."""
    samples, *sizes = shape
    drawn = ops.floor(uniform(key, (samples, 2, *sizes), 0.0, 65536.0))
    return drawn[:, 0], drawn[:, 1]


def gathered(tensor, places):
    """Returns what each sample of a tensor has along axis 1 at its own places: int32 of shape `(samples, n)`."""
    if BACKEND == "tensorflow":
        # Keras would turn the tensor around first, which takes ten times as long.
        return tf.gather(tensor, places, batch_dims=1)
    shape = ops.shape(places)
    return ops.take_along_axis(tensor, ops.reshape(places, (*shape, *[1] * (tensor.ndim - 2))), axis=1)
