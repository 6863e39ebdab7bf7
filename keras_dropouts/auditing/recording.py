"""The calls of a model's layers, noted while it runs for real; nothing of the model is left changed."""

import collections
import contextlib
import dataclasses
import functools
import inspect
import random
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_dropouts.keras_internals import seed_generators, untracked
from keras_dropouts.random import backend
from keras_dropouts.random.backend import BACKEND

if BACKEND == "tensorflow":
    import tensorflow as tf
elif BACKEND == "jax":
    import jax
else:
    import torch
    import torch.utils.checkpoint


@dataclasses.dataclass(eq=False)
class Call:
    """One call of a layer.

    Attributes:
        layer: The layer.
        args, kwargs: What its `call` was given, but for `training`.
        training: What it was told of that; `None` if nothing.
        states: The states of the layer's own seed generators before the call, if it is recorded whole.
        within: The calls that it made.
        caller: The call that made it, if any.
        repeats: Whether it was made in a backward pass.
        outputs: What it returned, if it is recorded whole.
    """

    layer: keras.layers.Layer
    training: bool | None
    caller: "Call | None"
    repeats: bool = False
    args: tuple = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    states: bytes = b""
    within: list["Call"] = dataclasses.field(default_factory=list)
    outputs: Any = None

    @property
    def concrete(self) -> bool:
        """Whether its tensors have values: not where the backend traces what a loop or a region does."""
        return self.outputs is not None and all(map(_has_value, tensors((self.args, self.kwargs, self.outputs))))

    def made_with(self, x, training):
        """Returns what the layer returns if it is called so with another first argument."""
        return self.layer(x, *self.args[1:], **self.kwargs, training=training)


class Diverged(Exception):
    """A layer, called again, does not call what it called."""


class _Told(Exception):
    """Stops a training step where it has called the model."""


class Recorder:
    """Stands in for the `call` of layers, and notes their calls.

    Within `with Recorder(...) as recorder`, all that is assigned to variables is for the calls within alone.

    Args:
        model: The model.
        layers: Which layers, and whether to keep what goes in and out.
    """

    def __init__(self, model, layers):
        self.model, self.layers = model, layers
        self._calls, self._stack, self._off = None, [], ()
        self._replaying, self._waiting = None, None
        self._repeats, self._told = False, None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            stack.enter_context(_untouched(self.model))
            for layer in self.layers:
                stack.enter_context(self._tapped(layer))
            self.scope = stack.enter_context(keras.StatelessScope())
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *error):
        return self._exits.__exit__(*error)

    @contextlib.contextmanager
    def _tapped(self, layer):
        names, plain = untracked(layer), layer.call
        own = "call" in names

        @functools.wraps(plain)
        def call(*args, **kwargs):
            return self._called(layer, plain, args, kwargs)

        names["call"] = call
        try:
            yield
        finally:
            if own:
                names["call"] = plain
            else:
                del names["call"]

    def record(self, function, off=()):
        """Returns the calls that a function makes, in their order.

        Args:
            function: A function without arguments.
            off: The layers that are told `training=False`.
        """
        self._calls, self._stack, self._off, self._repeats = calls, _, _, _ = [], [], off, False
        try:
            function()
        finally:
            self._calls, self._stack, self._off = None, [], ()
        return calls

    @contextlib.contextmanager
    def repeating(self):
        """Within, calls are noted as made in a backward pass."""
        self._repeats = True
        try:
            yield
        finally:
            self._repeats = False

    @contextlib.contextmanager
    def apart(self):
        """Within, what is assigned is forgotten at the end."""
        scope = keras.StatelessScope()
        scope.state_mapping.update(self.scope.state_mapping)
        with scope:
            yield

    def again(self, call, training):
        """Returns what the layer returns if it is called so again; what it calls, if recorded whole, what it did."""
        if all(noted.outputs is not None for noted in call.within):
            self._replaying, self._waiting = call, collections.deque(call.within)
        try:
            return call.layer(*call.args, **call.kwargs, training=training)
        finally:
            self._replaying = self._waiting = None

    def set_states(self, call):
        """Gives the seed generators of the layer of a call the states of then."""
        start = 0
        for generator in seed_generators(call.layer):
            value = ops.convert_to_numpy(generator.state.value)
            words = np.frombuffer(call.states, value.dtype, value.size, start)
            generator.state.assign(words.reshape(value.shape))
            start += value.nbytes

    def first_told(self, function):
        """Returns what the first layer that a function calls is told of `training`; stops there. `True` if none is."""
        self._told = told = []
        # What else it raises is of no matter.
        with contextlib.suppress(Exception), self.apart():
            function()
        self._told = None
        return bool(told[0]) if told else True

    def _called(self, layer, plain, args, kwargs):
        if self._waiting is not None:
            if self._replaying is not None and layer is self._replaying.layer:
                self._replaying = None
                return plain(*args, **kwargs)
            noted = self._waiting.popleft() if self._waiting else None
            if noted is None or noted.layer is not layer or noted.outputs is None:
                raise Diverged(layer.name)
            return noted.outputs
        if self._calls is None and self._told is None:
            return plain(*args, **kwargs)
        names = [*inspect.signature(plain).parameters]
        # Given by position, by a layer that calls `call` itself.
        place = names.index("training") if "training" in names else len(args)
        kwargs = {**dict(zip(names[place:], args[place:], strict=False)), **kwargs}
        args, training = args[:place], kwargs.pop("training", None)
        told = {} if training is None else {"training": training}
        if self._told is not None:
            self._told.append(training)
            raise _Told
        if layer in self._off:
            told = {"training": False} if "training" in names else {}
        caller = self._stack[-1] if self._stack else None
        call = Call(layer, training, caller, self._repeats)
        whole = self.layers[layer]
        if whole:
            call.args, call.kwargs = tree.map_structure(_detached, (args, kwargs))
            call.states = _states(layer)
        self._calls.append(call)
        if caller is not None:
            caller.within.append(call)
        self._stack.append(call)
        try:
            outputs = plain(*args, **kwargs, **told)
        finally:
            self._stack.pop()
        if whole:
            call.outputs = tree.map_structure(_detached, outputs)
        return outputs


@contextlib.contextmanager
def _untouched(model):
    """Within, functions run as they stand; after, variables, gradients and the sources of seeds are as they were."""
    held = [(variable, variable.numpy()) for variable in model.non_trainable_variables]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with contextlib.ExitStack() as stack:
            if BACKEND == "tensorflow":
                # What is traced now would hold the values of now.
                stack.callback(tf.config.run_functions_eagerly, tf.config.functions_run_eagerly())
                tf.config.run_functions_eagerly(True)
            elif BACKEND == "torch":
                stack.enter_context(torch.compiler.set_stance("force_eager"))
                devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
                stack.enter_context(torch.random.fork_rng(devices))
                # Those of `TorchModuleWrapper`, which keep states of their own.
                for module in [each for each in model.modules() if not isinstance(each, keras.layers.Layer)]:
                    stack.callback(setattr, module, "training", module.training)
                    for buffer in module.buffers(recurse=False):
                        stack.callback(buffer.copy_, buffer.clone())
                for parameter in model.parameters():
                    stack.callback(setattr, parameter, "grad", parameter.grad)
                    parameter.grad = None
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for variable, value in held:
            if not np.array_equal(variable.numpy(), value, equal_nan=value.dtype.kind == "f"):
                variable.assign(value)


def tensors(structure):
    """Returns the tensors of a structure."""
    return [x for x in tree.flatten(structure) if ops.is_tensor(x)]


def numbers(x):
    """Returns a tensor as an array, of numbers as float64."""
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        x = ops.cast(x, "float32")
    return ops.convert_to_numpy(x).astype("float64")


def _states(layer):
    variables = [generator.state for generator in seed_generators(layer)]
    values = [variable.value for variable in variables]
    return b"".join(ops.convert_to_numpy(value).tobytes() for value in values) if all(map(_has_value, values)) else b""


def _detached(x):
    return x.detach() if BACKEND == "torch" and isinstance(x, torch.Tensor) else x


def _has_value(x):
    if BACKEND == "tensorflow":
        return not tf.is_symbolic_tensor(x)
    if BACKEND == "jax":
        return not isinstance(x, jax.core.Tracer)
    return x.device.type != "meta" and not backend.is_mapped(x)


def with_gradient(function, inputs, recorder):
    """Calls a function of inputs and, where the backend runs it eagerly, its backward pass, in which calls repeat.

    JAX's backward pass is traced; there nothing would be seen of it.
    """
    if BACKEND == "tensorflow":
        inputs = tree.map_structure(tf.convert_to_tensor, inputs)
        with tf.GradientTape() as tape:
            floats = [x for x in tensors(inputs) if x.dtype.is_floating]
            tape.watch(floats)
            outputs = function(inputs)
            loss = _sum(outputs)
        with recorder.repeating():
            tape.gradient(loss, [*floats, *tape.watched_variables()])
    elif BACKEND == "torch":
        inputs = tree.map_structure(lambda x: ops.convert_to_tensor(x).detach().clone(), inputs)
        for x in tensors(inputs):
            x.requires_grad_(x.is_floating_point())
        # To the end of what it repeats, which it leaves by an error else.
        with torch.utils.checkpoint.set_checkpoint_early_stop(False):
            outputs = function(inputs)
        loss = _sum(outputs)
        if loss.requires_grad:
            with recorder.repeating():
                loss.backward()
    else:
        outputs = function(inputs)
    return tree.map_structure(_detached, outputs)


def _sum(outputs):
    floats = [x for x in tensors(outputs) if keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))]
    return sum((ops.sum(ops.cast(x, "float32")) for x in floats), ops.zeros(()))


def product_and_gradient(call, x):
    """Returns what the layer of a call gives in training for `x`, and the gradient of its sum."""
    x = ops.convert_to_tensor(x)
    if BACKEND == "tensorflow":
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call.made_with(x, training=True)
            loss = _sum(y)
        return y, tape.gradient(loss, x)
    if BACKEND == "jax":
        y, pullback = jax.vjp(lambda x: call.made_with(x, training=True), x)
        return y, pullback(ops.ones_like(y))[0]
    x = x.detach().clone().requires_grad_(True)
    y = call.made_with(x, training=True)
    return y.detach(), torch.autograd.grad(_sum(y), x)[0]


def told_in_fit(recorder, x):
    """Returns what `fit` tells the model of `training`: `True`, unless it has a `train_step` that says otherwise."""
    model = recorder.model
    if type(model).train_step is keras.Model.train_step:
        return True

    outputs = model(x, training=False)

    def step():
        data = x, outputs
        if BACKEND != "jax":
            return model.train_step(data)
        optimizer = getattr(model, "optimizer", None)
        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables if optimizer else [],
            model.metrics_variables,
        )
        return model.train_step(tuple([v.value for v in each] for each in variables), data)

    return recorder.first_told(step)


def on_replicas(model, call):
    """Returns what the layer of a call makes of ones on each replica of a `tf.distribute` strategy, if there is one."""
    if BACKEND != "tensorflow" or model.distribute_strategy.num_replicas_in_sync < 2:
        return []
    strategy, x = model.distribute_strategy, tf.ones_like(call.args[0])
    return strategy.experimental_local_results(strategy.run(lambda: call.made_with(x, training=True)))
