from keras_dropouts.base import checked_count, checked_fraction


def linear_rates(rate: float, depth: int) -> list[float]:
    """Returns a rate for each block of a network: small in the first, growing linearly, `rate` in the last.

    Block `l` of `depth`, counted from 1, has the rate `rate * l / depth`: the rule of stochastic depth, whose first
    block drops too. A network of one block has the rate `rate`. For the rule of vision transformers, whose first block
    never drops, take `numpy.linspace(0, rate, depth)`.

    Args:
        rate: The rate of the last block, a number in `[0, 1]`.
        depth: How many blocks there are, a positive integer.

    Returns:
        A list of `depth` floats.

    Raises:
        ValueError: Where an argument is not as described.

    Reference:
        Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016, arXiv 1603.09382: the linear decay rule.

    Example:

    >>> from keras_dropouts import linear_rates
    >>> linear_rates(0.5, depth=4)
    [0.125, 0.25, 0.375, 0.5]
    """
    rate = checked_fraction("rate", rate)
    checked_count("depth", depth)
    return [rate * block / depth for block in range(1, depth + 1)]
