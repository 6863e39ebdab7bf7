"""In place of Keras's own layers: their arguments, their axes, their files, and what they take."""

import inspect

import keras
import numpy as np
import pytest
from backend import multiplier
from catalog import ROWS

import keras_dropouts as kd

NAMESAKES = [row for row in ROWS if hasattr(keras.layers, str(row))]
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
    kd.UniformDropout: ({"per_channel": True}, [1]),
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
