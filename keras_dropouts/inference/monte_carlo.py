"""Many predictions with dropout active, and how they differ."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dropouts.inference.always_on import PREDICTING, AlwaysOn, check_model
from keras_dropouts.inference.score import ClassificationScore, RegressionScore, as_probabilities
from keras_dropouts.keras_internals import all_layers, has_value
from keras_dropouts.layers.arguments import checked_count, checked_flag, checked_seed
from keras_dropouts.random.multiply import work_dtype


def monte_carlo(
    model: keras.Model,
    x: Any,
    samples: int = 32,
    batch_size: int | None = 32,
    verbose: str | int = "auto",
    seed: int | None = None,
    keep_samples: bool = True,
) -> "MonteCarloPrediction | Any":
    """Predicts many times with dropout active, and returns the mean prediction and measures of its uncertainty.

    Only dropout is active, see `always_on`; weights, batch normalization's statistics and random states of the model
    are as before. Where the outputs are probabilities, probabilities are averaged: give the model its softmax. The
    data is read once: each batch is predicted `samples` times by one compiled function, which is compiled anew in each
    call of `monte_carlo`.

    Args:
        model: A `keras.Model` with dropout, as for `always_on`. It may evaluate in a way of its own, but not predict.
        x: Whatever `model.predict` reads: an array, a list or dictionary of arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a PyTorch `DataLoader`, a generator.
        samples: How often to predict, a positive integer less than 2**31.
        batch_size: How many examples to predict at once, where `x` has no batches of its own: a positive integer, or
            `None` for Keras's own choice, 32. A larger one is faster on PyTorch: 7 times for a small dense network and
            256.
        verbose: As for `model.predict`: the progress bar counts batches.
        seed: `None`, or an integer in `[0, 2**32)`. The same seed gives the same predictions again, for as many samples
            of the same data in the same batches. Each run has a key of 64 bits; of these, Keras's own layers heed 32 on
            PyTorch and 62 on TensorFlow.
        keep_samples: Whether to keep each prediction. If not, the mean and all else are computed as the predictions
            come, and memory holds those of one batch, one after the other (up to ten at a time on TensorFlow).

    Returns:
        A `MonteCarloPrediction`. If the model has several outputs, the structure that `model` returns (a list, a
        dictionary), with one for each.

    Raises:
        ValueError: Where an argument is not as described, or the model has no dropout.

    Reference:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in Deep Learning",
        ICML 2016, arXiv 1506.02142.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Dropout, monte_carlo
    >>> model = keras.Sequential([keras.Input((8,)), Dropout(0.5), keras.layers.Dense(3, "softmax")])
    >>> prediction = monte_carlo(model, np.ones((5, 8)), samples=20, seed=1, verbose=0)
    >>> prediction.samples.shape, prediction.mean.shape, prediction.entropy.shape
    ((20, 5, 3), (5, 3), (5,))
    """
    check_model(model, PREDICTING)
    samples = checked_count("samples", samples)
    if samples >= 2**31:
        raise ValueError(f"`samples` must be less than 2**31. Received: samples={samples}")
    if batch_size is not None:
        batch_size = checked_count("batch_size", batch_size)
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    checked_flag("keep_samples", keep_samples)
    seed = checked_seed(seed)
    arrays = tree.flatten(x)
    if not arrays or any(array is None or getattr(array, "shape", (1,))[:1] in ((), (0,)) for array in arrays):
        raise ValueError(f"`x` must hold at least one example, and no None. Received: x={x!r}")
    layer = AlwaysOn(model)
    layer._random_state.write(seed=seed, calls=0)
    # A sample is of one member, in whatever batch.
    layer.period = samples
    sampler = _Sampler(layer, samples, keep_samples)
    values = {id(v): v.value for v in sampler.variables}
    try:
        moments = sampler.predict(x, batch_size=batch_size, verbose=verbose)
    except UnboundLocalError as error:
        if hasattr(sampler, "structure"):
            raise
        raise ValueError(f"`x` must hold at least one example. Received: x={x!r}, which gave none") from error
    finally:
        _give_back(sampler, values)
    return tree.pack_sequence_as(sampler.structure, [MonteCarloPrediction(**each) for each in moments])


def _give_back(model, values):
    """On JAX, Keras takes the values of the variables while it predicts; after an error they would be gone."""
    callback = keras.callbacks.Callback()
    callback.set_model(model)
    # To be asked for its model, it fetches the values that the last batch left, if there was one.
    for v in callback.model.variables:
        if not has_value(v):
            v.assign(values[id(v)])


class MonteCarloPrediction:
    """What `monte_carlo` returns for one output of a model: NumPy arrays, for `n` examples, and `score` against labels.

    The last three are for outputs that are probabilities of classes: not negative, with a sum of 1 over the last axis.
    A last axis of size 1, or none, holds the probability of the second of two classes, as a sigmoid gives it. For
    other outputs they raise a `ValueError`.

    Attributes:
        samples: The predictions, of shape `(samples, n, ...)`; `None` if they were not kept.
        mean: Their mean, of shape `(n, ...)`.
        std: Their standard deviation (`1 / samples`, not `1 / (samples - 1)`), of the mean's shape.
        entropy: That of the mean, in nats: the whole uncertainty. The shape is the mean's without the last axis.
        mutual_information: How much of the entropy comes from the predictions' disagreement (BALD), at least 0: the
            entropy less the mean of the predictions' own entropies. Of the entropy's shape.
        variation_ratio: The share of the predictions that are not of the most frequent class. Of the entropy's shape.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Dropout, monte_carlo
    >>> model = keras.Sequential([keras.Input((8,)), Dropout(0.5), keras.layers.Dense(3, "softmax")])
    >>> prediction = monte_carlo(model, np.ones((5, 8)), samples=20, verbose=0)
    >>> np.allclose(prediction.mean, prediction.samples.mean(axis=0), atol=1e-6)
    True
    >>> bool((prediction.mutual_information <= prediction.entropy).all())
    True
    """

    samples: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray

    def __init__(
        self,
        mean: np.ndarray,
        std: np.ndarray,
        entropy: np.ndarray,
        mutual_information: np.ndarray,
        variation_ratio: np.ndarray,
        samples: np.ndarray | None = None,
    ):
        self.mean, self.std = mean, std
        self.samples = None if samples is None else np.moveaxis(samples, 1, 0)
        self._entropy, self._mutual_information, self._variation_ratio = entropy, mutual_information, variation_ratio

    @property
    def entropy(self) -> np.ndarray:
        return self._of_probabilities(self._entropy)

    @property
    def mutual_information(self) -> np.ndarray:
        return self._of_probabilities(self._mutual_information)

    @property
    def variation_ratio(self) -> np.ndarray:
        return self._of_probabilities(self._variation_ratio)

    def score(self, y: Any, tau: Any = None, sample_weight: Any = None) -> ClassificationScore | RegressionScore:
        """Scores the prediction against what was true: its errors, its likelihood and its calibration.

        Without `tau` the outputs must be probabilities of classes, with it they are those of a regression, whatever
        they look like. Of several outputs each is scored by itself: `predictions["class"].score(y["class"])`.

        Args:
            y: What was true: classes, integers or one-hot, as `ClassificationScore` says, or numbers of the mean's
                shape.
            tau: For a regression: the precision of the noise, `1 / variance`, a positive number or an array, as
                `RegressionScore` says.
            sample_weight: `None`, or how much each label counts, as both say; a mask of what is no padding is one.

        Returns:
            A `ClassificationScore`, or with `tau` a `RegressionScore`; of predictions that were not kept the latter
            lacks what needs them, and says so when asked.

        Raises:
            ValueError: Where an argument is not as described, or the outputs are no probabilities and there is no
                `tau`.
        """
        if tau is not None:
            return RegressionScore(self.mean, y, tau, self.std, self.samples, sample_weight)
        return ClassificationScore(self._of_probabilities(self.mean), y, sample_weight)

    def _of_probabilities(self, measure):
        if np.isnan(self._mutual_information).any():
            raise ValueError(
                f"The model's outputs must be probabilities for this: at least 0, with a sum of 1 over the last axis. "
                f"End the model with a softmax; the mean of logits is not the mean of probabilities. For the score of "
                f"a regression give `tau`. "
                f"Received: outputs of shape {self.mean.shape} with means from {self.mean.min()} to {self.mean.max()}"
            )
        return measure


class _Sampler(keras.Model):
    """Calls an AlwaysOn layer many times, and returns the moments of each output."""

    def __init__(self, layer, samples, keep_samples):
        super().__init__(name="monte_carlo")
        self.layer, self.samples, self.keep_samples = layer, samples, keep_samples
        # Else Keras would call it once more on JAX, eagerly.
        self.built = layer.built = True
        if not layer.layer.jit_compile:
            self.jit_compile = False
        self.digits = min(map(_digits, all_layers(layer)))

    def call(self, inputs):
        state = self.layer._random_state.state
        first = ops.copy(state.value)
        values = [(v, v.value) for v in self.layer.variables]

        def state_at(i):
            return first + ops.cast(i, state.dtype) * ops.convert_to_tensor(np.array([0, 1, 0, 0]), state.dtype)

        def predict(i):
            # The last value given for a variable holds, and what else the layer does to it ends with the scope.
            with keras.StatelessScope([*values, (state, state_at(i))]):
                # Copied into the loop: TensorFlow cannot recompute there what comes from outside.
                outputs = self.layer(tree.map_structure(ops.copy, inputs))
            self.structure = tree.map_structure(lambda _: None, outputs)
            return tree.flatten(outputs)

        # On TensorFlow, ops.scan could not do both.
        kept = ops.map(predict, ops.arange(self.samples)) if self.keep_samples else None

        def nth(i):
            return [y[i] for y in kept] if self.keep_samples else predict(i)

        def update(i, moments):
            return [_updated(*each, *self._read(y), i) for each, y in zip(moments, nth(i), strict=True)]

        start = [(y, ops.zeros_like(y), entropy, votes) for y, entropy, votes in map(self._read, nth(0))]
        moments = ops.fori_loop(1, self.samples, update, start)
        state.assign(state_at(self.samples))
        results = [_measures(*each, self.samples) for each in moments]
        if self.keep_samples:
            results = [
                {**each, "samples": _widened(ops.moveaxis(y, 0, 1))} for each, y in zip(results, kept, strict=True)
            ]
        return results

    def _read(self, y):
        """Returns an output in a type wide enough for sums, its entropy (NaN if it has none) and its votes."""
        # A model may widen what it computed in a narrow type.
        digits = min(self.digits, _digits(y))
        y = _widened(y)
        return y, ops.where(_are_probabilities(y, digits), _entropy(y), math.nan), _votes(y)


def _widened(y):
    return ops.cast(y, work_dtype(y))


def _digits(x):
    """The binary digits of the type that a tensor has, or a layer computes in; those of float32 if it is wider."""
    dtype = x.compute_dtype if isinstance(x, keras.layers.Layer) else keras.backend.standardize_dtype(x.dtype)
    return {"bfloat16": 8, "float16": 11}.get(dtype, 24)


def _updated(mean, squares, entropy, votes, y, y_entropy, y_votes, i):
    """Welford's method: one pass, and no difference of large numbers."""
    deviation = y - mean
    mean = mean + deviation / (ops.cast(i, y.dtype) + 1)
    return mean, squares + deviation * (y - mean), entropy + y_entropy, votes + y_votes


def _measures(mean, squares, entropy, votes, samples):
    total = _entropy(mean)
    return {
        "mean": mean,
        "std": ops.sqrt(squares / samples),
        "entropy": total,
        "mutual_information": ops.maximum(total - entropy / samples, 0),
        "variation_ratio": (samples - ops.max(votes, -1)) / samples,
    }


def _are_probabilities(y, digits):
    """Whether each example's entries are at least 0 and have a sum of 1, as far as numbers of so many digits can."""
    p = as_probabilities(y, ops.stack)
    # A softmax in a narrow type rounds the exponentials, log2(n) sums of pairs of them, the inverse of their sum, and
    # the products, each by up to half a unit in the last place. That is all of float32's error and, with the 2**-25 of
    # each float16 below 2**-14, of float16's, far within 0.01; which also allows for clipping, as by epsilon().
    tolerance = max(0.01, (3 + math.log2(p.shape[-1])) * 2.0**-digits)
    return ops.all(p >= 0, -1) & (ops.abs(ops.sum(p, -1) - 1) < tolerance)


def _entropy(y):
    """The entropy over the last axis."""
    p = as_probabilities(y, ops.stack)
    return -ops.sum(p * ops.log(ops.where(p > 0, p, 1)), -1)


def _votes(y):
    p = as_probabilities(y, ops.stack)
    return ops.one_hot(ops.argmax(p, -1), p.shape[-1], dtype=y.dtype)
