"""MultiHeadAttention against attention in NumPy, in place of Keras's own, and on its fused paths."""

import inspect
import sys

import keras
import numpy as np
import oracle
import pytest
from backend import KERAS_VERSION, to_numpy, value_and_gradient
from catalog import EIGHTH
from keras import layers, ops
from keras.optimizers.schedules import PiecewiseConstantDecay
from test_drop_key import left_of, softmax

import keras_dropouts as kd
from keras_dropouts.keras_internals import held_layers

Stock = layers.MultiHeadAttention
RNG = np.random.default_rng(0)
# Three samples, of five queries and four keys; two heads.
QUERY, VALUE, KEY = (RNG.standard_normal(shape).astype("float32") for shape in ((3, 5, 6), (3, 4, 7), (3, 4, 8)))
SCORES = (3, 2, 5, 4)
QUERY_MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]], bool)
VALUE_MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 0]], bool)
KEY_MASK = np.array([[1, 0, 1, 1], [1, 1, 1, 1], [1, 0, 1, 1]], bool)


def attend(layer, query, value, key, there, left=None, weigh=None, of_heads=1):
    """Attention by definition.

    Args:
        layer: The weights' owner.
        query, value, key: Arrays of shape `(samples, steps, features)`.
        there: Which keys a query attends to, of shape `(samples, 1, queries, keys)`.
        left: Which of them are left, if not all.
        weigh: What the weights are multiplied by.
        of_heads: What each head is multiplied by.
    """
    q, k, v, o = ([np.array(w, "float64") for w in layer.get_weights()[2 * i : 2 * i + 2]] for i in range(4))
    projected = zip((query, key, value), (q, k, v), strict=True)
    q, k, v = (np.einsum("btd,dnh->bnth", x, kernel) + bias[:, None] for x, (kernel, bias) in projected)
    scores = np.einsum("bnth,bnsh->bnts", q, k) / np.sqrt(q.shape[-1])
    weights = softmax(scores, np.broadcast_to(there if left is None else left, scores.shape))
    heads = np.einsum("bnts,bnsh->bnth", weights if weigh is None else weights * weigh, v) * of_heads
    return np.einsum("bnth,nhd->btd", heads, o[0]) + o[1], weights


def made(dropout, like=None, kind=kd.MultiHeadAttention, **kwargs):
    layer = kind(2, 4, dropout=dropout, bias_initializer="normal", **kwargs)
    layer.build(QUERY.shape, VALUE.shape, KEY.shape)
    if like is not None:
        layer.set_weights(like.get_weights())
    return layer


PLAIN = made(0.0)


def masks(*which):
    """Keras masks and an attention mask for a call, and all of them together."""
    given, there = {}, np.ones((3, 1, 5, 4), bool)
    for name, mask, axis in (("query", QUERY_MASK, -1), ("value", VALUE_MASK, -2), ("key", KEY_MASK, -2)):
        if name in which:
            given[f"{name}_mask"] = ops.convert_to_tensor(mask)
            there = there & np.expand_dims(mask[:, None], axis)
    if "attention" in which:
        mask = np.random.default_rng(3).random((3, 5, 4)) < 0.7
        given["attention_mask"] = ops.convert_to_tensor(mask)
        there = there & mask[:, None]
    if "causal" in which:
        given["use_causal_mask"] = True
        there = there & np.tril(np.ones((5, 4), bool))
    return given, there


ALL_MASKS = [(), ("causal",), ("value", "key"), ("attention", "causal", "value")]


@pytest.mark.parametrize("which", ALL_MASKS, ids="-".join)
def test_keys_are_dropped_of_those_that_are_there(which):
    given, there = masks(*which)
    layer = made(kd.DropKey(0.6, seed=5), PLAIN)
    for call in range(2):
        left = left_of(5, call, SCORES, 0.6, there)
        y, weights = layer(QUERY, VALUE, KEY, **given, training=True, return_attention_scores=True)
        expected = attend(PLAIN, QUERY, VALUE, KEY, there, left)
        np.testing.assert_allclose(to_numpy(weights), expected[1], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(to_numpy(y), expected[0], rtol=1e-4, atol=1e-5)
        assert (to_numpy(weights)[~np.broadcast_to(there, SCORES)] == 0).all()


@pytest.mark.parametrize("which", ALL_MASKS, ids="-".join)
def test_weights_are_dropped_after_the_softmax(which):
    given, there = masks(*which)
    y, weights = made(0.25, PLAIN, seed=5)(QUERY, VALUE, KEY, **given, training=True, return_attention_scores=True)
    kept = oracle.keep_mask(5, 0, SCORES, 0.25) / 0.75
    expected = attend(PLAIN, QUERY, VALUE, KEY, there, weigh=kept)
    np.testing.assert_allclose(to_numpy(weights), expected[1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(to_numpy(y), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which", ALL_MASKS, ids="-".join)
def test_heads_are_dropped(which):
    given, there = masks(*which)
    layer, twin = made(kd.DropHead(0.5, seed=1), PLAIN), kd.DropHead(0.5, seed=1)
    np.testing.assert_allclose(
        to_numpy(layer(QUERY, VALUE, KEY, **given)), attend(PLAIN, QUERY, VALUE, KEY, there)[0], rtol=1e-4, atol=1e-5
    )
    for scores in (False, True):
        y = layer(QUERY, VALUE, KEY, **given, training=True, return_attention_scores=scores)
        m = to_numpy(twin(np.ones((3, 1, 2, 1), "float32"), training=True))[:, 0, :, :, None]
        expected = attend(PLAIN, QUERY, VALUE, KEY, there, of_heads=m)
        np.testing.assert_allclose(to_numpy(y[0] if scores else y), expected[0], rtol=1e-4, atol=1e-5)
        if scores:
            np.testing.assert_allclose(to_numpy(y[1]), expected[1], rtol=1e-4, atol=1e-6)


def test_other_layers_are_applied_to_the_weights():
    """A whole column of them: a key of a sample, for all heads and queries."""
    layer = made(kd.Dropout(0.5, (None, 1, 1, None), seed=4), PLAIN)
    kept = oracle.keep_mask(4, 0, (3, 4), 0.5)[:, None, None] / 0.5
    expected, _ = attend(PLAIN, QUERY, VALUE, KEY, masks()[1], weigh=kept)
    np.testing.assert_allclose(to_numpy(layer(QUERY, VALUE, KEY, training=True)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.5, kd.DropKey(0.5), kd.DropHead(0.5, seed=1)], ids=str)
def test_values_of_another_size(dropout):
    """Of which Keras's fused kernel on JAX makes an error."""
    layer = made(dropout, value_dim=3)
    expected, _ = attend(layer, QUERY, VALUE, KEY, masks()[1])
    np.testing.assert_allclose(to_numpy(layer(QUERY, VALUE, KEY)), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(to_numpy(layer(QUERY, VALUE, KEY, training=True)) - expected).max() > 1e-3


@pytest.mark.parametrize("heads", [(), (2,)], ids=str)
def test_a_query_without_keys_attends_to_nothing(heads):
    """As by Keras's own layer that has a dropout, also where the mask is one for each head."""
    there = np.ones((3, *heads, 5, 4), bool)
    there[1] = there[..., 3, :] = False
    if heads:
        there[0, 1, 2] = False
    mask = ops.convert_to_tensor(there)
    expected = to_numpy(made(0.5, PLAIN, Stock)(QUERY, VALUE, KEY, attention_mask=mask))
    for dropout in (0.5, kd.DropKey(0.5), kd.DropHead(0.5)):
        layer = made(dropout, PLAIN)
        y = to_numpy(layer(QUERY, VALUE, KEY, attention_mask=mask))
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
        y = to_numpy(layer(QUERY, VALUE, KEY, attention_mask=mask, training=True))
        np.testing.assert_allclose(y[1], expected[1], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(y[:, 3], expected[:, 3], rtol=1e-4, atol=1e-5)


def test_padding_of_an_embedding_is_left_out():
    tokens = np.array([[1, 2, 3, 4], [5, 6, 0, 0]])
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(8, 6, mask_zero=True)(inputs)
    layer = kd.MultiHeadAttention(2, 3, dropout=kd.DropKey(0.7, seed=1))
    y, weights = layer(x, x, return_attention_scores=True)
    assert y.shape == (None, 4, 6)
    weights = to_numpy(keras.Model(inputs, weights)(tokens, training=True))
    assert (weights[1, :, :, 2:] == 0).all()
    np.testing.assert_allclose(weights[0].sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights[1, :, :2].sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("make", [kd.DropKey, kd.Dropout, kd.DropHead])
def test_attention_along_two_axes(make):
    """As along one of all their places."""
    image = RNG.standard_normal((2, 3, 4, 6)).astype("float32")
    plane = kd.MultiHeadAttention(2, 3, dropout=make(0.5, seed=3), attention_axes=(1, 2))
    line = kd.MultiHeadAttention(2, 3, dropout=make(0.5, seed=3))
    flat = image.reshape(2, 12, 6)
    for layer, x in ((plane, image), (line, flat)):
        layer.build(x.shape, x.shape)
    line.set_weights(plane.get_weights())
    y = to_numpy(plane(image, image, training=True)).reshape(flat.shape)
    np.testing.assert_allclose(y, to_numpy(line(flat, flat, training=True)), rtol=1e-4, atol=1e-5)


@pytest.mark.skipif("use_gate" not in inspect.signature(Stock).parameters, reason="of a newer Keras")
def test_a_gate_and_a_window():
    kwargs = {"use_gate": True, "sliding_window": 2}
    theirs = made(0.0, kind=Stock, **kwargs)
    expected = to_numpy(theirs(QUERY, VALUE, KEY))
    for dropout in (0.5, kd.DropKey(0.5), kd.DropHead(0.5, seed=1)):
        ours = made(dropout, theirs, **kwargs)
        np.testing.assert_allclose(to_numpy(ours(QUERY, VALUE, KEY)), expected, rtol=1e-5, atol=1e-6)
        assert np.abs(to_numpy(ours(QUERY, VALUE, KEY, training=True)) - expected).max() > 1e-3
        assert type(ours).from_config(ours.get_config()).get_config() == ours.get_config()


# In place of Keras's own


def test_stocks_arguments_come_first_with_stocks_defaults():
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(kind).parameters.values()]
        for kind in (kd.MultiHeadAttention, Stock)
    )
    # Keras 3.12 has not all of them.
    assert [p for p in ours if p in theirs] == theirs
    assert KERAS_VERSION == (3, 12) or ours == theirs
    assert str(inspect.signature(kd.MultiHeadAttention.call)) == str(inspect.signature(Stock.call))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stocks_config_and_weights_file(dropout, tmp_path):
    theirs = made(dropout, kind=Stock, seed=3, output_shape=5)
    ours = kd.MultiHeadAttention.from_config(theirs.get_config())
    ours.build(QUERY.shape, VALUE.shape, KEY.shape)
    assert ours.get_config() == theirs.get_config()
    models = []
    for layer in (theirs, ours):
        inputs = [keras.Input(x.shape[1:]) for x in (QUERY, VALUE, KEY)]
        models.append(keras.Model(inputs, layer(*inputs)))
    models[0].save_weights(tmp_path / "it.weights.h5")
    models[1].load_weights(tmp_path / "it.weights.h5")
    x = [QUERY, VALUE, KEY]
    expected = to_numpy(models[0](x))
    np.testing.assert_allclose(to_numpy(models[1](x)), expected, rtol=1e-5, atol=1e-6)
    models[1].save(tmp_path / "it.keras")
    loaded = keras.saving.load_model(tmp_path / "it.keras")
    assert type(loaded.layers[-1]) is kd.MultiHeadAttention
    for _ in range(2):
        np.testing.assert_array_equal(to_numpy(loaded(x, training=True)), to_numpy(models[1](x, training=True)))


@pytest.mark.parametrize(
    "dropout", [kd.DropKey(0.3, seed=1), kd.DropHead(0.2), PiecewiseConstantDecay([2], [0.1, 0.4])]
)
def test_the_config_holds_what_drops(dropout):
    layer = made(dropout)
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    assert type(twin.dropout) is type(dropout) and twin.dropout is not dropout
    if not isinstance(dropout, keras.layers.Layer):
        assert twin.dropout_layer.current_rate() == pytest.approx(0.1)


def test_without_dropout_it_is_stocks():
    assert PLAIN.dropout == 0.0 and PLAIN.dropout_layer is None
    assert not any("random_state" in variable.path for variable in PLAIN.variables)
    x = to_numpy(PLAIN(QUERY, VALUE, KEY))
    np.testing.assert_array_equal(to_numpy(PLAIN(QUERY, VALUE, KEY, training=True)), x)
    np.testing.assert_allclose(x, attend(PLAIN, QUERY, VALUE, KEY, masks()[1])[0], rtol=1e-4, atol=1e-5)


def test_it_holds_one_dropout():
    for dropout in (0.5, kd.DropKey(0.5), kd.DropHead(0.5)):
        layer = made(dropout)
        held = [part for part in held_layers(layer) if isinstance(part, layers.Dropout | kd.RandomLayer)]
        assert held == [layer.dropout_layer]
        assert len([v for v in layer.variables if v.path.endswith("random_state")]) == 1


def test_the_rate_may_be_set_late():
    layer = made(0.5, PLAIN)
    layer.dropout_layer.rate = 0
    y = layer(QUERY, VALUE, KEY, training=True)
    np.testing.assert_allclose(to_numpy(y), to_numpy(PLAIN(QUERY, VALUE, KEY)), rtol=1e-5, atol=1e-6)
    assert layer.dropout == 0 and layer.get_config()["dropout"] == 0


@pytest.mark.parametrize("dropout", [-0.1, 1.5, None, "0.5", True, layers.Dropout(0.5), layers.Dense(2)], ids=str)
def test_a_bad_dropout_is_refused(dropout):
    with pytest.raises(
        ValueError, match=r"(?s)`dropout` must be a number in \[0, 1\], .*RandomLayer.*Received: dropout="
    ):
        made(dropout)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_layer_takes_on_the_type_of_the_attention(dtype):
    for dropout in (kd.DropKey(0.5), kd.DropHead(0.5), kd.Dropout(0.5)):
        layer = made(dropout, dtype=dtype)
        y, weights = layer(QUERY, VALUE, KEY, training=True, return_attention_scores=True)
        types = {keras.backend.standardize_dtype(x.dtype) for x in (y, weights)}
        assert types == {layer.compute_dtype} == {dropout.compute_dtype}


# Fused paths


@pytest.fixture
def fused(monkeypatch):
    """The calls of `keras.ops.dot_product_attention` by Keras's layer."""
    calls, operations = [], sys.modules[Stock.__module__].ops
    plain = operations.dot_product_attention

    def record(**kwargs):
        calls.append(kwargs)
        return plain(**{**kwargs, "flash_attention": None})

    monkeypatch.setattr(operations, "dot_product_attention", record)
    return calls


@pytest.mark.parametrize("causal", [False, True])
def test_inference_is_fused_and_so_are_heads(fused, causal):
    for dropout in (0.5, kd.DropKey(0.5), kd.DropHead(0.5)):
        layer = made(dropout, PLAIN)
        for training in (False, True):
            fused.clear()
            layer(QUERY, VALUE, KEY, use_causal_mask=causal, training=training)
            assert len(fused) == (not training or isinstance(dropout, kd.DropHead))
            if fused and KERAS_VERSION >= (3, 15):
                assert fused[0]["is_causal"] == causal and fused[0]["mask"] is None


def test_flash_attention_may_be_asked_for(fused):
    """Keras's own refuses that beside a dropout."""
    for dropout in (0.5, kd.DropKey(0.5), kd.DropHead(0.5)):
        layer = made(dropout, PLAIN, flash_attention=True)
        layer(QUERY, VALUE, KEY)
        assert fused[-1]["flash_attention"] is True
        layer(QUERY, VALUE, KEY, training=True)


# Tools


def model_of(attention):
    inputs = keras.Input((4, 6))
    x = layers.Dense(6, name="before")(inputs)
    return keras.Model(inputs, attention(x, x, use_causal_mask=True))


X = RNG.standard_normal((3, 4, 6)).astype("float32")


@pytest.mark.parametrize("dropout", [0.4, kd.DropKey(0.4), kd.DropHead(0.4)], ids=str)
def test_always_on(dropout):
    model = model_of(kd.MultiHeadAttention(4, 3, dropout=dropout))
    on = kd.always_on(model)
    one, other = to_numpy(on(X)), to_numpy(on(X))
    assert (one != other).any() and (to_numpy(model(X)) != one).any()
    prediction = kd.monte_carlo(model, X, samples=3, seed=1)
    assert prediction.std.max() > 0


def test_always_on_knows_the_axes_of_the_keys():
    inputs = keras.Input((3, 4, 6))
    attention = kd.MultiHeadAttention(2, 3, dropout=kd.DropKey(0.4), attention_axes=(1, 2))
    _, weights = attention(inputs, inputs, return_attention_scores=True)
    weights = to_numpy(kd.always_on(keras.Model(inputs, weights))(RNG.standard_normal((2, 3, 4, 6))))
    assert (weights == 0).any()
    np.testing.assert_allclose(weights.sum((-1, -2)), 1, rtol=1e-5)


class Checkpointed(layers.Layer):
    """Does not tell its attention whether it trains."""

    def __init__(self, attention, wrap):
        super().__init__()
        self.attention, self.wrap = attention, wrap

    def call(self, x, training=False):
        return self.wrap(lambda x: self.attention(x, x))(x)


@pytest.mark.parametrize("make", [kd.DropKey, kd.Dropout, kd.DropHead])
def test_a_repetition_that_is_not_told_of_training_repeats_it(make):
    outcomes = []
    for wrap in (keras.remat, lambda function: function):
        attention = kd.MultiHeadAttention(2, 3, dropout=make(0.5, seed=1), kernel_initializer=EIGHTH)
        attention.build(X.shape, X.shape)
        block = Checkpointed(attention, wrap)
        outcomes.append(value_and_gradient(lambda x, block=block: block(x, training=True), X, X))
    for one, other in zip(*outcomes, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def with_keys(layer):
    return kd.MultiHeadAttention.from_config({**layer.get_config(), "dropout": kd.DropKey(0.5, seed=2)})


class Block(layers.Layer):
    """Calls an attention itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = Stock(2, 3, dropout=0.1, name="inner")

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x, training=False):
        return x + self.attention(x, x, training=training)


def test_replace_takes_an_attention_with_its_weights(tmp_path):
    inputs = keras.Input((4, 6))
    x = Stock(2, 3, dropout=0.1, name="outer")(inputs, inputs)
    model = keras.Model(inputs, Block(name="block")(x))
    with keras.saving.custom_object_scope({"Block": Block}):
        changed = kd.replace(model, lambda layer: type(layer) is Stock, with_keys)
        np.testing.assert_allclose(to_numpy(changed(X)), to_numpy(model(X)), rtol=1e-5, atol=1e-6)
        attentions = [changed.get_layer("outer"), changed.get_layer("block").attention]
        assert all(type(each.dropout) is kd.DropKey for each in attentions)
        assert (to_numpy(changed(X, training=True)) != to_numpy(changed(X, training=True))).any()
        changed.save(tmp_path / "it.keras")
        loaded = keras.saving.load_model(tmp_path / "it.keras")
    for _ in range(2):
        np.testing.assert_array_equal(to_numpy(loaded(X, training=True)), to_numpy(changed(X, training=True)))


def test_replace_leaves_what_our_attention_is_made_with():
    model = model_of(kd.MultiHeadAttention(2, 3, dropout=0.5, name="attention"))
    with pytest.raises(ValueError, match="1 left as they are, as MultiHeadAttention is made with it"):
        kd.replace(model, kd.Dropout, lambda layer: layers.Dropout(0.5))
