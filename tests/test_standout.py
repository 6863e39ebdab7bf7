"""Standout against its formula: probabilities, masks, expectations, and the gradient that does not flow."""

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy, train, value_and_gradient
from keras import ops

from keras_dropouts import Standout

SIGMAS = 4.5


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return ops.convert_to_tensor(np.random.default_rng(5).normal(0, 0.5, shape).astype("float32"))


def dense(activation="relu"):
    return keras.layers.Dense(4, activation, kernel_initializer=normal, bias_initializer="ones")


def inputs(examples=3, features=6):
    return np.random.default_rng(1).standard_normal((examples, features)).astype("float32")


def probability_by_formula(kernel, a, alpha, beta, beta_mode):
    logit = a @ (alpha * kernel + beta) if beta_mode == "weights" else alpha * (a @ kernel) + beta
    return 1 / (1 + np.exp(-logit))


@pytest.mark.parametrize("beta_mode", ["shift", "weights"])
@pytest.mark.parametrize("alpha, beta", [(1.0, 0.0), (2.0, -0.5), (-1.0, 1.5)])
def test_training_draws_with_the_probability_that_inference_multiplies_by(alpha, beta, beta_mode):
    a = inputs()
    wrapper = Standout(dense("softplus"), alpha, beta, beta_mode, seed=3)
    inference = to_numpy(wrapper(a))
    full = to_numpy(wrapper.layer(a))
    kernel, _ = wrapper.layer.get_weights()
    probability = probability_by_formula(kernel, a, alpha, beta, beta_mode)
    np.testing.assert_allclose(inference, full * probability, rtol=1e-5, atol=1e-6)
    draws = 20_000
    y = train(wrapper, np.repeat(a, draws, 0)).reshape(3, draws, 4)
    # Kept units are not scaled.
    kept = y != 0
    np.testing.assert_allclose(y, np.where(kept, full[:, None], 0), rtol=1e-5)
    error = SIGMAS * np.sqrt(probability * (1 - probability) / draws)
    assert (abs(kept.mean(1) - probability) < error + 2**-16).all()


def test_the_more_active_unit_is_kept_more_often():
    kernel = np.array([[-2.0, -1.0, 1.0, 2.0]])
    wrapper = Standout(dense("linear"), alpha=1.0)
    wrapper.build((None, 1))
    wrapper.layer.set_weights([kernel, np.zeros(4)])
    assert (np.diff((to_numpy(wrapper(np.ones((1, 1), "float32"))) / kernel)[0]) > 0.1).all()


@pytest.mark.parametrize("training", [False, True])
def test_no_gradient_flows_through_the_probability(training):
    a = inputs()
    wrapper = Standout(dense("linear"), alpha=3.0, seed=1)
    upstream = np.random.default_rng(2).standard_normal((3, 4)).astype("float32")
    y, gradient = value_and_gradient(lambda x: wrapper(x, training=training), a, upstream)
    kernel, bias = wrapper.layer.get_weights()
    multiplier = y / (a @ kernel + bias)
    np.testing.assert_allclose(gradient, (upstream * multiplier) @ kernel.T, rtol=1e-4, atol=1e-5)
    assert ((multiplier > 0.01) & (multiplier < 0.99)).any() == (not training)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: keras.layers.Conv1D(3, 2, activation="tanh", bias_initializer="ones"), (2, 7, 4)),
        (lambda: keras.layers.Conv2D(3, 2, bias_initializer="ones", data_format="channels_last"), (2, 4, 5, 3)),
        (lambda: keras.layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", bias_initializer="ones"), (2, 5, 4)),
        (lambda: keras.layers.Dense(3, "softmax", use_bias=False), (2, 5, 4)),
    ],
    ids=["Conv1D", "Conv2D", "EinsumDense", "no bias"],
)
def test_any_layer_with_a_kernel(layer, shape):
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    wrapper = Standout(layer(), alpha=2.0, beta=0.3, seed=1)
    inference, full = to_numpy(wrapper(x)), to_numpy(wrapper.layer(x))
    bare = type(wrapper.layer).from_config(wrapper.layer.get_config())
    bare.activation = keras.activations.linear
    bare.build(shape)
    bare.set_weights([w * (i == 0) for i, w in enumerate(wrapper.layer.get_weights())])
    np.testing.assert_allclose(inference, full / (1 + np.exp(-2 * to_numpy(bare(x)) - 0.3)), rtol=1e-4, atol=1e-6)
    y = train(wrapper, x)
    np.testing.assert_allclose(y, np.where(y == 0, 0, full), rtol=1e-4, atol=1e-6)
    assert 0 < (y == 0).mean() < 1


def test_what_is_dropped_is_0_whatever_it_was():
    wrapper = Standout(dense("linear"), alpha=0.0, seed=1)
    wrapper.build((None, 2))
    wrapper.layer.set_weights([np.ones((2, 4)), np.full(4, np.inf)])
    assert set(np.unique(train(wrapper, np.ones((20, 2), "float32")))) == {0, np.inf}


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("value", [np.nan, np.inf, True, "1", None, [1]], ids=repr)
def test_a_bad_number_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a finite number. Received: {name}="):
        Standout(dense(), **{name: value})


def test_a_bad_mode_is_refused():
    with pytest.raises(ValueError, match=r"`beta_mode` must be 'shift' or 'weights'\. Received: beta_mode='bias'"):
        Standout(dense(), beta_mode="bias")


@pytest.mark.skipif(BACKEND != "torch", reason="on PyTorch alone an activation may write over its input")
def test_an_activation_in_place_changes_no_mask():
    import torch

    x, results = np.random.default_rng(1).standard_normal((9, 20)).astype("float32"), []
    for activation in (torch.nn.functional.elu, torch.nn.functional.elu_):
        dense = keras.layers.Dense(50, activation, use_bias=False, kernel_initializer=keras.initializers.HeNormal(1))
        layer = Standout(dense, seed=1)
        results.append([to_numpy(layer(x, training=training)) for training in (True, False)])
    np.testing.assert_array_equal(*results)
