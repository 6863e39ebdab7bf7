"""What Keras's recurrent layers can do, they can with the wrapper around them."""

import keras
import numpy as np
import pytest
from backend import to_numpy, train
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
    wrapper = dropout(LSTM(stateful=True))
    wrapper.build(X.shape)
    states = None
    for call in range(2):
        outputs, states = run(wrapper.layer, X, states=states, update=update(call))
        assert_close(wrapper(X, training=True), outputs, *states)
    wrapper.reset_state()
    outputs, states = run(wrapper.layer, X)
    assert_close(wrapper(X), outputs, *states)


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
@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(method, dtype):
    mixed, single = (method(LSTM(dtype=dtype), 0.25, seed=SEED) for dtype in (dtype, "float32"))
    for wrapper in (mixed, single):
        wrapper.build(X.shape)
    mixed.set_weights(single.get_weights())
    for one, other in zip(mixed(X, training=True), single(X, training=True), strict=True):
        assert keras.backend.standardize_dtype(one.dtype) == mixed.compute_dtype
        np.testing.assert_allclose(to_numpy(one), to_numpy(other), atol=0.05)


@every
def test_fit_draws_new_masks_for_each_batch_of_unknown_length(method):
    def model():
        wrapper = method(layers.LSTM(UNITS, kernel_initializer="ones", recurrent_initializer="ones"), 0.25, seed=SEED)
        model = keras.Sequential([keras.Input((None, FEATURES)), layers.Masking(), wrapper])
        model.compile(keras.optimizers.SGD(0.0), "mae")
        return model

    x, y = np.concatenate([abs(X), abs(X)]) / 9, np.zeros((2 * SAMPLES, UNITS))
    x[:, :2] = 0
    fitted, twin = model(), model()
    loss = fitted.fit(x, y, batch_size=SAMPLES, shuffle=False, verbose=0).history["loss"][0]
    losses = [abs(train(twin, batch)).mean() for batch in np.split(x, 2)]
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-5)
    assert losses[0] != losses[1]


def test_training_moves_what_the_gradient_moves():
    """Against a difference of losses, through all timesteps and masks."""
    wrapper = Zoneout(GRU(return_sequences=False, return_state=False), 0.25, seed=SEED)
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


@every
def test_no_other_loop_is_taken_in_training(method, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("cuDNN knows no such cells")

    wrapper = method(LSTM(), 0.25)
    wrapper.build(X.shape)
    monkeypatch.setattr(layers.LSTM, "inner_loop", fail)
    wrapper(X, training=True)


def test_monte_carlo_draws_anew():
    model = keras.Sequential([keras.Input((TIMESTEPS, FEATURES)), dropout(layers.LSTM(UNITS))])
    prediction = monte_carlo(model, X, samples=3, seed=1, verbose=0)
    assert (prediction.std.max(1) > 1e-3).all()


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


@pytest.mark.parametrize("own", ["dropout", "recurrent_dropout"])
def test_a_layer_that_drops_by_itself_is_refused(own):
    with pytest.raises(ValueError, match=rf"(?s)`layer` must not drop.*Received: .*{own}=0.3"):
        dropout(layers.GRU(3, **{own: 0.3}))
