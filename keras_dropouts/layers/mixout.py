import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.keras_internals import as_stored
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.kernel_wrapper import KernelWrapper
from keras_dropouts.random.arguments import Tensor


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Mixout(KernelWrapper, RandomLayer):
    """Puts pretrained weights in the place of those of the layer it wraps, at random while it is fine-tuned.

    In training each weight `w`, of the kernel and of the bias, is replaced with probability `rate` by the pretrained
    one, `u`, with one draw for the whole batch; what is not replaced is scaled so that the mean stays: it becomes
    `u + (w - u) / (1 - rate)`. That is dropout of what fine-tuning has changed. At inference the weights are as they
    are.

    The pretrained weights are those that the layer has as this one is built, or that it gets where
    `keras_dropouts.replace` wraps it in an existing model. They are held as weights that do not train, and saved in
    files. `set_pretrained` sets others, or those of now, as after `load_weights`.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.Dense`, `EinsumDense` or convolution, as for
            `keras_dropouts.DropConnect`. Its weights stay its own.
        rate: The probability of replacing a weight: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer.
        training: Whether to replace weights.

    Input shape:
        The wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described, or the layer is quantized in a way that is not.

    Reference:
        Lee, Cho and Kang, "Mixout: Effective Regularization to Finetune Large-scale Pretrained Language Models", ICLR
        2020, arXiv 1909.11299.

    Read was the authors' program (`bloodwass/mixout`). Its gradient lacks the factor `1 / (1 - rate)`, its masks repeat
    one row for all units of a matrix, and it does not mix the bias; here each weight has a draw of its own, and the
    gradient is that of what was computed.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Mixout
    >>> layer = Mixout(keras.layers.Dense(3, kernel_initializer="ones"), rate=0.5, seed=1)
    >>> y = [keras.ops.convert_to_numpy(layer(np.ones((1, 4), "float32"), training=True)).tolist()]
    >>> layer.set_pretrained([np.zeros((4, 3)), np.zeros(3)])
    >>> y += [keras.ops.convert_to_numpy(layer(np.ones((1, 4), "float32"), training=True)).tolist()]
    >>> y[0], y[1] == y[0]
    ([[4.0, 4.0, 4.0]], False)
    """

    def __init__(self, layer: keras.layers.Layer, rate: Rate = 0.5, seed: int | None = None, **kwargs: Any):
        super().__init__(layer, rate=rate, seed=seed, **kwargs)

    def build(self, input_shape):
        super().build(input_shape)
        self._pretrained = [
            self.add_weight(
                name=f"pretrained_{name}",
                shape=weight.shape,
                dtype=keras.backend.standardize_dtype(weight.dtype),
                # A function of its own for each: Keras may call it when all are there.
                initializer=lambda shape, dtype, place=place: ops.copy(ops.stop_gradient(self._own()[place])),
                trainable=False,
                autocast=False,
            )
            for place, (name, weight) in enumerate(zip(("kernel", "bias"), self._own(), strict=False))
        ]

    def set_pretrained(self, weights: Sequence[Tensor] | None = None) -> None:
        """Sets the pretrained weights.

        Args:
            weights: Arrays or tensors, the kernel and the bias if there is one, as `layer.layer.get_weights()` gives
                them. `None`: the weights as they are now.

        Raises:
            ValueError: Where the layer is not built, or `weights` are not of the number and the shapes of its own.
        """
        if not hasattr(self, "_pretrained"):
            raise ValueError(f"The layer must be built before it has pretrained weights to set. Received: {self!r}")
        weights = self._own() if weights is None else list(weights)
        shapes, allowed = ([tuple(weight.shape) for weight in each] for each in (weights, self._pretrained))
        if shapes != allowed:
            raise ValueError(f"`weights` must be arrays of shapes {allowed}. Received: weights of shapes {shapes}")
        for variable, weight in zip(self._pretrained, weights, strict=True):
            # On JAX an array that two variables hold is gone when one of them is trained.
            variable.assign(ops.copy(weight))

    def weights_carried_over(self):
        self.set_pretrained()

    def call(self, inputs, training=False):
        inputs = ops.cast(inputs, self.compute_dtype)
        weights = self._own()
        if self._trains(training):
            weights = self._mixed(weights, *self._next_draw())
        return self._activation(self._product(inputs, *weights, *[None] * (2 - len(weights))))

    def _own(self):
        with as_stored():
            # Rounded, what was trained may be what it was.
            return [weight for weight in self._weights() if weight is not None]

    def _mixed(self, weights, key, rate):
        # As one sample.
        keep = random.keep_mask(key, (1, sum(math.prod(weight.shape) for weight in weights)), rate)[0]
        mixed, begin = [], 0
        for weight, variable in zip(weights, self._pretrained, strict=True):
            end = begin + math.prod(weight.shape)
            pretrained = variable.value
            part = ops.reshape(keep[begin:end], weight.shape)
            mixed.append(pretrained + random.multiply_where(part, random.keep_scale(rate), weight - pretrained))
            begin = end
        return mixed
