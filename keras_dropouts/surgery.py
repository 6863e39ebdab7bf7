"""Layers inserted into a model that exists already, or exchanged in it."""

import itertools
import re
from collections.abc import Callable
from typing import TypeAlias

import keras
from keras import ops, tree

Match: TypeAlias = type | tuple[type, ...] | str | re.Pattern[str] | Callable[[keras.layers.Layer], bool]
Make: TypeAlias = Callable[[keras.layers.Layer], keras.layers.Layer]


def insert_after(model: keras.Model, match: Match, make: Make) -> keras.Model:
    """Returns a copy of a model with a new layer after each layer that matches. The model itself is untouched.

    The weights, and the random states, are carried over. The copy is not compiled: an optimizer and what it has learned
    belong to the model that was. Layers that are shared stay shared, as does what follows them: one new layer, called
    wherever the matching layer is. Nested Sequential and functional models are worked on likewise. What is within other
    layers (the dropout of a MultiHeadAttention, the layer in a TimeDistributed) is copied but not looked at, and
    neither are input layers. A functional model of a class of your own keeps its class if that has no `__init__`.

    The new layer is called as the one it follows, an underscore, and as `make` called it without a number at the end:
    `conv1_dropout` for a `Dropout` after `conv1`. Should the model have such a name, `_1`, `_2`, ... is added to it.

    Args:
        model: A Sequential or functional `keras.Model`, built.
        match: Which layers: a class or a tuple of classes, a layer's name, a compiled regular expression that is
            searched for in the name, or a function of a layer that says whether it matches.
        make: A function that takes the copy of the layer that matched, not built yet, and returns a new layer.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: Where an argument is not as described, no layer matches, or a matching layer has several outputs.

    Example:

    >>> import keras
    >>> from keras_dropouts import Dropout, insert_after
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
    >>> [layer.name for layer in insert_after(model, "hidden", lambda layer: Dropout(0.2)).layers][:2]
    ['hidden', 'hidden_dropout']
    """

    def row(copy, new, names):
        stem = f"{copy.name}_{re.sub(r'_[0-9]+$', '', new.name)}"
        candidates = itertools.chain([stem], (f"{stem}_{i}" for i in itertools.count(1)))
        new.name = next(name for name in candidates if name not in names)
        return copy, new

    return _operated(model, match, make, row)


def replace(model: keras.Model, match: Match, make: Make) -> keras.Model:
    """Returns a copy of a model with a new layer in the place of each that matches. The model itself is untouched.

    As `insert_after`, but for the names: a new layer is called as the one whose place it takes. Its weights are its
    own, unless `make` returns the copy it was given, changed or wrapped: the copy's weights are carried over.

    Args:
        model: A Sequential or functional `keras.Model`, built.
        match: As for `insert_after`.
        make: A function that takes the copy of the layer that matched, not built yet, and returns the layer to
            take its place.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: Where an argument is not as described, or no layer matches.

    Example:

    >>> import keras
    >>> from keras_dropouts import DropConnect, replace
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1, name="head")])
    >>> dropping = replace(model, "head", lambda layer: DropConnect(layer, rate=0.5))
    >>> bool((dropping.get_layer("head").get_weights()[0] == model.get_layer("head").get_weights()[0]).all())
    True
    """

    def row(copy, new, names):
        new.name = copy.name
        return (new,)

    return _operated(model, match, make, row)


def inputs_like(model):
    """Returns new inputs that are as those of a Sequential or functional model."""
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(
        lambda x: keras.layers.InputLayer.from_config(x._keras_history.operation.get_config()).output, inputs
    )


def _operated(model, match, make, row):
    """Returns a copy of the model, changed.

    Args:
        model, match, make: As for `insert_after`.
        row: A function of the copy of a layer that matches, the new layer, and the names that are taken. It names the
            new layer and returns the layers that, called one after the other, take the place of the one.
    """
    if not _is_graph(model) or not model.built:
        raise ValueError(
            f"`model` must be a Sequential or functional keras.Model that is built. (In a subclassed model it is code "
            f"that calls the layers.) Received: model={model!r}"
        )
    if not callable(make):
        raise ValueError(f"`make` must be a function of a layer that returns a layer. Received: make={make!r}")
    operations = list(_operations(model))
    layers = [operation for operation in operations if isinstance(operation, keras.layers.Layer)]
    matching = set(filter(_matcher(match), layers))
    if not matching:
        raise ValueError(
            f"`match` must match a layer of the model: {[layer.name for layer in layers]}. Received: match={match!r}"
        )
    names = {operation.name for operation in operations}
    copies, rows = {}, {}

    def row_for(operation):
        if operation not in rows:
            copy = copies[operation] = copied(operation) if _is_graph(operation) else _copy(operation)
            rows[operation] = row(copy, made(copy), names) if operation in matching else (copy,)
            names.update(layer.name for layer in rows[operation])
        return rows[operation]

    def made(copy):
        new = make(copy)
        if not isinstance(new, keras.layers.Layer) or any(new in row for row in rows.values()):
            raise ValueError(f"`make` must return a layer, a new one each time. Received: {new!r} for {copy!r}")
        return new

    def copied(model):
        inputs = inputs_like(model)
        if isinstance(model, keras.Sequential):
            layers = [layer for operation in model.layers for layer in row_for(operation)]
            return type(model)([inputs, *layers], name=model.name, trainable=model.trainable)
        # Of the same graph, but not compiled: what the model was compiled with would be copied too.
        graph = keras.Model(model.input, model.output, name=model.name)
        copy = keras.models.clone_model(graph, inputs, clone_function=row_for, call_function=_call)
        kind = type(model) if type(model).__init__ is type(graph).__init__ else keras.Model
        return kind(copy.input, copy.output, name=model.name, trainable=model.trainable)

    changed = copied(model)
    for old, new in copies.items():
        # A copy may have been left unused.
        if isinstance(old, keras.layers.Layer) and new.built and not _is_graph(old):
            for source, target in zip(old.variables, new.variables, strict=True):
                # On JAX an array that two variables hold is gone when the training of one model donates it.
                target.assign(ops.copy(source))
    return changed


def _call(row, *args, **kwargs):
    outputs = row[0](*args, **kwargs)
    for layer in row[1:]:
        if not isinstance(outputs, keras.KerasTensor):
            raise ValueError(f"`match` must match layers that have one output. Received: a match of {row[0]!r}")
        outputs = layer(outputs)
    return outputs


def _copy(operation):
    if isinstance(operation, keras.layers.Lambda):
        # No config holds all that a function refers to.
        arguments = {
            "mask": operation.mask,
            "arguments": operation.arguments,
            **keras.layers.Layer.get_config(operation),
        }
        return type(operation)(operation.function, output_shape=operation._output_shape, **arguments)
    return type(operation).from_config(operation.get_config())


def _is_graph(operation):
    return isinstance(operation, keras.Model) and hasattr(operation, "inputs")


def _operations(model):
    """Yields the layers and operations of a model and of those nested in it, but for the inputs."""
    for operation in model.layers if isinstance(model, keras.Sequential) else model.operations:
        if not isinstance(operation, keras.layers.InputLayer):
            yield operation
            if _is_graph(operation):
                yield from _operations(operation)


def _matcher(match):
    if isinstance(match, str):
        return lambda layer: layer.name == match
    if isinstance(match, re.Pattern):
        return lambda layer: match.search(layer.name)
    if isinstance(match, (type, tuple)):
        return lambda layer: isinstance(layer, match)
    if callable(match):
        return match
    raise ValueError(
        f"`match` must be a class or a tuple of classes, the name of a layer, a compiled regular expression, or a "
        f"function of a layer. Received: match={match!r}"
    )
