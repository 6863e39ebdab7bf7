import math
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_dropouts.layers.arguments import Rate, checked_choice, checked_start
from keras_dropouts.layers.local_reparameterization import perturbed, sampled
from keras_dropouts.layers.variational_wrapper import VariationalWrapper
from keras_dropouts.random.multiply import work_dtype

# Of the polynomial in alpha that the negative divergence is approximated by.
COEFFICIENTS = 1.16145124, -1.50204118, 0.58629921
# What it is then off by on the average of log alpha in [-8, 0]; it has no influence on what is learnt.
CONSTANT = 0.6524


@keras.saving.register_keras_serializable(package="keras_dropouts")
class VariationalDropout(VariationalWrapper):
    """Gaussian dropout of a layer's weights or inputs, whose rate is learnt with the weights.

    Each weight `w` of the kernel is Gaussian, of mean `w` and variance `alpha * w * w`, where
    `alpha = rate / (1 - rate)`, at most 1, is what is learnt beside. Training draws, and adds to the losses `kl_weight`
    times the Kullback-Leibler divergence of that from a log-uniform prior, summed over all weights: the data pull
    `alpha` down, the divergence pushes it up. Inference takes the mean: the wrapped layer as it is. The bias has no
    noise and no part in the divergence. Nothing is scaled. Put no other dropout on the inputs.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own.
        kl_weight: What the divergence is multiplied by: 1 over the number of training samples where the loss is a mean
            over samples (as Keras's losses are) of the negative log-likelihood. A number, or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.kl_weight = w` takes effect at the next batch.
        rate: Where the rate starts, a number in `(0, 0.5]`.
        alphas: How many are learnt: `"layer"`, one; `"unit"`, one for each input unit (a feature, or a channel of a
            convolution); `"weight"`, one for each weight.
        noise: `"weights"`: on each weight independently, type B of the paper. What is drawn is the sum, one number for
            each unit of each sample, of a convolution for each position too. It costs a second product, of the
            squares. `"inputs"`: type A, each input is multiplied by noise, which the weights of an input unit share, as
            in `keras_dropouts.GaussianDropout`. There `alphas` may not be `"weight"`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to draw, and to add to the losses. A layer that is called twice in a step adds twice. In
            `keras.remat` that is an error on TensorFlow and JAX, where the loss would have no gradient.

    Input shape:
        The wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not; in training
            within `keras.remat`, but on PyTorch.

    Reference:
        Kingma, Salimans and Welling, "Variational Dropout and the Local Reparameterization Trick", NIPS 2015, arXiv
        1506.02557.

    `layer.rate` is what has been learnt so far, and `keras_dropouts.RateLogger` logs it, where it is one number. The
    weight `log_alpha` is held at 0 or below, where the polynomial in alpha that approximates the divergence is right to
    0.023 for each weight. To that is added the constant that the paper drops, so that the loss is that divergence and
    not negative. Not the paper was read but two programs: type B by the authors of arXiv 1701.05369
    (`bayesgroup/variational-dropout-sparsifies-dnn`: without noise on the bias; alpha is a sigmoid there, which never
    comes to 1), and a replication (`gngdb/variational-dropout`), which takes the square root of alpha for alpha in the
    divergence, and does not count the weights.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import VariationalDropout
    >>> layer = VariationalDropout(keras.layers.Dense(1, kernel_initializer="ones"), kl_weight=0.001, rate=0.2, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((10_000, 4), "float32"), training=True))
    >>> bool(abs(y.mean() - 4) < 0.05), bool(abs(y.std() - 1) < 0.05)  # a quarter of the sum of four squares
    (True, True)
    >>> round(layer.rate, 3), len(layer.losses)
    (0.2, 1)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kl_weight: Rate,
        rate: float = 0.2,
        alphas: Literal["layer", "unit", "weight"] = "layer",
        noise: Literal["weights", "inputs"] = "weights",
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate=kl_weight, seed=seed, **kwargs)
        self._start = checked_start("rate", rate, 0.5)
        self.alphas = checked_choice("alphas", alphas, "layer", "unit", "weight")
        self.noise = checked_choice("noise", noise, "weights", "inputs")
        if (alphas, noise) == ("weight", "inputs"):
            raise ValueError(
                f"`alphas` must be 'layer' or 'unit' where the noise is on the inputs, which many weights share. "
                f"Received: alphas={alphas!r}, noise={noise!r}"
            )
        if alphas == "unit" and isinstance(layer, keras.layers.EinsumDense):
            raise ValueError(
                f"`alphas` must be 'layer' or 'weight' for an EinsumDense, whose input units may be on any axes. "
                f"Received: alphas={alphas!r}, layer={layer!r}"
            )

    def build(self, input_shape):
        super().build(input_shape)
        # That of the input units.
        self._axis = 1 if getattr(self.layer, "data_format", None) == "channels_first" else -1
        shape = {"layer": (), "unit": (input_shape[self._axis],), "weight": self.layer.kernel.shape}[self.alphas]
        self.log_alpha = self.add_weight(
            name="log_alpha",
            shape=shape,
            initializer=keras.initializers.Constant(math.log(self._start / (1 - self._start))),
            constraint=_AtMost0(),
            autocast=False,
        )

    @property
    def rate(self) -> float | np.ndarray:
        """The rate as it is now: a float, or an array of one for each input unit or weight."""
        if not self.built:
            return self._start
        self._fetched_state()
        alpha = np.exp(ops.convert_to_numpy(self._bounded()).astype("float64"))
        rate = alpha / (1 + alpha)
        return rate if rate.ndim else float(rate)

    def readings(self):
        return super().readings() | ({"rate": self.rate} if self.alphas == "layer" else {})

    def kl_divergence(self):
        log_alpha = self._bounded()
        alpha = ops.exp(log_alpha)
        c1, c2, c3 = COEFFICIENTS
        each = CONSTANT - 0.5 * log_alpha - alpha * (c1 + alpha * (c2 + alpha * c3))
        # As many weights for each.
        return math.prod(self.layer.kernel.shape) / max(1, math.prod(log_alpha.shape)) * ops.sum(each)

    def _sampled(self, inputs, key):
        kernel, bias = self._weights()
        # Squares overflow in narrow types.
        dtype = work_dtype(inputs)
        log_alpha = ops.cast(self._bounded(), dtype)
        if self.alphas == "unit":
            beside = [1] * len(inputs.shape)
            beside[self._axis] = -1
            log_alpha = ops.reshape(log_alpha, beside)
        if self.noise == "inputs":
            deviation = ops.exp(0.5 * log_alpha) * ops.cast(inputs, dtype)
            return self._product(perturbed(inputs, deviation, key), kernel, bias)
        squares = [ops.square(ops.cast(x, dtype)) for x in (inputs, kernel)]
        uncertain = 1 if self.alphas == "weight" else 0
        squares[uncertain] = squares[uncertain] * ops.exp(log_alpha)
        return sampled(self._product(inputs, kernel, bias), self._product(*squares, None), key)

    def _bounded(self):
        """Log alpha, at most 0 whatever optimizer there is. Above, its gradient is as at 0, so that it may return."""
        log_alpha = ops.convert_to_tensor(self.log_alpha)
        return log_alpha - ops.stop_gradient(ops.relu(log_alpha))

    def get_config(self):
        config = {"rate": self._start, "alphas": self.alphas, "noise": self.noise}
        return {**super().get_config(), **config}


class _AtMost0(keras.constraints.Constraint):
    def __call__(self, log_alpha):
        return ops.minimum(log_alpha, 0)
