from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.keras_internals import get_keras_mask, set_keras_mask
from keras_dropouts.layers.arguments import checked_flag, checked_fraction, checked_inputs, checked_length
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.shares import FixedRate, kept_count
from keras_dropouts.random.backend import is_unknown_size
from keras_dropouts.random.choice import gathered, orders
from keras_dropouts.random.keys import key_of


@keras.saving.register_keras_serializable(package="keras_dropouts")
class PatchDropout(FixedRate, SeededLayer):
    """Takes tokens out of a sequence while training, so that all that follows has less to compute.

    For vision transformers, after the positions have been added: of the tokens behind the prefix each sample keeps as
    many as any other, its own choice, in their order. They are gathered, not set to zero, so the sequence gets
    shorter; nothing is scaled. Inference is the identity. A Keras mask is gathered too.

    How many are kept is part of every compiled program. The rate is therefore a number, neither a schedule nor to be
    changed later.

    Args:
        rate: The share of the tokens behind the prefix that is dropped, a number in `[0, 1]`, taken to the nearest
            fraction of a denominator up to 2**15. Of n tokens the whole part of `n * (1 - rate)` stays, but at least
            one.
        prefix_tokens: How many tokens at the beginning are always kept, a number that may be 0. 1, the default, is
            for a class token.
        return_indices: Whether to return also the places in the input of the tokens that are kept, the prefix
            included: an int32 tensor, a row for each sample, for positions that are added later, or rotated. At
            inference these are all places.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of rank 3, of a floating-point type.
        training: Whether to drop.
        mask: `None`, or a boolean for each token of each sample, which Keras gives by itself.

    Input shape:
        `(batch, tokens, features)`.

    Output shape:
        `(batch, tokens, features)` with fewer tokens in training. In a functional model, which trains and predicts,
        their number is `None`: what comes after must take sequences of any length.

    Raises:
        ValueError: Where an argument is not as described; where the rate is set later.

    Reference:
        Liu et al., "PatchDropout: Economizing Vision Transformers Using Patch Dropout", WACV 2023, arXiv 2208.07220.

    Read were the authors' program (`yueliukth/PatchDropout`) and timm's `PatchDropout`. Those count in floating-point
    numbers, and keep 9 of 100 tokens at a rate of 0.9; timm shuffles the tokens unless told to keep the order.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import PatchDropout
    >>> x = np.arange(9, dtype="float32").reshape(1, 9, 1)
    >>> np.array(PatchDropout(0.5, seed=1)(x, training=True))[0, :, 0].astype(int).tolist()
    [0, 3, 4, 6, 8]
    """

    def __init__(
        self,
        rate: float = 0.5,
        prefix_tokens: int = 1,
        return_indices: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(seed, **kwargs)
        self._rate = checked_fraction("rate", rate)
        self.prefix_tokens = checked_length("prefix_tokens", prefix_tokens)
        self.return_indices = checked_flag("return_indices", return_indices)
        self.input_spec = keras.InputSpec(ndim=3)

    def __call__(self, inputs, *args, **kwargs):
        outputs = super().__call__(inputs, *args, **kwargs)
        tokens = outputs[0] if self.return_indices else outputs
        if isinstance(tokens, keras.KerasTensor) and get_keras_mask(tokens) is not None:
            # In the graph of a functional model the mask is a tensor as others. Keras takes that of the inputs for it.
            set_keras_mask(tokens, MaskOf()(tokens))
        return outputs

    def call(self, inputs, training=None, mask=None):
        if not self._trains(training):
            indices = _places(*ops.shape(inputs)[:2]) if self.return_indices else None
            outputs = inputs
        else:
            inputs, key = checked_inputs(self, inputs), key_of(self._next_state())
            outputs = random.rematerialized(self._kept, inputs, key)
            indices = None if mask is None and not self.return_indices else self._indices(inputs, key)
            mask = None if mask is None else gathered(mask, indices)
        if mask is not None:
            set_keras_mask(outputs, mask)
        return (outputs, indices) if self.return_indices else outputs

    def _kept(self, inputs, key):
        return gathered(inputs, self._indices(inputs, key))

    def _indices(self, inputs, key):
        samples, tokens, _ = ops.shape(inputs)
        prefix, kept = self._counts(tokens)
        # Sorted, they are in their order again.
        chosen = ops.sort(orders(key, samples, tokens - prefix)[:, :kept], axis=1)
        return ops.concatenate([_places(samples, prefix), chosen + prefix], axis=1)

    def _counts(self, tokens):
        """Returns how many tokens there are in the prefix, and how many are kept behind it."""
        least = ops.minimum if is_unknown_size(tokens) else min
        prefix = least(self.prefix_tokens, tokens)
        return prefix, kept_count(self._rate, tokens - prefix)

    def compute_output_spec(self, inputs, training=None, mask=None):
        samples, tokens, features = inputs.shape
        if training is None or tokens is None:
            kept = tokens if training is False else None
        else:
            kept = sum(self._counts(tokens)) if training else tokens
        outputs = keras.KerasTensor((samples, kept, features), self.compute_dtype)
        return (outputs, keras.KerasTensor((samples, kept), "int32")) if self.return_indices else outputs

    def compute_output_shape(self, input_shape):
        samples, _, features = input_shape
        return ((samples, None, features), (samples, None)) if self.return_indices else (samples, None, features)

    def get_config(self):
        config = {"rate": self.rate, "prefix_tokens": self.prefix_tokens, "return_indices": self.return_indices}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="keras_dropouts")
class MaskOf(keras.Operation):
    """The mask that Keras keeps beside a tensor, as a tensor of the graph."""

    def call(self, inputs):
        return get_keras_mask(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape[:2], "bool")


def _places(samples, tokens):
    return ops.broadcast_to(ops.arange(tokens, dtype="int32")[None], (samples, tokens))
