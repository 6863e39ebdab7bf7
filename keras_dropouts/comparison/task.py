"""What a model is to say: a class, several labels, a class for each token, or numbers; and how well it does."""

from typing import NamedTuple

import keras
import numpy as np

from keras_dropouts.inference.score import ClassificationScore, as_probabilities
from keras_dropouts.layers.arguments import checked_choice

METRICS = {
    "classification": ("accuracy", "nll"),
    "multilabel": ("accuracy", "nll"),
    "tokens": ("accuracy", "nll"),
    "regression": ("mae", "rmse"),
}
# What the probability of what was true counts as, at least: what the loss of Keras takes.
SMALLEST = 1e-7


class Task(NamedTuple):
    """What a model is to say of a sample, and what it is measured by.

    Args:
        kind: A key of `METRICS`.
        metric: One of its values. The accuracy of several labels is the share of all labels that are right; tokens
            whose label is negative do not count.
        outputs: How many classes, labels or numbers.
    """

    kind: str
    metric: str
    outputs: int

    @property
    def activation(self):
        return {"multilabel": "sigmoid", "regression": "linear"}.get(self.kind, "softmax")

    def loss(self):
        """Returns the loss of a model that comes without one."""
        if self.kind == "multilabel":
            return "binary_crossentropy"
        if self.kind == "regression":
            return "mean_absolute_error" if self.metric == "mae" else "mean_squared_error"
        ignored = -1 if self.kind == "tokens" else None
        return keras.losses.SparseCategoricalCrossentropy(ignore_class=ignored)

    def checked(self, outputs, y, from_logits=False):
        """Returns the outputs of a model as probabilities, or numbers, of the shape that is scored.

        Raises:
            ValueError: Where they are not for this task. What is NaN is not looked at: a run may diverge.
        """
        if isinstance(outputs, (dict, list, tuple)):
            raise ValueError(f"The model must return one tensor. Received: outputs of {type(outputs)}")
        p = np.asarray(keras.ops.convert_to_numpy(keras.ops.cast(outputs, "float32")))
        if self.kind == "regression":
            if p.size != y.size or len(p) != len(y):
                raise ValueError(
                    f"The model must return {self.outputs} number(s) for each sample. "
                    f"Received: outputs of shape {p.shape} for targets of shape {y.shape}"
                )
            return p.reshape(y.shape)
        if from_logits:
            one = self.kind == "multilabel" or p.shape[-1] == 1
            p = keras.ops.convert_to_numpy((keras.ops.sigmoid if one else keras.ops.softmax)(p))
        shape, what = y.shape, f"of {self.outputs} labels (end it with a sigmoid)"
        if self.kind != "multilabel":
            if self.outputs == 2 and p.shape in (y.shape, (*y.shape, 1)):
                p = as_probabilities(p.reshape(*y.shape, 1), np.stack)
            shape, what = (*y.shape, self.outputs), f"of {self.outputs} classes (end it with a softmax)"
        good = p.shape == shape
        # A softmax in bfloat16 is some hundredths off; what is none is far off for some sample.
        good = good and not ((p < 0) | (p > 1.1)).any()
        if good and self.kind != "multilabel":
            good = not (abs(p.sum(-1) - 1) > 0.1).any()
        if not good:
            raise ValueError(
                f"The model must return the probabilities {what}. "
                f"Received: outputs of shape {p.shape}, from {p.min():g} to {p.max():g}"
            )
        return p

    def losses(self, p, y):
        """Returns a number for each sample; that of the metric is made of their mean."""
        if self.kind == "regression":
            errors = (p - y).reshape(len(y), -1).astype("float64")
            return (abs(errors) if self.metric == "mae" else errors**2).mean(-1)
        if self.kind == "multilabel":
            given = np.where(y == 1, p, 1 - p)
            wrong, counts = given < 0.5, np.full(y.shape, 1 / y.shape[1])
        else:
            label = np.maximum(y, 0)
            given = np.take_along_axis(p, label[..., None], -1)[..., 0]
            wrong, counts = p.argmax(-1) != label, y >= 0
            # The mean over samples is then that over tokens.
            counts = counts * (len(y) / max(counts.sum(), 1))
        each = wrong if self.metric == "accuracy" else -np.log(np.clip(given, SMALLEST, 1).astype("float64"))
        return (each * counts).reshape(len(y), -1).sum(-1)

    def value(self, losses):
        """Returns the metric, given the mean of the losses or the losses themselves."""
        mean = float(np.mean(losses))
        return {"accuracy": 1 - mean, "rmse": mean**0.5}.get(self.metric, mean)

    def gain(self, value, base):
        """Returns how much better one value of the metric is than another."""
        return value - base if self.metric == "accuracy" else base - value

    def shares(self, losses):
        """Returns what each sample adds to the metric, as an error: of these the mean is taken, also for the RMSE."""
        losses = np.asarray(losses)
        if self.metric != "rmse":
            return losses
        root = np.sqrt(losses.mean(-1, keepdims=True))
        return root + (losses - root**2) / np.where(root > 0, 2 * root, 1)

    def calibration(self, p, y):
        """Returns the expected calibration error, and the confidence, accuracy and share of its bins, or `None`."""
        if self.kind == "regression":
            return None, None
        if self.kind == "multilabel":
            p, y = np.clip(p.ravel(), 0, 1), y.ravel()
        else:
            scored = y >= 0
            p, y = p[scored], y[scored]
            p = p / p.sum(-1, keepdims=True)
        score = ClassificationScore(p, y)
        return score.ece, [score.bin_confidence.tolist(), score.bin_accuracy.tolist(), score.bin_share.tolist()]


def task_of(y, kind=None, metric=None):
    """Returns the task that the labels of the training data say, unless `kind` does."""
    if kind is None:
        marks, single = ((y == 0) | (y == 1)).all(), y.ndim == 1 or y.shape[1:] == (1,)
        if y.ndim == 2 and not single and marks:
            kind = "classification" if (y.sum(1) == 1).all() else "multilabel"
        elif y.dtype.kind in "iub":
            kind = "classification" if single else "tokens"
        else:
            kind = "regression"
    checked_choice("task", kind, *METRICS)
    metric = METRICS[kind][0] if metric is None else checked_choice("metric", metric, *METRICS[kind])
    one_hot = kind == "classification" and y.ndim == 2 and y.shape[1] > 1
    classes = kind in ("classification", "tokens") and not one_hot
    return Task(kind, metric, int(y.max()) + 1 if classes else int(np.prod(y.shape[1:])))


def checked_labels(kind, y, name, samples):
    """Returns labels of the type that the task is computed in, after a look at whether they are for it."""
    allowed = {
        "classification": "one integer label",
        "tokens": "one integer label for each token, negative where it does not count,",
        "multilabel": "a row of labels, each 0 or 1,",
        "regression": "a finite number, or as many as there are targets,",
    }[kind]
    good = y.ndim > 0 and len(y) == samples and y.dtype.kind in "iubf"
    if good and kind == "classification" and y.ndim == 2 and y.shape[1] > 1:
        # One-hot.
        good = bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all())
        y = y.argmax(1) if good else y
    if kind in ("classification", "tokens"):
        good = good and y.dtype.kind in "iub"
    if kind == "classification":
        good = good and y.shape in ((samples,), (samples, 1))
        y = y.reshape(-1) if good else y
    elif kind == "multilabel":
        good = good and y.ndim == 2 and bool(((y == 0) | (y == 1)).all())
    elif kind == "tokens":
        good = good and y.ndim == 2
    elif good:
        good = bool(np.isfinite(y).all())
        y = y[:, 0] if y.shape == (samples, 1) else y
    if not good:
        raise ValueError(
            f"{name} must hold {allowed} for each of the {samples} samples of {name.replace('y', 'x', 1)}. "
            f"Received: an array of {y.dtype} and shape {y.shape}"
        )
    return y.astype({"regression": "float32", "multilabel": "int32"}.get(kind, "int64"))
