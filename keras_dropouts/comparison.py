"""Which dropout, at which rate, helps a model on its data, and what that costs."""

import contextlib
import functools
import importlib
import inspect
import json
import math
import numbers
import os
import pathlib
import random
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dropouts.base import as_number, checked_count, checked_seed

# Bins of the calibration error, as in Guo et al. (2017).
BINS = 15
# Step time: the median over this many pairs of short epochs, without and with dropout, of at most so many steps.
ROUNDS, STEPS = 7, 8

# What is written to the folder.
MODEL, RESULTS, PICTURE = "best.keras", "compare.json", "compare.png"

ORANGE = (0.9, 0.45, 0.1)


def compare(
    build_model: Callable[[Callable], keras.Model],
    data: tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    layers: Sequence[Callable[..., keras.layers.Layer]],
    rates: Sequence[float] = (0.1, 0.3),
    epochs: int = 18,
    repeats: int = 3,
    seed: int = 0,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    verbose: bool = True,
) -> dict[str, Any]:
    """Trains a model without dropout and with each layer at each rate, over several seeds, and reports what helped.

    The runs of a repeat start from the same weights and see the same batches. A model for each layer and rate stays in
    memory, to be compiled once. Ctrl-C ends the comparison early with the runs that are finished; before the first one
    is, it is a `KeyboardInterrupt`. With `out`, what is finished is on disk after each run, however the program ends.

    Args:
        build_model: A function that makes a new functional or `Sequential` classifier. It is called with `dropout`,
            and says where dropout may go by calling that on layers: `dropout(keras.layers.Dense(64))(x)` is the
            layer followed by the dropout, or wrapped in it (`DropConnect`), or left alone where the dropout does
            not take it, as `SpatialDropout2D` does not take what a Dense returns. The model must return
            probabilities, a row of classes for each sample. Compile it or leave that out: then it is Adam, on
            `sparse_categorical_crossentropy`.
        data: `(x_train, y_train), (x_test, y_test)`, arrays as Keras's own data sets load them. The labels are
            integers from 0, each of them in `y_train`.
        layers: A sequence of layer classes, or of `functools.partial`s of them that fix further arguments:
            `partial(DropBlock2D, block_size=5)`. The rate goes to the argument `rate`, else to the first one that
            has no default. A layer that has neither runs once, and so does a partial that fixes it, at its own rate:
            `partial(Dropout, rate=0.5)`.
        rates: The rates to try, finite numbers.
        epochs, batch_size: As for `keras.Model.fit`.
        repeats: How often to train each, a positive integer.
        seed: An integer in `[0, 2**32)`. Repeat `i` calls `keras.utils.set_random_seed(seed + i)`.
        out: A folder to write `compare.json`, `compare.png` and `best.keras` to, or `None`. Each file is replaced as a
            whole. The best model, that of the highest accuracy on the test data, is loaded again to see that it
            predicts the same.
        verbose: Whether to show a progress bar.

    Returns:
        What `compare.json` holds, a dictionary. `"results"` has an entry for no dropout, then one for each layer and
        rate, with the mean and standard deviation over repeats of `"accuracy"` (on the test data), `"gap"`
        (on the training data, less that) and `"ece"` (expected calibration error on the test data, 15 bins); the
        `"step_time"` of a training step as a multiple of that without dropout, compilation not counted; the number of
        `"places"` where the model takes the layer; and each of the `"runs"`. `"best"` says which model was
        the best, `"interrupted"` whether runs are missing.

    Raises:
        ValueError: Where an argument is not as described, or a layer fits nowhere in the model.
        ImportError: Where rich or matplotlib is missing: `pip install keras-dropouts[compare]`.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, arXiv 1706.04599, equation 3 (ECE).

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from keras_dropouts import Dropout, GaussianDropout, compare
    >>> def build_model(dropout):
    ...     inputs = keras.Input((4,))
    ...     hidden = dropout(keras.layers.Dense(8, activation="relu"))(inputs)
    ...     return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(hidden))
    >>> x = np.random.default_rng(0).normal(size=(96, 4))
    >>> y = (x[:, 0] > 0).astype(int)
    >>> data = (x[:64], y[:64]), (x[64:], y[64:])
    >>> results = compare(build_model, data, [Dropout, GaussianDropout], [0.3], epochs=1, repeats=1, verbose=False)
    >>> [(entry["layer"], entry["rate"]) for entry in results["results"]]
    [('none', None), ('Dropout', 0.3), ('GaussianDropout', 0.3)]
    """
    try:
        inspect.signature(build_model).bind("dropout")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`build_model` must be a function that takes `dropout` and returns a model: {error}. "
            f"Received: build_model={build_model!r}"
        ) from None
    data = checked_data(data)
    for name, value in (("epochs", epochs), ("repeats", repeats), ("batch_size", batch_size)):
        checked_count(name, value)
    if checked_seed(seed) is None:
        raise ValueError("`seed` must be an integer in [0, 2**32). Received: seed=None")
    if not isinstance(verbose, bool | int) or verbose not in (0, 1):
        raise ValueError(f"`verbose` must be True or False. Received: verbose={verbose!r}")
    layers, rates = checked_layers(layers), checked_rates(rates)
    candidates = [Candidate(), *(Candidate(layer, rate) for layer in layers for rate in rates_of(layer, rates))]
    for candidate in candidates:
        model = candidate.build(build_model)
        if candidate.layer is None:
            # Called once, so that one that is not for these data fails now and not after its training.
            sample = data[1][0][:batch_size]
            _probabilities(model(sample, training=False), len(sample), data)
    require(*["rich"] * verbose, *["matplotlib"] * (out is not None))
    folder = None if out is None else _folder(out)
    settings = {"epochs": int(epochs), "batch_size": int(batch_size), "repeats": int(repeats), "seed": int(seed)}
    comparison = _Comparison(build_model, data, candidates, settings, folder)
    with _Interrupts() as interrupts, _Progress(len(candidates) * repeats * epochs, verbose) as bar:
        interrupted = True
        try:
            for repeat in range(repeats):
                for candidate in candidates:
                    with interrupts.let_through():
                        run, predictions = comparison.run(candidate, (seed + repeat) % 2**32, bar)
                    comparison.keep(candidate, run, predictions)
            interrupted = False
        except KeyboardInterrupt:
            if not comparison.best:
                raise
        return comparison.finish(interrupted)


def checked_data(data):
    """Returns `data` as arrays, x of float32 and y of integers, after a look at whether they fit one another."""
    try:
        (x_train, y_train), (x_test, y_test) = data
    except (TypeError, ValueError):
        raise ValueError("`data` must be a pair of pairs of arrays: (x_train, y_train), (x_test, y_test).") from None
    pairs = {"train": (x_train, y_train), "test": (x_test, y_test)}
    for part, (x, y) in pairs.items():
        try:
            x, y = np.asarray(x), np.asarray(y)
        except Exception as error:  # A tensor or table of another library may raise anything.
            raise ValueError(f"x_{part} and y_{part} must be arrays. {_line(error)}") from error
        if x.dtype.kind not in "biuf" or x.ndim < 2 or not x.size:
            raise ValueError(
                f"x_{part} must be an array of numbers, one row or image for each sample. "
                f"Received: an array of {x.dtype} and shape {x.shape}"
            )
        x = x.astype("float32")
        if not np.isfinite(x).all():
            raise ValueError(f"x_{part} must hold finite numbers: replace what is NaN or infinite in float32.")
        if y.shape not in ((len(x),), (len(x), 1)) or y.dtype.kind not in "iu":
            raise ValueError(
                f"y_{part} must hold one integer label for each of the {len(x)} samples of x_{part}. "
                f"Received: an array of {y.dtype} and shape {y.shape}"
            )
        pairs[part] = x, y.reshape(-1).astype("int64")
    (x_train, y_train), (x_test, y_test) = pairs["train"], pairs["test"]
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            f"x_train and x_test must hold samples of one shape. "
            f"Received: samples of shape {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    labels = np.unique(y_train)
    if len(labels) < 2 or labels[0] != 0 or labels[-1] != len(labels) - 1:
        raise ValueError(
            f"y_train must hold two or more labels, numbered from 0 without gaps. "
            f"Received: {len(labels)} labels from {labels[0]} to {labels[-1]}"
        )
    if not np.isin(y_test, labels).all():
        raise ValueError(
            f"y_test must hold labels that y_train has, 0 to {labels[-1]}. "
            f"Received: labels from {y_test.min()} to {y_test.max()}"
        )
    return pairs["train"], pairs["test"]


def checked_layers(layers):
    """Returns `layers` as a list, after a look at whether they are what `compare` can make layers of."""
    entries = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str | bytes) else []
    kinds = [layer.func if isinstance(layer, functools.partial) else layer for layer in entries]
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, keras.layers.Layer) for kind in kinds):
        raise ValueError(
            f"`layers` must be a sequence of layer classes, or functools.partials of them, as in [Dropout], and not "
            f"empty. Received: layers={layers!r}"
        )
    for layer in entries:
        try:
            _, fixed = _taken_apart(layer)
        except TypeError as error:
            raise ValueError(
                f"`layers` must not fix arguments that a layer lacks: {error}. Received: {layer}"
            ) from None
        if "layer" in fixed:
            raise ValueError(f"`layers` must leave `layer` free, for the layers of the model. Received: {layer}")
    return entries


def checked_rates(rates):
    """Returns `rates` as a list of Python numbers, each of them once."""
    several = isinstance(rates, Iterable) and getattr(rates, "ndim", 1) and not isinstance(rates, str | bytes)
    values = [_number(rate) for rate in rates] if several else [None]
    if None in values:
        raise ValueError(f"`rates` must be a sequence of finite numbers, as in [0.1, 0.3]. Received: rates={rates!r}")
    return list(dict.fromkeys(values))


def _number(value):
    """Returns `value` as a Python number, or `None` where it is no finite one."""
    value = as_number(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def rates_of(layer, rates):
    """Returns the rates to try `layer` at: its own where it fixes one, `[None]` where it takes none."""
    argument, fixed, unknown = _strength(layer)
    if unknown:
        raise ValueError(
            f"{_label(layer)} needs values for {', '.join(unknown)}: give functools.partial({_label(layer)}, ...)."
        )
    if argument is None or argument in fixed:
        return [_number(fixed.get(argument))]
    if not rates:
        raise ValueError(f"`rates` must hold at least one number. Received: rates={rates!r}")
    return rates


def _strength(layer):
    """Returns which argument is the rate, or `None`, the arguments that are fixed, and those without a value."""
    kind, fixed = _taken_apart(layer)
    parameters = parameters_of(kind)
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "layer"
    ]
    free = [name for name in required if name not in fixed]
    argument = "rate" if "rate" in {*parameters, *fixed} else next(iter(free + required), None)
    return argument, fixed, [name for name in free if name != argument]


def _taken_apart(layer):
    """Returns the class of a layer or of a partial of one, and the arguments that the partial fixes, by name."""
    if not isinstance(layer, functools.partial):
        return layer, {}
    signature = inspect.Signature(parameters_of(layer.func).values())
    return layer.func, signature.bind_partial(*layer.args).arguments | layer.keywords


def parameters_of(kind):
    # Of `__init__`: the first releases of Python 3.11 would report the `__new__` that Keras gives to all layers.
    return inspect.signature(functools.partial(kind.__init__, None)).parameters


def _label(layer):
    kind, fixed = _taken_apart(layer)
    argument, *_ = _strength(layer)
    shown = {name: value for name, value in fixed.items() if name != argument or _number(value) is None}
    return kind.__name__ + f"({', '.join(f'{name}={_shown(value)}' for name, value in shown.items())})" * bool(shown)


def _shown(value):
    # A schedule's own would be its address, another one in each process.
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def titled(name, rate):
    return name if rate is None else f"{name} {rate:g}"


class Candidate:
    """A layer at a rate, or no dropout at all, and the runs with it."""

    def __init__(self, layer=None, rate=None):
        self.layer, self.rate = layer, rate
        self.name = "none" if layer is None else _label(layer)
        self.runs = []
        self.model = self.step_time = None
        if layer is not None:
            argument, fixed, _ = _strength(layer)
            self._arguments = {argument: rate} if argument and argument not in fixed else {}
            self._wraps = "layer" in parameters_of(_taken_apart(layer)[0])
            if not self._wraps:
                try:
                    self._new()
                except ValueError as error:
                    raise ValueError(f"{self} cannot be made. {_line(error)}") from error

    def __str__(self):
        return titled(self.name, self.rate)

    def _new(self, **arguments):
        try:
            return self.layer(**arguments, **self._arguments)
        except TypeError as error:
            raise ValueError(_line(error)) from error

    def build(self, build_model):
        """Returns a new model with this dropout in it. Sets `places`, where that is, and `sites`, where it could be."""
        self.places, self.sites, self._refusal = 0, [], None
        model = build_model(self._dropout)
        if not isinstance(model, keras.Model) or getattr(model, "inputs", None) is None:
            raise ValueError(
                f"`build_model` must return a functional or Sequential keras.Model: a dropout called in any other is "
                f"lost to it. Received: {model!r}"
            )
        if not self.sites:
            raise ValueError("`build_model` must say where dropout may go: dropout(keras.layers.Dense(64))(x).")
        if self.layer is not None and not self.places:
            reason = "cannot be made for any layer of" if self._wraps else "fits nowhere in"
            raise ValueError(f"{self} {reason} the model. {_line(self._refusal)}")
        if not model.compiled:
            model.compile("adam", "sparse_categorical_crossentropy")
        return model

    def _dropout(self, layer):
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"`build_model` must call `dropout` on layers: dropout(Dense(64))(x). Received: {layer!r}")
        return functools.partial(self._place, layer)

    def _place(self, layer, inputs):
        self.sites.append((layer, inputs))
        if self.layer is not None:
            try:
                outputs = self.apply(layer, inputs)
                self.places += 1
                return outputs
            except ValueError as refusal:
                self._refusal = self._refusal or refusal
        return layer(inputs)

    def apply(self, layer, inputs, **kwargs):
        """Returns what `layer` makes of `inputs`, with this dropout. Raises a `ValueError` where they do not fit."""
        # The seeds of the weights to come are Python's random numbers, and must not depend on the dropout.
        state = random.getstate()
        try:
            if self._wraps:
                return self._new(layer=layer)(inputs, **kwargs)
            features = layer(inputs)
            outputs = self._new()(features, **kwargs)
            if outputs.shape != features.shape:
                raise ValueError(
                    f"It must not change the shape of what a layer returns. "
                    f"Received: outputs of shape {tuple(outputs.shape)} for inputs of shape {tuple(features.shape)}"
                )
            return outputs
        finally:
            random.setstate(state)

    def summary(self):
        """Returns what the runs came to, for `compare.json`."""
        return {
            "layer": self.name,
            "rate": self.rate,
            "places": self.places,
            **{name: _mean_std([run[name] for run in self.runs]) for name in ("accuracy", "gap", "ece")},
            "step_time": self.step_time,
            "runs": self.runs,
        }


class _Comparison:
    """The runs, the best model so far and the first one without dropout, against which steps are timed."""

    def __init__(self, build_model, data, candidates, settings, folder):
        self.build_model, self.data, self.candidates = build_model, data, candidates
        self.settings, self.folder = settings, folder
        self.epochs, self.batch_size = settings["epochs"], settings["batch_size"]
        self.best = None

    def run(self, candidate, seed, bar):
        """Times, trains and tests one model. Returns what came out, and what the model predicts for the test data."""
        (x_train, y_train), (x_test, y_test) = self.data
        if candidate.model is None:
            candidate.model = candidate.build(self.build_model)
            if candidate.layer is None:
                self.none, self.sites = candidate.model, candidate.sites
            # Compiled by a step, for all repeats; the first also takes some of Keras's random numbers.
            first = slice(self.batch_size)
            candidate.model.fit(x_train[first], y_train[first], self.batch_size, verbose=0)
        model = candidate.model
        if candidate.step_time is None:
            # Before the weights and seeds of the run are set, for it trains both models.
            candidate.step_time = 1.0 if candidate.layer is None else self._step_time(model)
        keras.utils.set_random_seed(seed)
        start = candidate.build(self.build_model)
        start.optimizer.build(start.trainable_variables)
        _assign(model, start)
        bar.run(f"{candidate}, seed {seed}")
        model.fit(x_train, y_train, self.batch_size, self.epochs, verbose=0, callbacks=[bar.callback()])
        in_training, in_test = (self._predict(model, x) for x in (x_train, x_test))
        if candidate.layer is None and not candidate.runs:
            # Now that it is trained, and before it is timed against others, which trains it on.
            self.features = self._features()
        train_accuracy, accuracy = _accuracy(in_training, y_train), _accuracy(in_test, y_test)
        return {
            "seed": seed,
            "accuracy": accuracy,
            "train_accuracy": train_accuracy,
            "gap": train_accuracy - accuracy,
            "ece": calibration_error(in_test, y_test),
        }, in_test

    def keep(self, candidate, run, predictions):
        """Takes in a finished run, and writes what there is so far."""
        candidate.runs.append(run)
        is_best = self.best is None or run["accuracy"] > self.best["accuracy"]
        if is_best:
            best = {"layer": candidate.name, "rate": candidate.rate}
            self.best = best | {name: run[name] for name in ("seed", "accuracy")}
        if self.folder is None:
            return
        if is_best:
            self.predictions = predictions
            _write(self.folder / MODEL, candidate.model.save)
        # One of an earlier comparison would be taken for a picture of these results.
        (self.folder / PICTURE).unlink(missing_ok=True)
        self._write_results(interrupted=True)

    def finish(self, interrupted):
        """Returns the results, which are then written, with the picture."""
        if self.folder is None:
            return self._results(interrupted)
        self.best["reloaded"] = self._reload()
        results = self._write_results(interrupted)
        figure = _figure(results, self.data[1][0][0], self._pictures())
        _write(self.folder / PICTURE, functools.partial(figure.savefig, format="png", dpi=150))
        return results

    def _results(self, interrupted):
        (x_train, _), (x_test, _) = self.data
        return {
            "keras": keras.__version__,
            "backend": keras.config.backend(),
            "train_samples": len(x_train),
            "test_samples": len(x_test),
            **self.settings,
            "interrupted": interrupted,
            "best": self.best,
            "results": [candidate.summary() for candidate in self.candidates if candidate.runs],
        }

    def _write_results(self, interrupted):
        results = self._results(interrupted)
        _write(self.folder / RESULTS, lambda path: path.write_text(json.dumps(results, indent=1) + "\n"))
        return results

    def _predict(self, model, x):
        return _probabilities(model.predict(x, batch_size=256, verbose=0), len(x), self.data)

    def _step_time(self, model):
        """Returns the time of a training step as a multiple of that of the model without dropout."""
        (x, y), _ = self.data
        n = min(STEPS, max(len(x) // self.batch_size, 1)) * self.batch_size
        clocks = [_Clock(), _Clock()]
        for _ in range(ROUNDS + 1):
            for timed, clock in zip((self.none, model), clocks, strict=True):
                timed.fit(x[:n], y[:n], self.batch_size, verbose=0, callbacks=[clock])
        # The first round compiles what is not yet compiled.
        none, ours = (clock.times[1:] for clock in clocks)
        return statistics.median(time / base for time, base in zip(ours, none, strict=True))

    def _features(self):
        """Returns, for each site, a copy of its layer and what it is given for the first sample of the test data."""
        values = keras.Model(self.none.inputs[0], [inputs for _, inputs in self.sites])(self.data[1][0][:1])
        return [(_copy(layer, value), value) for (layer, _), value in zip(self.sites, values, strict=True)]

    def _pictures(self):
        """Returns (candidate, what a layer of the model returns, what it does with the dropout), one for each name.

        Of several rates it is the one nearest to 0.5, of several sites the first that takes the dropout.
        """
        pictures = {}
        for candidate in self.candidates:
            if not candidate.runs or candidate.layer is None:
                continue
            if candidate.name in pictures:
                other = pictures[candidate.name][0]
                if candidate.rate is None or abs(candidate.rate - 0.5) >= abs(other.rate - 0.5):
                    continue
            for layer, value in self.features:
                with contextlib.suppress(ValueError):
                    dropped = candidate.apply(_copy(layer, value), value, training=True)
                    pair = (keras.ops.convert_to_numpy(outputs[0]) for outputs in (layer(value), dropped))
                    pictures[candidate.name] = candidate, *pair
                    break
        return list(pictures.values())

    def _reload(self):
        """Returns whether the best model, loaded from its file, predicts the same to the last bit."""
        try:
            model = keras.saving.load_model(self.folder / MODEL)
        except Exception as error:  # A layer of the user's own may raise anything.
            return f"failed: {_line(error)}"
        return "identical" if np.array_equal(self._predict(model, self.data[1][0]), self.predictions) else "different"


def _probabilities(outputs, samples, data):
    """Returns what a model returned, as an array, after a look at whether it is a row of probabilities a sample."""
    (_, labels), _ = data
    classes = labels.max() + 1
    if keras.tree.is_nested(outputs):
        raise ValueError(f"The model must return one tensor. Received: outputs of {type(outputs)}")
    outputs = np.asarray(keras.ops.convert_to_numpy(outputs), "float32")
    good = outputs.shape == (samples, classes)
    # A softmax in bfloat16 is some hundredths off; what is none is far off for some sample.
    if not good or (outputs < 0).any() or not np.allclose(outputs.sum(1), 1, atol=0.1):
        raise ValueError(
            f"The model must return the probabilities of {classes} classes (end it with a softmax). "
            f"Received: outputs of shape {outputs.shape}, from {outputs.min():g} to {outputs.max():g}"
        )
    return outputs


def calibration_error(probabilities, labels):
    """Returns the expected calibration error: how far confidence and accuracy are apart, on average over `BINS`."""
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence.astype("float64"), minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))


def _copy(layer, inputs):
    """Returns a copy of a trained layer without its activation: where a ReLU gives 0, a mask cannot be seen."""
    config = layer.get_config()
    copy = layer.__class__.from_config(config | {"activation": None} if "activation" in config else config)
    copy.build(inputs.shape)
    copy.set_weights(layer.get_weights())
    return copy


def _assign(model, other):
    pairs = zip(model.variables + model.optimizer.variables, other.variables + other.optimizer.variables, strict=True)
    for variable, value in pairs:
        variable.assign(value)


def _accuracy(probabilities, labels):
    return float((probabilities.argmax(1) == labels).mean())


def _mean_std(values):
    return {"mean": statistics.mean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _line(error):
    return " ".join(str(error).split())


class _Clock(keras.callbacks.Callback):
    """The time of each epoch from its first step to its end, when the loss has arrived."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.times.append(time.perf_counter() - self.start)


class _Progress:
    """A bar of rich's that counts epochs, or nothing."""

    def __init__(self, epochs, verbose):
        self.bar = None
        if verbose:
            from rich import console, progress

            self.bar = progress.Progress(
                progress.BarColumn(),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.description}", markup=False),
                console=console.Console(stderr=True),
            )
            self.task = self.bar.add_task("", total=epochs)

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def run(self, description):
        if self.bar:
            self.bar.update(self.task, description=description)

    def callback(self):
        return keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: self.bar and self.bar.advance(self.task))


def require(*modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"compare needs {module}: pip install keras-dropouts[compare]") from error


class _Interrupts:
    """Ctrl-C, which waits but where it is let through: a run is kept as a whole, and a second one stops no writing."""

    def __enter__(self):
        self.came = self.open = False
        self.handler = signal.getsignal(signal.SIGINT)
        # In other threads there is no Ctrl-C, and no handler can be set.
        self.held = callable(self.handler) and threading.current_thread() is threading.main_thread()
        if self.held:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_):
        if self.held:
            signal.signal(signal.SIGINT, self.handler)

    def _handle(self, *args):
        self.came = True
        if self.open:
            # Here and not on the way out, where the next one may come first.
            self.open = False
            self.handler(*args)

    @contextlib.contextmanager
    def let_through(self):
        self.open = True
        try:
            if self.came:
                raise KeyboardInterrupt
            yield
        finally:
            self.open = False


def _folder(out):
    """Returns the path `out`, made a folder, after a look at whether the files can be written there."""
    try:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        for name in (MODEL, RESULTS, PICTURE):
            if (folder / name).is_dir():
                raise IsADirectoryError(f"{name} in it is a folder")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"`out` must be a folder to write to, a path where there is nothing yet, or None: {_line(error)}. "
            f"Received: out={out!r}"
        ) from error
    return folder


def _write(path, write):
    """Calls `write` with a path, and moves the file to `path` when it is whole."""
    # A fixed name: what a killed process leaves of it, the next comparison replaces.
    part = path.with_name(f".{path.name}")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _figure(results, sample, pictures):
    """Draws what came out, and what each layer does to a feature map."""
    from matplotlib.figure import Figure

    entries = results["results"]
    columns = 5
    rows = -(-(len(pictures) + 2) // columns)
    heights = 1.6 + 0.26 * len(entries), 2.0 * rows
    figure = Figure(figsize=(12, sum(heights) + 0.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    _draw_results(upper, results)
    _draw_pictures(lower, rows, columns, sample, pictures)
    return figure


def _draw_results(figure, results):
    entries = results["results"]
    panels = (
        ("accuracy", "test accuracy (%)", 100),
        ("gap", "train \u2212 test accuracy (points)", 100),
        ("ece", "calibration error (%)", 100),
        ("step_time", "time of a training step\n(multiple of none)", 1),
    )
    names = list(dict.fromkeys(entry["layer"] for entry in entries))
    colors = {name: f"C{(i - 1) % 10}" if i else "black" for i, name in enumerate(names)}
    spread = "bars: \u00b1 one standard deviation over seeds, dots: the seeds" if results["repeats"] > 1 else "one seed"
    figure.suptitle(
        f"{results['train_samples']} training and {results['test_samples']} test samples, {results['epochs']} epochs, "
        f"Keras on {results['backend']} ({spread}; dashed: without dropout)",
        fontsize=10,
    )
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (key, title, unit) in zip(axes, panels, strict=True):
        for y, entry in enumerate(entries):
            color = colors[entry["layer"]]
            if key == "step_time":
                axis.plot(entry[key], y, "o", color=color)
                continue
            mean, std = (unit * (entry[key][part] or 0) for part in ("mean", "std"))
            axis.plot([unit * run[key] for run in entry["runs"]], [y] * len(entry["runs"]), ".", color=color, alpha=0.4)
            axis.errorbar(mean, y, xerr=std or None, fmt="o", color=color, capsize=3)
        none = entries[0][key]
        axis.axvline(
            unit * (none["mean"] if isinstance(none, dict) else none), color="black", ls="--", lw=0.8, zorder=0
        )
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(
        range(len(entries)),
        [titled(entry["layer"], entry["rate"]) for entry in entries],
    )
    axes[0].invert_yaxis()


def _draw_pictures(figure, rows, columns, sample, pictures):
    figure.suptitle(
        "The first test sample, and features of it before their activation, in training (orange: dropped)", fontsize=10
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    panels = [("the sample", sample, sample), *[("none", clean, clean) for _, clean, _ in pictures[:1]]]
    panels += [(str(candidate), *features) for candidate, *features in pictures]
    for axis, (title, before, after) in zip(axes, panels, strict=False):
        channels = np.argsort(-(before != 0).mean(tuple(range(before.ndim - 1))), kind="stable")[:6]
        before, after = (_tiles(values, channels) for values in (before, after))
        dropped = (after == 0) & (before != 0)
        axis.imshow(painted(after, dropped, np.nanmin(before), np.nanmax(before)), interpolation="nearest")
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.axis("off")


def painted(values, dropped, low, high):
    """Returns a picture of `values`, from black for `low` to white for `high`, and orange where `dropped`."""
    gray = (values - low) / (high - low or 1)
    image = np.repeat(np.clip(np.nan_to_num(gray, nan=1), 0, 1)[..., None], 3, axis=-1)
    image[dropped] = ORANGE
    return image


def _tiles(values, channels):
    """Returns features as one image: channels side by side, a vector folded into rows. NaN where nothing is."""
    if values.ndim > 3:
        return _tiles(values[len(values) // 2], channels)
    if values.ndim == 2:
        return values.T
    if values.ndim == 1:
        width = int(np.ceil(np.sqrt(2 * len(values))))
        height = -(-len(values) // width)
        return np.pad(values, (0, width * height - len(values)), constant_values=np.nan).reshape(height, width)
    gap = max(1, values.shape[1] // 10)
    tiles = [np.pad(values[..., i], gap, constant_values=np.nan) for i in channels]
    tiles += [np.full_like(tiles[0], np.nan)] * (-len(tiles) % 3 if len(tiles) > 3 else 0)
    return np.concatenate([np.concatenate(tiles[i : i + 3], axis=1) for i in range(0, len(tiles), 3)])
