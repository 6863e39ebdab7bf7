"""What is read of Keras that is private, each part by itself; and that nothing else is."""

import ast
import contextlib
import inspect
import pathlib
import random
import re

import keras
import numpy as np
import pytest
from backend import BACKEND, to_numpy
from keras import layers

import keras_dropouts
from keras_dropouts import keras_internals as internals
from keras_dropouts.layers.recurrent_wrapper import _StandIn

X = np.random.default_rng(0).standard_normal((2, 3)).astype("float32")


@contextlib.contextmanager
def needed_by(features):
    """Decorates a test, to say what rests on what it asks for."""
    try:
        yield
    except Exception as change:
        raise AssertionError(f"This Keras has changed a private part. What rests on it: {features}.") from change


class Holder(layers.Layer):
    def __init__(self):
        super().__init__(name="holder")
        self.one, self.several = layers.Dense(3, name="one"), [layers.Dense(3, name="other"), 5]

    def build(self, input_shape):
        self.one.build(input_shape)
        self.several[0].build(input_shape)

    def call(self, x):
        return self.several[0](self.one(x))


def functional(layer):
    inputs = keras.Input((3,))
    return keras.Model(inputs, layer(layer(inputs)))


@needed_by("always_on, monte_carlo, insert_after and replace, which search for layers in depth")
def test_all_layers():
    holder = Holder()
    model = keras.Sequential([keras.Input((3,)), holder])
    assert internals.all_layers(model)[0] is model
    assert set(internals.all_layers(model)) >= {model, holder, holder.one, holder.several[0]}
    # Beside the graph.
    model = type("Custom", (keras.Model,), {})(model.inputs, model.outputs)
    model.beside = Holder()
    assert set(internals.all_layers(model)) >= {holder.one, model.beside, model.beside.one}
    assert len(set(internals.all_layers(model))) == len(internals.all_layers(model))


@needed_by("RateLogger, which names layers within layers")
def test_held_layers():
    holder = Holder()
    assert internals.held_layers(holder) == [holder.one, holder.several[0]]
    assert internals.held_layers(keras.Sequential([holder])) == [holder]


@needed_by("always_on and replace, which search for what drops")
def test_seed_generators():
    dropout = layers.Dropout(0.5)
    assert internals.seed_generators(dropout) == [dropout.seed_generator]
    assert not internals.seed_generators(keras.Sequential([dropout]))


@needed_by("always_on, which leaves augmentation off")
def test_augmentation():
    assert all(issubclass(kind, internals.AUGMENTATION) for kind in (layers.RandomFlip, layers.RandomContrast))
    assert not any(issubclass(kind, internals.AUGMENTATION) for kind in (layers.Dropout, layers.Dense, Holder))


@needed_by("each layer, whose random state is there before it is called")
def test_build_now():
    layer, holder = layers.Layer(), Holder()
    for each in (layer, holder):
        internals.build_now(each)
    assert layer.built and not holder.built
    assert layer.get_build_config() is None


@needed_by("a rate or seed that is set within fit, and monte_carlo after an error")
def test_has_value():
    model, seen = keras.Sequential([keras.Input((3,)), layers.Dense(3)]), []
    variable = model.weights[0]
    model.compile("sgd", "mse")
    look = lambda *_, **__: seen.append(internals.has_value(variable))  # noqa: E731
    model.fit(X, X, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)])
    assert seen == [BACKEND != "jax"] and internals.has_value(variable)


@needed_by("always_on, where dropout alone is in training")
def test_training_kept():
    seen = []

    class Told(layers.Layer):
        def call(self, x, training=None):
            seen.append(training)
            return x

    class Outer(layers.Layer):
        def __init__(self):
            super().__init__()
            self.one, self.other = Told(), Told()

        def call(self, x, training=False):
            with internals.training_kept(self):
                self.one(x, training=True)
            return self.other(x)

    Outer()(X, training=False)
    # Not as it is built, but as it is called.
    assert seen[-2:] == [True, False]


@needed_by("the seeds of all layers, and compare, whose runs share a process with threads that draw numbers too")
def test_new_seed_and_seed_numbers_and_seeds_drawn_from():
    def seeds():
        made = keras.random.SeedGenerator(), keras.initializers.GlorotUniform()
        return [internals.new_seed(), *(to_numpy(each) for each in (made[0].state.value, made[1]((2, 2))))]

    random.seed(3)
    expected = seeds()
    with internals.seeds_drawn_from(random.Random(3)):
        random.random()
        for drawn, before in zip(seeds(), expected, strict=True):
            np.testing.assert_array_equal(drawn, before)
    assert internals.seed_numbers() is random and internals.new_seed() != expected[0]


@needed_by("TargetedDropout and Mixout, which compare weights that are nearly equal")
def test_as_stored():
    class Reader(layers.Layer):
        def build(self, input_shape):
            self.held = self.add_weight(shape=())

        def call(self, inputs):
            self.cast = self.held.value.dtype
            with internals.as_stored():
                self.stored = self.held.value.dtype
            return inputs

    reader = Reader(dtype="mixed_bfloat16")
    reader(np.ones(3, "float32"))
    assert [keras.backend.standardize_dtype(dtype) for dtype in (reader.cast, reader.stored)] == ["bfloat16", "float32"]


@needed_by("always_on, which takes the place of a layer's `call`, and replace, which notes what it exchanged")
def test_untracked():
    layer = layers.Dense(3)
    layer(X)
    internals.untracked(layer)["note"] = layers.Dense(3)
    assert isinstance(layer.note, layers.Dense) and not internals.held_layers(layer)
    internals.untracked(layer)["call"] = lambda x: -x
    np.testing.assert_array_equal(to_numpy(layer(X)), -X)


@needed_by("DropConnect, Standout and each recurrent wrapper")
def test_twin():
    layer = layers.Dense(3, bias_initializer="ones")
    y = to_numpy(layer(X))
    other = internals.twin(layer, bias=None)
    assert type(other) is layers.Dense and other.kernel is layer.kernel
    np.testing.assert_allclose(to_numpy(other(X)), y - 1, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(layer(X)), y)


@needed_by("each recurrent wrapper, whose steps Keras's loop calls")
@pytest.mark.parametrize("unroll", [False, True])
def test_the_loop_takes_another_cell(unroll):
    layer = layers.LSTM(3, return_sequences=True, unroll=unroll)
    layer.build((2, 4, 3))
    step = lambda inputs, states: (states[0] + 1, [states[0] + 1, states[1]])  # noqa: E731
    loop = internals.twin(layer, layers.RNN, cell=_StandIn(layer.cell, step, "float32"))
    outputs = to_numpy(layers.RNN.call(loop, keras.ops.zeros((2, 4, 3))))
    np.testing.assert_array_equal(outputs, np.broadcast_to(np.arange(1, 5)[:, None], (2, 4, 3)))


@needed_by("DropConnect and Standout, which give a layer another kernel")
@pytest.mark.parametrize(
    "layer, shape",
    [
        (layers.Dense(3), (2, 3)),
        (layers.EinsumDense("ab,bc->ac", (4,)), (2, 3)),
        (layers.Conv1D(2, 3), (2, 5, 3)),
        (layers.DepthwiseConv1D(3), (2, 5, 3)),
    ],
)
def test_kernel_attribute(layer, shape):
    x = keras.ops.ones(shape)
    y = to_numpy(layer(x))
    kernel = {internals.kernel_attribute(layer): 2 * layer.kernel.value}
    np.testing.assert_allclose(to_numpy(internals.twin(layer, **kernel, lora_enabled=False)(x)), 2 * y, rtol=1e-5)


def attention():
    layer = layers.MultiHeadAttention(2, 3, bias_initializer="ones")
    layer.build((2, 4, 3), (2, 4, 3))
    return layer


SEQUENCES = np.random.default_rng(1).standard_normal((2, 4, 3)).astype("float32")


@needed_by("MultiHeadAttention, which exchanges the softmax, the dropout or what the heads return")
@pytest.mark.parametrize("causal", [False, True])
def test_attention_with(causal):
    layer = attention()
    y = to_numpy(layer(SEQUENCES, SEQUENCES, use_causal_mask=causal))
    bias = to_numpy(layer.output_dense.bias)

    def called(**parts):
        other = internals.attention_with(layer, **parts)
        assert type(other) is layers.MultiHeadAttention
        return to_numpy(other.call(SEQUENCES, SEQUENCES, use_causal_mask=causal, training=True))

    def softmax(scores, mask=None):
        seen.append((tuple(scores.shape), mask is not None))
        return layers.Softmax()(scores, mask=mask)

    seen = []
    for same in ({}, {"softmax": softmax}, {"weights": lambda x: x}, {"heads": lambda x: x}):
        np.testing.assert_allclose(called(**same), y, rtol=1e-5, atol=1e-6)
    assert seen == [((2, 2, 4, 4), causal)]
    for part in ("weights", "heads"):
        np.testing.assert_allclose(called(**{part: lambda x: 2 * x}) - bias, 2 * (y - bias), rtol=1e-4, atol=1e-5)
    # Of the heads as they are in the weights of the output.
    only = to_numpy(keras.ops.einsum("nhd->d", layer.output_dense.kernel[:1]))
    first = called(heads=lambda x: keras.ops.ones_like(x) * keras.ops.convert_to_tensor([[1.0], [0.0]]))
    np.testing.assert_allclose(first - bias, np.broadcast_to(only, y.shape), rtol=1e-4, atol=1e-5)


@needed_by("MultiHeadAttention at inference, where a query may have no keys")
def test_attention_with_masks_sees_them_all():
    layer, mask = attention(), np.ones((2, 4, 4), bool)
    mask[:, 1] = False
    y = to_numpy(
        internals.attention_with(layer).call(SEQUENCES, SEQUENCES, attention_mask=keras.ops.convert_to_tensor(mask))
    )
    np.testing.assert_allclose(y[:, 1], np.broadcast_to(to_numpy(layer.output_dense.bias), (2, 3)), rtol=1e-5)
    assert np.abs(y[:, 1] - y[:, 0]).max() > 1e-3


@needed_by("MultiHeadAttention, which Keras would give a dropout beside its own")
def test_hold_dropout():
    dropout = keras_dropouts.Dropout(0.0)
    layer = layers.MultiHeadAttention(2, 3, dropout=0.5)
    layer.dropout_layer = dropout
    layer.build((2, 4, 3), (2, 4, 3))
    internals.hold_dropout(layer, dropout)
    assert [part for part in internals.held_layers(layer) if isinstance(part, layers.Dropout)] == [dropout]
    y = [to_numpy(layer(SEQUENCES, SEQUENCES, training=training)) for training in (True, False)]
    np.testing.assert_allclose(*y, rtol=1e-5, atol=1e-6)


@needed_by("a file of what replace made")
@pytest.mark.parametrize("make", [Holder, lambda: layers.Dense(3), lambda: keras_dropouts.Dropout(0.5)])
def test_header_of(make):
    header, written = internals.header_of(type(make())), keras.saving.serialize_keras_object(make())
    for name in ("module", "class_name", "registered_name"):
        assert header[name] == written[name]
    assert not header["config"]


@needed_by("a Lambda in a model that insert_after or replace copies")
def test_lambda_output_shape():
    for shape in (None, (3,), lambda shape: shape):
        assert internals.lambda_output_shape(layers.Lambda(lambda x: x, output_shape=shape)) == shape


@needed_by("insert_after and replace in functional models")
def test_functional_class():
    model = functional(layers.Dense(3))
    assert type(model) is internals.functional_class()
    assert issubclass(type(type("Custom", (keras.Model,), {})(model.inputs, model.outputs)), type(model))
    assert not isinstance(keras.Sequential([keras.Input((3,)), layers.Dense(3)]), internals.functional_class())


@needed_by("replace in layers that hold a Sequential")
def test_functional_of():
    assert internals.functional_of(keras.Sequential([layers.Dense(3)])) is None
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3)])
    graph = internals.functional_of(model)
    assert isinstance(graph, internals.functional_class()) and graph.layers[1] is model.layers[0]


@needed_by("PatchDropout, whose mask is that of the tokens it has drawn")
def test_get_keras_mask_and_set_keras_mask():
    x, mask = keras.ops.ones((2, 3)), keras.ops.ones((2,), "bool")
    assert internals.get_keras_mask(x) is None
    internals.set_keras_mask(x, mask)
    assert internals.get_keras_mask(x) is mask
    received = []

    class Receiver(layers.Layer):
        def call(self, inputs, mask=None):
            received.append(mask)
            return inputs

    receiver = Receiver()
    receiver.supports_masking = True
    receiver(x)
    assert len(received) == 1 and received[0] is mask


@needed_by("always_on, insert_after and replace, which make inputs like those of a model")
def test_origin():
    model = functional(layers.Dense(3))
    assert internals.origin(model.outputs[0]) is model.layers[1]
    assert isinstance(internals.origin(model.inputs[0]), layers.InputLayer)


@needed_by("replace, which looks into the attributes of layers")
def test_own_attributes():
    holder = Holder()
    holder.build((2, 3))
    # PyTorch's list of parameters holds no layers.
    assert {*internals.own_attributes(holder)} - {"_torch_params"} == {"one", "several"}
    model = keras.Sequential([keras.Input((3,)), holder])
    for name in internals.own_attributes(model):
        value = getattr(model, name)
        assert not isinstance(value, layers.Layer) and not (isinstance(value, list) and holder in value)


def parameters(layer):
    """The variables' values that PyTorch knows of, for its optimizers; elsewhere those that Keras knows of."""
    values = layer.parameters() if BACKEND == "torch" else layer.variables
    return sorted(to_numpy(value.detach() if BACKEND == "torch" else value).sum() for value in values)


@needed_by("replace in layers that hold layers, and on PyTorch their parameters")
def test_exchange_tracked_and_list_parameters():
    holder, new = Holder(), layers.Dense(3, kernel_initializer="ones", bias_initializer="ones", name="new")
    for layer in (holder, new):
        layer.build((2, 3))
    first, old = holder.one, holder.several[0]
    internals.exchange_tracked(holder, first, new)
    holder.one = new
    internals.list_parameters(holder)
    assert internals.held_layers(holder) == [new, old]
    assert holder.variables == new.variables + old.variables
    assert parameters(holder) == sorted(parameters(new) + parameters(old))
    # In the place of one that is there already.
    internals.exchange_tracked(holder, old, new)
    assert internals.held_layers(holder) == [new]


@needed_by("replace in models")
@pytest.mark.parametrize("make", [functional, lambda layer: keras.Sequential([keras.Input((3,)), layer])])
def test_exchange_tracked(make):
    old, new = layers.Dense(3), layers.Dense(3)
    model = make(old)
    new.build((2, 3))
    internals.exchange_tracked(model, old, new)
    assert internals.held_layers(model)[-1] is new and old not in internals.held_layers(model)
    assert model.variables == new.variables


@needed_by("replace in functional models that another layer holds")
def test_exchange_in_graphs():
    old, new = layers.Dense(3), layers.Rescaling(2.0)
    model = functional(old)
    keys = len(model._nodes)
    internals.exchange_in_graphs([model], old, new)
    np.testing.assert_array_equal(to_numpy(model(X)), 4 * X)
    assert internals.origin(model.outputs[0]) is new
    # Of which the config of the model is made.
    assert len(model._nodes) == keys and not any(key.startswith(str(id(old))) for key in model._nodes)


@needed_by("keras.RematScope around a layer of ours")
def test_keras_asks_for_the_rematerialized_call():
    asked = []

    class Asked(layers.Layer):
        def call(self, x, factor=1):
            return factor * x

        def rematerialized_call(self, layer_call, *args, **kwargs):
            asked.append((args[1:], kwargs))
            return layer_call

    with keras.RematScope("full"):
        layer = Asked()
    np.testing.assert_array_equal(to_numpy(layer(X, factor=3)), 3 * X)
    assert asked == [((), {"factor": 3})] and hasattr(layers.Layer, "rematerialized_call")


@needed_by("the count of calls, which on PyTorch is changed in place where no scope holds another one")
def test_in_stateless_scope():
    assert not internals.in_stateless_scope()
    layer = keras_dropouts.Dropout(0.5, seed=1)
    with keras.StatelessScope() as scope:
        assert internals.in_stateless_scope()
        layer(X, training=True)
    assert layer._random_state.read()[1] == 0
    assert int(scope.get_current_value(layer._random_state.state)[1]) == 1


def test_each_part_has_a_test():
    parts = [name for name, part in vars(internals).items() if inspect.isroutine(part) and name[0] != "_"]
    tests = " ".join(name for name in globals() if name.startswith("test_"))
    assert len(parts) > 15 and not [name for name in parts if name not in tests]


# That nothing else is private


PRIVATE = re.compile("_[a-zA-Z][a-zA-Z0-9_]*").fullmatch
PACKAGE = pathlib.Path(keras_dropouts.__file__).parent
TREES = {path.relative_to(PACKAGE): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}
# What is private in a backend has tests of its own: in test_checkpointing.py, test_random_state.py, test_torch_func.py.
BACKENDS_IN_RANDOM = {"jax", "sys", "torch"}
# Public, by Python's documentation.
NAMED_TUPLES = {"_asdict", "_make", "_replace"}
# The hook of Keras 2, which Keras 3 has in SpatialDropout alone.
HOOKS = {"_get_noise_shape"}


def of_keras():
    """The private names of Keras's objects, and on PyTorch of its modules."""
    model = functional(layers.Dense(3))
    sequential = keras.Sequential([keras.Input((3,)), layers.Dropout(0.5)])
    parts = [layers.SpatialDropout2D(0.5), layers.GaussianDropout(0.5), layers.Lambda(abs), layers.LSTM(2)]
    others = [keras.Variable(1.0), keras.random.SeedGenerator(0), keras.callbacks.Callback()]
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 1, 1.0)
    wrapper = layers.Wrapper(layers.Layer())
    others += [attention()]
    found = [model, sequential, *model.layers, *sequential.layers, model.inputs[0], *parts, *others, schedule, wrapper]
    return {name for each in found for name in dir(each) if PRIVATE(name)}


def defined(tree):
    """Yields the names that a piece of code defines, also as attributes of `self` or `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif not isinstance(getattr(node, "ctx", None), ast.Store):
            pass
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", None) in ("self", "cls"):
            yield node.attr


def words(tree):
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def root(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", None)


def test_nothing_private_is_read_elsewhere():
    """Private is what begins with an underscore and no file of the package defines; also as a word, for `getattr`."""
    known, found = of_keras(), []
    ours = {name for tree in TREES.values() for name in (*defined(tree), *words(tree) - known)} | NAMED_TUPLES
    assert {"_flatten_layers", "_value"} <= known
    for path, tree in TREES.items():
        if path.name == "keras_internals.py":
            continue
        found += [f"{path}: {word!r}" for word in words(tree) & known if PRIVATE(word) and word not in ours]
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute) and PRIVATE(node.attr) and node.attr not in ours:
                names = [root(node)]
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [getattr(node, "module", None) or "", *(name.name for name in node.names)]
                names = [modules[0] or modules[1]] if any("keras.src" in m or "._" in m for m in modules) else []
            for name in names:
                if path.parts[0] != "random" or str(name).split(".")[0] not in BACKENDS_IN_RANDOM:
                    found.append(f"{path}:{node.lineno}: {ast.unparse(node)}")
    assert not found, f"Private parts of Keras belong into keras_internals.py: {found}"


def test_no_private_name_is_one_of_keras():
    """A class of ours would override a part of Keras, or of PyTorch, without a word."""
    known = of_keras() - HOOKS
    classes = [node for tree in TREES.values() for node in tree.body if isinstance(node, ast.ClassDef)]
    classes = {node.name: known.intersection(defined(node)) for node in classes if node.bases}
    assert len(classes) > 30
    found = {name: clashes for name, clashes in classes.items() if clashes}
    assert not found, f"Classes of ours that define private names of Keras, or of PyTorch: {found}"


@needed_by("audit, which tells of training=True in a graph")
def test_wired_on():
    inputs = keras.Input((3,))
    plain, on = layers.Dropout(0.5), layers.Dropout(0.5)
    on(plain(inputs), training=True)
    assert (internals.wired_on(plain), internals.wired_on(on)) == (False, True)
