"""Dropout at inference."""

import contextlib
import contextvars
import functools
import math
import weakref
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dropouts import random
from keras_dropouts.base import SeededLayer, checked_count, checked_seed
from keras_dropouts.surgery import inputs_like

# They draw in training too, but drop nothing. Keras has no public name for the base of its augmentation layers.
NO_DROPOUT = (keras.layers.GaussianNoise, keras.layers.Rescaling.__base__)
ACTIVE_IN_TRAINING = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization, *NO_DROPOUT)
FOREIGN = (keras.layers.JaxLayer, keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper)


def always_on(model: keras.Model) -> keras.Model:
    """Returns a model with the same weights whose dropout stays active: in `predict` and `evaluate`, and once saved.

    Everything else stays in inference mode, in `fit` too: batch normalization uses its moving statistics and leaves
    them alone. The weights are shared: what trains the one model changes the other. Its random state is its own, and
    new: the given model, and the masks it will draw, are untouched.

    Dropout is: Keras's and our dropout layers, the dropout within Keras's recurrent and attention layers, and layers
    of your own that own a `keras.random.SeedGenerator` and take `training`; wherever they are, also in nested models
    and in layers of your own. GaussianNoise and augmentation are not. Layers that draw without a seed generator
    cannot be found.

    Args:
        model: A built `keras.Model`: Sequential, functional or subclassed. A subclassed one must have one argument for
            its inputs, which may be a dictionary.

    Returns:
        A `keras.Model` that takes and gives what `model` does. It is not compiled: `evaluate` needs
        `compile(loss=..., metrics=...)`. It can be saved and loaded, random state included. For that a subclassed model
        must be as Keras asks, registered and with a `get_config`. On TensorFlow and JAX it can be exported; the
        SavedModel draws new masks at each call.

    Raises:
        ValueError: Where `model` is not as described, has no dropout, or has some that cannot be switched on by
            itself.

    Reference:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016, arXiv 1506.02142.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Dropout, always_on
    >>> model = keras.Sequential([keras.Input((100,)), Dropout(0.5, seed=1)])
    >>> x = np.ones((2, 100), "float32")
    >>> model.predict(x, verbose=0).min(), always_on(model).predict(x, verbose=0).min()
    (np.float32(1.0), np.float32(0.0))
    """
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a keras.Model that is built: by a keras.Input, or by calling it once. "
            f"Received: model={model!r}"
        )
    name = f"{model.name}_always_on"
    layer = AlwaysOn(model)
    if not hasattr(model, "inputs"):
        return keras.Sequential([layer], name=name)
    inputs = inputs_like(model)
    return keras.Model(inputs, layer(inputs), name=name)


@keras.saving.register_keras_serializable(package="keras_dropouts")
class AlwaysOn(keras.layers.Wrapper, SeededLayer):
    """Calls the model it wraps with its dropout active, and with random numbers of its own.

    Its random state, seed and count of calls, decides all that the model draws; `_random_state.write` sets it.

    Args:
        layer: The model.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.
    """

    def __init__(self, layer, seed=None, **kwargs):
        # The model casts its inputs itself.
        super().__init__(layer, seed=seed, **{"dtype": "float32", "autocast": False, **kwargs})
        parts = layer._flatten_layers()
        foreign = [part for part in parts if isinstance(part, FOREIGN)]
        if foreign:
            raise ValueError(
                f"`model` must be made of Keras layers. It is not known whether there is dropout in what another "
                f"framework runs. Received: a model with {foreign!r}"
            )
        # A recurrent layer draws the masks for its cells.
        cells = {cell for part in parts if isinstance(part, keras.layers.RNN) for cell in _cells(part)}
        drawing = [part for part in parts if part not in cells and (_drops(part) or part._seed_generators)]
        # Not a list, whose layers Keras would save a second time.
        self._dropouts = frozenset(part for part in drawing if _drops(part))
        if not self._dropouts:
            raise ValueError(
                f"`model` must have dropout: layers with a seed generator that draw in training and not at inference. "
                f"Received: model={layer!r}"
            )
        for part in self._dropouts:
            others = [other for other in part._flatten_layers() if isinstance(other, ACTIVE_IN_TRAINING)]
            if others:
                raise ValueError(
                    f"`model` must not have dropout in a layer that also calls, with the same `training`, what must "
                    f"stay in inference mode. Put the dropout into a layer of its own. "
                    f"Received: a model with {part!r}, which holds {others!r}"
                )
        for part in drawing:
            _make_ask(part)

    def call(self, inputs):
        run = _Run(self._next_state())
        with _training_of(self), random.global_generator(run.word):
            token = _RUN.set(run)
            try:
                outputs = self.layer(inputs, training=False)
            finally:
                _RUN.reset(token)
        missed = self._dropouts - run.called
        if missed:
            raise ValueError(
                f"`model` must call its dropout at inference too, whatever `training` is, for it to be switched on. "
                f"Received: a model that does not call {sorted(layer.name for layer in missed)} then"
            )
        return outputs

    def compute_output_spec(self, inputs):
        return self.layer.compute_output_spec(inputs)


# What runs in this thread or task, if anything.
_RUN = contextvars.ContextVar("run", default=None)
_asking: weakref.WeakSet = weakref.WeakSet()


class _Run:
    """One call of an AlwaysOn layer: which layers it has called, and where their random numbers start."""

    def __init__(self, state):
        key = random.key_of(state)
        # The replica is the second word's.
        self.word = random.threefry2x32((key[0], key[1]), (ops.zeros_like(key[2:3]), key[2:3]))[0]
        outer = _RUN.get()
        self.called = outer.called if outer else set()
        self.draws = 0

    def call(self, layer, plain, *args, **kwargs):
        """Calls the layer with training=True if it is dropout, and its random states exchanged for the run's."""
        self.called.add(layer)
        if _drops(layer):
            kwargs["training"] = True
        generators = [generator for part in (layer, *_cells(layer)) for generator in part._seed_generators]
        values = [(v, v.value) for v in layer.variables]
        values += [(generator.state, self._state_for(generator)) for generator in generators]
        # What the layer does to its states ends with the scope.
        with keras.StatelessScope(values), _training_of(layer):
            return plain(*args, **kwargs)

    def _state_for(self, generator):
        """A state that the run has not used yet."""
        self.draws += 1
        # An odd stride takes all values before it repeats one.
        seed = self.word + ops.cast(np.array([self.draws * 0x1E3779B9 % 2**31]), random.WORD)
        others = generator.state.value[1:]
        if not isinstance(generator, random.RandomState):
            others = ops.zeros_like(others)
        return ops.concatenate([ops.cast(seed, generator.state.dtype), others])


def _make_ask(layer):
    """Lets the layer's `call` ask which run it is part of. Outside of a run it is as it was."""
    if layer in _asking:
        return
    plain = layer.call

    @functools.wraps(plain)
    def call(*args, **kwargs):
        run = _RUN.get()
        return run.call(layer, plain, *args, **kwargs) if run else plain(*args, **kwargs)

    # Past Keras, which tracks what is set. It replaces `build` of each layer likewise.
    vars(layer)["call"] = call
    _asking.add(layer)


@contextlib.contextmanager
def _training_of(layer):
    """What the layers within are told of `training` is not passed on to those that are called after."""
    context = layer._get_call_context()
    before = context.get_value("training")
    try:
        yield
    finally:
        context.set_value("training", before)


def _drops(layer):
    """Whether the layer itself drops something in training, not only layers within it."""
    if isinstance(layer, keras.layers.RNN) or hasattr(layer, "recurrent_dropout"):
        cells = [cell for cell in (layer, *_cells(layer)) if hasattr(cell, "recurrent_dropout")]
        return any(cell.dropout or cell.recurrent_dropout for cell in cells)
    return _takes_training(layer) and bool(layer._seed_generators) and not isinstance(layer, NO_DROPOUT)


def _cells(layer):
    parts = layer._flatten_layers(include_self=False)
    return [
        part for part in parts if hasattr(part, "recurrent_dropout") or isinstance(part, keras.layers.StackedRNNCells)
    ]


def _takes_training(layer):
    return "training" in layer.call_signature_parameters


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
        model: A `keras.Model` with dropout, as for `always_on`.
        x: Whatever `model.predict` reads: an array, a list or dictionary of arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a PyTorch `DataLoader`, a generator.
        samples: How often to predict, a positive integer.
        batch_size: How many examples to predict at once, where `x` has no batches of its own. A larger one is faster
            on PyTorch: 7 times for a small dense network and 256.
        verbose: As for `model.predict`: the progress bar counts batches.
        seed: `None`, or an integer in `[0, 2**32)`. The same seed gives the same predictions again, for as many samples
            of the same data in the same batches.
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
    samples = checked_count("samples", samples)
    if not isinstance(keep_samples, bool):
        raise ValueError(f"`keep_samples` must be True or False. Received: keep_samples={keep_samples!r}")
    seed = checked_seed(seed)
    if any(getattr(array, "shape", (1,))[:1] == (0,) for array in tree.flatten(x)):
        raise ValueError("`x` must hold at least one example. Received: an array of none")
    layer = always_on(model).layers[-1]
    layer._random_state.write(seed=seed, calls=0)
    sampler = _Sampler(layer, samples, keep_samples)
    moments = sampler.predict(x, batch_size=batch_size, verbose=verbose)
    return tree.pack_sequence_as(sampler.structure, [MonteCarloPrediction(**each) for each in moments])


class MonteCarloPrediction:
    """What `monte_carlo` returns for one output of a model: NumPy arrays, for `n` examples.

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
    """

    samples: np.ndarray | None
    mean: np.ndarray
    std: np.ndarray

    def __init__(self, mean, std, entropy, mutual_information, variation_ratio, samples=None):
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

    def _of_probabilities(self, measure):
        if np.isnan(self._mutual_information).any():
            raise ValueError(
                f"The model's outputs must be probabilities for this: at least 0, with a sum of 1 over the last axis. "
                f"End the model with a softmax; the mean of logits is not the mean of probabilities. "
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

    def call(self, inputs):
        state = self.layer._random_state.state
        first = ops.copy(state.value)
        values = [(v, v.value) for v in self.layer.variables]

        def state_at(i):
            return first + ops.cast(i, state.dtype) * ops.convert_to_tensor(np.array([0, 1, 0, 0]), state.dtype)

        def predict(i):
            # The last value given for a variable holds, and what else the layer does to it ends with the scope.
            with keras.StatelessScope([*values, (state, state_at(i))]):
                outputs = self.layer(inputs)
            self.structure = tree.map_structure(lambda _: None, outputs)
            return [ops.cast(y, random.work_dtype(y)) for y in tree.flatten(outputs)]

        # On TensorFlow, ops.scan could not do both.
        kept = ops.map(predict, ops.arange(self.samples)) if self.keep_samples else None

        def nth(i):
            return [y[i] for y in kept] if self.keep_samples else predict(i)

        def update(i, moments):
            return [_updated(*each, y, i) for each, y in zip(moments, nth(i), strict=True)]

        start = [(y, ops.zeros_like(y), _entropy(y), _votes(y)) for y in nth(0)]
        moments = ops.fori_loop(1, self.samples, update, start)
        state.assign(state_at(self.samples))
        results = [_measures(*each, self.samples) for each in moments]
        if self.keep_samples:
            results = [{**each, "samples": ops.moveaxis(y, 0, 1)} for each, y in zip(results, kept, strict=True)]
        return results


def _updated(mean, squares, entropy, votes, y, i):
    """Welford's method: one pass, and no difference of large numbers."""
    deviation = y - mean
    mean = mean + deviation / (ops.cast(i, y.dtype) + 1)
    return mean, squares + deviation * (y - mean), entropy + _entropy(y), votes + _votes(y)


def _measures(mean, squares, entropy, votes, samples):
    total = _entropy(mean)
    return {
        "mean": mean,
        "std": ops.sqrt(squares / samples),
        "entropy": total,
        "mutual_information": ops.maximum(total - entropy / samples, 0),
        "variation_ratio": (samples - ops.max(votes, -1)) / samples,
    }


def _probabilities(y):
    """The probabilities of classes on the last axis, where the output may have that of the second of two alone."""
    if len(y.shape) > 1 and y.shape[-1] != 1:
        return y
    second = y[..., 0] if len(y.shape) > 1 else y
    return ops.stack([1 - second, second], -1)


def _entropy(y):
    """The entropy over the last axis, NaN where that holds no probabilities."""
    p = _probabilities(y)
    # The sum of a bfloat16 softmax is that near to 1.
    valid = ops.all(p >= 0, -1) & (ops.abs(ops.sum(p, -1) - 1) < 0.01)
    return ops.where(valid, -ops.sum(p * ops.log(ops.where(p > 0, p, 1)), -1), math.nan)


def _votes(y):
    p = _probabilities(y)
    return ops.one_hot(ops.argmax(p, -1), p.shape[-1], dtype=y.dtype)
