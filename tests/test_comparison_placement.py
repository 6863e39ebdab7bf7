"""Where dropout goes in a model that exists already."""

import keras
import numpy as np
import pytest
from backend import to_numpy
from keras import layers

from keras_dropouts import DropConnect, Dropout, SpatialDropout2D, compare
from keras_dropouts.comparison.candidate import Candidate
from keras_dropouts.comparison.placement import ByRule
from keras_dropouts.comparison.task import Task
from keras_dropouts.keras_internals import all_layers

TASK = Task("classification", "accuracy", 2)


def placed(model, layer, finetune=False, kind=None):
    """The names of the layers that the dropout is behind or around, and the model."""
    made = ByRule(model, finetune).build(Candidate(layer, 0.25), TASK)
    found = [each for each in all_layers(made.model) if isinstance(each, kind or layer)]
    return [each.name for each in found], made


def images():
    """Hidden activations, a layer on its own, a model within, and a head of two layers."""
    within = keras.Sequential(
        [keras.Input((4, 4, 3)), layers.Conv2D(3, 1, activation="relu", name="inner")], name="within"
    )
    inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(3, 1, name="linear")(inputs)
    x = layers.BatchNormalization(name="norm")(x)
    x = within(layers.ReLU(name="relu")(x))
    x = layers.Flatten(name="flat")(x)
    return keras.Model(inputs, layers.Activation("softmax")(layers.Dense(2, name="head")(x)))


def test_dropout_goes_behind_activations_and_before_the_head():
    names, made = placed(images(), Dropout)
    assert names == ["relu_dropout", "inner_dropout", "flat_dropout"] and made.places == 3
    # Where it fits.
    assert placed(images(), SpatialDropout2D)[0] == ["relu_spatial_dropout2d", "inner_spatial_dropout2d"]
    # Around what has weights.
    names, made = placed(images(), DropConnect)
    assert names == ["inner"] and made.places == 1


def test_dropout_goes_around_recurrent_and_attention_layers():
    inputs = keras.Input((5, 4))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(inputs)
    x = layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    model = keras.Model(inputs, layers.Dense(2, "softmax")(x))
    assert placed(model, Dropout)[0] == ["lstm_dropout", "attention_dropout", "pool_dropout"]


def test_dropout_takes_the_place_of_the_dropout_that_is_there():
    inputs = keras.Input((6,))
    x = layers.Dense(4, "relu", name="one")(inputs)
    x = layers.Dropout(0.5, name="theirs")(x)
    x = Dropout(0.5, name="ours")(layers.Dense(4, "relu", name="two")(x))
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="head")(x))
    names, made = placed(model, Dropout)
    assert names == ["theirs", "ours"] and [made.model.get_layer(name).rate for name in names] == [0.25, 0.25]
    # None is without any, and what goes around a layer does so without them.
    none = ByRule(model).build(Candidate(), TASK).model
    assert not [layer for layer in none.layers if isinstance(layer, (layers.Dropout, Dropout))]
    names, made = placed(model, DropConnect)
    assert names == ["one", "two"] and not [each for each in made.model.layers if isinstance(each, layers.Dropout)]


def test_weights_are_new_but_for_what_does_not_train_or_are_kept():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    norm, frozen = layers.Normalization(name="norm"), layers.Dense(4, "relu", name="frozen", trainable=False)
    norm.adapt(np.random.default_rng(0).normal(3, 2, size=(50, 6)))
    model = keras.Model(inputs, layers.Dense(2, "softmax", name="head")(frozen(norm(inputs))))
    model.compile(keras.optimizers.SGD(0.125), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])

    def kept(made, name):
        pairs = zip(made.model.get_layer(name).get_weights(), model.get_layer(name).get_weights(), strict=True)
        return all(np.array_equal(one, other) for one, other in pairs)

    _, made = placed(model, Dropout)
    assert kept(made, "norm") and kept(made, "frozen") and not kept(made, "head")
    assert made.model.optimizer.learning_rate == 0.125 and made.model.compiled
    _, made = placed(model, Dropout, finetune=True)
    assert kept(made, "head")
    # The model itself is not touched.
    none = ByRule(model, True).build(Candidate(), TASK).model
    x = np.random.default_rng(1).normal(3, 2, size=(30, 6)).astype("float32")
    none.fit(x, np.zeros(30), verbose=0)
    assert not np.array_equal(none.get_layer("head").get_weights()[0], model.get_layer("head").get_weights()[0])
    np.testing.assert_array_equal(to_numpy(made.model(x)), to_numpy(model(x)))


def test_weights_are_those_of_the_model_without_dropout():
    model, weights = images(), []
    for candidate in (Candidate(), Candidate(Dropout, 0.5), Candidate(DropConnect, 0.5)):
        keras.utils.set_random_seed(4)
        made = ByRule(model).build(candidate, TASK).model
        weights.append([to_numpy(weight) for weight in made.weights if "seed" not in weight.path])
    for other in weights[1:]:
        for one, another in zip(weights[0], other, strict=True):
            np.testing.assert_array_equal(one, another)


class Own(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    "model, message",
    [
        (Own(), "functional or Sequential"),
        (keras.Sequential([layers.Dense(2)]), "that is built"),
        (keras.Sequential([keras.Input((2,)), layers.Dense(2, "softmax")]), "have a hidden layer"),
    ],
)
def test_what_has_no_place_is_refused(model, message):
    with pytest.raises(ValueError, match=f"`model` must .*{message}"):
        compare(model, ((np.ones((9, 2)), np.arange(9) % 2),) * 2, [Dropout], verbose=False)
