"""What holds for every layer, in cases that nobody chose. `make fuzz` looks at thousands of them."""

import os
import tempfile

import keras
import numpy as np
import pytest
from backend import BACKEND, compiled_calls, to_numpy, train, value_and_gradient
from cases import cases
from hypothesis import HealthCheck, assume, given, note, settings
from keras import tree

# How many cases to try; without that, few, and always the same. JAX compiles what it calls eagerly.
CASES = os.environ.get("KERAS_DROPOUTS_CASES")
FEW = {"tensorflow": 60, "jax": 15, "torch": 150}[BACKEND]

# Of softmax, on an axis of size 1.
pytestmark = pytest.mark.filterwarnings("ignore:.*You are using a softmax over axis:UserWarning")


def some(share):
    """The settings of a test that takes this share of the cases."""
    return settings(
        max_examples=max(round(int(CASES or FEW) * share), 1),
        derandomize=not CASES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def inputs_of(case):
    """Numbers of both signs, none of them near 0."""
    x = np.random.default_rng(case.seed).uniform(0.5, 2, case.shape)
    x *= np.random.default_rng(case.seed + 1).choice([-1, 1], case.shape)
    return case.row.inputs(x.astype("float32"))


def tensors(x):
    return tree.map_structure(keras.ops.convert_to_tensor, x)


def taken(case):
    """Whether the layer takes such an input. That it refuses one must be a `ValueError`, of inference too."""
    try:
        case.make()(tensors(inputs_of(case)))
    except ValueError as error:
        note(str(error))
        return False
    return True


def is_finite(y):
    return all(np.isfinite(to_numpy(one)).all() for one in tree.flatten(y))


def check_eager(case):
    row, x, layer = case.row, tensors(inputs_of(case)), case.make()
    y = layer(x, training=True)
    assert is_finite(y)
    for axes in {(0,), (0, *case.open)}:
        shape = tuple(None if axis in axes else n for axis, n in enumerate(case.shape))
        symbol = case.make()(row.inputs(keras.KerasTensor(shape)), training=True)
        assert len(symbol.shape) == len(y.shape)
        assert all(one in (None, n) for one, n in zip(symbol.shape, y.shape, strict=True)), (symbol.shape, y.shape)
        assert symbol.dtype == keras.backend.standardize_dtype(y.dtype), (symbol.dtype, y.dtype)
    inference = layer(x)
    assert is_finite(inference)
    if case.identity:
        expected = keras.ops.cast(tree.flatten(x)[-1], layer.compute_dtype)
        np.testing.assert_array_equal(to_numpy(inference), to_numpy(expected))


def check_config(case):
    x, layer = tensors(inputs_of(case)), case.make()
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    calls = [train(layer, x), train(layer, x)]
    train(twin, x)
    for one, other in zip(layer.weights, twin.weights, strict=True):
        other.assign(one)
    np.testing.assert_array_equal(train(twin, x), calls[1])


def check_gradient(case):
    row, x = case.row, np.asarray(tree.flatten(inputs_of(case))[-1])
    layer = case.make()
    call = lambda x: layer(row.inputs(x) if row.merges else x, training=True)  # noqa: E731
    shape = layer.compute_output_spec(row.inputs(keras.KerasTensor(x.shape)), training=True).shape
    upstream = np.random.default_rng(3).uniform(0.5, 2, shape).astype("float32")
    y, gradient = value_and_gradient(call, x, upstream)
    assert gradient.shape == x.shape and np.isfinite(gradient).all()
    if case.product and not row.shakes:
        tolerance = {"float32": 1e-5, "float64": 1e-5, "float16": 4e-3}.get(layer.compute_dtype, 3e-2)
        multiplier = y / to_numpy(keras.ops.cast(x, layer.compute_dtype))
        np.testing.assert_allclose(gradient, multiplier * upstream, rtol=tolerance, atol=1e-6)


def check_compiled(case):
    x = inputs_of(case)
    layer, other = case.make(), case.make()
    eager = [train(layer, x), train(layer, x)]
    other(tensors(x))
    for one, two in zip(layer.weights, other.weights, strict=True):
        two.assign(one)
    compiled = compiled_calls(other, [x, x])
    for one, two in zip(compiled, eager, strict=True):
        if case.product:
            np.testing.assert_array_equal(one, two)
        else:
            tolerance = {"float32": 1e-5, "float64": 1e-5, "float16": 1e-2}.get(layer.compute_dtype, 6e-2)
            np.testing.assert_allclose(one, two, rtol=tolerance, atol=tolerance)


def check_file(case, path):
    row = case.row
    layer = case.make()
    inputs = keras.Input(case.shape[1:], batch_size=case.shape[0] if row.by_batch else None)
    model = keras.Model(inputs, layer(row.inputs(inputs)))
    x = np.ones(case.shape, "float32")
    model(x, training=True)
    model.save(path)
    loaded = keras.saving.load_model(path)
    np.testing.assert_array_equal(train(loaded, x), train(model, x))
    np.testing.assert_array_equal(to_numpy(loaded(x)), to_numpy(model(x)))


@some(1)
@given(case=cases())
def test_eager(case):
    assume(taken(case))
    check_eager(case)
    check_config(case)
    if not case.row.by_index:
        check_gradient(case)


@some(1 / 5)
@given(case=cases())
def test_a_file(case):
    assume(taken(case))
    with tempfile.TemporaryDirectory() as folder:
        check_file(case, f"{folder}/model.keras")


@some(1 / 15)
@given(case=cases())
def test_compiled(case):
    assume(taken(case))
    check_compiled(case)
