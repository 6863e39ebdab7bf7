from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.filling_layer import FillingLayer


@keras.saving.register_keras_serializable(package="keras_dropouts")
class ConditionDropout(FillingLayer):
    """Replaces the condition of some samples by a null while training: the labels or embeddings a model is told.

    For classifier-free guidance: one model learns to generate with a condition and without, and what it makes of the
    two is weighed against each other later. A sample's whole condition goes or none of it. Nothing is scaled, and
    inference is the identity: what is to be generated without a condition is given the null.

    Labels go in before they are embedded, with a null that is no class, and an embedding that has a row more for it,
    which is learned. Embeddings of a text or an image go in as they are, with a null of 0.

    Args:
        rate: The probability that a sample loses its condition, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        null: The number that takes its place, everywhere in it. For labels it is an integer.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of any rank, of a floating-point or integer type.
        training: Whether to drop.

    Input shape:
        Any. The first axis counts samples.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.

    Read was the program of Peebles and Xie (`facebookresearch/DiT`), whose labels are dropped so, at a rate of 0.1. To
    drop one or all of several conditions in one draw take `keras_dropouts.ModalityDropout`.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import ConditionDropout
    >>> classes = 10
    >>> layer = ConditionDropout(0.5, null=classes, seed=1)
    >>> labels = layer(np.array([3, 1, 4, 1, 5, 9]), training=True)
    >>> keras.ops.convert_to_numpy(labels).tolist()
    [10, 1, 10, 1, 5, 10]
    >>> embeddings = keras.layers.Embedding(classes + 1, 8)(labels)
    """

    takes_integers = True

    def __init__(self, rate: Rate = 0.1, null: float = 0.0, seed: int | None = None, **kwargs: Any):
        super().__init__(rate, "null", null, seed, **kwargs)

    @property
    def null(self) -> float:
        """What takes the place of a condition."""
        return self._fill

    def keep_mask(self, inputs, key, rate):
        shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
        return random.keep_mask(key, shape, rate), 1.0
