"""StochasticDepth against the random bits of the oracle and the equations of its paper."""

import re

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, value_and_gradient
from keras import ops

from keras_dropouts import StochasticDepth


def branches(shape=(4, 3, 5)):
    return np.random.default_rng(3).standard_normal((2, *shape)).astype("float32")


def gates(layer, calls):
    """What the layer multiplies a residual by in each call: one number for the batch."""
    residual = np.ones((4, 3), "float32")
    outputs = [to_numpy(layer([0 * residual, residual], training=True)) for _ in range(calls)]
    assert all(len(set(y.ravel())) == 1 for y in outputs)
    return [y[0, 0] for y in outputs]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9, 1.0])
def test_the_oracle_draws_the_same_gates(rate):
    expected = [oracle.keep_mask(5, call, (1, 1), rate).item() for call in range(60)]
    assert gates(StochasticDepth(rate, seed=5), 60) == expected


def test_the_equations_in_training_and_at_inference(policy):
    dtype = keras.DTypePolicy(policy).compute_dtype
    shortcut, residual = (to_numpy(ops.cast(x, dtype)) for x in branches())
    layer = StochasticDepth(0.25, seed=2, dtype=policy)
    outputs = [to_numpy(layer([shortcut, residual], training=True)) for _ in range(20)]
    expected = [to_numpy(ops.cast(shortcut + b * residual, dtype)) for b in (0, 1)]
    assert {next(b for b in (0, 1) if (y == expected[b]).all()) for y in outputs} == {0, 1}
    rounding = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    y = to_numpy(layer([shortcut, residual]))
    np.testing.assert_allclose(y, shortcut + 0.75 * residual, atol=rounding)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_each_branch(seed):
    x, upstream = branches()
    gate = gates(StochasticDepth(0.5, seed=seed), 1)[0]
    for pair, expected in (
        (lambda x: [x, 2 * x], 1 + 2 * gate),
        (lambda x: [0 * x, x], gate),
        (lambda x: [x, 0 * x], 1),
    ):
        layer = StochasticDepth(0.5, seed=seed)
        _, gradient = value_and_gradient(lambda x, layer=layer, pair=pair: layer(pair(x), training=True), x, upstream)
        np.testing.assert_allclose(gradient, expected * upstream, rtol=1e-6)


def test_a_dropped_branch_of_any_values_leaves_the_shortcut():
    shortcut, residual = branches()
    y = StochasticDepth(1.0)([shortcut, np.full_like(residual, np.nan)], training=True)
    np.testing.assert_array_equal(to_numpy(y), shortcut)


def network():
    x = inputs = keras.Input((6,))
    for i in range(1, 4):
        x = StochasticDepth(i / 6, seed=i)([x, keras.layers.Dense(6, "tanh")(x)])
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    model.compile("sgd", "mse")
    return model


def test_a_residual_network_is_trained_saved_and_resumed(tmp_path):
    x = np.random.default_rng(0).standard_normal((12, 6)).astype("float32")
    model = network()
    model.fit(x, x[:, :1], batch_size=5, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    losses = [
        m.fit(x, x[:, :1], batch_size=5, epochs=2, shuffle=False, verbose=0).history["loss"] for m in (model, loaded)
    ]
    assert losses[0] == losses[1]


def test_it_takes_the_place_of_add():
    symbols = [keras.Input((3, 4)), keras.Input((1, 4))]
    assert StochasticDepth()(symbols).shape == keras.layers.Add()(symbols).shape == (None, 3, 4)
    masks = [ops.convert_to_tensor(mask) for mask in ([True, False, False], [True, True, False])]
    summed = StochasticDepth().compute_mask(symbols, masks)
    np.testing.assert_array_equal(ops.convert_to_numpy(summed), [True, True, False])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("other", [(2, 4), (3, 3), (3,), (2, 1, 3)], ids=str)
def test_shapes_that_do_not_fit_are_refused(other, training):
    shapes = [(2, 3), other]
    for pair in (shapes, shapes[::-1]):
        message = (
            rf"(?s)`inputs` must be two tensors.*Received: inputs of shapes {re.escape(f'{pair[0]} and {pair[1]}')}"
        )
        layer = StochasticDepth()
        with pytest.raises(ValueError, match=message):
            layer([np.ones(shape, "float32") for shape in pair], training=training)
        with pytest.raises(ValueError, match=message):
            layer.compute_output_shape(pair)
    # Later too, when the layer has been built.
    layer([np.ones((2, 3), "float32")] * 2)
    with pytest.raises(ValueError, match="`inputs` must be"):
        layer([np.ones(shape, "float32") for shape in shapes], training=training)


def test_a_dictionary_is_refused():
    with pytest.raises(ValueError, match=r"(?s)`inputs` must be a list or tuple of two tensors.*Received: inputs="):
        StochasticDepth()({name: np.ones((2, 3), "float32") for name in ("shortcut", "residual")})


@pytest.mark.parametrize("inputs", [np.ones((2, 3)), [np.ones((2, 3))], [np.ones((2, 3))] * 3], ids=len)
def test_anything_but_two_tensors_is_refused(inputs):
    with pytest.raises(ValueError, match="expects 2 input"):
        StochasticDepth()(inputs)
