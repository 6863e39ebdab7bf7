"""Masksembles: the authors' masks, whose turn it is, and the members' predictions."""

import itertools

import keras
import numpy as np
import pytest
from backend import to_numpy, train

from keras_dropouts import Masksembles, always_on, monte_carlo


def normal_inputs(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def built(*args, channels=16, **kwargs):
    layer = Masksembles(*args, **kwargs)
    layer.build((None, channels))
    return layer, np.array(keras.ops.convert_to_numpy(layer.kept))


@pytest.mark.parametrize(
    ("masks", "scale", "drawn"),
    [
        (4, 2.0, ["0100110011", "1110001100", "1100100110", "1111001000"]),
        (4, 2.0, ["000111010110", "001000110111", "100110110100", "011011011000"]),
        (4, 2.0, ["1001010101001110", "1111100000101100", "1010101000101101", "0100100110110011"]),
        (3, 1.5, ["01011110101", "00111111100", "11110110010"]),
    ],
)
def test_the_masks_are_those_of_the_authors_program(masks, scale, drawn):
    # After `numpy.random.seed(7)`.
    _, kept = built(masks, scale, channels=len(drawn[0]), seed=7)
    assert ["".join(map(str, row)) for row in kept.astype(int)] == drawn


@pytest.mark.parametrize(("masks", "scale"), [(2, 1.5), (4, 2), (4, 3), (5, 4), (8, 2), (16, 1.2)])
@pytest.mark.parametrize("channels", [10, 11, 24, 61, 128, 1000])
def test_masks_of_many_sizes(masks, scale, channels):
    _, kept = built(masks, scale, channels=channels, seed=1)
    assert kept.shape == (masks, channels) and kept.any(axis=0).all()
    assert len(set(kept.sum(axis=1))) == 1
    if channels == 1000:
        pairs = list(itertools.combinations(kept, 2))
        shared = np.mean([(one & other).sum() / (one | other).sum() for one, other in pairs])
        # For the scale that the search ends at, which differs a little.
        assert abs(shared - 1 / (2 * scale - 1)) < 0.05


def test_the_published_size():
    _, kept = built(4, 2.0, channels=128, seed=3)
    assert kept.sum(axis=1).tolist() == [68] * 4


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_the_masks_take_turns_by_place_and_call(size):
    layer, kept = built(4, 2.0, seed=5)
    x = normal_inputs(size, 16)
    trained = np.zeros(4)
    for call in range(8):
        member = (np.arange(size) + call) % 4
        np.testing.assert_array_equal(train(layer, x), np.where(kept[member], x, 0))
        trained += np.bincount(member, minlength=4)
    assert len(set(trained)) == 1


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("space", [(), (3,), (3, 5), (2, 3, 5)])
def test_a_channel_is_dropped_in_all_positions(space, data_format):
    x = normal_inputs(6, *space, 16)
    rows = (6, *[1] * len(space), 16)
    layer = Masksembles(4, 2.0, data_format, seed=5)
    given = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
    y, inferred, second = train(layer, given), to_numpy(layer(given)), to_numpy(layer(given, member=6))
    if data_format == "channels_first":
        y, inferred, second = (np.moveaxis(z, 1, -1) for z in (y, inferred, second))
    kept = np.array(keras.ops.convert_to_numpy(layer.kept))
    np.testing.assert_array_equal(y, np.where(kept[np.arange(6) % 4].reshape(rows), x, 0))
    np.testing.assert_allclose(inferred, x * kept.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(second, np.where(kept[2], x, 0))


def ensemble():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((12,))
    x = Masksembles(4, 2.0, seed=1)(keras.layers.Dense(16, "relu")(inputs))
    x = Masksembles(4, 2.0, seed=2)(keras.layers.Dense(12, "relu")(x))
    return keras.Model(inputs, keras.layers.Dense(3, "softmax")(x))


def member_of(model, member, x):
    """What one network of the ensemble makes of `x`, in NumPy."""
    layers = [layer for layer in model.layers if layer.weights]
    for layer in layers:
        weights = layer.get_weights()
        x = np.where(weights[0][member], x, 0) if len(weights) == 1 else x @ weights[0] + weights[1]
        if len(weights) == 2 and layer is not layers[-1]:
            x = np.maximum(x, 0)
    x = np.exp(x - x.max(axis=1, keepdims=True))
    return x / x.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("samples", [4, 6])
def test_monte_carlo_asks_the_members_in_turn(samples):
    model, x = ensemble(), normal_inputs(7, 12)
    # Batches of 3, 3 and 1.
    prediction = monte_carlo(model, x, samples=samples, batch_size=3, verbose=0)
    members = np.stack([member_of(model, i % 4, x) for i in range(samples)])
    np.testing.assert_allclose(prediction.samples, members, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(prediction.mean, members.mean(axis=0), rtol=1e-4, atol=1e-6)
    assert prediction.std.max() > 0.01
    # Also of a model that asks one a call by itself.
    again = monte_carlo(always_on(model), x, samples=samples, batch_size=3, verbose=0)
    np.testing.assert_allclose(again.samples, members, rtol=1e-4, atol=1e-6)


def test_always_on_asks_one_member_a_call():
    model, x = ensemble(), normal_inputs(5, 12)
    active = always_on(model)
    for call in range(5):
        np.testing.assert_allclose(to_numpy(active(x)), member_of(model, call % 4, x), rtol=1e-4, atol=1e-6)


def test_the_masks_are_weights_that_do_not_train(tmp_path):
    model, other = ensemble(), ensemble()
    x, y = normal_inputs(8, 12), np.arange(8) % 3
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = [w for w in model.get_weights() if w.dtype == bool]
    model.fit(x, y, batch_size=3, epochs=2, verbose=0)
    model.save(tmp_path / "it.keras")
    for one, again in zip(before, [w for w in model.get_weights() if w.dtype == bool], strict=True):
        np.testing.assert_array_equal(one, again)
    # Masks of other seeds give way to those of the file.
    other.layers[2].kept.assign(~before[0])
    other.load_weights(tmp_path / "it.keras")
    for read in (other, keras.saving.load_model(tmp_path / "it.keras")):
        np.testing.assert_array_equal(member_of(read, 3, x), member_of(model, 3, x))


def test_what_there_are_no_masks_for_is_refused():
    for arguments, message in [
        ({"masks": 0}, "`masks` must be a positive integer"),
        ({"scale": 1}, r"`scale` must be a number in \(1, 6\]"),
        ({"scale": 6.5}, r"`scale` must be a number in \(1, 6\]"),
        ({"scale": "2"}, "`scale` must be a finite number"),
    ]:
        with pytest.raises(ValueError, match=rf"(?s){message}.*Received: "):
            Masksembles(**arguments)
    with pytest.raises(ValueError, match=r"at least 10 channels.*Received: inputs with 9 channels"):
        built(channels=9)
    with pytest.raises(ValueError, match=r"no 2 masks that use all 15 channels.*scale=6\.0"):
        built(2, 6.0, channels=15, seed=0)
    layer, _ = built(seed=0)
    for member in (-1, 1.5, "1", True):
        with pytest.raises(ValueError, match=r"`member` must be an integer.*Received: member="):
            layer(normal_inputs(2, 16), member=member)
