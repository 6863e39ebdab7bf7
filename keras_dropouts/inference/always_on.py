"""Models whose dropout stays active."""

import contextlib
import contextvars
import functools
import inspect
import threading

import keras
import numpy as np
from keras import ops

from keras_dropouts.keras_internals import AUGMENTATION, all_layers, seed_generators, training_kept, untracked
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.layer_wrapper import LayerWrapper
from keras_dropouts.layers.multi_head_attention import MultiHeadAttention
from keras_dropouts.random.backend import WORD, global_generator
from keras_dropouts.random.checkpointing import outside
from keras_dropouts.random.compilation import uncompiled
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.state import RandomState, calls_of
from keras_dropouts.random.threefry import threefry2x32
from keras_dropouts.surgery import inputs_like

# They draw in training too, but drop nothing.
NO_DROPOUT = (keras.layers.GaussianNoise, AUGMENTATION)
ACTIVE_IN_TRAINING = (keras.layers.BatchNormalization, keras.layers.SpectralNormalization, *NO_DROPOUT)
FOREIGN = (keras.layers.JaxLayer, keras.layers.TFSMLayer, keras.layers.TorchModuleWrapper)
# What calls a model for its user. A model that overrides it may prepare its inputs there, or change its outputs.
PREDICTING = ("predict", "predict_step", "make_predict_function")
EVALUATING = ("predict_on_batch", "evaluate", "test_step", "make_test_function", "test_on_batch")


def always_on(model: keras.Model) -> keras.Model:
    """Returns a model with the same weights whose dropout stays active: in `predict` and `evaluate`, and once saved.

    Everything else stays in inference mode, in `fit` too: batch normalization uses its moving statistics and leaves
    them alone. The weights are shared: what trains the one model changes the other. Its random state is its own, and
    new: the given model, and the masks it will draw, are untouched.

    Dropout is: Keras's and our dropout layers, the dropout within Keras's recurrent and attention layers, and layers
    of your own that own a `keras.random.SeedGenerator` and take `training`; wherever they are, also in nested models
    and in layers of your own. GaussianNoise and augmentation are not. Layers that draw without a seed generator
    cannot be found. Dropout whose `call` takes `member`, as that of Masksembles, is given the count of calls,
    an integer tensor.

    Args:
        model: A built `keras.Model`: Sequential, functional or subclassed. A subclassed one must have one argument for
            its inputs, which may be a dictionary. A model that predicts or evaluates in a way of its own, as those of
            KerasHub, which prepare their inputs in `predict`, is refused; the error says what to give instead.

    Returns:
        A `keras.Model` that takes and gives what calling `model` does. It is not compiled: `evaluate` needs
        `compile(loss=..., metrics=...)`, and `fit` is Keras's own. It can be saved and loaded, random state included.
        For that a subclassed model must be as Keras asks, registered and with a `get_config`. On TensorFlow and JAX it
        can be exported; the SavedModel draws new masks at each call.

    Raises:
        ValueError: Where `model` is not as described, has no dropout, or has some that cannot be switched on by
            itself.

    Reference:
        Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016, arXiv 1506.02142.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import Dropout, always_on
    >>> model = keras.Sequential([keras.Input((100,)), Dropout(0.5, seed=1)])
    >>> x = np.ones((2, 100), "float32")
    >>> model.predict(x, verbose=0).min(), always_on(model).predict(x, verbose=0).min()
    (np.float32(1.0), np.float32(0.0))
    """
    check_model(model, PREDICTING + EVALUATING)
    name = f"{model.name}_always_on"
    layer = AlwaysOn(model)
    if not hasattr(model, "inputs"):
        return keras.Sequential([layer], name=name)
    inputs = inputs_like(model)
    return keras.Model(inputs, layer(inputs), name=name)


def check_model(model, methods):
    """Raises a ValueError where the model cannot be called in place of these methods of it."""
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError(
            f"`model` must be a keras.Model that is built: by a keras.Input, or by calling it once. "
            f"Received: model={model!r}"
        )
    own = [
        name for name in methods if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name)
    ]
    if own:
        graph = hasattr(model, "inputs")
        plain = "keras.Model(model.input, model.output)" if graph else "keras.Sequential([model]), called once"
        raise ValueError(
            f"`model` must predict and evaluate as keras.Model does: dropout is made active in its calls, and what its "
            f"own `{own[0]}` does beside them, to the data or the outputs, would be passed by. Do that yourself, and "
            f"give {plain}. Received: model={model!r}, which overrides {', '.join(own)}"
        )


@keras.saving.register_keras_serializable(package="keras_dropouts")
class AlwaysOn(keras.layers.Wrapper, SeededLayer):
    """Calls the model it wraps with its dropout active, and with random numbers of its own.

    Its random state, seed and count of calls, decides all that the model draws; `_random_state.write` sets it.

    Args:
        layer: The model.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        period: After how many calls the members are asked from the first on again; `None`: never.
    """

    period: int | None = None

    def __init__(self, layer, seed=None, **kwargs):
        # The model casts its inputs itself.
        super().__init__(layer, seed=seed, **{"dtype": "float32", "autocast": False, **kwargs})
        parts = all_layers(layer)
        foreign = [part for part in parts if isinstance(part, FOREIGN)]
        if foreign:
            raise ValueError(
                f"`model` must be made of Keras layers. It is not known whether there is dropout in what another "
                f"framework runs. Received: a model with {foreign!r}"
            )
        # A recurrent layer draws the masks for its cells, a wrapper of ours for what it wraps, and an attention of ours
        # calls what drops in training alone.
        served = {cell for part in parts if isinstance(part, keras.layers.RNN) for cell in _cells(part)}
        served |= {part.layer for part in parts if isinstance(part, LayerWrapper)}
        served |= {part.dropout_layer for part in parts if isinstance(part, MultiHeadAttention)}
        # Not lists, whose layers Keras would save a second time.
        self._dropouts = frozenset(part for part in parts if part not in served and _drops(part))
        drawing = (part for part in parts if part not in served and seed_generators(part))
        self._drawing = self._dropouts.union(drawing)
        if not self._dropouts:
            raise ValueError(
                f"`model` must have dropout: layers with a seed generator that draw in training and not at inference. "
                f"Received: model={layer!r}"
            )
        for part in self._dropouts:
            others = [other for other in all_layers(part) if isinstance(other, ACTIVE_IN_TRAINING)]
            if others:
                raise ValueError(
                    f"`model` must not have dropout in a layer that also calls, with the same `training`, what must "
                    f"stay in inference mode. Put the dropout into a layer of its own. "
                    f"Received: a model with {part!r}, which holds {others!r}"
                )

    @uncompiled
    def call(self, inputs):
        run = _Run(self._next_state(), self.period)
        with training_kept(self), global_generator(run.words), _asking(self._drawing):
            token = _RUN.set(run)
            try:
                outputs = self.layer(inputs, training=False)
            finally:
                _RUN.reset(token)
        missed = self._dropouts - run.called
        if missed:
            raise ValueError(
                f"`model` must call its dropout at inference too, whatever `training` is, for it to be switched on. "
                f"Received: a model that does not call {sorted(layer.name for layer in missed)} then"
            )
        return outputs

    def compute_output_spec(self, inputs):
        return self.layer.compute_output_spec(inputs)


# What runs in this thread or task, if anything.
_RUN = contextvars.ContextVar("run", default=None)
_LOCK = threading.Lock()


class _Run:
    """One call of an AlwaysOn layer: which layers it has called, and where their random numbers start."""

    def __init__(self, state, period):
        key = key_of(state)
        # The index of the first sample is 0, or within another run a word of that.
        self.words = ops.concatenate(threefry2x32((key[0], key[1]), (ops.zeros_like(key[2:3]), key[2:3]), 13))
        outer = _RUN.get()
        calls = calls_of(state)
        self.member = outer.member if outer else calls % period if period else calls
        self.called = outer.called if outer else set()
        self.draws = 0

    def call(self, layer, plain, *args, **kwargs):
        """Calls the layer with training=True if it is dropout, and its random states exchanged for the run's."""
        self.called.add(layer)
        if _drops(layer):
            kwargs["training"] = True
        if _takes(layer, "member"):
            kwargs["member"] = self.member
        generators = [generator for part in all_layers(layer) for generator in seed_generators(part)]
        values = [(v, v.value) for v in layer.variables]
        states = outside(lambda: [self._state_for(generator) for generator in generators])
        values += [(generator.state, state) for generator, state in zip(generators, states, strict=True)]
        # What the layer does to its states ends with the scope.
        with keras.StatelessScope(values), training_kept(layer):
            return plain(*args, **kwargs)

    def _state_for(self, generator):
        """A state that the run has not used yet.

        It has both words, 64 bits. Keras adds them up on PyTorch, to 32, and keeps 31 of each on TensorFlow.
        """
        self.draws += 1
        # An odd stride takes all values before it repeats one.
        words = self.words + ops.cast(np.array([self.draws * 0x1E3779B9 % 2**31, 0]), WORD)
        state = generator.state.value
        words = ops.cast(words, state.dtype)
        if isinstance(generator, RandomState):
            # Calls and rate stay: the step of a schedule is the count of calls. The index of the first sample is free.
            words = ops.concatenate([words[:1], state[1:2], words[1:], state[3:]])
        return words


class _Ask:
    """Stands in for the `call` of a layer while there are runs: asks which one it is part of, if any."""

    def __init__(self, layer):
        self.layer, self.plain, self.own, self.runs = layer, layer.call, "call" in untracked(layer), 0
        functools.update_wrapper(self, self.plain)

    def __call__(self, *args, **kwargs):
        run = _RUN.get()
        return run.call(self.layer, self.plain, *args, **kwargs) if run else self.plain(*args, **kwargs)


@contextlib.contextmanager
def _asking(layers):
    """Within, the layers' `call` asks which run it is part of. Runs may be nested, and in several threads at once."""
    with _LOCK:
        for layer in layers:
            ask = untracked(layer).get("call")
            if not isinstance(ask, _Ask):
                ask = untracked(layer)["call"] = _Ask(layer)
            ask.runs += 1
    try:
        yield
    finally:
        with _LOCK:
            for layer in layers:
                ask = untracked(layer)["call"]
                ask.runs -= 1
                if not ask.runs and ask.own:
                    untracked(layer)["call"] = ask.plain
                elif not ask.runs:
                    del untracked(layer)["call"]


def _drops(layer):
    """Whether the layer itself drops something in training, not only layers within it."""
    if isinstance(layer, keras.layers.RNN) or hasattr(layer, "recurrent_dropout"):
        cells = [cell for cell in (layer, *_cells(layer)) if hasattr(cell, "recurrent_dropout")]
        return any(cell.dropout or cell.recurrent_dropout for cell in cells)
    if isinstance(layer, MultiHeadAttention):
        return layer.dropout_layer is not None
    return _takes(layer, "training") and bool(seed_generators(layer)) and not isinstance(layer, NO_DROPOUT)


def _cells(layer):
    return [
        part
        for part in all_layers(layer)[1:]
        if hasattr(part, "recurrent_dropout") or isinstance(part, keras.layers.StackedRNNCells)
    ]


def _takes(layer, argument):
    return argument in inspect.signature(type(layer).call).parameters
