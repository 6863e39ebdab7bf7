"""What is said of differences, on numbers of which the truth is known."""

import numpy as np
import pytest
from scipy import stats

from keras_dropouts.comparison import statistics


def test_over_folds_is_the_corrected_t():
    gains = np.random.default_rng(0).normal(0.3, 1, 6)
    difference = statistics.over_folds(gains, folds=6)
    # Of independent runs, which a correction of nothing would be, it is SciPy's.
    wide = statistics.over_folds(gains, folds=10**12)
    plain = stats.ttest_1samp(gains, 0)
    np.testing.assert_allclose([wide.p, wide.low, wide.high], [plain.pvalue, *plain.confidence_interval(0.95)])
    np.testing.assert_allclose((difference.high - difference.low) / (wide.high - wide.low), np.sqrt(1 + 6 / 5))


def test_over_folds_holds_what_it_says_of_runs_as_alike_as_the_correction_has_them():
    rng, times, folds = np.random.default_rng(1), 2000, 5
    alike = rng.normal(size=(times, 1)) / np.sqrt(folds) + rng.normal(size=(times, folds)) * np.sqrt(1 - 1 / folds)
    wrong = sum(statistics.over_folds(gains, folds).p < 0.05 for gains in alike)
    assert stats.binomtest(wrong, times, 0.05).pvalue > 1e-5
    # The plain test finds what is none, or there would be nothing to correct.
    assert np.mean(stats.ttest_1samp(alike, 0, axis=1).pvalue < 0.05) > 0.1


@pytest.mark.parametrize("seeds_differ, samples_differ", [(1, 1), (0.05, 1), (1, 0.05)])
def test_the_interval_of_the_test_covers_the_truth(seeds_differ, samples_differ):
    rng, inside, times = np.random.default_rng(2), 0, 1000
    for _ in range(times):
        gains = 0.2 + seeds_differ * rng.normal(size=(5, 1)) + samples_differ * rng.normal(size=(1, 60))
        difference = statistics.over_seeds_and_samples(gains + 0.3 * rng.normal(size=(5, 60)))
        inside += difference.low <= 0.2 <= difference.high
    assert stats.binomtest(inside, times, 0.95, "less").pvalue > 1e-5 and inside < times


def test_nothing_to_measure_luck_by_is_no_discovery():
    for difference in (
        statistics.over_folds([0.25], 4),
        statistics.over_folds([0.25, 0.25, 0.25], 4),
        statistics.over_seeds_and_samples([[0.0, 1.0, 0.0, 0.0]]),
        statistics.over_seeds_and_samples([[0.25] * 3] * 4),
    ):
        assert difference == (0.25, None, None, None)


def test_the_best_of_many_without_effect_is_no_discovery():
    """Halving and Holm together: with sixteen candidates that are none, one is said to help in 5 % of experiments."""
    rng, times, candidates = np.random.default_rng(3), 400, 16
    found, uncorrected = 0, 0
    for _ in range(times):
        left, runs = np.arange(candidates), rng.normal(size=(candidates, 40)) - rng.normal(size=40)
        for number, after in statistics.rungs(candidates, 160):
            left = left[np.argsort(-runs[left, :after].mean(1))[:number]] if after > 2 else left
        p = [statistics.over_folds(runs[i, :after], 10**12).p for i in left]
        found += min(statistics.holm(p, candidates)) < 0.05
        uncorrected += min(p) < 0.05
    assert stats.binomtest(found, times, 0.05, "greater").pvalue > 1e-5
    assert uncorrected > 0.15 * times


def test_holm_is_the_textbooks():
    assert statistics.holm([0.01, 0.04, 0.03, 0.005], 4) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.4, 0.01], 4) == pytest.approx([1.0, 0.04])


@pytest.mark.parametrize(
    "candidates, budget, plan",
    [
        (1, 10, [(1, 5)]),
        (2, 12, [(2, 4)]),
        (3, 12, [(3, 1), (2, 3)]),
        (16, 68, [(16, 1), (8, 2), (4, 5), (2, 10)]),
        (5, 1, [(5, 1), (3, 2), (2, 3)]),
    ],
)
def test_rungs(candidates, budget, plan):
    assert statistics.rungs(candidates, budget) == plan
