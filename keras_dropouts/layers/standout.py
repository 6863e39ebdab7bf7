from typing import Any, Literal

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import checked_choice, checked_number
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.compilation import fused
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import multiply, work_dtype


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Standout(KernelWrapper, SeededLayer):
    """Keeps a unit with a probability that grows with its own activation: adaptive dropout with tied weights.

    A second network, whose weights are a multiple of the wrapped layer's, decides for each unit of each example how
    probable it is that the unit is kept: `sigmoid(alpha * (W a) + beta)`, with the layer's kernel `W`, its input `a`
    and no bias. In training a mask of that probability is drawn, and nothing is scaled; at inference the output is
    multiplied by the probability. The greater `W a`, the more probably the unit is kept (where `alpha > 0`).

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, transposed or
            depthwise too, with or without LoRA, or a subclass that computes the same. A Dense may be quantized
            (`"int8"`, `"int4"`, `"float8"`): `W` is what its kernel stands for. Its weights stay its own.
        alpha: The factor of the weights, a finite number.
        beta: What is added, a finite number.
        beta_mode: What `beta` is added to. `"shift"` (the default, and the common reading): to the sum, as above.
            `"weights"` (the paper's words): to each weight, so that the probability is
            `sigmoid((alpha * W + beta) a)`.
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
        Ba and Frey, "Adaptive dropout for training deep neural networks", NIPS 2013, algorithm 2.

    No gradient flows through the probability. Its product of input and kernel is the layer's own (`"weights"` takes
    another), and the backward pass needs one byte for each unit: the mask.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Standout
    >>> layer = Standout(keras.layers.Dense(1000, "relu"), alpha=2.0, seed=1)
    >>> y = layer(np.ones((1, 8), "float32"), training=True)
    >>> y.shape == (1, 1000), len(layer.get_weights())
    (True, 2)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        alpha: float = 1.0,
        beta: float = 0.0,
        beta_mode: Literal["shift", "weights"] = "shift",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, seed=seed, **kwargs)
        self.alpha = checked_number("alpha", alpha)
        self.beta = checked_number("beta", beta)
        self.beta_mode = checked_choice("beta_mode", beta_mode, "shift", "weights")

    def call(self, inputs, training=False):
        linear, *logits = self._linear_and_logits(ops.cast(inputs, self.compute_dtype))
        if not self._trains(training):
            probability = _probability(*logits)
            return multiply(self._activation(linear), probability)
        drawn = random.uniform(key_of(self._next_state()), ops.shape(linear))
        # Before the activation, which on PyTorch may write over its input.
        keep = _is_below(drawn, *logits)
        return random.multiply_where(keep, 1.0, self._activation(linear))

    def _linear_and_logits(self, inputs):
        """Returns the outputs before the activation, and of the logits a product, its factor and a summand."""
        kernel, bias = self._weights()
        no_bias = None if bias is None else ops.zeros_like(bias)
        linear = self._product(inputs, kernel, no_bias)
        product, alpha, beta = linear, self.alpha, self.beta
        if self.beta_mode == "weights":
            product, alpha, beta = self._product(inputs, alpha * kernel + beta, no_bias), 1.0, 0.0
        if bias is not None:
            if getattr(self.layer, "data_format", None) == "channels_first":
                bias = ops.reshape(bias, (-1, *[1] * (len(linear.shape) - 2)))
            # Not in place, as on PyTorch the product would be this too.
            linear = linear + bias
        return linear, ops.stop_gradient(product), alpha, beta

    def get_config(self):
        config = {"alpha": self.alpha, "beta": self.beta, "beta_mode": self.beta_mode}
        return {**super().get_config(), **config}


def _probability(product, alpha, beta):
    return ops.sigmoid(alpha * ops.cast(product, work_dtype(product)) + beta)


@fused
def _is_below(drawn, product, alpha, beta):
    return ops.less(drawn, _probability(product, alpha, beta))
