from typing import Any

import keras

from keras_dropouts.layers.arguments import Rate, checked_fraction
from keras_dropouts.layers.recurrent_wrapper import RecurrentWrapper, step_of
from keras_dropouts.random.multiply import select


@keras.saving.register_keras_serializable(package="keras_dropouts")
class VariationalRNNDropout(RecurrentWrapper):
    """Drops features of the input and of the output that is fed back, the same ones at all timesteps of a sequence.

    In training each sequence has one mask for what the wrapped layer reads from its input, and one for what it reads
    from its own output of the timestep before, there alone where that enters a matrix product. What an LSTM or a GRU
    remembers stays whole. What is kept is scaled up; at inference the wrapped layer runs as it is.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.LSTM`, `GRU` or `SimpleRNN`, or a `keras.layers.RNN` of
            their cells, without `dropout` and `recurrent_dropout` of its own. Its weights stay its own.
        rate: The probability of dropping a feature of the output that is fed back: a number in `[0, 1]` (taken to the
            nearest 2**-16), or a `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the
            number of times the layer has been called in training. `layer.rate = r` takes effect at the next batch.
        input_rate: That of the input, a number in `[0, 1]` that stays as it is; `None` for `rate`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        sequences, initial_state, mask: As for the wrapped layer.
        training: Whether to drop.

    Input shape:
        The wrapped layer's: `(batch, timesteps, features)`.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural Networks", NIPS 2016,
        arXiv 1512.05287, with tied weights.

    All gates share their masks, which the paper calls tied weights: one matrix product for all gates. The
    `recurrent_dropout` of Keras's own layers is the untied form, with a mask for each gate.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import VariationalRNNDropout
    >>> layer = VariationalRNNDropout(keras.layers.LSTM(32), rate=0.3, input_rate=0.5)
    >>> y = layer(np.ones((2, 10, 8), "float32"), training=True)
    >>> tuple(y.shape)
    (2, 32)
    """

    def __init__(
        self,
        layer: keras.layers.RNN,
        rate: Rate,
        input_rate: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate, seed=seed, **kwargs)
        self._input_rate = None if input_rate is None else checked_fraction("input_rate", input_rate)

    @property
    def input_rate(self):
        return self._input_rate

    def _draws(self, cell, rate):
        return [(cell.kernel.shape[0], rate if self.input_rate is None else self.input_rate), (cell.units, rate)]

    def _step(self, cell, inputs, states, masks):
        input_mask, output_mask = next(masks), next(masks)
        return step_of(
            cell,
            select(*input_mask, inputs),
            states,
            read=lambda h: select(*output_mask, h),
        )

    def get_config(self):
        return {**super().get_config(), "input_rate": self.input_rate}
