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
from keras_dropouts.comparison.candidate import Candidate, parameters_of, rates_of, titled
from keras_dropouts.comparison.compare import checked_data, require

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
        help="train a small model without dropout and with each layer and rate, and say what helped",
        description="Trains a small model (of two or more convolutions for images, dense for feature vectors) without "
        "dropout and with each layer and rate, over several seeds. Prints the accuracy on the test data, how much "
        "higher it is on the training data (gap), the expected calibration error (ECE) and the time of a training step "
        "as a multiple of that without dropout. Ctrl-C keeps what is finished.",
    )
    command.add_argument(
        "--data",
        default="digits",
        help="digits: scikit-learn's scans, the first 1024 to train on, the other 773 to test; fashion_mnist: the "
        "first 4096 training images and all of the test images; or PATH.npz with x_train, y_train, x_test, y_test: "
        "images (n, height, width[, channels]) or vectors (n, features), integer labels from 0 (default: %(default)s)",
    )
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
        "repeats": (3, "seeds to train each with"),
        "seed": (0, "the first seed"),
    }
    for name, (default, text) in integers.items():
        command.add_argument(f"--{name}", type=int, default=default, help=f"{text} (default: {default})")
    command.add_argument(
        "--out",
        default="compare",
        help="folder for a picture, compare.png, all numbers, compare.json, and the best model, best.keras "
        "(default: %(default)s)",
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
    results = None
    try:
        data = load(options.data)
        build_model = functools.partial(small_model, *traits(data))
        if not options.layers:
            chosen = [
                layer
                for layer in chosen
                if not (isinstance(layer, type) and issubclass(layer, ELSEWHERE)) and fits(layer, build_model)
            ]
        results = keras_dropouts.compare(
            build_model, data, chosen, options.rates, options.epochs, options.repeats, options.seed, 128, options.out
        )
        show(results, options.out)
    except (ValueError, OSError, ImportError) as error:
        parser.error(" ".join(str(error).split()))
    except KeyboardInterrupt:
        written = (
            f"the results are in {options.out}" if results else "before the first run was finished, nothing to write"
        )
        parser.exit(130, f"interrupted: {written}\n")
    if results["best"]["reloaded"] != "identical":
        parser.exit(1, f"best.keras does not predict what it did before: {results['best']['reloaded']}\n")
    return 130 if results["interrupted"] else 0


def load(name):
    """Returns the data that `name` says, checked, grey images with a channel axis."""
    if name == "digits":
        require("sklearn")
        from sklearn.datasets import load_digits

        digits = load_digits()
        data = (digits.images[:1024], digits.target[:1024]), (digits.images[1024:], digits.target[1024:])
    elif name == "fashion_mnist":
        try:
            (x_train, y_train), test = keras.datasets.fashion_mnist.load_data()
        except Exception as error:  # Keras raises no narrower one.
            raise OSError(f"Fashion-MNIST could not be loaded, use --data digits or PATH.npz: {error}") from error
        data = (x_train[:4096], y_train[:4096]), test
    elif name.endswith(".npz"):
        data = read(pathlib.Path(name))
    else:
        raise ValueError(f"--data must be digits, fashion_mnist or a path that ends in .npz. Received: {name}")
    try:
        (x_train, y_train), (x_test, y_test) = checked_data(data)
    except ValueError as error:
        raise ValueError(f"--data {name}: {error}") from None
    if x_train.ndim > 4:
        raise ValueError(
            f"x_train must hold images (n, height, width[, channels]) or vectors (n, features): for other data use "
            f"keras_dropouts.compare with a model of your own. Received: shape {x_train.shape}"
        )
    if x_train.ndim == 3:
        x_train, x_test = x_train[..., None], x_test[..., None]
    return (x_train, y_train), (x_test, y_test)


def read(path):
    if not path.is_file():
        raise ValueError(f"no file {path}: give --data the path of an .npz file")
    names = "x_train", "y_train", "x_test", "y_test"
    try:
        # Opened here: of one that it cannot read, NumPy would leave the file open.
        with path.open("rb") as opened, np.load(opened) as file:
            missing = [name for name in names if name not in file.files]
            if not missing:
                x_train, y_train, x_test, y_test = (file[name] for name in names)
                return (x_train, y_train), (x_test, y_test)
    except Exception as error:  # What a broken file makes zipfile and NumPy raise is of a dozen kinds.
        raise ValueError(
            f"{path} is no readable .npz file of plain arrays: write it with numpy.savez(path, x_train=..., ...). "
            f"{error.__class__.__name__}: {error}"
        ) from None
    raise ValueError(f"{path} lacks {', '.join(missing)}: it must hold the arrays {', '.join(names)}")


def traits(data):
    """Returns what `small_model` must know: the shape of a sample, the classes, mean and variance by the last axis."""
    (x, y), _ = data
    axes = tuple(range(x.ndim - 1))
    variance = x.var(axes, dtype="float64")
    return x.shape[1:], int(y.max()) + 1, x.mean(axes, dtype="float64"), np.where(variance > 0, variance, 1)


def small_model(shape, classes, mean, variance, dropout):
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
    model = keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))
    # Fast enough for rates of 0.3 to have learnt in 18 epochs of a thousand samples.
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    return model


def fits(layer, build_model):
    try:
        Candidate(layer, *rates_of(layer, [0.1])).build(build_model)
    except ValueError:
        return False
    return True


def show(results, out):
    """Prints the results as a table."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # Numbers cut short to fit are worse than lines that wrap.
    console.width = max(console.width, 80)
    entries = results["results"]
    none = entries[0]
    leader = max(entries, key=lambda entry: entry["accuracy"]["mean"])
    table = Table(
        title="On the test data: mean \u00b1 standard deviation over seeds", box=box.SIMPLE_HEAD, pad_edge=False
    )
    table.caption = "gap: accuracy on the training data, less that.  step: time of a training step"
    table.add_column("layer", overflow="fold")
    for heading in ("rate", "accuracy %", "gap %", "ECE %", "step", *["runs"] * results["interrupted"]):
        table.add_column(heading, justify="right")
    for entry in entries:
        rate = "" if entry["rate"] is None else f"{entry['rate']:g}"
        measures = [percent(entry[name]) for name in ("accuracy", "gap", "ece")]
        row = [entry["layer"], rate, *measures, f"{entry['step_time']:.2f}x", str(len(entry["runs"]))]
        table.add_row(*row[: len(table.columns)], style="bold" if entry is leader else None)
    console.print(table)
    seeds = {run["seed"]: run["accuracy"] for run in none["runs"]}
    pairs = [(run["accuracy"], seeds[run["seed"]]) for run in leader["runs"] if run["seed"] in seeds]
    if leader is none:
        console.print("Nothing beat the model without dropout.")
    else:
        wins = sum(ours > without for ours, without in pairs)
        gain = 100 * (leader["accuracy"]["mean"] - none["accuracy"]["mean"])
        name = titled(leader["layer"], leader["rate"])
        console.print(f"Best mean: {name}, {gain:+.2f} points, better than none in {wins} of {len(pairs)} seeds.")
    if results["interrupted"]:
        console.print("Interrupted: these are the runs that were finished.")
    console.print(f"Wrote compare.png, compare.json and best.keras to {out}", highlight=False, soft_wrap=True)


def percent(measure):
    spread = "" if measure["std"] is None else f" \u00b1 {100 * measure['std']:.1f}"
    return f"{100 * measure['mean']:.1f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
