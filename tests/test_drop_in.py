"""In place of Keras's own layers: their arguments, their axes, their files, and what they take."""

import inspect

import keras
import numpy as np
import pytest
from backend import multiplier, to_numpy
from catalog import ROWS

import keras_dropouts as kd

NAMESAKES = [row for row in ROWS if hasattr(keras.layers, str(row)) and row.rated]
namesakes = pytest.mark.parametrize("row", NAMESAKES, ids=str)


@pytest.fixture(params=["channels_last", "channels_first"])
def image_data_format(request):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(request.param)
    yield request.param
    keras.config.set_image_data_format(before)


def stock(row):
    return getattr(keras.layers, str(row))


def tied(m):
    return [axis for axis in range(m.ndim) if (np.ptp(m, axis=axis) == 0).all()]


# The arguments


def test_the_namesakes_are_all_there():
    assert [str(row) for row in NAMESAKES] == [
        "Dropout",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "SpatialDropout3D",
        "GaussianDropout",
        "AlphaDropout",
    ]


@namesakes
def test_stocks_arguments_come_first_with_stocks_defaults(row):
    def positional(layer):
        parameters = inspect.signature(layer).parameters.values()
        return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]

    assert positional(row.layer) == positional(stock(row))


@namesakes
def test_stocks_arguments_by_position_have_stocks_meaning(row, image_data_format):
    values = {"rate": 0.3, "noise_shape": (None, 1, None), "seed": 42, "name": "it", "dtype": "mixed_bfloat16"}
    names = list(inspect.signature(stock(row)).parameters)
    arguments = [values.get(name) for name in names if name != "kwargs"]
    ours, theirs = row.layer(*arguments), stock(row)(*arguments)
    assert ours.dtype_policy == theirs.dtype_policy
    # Keras's own configs are read too, which may have lost the policy.
    for layer in (ours, row.layer.from_config(theirs.get_config())):
        for name in set(names) - {"dtype", "kwargs"}:
            assert getattr(layer, name) == getattr(theirs, name)


@namesakes
def test_the_same_axes_are_tied_as_by_stock(row, image_data_format):
    shape = (8, *row.shape[1:])
    assert tied(multiplier(row.make(0.5), shape)) == tied(multiplier(stock(row)(0.5, seed=1), shape))


# Sequences, whatever the format of images


SEQUENCES = {
    kd.TimestepDropout: ({}, [2]),
    kd.SpatialDropout1D: ({}, [1]),
    kd.DropBlock1D: ({"block_size": 9}, [1]),
    kd.UniformDropout: ({"spatial": True}, [1]),
}


@pytest.mark.parametrize("layer", SEQUENCES)
def test_sequences_have_their_channels_last(layer, image_data_format):
    arguments, axes = SEQUENCES[layer]
    made = layer(0.3, seed=1, **arguments)
    assert tied(multiplier(made, (12, 9, 5))) == axes
    assert made.get_config()["data_format"] == "channels_last"
    told = layer(0.3, seed=1, data_format="channels_first", **arguments)
    # What was saved while a layer without the argument took the format of images.
    told = layer.from_config(told.get_config())
    assert tied(multiplier(told, (12, 5, 9))) == [3 - axis for axis in axes]


def test_max_drop_of_a_sequence(image_data_format):
    x = np.arange(30, dtype="float32").reshape(1, 6, 5)
    y = np.array(keras.ops.convert_to_numpy(kd.MaxDrop(1.0)(x, training=True)))
    np.testing.assert_array_equal(y != x, np.arange(30).reshape(x.shape) >= 25)


@pytest.mark.parametrize("layer", [kd.MaxDrop, kd.UniformDropout])
def test_images_have_their_channels_where_keras_has_them(layer, image_data_format):
    made = layer(0.5, seed=1)
    made(np.ones((2, 3, 4, 5), "float32"))
    assert made.get_config()["data_format"] == image_data_format
    assert layer.from_config(made.get_config()).data_format == image_data_format


def test_pooling_is_where_keras_pools(image_data_format):
    x = np.random.default_rng(0).standard_normal((3, 8, 6)).astype("float32")
    ours, theirs = kd.MaxPoolingDropout1D(0, 2), keras.layers.MaxPooling1D(2)
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(layer(x)) for layer in (ours, theirs)))


# In models and files


def model_with(layer, row):
    layers = [keras.Input(row.shape[1:]), layer, keras.layers.Flatten(), keras.layers.Dense(2)]
    return keras.Sequential(layers)


@namesakes
def test_a_clone_has_ours_in_place_of_stocks(row):
    theirs = model_with(stock(row)(0.3, seed=1, name="it"), row)

    def ours_for(layer):
        return (row.layer if isinstance(layer, stock(row)) else type(layer)).from_config(layer.get_config())

    ours = keras.models.clone_model(theirs, clone_function=ours_for)
    ours.set_weights(theirs.get_weights())
    x = np.random.default_rng(0).standard_normal(row.shape).astype("float32")
    np.testing.assert_array_equal(to_numpy(ours(x)), to_numpy(theirs(x)))
    # And a clone of ours is of ours, with masks of its own count.
    twin = keras.models.clone_model(ours)
    assert type(twin.get_layer("it")) is row.layer
    ours.get_layer("it")(x, training=True)
    assert twin.get_layer("it").get_config() == ours.get_layer("it").get_config()
    assert twin.get_layer("it")._random_state.read()[1] == 0


@namesakes
def test_stock_reads_our_weights(row, tmp_path):
    ours, theirs = (model_with(layer(0.3), row) for layer in (row.layer, stock(row)))
    ours.save_weights(tmp_path / "ours.weights.h5")
    with pytest.raises(ValueError, match="expected 0 variables"):
        theirs.load_weights(tmp_path / "ours.weights.h5")
    with pytest.warns(UserWarning, match="1 objects could not be loaded"):
        theirs.load_weights(tmp_path / "ours.weights.h5", skip_mismatch=True)
    for one, other in zip(theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    theirs.set_weights(ours.get_weights())


# What differs on purpose


@namesakes
def test_a_layer_of_rate_0_has_a_random_state_too(row):
    assert not hasattr(stock(row)(0), "seed_generator")
    layer = row.make(0)
    layer.rate = 0.5
    assert np.ptp(multiplier(layer, row.shape)) > 0


@namesakes
def test_what_stock_refuses_is_refused_in_other_words(row):
    bad = [{"rate": -0.5}, {"rate": 1.5}]
    if row.layer is kd.Dropout:
        bad += [{"noise_shape": shape} for shape in ("Invalid", 3, (20, 1.5, 10), (20, -1, 10), (20, 0, 10))]
    for arguments in bad:
        (name,) = arguments
        for layer, words in ((row.layer, f"^`{name}` must be"), (stock(row), f"^Invalid value.*`{name}`")):
            with pytest.raises(ValueError, match=words):
                layer(**{"rate": 0.5, **arguments})


@namesakes
def test_a_variable_is_no_rate(row):
    # What is assigned to it later would go unseen.
    with pytest.raises(ValueError, match=r"`rate` must be a number.*Received: rate=<Variable"):
        row.layer(keras.Variable(0.5))
