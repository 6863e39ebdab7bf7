import functools
import math
from typing import Any, Literal

import keras
from keras import layers, ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import (
    checked_choice,
    checked_count,
    checked_inner_fraction,
    checked_magnitude,
    checked_positive,
)
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import multiply

# How far the relaxed draws are from 0 and 1, by the authors' programs: of elements, and of channels.
TEMPERATURE, SPATIAL_TEMPERATURE = 0.1, 2 / 3


@keras.saving.register_keras_serializable(package="keras_dropouts")
class ConcreteDropout(KernelWrapper, SeededLayer):
    """Drops inputs of the layer it wraps at a rate that it learns, by the gradient, with the weights.

    In training the inputs are multiplied by `(1 - z) / (1 - rate)`, where `z = sigmoid((logit + log(u / (1 - u))) / t)`
    is a draw from nearly 0 and 1 that has a gradient with respect to `logit`, a weight of this layer; the rate is
    `sigmoid(logit)`, and `u` is uniform in (0, 1). A convolution has one draw for each channel of a sample, other
    layers one for each element. At inference nothing is dropped and nothing is scaled; `keras_dropouts.monte_carlo`
    and `always_on` draw.

    Two terms are added to the loss, of which the first pulls the rate down and the second towards 0.5:
    `weight_decay * sum(kernel ** 2) / (1 - rate)`, and `-entropy_weight * features * entropy(rate)` with the entropy of
    a draw in nats and the number of input features, or channels. They are in `losses`, like those of Keras's
    regularizers, and so in what `fit` and `evaluate` report.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own; it should have no `kernel_regularizer`.
        weight_decay: The weight of the first term, a number of at least 0. `ConcreteDropout.regularization` gives it.
        entropy_weight: The weight of the second term, likewise.
        initial_rate: The rate to begin with, a number between 0 and 1, neither included.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given; the logit is float32 in any case.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to drop.

    Input shape:
        The wrapped layer's. The number of channels must be known.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not.

    Reference:
        Gal, Hron and Kendall, "Concrete Dropout", NIPS 2017, arXiv 1705.07832.

    Read were the authors' programs (`yaringal/ConcreteDropout`), for Keras and PyTorch. As in those for Keras, the
    first term is of the kernel alone, for the bias is not multiplied by what is drawn; the one for PyTorch adds the
    bias, and counts all elements of a sample as features. They have a layer for each form, as this one has by what it
    wraps: temperature 0.1 for elements, 2/3 for channels, where the mean of `1 - z` is about 0.95 of `1 - rate`. They
    draw at inference too unless told otherwise, and add 1e-7 within the logarithms, of which none is infinite here.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import ConcreteDropout
    >>> weights = ConcreteDropout.regularization(examples=1000, length_scale=0.5, loss="cross_entropy")
    >>> weights
    {'weight_decay': 0.00025, 'entropy_weight': 0.001}
    >>> layer = ConcreteDropout(keras.layers.Dense(10), **weights)
    >>> y = layer(np.ones((2, 8), "float32"), training=True)
    >>> round(layer.rate, 3), len(layer.trainable_weights)
    (0.1, 3)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weight_decay: float = 1e-6,
        entropy_weight: float = 1e-5,
        initial_rate: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, seed=seed, **kwargs)
        self.weight_decay = checked_magnitude("weight_decay", weight_decay)
        self.entropy_weight = checked_magnitude("entropy_weight", entropy_weight)
        self.initial_rate = checked_inner_fraction("initial_rate", initial_rate)

    @staticmethod
    def regularization(
        examples: int,
        length_scale: float = 1e-4,
        tau: float = 1.0,
        loss: Literal["squared_error", "cross_entropy"] = "squared_error",
    ) -> dict[str, float]:
        """Returns the weights of the two terms for a prior and a data set, to be given on: `**regularization(...)`.

        Args:
            examples: How many there are to train on, a positive integer.
            length_scale: That of the prior, a positive number; the smaller, the less the weights are held back.
            tau: The precision of the model: the inverse of the variance of the observations' noise, a positive number;
                1 where the model gives that itself, and for cross-entropy.
            loss: `"squared_error"` for a sum of squared errors, twice the negative log likelihood but for `tau`;
                `"cross_entropy"` for that.

        Returns:
            A dictionary: `weight_decay`, which is `length_scale**2 / (tau * examples)`, and `entropy_weight`, which is
            `2 / (tau * examples)` for squared errors and `1 / (tau * examples)` for cross-entropy.

        Raises:
            ValueError: Where an argument is not as described.
        """
        data = checked_positive("tau", tau) * checked_count("examples", examples)
        halves = {"squared_error": 2, "cross_entropy": 1}[
            checked_choice("loss", loss, "squared_error", "cross_entropy")
        ]
        return {
            "weight_decay": checked_positive("length_scale", length_scale) ** 2 / data,
            "entropy_weight": halves / data,
        }

    @property
    def rate(self) -> float:
        """The rate as it is now, learnt and not to be set: `current_rate()`."""
        return self.current_rate()

    def current_rate(self) -> float:
        """Returns the rate as it is now, a float; before the layer is built, the initial one."""
        if not self.built:
            return self.initial_rate
        self._fetched_state()
        return float(ops.convert_to_numpy(ops.sigmoid(self.logit)))

    def readings(self):
        return {"rate": self.current_rate()}

    def build(self, input_shape):
        super().build(input_shape)
        if isinstance(self.layer, layers.Dense):
            self._channels, self._features = None, input_shape[-1]
        elif isinstance(self.layer, layers.EinsumDense):
            read, kernel = self.layer.equation.split("->")[0].split(",")
            sizes = zip(kernel, self.layer.kernel.shape, strict=True)
            self._channels, self._features = None, math.prod(size for label, size in sizes if label in read)
        else:
            self._channels = 1 if self.layer.data_format == "channels_first" else len(input_shape) - 1
            self._features = input_shape[self._channels]
        self.logit = self.add_weight(
            name="logit",
            shape=(),
            dtype="float32",
            autocast=False,
            initializer=keras.initializers.Constant(math.log(self.initial_rate / (1 - self.initial_rate))),
            # Keras asks for it whenever it asks for the losses. What `call` adds would have no gradient where a
            # checkpoint runs `call`.
            regularizer=_Terms(self._regularization),
        )

    def _regularization(self, logit):
        kernel, _ = self._weights()
        squares = ops.sum(ops.square(ops.cast(kernel, "float32")))
        rate = ops.sigmoid(logit)
        entropy = -rate * ops.log_sigmoid(logit) - (1 - rate) * ops.log_sigmoid(-logit)
        # 1 / (1 - rate), where that may be rounded to 0.
        scale = 1 + ops.exp(logit)
        return self.weight_decay * squares * scale - self.entropy_weight * self._features * entropy

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        if self._trains(training):
            drop = functools.partial(_relaxed_drop, channels=self._channels)
            logit = ops.convert_to_tensor(self.logit)
            inputs = random.rematerialized(drop, inputs, key_of(self._next_state()), logit)
        return self._activation(self._product(inputs, *self._weights()))

    def get_config(self):
        config = {
            "weight_decay": self.weight_decay,
            "entropy_weight": self.entropy_weight,
            "initial_rate": self.initial_rate,
        }
        return {**super().get_config(), **config}


class _Terms(keras.regularizers.Regularizer):
    """A function of a weight, as the class that Keras 3.12 takes alone."""

    def __init__(self, function):
        self._function = function

    def __call__(self, logit):
        return self._function(logit)


def _relaxed_drop(inputs, key, logit, channels):
    """Multiplies elements, or the channels on an axis, by what is nearly 0 or the inverse of the keep probability."""
    shape, temperature = ops.shape(inputs), TEMPERATURE
    if channels is not None:
        shape = [n if axis in (0, channels) else 1 for axis, n in enumerate(shape)]
        temperature = SPATIAL_TEMPERATURE
    # Never 0 or 1.
    drawn = random.uniform(key, shape)
    keep = ops.sigmoid((ops.log1p(-drawn) - ops.log(drawn) - logit) / temperature)
    return multiply(inputs, keep * (1 + ops.exp(logit)))
