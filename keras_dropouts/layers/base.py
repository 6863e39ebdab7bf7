"""What every layer shares: the training switch, the rate, the random state, the config."""

import math
import warnings
from typing import Any

import keras
import numpy as np
from keras import ops, tree
from keras.optimizers.schedules import LearningRateSchedule

from keras_dropouts import random
from keras_dropouts.keras_internals import build_now, has_value, new_seed
from keras_dropouts.layers.arguments import Rate, checked_inputs, checked_rate, checked_seed, checked_state
from keras_dropouts.random.arguments import Tensor
from keras_dropouts.random.bits import BITS_VERSION
from keras_dropouts.random.keys import key_of
from keras_dropouts.random.rematerialize import rematerialized_product
from keras_dropouts.random.state import RandomState, calls_of, rate_of

STATE, RATE, VERSION = "random_state", "rate", "bits_version"


class SeededLayer(keras.layers.Layer):
    """Base of the layers that draw random numbers: their seed and their random state, saved with the weights.

    Args:
        seed: `None`, or an integer in `[0, 2**32)`.
        rate: What the random state holds as its rate, NaN for none.
        **kwargs: As for `keras.layers.Layer`.

    Raises:
        ValueError: Where `seed` is not as described.
    """

    # Whether the layer takes tensors of integers too.
    takes_integers = False

    def __init__(self, seed=None, rate=math.nan, **kwargs):
        # Not super(): `keras.layers.Dropout.__init__` would build the layer without its state.
        keras.layers.Layer.__init__(self, **kwargs)
        self._seed = checked_seed(seed)
        self._random_state = RandomState(self._seed, rate)
        self.supports_masking = True
        # As Keras's own dropout is from the start, where no subclass has a `build`.
        build_now(self)

    @property
    def seed(self) -> int | None:
        """The seed that was given. Set it, and the next call draws by the new one; the count of calls goes on."""
        return self._seed

    @seed.setter
    def seed(self, seed):
        seed = checked_seed(seed)
        self._fetched_state().write(seed=new_seed() if seed is None else seed)
        self._seed = seed

    def __setattr__(self, name, value):
        # At each call Keras notes that the layer is built and called, and looks through all it tracks each time.
        if name not in self.__dict__ or self.__dict__[name] is not value:
            super().__setattr__(name, value)

    def readings(self) -> dict[str, float]:
        """Returns the numbers that `RateLogger` puts into the logs, by what they are: a rate, and what is learnt."""
        return {}

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
        if not has_value(self._random_state.state):
            raise RuntimeError(
                f"On JAX the state of the layers is with `fit` during an epoch. A callback fetches it by reading "
                f"`self.model`, as in `self.model.get_layer({self.name!r})`, each time anew."
            )
        return self._random_state

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store[STATE] = self._random_state.read()[:2]
        store[VERSION] = np.int32(BITS_VERSION)

    def load_own_variables(self, store):
        names = set(store.keys())
        super().load_own_variables({name: store[name] for name in names - {STATE, RATE, VERSION}})
        # Absent from the files of Keras's own layers of the same name.
        if STATE in names:
            seed, calls = checked_state(STATE, store[STATE])
            # Version 1 did not say so.
            version = int(np.asarray(store[VERSION])) if VERSION in names else 1
            if version != BITS_VERSION:
                # The same for all layers, so that Python shows it once.
                warnings.warn(
                    f"The file is of version {version} of the random bits of keras_dropouts, and this is version "
                    f"{BITS_VERSION}: its layers go on with other masks than they would have drawn.",
                    stacklevel=2,
                )
            # A seed that was given is kept: one file may serve several models.
            self._random_state.write(seed=seed if self._seed is None else None, calls=calls)


class RandomLayer(SeededLayer):
    """Base of the layers that multiply their input by random numbers while training, for layers of your own too.

    In training a layer draws a multiplier from its key (seed and call counter) and its rate; at inference it returns
    its input. A subclass says which multiplier, by overriding one of three hooks, the first that will do:

    - `keep_mask(inputs, key, rate)` returns which elements survive, a boolean tensor that broadcasts to the inputs,
      and what the survivors are scaled by;
    - `multiply(inputs, key, rate)` returns the whole product, for noise that is no mask;
    - `training_call(inputs, key, rate)` returns the outputs, where they are no product or the input decides what is
      dropped.

    A fourth, `inference_call(inputs)`, returns the outputs at inference. `key` is for one tensor, drawn with
    `keras_dropouts.random`; a second one takes `random.fold_in(key, 1)`. `rate` is a float32 tensor without axes.

    The first two hooks must depend on the values of `key` and `rate` and the shape of `inputs` alone: the backward pass
    calls them again, with the gradient as `inputs`, instead of keeping what they drew. `training_call` had best return
    `random.rematerialized(function, inputs, key, rate)`.

    All else is there: the rate and its schedule, the random state in files, Keras masks, `get_config`. A subclass that
    takes further arguments adds them to `get_config`, and registers with Keras as any layer.

    Args:
        rate: A number in `[0, 1]`, or a `keras.optimizers.schedules.LearningRateSchedule` of such numbers whose step
            is the layer's count of calls in training. Values of a schedule outside `[0, 1]` are clipped; NaN counts as
            0, and is an error in `current_rate`.
        seed: `None`, or an integer in `[0, 2**32)`.
        **kwargs: As for `keras.layers.Layer`.

    Call arguments:
        inputs: A float tensor. Its first axis counts samples.
        training: Whether to draw.

    Input shape:
        Any, if the hooks take it.

    Output shape:
        The input shape; where the hooks change it, override `compute_output_shape`.

    Raises:
        ValueError: Where `rate` or `seed` is not as described; in training, where `inputs` is no dense float tensor.

    Example:

    >>> import keras, numpy as np
    >>> from keras_dropouts import RandomLayer, random
    >>> @keras.saving.register_keras_serializable(package="mine")
    ... class PairDropout(RandomLayer):
    ...     def keep_mask(self, inputs, key, rate):
    ...         batch, timesteps, _ = keras.ops.shape(inputs)
    ...         pairs = random.keep_mask(key, (batch, (timesteps + 1) // 2, 1), rate)
    ...         return keras.ops.repeat(pairs, 2, axis=1)[:, :timesteps], random.keep_scale(rate)
    >>> layer = PairDropout(0.5, seed=1)
    >>> y = keras.ops.convert_to_numpy(layer(np.ones((20, 7, 3), "float32"), training=True))
    >>> np.unique(y).tolist(), bool((y[:, 0] == y[:, 1]).all())
    ([0.0, 2.0], True)
    """

    # The name of the method's parameter, of which a property is made, and the largest value it has a meaning for.
    parameter = "rate"
    max_rate = 1.0
    # Attributes beside it that are numbers or schedules, each an argument of the same name.
    also_scheduled: tuple[str, ...] = ()

    def __init__(self, rate: Rate, seed: int | None = None, **kwargs: Any):
        rate = checked_rate(self.parameter, rate, self.max_rate)
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
        rate = checked_rate(self.parameter, rate, self.max_rate)
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
        calls = calls_of(state)
        if math.isnan(self._rate(calls)):
            raise ValueError(
                f"A schedule for `{self.parameter}` must give numbers; for NaN nothing is dropped. "
                f"Received: {self.parameter}={self._rate!r}, which gives NaN at step {int(calls)}"
            )
        return float(ops.convert_to_numpy(self._rate_at(state)))

    def readings(self):
        return {self.parameter: self.current_rate()}

    def call(self, inputs, training=False):
        if not self._trains(training):
            return self.inference_call(inputs)
        return self.training_call(checked_inputs(self, inputs), *self._next_draw())

    def training_call(self, inputs: Tensor, key: Tensor, rate: Tensor) -> Tensor:
        """Returns the outputs in training: see the class."""
        return rematerialized_product(self.multiply, inputs, key, rate)

    def inference_call(self, inputs: Tensor) -> Tensor:
        """Returns the outputs at inference: see the class."""
        return inputs

    def _next_draw(self):
        """Returns the key and the rate (a float32 scalar) of this call, and counts it."""
        state = self._next_state()
        return key_of(state), self._rate_at(state)

    def _next_rate(self):
        """Returns the rate that the next call in training takes, a float32 scalar, and counts none."""
        return self._rate_at(self._random_state.state.value)

    def _rate_at(self, state):
        rate = rate_of(state)
        if self._scheduled:
            # A number set later has taken the place of the NaN that stands for the schedule.
            rate = ops.where(ops.isnan(rate), value_at(state, self._rate, self.max_rate), rate)
        return rate

    def multiply(self, inputs: Tensor, key: Tensor, rate: Tensor) -> Tensor:
        """Returns the product of the inputs and of what is drawn, in the inputs' type: see the class."""
        return random.multiply_where(*self.keep_mask(inputs, key, rate), inputs)

    def keep_mask(self, inputs: Tensor, key: Tensor, rate: Tensor) -> tuple[Tensor, float | Tensor]:
        """Returns a boolean tensor that broadcasts to the inputs, and the scale of what is kept: see the class.

        Raises:
            NotImplementedError: Where a subclass overrides none of the hooks.
        """
        raise NotImplementedError(f"{type(self).__name__} must override `keep_mask`, `multiply` or `training_call`.")

    def compute_output_shape(self, input_shape):
        return input_shape

    def compute_output_spec(self, inputs, *args, **kwargs):
        outputs = super().compute_output_spec(inputs, *args, **kwargs)
        if self.takes_integers and keras.backend.is_int_dtype(inputs.dtype):
            # Keras takes all that a layer returns for its compute type.
            outputs = keras.KerasTensor(outputs.shape, inputs.dtype)
        return outputs

    def get_config(self):
        numbers = {self.parameter: self._rate} | {name: getattr(self, name) for name in self.also_scheduled}
        return {**super().get_config(), **keras.saving.serialize_keras_object(numbers)}

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
        names = [name for name in (cls.parameter, *cls.also_scheduled) if isinstance(config.get(name), dict)]
        schedules = {name: keras.saving.deserialize_keras_object(config[name]) for name in names}
        return super().from_config({**config, **schedules})


def value_at(state, number, largest):
    """Returns a number, or what a schedule of numbers in `[0, largest]` gives at a state, as a float32 scalar."""
    if isinstance(number, LearningRateSchedule):
        # NaN becomes 0; some layers would drop all by it and some nothing, as the compiler has it.
        number = ops.nan_to_num(ops.cast(number(calls_of(state)), "float32"))
        number = ops.clip(number, 0.0, largest)
    return ops.convert_to_tensor(number, "float32")


def _is_float_tensor(x):
    return ops.is_tensor(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
