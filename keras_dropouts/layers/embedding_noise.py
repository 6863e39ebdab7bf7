from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import checked_inputs, checked_magnitude
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.random.backend import rounded
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import work_dtype
from keras_dropouts.random.rematerialize import rematerialized_product


@keras.saving.register_keras_serializable(package="keras_dropouts")
class EmbeddingNoise(SeededLayer):
    """Adds uniform noise to the embeddings of a sequence while training, less to each where there are more.

    For language models that are tuned on instructions: noise between `-1` and `1`, multiplied by
    `alpha / sqrt(length * features)`, so that the noise of a whole sequence has the mean square norm `alpha**2 / 3`
    whatever its size. Inference is the identity.

    With a Keras mask the length is each sequence's own, and its padding stays as it is; without one it is that of the
    tensor. A sequence's noise thus does not depend on what it is padded to.

    Args:
        alpha: How much noise, a number that is not negative. The paper's are 5, 10 and 15.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 3, of a floating-point type.
        training: Whether to add noise.
        mask: `None`, or a boolean for each timestep of each sample, which Keras gives by itself.

    Input shape:
        `(batch, timesteps, features)`.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Jain et al., "NEFTune: Noisy Embeddings Improve Instruction Finetuning", ICLR 2024, arXiv 2310.05914.

    Read were the authors' README (`neelsjain/NEFTune`) and the hook of Hugging Face's Transformers, which is the same:
    both take the padded length, and add noise to the padding.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import EmbeddingNoise
    >>> y = EmbeddingNoise(5, seed=1)(np.zeros((1000, 10, 40), "float32"), training=True)
    >>> y = keras.ops.convert_to_numpy(y)
    >>> bool(abs(y).max() <= 5 / 20), round(float((y**2).sum((1, 2)).mean()), 1)  # 25 / 3
    (True, 8.3)
    """

    def __init__(self, alpha: float = 5.0, seed: int | None = None, **kwargs: Any):
        super().__init__(seed, **kwargs)
        self.alpha = checked_magnitude("alpha", alpha)
        self.input_spec = keras.InputSpec(ndim=3)

    def call(self, inputs, training=False, mask=None):
        if not self._trains(training):
            return inputs
        inputs, key = checked_inputs(self, inputs), key_of(self._next_state())
        alpha = ops.convert_to_tensor(self.alpha, "float32")
        if mask is not None:
            return _noisy(inputs, key, alpha, mask)
        return rematerialized_product(_upstream, inputs, key, alpha, _noisy)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "alpha": self.alpha}


def _noisy(inputs, key, alpha, mask=None):
    shape = ops.shape(inputs)
    noise = random.uniform(key, shape, -1.0, 1.0)
    if mask is None:
        length = ops.cast(shape[1], "float32")
    else:
        mask = ops.cast(mask, "float32")[:, :, None]
        length, noise = ops.sum(mask, axis=1, keepdims=True), noise * mask
    noise = noise * (alpha / ops.sqrt(ops.maximum(length * shape[2], 1)))
    dtype = work_dtype(inputs)
    return ops.cast(ops.cast(inputs, dtype) + ops.cast(rounded(noise), dtype), inputs.dtype)


def _upstream(upstream, key, alpha):
    """What the gradient is multiplied by is 1."""
    return upstream
