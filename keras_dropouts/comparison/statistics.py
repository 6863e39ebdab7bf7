"""How sure a difference to the model without dropout is, and which candidates go on.

- Among the candidates, over folds: Student's t with the variance corrected for training sets that overlap, and Holm's
  correction for how many were tried.
- The chosen one against none, on the test data: an interval that minds both the seeds and the test samples.
"""

import math
from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Difference(NamedTuple):
    """A mean difference, the ends of its 95 % interval, and the p-value of its being 0. `None` where nothing says."""

    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


def over_folds(differences, folds):
    """Returns the mean of paired differences, each from a run on another fold, with its interval.

    Two runs that are trained on all but one fold share most of their samples, so that their differences are more alike
    than independent ones. Nadeau and Bengio add the ratio of the samples that validate to those that train,
    `1 / (folds - 1)`, to the variance of the mean. A bootstrap of a handful of runs would be too narrow: that is why
    it is Student's t.

    Reference:
        Nadeau and Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003) 239-281.

    >>> over_folds([0.5, 1.0, 1.5], folds=5).mean
    1.0
    """
    n = len(differences)
    variance = _variance(differences) * (1 / n + 1 / (folds - 1))
    return _student(np.mean(differences), variance, n - 1)


def over_seeds_and_samples(differences):
    """Returns the mean of paired differences, a row for each seed and a column for each test sample, with its interval.

    Other seeds would have given another mean, and so would other test samples. The variances of both means are added
    (what both share is counted twice, so that the interval is rather too wide), and the degrees of freedom are Welch
    and Satterthwaite's. The test data is used once, for one difference: nothing is to be corrected.

    >>> round(over_seeds_and_samples([[0, 1, 0, 1], [0, 1, 1, 1]]).mean, 3)
    0.625
    """
    differences = np.asarray(differences, "float64")
    parts = [(_variance(differences.mean(1 - axis)) / n, n - 1) for axis, n in enumerate(differences.shape)]
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / max(df, 1) for part, df in parts) if variance else 0
    # One seed says nothing of the others.
    return _student(differences.mean(), variance, degrees if min(differences.shape) > 1 else 0)


def _variance(values):
    # Of equal numbers, what is left by rounding is no spread.
    return np.var(values, ddof=1) if len(values) > 1 and np.ptp(values) > 1e-12 else 0.0


def _student(mean, variance, degrees):
    from scipy import stats

    mean = float(mean)
    if degrees < 1 or not variance > 0:
        # Nothing to measure the luck by, and so no discovery.
        return Difference(mean)
    error = math.sqrt(variance)
    half = stats.t.ppf((1 + LEVEL) / 2, degrees) * error
    return Difference(mean, float(mean - half), float(mean + half), float(2 * stats.t.sf(abs(mean) / error, degrees)))


def holm(p_values, tried):
    """Returns p-values corrected for `tried` tests, of which those that are not given found nothing.

    The chance that any of many candidates without effect has a corrected value of 0.05 or less is 0.05 at most, however
    the candidates depend on one another. So it is with the candidates that halving has dropped: they count as tested,
    with the value 1. (The max-t test by permutation would be sharper, but wants the same runs of every candidate, and
    of few runs there are few permutations.)

    Reference:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979)
        65-70.

    >>> holm([0.01, 0.5, 0.02], tried=4)
    [0.04, 1.0, 0.06]
    """
    adjusted, least = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (tried - rank) * p_values[i]))
        adjusted[i] = least
    return adjusted


def rungs(candidates, budget):
    """Returns the rungs of successive halving: how many candidates are left, and how many runs each has had after it.

    The better half goes on, until two are left. Every rung has an equal share of the budget, which is counted in runs
    and includes those of the model without dropout. It is runs that are saved, not epochs: dropout slows learning, so
    that short runs would choose what drops least.

    Reference:
        Karnin, Koren and Somekh, "Almost Optimal Exploration in Multi-Armed Bandits", ICML 2013.

    >>> rungs(8, 36)
    [(8, 1), (4, 3), (2, 7)]
    """
    number = max(1, math.ceil(math.log2(candidates)))
    plan, runs = [], 0
    for _ in range(number):
        runs += max(1, budget // number // (candidates + 1))
        plan.append((candidates, runs))
        candidates = -(-candidates // 2)
    return plan
