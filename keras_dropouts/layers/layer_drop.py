from typing import Any

import keras
from keras import ops

from keras_dropouts import random
from keras_dropouts.layers.arguments import Rate
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.layers.path_wrapper import PathWrapper


@keras.saving.register_keras_serializable(package="keras_dropouts")
class LayerDrop(PathWrapper, RandomLayer):
    """Drops the layer it wraps in some batches while training: its input passes in its place.

    For the blocks of a transformer, shortcuts included, so that the trained network still works with fewer of them.
    Nothing is scaled, and at inference every block is there; to prune, put `keras.layers.Identity` in the place of
    every other one, by `keras_dropouts.replace`.

    Args:
        layer: The layer or model to wrap, which takes one tensor and returns one of the same shape.
        rate: The probability of dropping the layer, a number in `[0, 1]` or a schedule, as for
            `keras_dropouts.Dropout`. The authors recommend 0.1 to 0.2, and 0.5 to prune half of the blocks.
        seed: `None`, or an integer in `[0, 2**32)`. Two layers with the same seed draw the same bits, as in Keras: give
            each block another.
        **kwargs: As for `keras.layers.Layer`: `name`, `dtype`, `trainable`. `dtype` is the wrapped layer's unless
            given.

    Call arguments:
        inputs: As for the wrapped layer: one tensor.
        training: Whether to drop.
        mask: The mask of the timesteps, which the wrapped layer is given if it takes one.

    Input shape:
        The wrapped layer's.

    Output shape:
        The input's.

    Raises:
        ValueError: Where an argument is not as described, or the wrapped layer changes the shape.

    Reference:
        Fan, Grave and Joulin, "Reducing Transformer Depth on Demand with Structured Dropout", ICLR 2020,
        arXiv 1909.11556.

    Read was the authors' code in fairseq (`modules/layer_drop.py`, `examples/layerdrop`). The wrapped layer is computed
    in any case, and what it counts, draws or collects beside its output it does in each batch: a program compiled by
    JAX cannot skip that, and PyTorch would have to wait for the device to know. To save the time, take
    `keras_dropouts.SkipPath`.

    Example:

    >>> import re
    >>> import keras
    >>> from keras_dropouts import LayerDrop, replace
    >>> model = keras.Sequential([keras.Input((8,))])
    >>> for i in range(6):
    ...     model.add(LayerDrop(keras.layers.Dense(8, "relu"), rate=0.2, name=f"block{i}"))
    >>> pruned = replace(model, re.compile("^block[135]$"), lambda block: keras.layers.Identity())
    >>> len(model.weights), len(pruned.weights)
    (12, 6)
    """

    def __init__(self, layer: keras.layers.Layer, rate: Rate = 0.2, seed: int | None = None, **kwargs: Any):
        super().__init__(layer, rate=rate, seed=seed, **kwargs)

    def call(self, inputs, training=False, mask=None):
        inputs = self._checked(inputs)
        outputs = self._wrapped(inputs, training, mask)
        if not self._trains(training):
            return outputs
        key, rate = self._next_draw()
        keep = random.keep_mask(key, (1,) * len(inputs.shape), rate)
        return ops.where(keep, outputs, inputs)
