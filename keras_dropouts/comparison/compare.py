"""Which dropout, at which rate, helps a model on its data, and what that costs."""

import contextlib
import functools
import importlib
import inspect
import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_dropouts.comparison.candidate import Candidate, checked_layers, checked_rates, one_line, rates_of
from keras_dropouts.comparison.figure import figure_of
from keras_dropouts.comparison.progress import Interrupts, Progress
from keras_dropouts.inference.score import ClassificationScore
from keras_dropouts.layers.arguments import checked_count, checked_seed

# Step time: the median over this many pairs of short epochs, without and with dropout, of at most so many steps.
ROUNDS, STEPS = 7, 8

# What is written to the folder.
MODEL, RESULTS, PICTURE = "best.keras", "compare.json", "compare.png"


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
    with Interrupts() as interrupts, Progress(len(candidates) * repeats * epochs, verbose) as bar:
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
            raise ValueError(f"x_{part} and y_{part} must be arrays. {one_line(error)}") from error
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
        train, test = ClassificationScore(in_training, y_train), ClassificationScore(in_test, y_test)
        return {
            "seed": seed,
            "accuracy": test.accuracy,
            "train_accuracy": train.accuracy,
            "gap": train.accuracy - test.accuracy,
            "ece": test.ece,
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
        figure = figure_of(results, self.data[1][0][0], self._pictures())
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
            return f"failed: {one_line(error)}"
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


def _assign(model, other):
    pairs = zip(model.variables + model.optimizer.variables, other.variables + other.optimizer.variables, strict=True)
    for variable, value in pairs:
        variable.assign(value)


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


def require(*modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"compare needs {module}: pip install keras-dropouts[compare]") from error


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
            f"`out` must be a folder to write to, a path where there is nothing yet, or None: {one_line(error)}. "
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


def _copy(layer, inputs):
    """Returns a copy of a trained layer without its activation: where a ReLU gives 0, a mask cannot be seen."""
    config = layer.get_config()
    copy = layer.__class__.from_config(config | {"activation": None} if "activation" in config else config)
    copy.build(inputs.shape)
    copy.set_weights(layer.get_weights())
    return copy
