import functools
import itertools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate, checked_inputs, checked_magnitude, checked_magnitudes
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.random.rematerialize import rematerialized_product


@keras.saving.register_keras_serializable(package="keras_dropouts")
class ModalityDropout(RandomLayer):
    """Drops one of several inputs of a model for some samples of a batch while training: the sound or the picture.

    So that a model does not lean on one of them, and can do without. One draw for each sample decides whether it loses
    an input, and which: never two of them, and never all unless that is asked for. What is dropped is 0; nothing is
    scaled, and inference is the identity.

    Args:
        rate: The probability that a sample loses something, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`.
        shares: How often it is which input, in proportion: a number for each, not negative. `None`: equally often.
        all_share: How often it is all inputs at once, in the same proportion, not negative. With `None` for `shares`,
            1 is as often as each single one.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A list or tuple of two tensors or more, of floating-point types.
        training: Whether to drop.

    Input shape:
        Any shapes, whose first axes count the same samples.

    Output shape:
        A list of the input shapes.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Shi et al., "Learning Audio-Visual Speech Representation by Masked Multimodal Cluster Prediction", ICLR 2022,
        arXiv 2201.02184: modality dropout; all at once as Brooks et al., "InstructPix2Pix: Learning to Follow Image
        Editing Instructions", CVPR 2023, arXiv 2211.09800, section 3.2.1: `ModalityDropout(0.15, all_share=1)` on the
        picture and the text drops each in 5 % of the samples, and both in another 5 %.

    The definitions are from secondary sources; the former drops for a whole batch at once, features of audio or video.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import ModalityDropout
    >>> sound, picture = np.ones((6, 2), "float32"), np.ones((6, 3), "float32")
    >>> sound, picture = ModalityDropout(0.9, seed=1)([sound, picture], training=True)
    >>> [keras.ops.convert_to_numpy(x)[:, 0].astype(int).tolist() for x in (sound, picture)]
    [[1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 0, 0]]
    """

    def __init__(
        self,
        rate: Rate = 0.5,
        shares: Sequence[float] | None = None,
        all_share: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(rate, seed=seed, **kwargs)
        self.shares = None if shares is None else checked_magnitudes("shares", shares)
        self.all_share = checked_magnitude("all_share", all_share)
        if self.shares is not None and not sum(self.shares) + self.all_share:
            raise ValueError(f"`shares` must not all be 0. Received: shares={shares!r}, all_share={all_share!r}")

    def call(self, inputs, training=False):
        self._check_number(inputs, inputs)
        inputs = [checked_inputs(self, x) for x in inputs]
        if not self._trains(training):
            return inputs
        key, rate = self._next_draw()
        shares = [*(self.shares or [1.0] * len(inputs)), self.all_share]
        bounds = list(itertools.accumulate(shares, initial=0.0))
        # Of all samples that lose something, those between these parts lose an input; the rest lose all.
        bounds = [bound / bounds[-1] for bound in bounds[:-1]]
        return [
            rematerialized_product(functools.partial(_without, between, bounds[-1]), x, key, rate)
            for between, x in zip(itertools.pairwise(bounds), inputs, strict=True)
        ]

    def _check_number(self, parts, inputs):
        count = None if self.shares is None else len(self.shares)
        if not isinstance(parts, (list, tuple)) or len(parts) < 2 or len(parts) != (count or len(parts)):
            raise ValueError(
                f"`inputs` must be a list or tuple of {count or 'two or more'} tensors. Received: inputs={inputs!r}"
            )

    def compute_output_shape(self, input_shape):
        several = all(isinstance(shape, (list, tuple)) for shape in input_shape)
        self._check_number(input_shape if several else None, input_shape)
        return list(input_shape)

    def get_config(self):
        return {**super().get_config(), "shares": self.shares, "all_share": self.all_share}


def _without(between, beyond, inputs, key, rate):
    """Returns the inputs but for the samples whose draws are between two parts of the rate, or beyond a third."""
    drawn = random.uniform(key, (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1))

    def is_in(begin, end):
        return ops.logical_and(drawn >= rate * begin, drawn < rate * end)

    dropped = ops.logical_or(is_in(*between), is_in(beyond, 1.0))
    return random.multiply_where(ops.logical_not(dropped), 1.0, inputs)
