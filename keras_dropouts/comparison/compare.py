"""Which dropout, at which rate, helps a model on its data, and what that costs."""

import contextlib
import functools
import inspect
import json
import math
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np

from keras_dropouts.comparison.candidate import (
    Candidate,
    checked_layers,
    checked_rates,
    one_line,
    rates_of,
    require,
)
from keras_dropouts.comparison.data import checked_data
from keras_dropouts.comparison.experiment import Experiment, Run, execute, forget
from keras_dropouts.comparison.figure import figure_of
from keras_dropouts.comparison.journal import JOURNAL, Journal, checked_folder, write_whole
from keras_dropouts.comparison.placement import ByFunction, ByRule
from keras_dropouts.comparison.progress import Progress
from keras_dropouts.comparison.report import advice, report
from keras_dropouts.comparison.statistics import Difference, holm, over_folds, over_seeds_and_samples, rungs
from keras_dropouts.layers.arguments import checked_count, checked_flag, checked_seed

# What is written to the folder.
MODEL, RESULTS, PICTURE, REPORT = "best.keras", "compare.json", "compare.png", "compare.html"


def compare(
    model: keras.Model | Callable[[Callable], keras.Model],
    data: Any,
    layers: Sequence[Callable[..., keras.layers.Layer]],
    rates: Sequence[float] = (0.1, 0.3),
    epochs: int = 18,
    repeats: int = 5,
    seed: int = 0,
    batch_size: int = 64,
    out: str | os.PathLike[str] | None = None,
    verbose: bool = True,
    task: Literal["classification", "multilabel", "tokens", "regression"] | None = None,
    metric: Literal["accuracy", "nll", "mae", "rmse"] | None = None,
    folds: int = 8,
    budget: int | None = None,
    finetune: bool = False,
    workers: int | None = None,
) -> dict[str, Any]:
    """Chooses among layers and rates on a part of the training data, and tests the chosen one against no dropout.

    To choose, each run is trained on all folds of the training data but one, and measured on that. Of the layers and
    rates the better half goes on to more runs, again and again (successive halving), with `budget` runs in all. The
    one with the best mean is then trained on all the training data, with seeds that were not used before, and so is
    the model without dropout; these alone see the test data, once. Runs of the same number start from the same weights
    and see the same batches, so that differences are paired.

    Two things are said of a difference. Among all that were tried: Student's t over the folds, corrected for their
    overlap (Nadeau and Bengio) and for the number that was tried (Holm: it holds whatever the candidates have in
    common, and also where halving leaves them different numbers of runs). And of the chosen one on the test data: a
    95 % interval that minds both the seeds and the test samples. As the test data takes no part in the choice, that
    one needs no correction.

    With `out`, each run is on disk as soon as it is finished, whatever ends the program; the same call goes on from
    there, to the same results but for times.

    Args:
        model: The model: functional or `Sequential`, or a function that makes such a one. A function is called with
            `dropout`, and says where dropout may go by calling that on layers: `dropout(keras.layers.Dense(64))(x)` is
            the layer followed by the dropout, or wrapped in it (`DropConnect`), or left alone where the dropout does
            not take it, as `SpatialDropout2D` does not take what a Dense returns. In a model, dropout goes in place of
            the dropout layers it has; if there are none, behind what has an activation, recurrent and attention
            layers, and before the head. Its weights are made anew, but for those that do not train. Loss and optimizer
            are those it is compiled with; else Adam, and the loss of the task.
        data: `(x_train, y_train), (x_test, y_test)`, arrays as Keras's own data sets load them, x also a dictionary or
            tuple of arrays. Or two data sets that yield batches `(x, y)`, as a `tf.data.Dataset` or a `DataLoader`;
            they are read once, into memory.
        layers: A sequence of layer classes, or of `functools.partial`s of them that fix further arguments:
            `partial(DropBlock2D, block_size=5)`. The rate goes to the argument `rate`, else to the first one that
            has no default. A layer that has neither is tried once, and so is a partial that fixes it, at its own rate:
            `partial(Dropout, rate=0.5)`.
        rates: The rates to try, finite numbers.
        epochs, batch_size: As for `keras.Model.fit`.
        repeats: With how many seeds to test, a positive integer. With 1 there is no interval.
        seed: An integer in `[0, 2**32)`. Run `i` calls `keras.utils.set_random_seed(seed + i)`.
        out: A folder to write to, or `None`: `compare.html`, a report, `compare.png`, `compare.json`, the chosen model
            with the first seed of the test, `best.keras`, and `journal.sqlite`.
        verbose: Whether to show a progress bar.
        task: What the labels are. `"classification"`: an integer from 0, or one-hot. `"multilabel"`: a row of 0 and 1.
            `"tokens"`: an integer for each token, negative where it does not count. `"regression"`: a number, or
            several. `None`: what the labels look like.
        metric: What to choose by. `None`: `"accuracy"`, or `"mae"` in a regression. Else `"nll"`, the negative
            log-likelihood, or `"rmse"`.
        folds: Into how many parts the training data is split.
        budget: How many runs to choose by, those without dropout among them. `None`: two for each candidate, and at
            least ten. The first round gives each of them one run, also beyond it.
        finetune: Whether to keep the weights of `model`.
        workers: How many processes run at a time. `None`: as `joblib.parallel_config` says, which also hands the runs
            to Dask or Ray; else one. The results are those of one process on such a machine.

    Returns:
        What `compare.json` holds, a dictionary. `"results"` has an entry for no dropout, then one for each layer and
        rate: the mean and standard deviation of the metric over its `"runs"`, by the metric's name, and of `"gap"` (how
        much better it is on the training data) and `"ece"` (expected calibration error); `"gain"`, the difference to
        none, positive where it is better, with the ends of its interval and, for those that were not dropped before
        the last round, `"p"`, corrected; the number of `"places"` where the model takes the layer; and `"step_time"`,
        the time of a training step as a multiple of that without dropout, for those too. `"test"` has the same for none
        and the chosen one on the test data, `"chosen"` says which that is, and `"advice"` what to do, in a paragraph.

    Raises:
        ValueError: Where an argument is not as described, a layer fits nowhere in the model, or `out` holds another
            experiment.
        ImportError: Where a library is missing: `pip install keras-dropouts[compare]`.
        OSError: Where a finished run cannot be written. What was finished before is kept.

    Reference:
        Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks", MLSys 2021, arXiv 2103.03098.
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
    >>> results = compare(
    ...     build_model, data, [Dropout, GaussianDropout], [0.3], epochs=1, repeats=1, budget=3, verbose=False
    ... )
    >>> [(entry["layer"], entry["rate"]) for entry in results["results"]]
    [('none', None), ('Dropout', 0.3), ('GaussianDropout', 0.3)]
    """
    checked_flag("finetune", finetune)
    if not isinstance(verbose, bool | int) or verbose not in (0, 1):
        raise ValueError(f"`verbose` must be True or False. Received: verbose={verbose!r}")
    builder = _builder(model, finetune)
    require("joblib", "scipy", *["rich"] * verbose, *["matplotlib", "jinja2"] * (out is not None))
    data = checked_data(data, task, metric)
    settings = {"epochs": epochs, "batch_size": batch_size, "repeats": repeats, "folds": folds}
    settings = {name: checked_count(name, value) for name, value in settings.items()}
    if folds < 2:
        raise ValueError(f"`folds` must be at least 2. Received: folds={folds}")
    settings["seed"] = checked_seed(seed)
    if settings["seed"] is None:
        raise ValueError("`seed` must be an integer in [0, 2**32). Received: seed=None")
    if workers is not None:
        checked_count("workers", workers)
    layers, rates = checked_layers(layers), checked_rates(rates)
    candidates = [Candidate(), *(Candidate(layer, rate) for layer in layers for rate in rates_of(layer, rates))]
    settings["budget"] = max(2 * len(candidates), 10) if budget is None else checked_count("budget", budget)
    try:
        experiment = Experiment(builder, data, candidates, settings)
        folder = None if out is None else checked_folder(out, [MODEL, RESULTS, PICTURE, REPORT, JOURNAL])
        with contextlib.closing(Journal(folder, experiment.identity)) as journal:
            return Comparison(experiment, journal, folder, workers).results(verbose)
    finally:
        forget()


def _builder(model, finetune):
    if isinstance(model, keras.Model):
        return ByRule(model, finetune)
    try:
        inspect.signature(model).bind("dropout")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`model` must be a functional or Sequential keras.Model, or a function that takes `dropout` and returns "
            f"one: {one_line(error)}. Received: model={model!r}"
        ) from None
    if finetune:
        raise ValueError("`finetune` keeps the weights of a model: give one, not a function. Received: finetune=True")
    return ByFunction(model)


class Comparison:
    """The runs of an experiment, those that are in the journal and those that are still to be done."""

    def __init__(self, experiment, journal, folder, workers):
        self.experiment, self.journal, self.folder, self.workers = experiment, journal, folder, workers
        self.candidates, self.task = experiment.candidates, experiment.data.task
        self.repeats = experiment.settings["repeats"]
        self.plan = rungs(len(self.candidates) - 1, experiment.settings["budget"])
        # How many runs each candidate had to be chosen by.
        self.runs = [0] * len(self.candidates)

    def results(self, verbose):
        """Does what is not yet done, and returns the results, which are then written."""
        done, total = 0, 2 * self.repeats
        for number, runs in self.plan:
            total, done = total + (1 + number) * (runs - done), runs
        with Progress(total, verbose) as bar:
            last = self._choose(bar)
            chosen = max(last, key=self._standing)
            if not self._standing(chosen) > 0:
                chosen = 0
            tests = self._test(chosen, bar)
            bar.done(0, "times")
            times = self._step_times({0, *last, chosen})
        results = self._results(last, chosen, tests, times)
        if self.folder is not None:
            self._write(results)
        return results

    def _choose(self, bar):
        """Returns those of the candidates that came to the last rung."""
        left, done = range(1, len(self.candidates)), 0
        for number, runs in self.plan:
            # Of those as good, the first.
            left = sorted(sorted(left, key=self._standing, reverse=True)[:number])
            self._finish([Run("choose", each, repeat) for repeat in range(done, runs) for each in (0, *left)], bar)
            for each in (0, *left):
                self.runs[each] = runs
            done = runs
        return left

    def _test(self, chosen, bar):
        """Returns the runs of the test, by candidate: of none, and of the chosen one."""
        # With seeds that chose nothing.
        repeats = range(self.runs[0], self.runs[0] + self.repeats)
        tested = sorted({0, chosen})
        bar.done(self.repeats * (2 - len(tested)), "")
        kept = Run("test", chosen, repeats[0]) if self.folder is not None else None
        self._finish([Run("test", each, repeat) for repeat in repeats for each in tested], bar, kept)
        return {each: [self._record("test", each, repeat) for repeat in repeats] for each in tested}

    def _finish(self, runs, bar, kept=None):
        """Does those of the runs that are not in the journal, and writes the model of the one that is to be kept."""
        lost = kept is not None and not (self.folder / MODEL).is_file()
        missing = [run for run in runs if self.journal.get(run.key) is None or (run == kept and lost)]
        bar.done(len(runs) - len(missing), "")
        for run, record, model in self._executed(missing, kept):
            if model is not None:
                write_whole(self.folder / MODEL, functools.partial(pathlib.Path.write_bytes, data=model))
            self.journal.put(run.key, record)
            bar.done(1, f"{self.candidates[run.candidate]}, seed {record['seed']}")

    def _executed(self, runs, kept):
        import joblib

        # Else what the caller has configured, a cluster perhaps.
        own = joblib.parallel_config(backend="loky") if self.workers else contextlib.nullcontext()
        with own:
            parallel = joblib.Parallel(n_jobs=self.workers, return_as="generator_unordered")
            yield from parallel(joblib.delayed(execute)(self.experiment, run, run == kept) for run in runs)

    def _record(self, stage, candidate, repeat):
        record = self.journal.get(Run(stage, candidate, repeat).key)
        if candidate == 0 and record["held_out"] is None:
            raise ValueError(
                f"`model` must learn without dropout: with seed {record['seed']} it predicts what is not finite. A "
                f"smaller learning rate may help."
            )
        return record

    def _gains(self, candidate):
        """Returns how much better a candidate was than none, in each run to choose by; -inf where it diverged."""
        pairs = (
            [self._record("choose", each, repeat)["held_out"] for each in (candidate, 0)]
            for repeat in range(self.runs[candidate])
        )
        return [-np.inf if value is None else self.task.gain(value, base) for value, base in pairs]

    def _standing(self, candidate):
        return statistics.fmean(self._gains(candidate) or [0])

    def _step_times(self, candidates):
        key = f"step times {sorted(candidates)}"
        times = self.journal.get(key)
        if times is None:
            times = {str(each): self.experiment.step_time(each) if each else 1.0 for each in candidates}
            self.journal.put(key, times)
        return {int(each): time for each, time in times.items()}

    def _results(self, last, chosen, tests, times):
        data = self.experiment.data
        entries = []
        for number in range(len(self.candidates)):
            runs = [self._record("choose", number, repeat) for repeat in range(self.runs[number])]
            entry = self._entry(number, runs) | {"step_time": times.get(number)}
            gains = self._gains(number)
            if number in last and np.isfinite(gains).all():
                entry["gain"] = over_folds(gains, self.experiment.settings["folds"])._asdict()
            elif number and np.isfinite(gains).all():
                entry["gain"] = Difference(statistics.fmean(gains))._asdict()
            entries.append(entry)
        final = [entries[number]["gain"] for number in last if entries[number]["gain"]]
        tested = [gain for gain in final if gain["p"] is not None]
        for gain, p in zip(tested, holm([gain["p"] for gain in tested], len(entries) - 1), strict=True):
            gain["p"] = p
        test = {"none": self._entry(0, tests[0]), "chosen": None, "gain": None}
        if chosen:
            test["chosen"] = self._entry(chosen, tests[chosen])
            losses = [[run["losses"] for run in tests[number]] for number in (0, chosen)]
            if all(each is not None for each in losses[1]):
                none, ours = (self.task.shares(each) for each in losses)
                test["gain"] = over_seeds_and_samples(none - ours)._asdict()
        results = {
            **{name: value for name, value in self.experiment.here.items() if value is not None},
            "task": self.task.kind,
            "metric": self.task.metric,
            "classes": data.classes,
            "train_samples": len(data.y_train),
            "test_samples": len(data.y_test),
            "note": data.note,
            **self.experiment.settings,
            "chosen": {"layer": self.candidates[chosen].name, "rate": self.candidates[chosen].rate},
            "results": entries,
            "test": test,
            "reloaded": None if self.folder is None else self._reloaded(chosen),
        }
        return _for_json(results | {"advice": advice(results)})

    def _entry(self, number, runs):
        """Returns what the runs of a candidate came to."""
        candidate = self.candidates[number]
        fine = all(run["held_out"] is not None and run["train"] is not None for run in runs)
        values = {
            self.task.metric: [run["held_out"] for run in runs],
            "gap": [self.task.gain(run["train"], run["held_out"]) if fine else None for run in runs],
            "ece": [run["ece"] for run in runs],
        }
        runs = [{name: value for name, value in run.items() if name != "losses"} for run in runs]
        return {
            "layer": candidate.name,
            "rate": candidate.rate,
            "places": self.experiment.places[number],
            **{name: _mean_std(each) for name, each in values.items()},
            "gain": None,
            "runs": runs,
        }

    def _write(self, results):
        text = json.dumps(results, indent=1) + "\n"
        write_whole(self.folder / RESULTS, lambda path: path.write_text(text))
        picture = figure_of(results, *self.experiment.pictures())
        write_whole(self.folder / PICTURE, functools.partial(picture.savefig, format="png", dpi=150))
        page = report(results)
        write_whole(self.folder / REPORT, lambda path: path.write_text(page, encoding="utf-8"))

    def _reloaded(self, chosen):
        """Returns whether the kept model, loaded from its file, predicts the same to the last bit."""
        try:
            model = keras.saving.load_model(self.folder / MODEL)
            held_out = self.experiment.data.whole()[1]
            losses = self.task.losses(self.experiment.predictions(model, held_out), held_out[1])
        except Exception as error:  # What the layers of one's own raise.
            return f"{error.__class__.__name__}: {one_line(error)}"
        before = self._record("test", chosen, self.runs[0])["losses"]
        return "identical" if losses.tolist() == before else "its predictions differ"


def _mean_std(values):
    if None in values:
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _for_json(value):
    """Returns what JSON, which has no NaN, can hold."""
    if isinstance(value, dict):
        return {key: _for_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_for_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
