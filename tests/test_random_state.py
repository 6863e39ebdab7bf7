"""What a layer remembers: where it is made, seeds and rates set late, and the files they go through."""

import itertools
import random as python_random

import h5py
import keras
import numpy as np
import oracle
import pytest
from backend import BACKEND, calls_on_two_devices, distributed, multiplier, train
from catalog import ROWS, rows

import keras_dropouts as kd
from keras_dropouts import random
from keras_dropouts.random import bits, compilation
from keras_dropouts.random.bits import BITS_VERSION
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.state import RandomState

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "torch":
    import torch

X = np.ones((4, 50), "float32")


class MadeInBuild(keras.layers.Layer):
    def __init__(self, row):
        super().__init__()
        self.row = row

    def build(self, input_shape):
        self.inner = self.row.make(0.5)

    def call(self, x, training=False):
        y = self.inner(self.row.inputs(x), training=training)
        return keras.ops.mean(y, axis=tuple(range(1, len(y.shape))))


class All(keras.Model):
    def __init__(self):
        super().__init__()
        self.parts = [MadeInBuild(row) for row in ROWS]

    def call(self, inputs, training=False):
        return sum(part(inputs[str(part.row)], training=training) for part in self.parts)


@pytest.mark.parametrize("style", ["subclassed", "functional"])
def test_layers_made_in_another_layers_build(style):
    model = All()
    if style == "functional":
        inputs = {str(row): keras.Input(row.shape[1:], name=str(row)) for row in ROWS}
        model = keras.Model(inputs, model.call(inputs))
    model.compile("sgd", "mse")
    data = {str(row): np.ones((4, *row.shape[1:]), "float32") for row in ROWS}
    model.fit(data, np.ones(4), batch_size=2, verbose=0)
    made = [part for part in model._flatten_layers() if isinstance(part, MadeInBuild)]
    states = [part.row.drawing(part.inner)._random_state.read() for part in made]
    assert [state[:2].tolist() for state in states] == [[7, 2]] * len(ROWS)


class Composite(keras.layers.Layer):
    """Leaves building its parts to Keras."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def test_layers_are_built_from_the_start():
    layers = [row.make(0.5) for row in ROWS if not row.wrapped and not row.called]
    # These learn from their inputs where the channels are.
    late = kd.MaxDrop, kd.UniformDropout, kd.Masksembles, kd.WeightedChannelDropout
    assert {type(layer) for layer in layers if not layer.built} == set(late)
    # Keras would warn here of a state that is not built.
    Composite(*(layer for layer in layers if layer.built)).build((None, 4))


def test_a_state_is_made_again_from_its_config():
    state = RandomState(2**32 - 1, 0.25)
    np.testing.assert_array_equal(RandomState.from_config(state.get_config()).read(), state.read())


def test_given_a_seed_a_layer_takes_no_random_number():
    before = python_random.getstate()
    for row in ROWS:
        if not row.wrapped:
            row.make(0.5, seed=3)
    assert python_random.getstate() == before


def test_without_a_seed_a_layer_takes_the_number_that_the_one_of_keras_takes():
    after = []
    for make in (keras.layers.Dropout, kd.Dropout):
        keras.utils.set_random_seed(5)
        make(0.5)
        after.append(python_random.random())
    assert after[0] == after[1]


def test_a_new_seed_takes_effect():
    layer = kd.Dropout(0.5, seed=1)
    multiplier(layer, X.shape)
    layer.seed = 99
    assert layer.get_config()["seed"] == 99
    fresh = kd.Dropout(0.5, seed=99)
    multiplier(fresh, X.shape)
    # The count of calls, which schedules go by, goes on.
    np.testing.assert_array_equal(multiplier(layer, X.shape), multiplier(fresh, X.shape))
    layer.seed = None
    assert layer._random_state.read()[0] not in (1, 99)
    with pytest.raises(ValueError, match=r"`seed` must be.*Received: seed=-1"):
        layer.seed = -1


def model_of(seed, rate=0.5):
    return keras.Sequential([keras.Input((50,)), kd.Dropout(rate, seed=seed, name="it"), keras.layers.Dense(1)])


def test_a_weights_file_leaves_a_given_seed(tmp_path):
    model = model_of(1)
    model(X, training=True)
    model.save_weights(tmp_path / "it.weights.h5")
    states = {}
    for seed in (1, 2, None):
        model = model_of(seed)
        model.load_weights(tmp_path / "it.weights.h5")
        states[seed] = model.get_layer("it")._random_state.read()[:2].tolist()
    assert states == {1: [1, 1], 2: [2, 1], None: [1, 1]}


class TwoTensors(kd.RandomLayer):
    """Draws two masks, the second by a key folded from the first's, and shows both."""

    def training_call(self, inputs, key, rate):
        masks = [random.keep_mask(k, keras.ops.shape(inputs), rate) for k in (key, random.fold_in(key, 1))]
        return keras.ops.concatenate([keras.ops.cast(mask, inputs.dtype) for mask in masks], axis=1)

    def compute_output_shape(self, input_shape):
        return input_shape[0], 2 * input_shape[1]


def test_no_replica_draws_what_another_draws_second():
    drawn = calls_on_two_devices(lambda: TwoTensors(0.5, seed=1), np.ones((4, 200), "float32"), calls=1)
    tensors = [part for y in drawn for part in np.split(y, 2, axis=1)]
    assert len(tensors) == 4
    for one, other in itertools.combinations(tensors, 2):
        assert 0.3 < (one != other).mean() < 0.7


@pytest.mark.parametrize("version", [None, 1, BITS_VERSION + 1])
def test_a_file_of_other_bits_loads_with_a_warning(version, tmp_path):
    path = tmp_path / "it.weights.h5"
    model = model_of(None)
    model(X, training=True)
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda name, _: found.append(name) if name.endswith("bits_version") else None)
        (name,) = found
        assert file[name][()] == BITS_VERSION
        del file[name]
        if version is not None:
            file[name] = np.int32(version)
    other = model_of(None)
    with pytest.warns(UserWarning, match=f"The file is of version {version or 1} of the random bits"):
        other.load_weights(path)
    states = [m.get_layer("it")._random_state.read().tolist() for m in (model, other)]
    assert states[0] == states[1]


def test_a_rate_set_late_is_in_weights_files(tmp_path):
    late, early = model_of(1), model_of(1, 0.25)
    late.get_layer("it").rate = 0.125
    late.save_weights(tmp_path / "late.weights.h5")
    early.save_weights(tmp_path / "early.weights.h5")
    for rate in (0.5, keras.optimizers.schedules.PolynomialDecay(0.0, 10, 0.5)):
        model = model_of(1, rate)
        model.load_weights(tmp_path / "early.weights.h5")
        # The rate that a model was made with is not the file's.
        assert model.get_layer("it").rate == rate
        model.load_weights(tmp_path / "late.weights.h5")
        assert model.get_layer("it").current_rate() == 0.125
    # And so on, from file to file.
    model.save_weights(tmp_path / "it.weights.h5")
    model = model_of(1)
    model.load_weights(tmp_path / "it.weights.h5")
    assert model.get_layer("it").rate == 0.125


def test_states_have_paths_of_their_own():
    paths = [row.drawing(row.make(0.5))._random_state.state.path for row in ROWS]
    assert len(set(paths)) == len(paths)


def test_a_key_of_many():
    key = key_of(RandomState(7, 0.5).next())
    for index in (0, 1, 2**31, 2**32 - 1):
        words = keras.ops.convert_to_numpy(random.fold_in(key, index)).astype("uint32")
        assert words[:2].tolist() == [int(word) for word in oracle.threefry2x32((7, 0), (index, 2**32 - 1), 13)]
        assert words[2:].tolist() == keras.ops.convert_to_numpy(key)[2:].astype("uint32").tolist()


if BACKEND == "torch":

    @pytest.mark.parametrize("rank", [2048, 2**20])
    def test_any_rank_draws_its_own(rank):
        masks = [multiplier(kd.Dropout(0.5, seed=1), X.shape)]
        with distributed(rank, rank + 1):
            masks.append(multiplier(kd.Dropout(0.5, seed=1), X.shape))
        assert (masks[0] != masks[1]).any()

    def test_replicas_of_many_samples_do_not_overlap():
        shape = (2**20 + 4, 2)
        first = multiplier(kd.Dropout(0.5, seed=1), shape)
        with distributed(1):
            second = multiplier(kd.Dropout(0.5, seed=1), shape)
        assert (first[2**20 :] != second[:4]).any()

    def test_a_state_dict_holds_the_state_of_each_layer():
        def make():
            return keras.Sequential(
                [keras.Input((50,)), kd.Dropout(0.5, seed=1), kd.Dropout(0.5, seed=2), keras.layers.Dense(1)]
            )

        model, other = make(), make()
        for _ in range(3):
            model(X, training=True)
        values = zip(other.state_dict(), model.state_dict().values(), strict=True)
        other.load_state_dict({name: value.clone() for name, value in values})
        states = [[layer._random_state.read().tolist() for layer in m.layers[:2]] for m in (model, other)]
        assert states[0] == states[1]
        assert states[0][0][:2] == [1, 3] and states[0][1][:2] == [2, 3]

    def test_a_device_that_draws_wrong_is_not_drawn_on(monkeypatch):
        monkeypatch.setattr(compilation, "TRIED", ("meta",))
        compilation._is_right_on.cache_clear()

        def kernel(key, threshold, samples, blocks):
            words = torch.ones((samples, 2, blocks), dtype=torch.int32)
            # Like a device whose shifts go wrong.
            return words if key[0] == 1 else words.mul_(torch.randint(2**31, ()).int())

        assert compilation._is_right_on(torch.device("cpu"), bits._keep.__wrapped__)
        assert not compilation._is_right_on(torch.device("cpu"), kernel)
        monkeypatch.setattr(compilation, "TRIED", ("cpu",))
        compilation._is_right_on.cache_clear()
        assert not compilation._is_right_on(torch.device("meta"), bits._keep.__wrapped__)
        compilation._is_right_on.cache_clear()

elif BACKEND == "tensorflow":

    @rows()
    def test_without_xla_the_bits_are_the_same(row, monkeypatch):
        monkeypatch.setattr(compilation, "_xla_is_there", lambda: False)
        x = row.inputs(tf.ones(row.shape))
        layer, twin = row.make(0.3), row.make(0.3)
        call = tf.function(lambda x: twin(x, training=True))
        eager, graph = layer(x, training=True), call(x)
        monkeypatch.undo()
        expected = train(row.make(0.3), x)
        for y in (eager, graph):
            np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
        functions = call.get_concrete_function(x).graph.as_graph_def().library.function
        assert not any(function.attr["_XlaMustCompile"].b for function in functions)

    def test_xla_is_left_alone_where_keras_does_not_ask_for_it(monkeypatch):
        assert compilation._xla_is_there()
        monkeypatch.setattr(compilation, "is_op_determinism_enabled", lambda: True)
        assert not compilation._xla_is_there()
        monkeypatch.undo()
        monkeypatch.setattr(compilation, "APPLE_GPU", True)
        assert not compilation._xla_is_there()
