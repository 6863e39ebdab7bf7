import math

from keras import ops

from keras_dropouts.keras_internals import as_stored
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.backend import BACKEND
from keras_dropouts.random.checkpointing import is_within_region


class VariationalWrapper(KernelWrapper, RandomLayer):
    """What the wrappers share that learn how uncertain weights are: the KL divergence among the losses.

    The schedule that others have for their rate is here the weight of the divergence.
    """

    parameter = "kl_weight"
    max_rate = math.inf

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        if not self._trains(training):
            return self._activation(self._product(inputs, *self._mean_weights()))
        if is_within_region():
            raise ValueError(
                f"{self.__class__.__name__} must not be called in keras.remat, keras.RematScope or another checkpoint "
                f"in training: on {BACKEND} the loss that it adds there would have no gradient. "
                f"Received: a call of {self!r} in one"
            )
        key, kl_weight = self._next_draw()
        self.add_loss(kl_weight * ops.cast(self.kl_divergence(), "float32"))
        return self._activation(self._sampled(inputs, key))

    def kl_divergence(self):
        """Returns the sum, over all weights of the kernel, of the divergence of posterior from prior: a scalar."""
        raise NotImplementedError

    def _weights(self):
        # Rounded to the compute type, they would be pruned by other numbers in a call than out of it.
        with as_stored():
            return super()._weights()

    def _mean_weights(self):
        """Returns kernel and bias for inference."""
        return self._weights()

    def _sampled(self, inputs, key):
        """Returns the sums of the wrapped layer, before the activation, with weights drawn from the posterior."""
        raise NotImplementedError
