import re

import keras
import numpy as np
import pytest
from backend import to_numpy
from keras import layers

import keras_dropouts as kd
from keras_dropouts import always_on, insert_after, replace

X = np.random.default_rng(0).standard_normal((5, 6, 8)).astype("float32")


def dropout(layer):
    return kd.Dropout(0.5, seed=1)


def sequential():
    parts = [layers.Dense(8, "relu", name="hidden"), kd.Dropout(0.5), layers.BatchNormalization(), layers.Dense(2)]
    return keras.Sequential([keras.Input((6, 8)), *parts], name="sequence")


def functional():
    """Dictionaries in and out, a layer called twice, an operation that is no layer, and a Lambda that no file holds."""
    factor = 2.0
    inputs = {name: keras.Input((6, 8), name=name) for name in ("one", "other")}
    shared = layers.Dense(8, name="shared")
    both = [shared(inputs["one"]), shared(inputs["other"])]
    x = layers.Lambda(lambda x: factor * x, name="twice")(both[0] + both[1] / 3)
    x = layers.LSTM(8, return_sequences=True, name="recurrent")(x, mask=inputs["one"][:, :, 0] > 0)
    return keras.Model(inputs, {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(4, name="b")(both[1])})


def nested():
    inputs = keras.Input((6, 8))
    inner = keras.Model(inputs, layers.Dense(8, name="shared")(layers.Dense(8, name="deep")(inputs)), name="inner")
    middle = keras.Sequential([keras.Input((6, 8)), inner, layers.BatchNormalization(name="norm")], name="middle")
    middle.trainable = False
    x = keras.Input((6, 8))
    y = inner(middle(x, training=False))
    return keras.Model(x, layers.MultiHeadAttention(2, 4, dropout=0.5, name="attention")(y, y), name="outer")


MODELS = [sequential, functional, nested]


def trained(model):
    """The model with weights and statistics that are not those it began with."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 1.5, weight.shape) * np.where(rng.random(weight.shape) < 0.5, 0.1, 0.2))
    return model


def inputs_of(model):
    return {"one": X, "other": -X} if len(model.inputs) == 2 else X


def numbers(model, x=None, **arguments):
    outputs = model(inputs_of(model) if x is None else x, **arguments)
    return np.concatenate([to_numpy(y).ravel() for y in keras.tree.flatten(outputs)])


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


every = pytest.mark.parametrize("make_model", MODELS, ids=lambda make: make.__name__)
both = pytest.mark.parametrize(
    "operate",
    [
        lambda model: insert_after(model, (layers.Dense, layers.BatchNormalization), dropout),
        lambda model: replace(model, layers.Dense, lambda layer: kd.DropConnect(layer, rate=0.0)),
    ],
    ids=["insert_after", "replace"],
)


@every
@both
def test_inference_is_as_before_and_the_model_untouched(make_model, operate):
    model = trained(make_model())
    model.compile(loss=lambda y, z: 0.0)
    before = [to_numpy(v) for v in model.variables]
    summary, expected = names(model), numbers(model)
    changed = operate(model)
    np.testing.assert_allclose(numbers(changed), expected, rtol=1e-6)
    assert not changed.compiled
    assert (names(model), model.name) == (summary, changed.name)
    for variable in changed.variables:
        variable.assign(variable + 1)
    np.testing.assert_array_equal(numbers(model), expected)
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, to_numpy(other))


@pytest.mark.parametrize("make_model", [sequential, functional])
def test_what_is_inserted_is_active_in_training(make_model):
    model = trained(make_model())
    changed = insert_after(model, layers.Dense, lambda layer: kd.Dropout(1.0))
    assert not numbers(changed, training=True).any()


@both
def test_it_trains_and_can_be_saved(operate, tmp_path):
    changed = operate(trained(nested()))
    changed.compile(keras.optimizers.SGD(0.1), "mse")
    before = changed.get_weights()
    changed.fit(X, X, verbose=0)
    # The middle is frozen.
    moved = [(one != other).any() for one, other in zip(changed.get_weights(), before, strict=True)]
    assert any(moved) and not all(moved)
    changed.save_weights(tmp_path / "changed.weights.h5")
    again = operate(nested())
    again.load_weights(tmp_path / "changed.weights.h5")
    np.testing.assert_array_equal(numbers(again), numbers(changed))


@both
def test_files(operate, tmp_path):
    changed = operate(trained(sequential()))
    changed.save(tmp_path / "changed.keras")
    loaded = keras.saving.load_model(tmp_path / "changed.keras")
    assert isinstance(loaded, keras.Sequential)
    np.testing.assert_array_equal(numbers(loaded), numbers(changed))
    np.testing.assert_array_equal(numbers(loaded, training=True), numbers(changed, training=True))


def test_names():
    model = insert_after(sequential(), layers.Dense, lambda layer: kd.SpatialDropout1D(0.1))
    assert names(model)[:2] == ["hidden", "hidden_spatial_dropout1d"]
    model = insert_after(model, "hidden", lambda layer: kd.SpatialDropout1D(0.1, name="spatial_dropout1d"))
    assert names(model)[:3] == ["hidden", "hidden_spatial_dropout1d_1", "hidden_spatial_dropout1d"]
    model = replace(model, kd.SpatialDropout1D, lambda layer: layers.Dropout(0.1))
    assert names(model)[:3] == ["hidden", "hidden_spatial_dropout1d_1", "hidden_spatial_dropout1d"]
    assert type(model.layers[1]) is layers.Dropout


def test_a_shared_layer_is_followed_by_one_layer():
    changed = insert_after(functional(), "shared", dropout)
    assert names(changed).count("shared") == names(changed).count("shared_dropout") == 1
    numbers(changed, training=True)
    calls = to_numpy(changed.get_layer("shared_dropout").variables[0])[1]
    assert calls == 2


def test_a_shared_model_stays_shared():
    changed = insert_after(nested(), "deep", dropout)
    inner = changed.get_layer("inner")
    assert inner is changed.get_layer("middle").get_layer("inner")
    assert names(inner) == ["deep", "deep_dropout", "shared"]
    assert [layer.trainable for layer in (changed, changed.get_layer("middle"))] == [True, False]


@pytest.mark.parametrize(
    "match, matched",
    [
        ("deep", ["deep"]),
        (re.compile("^(deep|norm)$"), ["deep", "norm"]),
        (re.compile("ee"), ["deep"]),
        (layers.BatchNormalization, ["norm"]),
        ((layers.BatchNormalization, layers.MultiHeadAttention), ["attention", "norm"]),
        pytest.param(lambda layer: layer.name.startswith("d"), ["deep"], id="function"),
        (keras.Model, ["inner", "middle"]),
    ],
    ids=str,
)
def test_match(match, matched):
    made = []
    insert_after(nested(), match, lambda layer: made.append(layer.name) or dropout(layer))
    assert sorted(made) == matched


def test_a_nested_model_is_replaced_as_a_whole():
    changed = replace(nested(), "middle", lambda layer: layers.Identity())
    assert isinstance(changed.get_layer("middle"), layers.Identity)


def test_random_states_are_carried_over():
    model = sequential()
    numbers(model, training=True)
    changed = insert_after(model, layers.BatchNormalization, lambda layer: layers.Identity())
    np.testing.assert_array_equal(numbers(changed, training=True), numbers(model, training=True))


def test_a_copy_that_make_changes_keeps_its_weights():
    def linear(layer):
        layer.activation = keras.activations.linear
        return layer

    model = trained(sequential())
    changed = replace(model, "hidden", linear)
    np.testing.assert_array_equal(changed.get_weights()[0], model.get_weights()[0])
    assert model.layers[0].activation is keras.activations.relu and (numbers(changed) != numbers(model)).any()


def test_a_class_without_init_is_kept():
    class Custom(keras.Model):
        pass

    inputs = keras.Input((8,))
    model = Custom(inputs, layers.Dense(3)(inputs))
    assert type(insert_after(model, layers.Dense, dropout)) is Custom


def test_precision_is_kept():
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layers.Dense(3, dtype="mixed_bfloat16", name="half")(inputs))
    changed = insert_after(model, layers.Dense, dropout)
    assert changed.get_layer("half").dtype_policy.name == "mixed_bfloat16"


def test_always_on():
    model = always_on(insert_after(nested(), "deep", dropout))
    assert (numbers(model, X) != numbers(model, X)).any()


def test_a_real_architecture(tmp_path):
    options = {"input_shape": (32, 32, 3), "weights": None, "alpha": 0.35, "classes": 5}
    model = keras.applications.MobileNetV2(**options)
    before = model.get_weights()
    changed = insert_after(model, re.compile("1_project$"), lambda layer: kd.DropBlock2D(0.1, block_size=2))
    x = np.random.default_rng(0).standard_normal((4, 32, 32, 3)).astype("float32")
    # With branches, and quicker to compile than the whole.
    one, other = (keras.Model(each.input, each.get_layer("block_5_add").output) for each in (model, changed))
    np.testing.assert_array_equal(one.predict(x, verbose=0), other.predict(x, verbose=0))
    changed.compile("sgd", "sparse_categorical_crossentropy")
    assert np.isfinite(changed.fit(x, np.arange(4), verbose=0).history["loss"]).all()
    changed.save(tmp_path / "changed.keras")
    loaded = keras.saving.load_model(tmp_path / "changed.keras")
    for one, other in zip(
        [*model.get_weights(), *loaded.get_weights()], [*before, *changed.get_weights()], strict=True
    ):
        np.testing.assert_array_equal(one, other)


LAYER = kd.Dropout(0.5)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize("operate", [insert_after, replace])
@pytest.mark.parametrize(
    "arguments, message",
    [
        ((Subclassed(), "hidden", dropout), "`model` must be a Sequential or functional.*Received: model="),
        ((keras.layers.Dense(3), "hidden", dropout), "`model` must be.*Received: model="),
        ((keras.Sequential([layers.Dense(3)]), "dense", dropout), "`model` must be.*built.*Received: model="),
        ((sequential(), "missing", dropout), r"`match` must match.*'hidden', .*Received: match='missing'"),
        ((nested(), re.compile("query"), dropout), r"`match` must match.*'deep', .*Received: match=re.compile"),
        ((sequential(), 3, dropout), "`match` must be a class.*Received: match=3"),
        ((sequential(), "hidden", "dropout"), "`make` must be a function.*Received: make='dropout'"),
        ((sequential(), "hidden", lambda layer: None), "`make` must return a layer.*Received: None"),
        ((sequential(), layers.Dense, lambda layer: LAYER), "`make` must return a layer, a new.*Received: <Dropout"),
    ],
)
def test_bad_arguments_are_refused(operate, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        operate(*arguments)


def test_a_layer_with_several_outputs_cannot_be_followed():
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layers.LSTM(3, return_state=True, name="states")(inputs))
    with pytest.raises(ValueError, match=r"`match` must match layers that have one output.*states"):
        insert_after(model, "states", dropout)
