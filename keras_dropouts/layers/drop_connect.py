import functools
import math
import statistics
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_flag
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.keys import from_sample
from keras_dropouts.random.multiply import multiply, select, work_dtype

# Masked weights that exist at one time: 4 MiB of float32.
CHUNK = 2**20
# With these, the mean of tanh is right to 5e-4 for standard deviations up to 3.
HERMITE_NODES = 64
MIXING = (keras.activations.softmax, keras.activations.log_softmax, keras.activations.sparsemax)
MIXING_POINTS = 128


@keras.saving.register_keras_serializable(package="keras_dropouts")
class DropConnect(KernelWrapper, RandomLayer):
    """Drops weights and biases of the layer it wraps while training, and averages over all masks at inference.

    Training computes `activation((M * W) v + m * b)` with masks `M` and `m` of zeros and ones, and rescales nothing.
    Inference needs no random numbers: the sum of so many kept weights is nearly Gaussian, with mean `p (W v + b)` and
    variance `p (1 - p) ((W * W)(v * v) + b * b)` for the probability `p` of keeping, and the output is the *mean of the
    activation* over it, which is not the activation of the mean.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, transposed or
            depthwise too, with or without LoRA, or a subclass that computes the same. A Dense may be quantized
            (`"int8"`, `"int4"`, `"float8"`): dropped are the numbers that its kernel stands for. Its weights stay its
            own.
        rate: The probability of dropping a weight: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        per_example: Whether each example of a batch has its own mask, as in the paper; all positions of an example of
            rank above 1 share it. Of a Dense alone: the other layers have one mask for the batch, as a Dense has with
            `per_example=False`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to drop.

    Input shape:
        The wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not.

    Reference:
        Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013, PMLR 28(3):1058-1066.

    Mean of the activation: in closed form for `linear` and `relu`. Other activations are taken to work element by
    element: Gauss-Hermite quadrature with 64 nodes. `softmax`, `log_softmax` and `sparsemax` mix the units, which are
    independent of each other: their mean is taken over 128 fixed points spread evenly in all units together, an error
    of about 0.005 of a softmax for standard deviations of 1.

    Memory: on every backend the masked weights do exist as a tensor, for a matrix multiplication reads them, but with a
    mask for each example never those of the whole batch: they are made for chunks of examples, one after the other, of
    2**20 weights, or one example where that has more. The backward pass draws them anew. With one mask for the batch
    they are made once. Measured beside the plain layer in a training step of Dense(800) on 800 features, where the
    masked weights of a batch of 128 would take 328 MB: JAX 8 MB more, TensorFlow 110 MB (it runs ten chunks at a time),
    PyTorch 16 MB (beside freed memory that the allocator of the process may hold); for twice the batch the same to a
    few MB.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import DropConnect
    >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
    >>> layer = DropConnect(dense, rate=0.5, seed=1)
    >>> v = np.ones((10_000, 4), "float32")
    >>> y = keras.ops.convert_to_numpy(layer(v, training=True))
    >>> sorted(set(y.ravel().tolist())), bool(abs(y.mean() - 2) < 0.05)
    ([0.0, 1.0, 2.0, 3.0, 4.0], True)
    >>> keras.ops.convert_to_numpy(layer(v[:1])).tolist()
    [[2.0]]
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: Rate = 0.5,
        per_example: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate=rate, seed=seed, **kwargs)
        self.per_example = checked_flag("per_example", per_example)

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        kernel, bias = self._weights()
        if not self._trains(training):
            return self.inference_call(inputs, kernel, bias)
        key, rate = self._next_draw()
        if self.per_example and isinstance(self.layer, keras.layers.Dense):
            outputs = _linear_per_example(inputs, kernel, bias, key, rate)
        else:
            # As one sample, of which the bias's weights are the last.
            size = math.prod(kernel.shape)
            keep = random.keep_mask(key, (1, size + (0 if bias is None else math.prod(bias.shape))), rate)[0]
            kernel = random.multiply_where(ops.reshape(keep[:size], kernel.shape), 1.0, kernel)
            if bias is not None:
                bias = random.multiply_where(ops.reshape(keep[size:], bias.shape), 1.0, bias)
            outputs = self._product(inputs, kernel, bias)
        return self._activation(outputs)

    def inference_call(self, inputs, kernel, bias):
        keep = random.keep_probability(self._next_rate())
        mean = multiply(self._product(inputs, kernel, bias), keep)
        activation = self.layer.activation
        if activation in (None, keras.activations.linear):
            return mean
        # Squares overflow in narrow types.
        dtype = work_dtype(inputs)
        squares = [None if x is None else ops.square(ops.cast(x, dtype)) for x in (inputs, kernel, bias)]
        variance = ops.cast(keep * (1 - keep), dtype) * self._product(*squares)
        return mean_activation(activation, mean, variance)

    def get_config(self):
        return {**super().get_config(), "per_example": self.per_example}


def _linear_per_example(inputs, kernel, bias, key, rate):
    """Returns the outputs of a Dense layer without activation whose weights are dropped for each example anew."""
    # Read here: TensorFlow would read the variables in each chunk, and keep each chunk's gradient by them to the end.
    kernel, *biases = [ops.copy(weights) for weights in (kernel, bias) if weights is not None]
    samples, *space, features = ops.shape(inputs)
    units = kernel.shape[1]
    rows = features + len(biases)
    # As many chunks as it takes, at least one, of one size, the last one padded.
    chunks = 1 + abs(samples - 1) // max(1, CHUNK // max(1, rows * units))
    size = -(-samples // chunks)
    # Not `ops.pad`: it counts its calls by name, and torch.compile would compile each anew.
    padding = ops.zeros((chunks * size - samples, *space, features), inputs.dtype)
    chunked = ops.reshape(ops.concatenate([inputs, padding]), (chunks, size, math.prod(space), features))

    def linear(inputs, kernel, key, rate, *bias):
        keep = random.keep_mask(key, (size, rows, units), rate)
        outputs = ops.matmul(inputs, select(keep[:, :features], 1.0, kernel))
        return outputs + select(keep[:, features:], 1.0, *bias) if bias else outputs

    def chunk(args):
        inputs, first = args
        return random.rematerialized(linear, inputs, kernel, from_sample(key, first), rate, *biases)

    # JAX, outside of compiled functions, compiles a loop anew in each call.
    alone = isinstance(chunks, int) and chunks == 1
    outputs = chunk((chunked[0], 0)) if alone else ops.map(chunk, (chunked, ops.arange(chunks) * size))
    return ops.reshape(outputs, (chunks * size, *space, units))[:samples]


def mean_activation(activation, mean, variance):
    """The mean of the activation over independent Gaussians, in the type of `mean`; that of `variance` may be wider."""
    spread = variance > 0
    # The root has no gradient at 0.
    mean_of_spread = _mean_of(activation, ops.cast(mean, variance.dtype), ops.sqrt(ops.where(spread, variance, 1)))
    return ops.where(spread, ops.cast(mean_of_spread, mean.dtype), activation(mean))


def _mean_of(activation, mean, deviation):
    """The mean of the activation over independent Gaussians."""
    if activation is keras.activations.relu:
        return ops.relu(mean) + deviation * _mean_excess(ops.abs(mean) / deviation)
    mixes = activation in MIXING or isinstance(activation, keras.layers.Softmax)
    points, weights = _points_in(mean.shape[-1]) if mixes else _hermite_nodes()
    total = 0
    # One after the other: all together would take their number times the memory.
    for point, weight in zip(points, weights, strict=True):
        total += weight * activation(mean + deviation * ops.cast(point, mean.dtype))
    return total


def _mean_excess(z):
    """The mean of `max(g - z, 0)` for a standard normal `g` and positive `z`, to 3e-7."""
    # Abramowitz and Stegun, 26.2.17, in place of an error function, which JAX cannot always export.
    t = 1 / (1 + 0.2316419 * z)
    tail = 0
    for b in (1.330274429, -1.821255978, 1.781477937, -0.356563782, 0.319381530):
        tail = (tail + b) * t
    return ops.exp(-ops.square(z) / 2) / math.sqrt(2 * math.pi) * (1 - z * tail)


@functools.cache
def _hermite_nodes():
    """Nodes and weights of the quadrature for the standard normal density."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
    return nodes, (weights / weights.sum()).tolist()


@functools.lru_cache(maxsize=8)
def _points_in(units):
    """Points in so many dimensions, and their equal weights, for independent standard normal numbers."""
    # Kronecker's sequence with the square roots of primes, and its mirror image: the mean is 0.
    sieve = np.ones(int(units * (math.log(units + 2) + 2) * 1.5) + 4, bool)
    for n in range(2, math.isqrt(sieve.size) + 1):
        sieve[n * n :: n] = False
    roots = np.sqrt(np.flatnonzero(sieve)[2 : units + 2])
    half = np.arange(1, MIXING_POINTS // 2 + 1)[:, None] * roots % 1
    half = np.vectorize(statistics.NormalDist().inv_cdf)(half)
    half /= np.sqrt(np.mean(half**2, axis=0))
    return np.concatenate([half, -half]), [1 / MIXING_POINTS] * MIXING_POINTS
