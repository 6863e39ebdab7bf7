"""The rate over training steps and over depth: Keras's schedules, the rate in force, the log of it."""

import csv
import math

import keras
import numpy as np
import pytest
from backend import BACKEND, compiled_calls, train
from catalog import rows
from keras.optimizers import schedules
from keras.optimizers.schedules import PiecewiseConstantDecay, PolynomialDecay

from keras_dropouts import CurriculumDropout, Dropout, RateLogger, SpatialDropout1D, UniformDropout, linear_rates

with_rate = rows(rated=True)

STEPS, CUTOFF, RATE = 12, 5, 0.4
# Liu et al. 2023, as their program makes them, and the linear ramp of DropBlock.
SCHEDULES = {
    "early": (
        PolynomialDecay(RATE, CUTOFF - 1, end_learning_rate=0.0),
        np.append(np.linspace(RATE, 0, CUTOFF), np.zeros(STEPS - CUTOFF)),
    ),
    "early, constant": (
        PiecewiseConstantDecay([CUTOFF - 1], [RATE, 0.0]),
        np.repeat([RATE, 0], [CUTOFF, STEPS - CUTOFF]),
    ),
    "late": (PiecewiseConstantDecay([CUTOFF - 1], [0.0, RATE]), np.repeat([0, RATE], [CUTOFF, STEPS - CUTOFF])),
    "ramp": (PolynomialDecay(0.0, STEPS, end_learning_rate=RATE), np.arange(STEPS) / STEPS * RATE),
}


class EveryRate(keras.callbacks.Callback):
    """Keeps the rate before each training step, and what each step left of an input of ones."""

    def __init__(self):
        super().__init__()
        self.rates, self.kept = [], []

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(self.model.get_layer("it").current_rate())

    def on_train_batch_end(self, batch, logs=None):
        self.kept.append(logs["kept"])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_in_fit_is_the_schedules(name):
    schedule, expected = SCHEDULES[name]
    model = keras.Sequential([keras.Input((20_000,)), Dropout(schedule, seed=3, name="it")])
    kept = keras.metrics.MeanMetricWrapper(lambda y, z: keras.ops.mean(keras.ops.cast(z != 0, "float32")), name="kept")
    model.compile(keras.optimizers.SGD(0.0), "mse", metrics=[kept])
    x = np.ones((6, 20_000), "float32")
    callback = EveryRate()
    model.fit(x, x, batch_size=2, epochs=STEPS // 3, verbose=0, callbacks=[callback])
    np.testing.assert_allclose(callback.rates, expected, atol=1e-7)
    # A metric is the mean since the epoch's beginning.
    sums = np.reshape(callback.kept, (-1, 3)) * [1, 2, 3]
    dropped = 1 - np.diff(sums, prepend=0).ravel()
    tolerance = 4.5 * np.sqrt(expected * (1 - expected) / 40_000) + 1e-6
    assert (abs(dropped - expected) < tolerance).all()


@with_rate
def test_the_current_rate_is_that_of_the_next_call(row):
    layer = row.make(PolynomialDecay(0.0, 4, end_learning_rate=0.8))
    rates = []
    for _ in range(6):
        rates.append(layer.current_rate())
        train(layer, row.inputs(np.ones(row.shape, "float32")))
    np.testing.assert_allclose(rates, [0, 0.2, 0.4, 0.6, 0.8, 0.8], rtol=1e-6)
    assert all(type(rate) is float for rate in rates)
    layer.current_rate()
    setattr(layer, row.parameter, 0.3)
    assert layer.current_rate() == getattr(layer, row.parameter) == 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda zero: PolynomialDecay(zero, 4, end_learning_rate=0.5),
        lambda zero: schedules.CosineDecay(zero, 4, warmup_target=0.5, warmup_steps=2),
        lambda zero: PiecewiseConstantDecay([1, 2], [zero, 0.25, zero + 1]),
        lambda zero: schedules.CosineDecay(zero + 1, 4),
        lambda zero: schedules.CosineDecayRestarts(zero + 1, 4),
        lambda zero: schedules.ExponentialDecay(zero + 1, 4, 0.5),
        lambda zero: schedules.InverseTimeDecay(zero + 1, 4, 0.5),
    ],
    ids=["polynomial", "warmup", "piecewise", "cosine", "restarts", "exponential", "inverse"],
)
def test_a_schedule_of_integers_is_one_of_floats(make):
    for zero in (0, np.int64(0)):
        given = make(zero)
        config = given.get_config()
        layer, right = Dropout(given), Dropout(make(0.0))
        # As a file has it that was written from integers.
        read = Dropout.from_config({"rate": keras.saving.serialize_keras_object(make(0))})
        rates = []
        for _ in range(5):
            rates.append(right.current_rate())
            assert layer.current_rate() == read.current_rate() == rates[-1]
            for each in (layer, read, right):
                train(each, np.ones((2, 3), "float32"))
        assert given.get_config() == config
        assert any(0 < rate < 1 for rate in rates)


@keras.saving.register_keras_serializable(package="test_schedules")
class Step(schedules.LearningRateSchedule):
    """A quarter in the first call, and then another value."""

    def __init__(self, then):
        self.then = then

    def __call__(self, step):
        return keras.ops.where(step < 1, 0.25, self.then)

    def get_config(self):
        return {"then": self.then}


@with_rate
def test_nan_from_a_schedule_drops_nothing(row):
    x = row.inputs(np.random.default_rng(0).standard_normal(row.shape).astype("float32"))
    broken, zero = row.make(Step(math.nan)), row.make(Step(0.0))
    for layer in (broken, zero):
        assert layer.current_rate() == 0.25
        train(layer, x)
    np.testing.assert_array_equal(train(broken, x), train(zero, x))
    with pytest.raises(ValueError, match=rf"(?s)`{row.parameter}` must give numbers.*NaN at step 2"):
        broken.current_rate()
    if row.layer is Dropout:
        np.testing.assert_array_equal(compiled_calls(row.make(Step(math.nan)), [x, x])[1], x)


def test_the_logger_tells_of_nan():
    model = keras.Sequential([keras.Input((3,)), Dropout(Step(math.nan)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="NaN at step 1"):
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=[RateLogger()])
    assert np.isfinite(model.get_weights()[0]).all()


class Whole(schedules.LearningRateSchedule):
    def __call__(self, step):
        return keras.ops.cast(step, "int32") * 0

    def get_config(self):
        return {}


class MadeInBuild(keras.layers.Layer):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def build(self, input_shape):
        self.parts = [Dropout(schedule) for schedule in self.make()]
        super().build(input_shape)

    def call(self, x, training=False):
        for part in self.parts:
            x = part(x, training=training)
        return x


class Wrapping(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, keras.layers.Dense(3)

    def call(self, x, training=False):
        return self.head(self.layer(x, training=training))


def test_a_layer_with_a_schedule_is_made_anywhere():
    layer = MadeInBuild(
        lambda: (
            PolynomialDecay(0, 4, end_learning_rate=0.5),
            schedules.CosineDecay(0.0, 4, warmup_target=0.5, warmup_steps=2),
            CurriculumDropout(0.5, 0.1),
        )
    )
    # Not in `Sequential`, which would build it before `fit`.
    model = Wrapping(layer)
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 3)), batch_size=2, verbose=0)
    rates = [part.current_rate() for part in layer.parts]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.5 * (1 - math.exp(-0.2))], rtol=1e-6)


def test_a_schedule_that_gives_integers_is_refused():
    with pytest.raises(
        ValueError, match=r"(?s)schedule for `rate` must give numbers of a float.*Received: rate=.*Whole"
    ):
        Dropout(Whole())


@pytest.mark.skipif(BACKEND != "jax", reason="of JAX alone: there the state of the layers is with `fit`")
def test_a_rate_out_of_reach_is_an_error():
    layer = Dropout(PolynomialDecay(0.5, 4), name="it")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile("sgd", "mse")

    class Impatient(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for use in (layer.current_rate, lambda: setattr(layer, "rate", 0.1)):
                with pytest.raises(RuntimeError, match=r"self\.model\.get_layer"):
                    use()
            assert self.model and layer.current_rate() < 0.5

    model.fit(np.ones((2, 3)), np.ones((2, 3)), verbose=0, callbacks=[Impatient()])
    layer.rate = 0.1


def test_a_parameter_has_one_name():
    layer = UniformDropout(0.5)
    assert layer.beta == 0.5
    assert not hasattr(layer, "rate") and not hasattr(Dropout(0.5), "beta")


def test_the_logs_have_the_rates_of_nested_models(tmp_path):
    ramp = PolynomialDecay(0.0, 6, end_learning_rate=0.6)
    towers = []
    for side in ("left", "right"):
        layers = [keras.Input((5, 3)), SpatialDropout1D(ramp, name="drop"), keras.layers.Dense(2)]
        towers.append(keras.Sequential(layers, name=side))
    inputs = keras.Input((5, 3))
    x = keras.layers.add([tower(inputs) for tower in towers])
    x = keras.layers.Flatten()(keras.layers.TimeDistributed(Dropout(0.25, name="drop"), name="each")(x))
    model = keras.Model(inputs, UniformDropout(0.5, name="noise")(keras.layers.Dense(1)(x)))
    model.compile("sgd", "mse")
    data = np.ones((6, 5, 3)), np.ones((6, 1))
    callbacks = [RateLogger(), keras.callbacks.CSVLogger(tmp_path / "log.csv")]
    fitted = model.fit(*data, batch_size=2, epochs=3, validation_data=data, verbose=0, callbacks=callbacks)
    constant = {"rate/each/drop": [0.25] * 3, "beta/noise": [0.5] * 3}
    expected = {"rate/left/drop": [0.3, 0.6, 0.6], "rate/right/drop": [0.3, 0.6, 0.6], **constant}
    assert {"loss", "val_loss", *expected} == set(fitted.history)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    for name, rates in expected.items():
        np.testing.assert_allclose(fitted.history[name], rates, rtol=1e-6)
        np.testing.assert_allclose([float(row[name]) for row in rows], rates, rtol=1e-6)


def test_a_logger_without_a_model_or_logs_is_an_error():
    with pytest.raises(ValueError, match=r"RateLogger must be among the `callbacks` of `fit`.*Received: model=None"):
        RateLogger().on_epoch_end(0, {})
    logger = RateLogger()
    logger.set_model(keras.Sequential([Dropout(0.5)]))
    with pytest.raises(ValueError, match="logs=None"):
        logger.on_epoch_end(0)


def test_layers_of_one_name_are_told_apart():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.drops = [Dropout(rate, name="drop") for rate in (0.1, 0.2, 0.3)]
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            for drop in self.drops:
                x = drop(x)
            return self.dense(x)

    model = Twins()
    model.compile("sgd", "mse")
    history = model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0, callbacks=[RateLogger()]).history
    rates = {name: values for name, values in history.items() if name != "loss"}
    assert rates == {"rate/drop": [0.1], "rate/drop_1": [0.2], "rate/drop_2": [0.3]}


def test_rates_grow_linearly_with_depth():
    # The survival probabilities of the paper's network of 54 blocks, the last of which survives half of the time.
    survival = [1 - block / 54 * (1 - 0.5) for block in range(1, 55)]
    np.testing.assert_allclose(linear_rates(0.5, 54), 1 - np.array(survival), rtol=1e-12)
    assert linear_rates(0.3, 1) == [0.3]
    assert linear_rates(np.float32(1), np.int64(2)) == [0.5, 1.0]
    assert linear_rates(0, 3) == [0, 0, 0]
    assert all(type(rate) is float for rate in linear_rates(1, 3))


def test_rates_of_stages():
    rates = linear_rates(0.3, stages=(3, 4, 6, 3))
    assert [len(stage) for stage in rates] == [3, 4, 6, 3]
    np.testing.assert_allclose(np.concatenate(rates), np.linspace(0, 0.3, 16), rtol=1e-12)
    assert linear_rates(0.3, stages=np.array([1])) == [[0.0]]
    for stages in ([], [2, 0], [2.0], "22", 3, [True]):
        with pytest.raises(ValueError, match=r"`stages` must be a sequence of positive integers.*Received: stages="):
            linear_rates(0.3, stages=stages)
    with pytest.raises(ValueError, match=r"`depth` must be.*not both.*Received: depth=3"):
        linear_rates(0.3, 3, stages=[3])


@pytest.mark.parametrize(
    "arguments",
    [{"rate": rate} for rate in (-0.1, 1.5, math.nan, True, "0.5")] + [{"depth": n} for n in (0, -1, 2.0, True, None)],
    ids=repr,
)
def test_bad_rates_and_depths_are_refused(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"`{name}` must be a.*Received: {name}="):
        linear_rates(**{"rate": 0.5, "depth": 3, **arguments})
