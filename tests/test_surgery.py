import re

import keras
import numpy as np
import pytest
from backend import BACKEND, NESTED_LISTS_ARE_SAVED, exported, to_numpy
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
        pytest.param(lambda layer: layer.name.startswith("de"), ["deep"], id="function"),
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


@keras.saving.register_keras_serializable(package="test_surgery")
class Block(layers.Layer):
    """Holds layers in every way: an attribute, a list, a tuple, a dictionary, another layer, a model."""

    def __init__(self, rate=0.5, last=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.last = rate, last
        self.single = layers.Dropout(rate)
        self.several = [layers.Dropout(rate), (layers.Dropout(rate), layers.Dense(8, name="inner"))]
        self.named = {"first": layers.Dropout(rate), "again": self.single}
        self.attention = layers.MultiHeadAttention(2, 4, dropout=rate)
        self.model = keras.Sequential([keras.Input((6, 8)), layers.Dropout(rate), layers.Dense(8)], name="within")

    def build(self, input_shape):
        self.attention.build(input_shape, input_shape)
        self.several[1][1].build(input_shape)
        super().build(input_shape)

    def call(self, x, training=False):
        for each in (self.single, self.several[0], self.several[1][0], self.several[1][1], *self.named.values()):
            x = each(x)
        x = self.model(self.attention(x, x, training=training))
        return x if self.last is None else self.last(x)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "last": keras.saving.serialize_keras_object(self.last)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "last": keras.saving.deserialize_keras_object(config["last"])})


def composed():
    inputs, block = keras.Input((6, 8)), Block(name="block")
    x = layers.TimeDistributed(layers.Dropout(0.5), name="distributed")(block(block(inputs)))
    return trained(keras.Model(inputs, Block(name="other")(layers.Dropout(0.5)(x))))


def stock(layer):
    return type(layer) is layers.Dropout


def ours(layer):
    return kd.Dropout.from_config({**layer.get_config(), "seed": 3})


def of_kind(model, kind):
    return [layer for layer in model._flatten_layers() if type(layer) is kind]


def test_what_layers_hold_is_replaced(tmp_path):
    model = composed()
    before, weights, expected = of_kind(model, layers.Dropout), model.get_weights(), numbers(model)
    assert len(before) == 2 * 6 + 2
    changed = replace(model, stock, ours)
    assert of_kind(model, layers.Dropout) == before and not of_kind(model, kd.Dropout)
    assert not of_kind(changed, layers.Dropout)
    new = of_kind(changed, kd.Dropout)
    assert [layer.name for layer in new] == [layer.name for layer in before]
    np.testing.assert_array_equal(numbers(changed), expected)
    for one, other in zip(weights, changed.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (numbers(changed, training=True) != expected).any()
    block = changed.get_layer("block")
    # The block is called twice, and calls one layer twice.
    calls = [layer._random_state.read()[1] for layer in (block.several[0], block.single, *new)]
    assert calls[:2] == [2, 4] and all(calls) and block.single is block.named["again"]
    changed.save(tmp_path / "changed.keras")
    loaded = keras.saving.load_model(tmp_path / "changed.keras")
    again = keras.models.clone_model(changed)
    for copy in (loaded, again):
        assert isinstance(copy.get_layer("block"), Block) and type(copy.get_layer("block")).__name__ == "Block"
        assert len(of_kind(copy, kd.Dropout)) == len(new) and not of_kind(copy, layers.Dropout)
    if NESTED_LISTS_ARE_SAVED:
        np.testing.assert_array_equal(numbers(loaded), expected)
        np.testing.assert_array_equal(numbers(loaded, training=True), numbers(changed, training=True))
    gaussian = replace(loaded, kd.Dropout, lambda layer: kd.GaussianDropout(layer.rate))
    assert len(of_kind(gaussian, kd.GaussianDropout)) == len(new) and not of_kind(gaussian, kd.Dropout)
    np.testing.assert_array_equal(numbers(gaussian), numbers(loaded))


def test_what_layers_share_stays_shared():
    inputs, shared = keras.Input((6, 8)), [layers.Dense(8), layers.Dropout(0.5)]
    x = inputs
    for last in (shared[0], shared[0], shared[1], shared[1]):
        x = Block(last=last)(x)
    model = trained(keras.Model(inputs, shared[1](shared[0](x))))
    changed = replace(model, stock, ours)
    one, *rest = (layer.last for layer in changed.layers[1:5])
    assert one is rest[0] is changed.layers[5] and type(one) is layers.Dense
    assert rest[1] is rest[2] is changed.layers[6] and type(rest[1]) is kd.Dropout
    np.testing.assert_array_equal(numbers(changed), numbers(model))


def test_what_layers_hold_is_trained_listed_and_exported(tmp_path):
    changed = replace(composed(), stock, ours)
    if BACKEND == "torch":
        listed = {id(parameter) for parameter in changed.parameters()}
        assert {id(layer._random_state.state.value) for layer in of_kind(changed, kd.Dropout)} <= listed
    changed.compile(keras.optimizers.SGD(0.1), "mse")
    before = changed.get_weights()
    changed.fit(X, X, verbose=0)
    assert any((one != other).any() for one, other in zip(changed.get_weights(), before, strict=True))
    if BACKEND == "tensorflow":
        np.testing.assert_allclose(exported(changed, X, tmp_path).ravel(), numbers(changed), rtol=1e-4)


def test_a_copy_within_a_layer_keeps_its_weights(tmp_path):
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4, dropout=0.5, name="attention")
    model = trained(keras.Model(inputs, attention(inputs, inputs)))
    changed = replace(model, "query", lambda layer: kd.DropConnect(layer, rate=0.0))
    assert isinstance(changed.get_layer("attention").query_dense, kd.DropConnect)
    np.testing.assert_array_equal(numbers(changed), numbers(model))

    def halved(layer):
        if stock(layer):
            layer.rate /= 2
        return layer

    with pytest.warns(UserWarning, match="1 left as they are, as DropConnect looks into what it holds: "):
        changed = replace(changed, (layers.EinsumDense, layers.Dropout), halved)
    changed.save(tmp_path / "changed.keras")
    loaded = keras.saving.load_model(tmp_path / "changed.keras").get_layer("attention")
    assert of_kind(loaded, layers.Dropout)[0].rate == 0.25 and isinstance(loaded.query_dense, kd.DropConnect)
    assert attention._dropout_layer.rate == 0.5


def test_models_within_layers_are_worked_on():
    inputs = keras.Input((3, 6, 8))
    model = keras.Model(inputs, layers.TimeDistributed(sequential(), name="distributed")(inputs))
    changed = insert_after(model, "hidden", dropout)
    assert names(changed.get_layer("distributed").layer)[:2] == ["hidden", "hidden_dropout"]
    assert names(model.get_layer("distributed").layer)[:2] != ["hidden", "hidden_dropout"]
    x = np.stack([X] * 3, axis=1)
    np.testing.assert_array_equal(numbers(changed, x), numbers(model, x))


def test_what_cannot_be_replaced_is_said():
    x = keras.Input((6, 8))
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = layers.Bidirectional(layers.LSTM(4, dropout=0.1, return_sequences=True), name="both")(layers.Dropout(0.5)(y))
    model = keras.Model(x, layers.Attention(dropout=0.2, name="dot")([y, y]))
    expected = (
        r"1 left as they are, as MultiHeadAttention does not call it while its `dropout` is 0: "
        r"attention\._dropout_layer\. 3 left as they are, the dropout of which is a number, not a layer: "
        r"both\.forward_layer\.cell, both\.backward_layer\.cell, dot\. "
    )
    with pytest.warns(UserWarning, match=expected):
        changed = replace(model, stock, ours)
    assert type(changed.get_layer("attention")._dropout_layer) is layers.Dropout
    with pytest.warns(UserWarning, match=r"1 left as they are, as the layer that holds them .* attention\._softmax"):
        insert_after(model, lambda layer: layer.name in ("dot", layer_name(model, "_softmax")), dropout)
    with pytest.raises(ValueError, match=r"`match` must match.* 1 left .* attention\._softmax.*Received: match="):
        insert_after(model, layers.Softmax, dropout)
    with pytest.raises(ValueError, match=r"1 left as they are, as AlwaysOn looks into what it holds.*Received: match="):
        replace(always_on(sequential()), kd.Dropout, dropout)


def layer_name(model, attribute):
    return getattr(model.get_layer("attention"), attribute).name


@keras.saving.register_keras_serializable(package="test_surgery")
class Task(keras.Model):
    """As those of keras-hub: its `__init__` makes the model, and `predict` reads raw data."""

    def __init__(self, units, preprocessor=None, **kwargs):
        hidden, dropout, inputs = layers.Dense(units), layers.Dropout(0.5), keras.Input((6, 8))
        middle = dropout(hidden(inputs))
        super().__init__(inputs, Block(name="block")(layers.Dense(8)(middle)), **kwargs)
        self.hidden, self.dropout, self.features = hidden, dropout, keras.Model(inputs, middle)
        self.units, self.preprocessor = units, preprocessor

    def predict(self, x, **kwargs):
        return super().predict(self.preprocessor(x), **kwargs)

    def get_config(self):
        preprocessor = keras.saving.serialize_keras_object(self.preprocessor)
        return {"units": self.units, "preprocessor": preprocessor, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "preprocessor": keras.saving.deserialize_keras_object(config["preprocessor"])})


def test_a_class_that_makes_its_model_is_kept(tmp_path):
    model = trained(Task(7, layers.Rescaling(0.1)))
    expected, before = model.predict(X, verbose=0), of_kind(model, layers.Dropout)
    changed = replace(model, stock, ours)
    assert isinstance(changed, Task) and changed.preprocessor is model.preprocessor and changed.units == 7
    assert of_kind(model, layers.Dropout) == before and not of_kind(changed, layers.Dropout)
    assert changed.dropout is changed.layers[2] is changed.features.layers[2] and names(changed) == names(model)
    np.testing.assert_array_equal(changed.predict(X, verbose=0), expected)
    changed.save(tmp_path / "changed.keras")
    loaded = keras.saving.load_model(tmp_path / "changed.keras")
    assert isinstance(loaded, Task) and not of_kind(loaded, layers.Dropout)
    assert loaded.dropout is loaded.layers[2] is loaded.features.layers[2]
    part = keras.Model(changed.input, changed.dropout.output)
    assert part.layers[2] is changed.dropout and len(part.get_config()["layers"]) == 3
    assert changed.output_names == model.output_names
    if NESTED_LISTS_ARE_SAVED:
        np.testing.assert_array_equal(loaded.predict(X, verbose=0), expected)
        np.testing.assert_array_equal(numbers(loaded, training=True), numbers(changed, training=True))
    outer = keras.Model(model.input, model(model.input))
    assert isinstance(replace(outer, stock, ours).layers[1], Task)
    with pytest.warns(UserWarning, match=rf"The copy of {model.name} \(Task\) is of a plain class"):
        inserted = insert_after(model, model.hidden.name, dropout)
    np.testing.assert_array_equal(inserted.predict(0.1 * X, verbose=0), expected)


def test_a_class_whose_config_is_not_enough_is_said():
    class Fixed(keras.Sequential):
        def __init__(self):
            super().__init__([keras.Input((6, 8)), layers.Dropout(0.5)])

    class Chosen(keras.Model):
        def __init__(self, inputs, outputs, choice):
            super().__init__(inputs, layers.Dropout(0.5)(outputs))

    inputs = keras.Input((6, 8))
    for model in (Fixed(), Chosen(inputs, layers.Dense(3)(inputs), 3)):
        with pytest.warns(UserWarning, match=rf"The copy of {model.name} \({type(model).__name__}\) is of a plain"):
            changed = replace(model, stock, ours)
        assert of_kind(changed, kd.Dropout)


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda kind: kind.Dropout(0.5, noise_shape=(None, 1, None), seed=3), (4, 5, 6)),
        (lambda kind: kind.SpatialDropout1D(0.5, seed=3), (4, 5, 6)),
        (lambda kind: kind.SpatialDropout2D(0.5, seed=3, data_format="channels_first"), (4, 5, 6, 2)),
        (lambda kind: kind.SpatialDropout3D(0.5, seed=3), (4, 5, 6, 2, 3)),
        (lambda kind: kind.GaussianDropout(0.5, seed=3), (4, 5, 6)),
    ],
)
def test_configs_of_keras_own_layers(make, shape):
    old, new = make(layers), make(kd)
    old.dtype_policy = new.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
    model = keras.Sequential([keras.Input(shape[1:]), old])
    kind = type(new)
    changed = replace(
        model, type(old), lambda layer: kind.from_config({**layer.get_config(), "dtype": layer.dtype_policy})
    )
    layer = changed.layers[0]
    assert layer.get_config() == {**new.get_config(), "name": old.name} and layer.dtype_policy == old.dtype_policy
    x = np.ones(shape, "float32")
    np.testing.assert_array_equal(to_numpy(layer(x, training=True)), to_numpy(new(x, training=True)))


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
MODEL = sequential()


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
        ((sequential(), "missing", dropout), r"`match` must match.* hidden\..*Received: match='missing'"),
        ((nested(), re.compile("missing"), dropout), r"`match` must match.* deep, .*Received: match=re.compile"),
        ((sequential(), 3, dropout), "`match` must be a class.*Received: match=3"),
        ((sequential(), ("a",), dropout), r"`match` must be a class.*Received: match=\('a',\)"),
        ((sequential(), re.compile(b"a"), dropout), r"`match` must be a class.*Received: match=re.compile\(b'a'\)"),
        ((sequential(), "hidden", "dropout"), "`make` must be a function.*Received: make='dropout'"),
        ((sequential(), "hidden", lambda layer: None), "`make` must return a layer.*Received: None"),
        ((sequential(), layers.Dense, lambda layer: LAYER), "`make` must return a layer, a new.*Received: <Dropout"),
        ((MODEL, "hidden", lambda layer: MODEL.layers[1]), "`make` must return a new.* not a layer of the.*<Dropout"),
        ((MODEL, "hidden", lambda layer: keras.Sequential([MODEL.layers[1]])), "`make` must return a new.*<Sequent"),
    ],
)
def test_bad_arguments_are_refused(operate, arguments, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        operate(*arguments)


@pytest.mark.parametrize(
    "single, message",
    [
        (layers.Dense(8), r"Received: <Dense.* where the config makes <Dropout"),
        (layers.GaussianDropout(0.5), r"Received: <Block.* whose config makes other variables"),
    ],
)
def test_what_no_config_makes_is_refused(single, message):
    block = Block()
    block.single = single
    model = keras.Sequential([keras.Input((6, 8)), block])
    with pytest.raises(ValueError, match=f"`model` must hold what the configs of its layers make.*{message}"):
        replace(model, stock, ours)


@pytest.mark.parametrize(
    "match, make, message",
    [
        (layers.Softmax, dropout, "takes the arguments .*'mask'.*Received: <Dropout .* does not take .*'mask'"),
        (
            "query",
            lambda layer: kd.Dropout(0.5),
            r"output shape \(None, None, 2, 4\).*Received: <Dropout .*\(None, 6, 8\)",
        ),
    ],
)
def test_what_does_not_fit_within_a_layer_is_refused(match, make, message):
    with pytest.raises(ValueError, match=message):
        replace(nested(), match, make)


def test_a_layer_with_several_outputs_cannot_be_followed():
    inputs = keras.Input((6, 8))
    model = keras.Model(inputs, layers.LSTM(3, return_state=True, name="states")(inputs))
    with pytest.raises(ValueError, match=r"`match` must match layers that have one output.*states"):
        insert_after(model, "states", dropout)


def test_a_normalization_that_was_adapted_is_so_in_the_copy():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, size=(50, 4)))
    model = keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(2)])
    x = np.ones((2, 4), "float32")
    copy = insert_after(model, keras.layers.Dense, lambda layer: kd.Dropout(0.5))
    np.testing.assert_array_equal(to_numpy(copy(x)), to_numpy(model(x)))
