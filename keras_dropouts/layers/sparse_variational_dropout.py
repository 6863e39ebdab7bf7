from typing import Any

import keras
from keras import ops

from keras_dropouts.layers.arguments import Rate, checked_number
from keras_dropouts.layers.local_reparameterization import sampled
from keras_dropouts.layers.variational_wrapper import VariationalWrapper
from keras_dropouts.random.multiply import work_dtype

# Beyond these log alpha is clipped.
BOUND = 8.0
# What the square of a weight is at least, for its logarithm.
EPSILON = 1e-8
# Of the approximation of the divergence.
K1, K2, K3 = 0.63576, 1.87320, 1.48695


@keras.saving.register_keras_serializable(package="keras_dropouts")
class SparseVariationalDropout(VariationalWrapper):
    """Learns how uncertain each weight of a layer is, and drops for good those that are little but noise.

    Each weight `w` of the kernel is Gaussian, of mean `w` and a variance that is learnt beside. Training draws, and
    adds to the losses `kl_weight` times the Kullback-Leibler divergence of that from a log-uniform prior, summed over
    all weights, which pushes the ratio `alpha = variance / (w * w)` up. Where that has passed a threshold, the weight
    counts as 0: at inference, which draws nothing, and as the mean in training too, where its noise stays, so that a
    weight may come back. The bias has no noise and is never pruned. Nothing is scaled.

    `keras_dropouts.compress(model)` makes a plain Keras model of what is left. Let `kl_weight` rise from 0, or all
    weights may be pruned before they have learnt anything. Put no other dropout on the inputs.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own.
        kl_weight: What the divergence is multiplied by: 1 over the number of training samples where the loss is a mean
            over samples (as Keras's losses are) of the negative log-likelihood. A number, or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.kl_weight = w` takes effect at the next batch.
        threshold: The logarithm of alpha from which on a weight is pruned, a finite number. At 3 the dropout with so
            much noise would have a rate of 0.95. Log alpha itself is clipped to -8 and 8.
        initial_log_sigma2: Where the logarithm of each variance starts, a finite number.
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
        Molchanov, Ashukha and Vetrov, "Variational Dropout Sparsifies Deep Neural Networks", ICML 2017, arXiv
        1701.05369.

    Read was the authors' program (`bayesgroup/variational-dropout-sparsifies-dnn`), not the paper. From there are the
    constants, that weights are pruned in training too (its experiments with LeNet do; the noise stays in its dense
    layers, not in its convolutions), and its schedule: no divergence for 5 of 200 epochs, then rising to full weight in
    15 more; Adam at 0.001, falling linearly to 0 from epoch 100 on. What is drawn are the sums, one number for each
    unit of each sample, of a convolution for each position; that costs a second product, of the squares. The weight
    `log_sigma2` is as large as the kernel. `keras_dropouts.RateLogger` logs the weight of the divergence and the
    sparsity.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import SparseVariationalDropout
    >>> layer = SparseVariationalDropout(keras.layers.Dense(1, kernel_initializer="ones"), kl_weight=0.001)
    >>> layer.build((None, 4))
    >>> _ = layer.log_sigma2.assign([[0.0], [0.0], [0.0], [4.0]])  # of the last weight the deviation is 7.4
    >>> keras.ops.convert_to_numpy(layer(np.ones((1, 4), "float32"))).tolist(), layer.sparsity
    ([[3.0]], 0.25)
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kl_weight: Rate,
        threshold: float = 3.0,
        initial_log_sigma2: float = -10.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate=kl_weight, seed=seed, **kwargs)
        self.threshold = checked_number("threshold", threshold)
        self.initial_log_sigma2 = checked_number("initial_log_sigma2", initial_log_sigma2)

    def build(self, input_shape):
        super().build(input_shape)
        self.log_sigma2 = self.add_weight(
            name="log_sigma2",
            shape=self.layer.kernel.shape,
            initializer=keras.initializers.Constant(self.initial_log_sigma2),
            autocast=False,
        )

    @property
    def log_alpha(self):
        """The logarithm of alpha of each weight, clipped: a tensor of the kernel's shape."""
        return self._log_alpha(self._weights()[0])

    @property
    def sparsity(self) -> float:
        """The share of the kernel's weights that are pruned now."""
        self._fetched_state()
        pruned = ops.convert_to_numpy(self.log_alpha) >= self.threshold
        return float(pruned.mean()) if pruned.size else 0.0

    def readings(self):
        return super().readings() | {"sparsity": self.sparsity}

    def pruned_weights(self):
        """Returns the kernel, with zeros where it is pruned, and the bias or `None`: what inference computes with."""
        kernel, bias = self._weights()
        return self._pruned(kernel, self._log_alpha(kernel)), bias

    def kl_divergence(self):
        log_alpha = self.log_alpha
        return ops.sum(K1 - K1 * ops.sigmoid(K2 + K3 * log_alpha) + 0.5 * ops.softplus(-log_alpha))

    def _mean_weights(self):
        return self.pruned_weights()

    def _sampled(self, inputs, key):
        kernel, bias = self._weights()
        log_alpha = self._log_alpha(kernel)
        mean = self._product(inputs, self._pruned(kernel, log_alpha), bias)
        # Squares overflow in narrow types.
        dtype = work_dtype(inputs)
        squares = [ops.square(ops.cast(x, dtype)) for x in (inputs, kernel)]
        variance = self._product(squares[0], squares[1] * ops.cast(ops.exp(log_alpha), dtype), None)
        return sampled(mean, variance, key)

    def _log_alpha(self, kernel):
        kernel = ops.cast(kernel, work_dtype(kernel))
        log_sigma2 = ops.cast(self.log_sigma2, kernel.dtype)
        return ops.clip(log_sigma2 - ops.log(ops.square(kernel) + EPSILON), -BOUND, BOUND)

    def _pruned(self, kernel, log_alpha):
        return ops.where(log_alpha < self.threshold, kernel, ops.zeros_like(kernel))

    def get_config(self):
        config = {"threshold": self.threshold, "initial_log_sigma2": self.initial_log_sigma2}
        return {**super().get_config(), **config}
