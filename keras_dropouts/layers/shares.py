"""Shares of counts as their decimals have it: in floats, the tenth that 1 - 0.9 is of 100 is less than 10."""

from fractions import Fraction

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
