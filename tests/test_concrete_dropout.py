"""Concrete dropout against its formulas: what is drawn, what is learnt, and what is added to the loss."""

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy, train
from memory import kept_bytes
from scipy.special import expit

from keras_dropouts import ConcreteDropout, RateLogger, always_on, monte_carlo


def normal(shape, dtype=None):
    """Initial weights, the same on every backend."""
    return keras.ops.convert_to_tensor(np.random.default_rng(5).normal(0, 0.5, shape).astype("float32"))


def dense(activation=None):
    return keras.layers.Dense(4, activation, kernel_initializer=normal, bias_initializer="ones")


def inputs(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype("float32")


def dropped(x, logit, seed, call, temperature, noise_shape=None):
    """What the wrapped layer reads, in 64 bits."""
    u = (oracle.draws(seed, call, noise_shape or x.shape) + 32768.5) / 65536
    # 1 - z, and 1 - rate.
    return x * expit(-(logit + np.log(u) - np.log(1 - u)) / temperature) / expit(-logit)


def terms(kernel, logit, weight_decay, entropy_weight, features):
    rate = expit(logit)
    entropy = -rate * np.log(rate) - (1 - rate) * np.log(1 - rate)
    return weight_decay * (kernel**2).sum() / (1 - rate) - entropy_weight * features * entropy


def logit(rate):
    return np.log(rate) - np.log(1 - rate)


def test_elements_are_dropped_by_the_bits_of_the_oracle():
    layer, x = ConcreteDropout(dense("relu"), initial_rate=0.3, seed=6), inputs(5, 3, 7)
    for call in range(2):
        y = train(layer, x)
        _, kernel, bias = layer.get_weights()
        expected = dropped(x, logit(0.3), 6, call, 0.1) @ kernel + bias
        np.testing.assert_allclose(y, np.maximum(expected, 0), rtol=1e-4, atol=1e-4)


def test_of_a_convolution_channels_are_dropped():
    conv = keras.layers.DepthwiseConv1D(3, depthwise_initializer="ones")
    layer, x = ConcreteDropout(conv, initial_rate=0.3, seed=6), inputs(5, 6, 7)
    window = dropped(x, logit(0.3), 6, 0, 2 / 3, (5, 1, 7))
    expected = sum(window[:, i : i + 4] for i in range(3))
    np.testing.assert_allclose(train(layer, x), expected, rtol=1e-4, atol=1e-4)


class InRegion(keras.layers.Layer):
    """Calls a layer within activation checkpointing."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def build(self, input_shape):
        self.layer.build(input_shape)

    def call(self, inputs, training=False):
        return keras.remat(lambda x: self.layer(x, training=training))(inputs)


@pytest.mark.parametrize("wrap", [lambda layer: layer, InRegion], ids=["plain", "checkpointed"])
def test_a_step_follows_the_gradient_of_the_formula(wrap):
    """That of the weights, of the logit, and of the regularizers with respect to both."""
    x, y = inputs(6, 7), inputs(6, 4)
    layer = ConcreteDropout(dense(), weight_decay=0.1, entropy_weight=0.2, initial_rate=0.4, seed=3)
    model = keras.Sequential([keras.Input((7,)), wrap(layer)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = [w.astype("float64") for w in layer.get_weights()]

    def loss(logit, kernel, bias):
        errors = dropped(x, logit, 3, 0, 0.1) @ kernel + bias - y
        return (errors**2).mean() + terms(kernel, logit, 0.1, 0.2, features=7)

    history = model.fit(x, y, batch_size=6, shuffle=False, verbose=0).history["loss"]
    np.testing.assert_allclose(history, [loss(*before)], rtol=1e-4)
    for i, (old, new) in enumerate(zip(before, layer.get_weights(), strict=True)):
        gradient = np.zeros(old.shape)
        for place in np.ndindex(old.shape):
            change = np.zeros(old.shape)
            change[place] = 1e-5
            ahead, behind = (loss(*before[:i], old + sign * change, *before[i + 1 :]) for sign in (1, -1))
            gradient[place] = (ahead - behind) / 2e-5
        assert (np.abs(gradient) > 1e-4).all()
        np.testing.assert_allclose(old - new, gradient, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "layer, shape, features",
    [
        (dense(), (2, 3, 7), 7),
        (keras.layers.EinsumDense("abcd,cde->abe", (None, 4)), (2, 3, 5, 6), 30),
        (keras.layers.EinsumDense("abc,cde->abde", (None, 4, 2)), (2, 3, 5), 5),
        (keras.layers.Conv1D(4, 3, groups=2, kernel_initializer=normal), (2, 5, 6), 6),
        (keras.layers.Conv2DTranspose(4, 3, data_format="channels_first"), (2, 7, 5, 3), 7),
    ],
    ids=lambda it: getattr(it, "name", str(it)),
)
def test_the_loss_is_of_the_kernel_and_the_input_features_as_they_are(layer, shape, features):
    layer = ConcreteDropout(layer, weight_decay=0.1, entropy_weight=0.2, dtype="mixed_float16")
    layer.build(shape)
    for rate in (0.1, 0.7):
        layer.logit.assign(logit(rate))
        # Beyond what float16 squares, and the bias is no part of it.
        layer.layer.kernel.assign(layer.layer.kernel * 1000)
        if layer.layer.bias is not None:
            layer.layer.bias.assign(layer.layer.bias + 1)
        kernel = to_numpy(layer.layer.kernel).astype("float64")
        # The one is small beside the other.
        for layer.weight_decay in (0.1, 0.0):
            (loss,) = layer.losses
            expected = terms(kernel, logit(rate), layer.weight_decay, 0.2, features)
            np.testing.assert_allclose(to_numpy(loss), expected, rtol=1e-4)


def test_the_weights_of_the_loss_are_those_of_the_authors():
    assert ConcreteDropout.regularization(50) == pytest.approx({"weight_decay": 2e-10, "entropy_weight": 0.04})
    weights = ConcreteDropout.regularization(50, length_scale=0.1, tau=4.0, loss="cross_entropy")
    assert weights == pytest.approx({"weight_decay": 5e-5, "entropy_weight": 0.005})


def test_the_more_examples_the_smaller_the_rate():
    rng, tau = np.random.default_rng(0), 0.05
    x = rng.standard_normal((3000, 6)).astype("float32")
    y = x.sum(1, keepdims=True) + rng.standard_normal((3000, 1)) / np.sqrt(tau)
    rates = []
    for examples in (20, 80, 320):
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        layer = ConcreteDropout(dense, **ConcreteDropout.regularization(examples, tau=tau), seed=1)
        model = keras.Sequential([keras.Input((6,)), layer])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        model.fit(x, y, batch_size=60, shuffle=False, verbose=0)
        rates.append(layer.rate)
    # With weights of 1 the loss grows by 6 * rate / (1 - rate), against 12 / (tau * examples) times the entropy: the
    # optimum is where (1 - rate) / rate = exp(tau * examples / 2).
    assert abs(rates[0] - 0.38) < 0.08 and abs(rates[1] - 0.12) < 0.06 and rates[2] < 0.03


def test_inference_is_the_wrapped_layer_and_monte_carlo_drops():
    layer, x = ConcreteDropout(dense("relu"), initial_rate=0.5, seed=1), inputs(3, 7)
    model = keras.Sequential([keras.Input((7,)), layer])
    np.testing.assert_allclose(to_numpy(model(x)), to_numpy(layer.layer(x)), rtol=1e-6)
    assert (monte_carlo(model, x, samples=3, seed=1, verbose=0).std > 0).any()
    sampled = always_on(model)
    assert (to_numpy(sampled(x)) != to_numpy(model(x))).any()
    # What is always on learns its rate too.
    sampled.compile(keras.optimizers.SGD(0.1), "mse")
    sampled.fit(x, np.zeros((3, 4)), verbose=0)
    assert abs(layer.rate - 0.5) > 1e-4
    assert [loss.shape for loss in sampled.losses] == [()]


def test_the_rate_is_logged_and_saved_and_never_set(tmp_path):
    layer, x = ConcreteDropout(keras.layers.Dense(4), 0.0, 0.1, initial_rate=0.2, name="it"), inputs(3, 7)
    assert layer.rate == layer.current_rate() == 0.2
    model = keras.Sequential([keras.Input((7,)), layer])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    logs = model.fit(x, np.zeros((3, 4)), epochs=2, verbose=0, callbacks=[RateLogger()]).history["rate/it"]
    assert logs[1] == layer.rate == layer.current_rate() and len({0.2, *logs}) == 3
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").get_layer("it").rate == layer.rate
    with pytest.raises(AttributeError, match="rate"):
        layer.rate = 0.3


def test_no_draw_and_no_rate_is_without_bounds():
    layer, x = (
        ConcreteDropout(keras.layers.Dense(1, use_bias=False, kernel_initializer="ones"), seed=1),
        np.ones((2**19, 1)),
    )
    layer.build(x.shape)
    # All 65536 draws are there. At the logit of the least one, that is dropped by half.
    assert oracle.draws(1, 1, x.shape).min() == -32768
    for call, logit in enumerate((-80.0, np.log(2**17 - 1), 20.0)):
        layer.logit.assign(logit)
        y = train(layer, x)
        np.testing.assert_allclose(y, dropped(x, logit, 1, call, 0.1), rtol=1e-3, atol=1e-30)
        assert np.isfinite(y).all() and np.isfinite(to_numpy(layer.losses[0]))
    assert (train(ConcreteDropout(dense(), initial_rate=1e-6, seed=1), inputs(2, 7)) != 0).all()


def test_the_logit_is_float32_whatever_the_policy(policy):
    layer = ConcreteDropout(dense(), dtype=policy)
    y = layer(inputs(2, 7), training=True)
    assert (layer.logit.dtype, keras.backend.standardize_dtype(y.dtype)) == ("float32", layer.compute_dtype)


def test_what_was_drawn_is_not_kept_for_the_backward_pass():
    # With a kernel that learns, what it was multiplied by must be kept.
    layer = ConcreteDropout(keras.layers.Dense(1, use_bias=False))
    layer.trainable = False
    # TensorFlow counts the input, as a copy of it.
    assert 0 < kept_bytes(layer, (128, 35)) < 128 * 35 * (5 if BACKEND == "tensorflow" else 1)


@pytest.mark.parametrize("bad", [-0.1, np.inf, np.nan, True, "1", None], ids=repr)
def test_bad_arguments_are_refused(bad):
    for name in ("weight_decay", "entropy_weight"):
        with pytest.raises(
            ValueError, match=rf"`{name}` must be a finite number that is not negative\. Received: {name}="
        ):
            ConcreteDropout(dense(), **{name: bad})
    for name in ("length_scale", "tau"):
        with pytest.raises(ValueError, match=rf"`{name}` must be a positive, finite number\. Received: {name}="):
            ConcreteDropout.regularization(10, **{name: bad})
    for rate in (bad, 0, 1):
        with pytest.raises(
            ValueError, match=r"`initial_rate` must be a number between 0 and 1, neither included\. Rec"
        ):
            ConcreteDropout(dense(), initial_rate=rate)
    with pytest.raises(ValueError, match=r"`examples` must be a positive integer"):
        ConcreteDropout.regularization(bad)
    with pytest.raises(ValueError, match=r"`loss` must be 'squared_error' or 'cross_entropy'"):
        ConcreteDropout.regularization(10, loss=bad)
