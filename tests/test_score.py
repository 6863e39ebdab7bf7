"""Scores against scikit-learn and scipy, and what is refused."""

import sys

import keras
import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, root_mean_squared_error

import keras_dropouts as kd
from keras_dropouts import ClassificationScore, RegressionScore

RNG = np.random.default_rng(0)
# Of more or less certain examples, and right about as often as they say.
P = np.concatenate([RNG.dirichlet(np.full(4, concentration), 150) for concentration in (0.1, 1.0)])
# scikit-learn clips what is smaller than a double's epsilon.
P = 0.999 * P + 0.001 / 4
Y = np.array([RNG.choice(4, p=p) for p in 0.8 * P + 0.05])
W = RNG.integers(0, 4, len(Y)).astype("float64")
# Three regressions of two numbers for each of 40 examples.
SAMPLES = RNG.standard_normal((3, 40, 2))
TRUE = RNG.standard_normal((40, 2))
TAU = np.array([4.0, 0.5])


@pytest.mark.parametrize("w", [None, W], ids=["unweighted", "weighted"])
def test_classification_is_scikit_learns(w):
    score = ClassificationScore(P, Y, w)
    guess, confidence = P.argmax(1), P.max(1)
    assert score.n == (len(Y) if w is None else (w > 0).sum())
    assert score.accuracy == pytest.approx(accuracy_score(Y, guess, sample_weight=w), rel=1e-12)
    assert score.nll == pytest.approx(log_loss(Y, P, sample_weight=w), rel=1e-12)
    brier = brier_score_loss(Y, P, sample_weight=w, labels=range(4), scale_by_half=False)
    assert score.brier == pytest.approx(brier, rel=1e-12)
    # scikit-learn's curve takes no weights, which are how often each example is there.
    times = np.ones(len(Y), int) if w is None else w.astype(int)
    right, said = (np.repeat(each, times) for each in (guess == Y, confidence))
    true, predicted = calibration_curve(right, said, n_bins=15)
    filled = score.bin_share > 0
    np.testing.assert_allclose(score.bin_accuracy[filled], true, rtol=1e-12)
    np.testing.assert_allclose(score.bin_confidence[filled], predicted, rtol=1e-12)
    assert np.isnan(score.bin_accuracy[~filled]).all() and 8 < filled.sum() < 15
    share = np.histogram(said, np.linspace(0, 1, 16))[0] / len(said)
    np.testing.assert_allclose(score.bin_share, share, atol=1e-12)
    assert score.ece == pytest.approx((share[filled] * abs(true - predicted)).sum(), rel=1e-9)


@pytest.mark.parametrize("w", [None, W], ids=["unweighted", "weighted"])
def test_risk_and_coverage(w):
    score = ClassificationScore(P, Y, w)
    w = np.ones(len(Y)) if w is None else w
    order = [i for i in np.argsort(-P.max(1)) if w[i]]
    errors = (P.argmax(1) != Y)[order]
    risk = [np.average(errors[:k], weights=w[order][:k]) for k in range(1, len(order) + 1)]
    np.testing.assert_allclose(score.risk, risk, atol=1e-12)
    np.testing.assert_allclose(score.coverage, [w[order][: k + 1].sum() / w.sum() for k in range(len(order))])
    assert score.coverage[-1] == 1 and score.risk[-1] == pytest.approx(1 - score.accuracy)
    assert score.aurc == pytest.approx(np.average(risk, weights=w[order]))
    assert score.aurc < score.risk[-1]


def test_the_order_of_what_is_equally_sure_does_not_matter():
    p = np.array([[0.75, 0.25]] * 4 + [[1.0, 0.0]])
    for y in ([1, 0, 0, 0, 0], [0, 0, 0, 1, 0]):
        score = ClassificationScore(p, y)
        np.testing.assert_allclose(score.risk, [0, 1 / 8, 1 / 6, 3 / 16, 1 / 5])
        np.testing.assert_allclose(score.coverage, [0.2, 0.4, 0.6, 0.8, 1])


def test_labels_in_every_form():
    expected = repr(ClassificationScore(P, Y))
    for y in (Y[:, None], np.eye(4, dtype="bool")[Y], Y.tolist(), Y.astype("float32"), keras.ops.convert_to_tensor(Y)):
        assert repr(ClassificationScore(P, y)) == expected
    # A class for each token, in 20 texts of 15.
    shape = (20, 15)
    for y in (Y.reshape(shape), Y.reshape(*shape, 1), np.eye(4)[Y].reshape(*shape, 4)):
        assert repr(ClassificationScore(P.reshape(*shape, 4), y)) == expected


def test_a_sigmoid_is_two_classes():
    p, y = P[:, 0], (Y == 0).astype("float32")
    expected = repr(ClassificationScore(np.stack([1 - p, p], 1), y))
    for outputs in (p, p[:, None]):
        for labels in (y, y[:, None], y > 0):
            score = ClassificationScore(outputs, labels)
            assert repr(score) == expected
    assert score.nll == pytest.approx(log_loss(y, p), rel=1e-12)
    assert score.brier == pytest.approx(2 * brier_score_loss(y, p), rel=1e-12)


def test_nothing_is_clipped():
    p = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    score = ClassificationScore(p, [1, 0, 1])
    assert score.nll == np.inf and score.zeros == 2
    assert "nll=inf (2 of probability 0)" in repr(score)
    # The smallest number of float32 that is not 0.
    score = ClassificationScore(np.array([[1, 2**-149]], "float32"), [1])
    assert score.nll == pytest.approx(149 * np.log(2)) and score.zeros == 0


def test_what_has_no_weight_is_not_looked_at():
    p, y, mask = P.reshape(20, 15, 4), Y.reshape(20, 15).copy(), np.arange(15) < 1 + np.arange(20)[:, None] % 15
    kept = ClassificationScore(p[mask], y[mask])
    y[~mask] = -1
    assert repr(ClassificationScore(p, y, mask)) == repr(kept)
    np.testing.assert_array_equal(ClassificationScore(p, y, mask).risk, kept.risk)
    one_hot = np.where(mask[..., None], np.eye(4)[y], 0)
    assert repr(ClassificationScore(p, one_hot, mask)) == repr(kept)
    with pytest.raises(ValueError, match="`y` must hold true classes"):
        ClassificationScore(p, y)
    # One weight for each text.
    rows = RNG.random(20)
    each = np.repeat(rows[:, None], 15, 1)
    y[~mask] = 0
    assert repr(ClassificationScore(p, y, rows)) == repr(ClassificationScore(p, y, each))
    true, mean = TRUE.copy(), SAMPLES.mean(0)
    true[1::2] = np.nan
    some = RegressionScore(mean, true, 1.0, samples=SAMPLES, sample_weight=np.arange(40) % 2 == 0)
    assert repr(some) == repr(RegressionScore(mean[::2], true[::2], 1.0, samples=SAMPLES[:, ::2]))


@pytest.mark.parametrize("w", [None, W[:40]], ids=["unweighted", "weighted"])
def test_regression_is_scipys(w):
    mean, std = SAMPLES.mean(0), SAMPLES.std(0)
    score = RegressionScore(mean, TRUE, TAU, std, SAMPLES, w)
    weights = np.ones(40) if w is None else w
    assert score.rmse == pytest.approx(
        root_mean_squared_error(TRUE.ravel(), mean.ravel(), sample_weight=np.repeat(weights, 2))
    )
    # An observation is the pair of numbers, of which each sample has a density.
    density = np.mean([stats.multivariate_normal.pdf(TRUE - f, cov=np.diag(1 / TAU)) for f in SAMPLES], axis=0)
    assert score.nll == pytest.approx(-np.average(np.log(density), weights=weights), rel=1e-12)
    below = stats.norm.cdf(TRUE, SAMPLES, TAU**-0.5).mean(0)
    inside = [(below >= (1 - c) / 2) & (below <= (1 + c) / 2) for c in np.arange(1, 20) / 20]
    np.testing.assert_allclose(score.levels, np.arange(0.05, 0.96, 0.05))
    np.testing.assert_allclose(score.interval_coverage, [np.average(i.mean(1), weights=weights) for i in inside])
    order = [i for i in np.argsort((std**2 + 1 / TAU).mean(1)) if weights[i]]
    squares = ((mean - TRUE) ** 2).mean(1)[order]
    risk = [np.average(squares[:k], weights=weights[order][:k]) for k in range(1, len(order) + 1)]
    np.testing.assert_allclose(score.risk, risk)
    assert score.aurc == pytest.approx(np.average(risk, weights=weights[order]))
    assert score.risk[-1] == pytest.approx(score.rmse**2)


def test_densities_may_be_tiny():
    score = RegressionScore(SAMPLES.mean(0), TRUE + 1e3, 1e4, samples=SAMPLES)
    log_density = [stats.norm.logpdf(TRUE + 1e3, f, 1e-2).sum(-1) for f in SAMPLES]
    expected = np.logaddexp.reduce(log_density) - np.log(3)
    assert score.nll == pytest.approx(-expected.mean(), rel=1e-12)
    assert (score.interval_coverage == 0).all()


def test_intervals_of_the_truth_hold_their_share():
    n, rng = 4000, np.random.default_rng(3)
    samples = np.array([-1.0, 0.0, 4.0])[:, None] + np.zeros(n)
    true = rng.choice(samples[:, 0], n) + rng.normal(0, 0.5, n)
    score = RegressionScore(samples.mean(0), true, tau=4.0, samples=samples)
    sigma = np.sqrt(score.levels * (1 - score.levels) / n)
    assert (abs(score.interval_coverage - score.levels) < 4.5 * sigma).all()


def test_one_prediction_is_normal():
    mean, true = SAMPLES[0, :, :1], TRUE[:, 0]
    for outputs in (mean, mean[:, 0]):
        for y in (true, true[:, None]):
            score = RegressionScore(outputs, y, tau=2.0)
            assert score.nll == pytest.approx(-stats.norm.logpdf(true, mean[:, 0], 2**-0.5).mean(), rel=1e-12)


def predicted(model, **kwargs):
    x = np.random.default_rng(1).standard_normal((40, 8))
    return kd.monte_carlo(model, x, samples=6, seed=1, verbose=0, **kwargs)


def test_the_score_of_a_prediction():
    model = keras.Sequential([keras.Input((8,)), kd.Dropout(0.4), keras.layers.Dense(3, "softmax")])
    prediction, moments = (predicted(model, keep_samples=keep) for keep in (True, False))
    y = np.arange(40) % 3
    expected = ClassificationScore(prediction.samples.mean(0, "float64"), y)
    for score in (prediction.score(y), moments.score(np.eye(3)[y])):
        assert isinstance(score, ClassificationScore)
        for name in ("accuracy", "nll", "brier", "ece", "aurc"):
            assert getattr(score, name) == pytest.approx(getattr(expected, name), rel=1e-5)
    assert prediction.score(y, sample_weight=y > 0).n == 26


def test_the_score_of_a_regression():
    heads = {"one": keras.layers.Dense(1), "two": keras.layers.Dense(2)}
    inputs = keras.Input((8,))
    x = kd.Dropout(0.4)(inputs)
    model = keras.Model(inputs, {name: head(x) for name, head in heads.items()})
    kept, moments = (predicted(model, keep_samples=keep) for keep in (True, False))
    score = kept["two"].score(TRUE, tau=TAU)
    samples = kept["two"].samples
    assert repr(score) == repr(RegressionScore(samples.mean(0), TRUE, TAU, samples.std(0), samples))
    assert kept["one"].score(TRUE[:, 0], tau=1.0).nll > 0
    less = moments["two"].score(TRUE, tau=TAU)
    for name in ("rmse", "aurc"):
        assert getattr(less, name) == pytest.approx(getattr(score, name), rel=1e-5)
    assert "nll" not in repr(less) and less.n == 40
    for name in ("nll", "interval_coverage"):
        with pytest.raises(ValueError, match=rf"`{name}` needs the samples.*keep_samples=True"):
            getattr(less, name)
    with pytest.raises(ValueError, match="needs the samples"):
        less.plot()
    with pytest.raises(ValueError, match=r"(?s)outputs must be probabilities.*give `tau`.*Received: outputs of shape"):
        kept["two"].score(np.zeros(40, int))


@pytest.mark.parametrize(
    "y",
    [Y[:-1], Y - 1, Y + 1, Y + 0.5, np.where(Y == 0, np.nan, Y), P, np.ones_like(P), np.eye(5)[Y]]
    + [y for y in (Y.astype(str), list("abc"), [], 1, None)],
    ids=lambda y: str(np.shape(y)),
)
def test_labels_that_are_none_are_refused(y):
    with pytest.raises(ValueError, match=r"(?s)`y` must .*Received: "):
        ClassificationScore(P, y)


@pytest.mark.parametrize("p", [np.log(P), 3 * P, P - 0.01, P * np.nan, P[:, :2], P.astype(str), P[:0]])
def test_what_are_no_probabilities_is_refused(p):
    with pytest.raises(ValueError, match=r"(?s)`probabilities` must .*Received: "):
        ClassificationScore(p, Y)


@pytest.mark.parametrize(
    "w", [W[:-1], W - 1, 0 * W, np.where(W > 0, np.nan, W), np.where(W > 0, np.inf, W), P, "a", 1.0, [list("ab")]]
)
def test_weights_that_are_none_are_refused(w):
    for score in (lambda: ClassificationScore(P, Y, w), lambda: RegressionScore(Y, Y, 1.0, sample_weight=w)):
        with pytest.raises(ValueError, match=r"(?s)`sample_weight` must .*Received: "):
            score()


@pytest.mark.parametrize(
    "arguments",
    [{"y": y} for y in (TRUE[:-1], TRUE[:, 0], TRUE[:, :1], TRUE * np.nan, TRUE.astype(str), [], None)]
    + [{"mean": mean} for mean in (TRUE.astype(str), TRUE * np.inf, 1.0)]
    + [{"tau": tau} for tau in (0, -1.0, np.nan, np.inf, None, "1", True, np.ones(3), np.ones((2, 40, 2)), [[1], []])]
    + [{"std": std} for std in (TRUE[:-1], TRUE * np.nan)]
    + [{"samples": samples} for samples in (SAMPLES[:, 1:], SAMPLES[0], SAMPLES * np.inf, SAMPLES[:0], [])],
    ids=lambda arguments: "-".join(arguments),
)
def test_bad_regressions_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=rf"(?s)`{name}` must .*Received: "):
        RegressionScore(**{"mean": TRUE, "y": TRUE, "tau": 1.0} | arguments)


def test_the_reliability_picture():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    score, other = ClassificationScore(P, Y), ClassificationScore(P**2 / (P**2).sum(1, keepdims=True), Y)
    assert score.plot(ax, label="one") is ax and other.plot(ax) is ax
    line = ax.lines[1]
    filled = score.bin_share > 0
    np.testing.assert_array_equal(line.get_xdata(), score.bin_confidence[filled])
    np.testing.assert_array_equal(line.get_ydata(), score.bin_accuracy[filled])
    assert [bar.get_height() for bar in ax.containers[0]] == list(score.bin_share)
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["calibrated", f"one: ECE {score.ece:.3f}", f"ECE {other.ece:.3f}"]
    regression = RegressionScore(SAMPLES.mean(0), TRUE, TAU, samples=SAMPLES)
    ax = regression.plot(Figure().subplots(), label="two")
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), regression.interval_coverage)


def test_a_picture_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"plot needs matplotlib: pip install keras-dropouts\[compare\]"):
        ClassificationScore(P, Y).plot()
