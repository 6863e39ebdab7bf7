"""python -m keras_dropouts audit: the command line of `keras_dropouts.audit`."""

import argparse
import contextlib
import importlib
import pathlib
import sys

import keras
import numpy as np

import keras_dropouts


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"python -m keras_dropouts audit: {message}\n")


def main(argv=None):
    """Returns 0 if there is no problem, 1 if there are some; exits with 2 if it cannot tell."""
    parser = Parser(
        prog="python -m keras_dropouts audit",
        description="Runs a saved model and says of each layer that draws whether it drops in fit, in predict and in "
        "always_on, and as often as it was asked to. Exits with 0 if there is no problem, 1 if there are some, 2 if it "
        "cannot tell.",
    )
    parser.add_argument("model", help="the path of the model, a .keras file")
    parser.add_argument("--x", metavar="PATH", help="inputs of the model, an .npy file (default: random ones)")
    parser.add_argument(
        "--import",
        dest="modules",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers layers of your own, imported first",
    )
    options = parser.parse_args(argv)
    sys.path.insert(0, "")
    try:
        for module in options.modules:
            importlib.import_module(module)
        model = read(pathlib.Path(options.model))
        x = None if options.x is None else np.load(options.x)
        result = keras_dropouts.audit(model, x)
    except (ValueError, OSError, ImportError, TypeError) as error:
        parser.error(" ".join(str(error).split()))
    print(result)
    return result.exit_code


def read(path):
    if path.suffix != ".keras" or not path.is_file():
        raise ValueError(f"the model must be a .keras file that is there. Received: {path}")
    try:
        # Not to be trained: losses and metrics of your own may be missing.
        with contextlib.suppress(Exception):
            return keras.models.load_model(path)
        return keras.models.load_model(path, compile=False)
    # What a file of another Keras, or a broken one, raises is of many kinds.
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {type(error).__name__}: {error}") from None
