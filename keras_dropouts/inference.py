"""Dropout at inference."""

import contextlib
import contextvars
import functools
import math
import threading
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dropouts import random, rematerialization
from keras_dropouts.base import SeededLayer, checked_count, checked_seed
from keras_dropouts.layer_wrapper import LayerWrapper
from keras_dropouts.surgery import inputs_like

# They draw in training too, but drop nothing. Keras has no public name for the base of its augmentation layers.
NO_DROPOUT = (keras.layers.GaussianNoise, keras.layers.Rescaling.__base__)
ACTIVE_IN_TRAINING = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization, *NO_DROPOUT)
FOREIGN = (keras.layers.JaxLayer, keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper)
# What calls a model for its user. A model that overrides it may prepare its inputs there, or change its outputs.
PREDICTING = ("predict", "predict_step", "make_predict_function")
EVALUATING = ("predict_on_batch", "evaluate", "test_step", "make_test_function", "test_on_batch")


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
            its inputs, which may be a dictionary. A model that predicts or evaluates in a way of its own, as those of
            KerasHub, which prepare their inputs in `predict`, is refused; the error says what to give instead.

    Returns:
        A `keras.Model` that takes and gives what calling `model` does. It is not compiled: `evaluate` needs
        `compile(loss=..., metrics=...)`, and `fit` is Keras's own. It can be saved and loaded, random state included.
        For that a subclassed model must be as Keras asks, registered and with a `get_config`. On TensorFlow and JAX it
        can be exported; the SavedModel draws new masks at each call.

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
    _check_model(model, PREDICTING + EVALUATING)
    name = f"{model.name}_always_on"
    layer = AlwaysOn(model)
    if not hasattr(model, "inputs"):
        return keras.Sequential([layer], name=name)
    inputs = inputs_like(model)
    return keras.Model(inputs, layer(inputs), name=name)


def _check_model(model, methods):
    """Raises a ValueError where the model cannot be called in place of these methods of it."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a keras.Model that is built: by a keras.Input, or by calling it once. "
            f"Received: model={model!r}"
        )
    own = [
        name for name in methods if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name)
    ]
    if own:
        graph = hasattr(model, "inputs")
        plain = "keras.Model(model.input, model.output)" if graph else "keras.Sequential([model]), called once"
        raise ValueError(
            f"`model` must predict and evaluate as keras.Model does: dropout is made active in its calls, and what its "
            f"own `{own[0]}` does beside them, to the data or the outputs, would be passed by. Do that yourself, and "
            f"give {plain}. Received: model={model!r}, which overrides {', '.join(own)}"
        )


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
        # A recurrent layer draws the masks for its cells, and a wrapper of ours for what it wraps.
        served = {cell for part in parts if isinstance(part, keras.layers.RNN) for cell in _cells(part)}
        served |= {part.layer for part in parts if isinstance(part, LayerWrapper)}
        # Not lists, whose layers Keras would save a second time.
        self._dropouts = frozenset(part for part in parts if part not in served and _drops(part))
        drawing = (part for part in parts if part not in served and part._seed_generators)
        self._drawing = self._dropouts.union(drawing)
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

    @random.uncompiled
    def call(self, inputs):
        run = _Run(self._next_state())
        with _training_of(self), random.global_generator(run.word), _asking(self._drawing):
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
_LOCK = threading.Lock()


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
        generators = [generator for part in layer._flatten_layers() for generator in part._seed_generators]
        values = [(v, v.value) for v in layer.variables]
        states = rematerialization.outside(lambda: [self._state_for(generator) for generator in generators])
        values += [(generator.state, state) for generator, state in zip(generators, states, strict=True)]
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


class _Ask:
    """Stands in for the `call` of a layer while there are runs: asks which one it is part of, if any."""

    def __init__(self, layer):
        self.layer, self.plain, self.own, self.runs = layer, layer.call, "call" in vars(layer), 0
        functools.update_wrapper(self, self.plain)

    def __call__(self, *args, **kwargs):
        run = _RUN.get()
        return run.call(self.layer, self.plain, *args, **kwargs) if run else self.plain(*args, **kwargs)


@contextlib.contextmanager
def _asking(layers):
    """Within, the layers' `call` asks which run it is part of. Runs may be nested, and in several threads at once."""
    with _LOCK:
        for layer in layers:
            ask = vars(layer).get("call")
            if not isinstance(ask, _Ask):
                # Past Keras, which tracks what is set.
                ask = vars(layer)["call"] = _Ask(layer)
            ask.runs += 1
    try:
        yield
    finally:
        with _LOCK:
            for layer in layers:
                ask = vars(layer)["call"]
                ask.runs -= 1
                if not ask.runs and ask.own:
                    vars(layer)["call"] = ask.plain
                elif not ask.runs:
                    del vars(layer)["call"]


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
        model: A `keras.Model` with dropout, as for `always_on`. It may evaluate in a way of its own, but not predict.
        x: Whatever `model.predict` reads: an array, a list or dictionary of arrays, a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, a PyTorch `DataLoader`, a generator.
        samples: How often to predict, a positive integer less than 2**31.
        batch_size: How many examples to predict at once, where `x` has no batches of its own: a positive integer, or
            `None` for Keras's own choice, 32. A larger one is faster on PyTorch: 7 times for a small dense network and
            256.
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
    _check_model(model, PREDICTING)
    samples = checked_count("samples", samples)
    if samples >= 2**31:
        raise ValueError(f"`samples` must be less than 2**31. Received: samples={samples}")
    if batch_size is not None:
        batch_size = checked_count("batch_size", batch_size)
    if verbose not in ("auto", 0, 1, 2):
        raise ValueError(f"`verbose` must be 'auto', 0, 1 or 2. Received: verbose={verbose!r}")
    if not isinstance(keep_samples, bool):
        raise ValueError(f"`keep_samples` must be True or False. Received: keep_samples={keep_samples!r}")
    seed = checked_seed(seed)
    arrays = tree.flatten(x)
    if not arrays or any(array is None or getattr(array, "shape", (1,))[:1] in ((), (0,)) for array in arrays):
        raise ValueError(f"`x` must hold at least one example, and no None. Received: x={x!r}")
    layer = AlwaysOn(model)
    layer._random_state.write(seed=seed, calls=0)
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
        if v._value is None:
            v.assign(values[id(v)])


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
        self.digits = min(map(_digits, layer._flatten_layers()))

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
    return ops.cast(y, random.work_dtype(y))


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


def _probabilities(y):
    """The probabilities of classes on the last axis, where the output may have that of the second of two alone."""
    if len(y.shape) > 1 and y.shape[-1] != 1:
        return y
    second = y[..., 0] if len(y.shape) > 1 else y
    return ops.stack([1 - second, second], -1)


def _are_probabilities(y, digits):
    """Whether each example's entries are at least 0 and have a sum of 1, as far as numbers of so many digits can."""
    p = _probabilities(y)
    # A softmax in a narrow type rounds the exponentials, log2(n) sums of pairs of them, the inverse of their sum, and
    # the products, each by up to half a unit in the last place. That is all of float32's error and, with the 2**-25 of
    # each float16 below 2**-14, of float16's, far within 0.01; which also allows for clipping, as by epsilon().
    tolerance = max(0.01, (3 + math.log2(p.shape[-1])) * 2.0**-digits)
    return ops.all(p >= 0, -1) & (ops.abs(ops.sum(p, -1) - 1) < tolerance)


def _entropy(y):
    """The entropy over the last axis."""
    p = _probabilities(y)
    return -ops.sum(p * ops.log(ops.where(p > 0, p, 1)), -1)


def _votes(y):
    p = _probabilities(y)
    return ops.one_hot(ops.argmax(p, -1), p.shape[-1], dtype=y.dtype)
