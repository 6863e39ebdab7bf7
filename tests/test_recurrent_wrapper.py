"""What Keras's recurrent layers can do, they can with the wrapper around them."""

import keras
import numpy as np
import pytest
from backend import BACKEND, compiled_calls, to_numpy, train
from keras import layers
from recurrent_oracle import FEATURES, GRU, LSTM, PADDING, SAMPLES, SEED, TIMESTEPS, UNITS, X, keep_masks, run

from keras_dropouts import RecurrentDropout, RNNDrop, VariationalRNNDropout, Zoneout, monte_carlo

every = pytest.mark.parametrize(
    "method", [VariationalRNNDropout, RNNDrop, RecurrentDropout, Zoneout], ids=lambda method: method.__name__
)


def dropout(layer, rate=0.25):
    return RecurrentDropout(layer, rate, seed=SEED)


def update(call=0, timesteps=TIMESTEPS):
    """What RecurrentDropout multiplies by."""
    return keep_masks((0.25,), (UNITS,), timesteps, call)[0] / 0.75


LAST = {"return_sequences": False, "return_state": False}


def sequential(wrapper):
    model = keras.Sequential([keras.Input((None, FEATURES)), layers.Masking(), wrapper])
    model.compile(keras.optimizers.SGD(0.0), "mae")
    return model


def assert_close(ours, *truth):
    assert len(ours) == len(truth)
    for one, other in zip(ours, truth, strict=True):
        np.testing.assert_allclose(to_numpy(one), other, atol=2e-6)


def test_states_come_in_and_go_out():
    wrapper = dropout(LSTM(return_sequences=False))
    inputs = [keras.Input((None, FEATURES)), keras.Input((UNITS,)), keras.Input((UNITS,))]
    model = keras.Model(inputs, wrapper(inputs[0], initial_state=inputs[1:]))
    assert [y.shape for y in model.outputs] == [(None, UNITS)] * 3
    states = [np.full((SAMPLES, UNITS), value, "float32") for value in (0.5, -0.5)]
    outputs, expected = run(wrapper.layer, X, states=states, update=update())
    assert_close(model([X, *states], training=True), outputs[:, -1], *expected)


def test_a_stateful_layer_goes_on_with_new_masks_until_it_is_reset():
    wrapper = dropout(LSTM(stateful=True, return_state=False))
    wrapper.build(X.shape)
    # Keras does not carry states from one compiled call to the next on JAX.
    ours = compiled_calls(wrapper, [X, X]) if BACKEND == "tensorflow" else [train(wrapper, X) for _ in range(2)]
    first, states = run(wrapper.layer, X, update=update(call=0))
    second, _ = run(wrapper.layer, X, states=states, update=update(call=1))
    assert_close(ours, first, second)
    wrapper.reset_state()
    assert_close([wrapper(X)], run(wrapper.layer, X)[0])


@pytest.mark.parametrize("unroll", [False, True])
def test_a_timestep_has_its_mask_backwards_too(unroll):
    wrapper = dropout(LSTM(go_backwards=True, unroll=unroll))
    wrapper.build(X.shape)
    outputs, states = run(wrapper.layer, X[:, ::-1], update=update()[:, ::-1])
    assert_close(wrapper(X, training=True), outputs, *states)


def test_both_directions(tmp_path):
    both = layers.Bidirectional(dropout(LSTM(return_state=False)))
    model = keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), layers.Masking(), both])
    forward, backward = (direction.layer for direction in (both.forward_layer, both.backward_layer))
    x = np.where(PADDING[:, :, None], X, 0)
    one, _ = run(forward, x, PADDING, update=update())
    other, _ = run(backward, x[:, ::-1], PADDING[:, ::-1], update=update()[:, ::-1])
    # Bidirectional sets the outputs to zero there.
    expected = np.concatenate([one, other[:, ::-1]], -1) * PADDING[:, :, None]
    np.testing.assert_allclose(train(model, x), expected, atol=2e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(train(loaded, x), train(model, x))


def test_cells_on_top_of_each_other_have_masks_of_their_own():
    cells = [layers.LSTMCell(4), layers.GRUCell(3)]
    wrapper = RecurrentDropout(layers.RNN(cells, return_sequences=True, return_state=True), 0.25, seed=SEED)
    wrapper.build(X.shape)
    first, second = (keep / 0.75 for keep in keep_masks((0.25, 0.25), (4, 3), TIMESTEPS))
    between, lstm_states = run(cells[0], X, update=first)
    outputs, gru_states = run(cells[1], between, update=second)
    ours = keras.tree.flatten(wrapper(X, training=True))
    assert_close(ours, outputs, *lstm_states, *gru_states)


@every
def test_mixed_precision(method):
    mixed, single = (method(LSTM(dtype=dtype), 0.25, seed=SEED) for dtype in ("mixed_bfloat16", "float32"))
    for wrapper in (mixed, single):
        wrapper.build(X.shape)
    mixed.set_weights(single.get_weights())
    for one, other in zip(mixed(X, training=True), single(X, training=True), strict=True):
        assert keras.backend.standardize_dtype(one.dtype) == "bfloat16"
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=0.05)


@every
def test_fit_draws_new_masks_for_each_batch(method):
    x = np.concatenate([X, X])
    x[:, :2] = 0
    fitted, twin = (sequential(method(LSTM(**LAST), 0.25, seed=SEED)) for _ in range(2))
    loss = fitted.fit(x, np.zeros((len(x), UNITS)), SAMPLES, shuffle=False, verbose=0).history["loss"][0]
    losses = [np.abs(train(twin, batch)).mean() for batch in np.split(x, 2)]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert losses[0] != losses[1]


def test_fit_on_batches_of_several_lengths():
    fitted, twin = (sequential(Zoneout(LSTM(**LAST), 0.25, seed=SEED)) for _ in range(2))
    batches = [(x, np.zeros((len(x), UNITS))) for x in (X, X[:, 1:], X)]
    loss = fitted.fit((batch for batch in batches), steps_per_epoch=3, shuffle=False, verbose=0).history["loss"][0]
    np.testing.assert_allclose(loss, np.mean([np.abs(train(twin, x)).mean() for x, _ in batches]), rtol=1e-5)


def test_rates_in_compiled_code():
    """At rate 1 nothing enters the memory."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 1.0])
    y = np.zeros((SAMPLES, UNITS))

    def loss(model):
        # Some releases of Keras report the mean since then.
        model.reset_metrics()
        return float(model.train_on_batch(X, y))

    for rate in (0.0, schedule):
        model = sequential(RecurrentDropout(LSTM(**LAST), rate, seed=SEED))
        losses = [loss(model) for _ in range(2)]
        if rate != schedule:
            model.layers[-1].rate = 1.0
        losses.append(loss(model))
        np.testing.assert_allclose(losses, [np.abs(to_numpy(model(X))).mean()] * 2 + [0], rtol=1e-5)
    model = sequential(Zoneout(LSTM(**LAST), 0.0))
    assert model.predict(X, verbose=0).any()
    model.layers[-1].rate = 1.0
    assert not model.predict(X, verbose=0).any()


def test_training_moves_what_the_gradient_moves():
    """Against a difference of losses, through all timesteps and masks."""
    wrapper = Zoneout(GRU(**LAST), 0.25, seed=SEED)
    model = keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), wrapper])
    rate = 1e-2
    model.compile(keras.optimizers.SGD(rate), "mse")
    before = model.get_weights()

    def loss(weights):
        wrapper._random_state.write(calls=0)
        model.set_weights(weights)
        return np.mean(train(model, X).astype("float64") ** 2)

    wrapper._random_state.write(calls=0)
    model.train_on_batch(X, np.zeros((SAMPLES, UNITS)))
    gradient = [(old - new) / rate for old, new in zip(before, model.get_weights(), strict=True)]
    epsilon = 1e-2
    ahead, behind = (loss([w + s * epsilon * g for w, g in zip(before, gradient, strict=True)]) for s in (1, -1))
    slope = sum((g**2).sum() for g in gradient)
    assert slope > 1e-4
    np.testing.assert_allclose((ahead - behind) / (2 * epsilon), slope, rtol=0.01)


def test_no_other_loop_is_taken_in_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("cuDNN knows no such cells")

    wrapper = dropout(LSTM())
    wrapper.build(X.shape)
    monkeypatch.setattr(layers.LSTM, "inner_loop", fail)
    wrapper(X, training=True)


def test_monte_carlo_draws_anew():
    model = keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), dropout(layers.LSTM(UNITS))])
    prediction = monte_carlo(model, X, samples=3, seed=1, verbose=0)
    assert (prediction.std.max(1) > 1e-3).all()


@every
def test_inputs_that_are_no_sequences_are_refused(method):
    for layer in (layers.LSTM(3), layers.RNN(layers.GRUCell(3))):
        for shape in ((2, 3), (2, 3, 4, 5)):
            with pytest.raises(ValueError, match=f"expected ndim=3, found ndim={len(shape)}"):
                method(layer, 0.5)(np.ones(shape, "float32"))
        for training in (False, True):
            with pytest.raises(ValueError, match=r"(?s)`sequences` must have a timestep.*Received: .*\(2, 0, 4\)"):
                method(layer, 0.5)(np.ones((2, 0, 4), "float32"), training=training)


@every
def test_integers_are_taken_as_the_wrapped_layer_takes_them(method):
    x = np.arange(SAMPLES * TIMESTEPS * FEATURES).reshape(X.shape) % 3
    wrapper = method(LSTM(**LAST), 0.25)
    for training in (False, True):
        wrapper._random_state.write(calls=0)
        one = to_numpy(wrapper(x, training=training))
        wrapper._random_state.write(calls=0)
        np.testing.assert_array_equal(one, to_numpy(wrapper(x.astype("float32"), training=training)))


class OwnCell(layers.LSTMCell):
    pass


@pytest.mark.parametrize(
    "layer",
    [layers.Dense(3), layers.LSTMCell(3), layers.Bidirectional(layers.LSTM(3)), layers.RNN(OwnCell(3)), "lstm"],
    ids=lambda layer: getattr(layer, "name", layer),
)
def test_another_layer_is_refused(layer):
    with pytest.raises(ValueError, match=r"(?s)`layer` must be a keras.layers.*Received: layer="):
        dropout(layer)


@pytest.mark.parametrize("rate", [-0.1, 1.5, True, None])
def test_a_bad_rate_is_refused(rate):
    with pytest.raises(ValueError, match=r"(?s)`rate` must be.*in .0, 1.*Received: rate="):
        dropout(LSTM(), rate)


@pytest.mark.parametrize("own", ["dropout", "recurrent_dropout"])
def test_a_layer_that_drops_by_itself_is_refused(own):
    with pytest.raises(ValueError, match=rf"(?s)`layer` must not drop.*Received: .*{own}=0.3"):
        dropout(layers.GRU(3, **{own: 0.3}))
