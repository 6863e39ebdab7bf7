from typing import Any

import keras
import numpy as np
from keras import ops

from keras_dropouts.keras_internals import new_seed
from keras_dropouts.layers.arguments import (
    DataFormat,
    checked_count,
    checked_inputs,
    checked_number,
)
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.channels_layer import ChannelsLayer
from keras_dropouts.random import multiply_where
from keras_dropouts.random.arguments import checked_word
from keras_dropouts.random.backend import cast
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.multiply import multiply
from keras_dropouts.random.rematerialize import rematerialized_product

# As in the authors' program.
FEWEST_CHANNELS, LARGEST_SCALE = 10, 6.0
# After so many halves an interval of floats is one number; masks of an expected width take a thousand tries at most.
HALVES, TRIES = 64, 10_000


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Masksembles(ChannelsLayer, SeededLayer):
    """Multiplies channels by one of a few fixed masks: an ensemble of networks that share their weights.

    The masks are drawn once, overlap as much as `scale` says, and are saved with the model. Put the layer where dropout
    would go, after several layers, all with the same number of masks: a network with a mask in each place is a member.

    In training a sample has the mask that its place in the batch and the count of calls decide: neighbours have
    different ones, so that each batch trains all members, and batches of any size train them alike. The members predict
    by `keras_dropouts.monte_carlo(model, x, samples=masks)`, whose n-th sample is that of the n-th masks. Nothing is
    scaled in either. Otherwise at inference a channel is multiplied by the share of the masks that keep it: one network
    in the place of all, as dropout has it, which is no part of the published method.

    Args:
        masks: The number of masks, a positive integer.
        scale: How little they overlap, a number above 1 and up to 6: of the channels that two masks keep, both keep
            about the share `1 / (2 * scale - 1)`.
        data_format: `"channels_last"` for inputs of shape `(batch, ..., channels)`, `"channels_first"` for
            `(batch, channels, ...)`. `None`: `keras.config.image_data_format()`, but the last for sequences, of rank 3.
        seed: `None`, or an integer in `[0, 2**32)`, from which the masks are drawn as the layer is built.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`.

    Call arguments:
        inputs: A tensor of a floating-point type, of rank 2 or more.
        training: Whether each sample has a mask of its own.
        member: `None`, or which mask all samples have, in training and at inference: an integer or an integer tensor
            without axes, taken modulo the number of masks. `monte_carlo` and `always_on` give their count of calls.

    Input shape:
        `(batch, ..., channels)`, or `(batch, channels, ...)` with channels first; at least 10 channels.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described, or there are no masks for so many channels at this scale.

    Reference:
        Durasov, Bagautdinov, Baque and Fua, "Masksembles for Uncertainty Estimation", CVPR 2021, arXiv 2012.08334.

    Read was the authors' program (`nikitadurasov/masksembles`): a seed gives the masks that it draws for one layer
    after `numpy.random.seed(seed)`; where it finds none, masks are looked for that keep one channel more. It splits a
    batch into as many parts as there are masks, one after the other, at inference too, for which the inputs are
    repeated by hand; the number of masks must divide the batch there.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import Masksembles
    >>> layer = Masksembles(masks=4, scale=2.0, seed=1)
    >>> y = np.array(layer(np.ones((4, 128), "float32"), training=True))
    >>> y.sum(axis=1).tolist()
    [68.0, 68.0, 68.0, 68.0]
    """

    def __init__(
        self,
        masks: int = 4,
        scale: float = 2.0,
        data_format: DataFormat = None,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(data_format, seed=seed, **kwargs)
        self.masks = checked_count("masks", masks)
        self.scale = checked_number("scale", scale)
        if not 1 < self.scale <= LARGEST_SCALE:
            raise ValueError(f"`scale` must be a number in (1, {LARGEST_SCALE:g}]. Received: scale={scale!r}")
        self.input_spec = keras.InputSpec(min_ndim=2)

    def build(self, input_shape):
        super().build(input_shape)
        self._channels = self._channels_of(input_shape)
        seed = new_seed() if self.seed is None else self.seed
        kept = _masks(input_shape[self._channels], self.masks, self.scale, seed)
        self.kept = self.add_weight(
            name="kept",
            shape=kept.shape,
            dtype="bool",
            initializer=lambda shape, dtype: ops.convert_to_tensor(kept, dtype),
            trainable=False,
        )

    def call(self, inputs, training=False, member=None):
        inputs, kept = checked_inputs(self, inputs), ops.convert_to_tensor(self.kept)
        if member is not None:
            if not ops.is_tensor(member):
                member = checked_word("member", member)
            return self._multiply(inputs, ops.take(kept, member % self.masks, axis=0)[None])
        if self._trains(training):
            return rematerialized_product(self._by_place, inputs, key_of(self._next_state()), kept)
        share = ops.mean(ops.cast(kept, "float32"), axis=0, keepdims=True)
        return multiply(inputs, self._beside(inputs, share))

    def _by_place(self, inputs, key, kept):
        # The count of calls, of which another replica has another number.
        call = cast(key[1], "int32") % self.masks
        place = ops.arange(ops.shape(inputs)[0], dtype="int32")
        return self._multiply(inputs, ops.take(kept, (place + call) % self.masks, axis=0))

    def _multiply(self, inputs, keep):
        return multiply_where(self._beside(inputs, keep), 1.0, inputs)

    def _beside(self, inputs, rows):
        """Reshapes a row for each sample, or for all, to have its channels where the inputs have theirs."""
        shape = [1] * len(inputs.shape)
        shape[0], shape[self._channels] = ops.shape(rows)
        return ops.reshape(rows, shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "masks": self.masks, "scale": self.scale}


def _masks(channels, masks, scale, seed):
    """Returns which channels each mask keeps, booleans of shape (masks, channels).

    NumPy promises that this generator will give the same numbers for ever.
    """
    if channels == 0:
        return np.ones((masks, 0), bool)
    if channels is None or channels < FEWEST_CHANNELS:
        raise ValueError(
            f"The inputs of Masksembles must have at least {FEWEST_CHANNELS} channels, and their number must be known: "
            f"fewer are not enough for masks that differ. Received: inputs with {channels} channels"
        )
    generator = np.random.RandomState(seed)
    fewest = int(channels / (scale * (1 - (1 - 1 / scale) ** masks)))
    for kept in (fewest, fewest + 1):
        least, most = max(0.8 * scale, 1.0), 1.2 * scale
        for _ in range(HALVES):
            middle = (least + most) / 2
            drawn = _masks_of(kept, masks, middle, generator)
            if drawn is None:
                break
            if drawn.shape[1] == channels:
                return drawn
            least, most = (least, middle) if drawn.shape[1] > channels else (middle, most)
    raise ValueError(
        f"There are no {masks} masks that use all {channels} channels and overlap as `scale` says. Change `scale`, or "
        f"the number of channels. Received: masks={masks}, scale={scale}"
    )


def _masks_of(kept, masks, scale, generator):
    """Draws masks that keep so many channels each, and use together as many as is to be expected; `None` in vain."""
    width = int(kept * scale * (1 - (1 - 1 / scale) ** masks))
    for _ in range(TRIES):
        drawn = np.zeros((masks, int(kept * scale)), bool)
        for mask in drawn:
            mask[generator.choice(len(mask), kept, replace=False)] = True
        # As the C language orders it, or PyTorch would export it with a warning.
        drawn = np.compress(drawn.any(axis=0), drawn, axis=1)
        if drawn.shape[1] == width:
            return drawn
    return None
