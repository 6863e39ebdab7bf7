import math
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_flag
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.layer_wrapper import LayerWrapper
from keras_dropouts.random.choice import gathered


@keras.saving.register_keras_serializable(package="keras_dropouts")
class EmbeddingDropout(LayerWrapper, RandomLayer):
    """Drops rows of the table of the embedding layer it wraps while training: words, wherever they are.

    A word that is dropped is so in all its places, where `keras_dropouts.TimestepDropout` after the embedding would
    drop one place of it and keep another. The rows that are kept are divided by the probability of keeping; inference
    is the wrapped layer. Rows that are dropped have no gradient.

    Args:
        layer: The `keras.layers.Embedding` to wrap, built or not. Its weights stay its own.
        rate: The probability of dropping a row, a number in `[0, 1]` or a schedule, as for `keras_dropouts.Dropout`.
        per_sequence: Whether each sample of a batch draws which rows it drops, as Gal and Ghahramani have it. If not,
            the default, one draw serves the whole batch, as in AWD-LSTM.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: Indices, as for the wrapped layer.
        training: Whether to drop.

    Input shape:
        The wrapped layer's. The first axis counts samples.

    Output shape:
        The wrapped layer's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Merity, Keskar and Socher, "Regularizing and Optimizing LSTM Language Models", ICLR 2018, arXiv 1708.02182; for
        each sequence: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent Neural
        Networks", NIPS 2016, arXiv 1512.05287.

    Read was the program of the former (`salesforce/awd-lstm-lm`). Here the rows are dropped once they are looked up,
    and the table is never copied.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import EmbeddingDropout
    >>> layer = EmbeddingDropout(keras.layers.Embedding(9, 2, "ones"), rate=0.5, seed=1)
    >>> y = layer(np.array([[3, 5, 3, 7, 5]]), training=True)
    >>> keras.ops.convert_to_numpy(y)[0, :, 0].tolist()
    [2.0, 0.0, 2.0, 0.0, 0.0]
    """

    def __init__(
        self,
        layer: keras.layers.Embedding,
        rate: Rate = 0.1,
        per_sequence: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        embedding = keras.layers.Embedding
        if not isinstance(layer, embedding) or type(layer).call is not embedding.call:
            raise ValueError(
                f"`layer` must be a keras.layers.Embedding, or a subclass that looks up indices in the same way. "
                f"Received: layer={layer!r}"
            )
        super().__init__(layer, rate=rate, seed=seed, **kwargs)
        self.per_sequence = checked_flag("per_sequence", per_sequence)
        # The wrapped layer is called, and applies its own.
        self.activity_regularizer = None
        # Narrow types round indices.
        self.autocast = False

    def call(self, inputs, training=False):
        outputs = ops.cast(self.layer(inputs), self.compute_dtype)
        if not self._trains(training):
            return outputs
        key, rate = self._next_draw()
        indices = ops.cast(inputs, "int32")
        shape = ops.shape(indices)
        rows = random.keep_mask(key, (shape[0] if self.per_sequence else 1, self.layer.input_dim), rate)
        if self.per_sequence:
            # No batch of no samples says what -1 stands for.
            keep = ops.reshape(gathered(rows, ops.reshape(indices, (shape[0], math.prod(shape[1:])))), shape)
        else:
            keep = ops.take(rows[0], indices, axis=0)
        return random.multiply_where(keep[..., None], random.keep_scale(rate), outputs)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def get_config(self):
        return {**super().get_config(), "per_sequence": self.per_sequence}
