"""LayerDrop against the random bits of the oracle, and pruning."""

import re

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train, value_and_gradient

from keras_dropouts import LayerDrop, replace


def x_of(shape=(4, 3, 5), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_the_input_passes_in_place_of_a_dropped_layer(rate):
    x, upstream, dense = x_of(), x_of(seed=1), keras.layers.Dense(5, "tanh")
    layer = LayerDrop(dense, rate, seed=3)
    plain, slope = value_and_gradient(dense, x, upstream)
    for call in range(8):
        y, gradient = value_and_gradient(lambda x: layer(x, training=True), x, upstream)
        keep = oracle.keep_mask(3, call, (1, 1), rate).item()
        np.testing.assert_allclose(y, plain if keep else x, rtol=1e-6)
        np.testing.assert_allclose(gradient, slope if keep else upstream, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_numpy(layer(x)), plain, rtol=1e-6)


def test_every_other_layer_can_be_pruned():
    x = inputs = keras.Input((3, 5))
    for i in range(4):
        x = LayerDrop(keras.layers.Dense(5, "tanh"), 0.5, name=f"block{i}")(x)
    model = keras.Model(inputs, x)
    pruned = replace(model, re.compile("^block[13]$"), lambda block: keras.layers.Identity())
    x = x_of()
    expected = model.layers[3].layer(model.layers[1].layer(x))
    np.testing.assert_allclose(to_numpy(pruned(x)), to_numpy(expected), rtol=1e-6)
    assert len(pruned.weights) == len(model.weights) / 2


def test_a_layer_that_changes_the_shape_is_refused():
    for dense in (keras.layers.Dense(4), keras.layers.LSTM(5)):
        with pytest.raises(ValueError, match=r"(?s)`layer` of LayerDrop must return one tensor.*Received: layer=<"):
            train(LayerDrop(dense), x_of())


@keras.saving.register_keras_serializable(package="test_layer_drop")
class Block(keras.layers.Layer):
    """A user's layer that says its shape, and has no `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(5)

    def call(self, inputs):
        return self.dense(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape


def test_a_layer_without_a_build_is_built(tmp_path):
    model = keras.Sequential([keras.Input((3, 5)), LayerDrop(Block(), 0.5)])
    assert len(model.weights) == 2 and model.layers[0].layer.built
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(to_numpy(again(x_of())), to_numpy(model(x_of())))
