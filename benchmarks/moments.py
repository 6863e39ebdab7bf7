"""Measures whether the numbers and masks that layers read are as random as the words that they are made of.

    python benchmarks/moments.py [--numbers 1e8] > benchmarks/moments.txt

It reads what `random.uniform` and `random.keep_mask` deliver, and puts the eight elements that share a block of the
generator together again. If all elements are independent, then so are the eight of a block, and each value p below is
about uniform between 0 and 1; one far below 1 / (number of values) is a fault. Needs SciPy. Takes some ten minutes.
"""

import argparse
import itertools
import math
import typing

import keras
import numpy as np
from keras import ops
from scipy import stats

from keras_dropouts import random

# The sizes of a tensor: 2**20 elements.
SAMPLES, BLOCKS = 32, 4096
# Multiples of 2**-8 would look at the upper bytes of draws alone.
RATES = (2**-9, 0.005, 0.015, 0.1, 0.3, 0.7, 0.999)
# More masks where three of a block are rarely dropped together.
MORE = {2**-9: 100, 0.005: 10}


class Result(typing.NamedTuple):
    what: str
    found: str
    p: float

    def __str__(self):
        return f"p = {self.p:<8.2g} {self.what}: {self.found}"


# How elements map to blocks: see `keras_dropouts/random/bits.py`.

WORDS = "aabbccdd"
IN_NUMBERS = [f"{word}_{half}" for word, half in zip(WORDS, ("lo", "hi") * 4, strict=True)]
IN_MASKS = ["c_lo", "a_lo", "c_hi", "a_hi", "d_lo", "b_lo", "d_hi", "b_hi"]


def blocks_of_numbers(numbers):
    """The draws of each block, int16 of shape (samples, blocks, 8), of what `random.uniform` gave for 8 * blocks."""
    draws = (np.floor(numbers * 2**16) - 2**15).astype("int16")
    return np.ascontiguousarray(draws.reshape(len(draws), 4, -1, 2).swapaxes(1, 2)).reshape(len(draws), -1, 8)


def blocks_of_mask(mask):
    """The elements of each block, booleans of shape (samples, blocks, 8), of what `random.keep_mask` gave."""
    return np.ascontiguousarray(mask.reshape(len(mask), 2, -1, 4).swapaxes(1, 2)).reshape(len(mask), -1, 8)


def drawn_numbers(seed, call):
    return blocks_of_numbers(ops.convert_to_numpy(random.uniform(random.key(seed, call), (SAMPLES, 8 * BLOCKS))))


def drawn_mask(seed, call, rate):
    return blocks_of_mask(ops.convert_to_numpy(random.keep_mask(random.key(seed, call), (SAMPLES, 8 * BLOCKS), rate)))


def keys(numbers):
    """Seeds and calls, as many of the one as of the other, of tensors that have so many elements in all."""
    side = math.ceil(math.sqrt(numbers / (8 * SAMPLES * BLOCKS)))
    return itertools.product(range(1, side + 1), range(side))


# Results of sums of n independent terms of mean 0 and variance 1.


def of_sums(what, sums, n, name):
    """The largest sum, which `name` names by its index, and all their squares."""
    scores = sums / np.sqrt(n)
    worst = int(np.abs(scores).argmax())
    p = -np.expm1(scores.size * np.log1p(-2 * stats.norm.sf(abs(scores[worst]))))
    squares = (scores**2).sum()
    p_of_squares = stats.chi2.sf(squares, scores.size)
    return [
        Result(what, f"largest of {scores.size} scores {scores[worst]:.2f}: {name(worst)}", p),
        Result(what, f"squares {squares / scores.size:.3f} times what is expected", p_of_squares),
    ]


# Moments: products of polynomials of different draws, of degree 4 at most in all. The polynomials are Legendre's, which
# have mean 0, variance 1 and no correlation. Products are tuples of draws, each as often as its degree.
PRODUCTS = [p for degree in (1, 2, 3) for p in itertools.combinations_with_replacement(range(8), degree)]
END = [sum(len(p) <= degree for p in PRODUCTS) for degree in range(4)]
POWERS = [[(i, p.count(i)) for i in sorted(set(p))] for p in PRODUCTS]
# Those of which the moments within a block are products.
FACTORS = [i for i, p in enumerate(PRODUCTS) if len(p) <= 2 or len(set(p)) == 1]
WITHIN = {
    tuple(sorted(PRODUCTS[i] + PRODUCTS[j])): (FACTORS.index(i), FACTORS.index(j))
    for i, j in itertools.combinations(FACTORS, 2)
    if len(PRODUCTS[i] + PRODUCTS[j]) <= 4 and not set(PRODUCTS[i]) & set(PRODUCTS[j])
}
BETWEEN = [(p, q) for p in PRODUCTS for q in PRODUCTS[: END[4 - len(p)]]]
# Blocks at a time, whose products stay in a processor's cache.
CHUNK = 4096


def products(draws):
    """The products of each block: float32 of shape (products, blocks)."""
    x = (draws.T + np.float32(0.5)) * np.float32(2**-15)
    polynomials = (x * 3**0.5, (3 * x * x - 1) * (5**0.5 / 2), (5 * x * x - 3) * x * (7**0.5 / 2))
    values = np.empty((len(PRODUCTS), len(draws)), "float32")
    for value, ((i, power), *others) in zip(values, POWERS, strict=True):
        value[:] = polynomials[power - 1][i]
        for i, power in others:
            value *= polynomials[power - 1][i]
    return values


def moments_within(draws):
    """The sum over blocks of each of `WITHIN`."""
    sums = 0
    for start in range(0, len(draws), CHUNK):
        values = products(draws[start : start + CHUNK])[FACTORS]
        sums = sums + (values @ values.T).astype("float64")
    return sums[tuple(np.transpose(list(WITHIN.values())))]


def moments_between(draws, others):
    """The sum over pairs of blocks of each of `BETWEEN`."""
    sums = 0
    for start in range(0, len(draws), CHUNK):
        first, second = (products(part[start : start + CHUNK]) for part in (draws, others))
        parts = [first[END[i - 1] : END[i]] @ second[: END[4 - i]].T for i in (1, 2, 3)]
        sums = sums + np.concatenate([part.ravel() for part in parts]).astype("float64")
    return sums


def named(*products):
    return ", and ".join(" ".join(IN_NUMBERS[i] for i in product) for product in products)


def of_moments(what, sums, n, names):
    """Results for each order of the products of such names."""
    order = np.array([sum(map(len, name)) for name in names])
    results = []
    for k in (2, 3, 4):
        of_order = np.flatnonzero(order == k)
        results += of_sums(f"{what}, order {k}", sums[of_order], n, lambda i: named(*names[of_order[i]]))  # noqa: B023
    return results


# Products of signs, of any of the draws.


def signs(draws):
    """A byte for each block: whether its draws are below 0."""
    return np.packbits(draws < 0, axis=-1, bitorder="little")[:, 0]


def sign_counts(draws, others):
    """How often each pattern of the signs of two blocks comes up."""
    return np.bincount(signs(draws) | signs(others).astype("uint16") << 8, minlength=2**16)


def members(pattern):
    return [i for i in range(8) if pattern >> i & 1]


def sign_products(counts):
    """The sum over pairs of blocks of the product of each set of signs: of 256 of the second, and of the first."""
    sums = counts.astype("float64")
    for i in range(16):
        pairs = sums.reshape(-1, 2, 2**i)
        sums = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], 1).ravel()
    return sums.reshape(256, 256)


# Parities of bits, which are products of signs too. A cipher of few rounds has some that are not fair, in each call.

PAIRS = np.array(list(itertools.combinations(range(128), 2)))


def parities(draws):
    """The sum over blocks of the product of each three and four of a block's 128 bits, taken for signs."""
    bits = np.unpackbits(draws.view("uint8"), axis=-1, bitorder="little").T
    sums = [0] * 126
    for start in range(0, len(draws), CHUNK):
        values = 1 - 2 * bits[:, start : start + CHUNK].astype("float32")
        pairs = values[PAIRS[:, 0]] * values[PAIRS[:, 1]]
        for i in range(126):
            # This bit, with none or one before it, and two after it.
            first = np.concatenate([values[i : i + 1], values[:i] * values[i]])
            sums[i] = sums[i] + first @ pairs[len(PAIRS) - math.comb(127 - i, 2) :].T
    return np.concatenate([part.ravel() for part in sums])


def bits_of(index):
    """The bits of which `parities` gives the product at an index."""
    for i in range(126):
        later = PAIRS[len(PAIRS) - math.comb(127 - i, 2) :]
        if index < (i + 1) * len(later):
            before, pair = divmod(index, len(later))
            bits = [*([before - 1] if before else []), i, *later[pair].tolist()]
            return ", ".join(f"{WORDS[bit // 16]}{bit % 32}" for bit in bits)
        index -= (i + 1) * len(later)
    raise IndexError


# Ranks, over the numbers modulo 2, of 128 rows of 128 bits.


def ranks(rows):
    """The rank of each matrix of 128 rows in a row: integers, of uint64 of shape (rows, 2)."""
    rows = rows[: len(rows) // 128 * 128].reshape(-1, 128, 2).copy()
    matrices = np.arange(len(rows))
    rank = np.zeros(len(rows), int)
    for bit in range(128):
        has = (rows[:, :, bit // 64] >> np.uint64(bit % 64) & np.uint64(1)).astype(bool)
        pivot = has.argmax(1)
        rank += has[matrices, pivot]
        # From itself too, so that it is no pivot again.
        rows ^= np.where(has[:, :, None], rows[matrices, pivot][:, None], np.uint64(0))
    return rank


def of_ranks(what, found):
    # A random matrix lacks d ranks with a probability near 2**-d**2 times products of 1 - 2**-i (Kovalenko, 1973).
    full = np.prod(1 - 2.0 ** -np.arange(1, 60))
    law = [full, 2 * full]
    law.append(1 - sum(law))
    counts = [np.sum(found == 128), np.sum(found == 127), np.sum(found < 127)]
    text = f"of {len(found)} matrices {counts[0]} of rank 128, {counts[1]} of 127, greatest {found.max()}"
    return [Result(what, text, stats.chisquare(counts, np.array(law) * len(found)).pvalue)]


# Patterns of a mask.


def of_patterns(what, counts, rate):
    """Of how often each pattern of dropped elements, a byte, comes up: all, and each two and three dropped together."""
    n, patterns = counts.sum(), np.arange(256)
    size = np.array([pattern.bit_count() for pattern in patterns.tolist()])
    expected = n * rate**size * (1 - rate) ** (8 - size)
    common = expected >= 5
    observed, expected = (np.append(x[common], x[~common].sum()) for x in (counts, expected))
    if expected[-1] < 5:
        observed, expected = (np.append(x[:-2], x[-2:].sum()) for x in (observed, expected))
    squares = ((observed - expected) ** 2 / expected).sum()
    results = [Result(what, f"patterns, in {len(observed)} classes", stats.chi2.sf(squares, len(observed) - 1))]
    for size_of_set, word in ((2, "pairs"), (3, "triples")):
        together = np.array([counts[patterns & each == each].sum() for each in patterns[size == size_of_set]])
        law = stats.binom(n, rate**size_of_set)
        p = np.minimum(1, 2 * np.minimum(law.cdf(together), law.sf(together - 1)))
        text = f"{word} dropped, of {law.mean():.1f} expected each {together.min()} to {together.max()}"
        results.append(Result(what, text, -np.expm1(len(p) * np.log1p(-min(p.min(), 1 - 1e-16)))))
    return results


# All of it.


def of_numbers(draw, numbers):
    """Results on so many numbers, of which `draw(seed, call)` gives the draws as `blocks_of_numbers` does."""
    within, between, patterns, found, before = 0, {}, {}, [], {}
    for seed, call in keys(numbers):
        tensor = draw(seed, call)
        neighbours = {"block": (tensor[:, :-1], tensor[:, 1:]), "sample": (tensor[:-1], tensor[1:])}
        if call:
            neighbours["call"] = before[call - 1], tensor
        if call in before:
            neighbours["seed"] = before[call], tensor
        before[call] = tensor
        within = within + moments_within(tensor.reshape(-1, 8))
        for step, pair in neighbours.items():
            pair = [part.reshape(-1, 8) for part in pair]
            between[step] = between.get(step, 0) + moments_between(*pair)
            patterns[step] = patterns.get(step, 0) + sign_counts(*pair)
        found.append(ranks(tensor.view("uint64").reshape(-1, 2)))
    blocks = 128 * sum(map(len, found))
    results = of_moments("moments of a block", within, blocks, [(product,) for product in WITHIN])
    for step, counts in patterns.items():
        n, products_of_signs = counts.sum(), sign_products(counts)
        if step == "block":
            results += of_sums("signs of a block", products_of_signs[0, 1:], n, lambda i: named(members(i + 1)))
        results += of_moments(f"moments of a block and the next {step}'s", between[step], n, BETWEEN)
        results += of_sums(
            f"signs of a block and the next {step}'s",
            products_of_signs[1:, 1:].ravel(),
            n,
            lambda i: named(members(i % 255 + 1), members(i // 255 + 1)),
        )
    results += of_ranks("ranks of the bits of 128 blocks", np.concatenate(found))
    draws = draw(1, 0).reshape(-1, 8)[: int(numbers) // 1024]
    return results + of_sums("parities of 3 and 4 bits of a block, of one call", parities(draws), len(draws), bits_of)


def of_masks(draw, rate, numbers):
    """Results on masks of so many elements, which `draw(seed, call, rate)` gives as `blocks_of_mask` does."""
    counts = 0
    for seed, call in keys(numbers):
        dropped = np.packbits(~draw(seed, call, rate).reshape(-1, 8), axis=-1, bitorder="little")
        counts = counts + np.bincount(dropped[:, 0], minlength=256)
    return of_patterns(f"masks of rate {rate:.4g}", counts, round(rate * 65536) / 65536)


def of_bits(draw, numbers):
    """Results on masks of rate 1/2, taken for bits."""
    found = [ranks(np.packbits(draw(seed, call, 0.5)).view("uint64").reshape(-1, 2)) for seed, call in keys(numbers)]
    return of_ranks("ranks of 128 * 128 elements of masks of rate 0.5", np.concatenate(found))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--numbers", type=float, default=1e8)
    numbers = parser.parse_args().numbers
    print(f"Keras {keras.__version__} on {keras.backend.backend()}, {numbers:.3g} numbers and elements of each rate")
    for result in of_numbers(drawn_numbers, numbers):
        print(result, flush=True)
    for rate in RATES:
        for result in of_masks(drawn_mask, rate, numbers * MORE.get(rate, 1)):
            print(result, flush=True)
    for result in of_bits(drawn_mask, numbers):
        print(result)


if __name__ == "__main__":
    main()
