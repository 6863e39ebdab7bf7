import keras

from keras_dropouts.layers.recurrent_wrapper import RecurrentWrapper, step_of
from keras_dropouts.random.multiply import select


@keras.saving.register_keras_serializable(package="keras_dropouts")
class RNNDrop(RecurrentWrapper):
    """Sets elements of the memory of a recurrent layer to zero while training, the same ones at all timesteps.

    In training the cell state of an LSTM is `c = m * (f * c_before + i * s * g)` at each timestep, with one mask `m` of
    zeros and ones for a sequence, the gates `f` and `i`, and the candidate `g`. For a GRU, whose memory is its state,
    the same is done to that. At inference the wrapped layer runs as it is.

    Args:
        layer: The layer to wrap, built or not: a `keras.layers.LSTM` or `GRU`, or a `keras.layers.RNN` of their cells,
            without `dropout` and `recurrent_dropout` of its own. Its weights stay its own.
        rate: The probability of dropping an element: a number in `[0, 1]` (taken to the nearest 2**-16), or a
            `keras.optimizers.schedules.LearningRateSchedule` of such numbers, whose step is the number of times the
            layer has been called in training. `layer.rate = r` takes effect at the next batch.
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
        Moon, Choi, Lee and Song, "RNNDROP: A Novel Dropout for RNNs in ASR", ASRU 2015; the definition is from
        secondary sources: arXiv 1606.01305, `srvk/eesen`, `seba-1511/lstms.pth`.

    The scale `s` is `1 / (1 - rate)`. It stands at what enters the memory and not at the memory, where it would act
    once more at each timestep and grow without bounds; given the gates, the mean of what a sequence writes into its
    memory is that at inference.

    Of the paper only the abstract could be read, which has no equation. The secondary sources agree on the memory as
    the place, and on one mask for all timesteps, which `srvk/eesen` leaves as a choice. Those named above mask the
    memory that is kept, as here; Amar's "Dropout for LSTMs" (2017) masks it where it is read, `activation(m * c)`,
    which from a state of zeros gives the same outputs. They disagree on the scale: the two programs multiply the memory
    by `1 / (1 - rate)` at each timestep of training, while arXiv 1606.01305 has the paper take the expectation at
    inference. Where `s` stands is thus this layer's own, and so is the GRU.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import RNNDrop
    >>> layer = RNNDrop(keras.layers.LSTM(1000, return_sequences=True), rate=0.25, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((1, 5, 8), "float32"), training=True))
    >>> dropped = y[0] == 0
    >>> bool((dropped == dropped[0]).all()), bool(abs(dropped[0].mean() - 0.25) < 0.05)
    (True, True)
    """

    cells = (keras.layers.LSTMCell, keras.layers.GRUCell)

    def _step(self, cell, inputs, states, masks):
        keep, scale = next(masks)
        return step_of(
            cell,
            inputs,
            states,
            update=lambda g: select(keep, scale, g),
            memory=lambda c: select(keep, 1.0, c),
        )
