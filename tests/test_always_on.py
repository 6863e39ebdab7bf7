import concurrent.futures
import itertools
import threading
import types

import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, to_numpy
from keras import layers

import keras_dropouts as kd
from keras_dropouts import always_on

X = np.random.default_rng(0).standard_normal((5, 6, 8)).astype("float32")


@keras.saving.register_keras_serializable(package="test")
class Block(layers.Layer):
    """A user's layer: dropout and batch normalization within, `training` left to Keras."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(8), layers.Dropout(0.5), layers.LSTM(8, dropout=0.5, return_sequences=True)]
        self.norm = layers.BatchNormalization()

    def build(self, input_shape):
        for part in (*self.parts, self.norm):
            part.build((*input_shape[:2], 8))

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return self.norm(x)


@keras.saving.register_keras_serializable(package="test")
class Own(layers.Layer):
    """A user's dropout."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x, training=None):
        return keras.random.dropout(x, 0.5, seed=self.generator) if training else x


@keras.saving.register_keras_serializable(package="test")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = Block()
        self.head = layers.Dense(2)

    def call(self, inputs, training=None):
        return self.head(self.block(inputs["x"], training=training))


class Meeting(Own):
    """A user's dropout that waits until as many threads as meet are in it, or fails where one does not come."""

    meet = threading.Barrier(1)

    def call(self, x, training=None):
        self.meet.wait(timeout=20)
        return super().call(x, training=training)


class Rematerialized(layers.Layer):
    """A user's layer, within which dropout is called twice and nothing is kept for the backward pass."""

    def __init__(self, dropout):
        super().__init__()
        self.dropout = dropout

    def call(self, x):
        return keras.remat(self.dropout.__call__)(keras.remat(self.dropout.__call__)(x))


class OnlyInTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.used = layers.Dropout(0.5)
        self.unused = layers.Dropout(0.5, name="unused")

    def call(self, x, training=False):
        x = self.used(x, training=training)
        return self.unused(x, training=True) if training else x


def functional(*parts, calls=1):
    inputs = keras.Input((6, 8))
    outputs = []
    for _ in range(calls):
        x = inputs
        for part in parts:
            x = part(x)
        outputs.append(x)
    return keras.Model(inputs, outputs[0] if calls == 1 else outputs)


def attention(layer):
    inputs = keras.Input((6, 8))
    return keras.Model(inputs, layer([inputs, inputs]))


def multi_head():
    inputs = keras.Input((6, 8))
    return keras.Model(inputs, layers.MultiHeadAttention(2, 4, dropout=0.5)(inputs, inputs))


def nested():
    inner = keras.Sequential([keras.Input((6, 8)), layers.Dense(8), layers.BatchNormalization(), kd.Dropout(0.5)])
    return functional(layers.Dense(8), functional(inner, layers.SpatialDropout1D(0.5)), layers.BatchNormalization())


MODELS = {
    "sequential": lambda: keras.Sequential([keras.Input((6, 8)), layers.Dropout(0.5), layers.BatchNormalization()]),
    "nested": nested,
    "shared": lambda: functional(functional(kd.Dropout(0.5)), calls=2),
    "stock": lambda: functional(layers.AlphaDropout(0.3), layers.GaussianDropout(0.3), layers.GaussianNoise(0.3)),
    "block": lambda: functional(Block()),
    "own": lambda: functional(Own()),
    "wrappers": lambda: functional(kd.DropConnect(layers.Dense(7, "relu")), kd.Standout(layers.Dense(5))),
    "multi-head": multi_head,
    "attention": lambda: attention(layers.Attention(dropout=0.5)),
    "recurrent": lambda: functional(layers.Bidirectional(layers.GRU(5, recurrent_dropout=0.5))),
    "cells": lambda: functional(layers.RNN([layers.SimpleRNNCell(5, dropout=0.5), layers.GRUCell(4)])),
    "distributed": lambda: functional(layers.TimeDistributed(layers.Dropout(0.5))),
    "subclassed": Subclassed,
}


def inputs_of(model):
    return {"x": X} if isinstance(model, Subclassed) else X


def numbers(outputs):
    return np.concatenate([to_numpy(x).ravel() for x in keras.tree.flatten(outputs)])


def predict(model, x):
    return numbers(model.predict(x, verbose=0))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_dropout_is_on_and_nothing_else_is_touched(make, tmp_path):
    model = make()
    x = inputs_of(model)
    off = numbers(model(x))
    before = [to_numpy(v) for v in model.variables]
    copy = always_on(model)
    draws = [numbers(copy(x)) for _ in range(2)]
    assert all((one != other).any() for one, other in [draws, (draws[0], off)])
    # Nothing moved, neither statistics nor random states.
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, to_numpy(other))
    copy.save(tmp_path / "on.keras")
    loaded = keras.saving.load_model(tmp_path / "on.keras")
    np.testing.assert_allclose(numbers(loaded(x)), numbers(copy(x)), rtol=1e-5, atol=1e-5)


def noisy(noise):
    """A layer whose activation, a function, draws by a generator that the layer owns, and adds 1."""
    layer = layers.Dense(3)
    layer.generator = keras.random.SeedGenerator(1)
    layer.activation = lambda x: x + 1 + noise * keras.random.normal(keras.ops.shape(x), seed=layer.generator)
    return layer


@pytest.mark.parametrize(
    "wrap",
    [
        lambda layer: kd.DropConnect(layer, rate=0.0),
        lambda layer: kd.Standout(layer, alpha=0.0, beta=50.0),
        layers.TimeDistributed,
    ],
    ids=["DropConnect", "Standout", "TimeDistributed"],
)
def test_an_activation_that_draws_is_applied_once(wrap):
    # Nothing is dropped here: what is on or off gives the same.
    model = functional(wrap(noisy(0.0)), kd.Dropout(0.0))
    off = numbers(model(X))
    np.testing.assert_allclose(numbers(always_on(model)(X)), off, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(numbers(model(X)), off, rtol=1e-5, atol=1e-5)
    copy = always_on(functional(wrap(noisy(1.0)), kd.Dropout(0.0)))
    assert (numbers(copy(X)) != numbers(copy(X))).all()


def test_runs_at_once_leave_nothing_behind():
    layer = Meeting()
    by_user = kd.Dropout(0.5)
    by_user.call = instead = by_user.call
    model = functional(layer, by_user)
    one, other = always_on(model), always_on(always_on(model))
    attributes = [set(vars(part)) for part in model._flatten_layers()]
    # The third thread's call is no run, though the runs of the others are not over.
    Meeting.meet = threading.Barrier(3)
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        first, second, off = threads.map(lambda model: to_numpy(model(X)), (one, other, model))
    np.testing.assert_array_equal(off, X)
    assert 0.1 < (first != 0).mean() < 0.4 and 0.1 < (second != 0).mean() < 0.4 and (first != second).any()
    Meeting.meet.abort()
    with pytest.raises(threading.BrokenBarrierError):
        one(X)
    Meeting.meet = threading.Barrier(1)
    assert [set(vars(part)) for part in model._flatten_layers()] == attributes and by_user.call is instead
    np.testing.assert_array_equal(to_numpy(model(X)), X)


def test_rematerialization():
    model = functional(Rematerialized(kd.Dropout(0.5)))
    copy = always_on(model)
    draws = [numbers(copy(X)), numbers(copy(X)), predict(copy, X), predict(copy, X)]
    assert all((one != other).any() for i, one in enumerate(draws) for other in draws[:i])
    # Twice: a quarter is kept.
    assert all(abs((draw != 0).mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / draw.size) for draw in draws)
    samples = kd.monte_carlo(model, X, samples=2, verbose=0).samples
    assert (samples[0] != samples[1]).any()
    with keras.RematScope("full"):
        model = functional(kd.Dropout(0.5), layers.Dropout(0.5))
    copy = always_on(model)
    # Keras cannot compile a call of such a model on TensorFlow.
    assert (numbers(copy(X)) != numbers(copy(X))).any()


@pytest.mark.skipif(BACKEND != "torch", reason="compiled already")
def test_compiled_as_a_part():
    import torch

    copy = torch.compile(always_on(functional(kd.Dropout(0.5), layers.Dropout(0.5))), backend="eager")
    assert (numbers(copy(torch.from_numpy(X))) != numbers(copy(torch.from_numpy(X)))).any()


@pytest.mark.parametrize("name", ["nested", "block"])
def test_it_is_on_in_every_kind_of_call(name):
    model = MODELS[name]()
    off = numbers(model(X))
    copy = always_on(model)
    draws = [numbers(copy(X, training=training)) for training in (False, True)]
    draws += [predict(copy, X) for _ in range(2)]
    assert all((one != other).any() for i, one in enumerate(draws) for other in [off, *draws[:i]])
    copy.compile(loss="mse")
    y = np.zeros(model(X).shape)
    assert copy.evaluate(X, y, verbose=0) != copy.evaluate(X, y, verbose=0)
    np.testing.assert_array_equal(numbers(model(X)), off)


@pytest.mark.parametrize("dropout", [kd.Dropout, layers.Dropout])
def test_the_mean_of_a_linear_model_is_its_inference(dropout):
    model = keras.Sequential([keras.Input((6, 8)), dropout(0.5), layers.Dense(3), layers.BatchNormalization()])
    copy = always_on(model)
    many = np.repeat(X[None], 200, axis=0).reshape(-1, *X.shape[1:])
    samples = [copy.predict(many, batch_size=len(many), verbose=0).reshape(200, -1) for _ in range(2)]
    errors = (samples[0].mean(0) - predict(model, X)) / (samples[0].std(0) / np.sqrt(200))
    assert abs(errors).max() < 4.5
    # Of a row of three outputs, one is taken: they share their dropped inputs.
    one, other = (sample[:, ::3] - sample[:, ::3].mean(0) for sample in samples)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 4.5 / np.sqrt(one.size)


def test_runs_whose_words_differ_in_one_draw_different_masks():
    # Of 300,000 runs, some ten have the first word of another: once their whole key.
    calls = np.arange(300_000)
    first, second = oracle.threefry2x32((7, calls), (0, 0), 13)
    order = np.argsort(first, kind="stable")
    one, other = next((i, j) for i, j in itertools.pairwise(order) if first[i] == first[j])
    assert second[one] != second[other]
    inputs = keras.Input((200,))
    copy = always_on(keras.Model(inputs, [kd.Dropout(0.5, seed=1)(inputs), layers.Dropout(0.5, seed=1)(inputs)]))
    masks = []
    for call in (one, other, one):
        copy.layers[-1]._random_state.write(seed=7, calls=call)
        masks.append([to_numpy(x) > 0 for x in copy(np.ones((3, 200), "float32"))])
    for a, b, again in zip(*masks, strict=True):
        np.testing.assert_array_equal(a, again)
        assert 0.3 < (a != b).mean() < 0.7


@pytest.mark.skipif(BACKEND != "torch", reason="of PyTorch's own generators")
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_only_the_generators_that_are_restored_start_anew(device, monkeypatch):
    import torch

    from keras_dropouts.random.backend import global_generator

    states = {torch.device(f"cuda:{i}"): f"as it was on {i}" for i in range(2)}
    before, generator, seeded = {**states}, torch.Generator, torch.Generator().manual_seed(7 << 32 | 2**32 - 5)
    monkeypatch.setattr(torch, "Generator", lambda device: generator())
    monkeypatch.setattr(torch.cuda, "get_rng_state", states.get)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    for module in (torch.cuda, torch.mps, torch.xpu):
        for name in ("manual_seed", "manual_seed_all"):
            monkeypatch.setattr(module, name, lambda seed: pytest.fail("all are seeded"), raising=False)
    words = types.SimpleNamespace(is_meta=False, device=torch.device(device), tolist=lambda: [-5, 7])
    own = torch.get_rng_state()
    with global_generator(words):
        assert torch.initial_seed() == seeded.initial_seed()
        assert torch.equal(torch.get_rng_state(), seeded.get_state())
        changed = {str(device) for device in states if states[device] is not before[device]}
        assert changed == {device} - {"cpu"}
        assert all(torch.equal(states[torch.device(device)], seeded.get_state()) for device in changed)
    assert states == before
    assert torch.equal(torch.get_rng_state(), own)


def test_a_layer_called_twice_drops_twice():
    one, other = always_on(MODELS["shared"]()).predict(X, verbose=0)
    assert (one != other).any()


def test_batch_normalization_stays_in_inference_mode():
    model = keras.Sequential([keras.Input((8,)), layers.Dropout(0.5), layers.BatchNormalization()])
    x = np.ones((64, 8), "float32")
    draws = to_numpy(always_on(model)(x, training=True))
    # By the statistics of the batch the values would be near 1 and -1.
    np.testing.assert_allclose(np.unique(draws), [0, 2], atol=2e-3)


def test_the_weights_are_shared():
    model = keras.Sequential([keras.Input((8,)), kd.Dropout(0.5), layers.Dense(1, kernel_initializer="ones")])
    copy = always_on(model)
    x, y = np.ones((64, 8), "float32"), np.zeros((64, 1))
    for one in (model, copy):
        before = model.get_weights()[0]
        one.compile("sgd", "mse")
        one.fit(x, y, verbose=0)
        assert (model.get_weights()[0] != before).all()
    for weight in model.weights:
        weight.assign(0 * weight)
    assert not predict(copy, x).any()


def test_the_rate_is_the_one_in_force():
    dropout = kd.Dropout(keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.5]))
    model = keras.Sequential([keras.Input((8,)), dropout])
    copy = always_on(model)
    x = np.ones((64, 8), "float32")
    shares = [(predict(copy, x) == 0).mean() for _ in range(3)]
    for _ in range(2):
        model(x, training=True)
    shares.append((predict(copy, x) == 0).mean())
    dropout.rate = 1.0
    shares.append((predict(copy, x) == 0).mean())
    assert shares[:3] == [0, 0, 0] and 0.3 < shares[3] < 0.7 and shares[4] == 1


def test_the_masks_of_training_do_not_depend_on_it():
    losses = []
    for used in (False, True):
        keras.utils.set_random_seed(3)
        dropouts = [kd.Dropout(0.5, seed=1), layers.Dropout(0.5), layers.GaussianDropout(0.5)]
        model = functional(*dropouts, layers.Dense(1))
        model.compile("sgd", "mse")
        copy = always_on(model) if used else None
        for _ in range(2):
            loss = model.fit(X, np.zeros((5, 6, 1)), verbose=0, shuffle=False).history["loss"]
            if used:
                copy(X)
        losses.append(loss)
    assert losses[0] == losses[1]


def test_always_on_of_always_on():
    copy = always_on(always_on(MODELS["nested"]()))
    assert (predict(copy, X) != predict(copy, X)).any()


def test_within_a_larger_model_it_says_nothing_to_the_others():
    inner = always_on(functional(layers.GRU(8, recurrent_dropout=0.5)))
    model = keras.Sequential([inner, layers.BatchNormalization()])
    model(X)
    before = model.get_weights()
    model(X)
    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(BACKEND == "torch", reason="served by TensorFlow")
# As Keras exports from JAX.
@pytest.mark.parametrize("name", ["nested", "block", "recurrent"])
def test_export(name, tmp_path):
    import tensorflow as tf

    always_on(MODELS[name]()).export(tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    for x in (X, X[:2]):
        assert (to_numpy(served.serve(x)) != to_numpy(served.serve(x))).any()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: "model", "built"),
        (lambda: keras.Sequential([layers.Dropout(0.5)]), "built"),
        (lambda: layers.Dropout(0.5), "built"),
        (lambda: functional(layers.Dense(3), layers.GaussianNoise(0.5)), "have dropout"),
        (lambda: functional(layers.Dropout(0), layers.LSTM(3)), "have dropout"),
    ],
    ids=range(5),
)
def test_a_bad_model_is_refused(make, message):
    with pytest.raises(ValueError, match=rf"(?s)`model` must.*{message}.*Received: "):
        always_on(make())


def test_dropout_that_is_not_called_at_inference_is_refused():
    model = OnlyInTraining()
    model(X, training=True)
    copy = always_on(model)
    with pytest.raises(ValueError, match=r"(?s)`model` must call its dropout.*unused"):
        copy(X)


def test_dropout_beside_batch_normalization_in_one_layer_is_refused():
    layer = Own()
    layer.norm = layers.BatchNormalization()
    layer.norm.build((None, 6, 8))
    with pytest.raises(ValueError, match=r"(?s)`model` must not have dropout.*batch_normalization"):
        always_on(functional(layer))


@pytest.mark.parametrize("method", ["predict", "predict_step", "evaluate", "test_step"])
def test_a_model_with_a_predict_or_evaluate_of_its_own_is_refused(method):
    own = {method: lambda self, *args, **kwargs: None}
    inputs = keras.Input((6, 8))
    graph = type("Graph", (keras.Model,), own)(inputs, kd.Dropout(0.5)(inputs))
    subclassed = type("Own", (Subclassed,), own)()
    subclassed({"x": X})
    for model, instead in ((graph, r"keras.Model\(model"), (subclassed, r"keras.Sequential\(\[model\]\)")):
        with pytest.raises(ValueError, match=rf"(?s)`model` must predict.*own `{method}`.*give {instead}.*Received: "):
            always_on(model)
    plain = keras.Sequential([subclassed])
    plain({"x": X})
    for model, x in ((keras.Model(graph.input, graph.output), X), (plain, {"x": X})):
        copy = always_on(model)
        assert (numbers(copy(x)) != numbers(copy(x))).any()
