"""How good predictions are against what was true, and how much is to be made of what they say of themselves."""

import math
from typing import Any

import numpy as np
from keras import ops

# Bins of the calibration error, as in Guo et al. (2017).
BINS = 15
# A softmax in bfloat16 is some hundredths off; what is none is far off for some example.
TOLERANCE = 0.1
# The central prediction intervals whose coverage is counted.
LEVELS = np.arange(1, 20) / 20

erf = np.frompyfunc(math.erf, 1, 1)


class ClassificationScore:
    """What `prediction.score(y)` returns for probabilities of classes; made by itself, it scores `model.predict`.

    Sums are in float64, and nothing is clipped: where a label was given probability 0, as float32 does to a confident
    softmax, the log-likelihood is minus infinity, and the number of such labels is printed with it.

    Args:
        probabilities: An array of shape `(n, ..., classes)`, at least 0 and with a sum of 1 over the last axis. A last
            axis of size 1, or none, holds the probability of the second of two classes, as a sigmoid gives it.
        y: The true classes: integers of shape `(n, ...)` or `(n, ..., 1)`, or one-hot of shape `(n, ..., classes)`.
        sample_weight: `None`, or how much each label counts, at least 0: an array of shape `(n, ...)`, or of its first
            axes. What has weight 0, such as the padding of a Keras mask, may have any label.

    Attributes:
        n: The number of labels that count.
        accuracy: The share of them whose class has the largest probability.
        nll: The negative log-likelihood, in nats: the mean of `-log(p)` for the probability `p` of the true class.
        brier: The Brier score in Brier's own form, from 0 to 2: the mean of the squared differences of all
            probabilities to 1 or 0, summed over classes. Of two classes it is twice what takes the second class alone.
        ece: The expected calibration error: how far confidence, the largest probability, and accuracy are apart in 15
            bins of confidence, `[0, 1/15)` to `[14/15, 1]`: the mean, weighted by the labels in them.
        aurc: The area under the risk-coverage curve: the mean of `risk`.
        zeros: The number of labels that were given probability 0.
        bin_confidence: The mean confidence in each bin; NaN where nothing is.
        bin_accuracy: The accuracy in each bin; NaN where nothing is.
        bin_share: The share of the labels in each bin.
        coverage: For the risk-coverage curve: the share of the labels that a model answers which takes the surest
            (of the largest confidence) first, of shape `(n,)`.
        risk: The share of errors in what it answers. What is equally sure counts as if it came in every order.

    Raises:
        ValueError: Where an argument is not as described, and for logits.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, equation 3 (ECE).
        Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NIPS 2017, arXiv 1705.08500 (risk and
        coverage). Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review 78
        (1950) 1-3.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import ClassificationScore
    >>> ClassificationScore(np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]]), [0, 0, 1])
    ClassificationScore(accuracy=1, nll=0.3269, brier=0.2083, ece=0.25, aurc=0, n=3)
    """

    def __init__(self, probabilities: Any, y: Any, sample_weight: Any = None):
        p = as_probabilities(_array("probabilities", probabilities).astype("float64"), np.stack)
        if not ((p >= 0) & (abs(p.sum(-1, keepdims=True) - 1) < TOLERANCE)).all():
            raise ValueError(
                f"`probabilities` must be at least 0, with a sum of 1 over the last axis. End the model with a softmax "
                f"or sigmoid; for a regression, see RegressionScore. Received: probabilities of shape "
                f"{np.shape(probabilities)} from {p.min():g} to {p.max():g}"
            )
        scored, weights = _weights(sample_weight, p.shape[:-1])
        label = _labels(y, p.shape, scored)
        p = p[scored]
        given = p[np.arange(len(p)), label]
        confidence, correct = p.max(-1), p.argmax(-1) == label
        self.n = len(p)
        self.zeros = int((given == 0).sum())
        with np.errstate(divide="ignore"):
            self.nll = float(np.average(-np.log(given), weights=weights))
        self.accuracy = float(np.average(correct, weights=weights))
        self.brier = float(np.average((p**2).sum(-1) - 2 * given + 1, weights=weights))
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        inside, confident, right = (np.bincount(bins, weights * x, BINS) for x in (1, confidence, correct))
        with np.errstate(invalid="ignore"):
            self.bin_confidence, self.bin_accuracy = confident / inside, right / inside
        self.bin_share = inside / weights.sum()
        self.ece = float(abs(right - confident).sum() / weights.sum())
        self.coverage, self.risk, self.aurc = _risk_coverage(confidence, 1.0 - correct, weights)

    def __repr__(self):
        note = f" ({self.zeros} of probability 0)" if self.zeros else ""
        return (
            f"ClassificationScore(accuracy={self.accuracy:.4g}, nll={self.nll:.4g}{note}, brier={self.brier:.4g}, "
            f"ece={self.ece:.4g}, aurc={self.aurc:.4g}, n={self.n})"
        )

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draws the reliability picture: accuracy against confidence, on the diagonal where the model is calibrated.

        Bars are the shares of the labels in the bins. Needs matplotlib: `pip install keras-dropouts[compare]`.

        Args:
            ax: The matplotlib `Axes` to draw on, on which there may be another score; `None`: those of a new figure.
            label: What the legend is to call it, beside the calibration error.

        Returns:
            The `Axes`.
        """
        ax = _diagonal(ax, "confidence", "accuracy, share of labels")
        filled = self.bin_share > 0
        name = f"{label}: " if label else ""
        (line,) = ax.plot(
            self.bin_confidence[filled], self.bin_accuracy[filled], "o-", label=f"{name}ECE {self.ece:.3f}"
        )
        ax.bar((np.arange(BINS) + 0.5) / BINS, self.bin_share, 0.9 / BINS, color=line.get_color(), alpha=0.25)
        ax.legend()
        return ax


class RegressionScore:
    """What `prediction.score(y, tau)` returns for a regression; made by itself, it scores `model.predict`.

    The model says of each example that it is normally distributed around its prediction, with the precision `tau`; of
    several predictions, that it is a mixture of such, all with the same weight. What is on the last axis is one
    observation. Sums are in float64.

    Args:
        mean: The mean prediction, an array of finite numbers, of shape `(n, ...)`.
        y: What was true, of the same shape; a last axis of size 1 may be absent.
        tau: The precision of the noise, `1 / variance`, in the units of `y`: a positive number, or an array that can be
            broadcast to the mean's shape. The method's is `(1 - rate) * length_scale**2 / (2 * n * weight_decay)`; the
            noise may as well be measured, on data that took no part in the training.
        std: `None`, or the predictions' standard deviation, without the noise.
        samples: `None`, or the predictions, of shape `(samples, n, ...)`. With neither, the mean is the one prediction.
        sample_weight: `None`, or how much each observation counts, at least 0: an array of the mean's shape without the
            last axis, or of its first axes. What has weight 0 may be any number.

    Attributes:
        n: The number of observations that count.
        rmse: The root of the mean squared error of the mean prediction.
        nll: The negative log-likelihood of an observation, in nats. Its likelihood is the mean, over the samples, of
            the density that each gives to it. Needs the samples.
        levels: The levels of the central prediction intervals, 0.05 to 0.95.
        interval_coverage: The share of the numbers in `y` that are inside the interval of each level, which reaches
            from the quantile `(1 - level) / 2` of the mixture to `(1 + level) / 2`. Needs the samples.
        coverage: For the risk-coverage curve: the share of the observations that a model answers which takes the surest
            (of the smallest variance) first, of shape `(n,)`.
        risk: The mean squared error of what it answers. What is equally sure counts as if it came in every order.
        aurc: The area under that curve: the mean of `risk`.

    Raises:
        ValueError: Where an argument is not as described, and for what needs the samples where they were not kept.

    Reference:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning",
        ICML 2016, arXiv 1506.02142. Read was the authors' program (`yaringal/DropoutUncertaintyExps`), which has one
        number in an observation.

    Example:

    >>> import numpy as np
    >>> from keras_dropouts import RegressionScore
    >>> RegressionScore(np.array([1.0, 2.0, 3.0, 4.0]), [1.1, 1.7, 3.1, 4.1], tau=25.0)
    RegressionScore(rmse=0.1732, nll=-0.3155, coverage of 50% intervals=0.75, of 90% intervals=1, aurc=0.03, n=4)
    """

    def __init__(self, mean: Any, y: Any, tau: Any, std: Any = None, samples: Any = None, sample_weight: Any = None):
        mean = _array("mean", mean).astype("float64")
        # What is on the last axis is one observation.
        shape = mean.shape if mean.ndim > 1 else (*mean.shape, 1)
        scored, weights = _weights(sample_weight, shape[:-1])

        def rows(name, x, allowed=(mean.shape,)):
            x = _array(name, x)
            if x.shape not in allowed:
                raise ValueError(f"`{name}` must have the predictions' shape, {mean.shape}. Received: shape {x.shape}")
            x = x.reshape(shape)[scored].astype("float64")
            if not np.isfinite(x).all():
                raise ValueError(f"`{name}` must hold finite numbers. Received: {(~np.isfinite(x)).sum()} that are not")
            return x

        y = rows("y", y, (mean.shape, shape, shape[:-1] if shape[-1] == 1 else shape))
        tau = rows("tau", _precision(tau, mean.shape))
        squares = (rows("mean", mean) - y) ** 2
        self.n = len(y)
        self.rmse = math.sqrt(np.average(squares.mean(-1), weights=weights))
        variance = 1 / tau if std is None else 1 / tau + rows("std", std) ** 2
        self.coverage, self.risk, self.aurc = _risk_coverage(-variance.mean(-1), squares.mean(-1), weights)
        self.levels = LEVELS.copy()
        self._nll = self._interval_coverage = None
        if samples is None and std is None:
            samples = mean[None]
        if samples is None:
            return
        samples = _array("samples", samples)
        # One after the other, for there may be many; where each is normal, its distribution function at y.
        likelihood, below = np.full(len(y), -np.inf), np.zeros(y.shape)
        for sample in samples:
            z = (y - rows("samples", sample)) * np.sqrt(tau)
            likelihood = np.logaddexp(likelihood, -0.5 * (z**2).sum(-1))
            below += 0.5 + 0.5 * erf(z / math.sqrt(2)).astype("float64")
        likelihood += 0.5 * np.log(tau / (2 * math.pi)).sum(-1) - math.log(len(samples))
        self._nll = float(-np.average(likelihood, weights=weights))
        from_the_middle = abs(2 * below / len(samples) - 1)
        inside = [(from_the_middle <= level).mean(-1) for level in LEVELS]
        self._interval_coverage = np.average(inside, axis=1, weights=weights)

    @property
    def nll(self) -> float:
        return self._of_samples("nll", self._nll)

    @property
    def interval_coverage(self) -> np.ndarray:
        return self._of_samples("interval_coverage", self._interval_coverage)

    def _of_samples(self, name, measure):
        if measure is None:
            raise ValueError(f"`{name}` needs the samples: call monte_carlo with keep_samples=True.")
        return measure

    def __repr__(self):
        of_samples = ""
        if self._nll is not None:
            half, most = self.interval_coverage[[9, 17]]
            of_samples = f"nll={self.nll:.4g}, coverage of 50% intervals={half:.4g}, of 90% intervals={most:.4g}, "
        return f"RegressionScore(rmse={self.rmse:.4g}, {of_samples}aurc={self.aurc:.4g}, n={self.n})"

    def plot(self, ax: Any = None, label: str | None = None) -> Any:
        """Draws the reliability picture: how many fall into a prediction interval, against how many should.

        Below the diagonal the intervals are too narrow. Needs the samples, and matplotlib:
        `pip install keras-dropouts[compare]`.

        Args:
            ax: The matplotlib `Axes` to draw on, on which there may be another score; `None`: those of a new figure.
            label: What the legend is to call it.

        Returns:
            The `Axes`.
        """
        shares = self.interval_coverage
        ax = _diagonal(ax, "level of the prediction interval", "share inside")
        ax.plot(self.levels, shares, "o-", label=label)
        if label:
            ax.legend()
        return ax


def as_probabilities(y, stack):
    """The probabilities of classes on the last axis, where the output may have that of the second of two alone."""
    if len(y.shape) > 1 and y.shape[-1] != 1:
        return y
    second = y[..., 0] if len(y.shape) > 1 else y
    return stack([1 - second, second], -1)


def _array(name, value):
    array = _as_numpy(value)
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise ValueError(f"`{name}` must be an array of numbers. Received: an array of {array.dtype}")
    if array.ndim == 0 or not array.size:
        raise ValueError(
            f"`{name}` must be an array of at least one example. Received: an array of shape {array.shape}"
        )
    return array


def _as_numpy(value):
    return ops.convert_to_numpy(value) if ops.is_tensor(value) else np.asarray(value)


def _weights(sample_weight, shape):
    """Returns which entries of an array of this shape count, and the weights of those, in a row."""
    weights = np.ones(shape) if sample_weight is None else _array("sample_weight", sample_weight).astype("float64")
    if weights.shape != shape[: weights.ndim]:
        raise ValueError(
            f"`sample_weight` must have the shape of the labels, {shape}, or of its first axes. "
            f"Received: sample_weight of shape {weights.shape}"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            f"`sample_weight` must hold finite numbers of at least 0, of which one is larger. "
            f"Received: sample_weight={sample_weight!r}"
        )
    weights = np.broadcast_to(weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim)), shape)
    return weights > 0, weights[weights > 0]


def _labels(y, shape, scored):
    """Returns the classes that count, in a row, for probabilities of this shape."""
    y, classes = _array("y", y).astype("float64"), shape[-1]
    allowed = f"integers from 0 to {classes - 1} of shape {shape[:-1]}, or one-hot of shape {shape}"
    if y.shape == shape:
        y = y[scored]
        good = ((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all()
        labels = y.argmax(-1)
    elif y.shape in (shape[:-1], (*shape[:-1], 1)):
        y = y.reshape(shape[:-1])[scored]
        good = ((y >= 0) & (y < classes) & (y == np.floor(y))).all()
        labels = y
    else:
        raise ValueError(f"`y` must hold a label for each prediction: {allowed}. Received: y of shape {y.shape}")
    if not good:
        raise ValueError(
            f"`y` must hold true classes: {allowed}. For a regression, give `tau`. "
            f"Received: numbers from {y.min():g} to {y.max():g}"
        )
    return labels.astype("int64")


def _precision(tau, shape):
    try:
        tau = _as_numpy(tau)
        if tau.dtype.kind not in "iuf" or not ((tau > 0) & np.isfinite(tau)).all():
            raise ValueError("it is not")
        return np.broadcast_to(tau, shape)
    except ValueError:
        raise ValueError(
            f"`tau` must be a positive number, or an array of such that can be broadcast to the predictions' shape, "
            f"{shape}. Received: tau={tau!r}"
        ) from None


def _risk_coverage(confidence, loss, weights):
    """Returns the share that is answered, surest first, the mean loss of that, and the mean of these means."""
    _, place = np.unique(-confidence, return_inverse=True)
    # Of what is equally sure each has the mean loss.
    loss = (np.bincount(place, weights * loss) / np.bincount(place, weights))[place]
    order = np.argsort(place, kind="stable")
    weights, loss = weights[order], loss[order]
    answered = np.cumsum(weights)
    risk = np.cumsum(weights * loss) / answered
    return answered / answered[-1], risk, float(np.average(risk, weights=weights))


def _diagonal(ax, said, true):
    """Returns the axes for a reliability picture, with the line of a calibrated model, once."""
    try:
        from matplotlib import pyplot
    except ModuleNotFoundError as error:
        raise ImportError("plot needs matplotlib: pip install keras-dropouts[compare]") from error
    if ax is None:
        _, ax = pyplot.subplots(figsize=(4.6, 4.4), layout="constrained")
    if not any(line.get_label() == "calibrated" for line in ax.lines):
        ax.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
        ax.set(xlabel=said, ylabel=true, xlim=(0, 1), ylim=(0, 1.02))
    return ax
