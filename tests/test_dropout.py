import functools
import itertools

import keras
import numpy as np
import pytest
from backend import compiled_calls, multiplier, to_numpy, train
from catalog import nearest
from keras import ops
from keras.optimizers.schedules import PiecewiseConstantDecay

from keras_dropouts import (
    Dropout,
    MaxDrop,
    MaxPoolingDropout1D,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    Standout,
    TimestepDropout,
)

SHAPE = (40, 30, 20)


@pytest.mark.parametrize("tied", list(itertools.product([False, True], repeat=3)))
@pytest.mark.parametrize("entry", ["size", "None"])
def test_the_eight_noise_shapes_of_a_sequence(tied, entry):
    noise_shape = [1 if t else n if entry == "size" else None for n, t in zip(SHAPE, tied, strict=True)]
    layer = Dropout(0.4, noise_shape=noise_shape, seed=3)
    m = multiplier(layer, SHAPE)
    for axis, t in enumerate(tied):
        assert (np.ptp(m, axis=axis) == 0).all() == (t or all(tied))
    # Tied axes share one draw: the mask is that of the noise shape, repeated.
    small = multiplier(Dropout(0.4, seed=3), [1 if t else n for n, t in zip(SHAPE, tied, strict=True)])
    np.testing.assert_array_equal(m, np.broadcast_to(small, SHAPE))
    assert Dropout.from_config(layer.get_config()).noise_shape == tuple(noise_shape)


@pytest.mark.parametrize(
    "noise_shape",
    [
        *("123", "", b"x", bytearray(b"x"), 3, {1: 2}, {1, 2}, np.array(3), (1, [2]), [[1, 1]]),
        *((1, 0, 3), (1, -1, 3), (1, 1.5, 3), (1, np.float32(2), 3), (1, True, 3), (1, "2", 3), (1, b"2", 3)),
    ],
    ids=repr,
)
def test_a_bad_noise_shape_is_refused(noise_shape):
    with pytest.raises(ValueError, match=r"(?s)`noise_shape` must be.*Received: noise_shape="):
        Dropout(0.5, noise_shape=noise_shape)


@pytest.mark.parametrize("noise_shape", [(None, 1), (1, 1, 1, 1), (None, 7, None), (2, 1, None)])
def test_a_noise_shape_that_does_not_fit_is_refused(noise_shape):
    with pytest.raises(ValueError, match=r"(?s)noise shape must have one entry for each axis.*\(3, 5, 6\)"):
        Dropout(0.5, noise_shape=noise_shape)(np.ones((3, 5, 6), "float32"), training=True)


class Keras2TimestepDropout(Dropout):
    """As tutorials for Keras 2 write it."""

    def _get_noise_shape(self, inputs):
        input_shape = ops.shape(inputs)
        return (input_shape[0], input_shape[1], 1)


class ReturnsNone(Dropout):
    def _get_noise_shape(self, inputs):
        return None


def test_an_overridden_noise_shape_is_used():
    shape = (3, 5, 6)
    np.testing.assert_array_equal(
        multiplier(Keras2TimestepDropout(0.5, seed=1), shape), multiplier(TimestepDropout(0.5, seed=1), shape)
    )
    (compiled,) = compiled_calls(Keras2TimestepDropout(0.5, seed=1), [np.ones(shape, "float32")])
    np.testing.assert_array_equal(compiled, multiplier(TimestepDropout(0.5, seed=1), shape))
    np.testing.assert_array_equal(multiplier(ReturnsNone(0.5, seed=1), shape), multiplier(Dropout(0.5, seed=1), shape))


def test_an_overridden_noise_shape_is_used_with_unknown_sizes():
    inputs = keras.Input((None, 6))
    model = keras.Model(inputs, Keras2TimestepDropout(0.5, seed=1)(inputs))
    model.compile("sgd", "mse")
    for timesteps in (5, 9):
        x = np.ones((8, timesteps, 6), "float32")
        model.fit(x, x, verbose=0)
    m = to_numpy(model(np.ones((8, 9, 6), "float32"), training=True))
    assert (np.ptp(m, axis=2) == 0).all() and np.ptp(m) > 0


def test_every_length_of_a_sequence_has_the_eager_mask():
    lengths = [3, 4, 5, 8, 9, 17, 31, 33]
    inputs = [np.ones((2, n, 3), "float32") for n in lengths]
    eager = Dropout(0.5, seed=1)
    for one, other in zip(compiled_calls(Dropout(0.5, seed=1), inputs), inputs, strict=True):
        np.testing.assert_array_equal(one, train(eager, other))


@pytest.mark.parametrize("layer", [Dropout, TimestepDropout, SpatialDropout1D])
@pytest.mark.parametrize("rate", [0, 0.3, 1])
def test_scaling_at_inference(layer, rate):
    x = np.random.default_rng(0).standard_normal((3, 5, 7)).astype("float32")
    paper, inverted = layer(rate, seed=1, scaling="inference"), layer(rate, seed=1)
    m = multiplier(inverted, x.shape)
    np.testing.assert_array_equal(train(paper, x), np.where(m == 0, 0, x))
    np.testing.assert_allclose(to_numpy(paper(x)), x * (1 - nearest(rate)), rtol=1e-6)
    twin = layer.from_config(paper.get_config())
    np.testing.assert_allclose(to_numpy(twin(x)), x * (1 - nearest(rate)), rtol=1e-6)


def test_scaling_at_inference_follows_the_rate(tmp_path):
    layer = Dropout(PiecewiseConstantDecay([0], [0.25, 0.5]), scaling="inference", seed=1)
    model = keras.Sequential([keras.Input((6,)), layer])
    model.compile("sgd", "mse")
    x = np.ones((2, 6), "float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), 0.75)
    model.fit(x, x, verbose=0)
    np.testing.assert_allclose(model.predict(x, verbose=0), 0.5)
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras").predict(x, verbose=0), 0.5)
    layer.rate = 0.75
    np.testing.assert_allclose(model.predict(x, verbose=0), 0.25)


@pytest.mark.parametrize(
    "layer, name, allowed",
    [
        (Dropout, "scaling", "'training' or 'inference'"),
        (SpatialDropout1D, "data_format", "'channels_first', 'channels_last' or None"),
        (MaxDrop, "across", "'feature_map' or 'channels'"),
        (MaxPoolingDropout1D, "padding", "'valid' or 'same'"),
        (functools.partial(Standout, keras.layers.Dense(3)), "beta_mode", "'shift' or 'weights'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_choice_is_refused(layer, name, allowed):
    choice = allowed.split("'")[1]
    # Arrays, whose comparisons give arrays.
    for value in ("test", "", 1, b"same", [choice], np.array(choice, dtype=object), np.array([choice, choice])):
        with pytest.raises(ValueError, match=f"`{name}` must be {allowed}. Received: {name}="):
            layer(0.5, **{name: value})
    layer(0.5, **{name: np.str_(choice)})


def test_scaling_at_inference_needs_floats():
    with pytest.raises(ValueError, match=r"(?s)`inputs` of Dropout must be one tensor of a float.*int32"):
        Dropout(0.5, scaling="inference")(np.ones((2, 3), "int32"))


@pytest.mark.parametrize(
    "layer, channels_last",
    [(SpatialDropout1D, (4, 5, 3)), (SpatialDropout2D, (4, 2, 5, 3)), (SpatialDropout3D, (4, 2, 5, 2, 3))],
)
def test_spatial_dropout_with_channels_first(layer, channels_last):
    last = multiplier(layer(0.5, data_format="channels_last", seed=1), channels_last)
    first = multiplier(layer(0.5, data_format="channels_first", seed=1), np.moveaxis(last, -1, 1).shape)
    np.testing.assert_array_equal(np.moveaxis(first, 1, -1), last)
    assert layer(0.5).data_format == keras.config.image_data_format()


def test_timestep_dropout_with_channels_first():
    m = multiplier(TimestepDropout(0.5, data_format="channels_first", seed=1), (4, 3, 5))
    assert (np.ptp(m, axis=1) == 0).all() and np.ptp(m, axis=2).max() > 0


@pytest.mark.parametrize("layer", [TimestepDropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D])
def test_bad_arguments_of_the_family(layer):
    with pytest.raises(ValueError, match=r"(?s)`data_format` must be.*Received: data_format='last'"):
        layer(0.5, data_format="last")
    with pytest.raises(TypeError, match="noise_shape"):
        layer(0.5, noise_shape=(1, 1))
    with pytest.raises(ValueError, match="ndim"):
        layer(0.5)(np.ones((3, 4), "float32"))


@pytest.mark.parametrize("layer", [Dropout, TimestepDropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D])
def test_tools_find_a_keras_dropout(layer):
    assert isinstance(layer(0.5), keras.layers.Dropout)


def test_a_number_set_late_outlives_the_schedule(tmp_path):
    layer = Dropout(PiecewiseConstantDecay([0], [0.0, 1.0]), seed=1)
    model = keras.Sequential([keras.Input((5,)), layer])
    model.compile("sgd", "mse")
    x = np.ones((4, 5), "float32")
    assert [model.fit(x, x * 0, verbose=0).history["loss"][0] for _ in range(2)] == [1, 0]
    layer.rate = 0
    assert model.fit(x, x * 0, verbose=0).history["loss"][0] == 1
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").layers[0].rate == 0


@pytest.mark.parametrize("values", [[-0.5, 2.0, 0.5], [2.0, 0.5, 0.5]])
def test_a_schedule_outside_0_and_1(values):
    schedule = PiecewiseConstantDecay([0, 1], values)
    with pytest.raises(ValueError, match="`rate` must be a number in"):
        Dropout(schedule)
    layer = Dropout(PiecewiseConstantDecay([0, 1], [0.5, 2.0, -1.0]), seed=1)
    draws = [multiplier(layer, (4, 5)) for _ in range(3)]
    assert (draws[1] == 0).all() and (draws[2] == 1).all()
