"""kd.audit: planted faults are found, and nothing else; the model is left as it was."""

import functools
import runpy
import sys

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from catalog import ROWS
from keras import layers

import keras_dropouts as kd
from keras_dropouts.auditing import command

if BACKEND == "tensorflow":
    import tensorflow as tf


@keras.saving.register_keras_serializable(package="planted")
class Mine(layers.Layer):
    """Dropout of one's own, with a fault."""

    def __init__(self, rate=0.4, fault=None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.fault = rate, fault
        self.generator = keras.random.SeedGenerator()

    def call(self, x, training=None):
        if self.fault == "frozen":
            training = training and self.trainable
        if not training and self.fault != "always":
            return x
        rate = 0.5 if self.fault == "deaf" else self.rate
        y = keras.random.dropout(x, rate, seed=42 if self.fault == "constant" else self.generator)
        return y * (1 - rate) if self.fault == "unscaled" else y


class Block(layers.Layer):
    """What holds layers, and calls some of them wrongly."""

    def __init__(self):
        super().__init__(name="block")
        self.unused = layers.Dropout(0.3, name="unused")
        self.several = [layers.Dropout(0.3, name="off"), layers.Dropout(0.3, name="by_call")]
        self.on = layers.Dropout(0.3, name="on")
        self.dense = layers.Dense(8, name="dense")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x, training=None):
        x = self.several[0](x, training=False)
        x = self.several[1].call(x)
        return self.on(self.dense(x), training=True)


def model_of(*parts, units=16):
    inputs = keras.Input((units,), name="inputs")
    x = inputs
    for part in parts:
        x = part(x)
    return keras.Model(inputs, x)


def found(result):
    return {(finding.path, finding.what) for finding in result.findings}


def test_when_layers_draw():
    model = model_of(
        layers.Dense(8),
        Block(),
        Mine(fault="always", name="always"),
        Mine(fault="frozen", name="frozen", trainable=False),
        functools.partial(layers.Dropout(0.3, name="wired"), training=True),
        layers.Dense(8),
        kd.Dropout(0.3, name="good"),
        layers.Dense(2),
    )
    result = kd.audit(model)
    # Keras 3.16 heeds it again.
    wired = "hard-wired" if {row.path: row.predict for row in result.layers}["wired"] is False else "on-in-predict"
    assert found(result) == {
        ("block/unused", "never-called"),
        ("block/off", "off-in-fit"),
        ("block/by_call", "off-in-fit"),
        ("block/on", "on-in-predict"),
        ("always", "on-in-predict"),
        ("frozen", "never-drops"),
        ("wired", wired),
        (model.name, "no-always-on"),
    }
    rows = {row.path: (row.fit, row.predict) for row in result.layers}
    assert rows["good"] == (True, False) and rows["block/unused"] == (None, None)
    assert len(result.problems) == 7 and result.exit_code == 1
    assert "block/off" in str(result) and "7 problems" in repr(result)


def test_how_much_layers_draw():
    model = model_of(
        layers.Dense(64),
        layers.Dropout(0.0, name="rate_0"),
        Mine(fault="constant", name="constant"),
        Mine(fault="deaf", name="deaf"),
        Mine(fault="unscaled", name="unscaled"),
        Mine(name="right"),
        layers.Dropout(0.5, seed=3, name="one"),
        layers.Dense(64),
        layers.Dropout(0.5, seed=3, name="other"),
        layers.Dense(48),
        kd.Dropout(0.2, seed=4, name="ours"),
        layers.Dense(32),
        kd.Dropout(0.2, seed=4, name="ours_of_another_size"),
        layers.Dense(8),
        layers.Dropout(0.2, name="unseeded"),
        layers.Dense(4),
        layers.Dropout(0.5, seed=5, name="logits"),
        layers.Softmax(),
    )
    result = kd.audit(model)
    assert found(result) == {
        ("rate_0", "rate-0"),
        ("constant", "same-every-batch"),
        ("deaf", "rate"),
        ("unscaled", "mean"),
        ("other", "same-as-another"),
        ("ours_of_another_size", "same-as-another"),
        ("unseeded", "unseeded"),
        ("logits", "on-logits"),
    }
    [deaf] = [problem for problem in result.problems if problem.path == "deaf"]
    assert abs(deaf.measured["share"] - 0.5) < 0.01 and deaf.measured["z"] > 100
    rows = {row.path: row for row in result.layers}
    assert all(abs(rows[name].z) < 4.5 for name in ("right", "one", "ours", "unseeded", "logits"))


def test_the_output_and_a_rate_of_1():
    model = model_of(layers.Dense(8), layers.Dropout(1.0, name="all"), layers.Dense(8), layers.Dropout(0.5, name="end"))
    assert found(kd.audit(model)) == {("all", "rate-1"), ("end", "on-output")}


def test_batch_normalization():
    model = model_of(
        layers.Dense(64),
        layers.Dropout(0.5, name="before"),
        layers.Dense(64),
        layers.BatchNormalization(name="norm"),
        layers.Dropout(0.5, name="after"),
        layers.Dense(2),
    )
    [problem] = kd.audit(model).problems
    assert (problem.path, problem.what) == ("before", "before-batch-normalization")
    assert 1.5 < problem.measured["ratio"] < 4


def test_low_precision():
    # Keras draws in the type of the layer on TensorFlow.
    dropouts = layers.Dropout(0.001, dtype="bfloat16", name="stock"), kd.Dropout(0.001, dtype="bfloat16", name="ours")
    result = kd.audit(model_of(layers.Dense(64), dropouts[0], layers.Dense(64), dropouts[1], layers.Dense(2)))
    assert found(result) == ({("stock", "rate")} if BACKEND == "tensorflow" else set())
    shares = {row.path: row.share for row in result.layers}
    assert abs(shares["ours"] - 0.001) < 3e-4
    assert BACKEND != "tensorflow" or shares["stock"] > 0.003


class Checkpointed(layers.Layer):
    """What calls a layer within `keras.remat`."""

    def __init__(self, layer):
        super().__init__(name="checkpointed")
        self.layer = layer

    def call(self, x):
        return keras.remat(lambda x: self.layer(x, training=True) * 1.0)(x)


class Anew(layers.Layer):
    """Dropout that draws anew in the backward pass."""

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.generator = rate, keras.random.SeedGenerator(5)

    def call(self, x, training=None):
        if not training:
            return x

        def mask():
            return keras.random.dropout(keras.ops.ones_like(x), self.rate, seed=self.generator)

        @keras.ops.custom_gradient
        def product(x):
            def backward(*args, upstream=None):
                return (args[0] if upstream is None else upstream) * mask()

            return x * mask(), backward

        return product(x)


def test_the_backward_pass():
    with keras.RematScope(mode="full"):
        remat = [layers.Dropout(0.5, seed=1, name="stock"), kd.Dropout(0.5, seed=2, name="ours")]
    parts = [part for dropout in remat for part in (dropout, layers.Dense(32))]
    result = kd.audit(model_of(layers.Dense(32), *parts, layers.Dense(2)))
    what = found(result)
    assert ("stock", "backward") in what or any(kind == "fails" for _, kind in what)
    assert not any(path == "ours" for path, _ in what)


@pytest.mark.skipif(BACKEND == "jax", reason="JAX fails by itself, where the mask is not repeated")
def test_checkpointing():
    for dropout, expected in ((layers.Dropout(0.5, seed=1), True), (kd.Dropout(0.5, seed=1), False)):
        model = model_of(layers.Dense(32), Checkpointed(dropout), layers.Dense(2))
        assert (f"checkpointed/{dropout.name}", "backward") in found(kd.audit(model)) or not expected
        assert expected or "backward" not in {what for _, what in found(kd.audit(model))}


@pytest.mark.skipif(BACKEND == "jax", reason="custom gradients there take no state")
def test_a_mask_drawn_anew():
    model = model_of(layers.Dense(32), Anew(0.5, name="anew"), layers.Dense(2))
    assert ("anew", "backward") in found(kd.audit(model))


def test_a_training_step_of_its_own():
    class Forgetful(keras.Model):
        def train_step(self, *args):
            x = args[-1][0]
            self(x)
            raise AssertionError("stopped before")

    inputs = keras.Input((8,))
    model = Forgetful(inputs, layers.Dense(2)(layers.Dropout(0.5, name="dropout")(inputs)))
    assert found(kd.audit(model)) == {(model.name, "off-in-fit")}


@pytest.mark.skipif(BACKEND != "tensorflow", reason="replicas in one process")
def test_replicas():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = model_of(
            layers.Dense(32), layers.Dropout(0.5, name="stock"), layers.Dense(32), kd.Dropout(0.5), layers.Dense(2)
        )
    before = [variable.numpy() for variable in model.variables]
    assert found(kd.audit(model)) == {("stock", "same-on-replicas")}
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


def sequences():
    """A model with dropout in recurrent layers, wrappers and attention, of indices."""
    inputs = keras.Input((12,), dtype="int32", name="inputs")
    x = layers.Embedding(20, 8)(inputs)
    x = layers.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = kd.MultiHeadAttention(2, 4, dropout=0.1)(x, x)
    x = layers.TimeDistributed(layers.Dropout(0.2))(x)
    x = layers.MultiHeadAttention(2, 4)(x, x)
    x = layers.Bidirectional(layers.GRU(4, dropout=0.2, unroll=True))(x[:, :2])
    return keras.Model(inputs, layers.Dense(2)(x))


def test_no_false_alarm_and_no_trace():
    model = sequences()
    model.compile("sgd", "mse")
    x, y = np.arange(48).reshape(4, 12) % 20, np.ones((4, 2), "float32")
    model.fit(x, y, verbose=0)
    before, functions = [to_numpy(v) for v in model.variables], (model.train_function, model.predict_function)
    names = {layer: sorted(vars(layer)) for layer in model._flatten_layers()}
    flags = {layer: layer.trainable for layer in model._flatten_layers()}
    keras.utils.set_random_seed(1)
    expected = keras.random.normal((3,))
    keras.utils.set_random_seed(1)
    result = kd.audit(model)
    np.testing.assert_array_equal(to_numpy(keras.random.normal((3,))), to_numpy(expected))
    assert result.problems == [] and result.exit_code == 0
    assert [row.fit for row in result.layers] == [True] * 5 and not any(row.predict for row in result.layers)
    assert [row.always_on for row in result.layers] == [True] * 5
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(to_numpy(variable), value)
    assert names == {layer: sorted(vars(layer)) for layer in model._flatten_layers()}
    assert flags == {layer: layer.trainable for layer in model._flatten_layers()}
    assert functions == (model.train_function, model.predict_function)
    model.fit(x, y, verbose=0)


# Those that are called with one tensor of numbers.
@pytest.mark.parametrize("row", [row for row in ROWS if not row.merges], ids=str)
def test_our_layers(row):
    keras.utils.set_random_seed(2)
    inputs = keras.Input(batch_shape=(None, *row.shape[1:]), name="inputs")
    y = row.make(row.golden_rate, seed=None)(inputs)
    x = np.random.default_rng(1).standard_normal(row.shape).astype("float32")
    result = kd.audit(keras.Model(inputs, layers.Dense(2)(y)), np.concatenate([x] * 3))
    assert result.problems == [], str(result)
    assert [layer.fit for layer in result.layers] == [True]


@pytest.mark.skipif(BACKEND == "jax", reason="it compiles each operation by itself, for half a minute")
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV3Small"])
def test_applications(name):
    model = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), alpha=0.25, classes=10)
    result = kd.audit(model, np.ones((2, 32, 32, 3), "float32"))
    assert result.problems == [] and len(result.layers) == 1 and result.layers[0].fit


def test_bad_arguments():
    with pytest.raises(ValueError, match="`model` must be"):
        kd.audit(layers.Dropout(0.5))
    with pytest.raises(ValueError, match="`x` must be given"):
        inputs = keras.Input((), dtype="string")
        kd.audit(keras.Model(inputs, layers.Dropout(0.5)(inputs)))


def test_the_command_line(tmp_path, capsys):
    good, bad = tmp_path / "good.keras", tmp_path / "bad.keras"
    model_of(layers.Dense(8), layers.Dropout(0.5), layers.Dense(2)).save(good)
    model_of(layers.Dense(8), layers.Dropout(1.0, name="all"), layers.Dense(2)).save(bad)
    np.save(tmp_path / "x.npy", np.ones((4, 16), "float32"))
    assert command.main([str(good), "--x", str(tmp_path / "x.npy")]) == 0
    assert "0 problems" in capsys.readouterr().out
    assert command.main([str(bad)]) == 1
    assert "rate-1" in capsys.readouterr().out
    for arguments in ([], [str(tmp_path / "none.keras")], [str(good), "--import", "no_such_module"]):
        with pytest.raises(SystemExit) as exit:
            command.main(arguments)
        assert exit.value.code == 2
    (tmp_path / "broken.keras").write_bytes(b"no model")
    with pytest.raises(SystemExit):
        command.main([str(tmp_path / "broken.keras")])
    assert "cannot be read" in capsys.readouterr().err


def test_the_module(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["keras_dropouts", "audit", str(tmp_path / "none.keras")])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("keras_dropouts", run_name="__main__")
    assert exit.value.code == 2 and "must be a .keras file" in capsys.readouterr().err
