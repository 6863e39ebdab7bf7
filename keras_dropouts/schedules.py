"""Rates that change, over the training or from layer to layer."""

import math
import numbers
from collections.abc import Sequence
from itertools import accumulate

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from keras_dropouts.layers.arguments import checked_count, checked_counts, checked_fraction


@keras.saving.register_keras_serializable(package="keras_dropouts")
class CurriculumDropout(LearningRateSchedule):
    """A schedule for the rate of a layer, that starts at 0 and rises towards `rate`: easy first, then harder.

    At step `t` the rate is `rate * (1 - exp(-gamma * t))`. In the paper's terms, the probability of keeping a unit
    falls from 1 to `1 - rate`.

    Args:
        rate: The rate in the end, a number in `[0, 1]`.
        gamma: How fast it is approached, a positive number. With `gamma=10 / steps` all but 0.005 % of it is reached
            after so many steps; the authors' program has `gamma=0.001`.

    Call arguments:
        step: The number of times that the layer has been called in training, as layers of this package count.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Morerio et al., "Curriculum Dropout", ICCV 2017, arXiv 1703.06229.

    Example:

    >>> from keras_dropouts import CurriculumDropout, Dropout
    >>> layer = Dropout(CurriculumDropout(0.5, gamma=10 / 1000))
    >>> [round(float(layer.rate(step)), 3) for step in (0, 100, 1000)]
    [0.0, 0.316, 0.5]
    """

    def __init__(self, rate: float, gamma: float):
        super().__init__()
        if isinstance(gamma, bool) or not isinstance(gamma, numbers.Real) or not 0 < gamma < math.inf:
            raise ValueError(f"`gamma` must be a positive, finite number. Received: gamma={gamma!r}")
        self.rate = checked_fraction("rate", rate)
        self.gamma = float(gamma)

    def __call__(self, step):
        return -self.rate * ops.expm1(-self.gamma * ops.cast(step, "float32"))

    def get_config(self):
        return {"rate": self.rate, "gamma": self.gamma}


def linear_rates(
    rate: float, depth: int | None = None, stages: Sequence[int] | None = None
) -> list[float] | list[list[float]]:
    """Returns a rate for each block of a network: small in the first, growing linearly, `rate` in the last.

    With `depth`, the rule of stochastic depth: block `l`, counted from 1, has the rate `rate * l / depth`, so that the
    first block drops too. With `stages`, that of networks in stages, as ConvNeXt, Swin and others in timm:
    `rate * (l - 1) / (depth - 1)` over all their blocks, so that the first never drops.

    Args:
        rate: The rate of the last block, a number in `[0, 1]`.
        depth: How many blocks there are, a positive integer. A network of one has the rate `rate`.
        stages: How many blocks each stage has, a sequence of positive integers, in place of `depth`. A network of one
            block has the rate 0.

    Returns:
        A list of `depth` floats; with `stages`, a list of such a list for each stage.

    Raises:
        ValueError: Where an argument is not as described, or both or none of `depth` and `stages` are given.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382: the linear decay rule. For
        stages, the code of timm was read: `calculate_drop_path_rates(rate, stages, stagewise=True)`.

    Example:

    >>> from keras_dropouts import linear_rates
    >>> linear_rates(0.5, depth=4)
    [0.125, 0.25, 0.375, 0.5]
    >>> linear_rates(0.5, stages=[2, 3])
    [[0.0, 0.125], [0.25, 0.375, 0.5]]
    """
    rate = checked_fraction("rate", rate)
    if (depth is None) == (stages is None):
        raise ValueError(
            f"`depth` must be a positive integer, or `stages` be given in its place, not both. "
            f"Received: depth={depth!r}, stages={stages!r}"
        )
    if stages is None:
        depth = checked_count("depth", depth)
        return [rate * block / depth for block in range(1, depth + 1)]
    stages = checked_counts("stages", stages)
    last = max(sum(stages) - 1, 1)
    firsts = accumulate(stages, initial=0)
    return [[rate * block / last for block in range(n, n + blocks)] for n, blocks in zip(firsts, stages, strict=False)]
