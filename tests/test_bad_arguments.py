"""Whatever is given for an argument of anything public, it is taken, or refused by an error that names the argument."""

import inspect

import keras
import numpy as np
import pytest
from catalog import rows

import keras_dropouts as kd

VALUES = ["x", "", -1, 0, 1.5, float("nan"), float("inf"), True, None, [], [1, 2, 3, 4], {}, object(), b"x", 1j]
VALUES += [np.ones((2, 2)), print, int, keras.layers.Dense]


def refusals(function, valid, names, allowed=()):
    """Calls the function with each value for each argument. Returns how many it refused, and how not to."""
    refused, faults = 0, []
    for name in names:
        for value in VALUES:
            try:
                function(**{**valid(), name: value})
            except (ValueError, TypeError) as error:
                refused += 1
                if not any(word in str(error) for word in (name, *allowed)):
                    faults.append((name, value, error))
            except Exception as error:
                faults.append((name, value, error))
    return refused, faults


@rows()
def test_of_a_layer(row):
    def valid():
        wrapped = {"layer": row.wrapped()} if row.wrapped else {}
        parameter = {row.parameter: 0.3} if row.parameter else {}
        return {**parameter, **row.arguments, **wrapped}

    own = set(inspect.signature(row.layer.__init__).parameters) - {"self", "kwargs", "name", "dtype"}
    if row.layer is kd.MultiHeadAttention:
        # The others are for Keras's.
        own &= {"dropout", "seed"}
    refused, faults = refusals(row.layer, valid, sorted(own))
    assert not faults
    assert refused >= 10


@keras.saving.register_keras_serializable(package="bad_arguments")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return x * 2


def model():
    return keras.Sequential([keras.Input((3,)), kd.Dropout(0.5, name="it"), keras.layers.Dense(2, "softmax")])


X, Y = np.ones((4, 3), "float32"), np.zeros(4, "int32")
ROWS_OF_PROBABILITIES = np.full((4, 2), 0.5)


@pytest.mark.parametrize(
    "function, valid",
    [
        (kd.CurriculumDropout, {"rate": 0.5, "gamma": 0.1}),
        (kd.linear_rates, {"rate": 0.5, "depth": 3}),
        (kd.always_on, {"model": model}),
        (kd.compress, {"model": model}),
        (kd.replace, {"model": model, "match": kd.Dropout, "make": lambda layer: Doubled()}),
        (kd.insert_after, {"model": model, "match": keras.layers.Dense, "make": lambda layer: Doubled()}),
        (kd.ClassificationScore, {"probabilities": ROWS_OF_PROBABILITIES, "y": Y}),
        (kd.RegressionScore, {"mean": np.ones(4), "y": np.zeros(4), "tau": 1.0}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_of_a_function(function, valid):
    make = lambda: {name: value() if value is model else value for name, value in valid.items()}  # noqa: E731
    # What a function of the user's raises is the user's. Shapes that do not fit each other are named by one of both.
    names = [name for name in valid if name != "make"]
    refused, faults = refusals(function, make, names, allowed=("stages", "`y`"))
    assert not faults
    assert refused >= 10


def test_of_monte_carlo():
    valid = {"model": model(), "x": X, "samples": 2, "batch_size": 4, "verbose": 0, "seed": 1}
    valid["model"].compile()
    refused, faults = refusals(kd.monte_carlo, lambda: valid, ["samples", "batch_size", "seed"])
    assert not faults
    assert refused >= 10
