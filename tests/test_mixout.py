"""Mixout against its formula, and what the pretrained weights are."""

import keras
import numpy as np
import oracle
import pytest
from backend import to_numpy, train
from keras import layers

from keras_dropouts import Mixout, replace

RATE = 0.4


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def kept(call, sizes, seed=6):
    """Which weights are kept, the kernel's and the bias's."""
    keep = oracle.keep_mask(seed, call, (1, sum(sizes)), RATE)[0]
    return keep[: sizes[0]].reshape(-1, 4), keep[sizes[0] :]


def tuned(layer):
    """Changes the weights of the wrapped layer. Returns those before, and those now."""
    before = [to_numpy(w) for w in layer.layer.weights]
    for i, variable in enumerate(layer.layer.weights):
        variable.assign(variable + inputs(*variable.shape) + i)
    return before, [to_numpy(w) for w in layer.layer.weights]


def test_it_mixes_the_weights_by_the_formula_and_evaluates_with_its_own():
    layer, x = Mixout(layers.Dense(4), RATE, seed=6), inputs(3, 7)
    layer.build(x.shape)
    before, now = tuned(layer)
    for call in range(2):
        weights = []
        for u, w, keep in zip(before, now, kept(call, (28, 4)), strict=True):
            m = ~keep
            weights.append(((1 - m) * w + m * u - RATE * u) / (1 - RATE))
        np.testing.assert_allclose(train(layer, x), x @ weights[0] + weights[1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(to_numpy(layer(x)), x @ now[0] + now[1], rtol=1e-5, atol=1e-5)
    layer.rate = 1
    np.testing.assert_allclose(train(layer, x), x @ before[0] + before[1], rtol=1e-5, atol=1e-5)


def test_the_gradient_has_the_scale_and_pretrained_weights_have_none():
    layer, x = Mixout(layers.Dense(4), RATE, seed=6), inputs(6, 7)
    model = keras.Sequential([keras.Input((7,)), layer])
    # The loss is the sum of the outputs, but for a factor.
    model.compile(keras.optimizers.SGD(1.0), lambda y, outputs: keras.ops.sum(outputs, axis=-1))
    before = [to_numpy(w) for w in layer.layer.weights]
    model.fit(x, np.zeros((6, 4)), batch_size=6, verbose=0)
    gradients = [a - to_numpy(b) for a, b in zip(before, layer.layer.weights, strict=True)]
    kernel, bias = kept(0, (28, 4))
    np.testing.assert_allclose(gradients[0], kernel / (1 - RATE) * x.mean(0)[:, None], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(gradients[1], bias / (1 - RATE), rtol=1e-3, atol=1e-5)
    for weight, pretrained in zip(before, layer.non_trainable_weights, strict=True):
        np.testing.assert_array_equal(weight, to_numpy(pretrained))


@pytest.mark.parametrize("how", ["built before", "built after", "replaced", "set", "those of now"])
def test_what_the_pretrained_weights_are(how, tmp_path):
    x, dense = inputs(3, 7), layers.Dense(4, name="dense")
    if how == "built before":
        dense.build(x.shape)
    layer = Mixout(dense, 1.0, name="dense")
    model = keras.Sequential([keras.Input((7,)), dense if how == "replaced" else layer])
    if how == "replaced":
        model = replace(model, "dense", lambda dense: Mixout(dense, 1.0))
        layer = model.layers[0]
    before, now = tuned(layer)
    if how == "set":
        before = [w + 1 for w in now]
        layer.set_pretrained(before)
    elif how == "those of now":
        before = now
        layer.set_pretrained()
    expected = x @ before[0] + before[1]
    model.save(tmp_path / "model.keras")
    for each in (layer, keras.saving.load_model(tmp_path / "model.keras").layers[0]):
        np.testing.assert_allclose(train(each, x), expected, rtol=1e-5, atol=1e-5)
    # What it has been fine-tuned to is kept where it is copied once more.
    if how == "replaced":
        copy = replace(keras.Sequential([keras.Input((7,)), layer, layers.ReLU(name="end")]), "end", lambda end: end)
        np.testing.assert_allclose(train(copy.layers[0], x), expected, rtol=1e-5, atol=1e-5)


def test_small_changes_are_not_lost_in_mixed_precision():
    layer = Mixout(layers.Dense(1, use_bias=False, kernel_initializer="ones"), 0.9, seed=1, dtype="mixed_bfloat16")
    layer.build((1, 64))
    # Next to 1, in bfloat16, is 1.0078.
    layer.layer.kernel.assign(layer.layer.kernel + 0.002)
    y = train(layer, np.eye(64, dtype="float32"))
    assert set(np.unique(y)) == {np.float32(1), np.float32(1.0234375)}


def test_pretrained_weights_must_fit():
    layer = Mixout(layers.Dense(4))
    with pytest.raises(ValueError, match="must be built before"):
        layer.set_pretrained()
    layer.build((2, 3))
    for weights in ([], [np.ones((3, 4))], [np.ones((4, 3)), np.ones(4)]):
        with pytest.raises(ValueError, match=r"`weights` must be arrays of shapes \[\(3, 4\), \(4,\)\]\. Received"):
            layer.set_pretrained(weights)
