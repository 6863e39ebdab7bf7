from typing import Any

import keras
from keras import ops

from keras_dropouts.layers.arguments import Rate, checked_flag
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.drop_connect import mean_activation
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.layers.local_reparameterization import sampled
from keras_dropouts.random.multiply import work_dtype


@keras.saving.register_keras_serializable(package="keras_dropouts")
class FastDropout(KernelWrapper, RandomLayer):
    """Adds to what the layer it wraps sums the Gaussian noise that dropout on its inputs would come to.

    A sum of many inputs, of which each is dropped with probability `rate` and else divided by the probability of
    keeping, is nearly Gaussian, whatever the mask: of the mean `W x + b` and the variance
    `rate / (1 - rate) * (W * W)(x * x)`. Training draws from that, one number for each unit of each sample, and applies
    the activation. Inference gives the mean of the activation over it, as dropout would be averaged over all masks.
    Put no other dropout on the inputs. A step costs a second product, that of the squares.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own. Of a convolution each position has noise of its own,
            where dropped inputs would move neighbours together.
        rate: The probability of dropping an input: a number in `[0, 1)`, or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        sampled: Whether training draws. If not, it gives the mean of the activation, as inference does: what the rate
            then changes is the activation alone, and nothing where that is linear.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to draw.

    Input shape:
        The wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not. At rate 1
            the variance is infinite.

    Reference:
        Wang and Manning, "Fast dropout training", ICML 2013, PMLR 28(2):118-126.

    Read was the authors' program (`sidaw/fastdropout`), for logistic and softmax regression and networks of sigmoid
    units: there as here the bias is never dropped, hidden units give the mean of their activation, in training too
    (`sampled=False`), and the last layer draws. It does not divide by the probability of keeping, but multiplies the
    weights by it, at inference too. Its mean of a sigmoid is an approximation in closed form. Here it is in closed form
    for `linear` and `relu`, and a quadrature for others, as for `keras_dropouts.DropConnect`. The closed form of the
    mean loss of logistic regression is that of a loss, not of a layer, and is not here.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import FastDropout
    >>> layer = FastDropout(keras.layers.Dense(1, kernel_initializer="ones"), rate=0.2, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((10_000, 4), "float32"), training=True))
    >>> bool(abs(y.mean() - 4) < 0.05), bool(abs(y.std() - 1) < 0.05)  # a quarter of the sum of four squares
    (True, True)
    """

    # As for GaussianDropout.
    max_rate = 1 - 2**-16

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: Rate = 0.5,
        sampled: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate=rate, seed=seed, **kwargs)
        self.sampled = checked_flag("sampled", sampled)

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        trains = self._trains(training)
        key, rate = self._next_draw() if trains else (None, self._next_rate())
        kernel, bias = self._weights()
        mean = self._product(inputs, kernel, bias)
        linear = self.layer.activation in (None, keras.activations.linear)
        if linear and not (trains and self.sampled):
            return mean
        # Squares overflow in narrow types.
        dtype = work_dtype(inputs)
        squares = [ops.square(ops.cast(x, dtype)) for x in (inputs, kernel)]
        variance = ops.cast(rate / (1 - rate), dtype) * self._product(*squares, None)
        if not (trains and self.sampled):
            return mean_activation(self.layer.activation, mean, variance)
        return self._activation(sampled(mean, variance, key))

    def get_config(self):
        return {**super().get_config(), "sampled": self.sampled}
