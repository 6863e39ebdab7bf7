"""What every layer shares: the training switch, the rate, the random state, the config."""

import copy
import math
import numbers
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
from keras import ops, tree
from keras.optimizers.schedules import LearningRateSchedule, PiecewiseConstantDecay

from keras_dropouts import random

STATE, RATE = "random_state", "rate"

Rate: TypeAlias = float | LearningRateSchedule
Sizes: TypeAlias = int | Sequence[int]
DataFormat: TypeAlias = Literal["channels_first", "channels_last"] | None


class SeededLayer(keras.layers.Layer):
    """Base of the layers that draw random numbers: their seed and their random state, saved with the weights.

    Args:
        seed: `None`, or an integer in `[0, 2**32)`.
        rate: What the random state holds as its rate, NaN for none.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where `seed` is not as described.
    """

    def __init__(self, seed=None, rate=math.nan, **kwargs):
        # Not super(): `keras.layers.Dropout.__init__` would build the layer without its state.
        keras.layers.Layer.__init__(self, **kwargs)
        self._seed = checked_seed(seed)
        self._random_state = random.RandomState(self._seed, rate)
        self.supports_masking = True
        # As Keras's own dropout is from the start, where no subclass has a `build`.
        self._build_at_init()

    @property
    def seed(self) -> int | None:
        """The seed that was given. Set it, and the next call draws by the new one; the count of calls goes on."""
        return self._seed

    @seed.setter
    def seed(self, seed):
        seed = checked_seed(seed)
        self._fetched_state().write(seed=random.new_seed() if seed is None else seed)
        self._seed = seed

    def _next_state(self):
        """Returns the random state of this call, and counts the call."""
        return self._random_state.next()

    def _trains(self, training):
        return training or self._random_state.repeats()

    def rematerialized_call(self, layer_call, *args, **kwargs):
        # Keras hands all arguments on to the backend, whose function takes tensors alone, by their position.
        def call(*args, **kwargs):
            structure = args, kwargs
            flat = tree.flatten(structure)
            places = [i for i, x in enumerate(flat) if _is_float_tensor(x)]

            def function(*tensors):
                values = dict(zip(places, tensors, strict=True))
                args, kwargs = tree.pack_sequence_as(structure, [values.get(i, x) for i, x in enumerate(flat)])
                return layer_call(*args, **kwargs)

            return plain(function, *args, **kwargs)(*[flat[i] for i in places])

        plain = super().rematerialized_call
        return call

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}

    def _fetched_state(self):
        if self._random_state.state._value is None:
            raise RuntimeError(
                f"On JAX the state of the layers is with `fit` during an epoch. A callback fetches it by reading "
                f"`self.model`, as in `self.model.get_layer({self.name!r})`, each time anew."
            )
        return self._random_state

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[STATE] = self._random_state.read()[:2]

    def load_own_variables(self, store):
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names - {STATE, RATE}})
        # Absent from the files of Keras's own layers of the same name.
        if STATE in names:
            seed, calls = checked_state(store[STATE])
            # A seed that was given is kept: one file may serve several models.
            self._random_state.write(seed=seed if self._seed is None else None, calls=calls)


class RandomLayer(SeededLayer):
    """Base of the layers that multiply their input by random numbers while training.

    In training a layer draws a multiplier from its key (seed and call counter) and its rate; at inference it returns
    the input. A subclass says which multiplier, by overriding one of three hooks:

    - `_keep_mask(inputs, key, rate)`: which elements survive, and what the survivors are scaled by;
    - `_multiply(inputs, key, rate)`: the whole product, for noise that is no mask;
    - `_train(inputs, key, rate)`: the whole layer, where it is no product or the input decides what is dropped.

    The first two must depend on the values of `key` and `rate` and the shape of `inputs` alone: the backward pass
    calls them again, with the gradient as `inputs`, instead of keeping what they drew. The last had best be
    `random.replayed`.

    Args:
        rate: A number in `[0, 1]`, or a `keras.optimizers.schedules.LearningRateSchedule` of such numbers whose step
            is the layer's count of calls in training. Values of a schedule outside `[0, 1]` are clipped; NaN counts as
            0, and is an error in `current_rate`.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where `rate` or `seed` is not as described.
    """

    # The name of the method's parameter, of which a property is made, and the largest value it has a meaning for.
    parameter = "rate"
    max_rate = 1.0

    def __init__(self, rate: Rate, seed: int | None = None, **kwargs: Any):
        rate = self._checked_rate(rate)
        # Noted, as `torch.compile` would compile again for each number that a question to the rate itself would meet.
        scheduled = isinstance(rate, LearningRateSchedule)
        super().__init__(seed, math.nan if scheduled else rate, **kwargs)
        self._rate, self._scheduled, self._set_late = rate, scheduled, False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, cls.parameter):
            setattr(cls, cls.parameter, property(RandomLayer._get_rate, RandomLayer._set_rate))

    def _get_rate(self):
        """The rate, or its schedule. A number set here takes effect at the next batch, in compiled code too."""
        return self._rate

    def _set_rate(self, rate):
        rate = self._checked_rate(rate)
        if isinstance(rate, LearningRateSchedule):
            raise ValueError(
                f"A schedule for `{self.parameter}` must be given when the layer is made; compiled code would not "
                f"see it now. Allowed here: a number in [0, {self.max_rate:g}]. Received: {self.parameter}={rate!r}"
            )
        self._fetched_state().write(rate=rate)
        self._rate, self._scheduled, self._set_late = rate, False, True

    def current_rate(self) -> float:
        """Returns the number, a float, that the next call in training takes for the rate, also within `fit`.

        Raises:
            ValueError: Where that number is NaN. Compiled code cannot raise, and takes 0 for it.
        """
        if not self._scheduled:
            return self._rate
        state = self._fetched_state().state.value
        calls = random.calls_of(state)
        if math.isnan(self._rate(calls)):
            raise ValueError(
                f"A schedule for `{self.parameter}` must give numbers; for NaN nothing is dropped. "
                f"Received: {self.parameter}={self._rate!r}, which gives NaN at step {int(calls)}"
            )
        return float(ops.convert_to_numpy(self._rate_at(state)))

    def _checked_rate(self, rate):
        if isinstance(rate, LearningRateSchedule):
            rate = _in_floats(rate)
            with random.at_once():
                first = rate(0)
                value = as_number(first)
            if hasattr(first, "dtype") and keras.backend.is_int_dtype(keras.backend.standardize_dtype(first.dtype)):
                raise ValueError(
                    f"A schedule for `{self.parameter}` must give numbers of a floating-point type: 0.0, not 0. "
                    f"Received: {self.parameter}={rate!r}, which gives {first!r}"
                )
        else:
            value = rate = as_number(rate)
        allowed = f"a number in [0, {self.max_rate:g}" + ("]" if self.max_rate == 1 else ")")
        real = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not real or not 0 <= value <= self.max_rate:
            raise ValueError(
                f"`{self.parameter}` must be {allowed}, or a keras.optimizers.schedules.LearningRateSchedule of such "
                f"numbers. Received: {self.parameter}={rate!r}"
            )
        return rate if value is not rate else float(rate)

    def call(self, inputs, training=False):
        if not self._trains(training):
            return self._infer(inputs)
        return self._train(self._checked_inputs(inputs), *self._next_draw())

    def _checked_inputs(self, inputs):
        """Returns `inputs`. Not for layers that return them as they are: what is no tensor passes through those."""
        if isinstance(inputs, keras.Variable):
            inputs = inputs.value
        if not random.is_dense(inputs):
            received = type(inputs).__name__
        elif not keras.backend.is_float_dtype(keras.backend.standardize_dtype(inputs.dtype)):
            received = f"dtype {inputs.dtype}"
        else:
            return inputs
        raise ValueError(
            f"`inputs` of {self.__class__.__name__} must be one tensor of a floating-point type, neither sparse nor "
            f"ragged. Received: inputs of {received}"
        )

    def _train(self, inputs, key, rate):
        return random.recomputed(self._multiply, inputs, key, rate)

    def _infer(self, inputs):
        return inputs

    def _next_draw(self):
        """Returns the key and the rate (a float32 scalar) of this call, and counts it."""
        state = self._next_state()
        return random.key_of(state), self._rate_at(state)

    def _rate_at(self, state):
        rate = random.rate_of(state)
        if self._scheduled:
            # NaN becomes 0; some layers would drop all by it and some nothing, as the compiler has it.
            scheduled = ops.nan_to_num(ops.cast(self._rate(random.calls_of(state)), "float32"))
            # A number set later has taken the place of the NaN that stands for the schedule.
            rate = ops.where(ops.isnan(rate), ops.clip(scheduled, 0.0, self.max_rate), rate)
        return rate

    def _multiply(self, inputs, key, rate):
        return random.select(*self._keep_mask(inputs, key, rate), inputs)

    def _keep_mask(self, inputs, key, rate):
        """Returns a boolean tensor that broadcasts to `inputs`, and the scale of what is kept."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        rate = keras.saving.serialize_keras_object(self._rate) if self._scheduled else self._rate
        return {**super().get_config(), self.parameter: rate}

    def save_own_variables(self, store):
        super().save_own_variables(store)
        # Another than the layer was made with, which a model made anew has by itself.
        if self._set_late:
            store[RATE] = np.float32(self._rate)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if RATE in store.keys():  # noqa: SIM118 - the store is no dictionary.
            self._set_rate(float(np.asarray(store[RATE])))

    @classmethod
    def from_config(cls, config):
        if isinstance(config.get(cls.parameter), dict):
            config = {**config, cls.parameter: keras.saving.deserialize_keras_object(config[cls.parameter])}
        return super().from_config(config)


def _is_float_tensor(x):
    return ops.is_tensor(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))


def checked_seed(seed):
    """Returns `seed` as a Python integer, or `None`."""
    if seed is None:
        return None
    integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not integer or not 0 <= seed < 2**32:
        raise ValueError(f"`seed` must be None or an integer in [0, 2**32). Received: seed={seed!r}")
    return int(seed)


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


def checked_state(words):
    """Returns the seed and the number of calls that a file has, as Python integers."""
    words = np.asarray(words)
    numeric = words.shape == (2,) and words.dtype.kind in "iuf"
    if not numeric or not all(0 <= word < 2**32 and word == int(word) for word in words.tolist()):
        raise ValueError(
            f"The random state in a file must be two integers in [0, 2**32): the seed and the number of calls. "
            f"Received: {STATE}={words!r}"
        )
    return tuple(int(word) for word in words)


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
    value = as_number(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number in [0, 1]. Received: {name}={value!r}")
    return float(value)


def checked_count(name, count):
    """Returns `count` as a Python integer."""
    if not isinstance(count, numbers.Integral) or isinstance(count, bool) or count < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={count!r}")
    return int(count)


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
