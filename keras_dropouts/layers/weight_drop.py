import math
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.keras_internals import kernel_attribute, twin
from keras_dropouts.layers.arguments import Rate, checked_flag
from keras_dropouts.layers.recurrent_wrapper import RecurrentWrapper, cells_of, split


@keras.saving.register_keras_serializable(package="keras_dropouts")
class WeightDrop(RecurrentWrapper):
    """Drops weights of the recurrent layer it wraps, those by which it reads its own output, or those of a Dense.

    In training one mask for the whole batch, the same at all timesteps, is drawn in each call, and what it keeps is
    divided by the probability of keeping; at inference the weights are as they are. The layer itself runs with the
    dropped weights, by its fused path where the backend has one. The gradient goes to the weights through the mask.

    Args:
        layer: A `keras.layers.LSTM`, `GRU` or `SimpleRNN`, or a `keras.layers.RNN` of their cells, one or several,
            whose recurrent kernels are dropped; or a `keras.layers.Dense`, whose kernel is. Its weights stay its own.
        rate: The probability of dropping a weight: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
        variational: Whether all weights of a column, those that are summed to one number (of an LSTM for one of its
            gates), are dropped together.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        sequences: As for the wrapped layer.
        initial_state: `None`, or a list of states to begin with.
        mask: `None`, or a boolean tensor with an entry for each timestep: False is padding.
        training: Whether to drop.

    Input shape:
        `(batch, timesteps, features)`; of a Dense, the wrapped layer's.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described; in training, where a Dense is quantized.

    Reference:
        Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018, arXiv 1708.02182.

    Read was the authors' program (`salesforce/awd-lstm-lm`), which drops half of the weights. There a row of PyTorch's
    transposed matrix is dropped as a whole where `variational`, which is a column of Keras's, and at inference too.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import WeightDrop
    >>> layer = WeightDrop(keras.layers.LSTM(16), rate=0.5, seed=1)
    >>> layer(np.ones((2, 5, 8), "float32"), training=True).shape == (2, 16)
    True
    """

    others = (keras.layers.Dense,)

    def __init__(
        self,
        layer: keras.layers.Layer,
        rate: Rate = 0.5,
        variational: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate, seed, **kwargs)
        self.variational = checked_flag("variational", variational)

    def training_call(self, sequences, initial_state, mask, key, rate):
        if isinstance(self.layer, keras.layers.Dense):
            if self.layer.quantization_mode is not None:
                raise ValueError(
                    f"A quantized `layer` has no weights to drop in training. Received: layer={self.layer!r} with "
                    f"quantization_mode={self.layer.quantization_mode!r}"
                )
            # With LoRA it is the merged kernel.
            (kernel,) = self._dropped([self.layer.kernel], key, rate)
            layer = twin(self.layer, **{kernel_attribute(self.layer): kernel}, lora_enabled=False)
        else:
            cells = cells_of(self.layer)
            kernels = self._dropped([cell.recurrent_kernel for cell in cells], key, rate)
            twins = [twin(cell, recurrent_kernel=kernel) for cell, kernel in zip(cells, kernels, strict=True)]
            stacked = isinstance(self.layer.cell, keras.layers.StackedRNNCells)
            layer = twin(self.layer, cell=twin(self.layer.cell, cells=twins) if stacked else twins[0])
        return self._outputs_of(layer, sequences, initial_state, mask)

    def inference_call(self, sequences, initial_state, mask):
        return self._outputs_of(self.layer, sequences, initial_state, mask)

    def _dropped(self, kernels, key, rate):
        kernels = [kernel.value if isinstance(kernel, keras.Variable) else kernel for kernel in kernels]
        shapes = [(1, kernel.shape[1]) if self.variational else kernel.shape for kernel in kernels]
        sizes = [math.prod(shape) for shape in shapes]
        # As one sample.
        keeps = split(random.keep_mask(key, (1, sum(sizes)), rate), sizes)
        return [
            random.multiply_where(ops.reshape(keep, shape), random.keep_scale(rate), kernel)
            for keep, shape, kernel in zip(keeps, shapes, kernels, strict=True)
        ]

    def _outputs_of(self, layer, sequences, initial_state, mask):
        if isinstance(layer, keras.layers.Dense):
            return self._in_own_type(twin(layer, activity_regularizer=None)(sequences))
        return self._in_own_type(layer.call(sequences, initial_state=initial_state, mask=mask, training=False))

    def get_config(self):
        return {**super().get_config(), "variational": self.variational}
