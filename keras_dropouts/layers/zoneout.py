from typing import Any

import keras
from keras import ops, tree

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_fraction
from keras_dropouts.layers.recurrent_wrapper import RecurrentWrapper, step_of
from keras_dropouts.random.multiply import work_dtype


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Zoneout(RecurrentWrapper):
    """Leaves elements of a recurrent layer's states as they were, at random at each timestep, while training.

    In training each element of the output, and of the cell state of an LSTM, keeps the value of the timestep before
    with probability `rate`; else it takes the new one. The new output is computed from the new cell state, before any
    element of that is kept. Nothing is set to zero, and nothing scaled. At inference a state is the mean of the two,
    `rate * before + (1 - rate) * new`.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.LSTM`, `GRU` or `SimpleRNN`, or a `keras.layers.RNN` of
            their cells, without `dropout` and `recurrent_dropout` of its own. Its weights stay its own.
        rate: The probability of keeping the old value, of the output: a number in `[0, 1]` (taken to the nearest
            2**-16), or a `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number
            of times the layer has been called in training. `layer.rate = r` takes effect at the next batch.
        cell_rate: That of the cell state of an LSTM, a number in `[0, 1]` that stays as it is; `None` for `rate`.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        sequences, initial_state, mask: As for the wrapped layer.
        training: Whether to draw, or to take the mean.

    Input shape:
        The wrapped layer's: `(batch, timesteps, features)`.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Krueger et al., "Zoneout: Regularizing RNNs by Randomly Preserving Hidden Activations", ICLR 2017,
        arXiv 1606.01305.

    The paper writes `z_h` for `rate` and `z_c` for `cell_rate`. The masks of all timesteps are drawn before the first,
    as many numbers as the states of all timesteps have.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Zoneout
    >>> layer = Zoneout(keras.layers.LSTM(32), rate=0.05, cell_rate=0.5)
    >>> y = layer(np.ones((2, 10, 8), "float32"), training=True)
    >>> tuple(y.shape)
    (2, 32)
    """

    every_step = True

    def __init__(
        self,
        layer: keras.layers.RNN,
        rate: Rate,
        cell_rate: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(layer, rate, seed=seed, **kwargs)
        self._cell_rate = None if cell_rate is None else checked_fraction("cell_rate", cell_rate)

    @property
    def cell_rate(self):
        return self._cell_rate

    def _draws(self, cell, rate):
        cell_rate = rate if self.cell_rate is None else self.cell_rate
        return [(cell.units, rate), (cell.units, cell_rate)][: len(tree.flatten(cell.state_size))]

    def _step(self, cell, inputs, states, masks):
        return [
            _zoned(next(masks)[0], new, before)
            for new, before in zip(step_of(cell, inputs, states), states, strict=True)
        ]

    def inference_call(self, sequences, initial_state, mask):
        _, rates = self._all_draws(self._next_rate())
        probabilities = [(random.keep_probability(rate), 1.0) for rate in rates]
        return self._loop(sequences, initial_state, mask, lambda inputs: (inputs, iter(probabilities)))

    def get_config(self):
        return {**super().get_config(), "cell_rate": self.cell_rate}


def _zoned(update, new, before):
    """The new state where `update`, a mask, or the mean over such masks, where it is the probability of a 1."""
    if keras.backend.standardize_dtype(update.dtype) == "bool":
        return ops.where(update, new, before)
    update, after, before = (ops.cast(x, work_dtype(new)) for x in (update, new, before))
    return ops.cast(update * after + (1 - update) * before, new.dtype)
