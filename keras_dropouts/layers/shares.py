"""Shares of counts as their decimals have it: in floats, the tenth that 1 - 0.9 is of 100 is less than 10."""

from fractions import Fraction

from keras import ops

from keras_dropouts.random.backend import is_unknown_size

# With such a denominator, counts up to 2**16 can be multiplied in 32 bits.
LARGEST_DENOMINATOR = 2**15


def whole_part(share, count):
    """Returns the largest integer that is not above `share * count`.

    Args:
        share: A float in `[0, 1]`, taken to the nearest fraction of a denominator up to 2**15.
        count: An integer, or an integer tensor.
    """
    fraction = Fraction(repr(share)).limit_denominator(LARGEST_DENOMINATOR)
    return count * fraction.numerator // fraction.denominator


def kept_count(rate, count):
    """Returns how many of so many are kept at a rate: the whole part of `count * (1 - rate)`, but one if there is one.

    Args:
        rate: As `share`, of what is dropped.
        count: The size of an axis, of any kind; so is what is returned.
    """
    least, most = (ops.minimum, ops.maximum) if is_unknown_size(count) else (min, max)
    return least(count, most(1, count + whole_part(rate, -count)))


class FixedRate:
    """What layers share whose rate says how many are kept, which is part of every compiled program."""

    _rate: float

    @property
    def rate(self) -> float:
        """The rate. It cannot be set: compiled programs would not see it."""
        return self._rate

    @rate.setter
    def rate(self, rate):
        raise ValueError(
            f"`rate` of {type(self).__name__} must be given when the layer is made: how many are kept is part of "
            f"compiled programs, which would not see it now. Received: rate={rate!r}"
        )
