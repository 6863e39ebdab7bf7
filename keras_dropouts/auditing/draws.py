"""What a layer multiplies its input by while training, measured."""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from keras_dropouts.auditing.recording import numbers

# Standard errors. By chance one of 1.7 million correct layers is so far off.
SIGMAS = 5.0
# Of two independent masks, one pair in a billion is equal with so many bits.
BITS = 30
ELEMENTS, ELEMENTS_IN_HALF = 2**18, 2**19
# So many times as many elements at most, where many have one draw.
MOST = 8


@dataclasses.dataclass(frozen=True)
class Draws:
    """What a layer that returns its input at inference did to inputs in [1, 2) in training.

    Attributes:
        dropped: For each call which elements were dropped, booleans: what is 0, or the one value below it.
        factors: For each call what the inputs were multiplied by.
        is_product: Whether what is dropped is 0, and the rest of a sample has one factor.
        groups: How many independent draws a call takes, from what is equal.
        precision: By how much factors may be off as the type of the layer rounds them.
    """

    dropped: list[np.ndarray]
    factors: list[np.ndarray]
    is_product: bool
    groups: int
    precision: float

    @property
    def is_mask(self) -> bool:
        return any(each.any() for each in self.dropped)

    @property
    def changes(self) -> bool:
        return any((each != 1).any() for each in self.factors)

    @property
    def share(self) -> float:
        return float(np.mean(self.dropped))

    @property
    def mean(self) -> float:
        return float(np.mean(self.factors))

    def share_z(self, rate: float) -> float:
        """By how many standard errors the share is above the rate."""
        return self._z(self.dropped, rate, math.sqrt(rate * (1 - rate)))

    def mean_z(self) -> float:
        """By how many standard errors the mean factor is above 1, beyond what rounding one factor explains."""
        allowed = self.precision if self.is_product else 0.0
        expected = float(np.clip(self.mean, 1 - allowed, 1 + allowed))
        return self._z(self.factors, expected, float(np.std(self.factors)))

    def repeats(self) -> bool:
        """Whether the first two calls drew the same, which two independent ones would not."""
        if self.is_mask:
            return same(self.dropped[0], self.dropped[1], self.groups)
        return self.changes and np.ptp(self.factors[0]) > 0 and np.array_equal(self.factors[0], self.factors[1])

    def _z(self, arrays, expected, spread):
        difference = float(np.mean(arrays)) - expected
        if difference == 0:
            return 0.0
        z = (
            difference / spread * math.sqrt(len(arrays) * self.groups)
            if spread
            else math.copysign(math.inf, difference)
        )
        # The elements of one sample may depend on each other, and the samples of one call.
        for axes in (tuple(range(1, arrays[0].ndim)), None):
            means = np.array([np.mean(each, axis=axes) for each in arrays]).ravel()
            error = means.std(ddof=1) / math.sqrt(len(means))
            if len(means) >= 8 and error > 0:
                z = min(z, difference / error, key=abs)
        return z


def same(one: np.ndarray, other: np.ndarray, groups: int) -> bool:
    """Whether two masks are equal that are of too many draws to be so by chance."""
    rate = float(np.mean([one.mean(), other.mean()]))
    agreement = rate**2 + (1 - rate) ** 2
    return bool(np.array_equal(one, other)) and 0 < rate < 1 and -groups * math.log2(agreement) > BITS


def groups_of(mask: np.ndarray) -> int:
    """Returns how many elements a mask has apart from the axes along which it is the same."""
    for axis in range(mask.ndim):
        first = mask.take([0], axis)
        if (mask == first).all():
            mask = first
    return mask.size


def draws_of(call):
    """Returns the `Draws` of the layer of a call, or `None` where it does more at inference than to return its input.

    Args:
        call: A recorded `Call`, of one tensor.
    """
    if not call.concrete or not call.args or not ops.is_tensor(call.args[0]) or not ops.is_tensor(call.outputs):
        return None
    like = call.args[0]
    dtype = keras.backend.standardize_dtype(like.dtype)
    if not keras.backend.is_float_dtype(dtype) or tuple(like.shape) != tuple(call.outputs.shape) or not like.shape:
        return None
    rng = np.random.default_rng(0)
    elements = ELEMENTS_IN_HALF if dtype in ("bfloat16", "float16") else ELEMENTS
    size = max(math.prod(like.shape[1:]), 1)
    # More samples, unless the layer is made for so many.
    for samples in dict.fromkeys((max(like.shape[0], min(elements // size, 2**15)), like.shape[0])):
        x = ops.cast(ops.convert_to_tensor(1 + rng.random((samples, *like.shape[1:]), "float32")), dtype)
        inputs = numbers(x)
        try:
            plain = numbers(call.made_with(x, training=False))
            break
        # What a layer of anybody raises for a batch that it is not made for.
        except Exception as error:
            plain, failure = None, error
    if plain is None:
        raise failure
    if plain.shape != inputs.shape or not np.array_equal(plain, inputs):
        return None
    dropped, factors, values, drawn = [], [], set(), 0
    while len(dropped) < 2 or (drawn < elements // 2 and len(dropped) * inputs.size < MOST * elements):
        outputs = numbers(call.made_with(x, training=True))
        if outputs.shape != inputs.shape:
            return None
        dropped.append(outputs <= 0)
        factors.append(outputs / inputs)
        values.update(np.unique(outputs[dropped[-1]]))
        # By the sample at least, where nothing shows it.
        changed = (factors[-1] != 1).any()
        drawn += groups_of(dropped[-1] if dropped[-1].any() else factors[-1]) if changed else len(inputs)
    precision = float(precision_of(dtype))
    if len(values) != 1:
        # Noise, which may be below 0 too.
        dropped = [np.zeros_like(each) for each in dropped]
    kept = np.where(dropped, np.nan, factors).reshape(len(factors) * len(inputs), -1)
    kept = kept[~np.isnan(kept).all(1)]
    spans = np.nanmax(kept, 1) - np.nanmin(kept, 1) if len(kept) else np.zeros(0)
    is_product = values == {0.0} and bool((spans <= 4 * precision * np.nanmax(kept, 1)).all() if len(kept) else True)
    return Draws(dropped, factors, is_product, drawn // len(dropped), precision)


def precision_of(dtype):
    return {"bfloat16": 2.0**-8, "float16": 2.0**-11}.get(dtype, 2.0**-23)
