import keras

from keras_dropouts.layers.recurrent_wrapper import RecurrentWrapper, step_of
from keras_dropouts.random.multiply import select


@keras.saving.register_keras_serializable(package="keras_dropouts")
class RecurrentDropout(RecurrentWrapper):
    """Drops elements of what a recurrent layer adds to its memory, at each timestep anew: no memory is lost.

    In training an LSTM's cell state is `c = f * c_before + i * d(g)` and a GRU's state `h = z * h_before + (1 - z) *
    d(g)`, where `d` is dropout: it sets elements of the candidate `g` to zero and scales up the rest. What is in the
    memory already stays. At inference the wrapped layer runs as it is.

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
        Semeniuta, Severyn and Barth, "Recurrent Dropout without Memory Loss", COLING 2016, arXiv 1603.05118.

    The `recurrent_dropout` of Keras's own layers is another method: see `keras_dropouts.VariationalRNNDropout`. The
    masks of all timesteps are drawn before the first, as many numbers as a layer of these units returns with
    `return_sequences`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import RecurrentDropout
    >>> layer = RecurrentDropout(keras.layers.LSTM(32), rate=0.25)
    >>> y = layer(np.ones((2, 10, 8), "float32"), training=True)
    >>> tuple(y.shape)
    (2, 32)
    """

    cells = (keras.layers.LSTMCell, keras.layers.GRUCell)
    every_step = True

    def _step(self, cell, inputs, states, masks):
        mask = next(masks)
        return step_of(cell, inputs, states, update=lambda g: select(*mask, g))
