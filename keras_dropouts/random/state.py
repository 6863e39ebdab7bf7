"""What a layer remembers from call to call."""

import functools

import keras
import numpy as np

from keras_dropouts.keras_internals import in_stateless_scope, new_seed
from keras_dropouts.random import checkpointing
from keras_dropouts.random.backend import BACKEND, WORD, bits_as, cast

if BACKEND == "torch":
    import torch


class RandomState(keras.random.SeedGenerator):
    """What a layer remembers from call to call: its seed, the calls so far, and its rate.

    It is a `keras.random.SeedGenerator` because Keras carries the state of those through compiled training steps on
    every backend without counting it among a layer's weights.

    Args:
        seed: An integer in [0, 2**32), or `None` for one from Keras's own source of seeds.
        rate: A float, held as float32. NaN says that the rate comes from a schedule.

    The state is one variable of four 32-bit integers, `(seed, calls, 0, bits of the rate)`: a key and the rate.
    """

    def __init__(self, seed, rate):
        # Given one, Keras takes none from its own source.
        super().__init__(0)
        seed = new_seed() if seed is None else seed
        words = self._as_state(np.array([seed, 0, 0, _float_bits(rate)], "uint32"))
        # By a function, which Keras calls later where a layer is made within the `build` of another.
        with keras.name_scope(self.name):
            self.state = keras.Variable(
                lambda shape, dtype: keras.ops.convert_to_tensor(words, dtype),
                shape=words.shape,
                dtype=self.state.dtype,
                trainable=False,
                aggregation=self.state.aggregation,
                name="random_state",
            )
        self._checkpoints = checkpointing.Checkpoints()

    def next(self, ordered=True):
        """Returns the state as it is, and counts one call. Within a repetition by checkpointing: what it was then."""
        if BACKEND == "torch":
            if torch.compiler.is_compiling():
                return _count_call(self.state.value)
            if not in_stateless_scope():
                # In place: to assign a new value takes as long as a dropout of a small tensor.
                return checkpointing.once_by_number(_counted, self.state.value)
        return self._checkpoints.once(self._count)

    def repeats(self):
        """Whether a backward pass repeats a call in training now, whatever `training` says there."""
        return self._checkpoints.repeats()

    def _count(self):
        before = self.state.value * 1
        one_call = _one_call_on(before.device) if BACKEND == "torch" else np.array([0, 1, 0, 0], self.state.dtype)
        self.state.assign(before + one_call)
        return before

    def read(self):
        """Returns the state as a NumPy array of four uint32."""
        return keras.ops.convert_to_numpy(self.state).astype("uint32")

    def write(self, seed=None, calls=None, rate=None):
        """Replaces the parts that are given; takes effect at the next call, in compiled code too."""
        words = self.read()
        for i, word in ((0, seed), (1, calls), (3, None if rate is None else _float_bits(rate))):
            if word is not None:
                words[i] = word
        self.state.assign(self._as_state(words))

    def get_config(self):
        seed, _, _, rate = self.read()
        return {"seed": int(seed), "rate": float(rate.view("float32"))}

    def _as_state(self, words):
        return words.view("int32") if self.state.dtype == "int32" else words.astype(self.state.dtype)


if BACKEND == "torch":

    @functools.cache
    def _one_call_on(device):
        return torch.tensor([0, 1, 0, 0], dtype=torch.int32, device=device)

    def _counted(state):
        before = state.clone()
        state.add_(_one_call_on(state.device))
        return before

    # Asked as it runs, not as it is compiled: whether that is a repetition.
    @torch.library.custom_op("keras_dropouts::count_call", mutates_args=("state",))
    def _count_call(state: torch.Tensor) -> torch.Tensor:
        return checkpointing.once_by_number(_counted, state).clone()

    @_count_call.register_fake
    def _(state):
        return torch.empty_like(state)


def _float_bits(value):
    return np.float32(value).view("uint32")


def calls_of(state):
    """Returns the call counter of a state as an int32 scalar."""
    return cast(state[1], "int32")


def rate_of(state):
    """Returns the rate of a state as a float32 scalar."""
    return bits_as(cast(state[3], WORD), "float32")
