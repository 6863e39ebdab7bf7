"""What is compared: a layer at a rate."""

import functools
import importlib
import inspect
import math
import numbers
from collections.abc import Iterable

import keras

from keras_dropouts.keras_internals import seed_numbers
from keras_dropouts.layers.arguments import as_number


def checked_layers(layers):
    """Returns `layers` as a list, after a look at whether they are what `compare` can make layers of."""
    entries = list(layers) if isinstance(layers, Iterable) and not isinstance(layers, str | bytes) else []
    kinds = [layer.func if isinstance(layer, functools.partial) else layer for layer in entries]
    if not kinds or not all(isinstance(kind, type) and issubclass(kind, keras.layers.Layer) for kind in kinds):
        raise ValueError(
            f"`layers` must be a sequence of layer classes, or functools.partials of them, as in [Dropout], and not "
            f"empty. Received: layers={layers!r}"
        )
    for layer in entries:
        try:
            _, fixed = _taken_apart(layer)
        except TypeError as error:
            raise ValueError(
                f"`layers` must not fix arguments that a layer lacks: {error}. Received: {layer}"
            ) from None
        if "layer" in fixed:
            raise ValueError(f"`layers` must leave `layer` free, for the layers of the model. Received: {layer}")
    return entries


def checked_rates(rates):
    """Returns `rates` as a list of Python numbers, each of them once."""
    several = isinstance(rates, Iterable) and getattr(rates, "ndim", 1) and not isinstance(rates, str | bytes)
    values = [_number(rate) for rate in rates] if several else [None]
    if None in values:
        raise ValueError(f"`rates` must be a sequence of finite numbers, as in [0.1, 0.3]. Received: rates={rates!r}")
    return list(dict.fromkeys(values))


def _number(value):
    """Returns `value` as a Python number, or `None` where it is no finite one."""
    value = as_number(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def rates_of(layer, rates):
    """Returns the rates to try `layer` at: its own where it fixes one, `[None]` where it takes none."""
    argument, fixed, unknown = _strength(layer)
    if unknown:
        raise ValueError(
            f"{_label(layer)} needs values for {', '.join(unknown)}: give functools.partial({_label(layer)}, ...)."
        )
    if argument is None or argument in fixed:
        return [_number(fixed.get(argument))]
    if not rates:
        raise ValueError(f"`rates` must hold at least one number. Received: rates={rates!r}")
    return rates


def _strength(layer):
    """Returns which argument is the rate, or `None`, the arguments that are fixed, and those without a value."""
    kind, fixed = _taken_apart(layer)
    parameters = parameters_of(kind)
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name != "layer"
    ]
    free = [name for name in required if name not in fixed]
    argument = "rate" if "rate" in {*parameters, *fixed} else next(iter(free + required), None)
    return argument, fixed, [name for name in free if name != argument]


def _taken_apart(layer):
    """Returns the class of a layer or of a partial of one, and the arguments that the partial fixes, by name."""
    if not isinstance(layer, functools.partial):
        return layer, {}
    signature = inspect.Signature(parameters_of(layer.func).values())
    return layer.func, signature.bind_partial(*layer.args).arguments | layer.keywords


def parameters_of(kind):
    # Of `__init__`: the first releases of Python 3.11 would report the `__new__` that Keras gives to all layers.
    return inspect.signature(functools.partial(kind.__init__, None)).parameters


def _label(layer):
    kind, fixed = _taken_apart(layer)
    argument, *_ = _strength(layer)
    shown = {name: value for name, value in fixed.items() if name != argument or _number(value) is None}
    return kind.__name__ + f"({', '.join(f'{name}={_shown(value)}' for name, value in shown.items())})" * bool(shown)


def _shown(value):
    # A schedule's own would be its address, another one in each process.
    return type(value).__name__ if type(value).__repr__ is object.__repr__ else repr(value)


def titled(name, rate):
    return name if rate is None else f"{name} {rate:g}"


class Candidate:
    """A layer at a rate, or no dropout at all."""

    def __init__(self, layer=None, rate=None):
        self.layer, self.rate = layer, rate
        self.name = "none" if layer is None else _label(layer)
        self.wraps = False
        if layer is not None:
            argument, fixed, _ = _strength(layer)
            self._arguments = {argument: rate} if argument and argument not in fixed else {}
            self.wraps = "layer" in parameters_of(_taken_apart(layer)[0])
            if not self.wraps:
                try:
                    self.new()
                except ValueError as error:
                    raise ValueError(f"{self} cannot be made. {one_line(error)}") from error

    def __str__(self):
        return titled(self.name, self.rate)

    def new(self, **arguments):
        """Returns a new layer, around `layer` if that is among the arguments."""
        try:
            return self.layer(**arguments, **self._arguments)
        except TypeError as error:
            raise ValueError(one_line(error)) from error

    def apply(self, layer, inputs, **kwargs):
        """Returns what `layer` makes of `inputs`, with this dropout. Raises a `ValueError` where they do not fit."""
        # The seeds of the weights to come must not depend on the dropout.
        source = seed_numbers()
        state = source.getstate()
        try:
            if self.wraps:
                return self.new(layer=layer)(inputs, **kwargs)
            features = layer(inputs)
            outputs = self.new()(features, **kwargs)
            if outputs.shape != features.shape:
                raise ValueError(
                    f"It must not change the shape of what a layer returns. "
                    f"Received: outputs of shape {tuple(outputs.shape)} for inputs of shape {tuple(features.shape)}"
                )
            return outputs
        finally:
            source.setstate(state)


def require(*modules):
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ImportError(f"compare needs {module}: pip install keras-dropouts[compare]") from error


def one_line(error):
    return " ".join(str(error).split())
