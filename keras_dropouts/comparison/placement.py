"""Where in a model a dropout goes: where its function says, or by rule in a model that exists already."""

import functools
import hashlib
import json
import warnings
from typing import NamedTuple

import keras

from keras_dropouts.comparison.candidate import one_line
from keras_dropouts.keras_internals import all_layers, origin
from keras_dropouts.layers.base import RandomLayer
from keras_dropouts.surgery import insert_after, replace


class Built(NamedTuple):
    """A model with a dropout in it: in how many places, of which `sites`.

    Each of those is a layer and what it is given, tensors of a model with the inputs `inputs`.
    """

    model: keras.Model
    places: int
    sites: list
    inputs: object


class Builder:
    """Makes models with a dropout in them."""

    def build(self, candidate, task):
        """Returns a new model with the candidate in it, `Built`, compiled.

        Raises:
            ValueError: Where that is no model, or the dropout fits nowhere.
        """
        model, places, sites, inputs, refusal = self.place(candidate)
        if candidate.layer is not None and not places:
            reason = "cannot be made for any layer of" if candidate.wraps else "fits nowhere in"
            raise ValueError(f"{candidate} {reason} the model. {one_line(refusal)}")
        if not model.compiled:
            model.compile("adam", task.loss())
        return Built(model, places, sites, inputs)


class ByFunction(Builder):
    """By a function that calls its argument, `dropout`, on the layers that it may go behind or around."""

    def __init__(self, build_model):
        self.build_model = build_model

    def place(self, candidate):
        sites, refusals = [], []

        def dropout(layer):
            if not isinstance(layer, keras.layers.Layer):
                raise ValueError(
                    f"`build_model` must call `dropout` on layers: dropout(Dense(64))(x). Received: {layer!r}"
                )
            return functools.partial(place, layer)

        def place(layer, inputs):
            sites.append((layer, inputs))
            if candidate.layer is not None:
                try:
                    return candidate.apply(layer, inputs)
                except ValueError as refusal:
                    refusals.append(refusal)
            return layer(inputs)

        model = self.build_model(dropout)
        if not isinstance(model, keras.Model) or getattr(model, "inputs", None) is None:
            raise ValueError(
                f"`build_model` must return a functional or Sequential keras.Model: a dropout called in any other is "
                f"lost to it. Received: {model!r}"
            )
        if not sites:
            raise ValueError("`build_model` must say where dropout may go: dropout(keras.layers.Dense(64))(x).")
        places = len(sites) - len(refusals) if candidate.layer is not None else 0
        return model, places, sites, _input(model), next(iter(refusals), None)


DROPOUTS = keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout, RandomLayer
ACTIVATIONS = keras.layers.Activation, keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU, keras.layers.ELU
MIXING = (
    keras.layers.RNN,
    keras.layers.Bidirectional,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
)


class ByRule(Builder):
    """In a model that exists already, also in the models that it calls.

    In place of the dropout layers that it has; if it has none, behind what has an activation, recurrent and attention
    layers, and before the head, which is left alone. What goes around a layer goes around those. Dropout that other
    layers hold, as a number or within an attention, stays as it is in all models.

    Weights are made anew, but for those that do not train and those of a `Normalization`, or, with `finetune`, kept.
    """

    def __init__(self, model, finetune=False):
        if not isinstance(model, (keras.Sequential, keras.Model)) or getattr(model, "inputs", None) is None:
            raise ValueError(
                f"`model` must be a function that takes `dropout` and returns a model, or a functional or Sequential "
                f"keras.Model that is built. Received: model={model!r}"
            )
        self.model, self.finetune = model, finetune
        layers = list(_called(model))
        self.dropouts = [layer for layer in layers if isinstance(layer, DROPOUTS) and _is_plain(layer)]
        head = _head(model)
        before = [origin(tensor) for layer in head for tensor in _tensors(layer.input)]
        self.hidden = [
            layer
            for layer in layers
            if layer not in (*head, *self.dropouts) and _is_plain(layer) and (layer in before or _is_hidden(layer))
        ]
        if not self.dropouts and not self.hidden:
            raise ValueError("`model` must have a hidden layer, behind which dropout may go.")

    def place(self, candidate):
        model = self.model if self.finetune else _with_new_weights(self.model)
        # What was found in the one is in the same place of the other.
        twins = dict(zip(_called(self.model), _called(model), strict=True))
        dropouts, hidden = ([twins[layer] for layer in layers] for layers in (self.dropouts, self.hidden))
        taken = hidden if candidate.wraps or not dropouts else dropouts
        sites = [(layer, layer.input) for layer in taken]
        compiled = self.model.compiled and _compile_config(self.model)
        given_to = _input(model)
        fitting, refusal = [], "It has no hidden layer."
        for layer, inputs in sites if candidate.layer is not None else ():
            try:
                around = type(layer).from_config(layer.get_config()) if candidate.wraps else keras.layers.Identity()
                given = inputs if candidate.wraps else layer.output
                candidate.apply(around, keras.KerasTensor(given.shape, given.dtype))
                fitting.append(layer)
            except (ValueError, AttributeError) as error:
                refusal = error
        if fitting or dropouts:
            model = self._changed(model, candidate, fitting, dropouts)
        elif self.finetune:
            model = _with_weights(keras.models.clone_model(model), self.model, lambda layer: True)
        if compiled:
            model.compile_from_config(compiled)
        return model, len(fitting), sites, given_to, refusal

    def _changed(self, model, candidate, fitting, dropouts):
        def make(copy):
            if copy.name not in fits:
                return keras.layers.Identity()
            return candidate.new(layer=copy) if candidate.wraps else candidate.new()

        fits = {layer.name for layer in fitting}
        with warnings.catch_warnings():
            # Of dropout that stays, which the class speaks of, and of classes with an __init__ of their own.
            warnings.simplefilter("ignore")
            if candidate.wraps or dropouts:
                return replace(model, lambda layer: layer in dropouts or layer in fitting, make)
            return insert_after(model, lambda layer: layer in fitting, make)


def _input(model):
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _called(model):
    """Yields the layers that the graph of a model calls, and of the models among them, but no inputs."""
    for layer in model.layers:
        if isinstance(layer, keras.Model) and getattr(layer, "inputs", None) is not None:
            yield from _called(layer)
        elif not isinstance(layer, keras.layers.InputLayer):
            yield layer


def _tensors(structure):
    return [each for each in keras.tree.flatten(structure) if isinstance(each, keras.KerasTensor)]


def _is_plain(layer):
    """Whether a layer is called once, and returns one tensor."""
    try:
        return isinstance(layer.output, keras.KerasTensor) and layer.input is not None
    except (AttributeError, ValueError):
        return False


def _is_hidden(layer):
    linear = (keras.activations.linear, keras.activations.softmax)
    return isinstance(layer, (*ACTIVATIONS, *MIXING)) or getattr(layer, "activation", linear[0]) not in linear


def _head(model):
    """Returns the layers that make the outputs: back to the first that has weights."""
    head, tensors = [], _tensors(model.outputs)
    while tensors:
        layer = origin(tensors.pop())
        if isinstance(layer, keras.Model):
            head += _head(layer)
        elif layer not in head and not isinstance(layer, keras.layers.InputLayer):
            head.append(layer)
            # An operation, as of `x + y`, has no weights.
            if not getattr(layer, "weights", None):
                tensors += _tensors(layer.input)
    return head


def _with_new_weights(model):
    try:
        fresh = keras.models.clone_model(model)
    except Exception as error:  # What the config of a class of one's own raises.
        raise ValueError(
            f"`model` must be one that keras.models.clone_model can make again: {one_line(error)}. "
            f"Give a function `build_model(dropout)`, or finetune=True."
        ) from error
    return _with_weights(
        fresh, model, lambda layer: not layer.trainable or isinstance(layer, keras.layers.Normalization)
    )


def _with_weights(copy, model, kept):
    """Returns the copy of a model with the weights of those of its layers that are to be kept."""
    for old, new in zip(all_layers(model), all_layers(copy), strict=True):
        if kept(old):
            new.set_weights(old.get_weights())
            if isinstance(new, keras.layers.Normalization):
                # It computes with what it made of its variables.
                new.finalize_state()
    return copy


def _compile_config(model):
    try:
        config = model.get_compile_config()
        keras.saving.deserialize_keras_object(config)
    except Exception as error:  # Of a loss of one's own that is not registered.
        raise ValueError(
            f"`model` must be compiled with what can be written to its file, or not be compiled: {one_line(error)}."
        ) from error
    return config


def digest(model):
    """Returns a digest of what a model is, with its weights, and of what it is compiled with, but for the names."""
    names = {layer.name: f"layer {i}" for i, layer in enumerate(all_layers(model))}

    def anonymous(value):
        if isinstance(value, dict):
            left_out = ("shared_object_id", "name") if "config" not in value else ("shared_object_id",)
            return {key: anonymous(each) for key, each in value.items() if key not in left_out}
        if isinstance(value, list):
            return [anonymous(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    try:
        config = anonymous(json.loads(model.to_json()))
    except Exception:  # What has no config is told by its class and its weights.
        config = [type(layer).__name__ for layer in all_layers(model)]
    content = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for variable in model.variables:
        content.update(str((tuple(variable.shape), str(variable.dtype))).encode())
        content.update(keras.ops.convert_to_numpy(keras.ops.cast(variable, "float32")).tobytes())
    return content.hexdigest()
