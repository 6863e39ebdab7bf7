"""What the arguments of layers and tools may be."""

import copy
import math
import numbers
from collections.abc import Mapping, Sequence, Set
from typing import Literal, TypeAlias

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule, PiecewiseConstantDecay

from keras_dropouts.random.backend import at_once, is_dense

Rate: TypeAlias = float | LearningRateSchedule
Sizes: TypeAlias = int | Sequence[int]
DataFormat: TypeAlias = Literal["channels_first", "channels_last"] | None


def checked_rate(name, rate, largest, others=""):
    """Returns `rate` as a Python float, or a schedule of floats. `others` says what else would be allowed."""
    if isinstance(rate, LearningRateSchedule):
        rate = _in_floats(rate)
        with at_once():
            first = rate(0)
            value = as_number(first)
        if hasattr(first, "dtype") and keras.backend.is_int_dtype(keras.backend.standardize_dtype(first.dtype)):
            raise ValueError(
                f"A schedule for `{name}` must give numbers of a floating-point type: 0.0, not 0. "
                f"Received: {name}={rate!r}, which gives {first!r}"
            )
    else:
        value = rate = as_number(rate)
    allowed = f"a number in [0, {largest:g}" + ("]" if largest == 1 else ")")
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not 0 <= value <= largest or value == math.inf:
        raise ValueError(
            f"`{name}` must be {allowed}, or a keras.optimizers.schedules.LearningRateSchedule of such "
            f"numbers{others}. Received: {name}={rate!r}"
        )
    return rate if value is not rate else float(rate)


def _in_floats(schedule):
    """Returns the schedule, with floats where one of Keras's was given integers, to which it would round all values.

    Those compute in the type of their first number.
    """
    floats = {}
    if isinstance(as_number(getattr(schedule, "initial_learning_rate", None)), numbers.Integral):
        floats["initial_learning_rate"] = float(schedule.initial_learning_rate)
    elif isinstance(schedule, PiecewiseConstantDecay):
        values = [as_number(value) for value in schedule.values]
        if any(isinstance(value, numbers.Integral) for value in values):
            floats["values"] = [float(value) for value in values]
    if floats:
        # The optimizer may have the same one.
        schedule = copy.copy(schedule)
        vars(schedule).update(floats)
    return schedule


def checked_seed(seed):
    """Returns `seed` as a Python integer, or `None`."""
    if seed is None:
        return None
    integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not integer or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be None or an integer in [0, 2**32). Received: seed={seed!r}")
    return int(seed)


def as_number(value):
    """Returns an array or tensor without axes as a Python number, and anything else as it is."""
    # Not a variable: what is assigned to it later would go unseen.
    if getattr(value, "shape", None) == () and not hasattr(value, "assign"):
        try:
            dtype = keras.backend.standardize_dtype(value.dtype)
            if keras.backend.is_int_dtype(dtype):
                return int(value)
            if keras.backend.is_float_dtype(dtype):
                return float(value)
        except (TypeError, ValueError, RuntimeError):
            # A symbol, in a function that is being compiled.
            pass
    return value


def checked_choice(name, value, *choices):
    """Returns `value`, one of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be {' or '.join(map(repr, choices))}. Received: {name}={value!r}")
    return value


def checked_data_format(data_format, dimensions=None):
    """Returns `data_format`, or the default where it is `None`: Keras's own, but for sequences, of one dimension."""
    if data_format is None:
        sequences = dimensions is not None and dimensions <= 1
        return "channels_last" if sequences else keras.config.image_data_format()
    if not isinstance(data_format, str) or data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            f"`data_format` must be 'channels_first', 'channels_last' or None. Received: data_format={data_format!r}"
        )
    return data_format


def checked_fraction(name, value):
    """Returns `value` as a Python float."""
    return checked_number(name, value, "a number in [0, 1]", lambda number: 0 <= number <= 1)


def checked_start(name, rate, largest):
    """Returns `rate`, from which a rate is learnt, as a Python float."""
    return checked_number(name, rate, f"a number in (0, {largest:g}]", lambda number: 0 < number <= largest)


def checked_share(name, value):
    """Returns `value`, a part that is not the whole, as a Python float."""
    return checked_number(name, value, "a number in [0, 1)", lambda number: 0 <= number < 1)


def checked_count(name, count):
    """Returns `count` as a Python integer."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={count!r}")
    return int(count)


def checked_counts(name, counts):
    """Returns `counts` as a list of Python integers, one or more."""
    entries = list(counts) if isinstance(counts, (Sequence, np.ndarray)) and not isinstance(counts, str) else []
    integers = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0 for n in entries)
    if not entries or not integers:
        raise ValueError(f"`{name}` must be a sequence of positive integers, not empty. Received: {name}={counts!r}")
    return [int(n) for n in entries]


def checked_length(name, length):
    """Returns `length`, which may be 0, as a Python integer."""
    if not isinstance(length, numbers.Integral) or isinstance(length, bool) or length < 0:
        raise ValueError(f"`{name}` must be an integer that is not negative. Received: {name}={length!r}")
    return int(length)


def checked_axes(name, axes):
    """Returns `axes` as a Python integer or a tuple of them."""
    several = isinstance(axes, (list, tuple))
    entries = tuple(axes) if several else (axes,)
    if not entries or not all(isinstance(n, numbers.Integral) and not isinstance(n, bool) for n in entries):
        raise ValueError(f"`{name}` must be an integer, or a sequence of them. Received: {name}={axes!r}")
    return tuple(int(n) for n in entries) if several else int(axes)


def checked_sizes(name, sizes, dimensions):
    """Returns `sizes`, of blocks or windows, as a Python integer or a tuple of one for each dimension of space."""
    several = isinstance(sizes, (list, tuple))
    entries = tuple(sizes) if several else (sizes,)
    integers = all(isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0 for n in entries)
    if not integers or (several and len(entries) != dimensions):
        raise ValueError(
            f"`{name}` must be a positive integer, or a sequence of {dimensions} of them. Received: {name}={sizes!r}"
        )
    return tuple(int(n) for n in entries) if several else int(sizes)


def checked_flag(name, value):
    """Returns `value`, True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}")
    return value


def checked_number(name, value, allowed="a finite number", fits=math.isfinite):
    """Returns `value` as a Python float; of finite numbers those that fit are allowed, which `allowed` describes."""
    value = as_number(value)
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not real or not math.isfinite(value) or not fits(value):
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return float(value)


def checked_magnitude(name, value):
    """Returns `value` as a Python float, a finite number that is not negative."""
    return checked_number(name, value, "a finite number that is not negative", lambda number: number >= 0)


def checked_magnitudes(name, values):
    """Returns `values` as a list of Python floats, finite and not negative."""
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"`{name}` must be a list or tuple of numbers. Received: {name}={values!r}")
    return [checked_magnitude(name, value) for value in values]


def checked_positive(name, value):
    """Returns `value`, above 0, as a Python float."""
    return checked_number(name, value, "a positive, finite number", lambda number: number > 0)


def checked_inner_fraction(name, value):
    """Returns `value`, which has a logit, as a Python float."""
    return checked_number(name, value, "a number between 0 and 1, neither included", lambda number: 0 < number < 1)


def checked_noise_shape(noise_shape):
    """Returns `noise_shape` as a tuple of Python integers and `None`, or `None`."""
    if noise_shape is None:
        return None
    try:
        # What is in these has no order, or is a character.
        unfit = isinstance(noise_shape, (str, bytes, bytearray, Mapping, Set))
        entries = (0,) if unfit else tuple(noise_shape)
    except TypeError:
        entries = (0,)
    if all(n is None or (isinstance(n, numbers.Integral) and not isinstance(n, bool) and n > 0) for n in entries):
        return tuple(n if n is None else int(n) for n in entries)
    raise ValueError(
        f"`noise_shape` must be None, or a sequence with a positive integer or None for each axis. "
        f"Received: noise_shape={noise_shape!r}"
    )


def checked_inputs(layer, inputs, name="inputs"):
    """Returns `inputs`. Not for layers that return them as they are: what is no tensor passes through those."""
    if isinstance(inputs, keras.Variable):
        inputs = inputs.value
    if not is_dense(inputs):
        received = type(inputs).__name__
    else:
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if keras.backend.is_float_dtype(dtype) or (layer.takes_integers and keras.backend.is_int_dtype(dtype)):
            return inputs
        received = f"dtype {inputs.dtype}"
    types = "floating-point or integer type" if layer.takes_integers else "floating-point type"
    raise ValueError(
        f"`{name}` of {layer.__class__.__name__} must be one tensor of a {types}, neither sparse nor ragged. "
        f"Received: {name} of {received}"
    )


def checked_state(name, words):
    """Returns the seed and the number of calls that a file has, as Python integers."""
    words = np.asarray(words)
    numeric = words.shape == (2,) and words.dtype.kind in "iuf"
    if not numeric or not all(0 <= word < 2**32 and word == int(word) for word in words.tolist()):
        raise ValueError(
            f"The random state in a file must be two integers in [0, 2**32): the seed and the number of calls. "
            f"Received: {name}={words!r}"
        )
    return tuple(int(word) for word in words)
