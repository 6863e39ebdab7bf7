"""Layers inserted into a model that exists already, or exchanged in it."""

import functools
import inspect
import itertools
import re
import warnings
from collections.abc import Callable
from typing import TypeAlias

import keras
from keras import ops, tree

from keras_dropouts.keras_internals import (
    all_layers,
    exchange_in_graphs,
    exchange_tracked,
    functional_class,
    functional_of,
    header_of,
    lambda_output_shape,
    list_parameters,
    origin,
    own_attributes,
    seed_generators,
    twin,
    untracked,
)
from keras_dropouts.layers.base import SeededLayer
from keras_dropouts.layers.layer_wrapper import LayerWrapper
from keras_dropouts.layers.multi_head_attention import MultiHeadAttention

Match: TypeAlias = type | tuple[type, ...] | str | re.Pattern[str] | Callable[[keras.layers.Layer], bool]
Make: TypeAlias = Callable[[keras.layers.Layer], keras.layers.Layer]


def insert_after(model: keras.Model, match: Match, make: Make) -> keras.Model:
    """Returns a copy of a model with a new layer after each layer that matches. The model itself is untouched.

    The weights, and the random states, are carried over. The copy is not compiled: an optimizer and what it has learned
    belong to the model that was. Layers that are shared stay shared, as does what follows them: one new layer, called
    wherever the matching layer is. Nested Sequential and functional models are worked on likewise, also those within
    other layers (in a TimeDistributed). Nothing can be inserted after a layer that another one calls (the dropout of a
    MultiHeadAttention): a warning counts those and says where they are. Input layers are not looked at. A functional
    model of a class of your own keeps its class if that has no `__init__`; if it has one, a warning says that the copy
    is of a plain class.

    The new layer is called as the one it follows, an underscore, and as `make` called it without a number at the end:
    `conv1_dropout` for a `Dropout` after `conv1`. Should the model have such a name, `_1`, `_2`, ... is added to it.

    Args:
        model: A Sequential or functional `keras.Model`, built.
        match: Which layers: a class or a tuple of classes, a layer's name, a compiled regular expression that is
            searched for in the name, or a function of a layer that says whether it matches. What is within a layer
            that matches is not looked at.
        make: A function that takes the copy of the layer that matched, not built yet, and returns a new layer.

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: Where an argument is not as described, no layer matches that can be followed, or a matching layer
            has several outputs.

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

    return operated(model, match, make, row, "as the layer that holds them calls them, and nothing after them")[0]


def replace(model: keras.Model, match: Match, make: Make) -> keras.Model:
    """Returns a copy of a model with a new layer in the place of each that matches. The model itself is untouched.

    As `insert_after`, but for this:

    - A new layer is called as the one whose place it takes. Its weights are its own, but for two: where `make` returns
      the copy it was given, changed or wrapped, the copy's weights are carried over; and a layer of a subclass takes
      the weights of the old one, if they are of the same shapes (`keras_dropouts.MultiHeadAttention` in place of
      Keras's).
    - Layers that other layers hold as attributes, also in lists and dictionaries, are replaced too: the dropout of a
      MultiHeadAttention, what a TimeDistributed or a layer of your own calls. The new layer must take the arguments of
      the old one. The copy's config and files hold it; a program that reads them imports keras_dropouts first.
    - A functional model of a class that has an `__init__` keeps its class, and attributes such as a preprocessor, if
      the class makes the model again from its `get_config`. Such a class may compile the copy. If it does not make the
      model again, a warning says that the copy is of a plain class.

    A warning counts what is left as it is, and says where: what the wrappers of this package hold; the dropout of an
    attention layer whose `dropout` is 0, as it is not called, or that is `keras_dropouts.MultiHeadAttention`, as that
    is made with it; and, where a Dropout is replaced, recurrent and attention
    layers whose dropout is a number and no layer.

    Args:
        model: A Sequential or functional `keras.Model`, built.
        match: As for `insert_after`.
        make: A function that takes the copy of the layer that matched, and returns the layer to take its place. The
            copy is not built yet, but for that of a layer within another: it is, and has its weights.

    Returns:
        A new `keras.Model`, not compiled.

    Raises:
        ValueError: Where an argument is not as described, no layer matches that can be replaced, or a new layer within
            another one does not take the arguments, or give the shape, of the old.

    Example:

    >>> import keras
    >>> from keras_dropouts import DropConnect, replace
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(1, name="head")])
    >>> dropping = replace(model, "head", lambda layer: DropConnect(layer, rate=0.5))
    >>> bool((dropping.get_layer("head").get_weights()[0] == model.get_layer("head").get_weights()[0]).all())
    True
    """

    return operated(model, match, make, in_its_place)[0]


def in_its_place(copy, new, names):
    """The row, for `operated`, of a layer that is replaced."""
    new.name = copy.name
    return (new,)


def inputs_like(model):
    """Returns new inputs that are as those of a Sequential or functional model."""
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return tree.map_structure(lambda x: keras.layers.InputLayer.from_config(origin(x).get_config()).output, inputs)


def operated(model, match, make, row, hindrance=None):
    """Returns a copy of the model, changed, and by the layers that match their paths and the rows in their places.

    Args:
        model, match, make: As for `insert_after`.
        row: A function of the copy of a layer that matches, the new layer, and the names that are taken. It names the
            new layer and returns the layers that, called one after the other, take the place of the one.
        hindrance: Why that cannot be done where it is no graph but the code of a layer that calls, if so.
    """
    if not _is_graph(model) or not model.built:
        raise ValueError(
            f"`model` must be a Sequential or functional keras.Model that is built. (In a subclassed model it is code "
            f"that calls the layers.) Received: model={model!r}"
        )
    if not callable(make):
        raise ValueError(f"`make` must be a function of a layer that returns a layer. Received: make={make!r}")
    matches = functools.cache(_matcher(match))
    places = list(_places(model, matches, hindrance))
    matching = {layer for layer, _, why in places if matches(layer) and not why}
    left = [(path, why) for layer, path, why in places if matches(layer) and why]
    if not matching:
        raise ValueError(
            f"`match` must match a layer of the model that can be worked on. {_listed(left)}Its layers: "
            f"{', '.join(sorted({part.name for part, _, _ in places}))}. Received: match={match!r}"
        )
    if not hindrance and any(isinstance(layer, keras.layers.Dropout) for layer in matching):
        left += [
            (path, "the dropout of which is a number, not a layer")
            for part, path, _ in places
            if _drops_by_number(part)
        ]
    originals = set(all_layers(model))
    names = {part.name for part, _, _ in places}
    copies, rows, within, plain = {}, {}, {}, []

    def row_for(operation):
        if operation in within:
            return (within[operation],)
        if operation not in rows:
            copy = copies[operation] = copied(operation) if _is_graph(operation) else _copy(operation)
            rows[operation] = row(copy, made(copy), names) if operation in matching else (copy,)
            names.update(layer.name for layer in rows[operation])
        return rows[operation]

    def made(copy):
        new = make(copy)
        taken = itertools.chain(within.values(), *rows.values())
        if not isinstance(new, keras.layers.Layer) or any(new is layer for layer in taken):
            raise ValueError(f"`make` must return a layer, a new one each time. Received: {new!r} for {copy!r}")
        if not originals.isdisjoint(all_layers(new)):
            raise ValueError(
                f"`make` must return a new layer or the copy it is given, not a layer of the model itself, nor one "
                f"that holds such a layer. Received: {new!r} for {copy!r}"
            )
        return new

    def copied(model):
        copy = None if hindrance or not _makes_itself(model) else _remade(model)
        if copy is not None:
            return copy
        inputs = inputs_like(model)
        if isinstance(model, keras.Sequential):
            layers = [layer for operation in model.layers for layer in row_for(operation)]
            return kind_for(model, keras.Sequential)([inputs, *layers], name=model.name, trainable=model.trainable)
        # Of the same graph, but not compiled: what the model was compiled with would be copied too.
        graph = keras.Model(model.input, model.output, name=model.name)
        copy = keras.models.clone_model(graph, inputs, clone_function=row_for, call_function=_call)
        return kind_for(model, type(graph))(copy.input, copy.output, name=model.name, trainable=model.trainable)

    def kind_for(model, base):
        if not _makes_itself(model):
            return type(model)
        plain.append(f"{model.name} ({type(model).__name__})")
        return base

    def exchanged(layer, copy, root, path=()):
        """Exchanges what the copy of a layer holds, and yields the paths from the outermost to what is new."""
        for keys, part in () if isinstance(layer, SeededLayer) else _held(layer):
            changing = not matching.isdisjoint(all_layers(part))
            held = _at(copy, keys)
            if part not in within and type(held) is not type(part):
                raise ValueError(
                    f"`model` must hold what the configs of its layers make, for they make the copy. "
                    f"Received: {part!r} in {layer!r}, where the config makes {held!r}"
                )
            # The class may leave it to Keras, which would count on.
            held.name = part.name
            if part in within:
                pass
            elif part in rows:
                within[part] = rows[part][0]
            elif part in matching and not (hindrance or _hindrance(layer, part)):
                within[part] = row(part, _checked(made(held), held), names)[0]
                _take_weights(within[part], part)
            elif hindrance and changing and _is_graph(part):
                within[part] = row_for(part)[0]
            elif _is_graph(layer) and keys[0] != "layers" and not changing and not part.variables:
                # A preprocessor: its files, such as a vocabulary, are not in the config.
                within[part] = part
            else:
                within[part] = held
                yield from exchanged(part, held, root, path + keys)
            _put(root, path + keys, within[part])
            if part in matching or (hindrance and changing and _is_graph(part)):
                yield path + keys

    changed = copied(model)
    copies[model] = changed
    # More are copied meanwhile: the models within layers.
    for number in itertools.takewhile(lambda number: number < len(copies), itertools.count()):
        old, new = list(copies.items())[number]
        # A copy may have been left unused.
        if isinstance(old, keras.layers.Layer) and new.built and (not _is_graph(old) or _makes_itself(new)):
            if [variable.shape for variable in old.variables] != [variable.shape for variable in new.variables]:
                raise ValueError(
                    f"`model` must hold what the configs of its layers make, for they make the copy. "
                    f"Received: {old!r}, whose config makes other variables"
                )
            for source, target in zip(old.variables, new.variables, strict=True):
                # On JAX an array that two variables hold is gone when the training of one model donates it.
                target.assign(ops.copy(source))
            if isinstance(new, keras.layers.Normalization):
                # It computes with what it made of its variables.
                new.finalize_state()
            if old not in matching:
                _note(new, _not_in_config(new, list(exchanged(old, new, new))))
    if not hindrance:
        for old in matching & rows.keys():
            _take_weights(rows[old][0], old)
    carried = {copies[layer] for layer in matching if layer in copies}
    for layer in all_layers(changed):
        if isinstance(layer, LayerWrapper) and layer.layer in carried:
            layer.weights_carried_over()
    _list_parameters(changed)
    if left:
        warnings.warn(_listed(left), stacklevel=3)
    if plain:
        warnings.warn(
            f"The copy of {', '.join(plain)} is of a plain class, without the methods and attributes, such as a "
            f"preprocessor: an `__init__` that makes the layers cannot make the changed model.",
            stacklevel=3,
        )
    done = {layer: (within[layer],) for layer in within} | rows
    # A layer that is shared has several places.
    paths = {layer: path for layer, path, _ in reversed(places) if layer in matching and layer in done}
    return changed, {layer: (path, done[layer]) for layer, path in reversed(paths.items())}


def _call(row, *args, **kwargs):
    # A layer that takes a mask is called with one, or with None, for which the new layer may have no argument.
    if "mask" not in inspect.signature(type(row[0]).call).parameters:
        kwargs.pop("mask", None)
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
        return type(operation)(operation.function, output_shape=lambda_output_shape(operation), **arguments)
    copy = type(operation).from_config(operation.get_config())
    if isinstance(operation, keras.layers.Dropout):
        # The config of Keras's SpatialDropout does not hold it.
        copy.dtype_policy = operation.dtype_policy
    return copy


def _is_graph(operation):
    return isinstance(operation, keras.Model) and hasattr(operation, "inputs")


def _makes_itself(model):
    """Whether the class of a Sequential or functional model has an `__init__` of its own, that makes the layers."""
    base = keras.Sequential if isinstance(model, keras.Sequential) else functional_class()
    return type(model).__init__ is not base.__init__


def _remade(model):
    """Returns a model of the class and config of another, with new weights, or `None` if the config is not enough."""
    if isinstance(model, keras.Sequential):
        return None
    try:
        copy = type(model).from_config(model.get_config())
    except (NotImplementedError, TypeError, ValueError):
        return None
    one, other = (
        [*(type(layer) for layer in each.layers), *(variable.shape for variable in each.variables)]
        for each in (model, copy)
    )
    copy.output_names = model.output_names
    return copy if one == other else None


@keras.saving.register_keras_serializable(package="keras_dropouts")
class Exchanged:
    """Made a base of the class of a layer in which others were exchanged: the config, and so a file, speaks of them."""

    def get_config(self):
        config = twin(self, self._plain_class).get_config()
        layer = {**self._plain_header, "config": config, "build_config": self.get_build_config()}
        parts = [[list(path), keras.saving.serialize_keras_object(_at(self, path))] for path in self._exchanged_paths]
        return {"layer": layer, "exchanged": parts}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        for path, part in config["exchanged"]:
            _put(layer, path, keras.saving.deserialize_keras_object(part))
        _list_parameters(layer)
        _note(layer, [tuple(path) for path, _ in config["exchanged"]])
        return layer


def _note(layer, paths):
    """Lets the config of a layer speak of what it holds at the paths, if there are any."""
    paths = tuple(dict.fromkeys([*untracked(layer).get("_exchanged_paths", ()), *paths]))
    if paths:
        untracked(layer)["_exchanged_paths"] = paths
        layer.__class__ = _noting(type(layer))


def _not_in_config(layer, paths):
    """Returns those of the paths of whose part the config of a layer does not speak; that of a TimeDistributed does."""
    if not paths:
        return []
    lacking = AttributeError, LookupError, NotImplementedError, TypeError, ValueError
    try:
        made = type(layer).from_config(layer.get_config())
    except lacking:
        return paths

    def speaks(path):
        try:
            part, other = (_at(each, path) for each in (layer, made))
            return type(part) is type(other) and part.get_config() == other.get_config()
        except lacking:
            return False

    return [path for path in paths if not speaks(path)]


@functools.cache
def _noting(kind):
    if issubclass(kind, Exchanged):
        return kind
    attributes = {
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
        "_plain_class": kind,
        "_plain_header": header_of(kind),
    }
    # The name leads to `Exchanged`, which reads all such configs.
    register = keras.saving.register_keras_serializable("keras_dropouts", "Exchanged")
    noting = register(type(kind.__name__, (Exchanged, kind), attributes))
    register(Exchanged)
    return noting


def _list_parameters(layer):
    """Lets PyTorch's modules list the variables that they have now."""
    for owner in _owners(layer):
        list_parameters(owner)


def _places(layer, matches, hindrance, path="", why=None, seen=None):
    """Yields what is in a model, each with its path and why it must be left as it is, or `None`.

    Args:
        layer: The model.
        matches: A function of a layer that says whether it matches. What is within such a layer is not yielded.
        hindrance: Why a layer must be left which is not called by a graph, or `None`.
        path, why, seen: What holds for the layer itself, and all that was looked into.
    """
    seen = set() if seen is None else seen
    seen.add(layer)
    if isinstance(layer, SeededLayer):
        why = f"as {type(layer).__name__} looks into what it holds"
    parts = [((part.name,), part) for part in _operations(layer)] if _is_graph(layer) else []
    called = {part for _, part in parts}
    if not _is_graph(layer) or (not hindrance and _makes_itself(layer)):
        parts += [(keys, part) for keys, part in _held(layer) if part not in called]
    for keys, part in parts:
        here = path + keys[0] + "".join(f"[{key!r}]" for key in keys[1:])
        yield part, here, why or (None if part in called else hindrance or _hindrance(layer, part))
        if isinstance(part, keras.layers.Layer) and part not in seen and (_is_graph(part) or not matches(part)):
            yield from _places(part, matches, hindrance, f"{here}.", why, seen)


def _operations(model):
    """Returns the layers and operations of a model but for the inputs."""
    operations = model.layers if isinstance(model, keras.Sequential) else model.operations
    return [operation for operation in operations if not isinstance(operation, keras.layers.InputLayer)]


def _held(layer):
    """Returns the layers that another holds, each with an attribute and the keys in lists and dictionaries to it."""
    listed = layer.layers if _is_graph(layer) or isinstance(layer, keras.Sequential) else ()
    found = {part: ("layers", number) for number, part in enumerate(listed)}
    for name in own_attributes(layer):
        for keys, part in _contained(getattr(layer, name), (name,)):
            found.setdefault(part, keys)
    return [(keys, part) for part, keys in found.items() if not isinstance(part, keras.layers.InputLayer)]


def _contained(value, keys):
    if isinstance(value, keras.layers.Layer):
        yield keys, value
    elif isinstance(value, (dict, list, tuple)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _contained(each, (*keys, key))


def _at(layer, path):
    """Returns what a layer holds at a path, or `None` if there is no such path."""
    try:
        for key in path:
            layer = getattr(layer, key) if isinstance(layer, keras.layers.Layer) else layer[key]
    except (AttributeError, LookupError, TypeError):
        return None
    return layer


def _put(layer, path, new):
    """Exchanges the layer at a path for a new one, wherever in the outer layer it is held."""
    old = _at(layer, path)
    if old is new:
        return
    owners = _owners(layer)
    graphs = [owner for owner in owners if isinstance(owner, functional_class()) and old in owner.operations]
    if graphs:
        exchange_in_graphs(graphs, old, new)
    for owner in owners:
        exchange_tracked(owner, old, new)
        for name in own_attributes(owner):
            before = getattr(owner, name)
            after = _exchanged(before, old, new)
            if after is not before:
                setattr(owner, name, after)


def _owners(layer):
    """Returns a layer and those within, also the model by which a Sequential calls its layers."""
    layers = all_layers(layer)
    graphs = [functional_of(each) for each in layers if isinstance(each, keras.Sequential)]
    return layers + [graph for graph in graphs if graph]


def _exchanged(value, old, new):
    """Returns what an attribute is with the new layer in place of the old."""
    if value is old:
        return new
    if not any(part is old for _, part in _contained(value, ())):
        return value
    # New ones, for TensorFlow does not save a list of which an element was exchanged.
    if isinstance(value, dict):
        return {key: _exchanged(each, old, new) for key, each in value.items()}
    parts = [_exchanged(each, old, new) for each in value]
    if isinstance(value, list):
        return parts
    return value._make(parts) if hasattr(value, "_make") else tuple(parts)


def _hindrance(layer, part):
    """Returns why a layer that another holds must be left as it is, or `None`."""
    if isinstance(layer, MultiHeadAttention) and part is layer.dropout_layer:
        return "as MultiHeadAttention is made with it, and can be replaced itself"
    attention = isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention))
    if attention and isinstance(part, keras.layers.Dropout) and not layer.dropout:
        return f"as {type(layer).__name__} does not call it while its `dropout` is 0"
    return None


def _drops_by_number(layer):
    numbers = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    own = isinstance(layer, keras.layers.Layer) and seed_generators(layer) and not isinstance(layer, SeededLayer)
    return bool(own) and any(isinstance(number, (int, float)) and number > 0 for number in numbers)


def _take_weights(new, old):
    """Gives a layer the weights of another whose place it takes, if it is of a subclass and they fit."""
    kept, own = (layer.weights if isinstance(layer, keras.layers.Layer) else [] for layer in (old, new))
    fit = [weight.shape for weight in kept] == [weight.shape for weight in own]
    if type(new) is not type(old) and isinstance(new, type(old)) and fit:
        for source, target in zip(kept, own, strict=True):
            target.assign(ops.copy(source))


def _checked(new, old):
    """Returns a new layer that is to be called in place of one that is built, built if that is possible.

    Raises:
        ValueError: Where it cannot be called as the other is.
    """
    named = [name for name, each in _parameters(old).items() if each.kind is not inspect.Parameter.VAR_KEYWORD][1:]
    takes = _parameters(new)
    missing = [name for name in named if name not in takes and name != "training"]
    if missing and not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in takes.values()):
        raise ValueError(
            f"`make` must return a layer that takes the arguments {list(_parameters(old))}, for the layer that holds "
            f"{old!r} may give them. Received: {new!r}, which does not take {missing}"
        )
    config = old.get_build_config() or {}
    # Other shapes than one have names of their own, of the class.
    if new is not old and not new.built and ("input_shape" in config or isinstance(new, type(old))):
        new.build_from_config(config)
    shape = config.get("input_shape")
    if shape is not None and new is not old:
        shapes = [layer.compute_output_shape(shape) for layer in (old, new)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`make` must return a layer of the output shape {shapes[0]} for inputs of shape {shape}, as that of "
                f"{old!r} in the layer that holds it. Received: {new!r} with the output shape {shapes[1]}"
            )
    return new


def _listed(left):
    """Returns a sentence for each reason why layers are left as they are."""
    places = {why: [path for path, other in left if other == why] for _, why in left}
    return "".join(f"{len(paths)} left as they are, {why}: {', '.join(paths)}. " for why, paths in places.items())


def _parameters(layer):
    return inspect.signature(layer.call).parameters


def _matcher(match):
    if isinstance(match, str):
        return lambda layer: layer.name == match
    if isinstance(match, re.Pattern) and isinstance(match.pattern, str):
        return lambda layer: match.search(layer.name)
    if isinstance(match, type) or (isinstance(match, tuple) and all(isinstance(kind, type) for kind in match)):
        return lambda layer: isinstance(layer, match)
    if callable(match):
        return match
    raise ValueError(
        f"`match` must be a class or a tuple of classes, the name of a layer, a compiled regular expression, or a "
        f"function of a layer. Received: match={match!r}"
    )
