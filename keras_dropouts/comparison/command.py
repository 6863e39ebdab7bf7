"""python -m keras_dropouts compare: the command line of `keras_dropouts.compare`."""

import argparse
import functools
import logging
import math
import pathlib
import sys

import keras
import numpy as np

import keras_dropouts
from keras_dropouts.comparison.candidate import Candidate, one_line, parameters_of, rates_of
from keras_dropouts.comparison.data import load
from keras_dropouts.comparison.placement import ByFunction, ByRule
from keras_dropouts.comparison.report import rows
from keras_dropouts.comparison.task import METRICS

# What the layers here need beside a rate.
ARGUMENTS = {"block_size": 3}


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"python -m keras_dropouts compare: {message}\n")


# All but the base of one's own.
LAYERS = {
    name: value
    for name, value in vars(keras_dropouts).items()
    if isinstance(value, type) and issubclass(value, keras.layers.Layer) and value is not keras_dropouts.RandomLayer
}
# For models with shortcuts, conditions, attention, recurrent layers or SELU units, for tables, for fine-tuning and for
# pruning: they would fit into the small model, and say nothing there.
ELSEWHERE = (
    keras_dropouts.DropPath,
    keras_dropouts.ShakeDrop,
    keras_dropouts.SkipPath,
    keras_dropouts.LayerDrop,
    keras_dropouts.ConditionDropout,
    keras_dropouts.DropHead,
    keras_dropouts.DropKey,
    keras_dropouts.WeightDrop,
    keras_dropouts.AlphaDropout,
    keras_dropouts.SwapNoise,
    keras_dropouts.Mixout,
    keras_dropouts.TargetedDropout,
    keras_dropouts.SparseVariationalDropout,
)


def main(argv=None):
    parser = Parser(prog="python -m keras_dropouts", description=keras_dropouts.__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="compare")
    command = commands.add_parser(
        "compare",
        help="choose among layers and rates on a part of the training data, and test the chosen one against none",
        description="Trains a model without dropout and with each layer and rate, on folds of the training data; the "
        "better half goes on to more runs, until one is chosen, which is tested against none on the test data. Prints "
        "a table and what to do, and writes a report. Every finished run is kept: whatever ends the program, the same "
        "command goes on from there.",
    )
    command.add_argument(
        "--data",
        default="digits",
        help="digits: scikit-learn's scans, the first 1024 to train on, the other 773 to test; fashion_mnist: the "
        "first 4096 training images and all of the test images; PATH.npz with x_train, y_train, x_test, y_test; "
        "PATH.csv or PATH.parquet, a table, of which a fifth is kept for the test; or a folder of images, with a "
        "folder for each class, or with such folders in train and test (default: %(default)s)",
    )
    command.add_argument(
        "--target", nargs="+", default=[], metavar="COLUMN", help="the column of a table that is to be predicted"
    )
    command.add_argument("--task", choices=METRICS, help="what the labels are (default: what they look like)")
    command.add_argument(
        "--metric",
        choices=sorted({name for names in METRICS.values() for name in names}),
        help="what to choose by (default: accuracy; mae in a regression)",
    )
    command.add_argument("--model", metavar="PATH.keras", help="the model (default: a small one that fits the data)")
    command.add_argument("--finetune", action="store_true", help="keep the weights of --model")
    command.add_argument(
        "--layers", nargs="+", metavar="LAYER", help=f"of: {', '.join(LAYERS)} (default: all that fit)"
    )
    command.add_argument(
        "--rates",
        nargs="+",
        type=float,
        default=[0.1, 0.3],
        help="given to each layer as its rate, or its own measure, as UniformDropout's beta (default: 0.1 0.3)",
    )
    integers = {
        "epochs": (18, "passes over the training data"),
        "repeats": (5, "seeds to test with"),
        "seed": (0, "the first seed"),
        "folds": (8, "parts of the training data, of which one validates"),
        "budget": (None, "runs to choose by (default: two for each layer and rate, at least 10)"),
        "workers": (None, "processes that run at a time (default: 1)"),
    }
    for name, (default, text) in integers.items():
        text += "" if default is None else f" (default: {default})"
        command.add_argument(f"--{name}", type=int, default=default, help=text)
    command.add_argument(
        "--out",
        default="compare",
        help="folder for the report, compare.html, a picture, compare.png, all numbers, compare.json, the chosen "
        "model, best.keras, and the finished runs (default: %(default)s)",
    )
    options = parser.parse_args(argv)
    for name in options.layers or ():
        if name not in LAYERS:
            parser.error(f"no layer {name!r}: choose from {', '.join(LAYERS)}")
    chosen = [
        functools.partial(layer, **known) if known else layer
        for name, layer in LAYERS.items()
        if not options.layers or name in options.layers
        for known in [{name: ARGUMENTS[name] for name in parameters_of(layer) if name in ARGUMENTS}]
    ]
    # Its warnings are about models that are built over and over, as here.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.config.set_image_data_format("channels_last")
    try:
        model = None if options.model is None else read_model(options.model)
        size = model.input_shape[1:3] if model is not None and len(model.input_shape) == 4 else None
        data = load(options.data, options.target, options.task, options.metric, options.seed, size)
        model = functools.partial(small_model, *traits(data)) if model is None else model
        if not options.layers:
            builder = ByRule(model, options.finetune) if options.model else ByFunction(model)
            chosen = [
                layer
                for layer in chosen
                if not (isinstance(layer, type) and issubclass(layer, ELSEWHERE)) and fits(layer, builder, data.task)
            ]
        results = keras_dropouts.compare(
            model,
            data,
            chosen,
            options.rates,
            batch_size=128,
            out=options.out,
            **{name: getattr(options, name) for name in (*integers, "finetune")},
        )
        show(results, options.out)
    except (ValueError, OSError, ImportError) as error:
        parser.error(one_line(error))
    except KeyboardInterrupt:
        parser.exit(
            130, f"interrupted: the finished runs are in {options.out}, and the same command goes on from there\n"
        )
    if results["reloaded"] != "identical":
        parser.exit(1, f"best.keras does not predict what it did before: {results['reloaded']}\n")
    return 0


def read_model(path):
    """Returns the model of a file."""
    if not pathlib.Path(path).is_file():
        raise ValueError(f"no file {path}: give --model the path of a .keras file")
    try:
        return keras.saving.load_model(path)
    except Exception as error:  # What the layers of a file raise is of many kinds.
        raise ValueError(f"--model {path} cannot be read: {error.__class__.__name__}: {error}") from None


def traits(data):
    """Returns what `small_model` must know: the shape of a sample, the task, mean and variance by the last axis."""
    (x, _), _ = data.whole()
    if not isinstance(x, np.ndarray) or x.ndim not in (2, 4) or data.task.kind == "tokens":
        raise ValueError(
            "x_train must hold images (n, height, width[, channels]) or vectors (n, features), and y_train no tokens: "
            f"for other data use --model, or keras_dropouts.compare. Received: shape {np.shape(x)}"
        )
    axes = tuple(range(x.ndim - 1))
    variance = x.var(axes, dtype="float64")
    return x.shape[1:], data.task, x.mean(axes, dtype="float64"), np.where(variance > 0, variance, 1)


def small_model(shape, task, mean, variance, dropout):
    """Returns two or more convolutions, or a dense layer for vectors, then a dense layer, all of them with dropout."""
    inputs = keras.Input(shape)
    x = keras.layers.Normalization(mean=mean, variance=variance)(inputs)
    if len(shape) == 3:
        # Halved until 8 pixels or less are left.
        blocks = max(2, math.ceil(math.log2(max(shape[:2]) / 8)))
        for filters in [16] + [32] * (blocks - 1):
            x = dropout(keras.layers.Conv2D(filters, 3, padding="same", activation="relu"))(x)
            x = keras.layers.MaxPooling2D(padding="same")(x)
        x = keras.layers.Flatten()(x)
    else:
        x = dropout(keras.layers.Dense(128, activation="relu"))(x)
    x = dropout(keras.layers.Dense(128, activation="relu"))(x)
    model = keras.Model(inputs, keras.layers.Dense(task.outputs, activation=task.activation)(x))
    # Fast enough for rates of 0.3 to have learnt in 18 epochs of a thousand samples.
    model.compile(keras.optimizers.Adam(3e-3), task.loss())
    return model


def fits(layer, builder, task):
    try:
        builder.build(Candidate(layer, *rates_of(layer, [0.1])), task)
    except ValueError:
        return False
    return True


def show(results, out):
    """Prints the results as a table, and what to do."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # Numbers cut short to fit are worse than lines that wrap.
    console.width = max(console.width, 120)
    headings, entries = rows(results)
    table = Table(
        title="On the validation folds: mean \u00b1 standard deviation over runs", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.caption = (
        f"gain: over none, in the same runs.  p: corrected for the {len(entries) - 1} tried.  "
        "gap: how much better in training.  step: time of a training step"
    )
    longest = min(max(len(cells[0]) for cells, _ in entries), 30)
    table.add_column(headings[0], overflow="fold", min_width=longest)
    for heading in headings[1:]:
        table.add_column(heading, overflow="fold", justify="right")
    for cells, chosen in entries:
        table.add_row(*cells, style="bold" if chosen else None)
    console.print(table)
    console.print(results["advice"], highlight=False)
    console.print(f"\nThe report is {pathlib.Path(out) / 'compare.html'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
