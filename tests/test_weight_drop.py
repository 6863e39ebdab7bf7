"""WeightDrop against the layer it wraps, with weights that were dropped by the bits of the oracle."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train
from keras import layers

from keras_dropouts import WeightDrop

RATE = 0.4


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def cells_and_names(layer):
    if isinstance(layer, layers.Dense):
        return [layer], "_kernel"
    return getattr(layer.cell, "cells", [layer.cell]), "recurrent_kernel"


MAKERS = [
    lambda: layers.LSTM(4),
    lambda: layers.GRU(4, return_sequences=True),
    lambda: layers.SimpleRNN(4, go_backwards=True),
    lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(4)]),
    lambda: layers.Dense(4),
]
NAMES = ["LSTM", "GRU", "SimpleRNN", "stack", "Dense"]


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("make", MAKERS, ids=NAMES)
def test_it_is_the_layer_with_dropped_and_scaled_weights(make, variational):
    layer, x = WeightDrop(make(), RATE, variational, seed=6), inputs(3, 5, 7)
    raw = to_numpy(layer(x))
    # Evaluation uses the raw weights.
    np.testing.assert_allclose(raw, to_numpy(layer.layer(x)), rtol=1e-6)
    before = layer.get_weights()
    y = train(layer, x)
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    cells, name = cells_and_names(layer.layer)
    kernels = [to_numpy(getattr(cell, name)) for cell in cells]
    shapes = [(1, kernel.shape[1]) if variational else kernel.shape for kernel in kernels]
    keep = oracle.keep_mask(6, 0, (1, sum(map(np.prod, shapes))), RATE)[0]
    scale = 1 / (1 - round(RATE * 65536) / 65536)
    for cell, kernel, shape in zip(cells, kernels, shapes, strict=True):
        part, keep = keep[: np.prod(shape)], keep[np.prod(shape) :]
        assert 0 < part.sum() < part.size
        getattr(cell, name).assign(kernel * part.reshape(shape) * scale)
    np.testing.assert_allclose(y, to_numpy(layer.layer(x)), rtol=1e-4, atol=1e-5)
    assert abs(y - raw).max() > 1e-3


def test_the_raw_weights_train_through_the_mask():
    layer, x = WeightDrop(layers.Dense(4, use_bias=False), RATE, seed=6), inputs(6, 7)
    model = keras.Sequential([keras.Input((7,)), layer])
    # The loss is the sum of the outputs, but for a factor.
    model.compile(keras.optimizers.SGD(1.0), lambda y, outputs: keras.ops.sum(outputs, axis=-1))
    (before,) = layer.get_weights()
    model.fit(x, np.zeros((6, 4)), batch_size=6, verbose=0)
    keep = oracle.keep_mask(6, 0, (1, 28), RATE).reshape(7, 4)
    expected = keep / (1 - RATE) * x.mean(0)[:, None]
    np.testing.assert_allclose(before - layer.get_weights()[0], expected, rtol=1e-3, atol=1e-5)


def test_both_directions_drop_and_states_go_on():
    x = inputs(2, 3, 5)
    both = layers.Bidirectional(WeightDrop(layers.LSTM(4), 0.5, seed=1))
    assert (train(both, x) != to_numpy(both(x))).any()
    layer = WeightDrop(layers.GRU(4, stateful=True), 0.0, seed=1)
    whole, halves = layers.GRU(4), None
    whole.build(x.shape)
    layer.build(x.shape)
    layer.set_weights(whole.get_weights())
    for part in (x[:, :2], x[:, 2:]):
        halves = train(layer, part)
    np.testing.assert_allclose(halves, to_numpy(whole(x)), rtol=1e-5, atol=1e-6)
    layer.reset_state()
    assert (to_numpy(layer.layer.states[0]) == 0).all()


def test_bad_arguments_are_refused():
    for layer in (layers.Conv1D(3, 2), layers.LSTMCell(3), "LSTM"):
        with pytest.raises(ValueError, match=r"`layer` must be a keras.layers.Dense or LSTM or GRU or SimpleRNN"):
            WeightDrop(layer)
    with pytest.raises(ValueError, match="must not drop beside WeightDrop"):
        WeightDrop(layers.LSTM(3, recurrent_dropout=0.1))
    with pytest.raises(ValueError, match=r"`variational` must be True or False\. Received: variational=1"):
        WeightDrop(layers.LSTM(3), variational=1)
    quantized = WeightDrop(layers.Dense(3))
    quantized.build((2, 4))
    quantized.layer.quantize("int8")
    assert quantized(np.ones((2, 4), "float32")).shape == (2, 3)
    with pytest.raises(ValueError, match="A quantized `layer` has no weights to drop"):
        quantized(np.ones((2, 4), "float32"), training=True)
