"""The private parts of Keras that this package rests on, where there is no public one.

No other file reads any. `tests/test_keras_internals.py` asks for each by itself, and says what rests on it where a new
Keras has changed it. Two parts are not read but given to Keras, and cannot be here:

- `SeededLayer.rematerialized_call` overrides Keras's, which hands the backend arguments that it does not take.
- `RecurrentWrapper` calls `keras.layers.RNN.call` with another cell, which must be all that the loop asks for.
"""

import contextlib
import functools

import keras
from keras import ops
from keras.src.backend.common import variables
from keras.src.backend.common.masking import get_keras_mask as get_keras_mask
from keras.src.backend.common.masking import set_keras_mask as set_keras_mask
from keras.src.backend.common.stateless_scope import in_stateless_scope as in_stateless_scope
from keras.src.random import seed_generator

# The base of Keras's augmentation layers, which has no public name.
AUGMENTATION = keras.layers.Rescaling.__base__


def all_layers(layer):
    """Returns a layer and all within it, itself first. Publicly only models say what they hold, and not in depth."""
    layers = dict.fromkeys(layer._flatten_layers())
    # Before Keras 3.15 without what a functional model holds beside its graph.
    for model in [each for each in layers if isinstance(each, functional_class())]:
        for held in model._tracker.config["layers"][1]:
            if held not in layers:
                layers.update(dict.fromkeys(all_layers(held)))
    return list(layers)


def held_layers(layer):
    """Returns the layers that a layer holds itself, the `layers` of a model. Other layers have no such attribute."""
    return layer._flatten_layers(include_self=False, recursive=False)


def seed_generators(layer):
    """Returns the seed generators that a layer holds itself. Publicly it lists their states, among other variables."""
    return layer._seed_generators


def build_now(layer):
    """Builds a layer that has no `build` of its own, and its list of PyTorch parameters.

    As Keras's own layers without weights do. The public `build` would note a shape in the layer's config.
    """
    layer._build_at_init()


def new_seed():
    """Returns a seed for what was given none, as Keras draws it, from the numbers of `seed_numbers`."""
    return seed_generator.make_default_seed()


def seed_numbers():
    """Returns what the seeds of layers and weights without one are drawn from: the module `random`, or another."""
    return seed_generator.python_random


@contextlib.contextmanager
def seeds_drawn_from(numbers):
    """Within, seeds are drawn from a `random.Random`. Publicly it is Python's own, which other threads draw from."""
    before = seed_generator.python_random
    seed_generator.python_random = numbers
    try:
        yield
    finally:
        seed_generator.python_random = before


def has_value(variable):
    """Whether a variable holds a value, which on JAX it does not while `fit` runs an epoch.

    The public `value` would make a new one, or fail.
    """
    return variable._value is not None


@contextlib.contextmanager
def training_kept(layer):
    """Within, what layers are told of `training` is not passed on to those that are called after.

    Keras passes it on by a context of the whole call, which publicly is given to and taken from by arguments alone.
    """
    context = layer._get_call_context()
    before = context.get_value("training")
    try:
        yield
    finally:
        context.set_value("training", before)


def as_stored():
    """Within, the variables of a layer in mixed precision are read in the type that they are held in.

    Publicly a variable never is, or always.
    """
    return variables.AutocastScope(None)


def untracked(layer):
    """Returns the attributes of a layer, a dictionary to write to: Keras would track what is set, or refuse it.

    A method that is put there takes the place of the class's.
    """
    return vars(layer)


def twin(layer, kind=None, **attributes):
    """Returns a layer that shares all attributes with another but these; its class is `kind`, or the other's.

    The public `copy.copy` and `from_config` make new variables.
    """
    other = object.__new__(kind or type(layer))
    vars(other).update({**vars(layer), **attributes})
    return other


def kernel_attribute(layer):
    """Returns the name of the attribute that a layer reads its kernel from: `kernel` may be a property without LoRA."""
    return "_kernel" if isinstance(getattr(type(layer), "kernel", None), property) else "kernel"


def attention_with(layer, softmax=None, weights=None, heads=None):
    """Returns a `keras.layers.MultiHeadAttention` that shares all with another but a part of the way through it.

    Publicly its projections can be read, and nothing exchanged. It is no subclass that computes in another way: of such
    a one Keras would not ask its fused kernel for causal attention. A query that has no keys attends to
    nothing: so Keras has it where it computes scores, but its fused kernels attend to all of what is masked then.

    Args:
        layer: The other, built.
        softmax: A function of scores and `mask`, in place of the softmax.
        weights: A function that is applied to the attention weights.
        heads: A function that is applied to what the heads return, of shape `(..., heads, features)`.
    """
    attributes = {}
    if softmax or weights or layer.value_dim != layer.key_dim:
        # Only for a rate above 0 are there scores, and not a fused kernel, which on JAX takes heads of one size alone.
        attributes = {"_dropout": 1.0, "_dropout_layer": lambda x, training: weights(x) if weights else x}
    if softmax:
        attributes["_softmax"] = softmax
    plain = twin(layer, **attributes)

    def compute(query, key, value, attention_mask=None, *args, **kwargs):
        outputs, scores = plain._compute_attention(query, key, value, attention_mask, *args, **kwargs)
        if scores is None and attention_mask is not None:
            some = ops.any(ops.cast(attention_mask, "bool"), -1)
            # Of all heads, or of each.
            some = ops.expand_dims(some, -1) if len(some.shape) < 3 else ops.swapaxes(some, -1, -2)
            outputs = ops.where(ops.expand_dims(some, -1), outputs, 0)
        return heads(outputs) if heads else outputs, scores

    return twin(plain, _compute_attention=compute)


def hold_dropout(attention, dropout):
    """Has a `keras.layers.MultiHeadAttention` hold this layer, which it tracks, in place of the one it built itself."""
    exchange_tracked(attention, attention._dropout_layer, dropout)
    attention._dropout_layer = dropout


def header_of(kind):
    """Returns what a file says of a layer of this class beside its config: where the class is to be found.

    The public `serialize_keras_object` takes layers, not classes, and asks them for their config.
    """
    empty = object.__new__(kind)
    vars(empty).update(get_config=dict, get_build_config=lambda: None, get_compile_config=lambda: None)
    return keras.saving.serialize_keras_object(empty)


def lambda_output_shape(layer):
    """Returns the `output_shape` that a Lambda was given. Its config holds a function only as bytes of its code."""
    return layer._output_shape


@functools.cache
def functional_class():
    """Returns the class of functional models, which has no public name."""
    inputs = keras.Input((1,), name="inputs")
    return type(keras.Model(inputs, keras.layers.Identity(name="outputs")(inputs), name="functional"))


def functional_of(sequential):
    """Returns the functional model by which a Sequential calls its layers, or `None` while it has none."""
    return sequential._functional


def origin(tensor):
    """Returns the operation of which a symbolic tensor is an output; that of a model's input is its InputLayer."""
    return tensor._keras_history.operation


def wired_on(layer):
    """Whether a layer was given `training=True` where a graph was made that calls it.

    Of `False` the graph does not say whether it was given: Keras notes the default too.
    """
    return any(node.arguments.kwargs.get("training") is True for node in layer._inbound_nodes)


def own_attributes(layer):
    """Returns the names of a layer's attributes but for those by which Keras and its backend keep their books.

    What a layer holds at which attribute, Keras says nowhere publicly.
    """
    # PyTorch's own attribute holds the modules.
    names, books = [*vars(layer), *vars(layer).get("_modules", ())], _bookkeeping()
    return [name for name in names if name not in books]


@functools.cache
def _bookkeeping():
    holder = keras.layers.Layer(name="holder")
    holder.held = keras.layers.Identity(name="held")
    # The last is a Sequential's.
    return vars(holder).keys() - {"held"} | {"_functional"}


def list_parameters(layer):
    """Has a layer's list of PyTorch parameters, which it makes when it is built, hold the variables of now."""
    layer._post_build()


def exchange_tracked(owner, old, new):
    """Puts a new layer in the place of an old one, or of none, in the books of the layer that holds it.

    A layer that is built is locked: publicly it takes no other.
    """
    if owner._tracker.is_in_store("layers", new):
        owner._tracker.untrack(old)
    elif owner._tracker.is_in_store("layers", old):
        owner._tracker.replace_tracked_value("layers", old, new)
    # A list of its own in a Sequential, and before Keras 3.15 in a functional model.
    if any(each is old for each in owner._layers):
        owner._layers = [new if each is old else each for each in owner._layers]


def exchange_in_graphs(graphs, old, new):
    """Has functional models call a new layer wherever they call an old one. Publicly a graph is made once and for all.

    Args:
        graphs: Functional models, which call the old layer and share what it has been called with.
        old, new: The layers.
    """
    # What was called when `new` was made, if anything, is not of these graphs.
    new._inbound_nodes, new._outbound_nodes = list(old._inbound_nodes), list(old._outbound_nodes)
    for node in new._inbound_nodes:
        node.operation = new
        for output in node.outputs:
            output._keras_history = output._keras_history._replace(operation=new)
    for graph in graphs:
        # Keys of the form `<id>_ib-<number>`.
        keys = (key.split("_", 1) for key in graph._nodes)
        graph._nodes = {f"{id(new) if number == str(id(old)) else number}_{rest}" for number, rest in keys}
