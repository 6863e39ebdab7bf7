"""Random bits: the same on TensorFlow, JAX and PyTorch, eager and compiled.

This file and `rematerialization.py` alone ask which backend runs. The rules here:

- Every bit comes from Threefry2x32 with 13 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
  SC 2011, the fewest rounds they found Crush-resistant). The key is (seed, call), the counter is
  (block in the sample, sample), so a sample's bits do not depend on the rest of the batch.
- A block serves eight elements: a sample of n takes q = ceil(n / 8) of them. It is two 32-bit words a and b, and two
  mixtures c = (a << 8) ^ (a >> 8) ^ b and d = (b << 8) ^ (b >> 8) ^ a, with arithmetic shifts. Each half of these four
  is a signed 16-bit draw. The upper bytes of the eight are independent of each other, and of any two the whole draws.
- Numbers read the halves, the lower one first, of the q words a, then of the q words b, c and d. A mask reads the
  draws of c, a, c, a (lower half, lower, upper, upper) of each block, then those of d and b: compared, they are the
  bytes of q words, then of q more.
- Nothing is drawn in the input's dtype, and nothing is kept for the backward pass but the key.

A *key* here is a tensor that starts with three 32-bit integers: seed, call and the index of the first sample.
"""

import contextlib
import contextvars
import functools
import inspect
import math
import platform
import random as python_random
import statistics

import keras
import numpy as np

from keras_dropouts import rematerialization

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled

    xp, cast = tf, tf.cast
elif BACKEND == "jax":
    import jax
    import jax.export
    import jax.numpy as jnp

    xp, cast = jnp, jnp.astype
elif BACKEND == "torch":
    import torch
    import torch.utils.checkpoint

    xp = torch
    try:
        from keras_dropouts import numba_kernels
    except ImportError:
        numba_kernels = None  # type: ignore[assignment]

    def cast(x, dtype):
        return x.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
else:
    raise ImportError(f"keras_dropouts runs on the backends tensorflow, jax and torch. Received: {BACKEND!r}")

# `xp` is the backend itself, for what has one name and meaning in all three: keras.ops looks for symbolic tensors among
# the arguments of each call, which on PyTorch takes longer than the operation.

# PyTorch shifts and adds only signed integers; the bits are the same.
WORD = "int32" if BACKEND == "torch" else "uint32"
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA


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
        self._initial_seed = seed
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
        self._draws = rematerialization.Rematerialization()

    def next(self, ordered=True):
        """Returns the state as it is, and counts one call. Within a repetition by checkpointing: what it was then."""
        if BACKEND == "torch" and torch.compiler.is_compiling():
            return _count_call(self.state.value)
        return self._draws.once(self._count)

    def repeats(self):
        """Whether a backward pass repeats a call in training now, whatever `training` says there."""
        return self._draws.repeats()

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

    def _as_state(self, words):
        return words.view("int32") if self.state.dtype == "int32" else words.astype(self.state.dtype)


if BACKEND == "torch":

    @functools.cache
    def _one_call_on(device):
        return torch.tensor([0, 1, 0, 0], dtype=torch.int32, device=device)

    # Asked as it runs, not as it is compiled: whether that is a repetition.
    @torch.library.custom_op("keras_dropouts::count_call", mutates_args=("state",))
    def _count_call(state: torch.Tensor) -> torch.Tensor:
        def count():
            before = state.clone()
            state.add_(_one_call_on(state.device))
            return before

        return rematerialization.once_by_number(count).clone()

    @_count_call.register_fake
    def _(state):
        return torch.empty_like(state)


def new_seed():
    """A seed from where Keras takes them: Python's numbers, which `keras.utils.set_random_seed` starts anew."""
    return python_random.randint(1, 10**9)


def _float_bits(value):
    return np.float32(value).view("uint32")


def key_of(state):
    """Returns the key for a state that `RandomState.next` gave, on this replica."""
    key, replica = _words(state), _replica()
    if replica is None:
        return key
    if BACKEND == "torch":
        return fold_in(key, replica) if replica else key
    return xp.where(replica == 0, key, fold_in(key, replica))


def fold_in(key, index):
    """Returns a key for one of many: another for each index (an integer or an integer scalar tensor) below 2**32."""
    # A place where no layer draws: of a sample that no batch has.
    words = threefry2x32((key[0], key[1]), (_word(key, index), _word(key, 2**32 - 1)))
    return xp.concat([*words, key[2:]], axis=0)


def _word(key, index):
    """The index as one word, where the key is."""
    if BACKEND == "torch":
        return torch.full_like(key[:1], int(np.uint32(index).view(WORD)))
    return xp.reshape(keras.ops.cast(np.uint32(index) if isinstance(index, int) else index, WORD), (1,))


def from_sample(key, sample):
    """Returns the key for the samples from `sample` on (an integer or an integer scalar tensor) alone."""
    return xp.concat([key[:2], key[2:3] + keras.ops.cast(sample, WORD)], axis=0)


@contextlib.contextmanager
def global_generator(word):
    """Within, PyTorch's own generator starts from `word`, an integer: Keras's layers without a seed draw from that."""
    if BACKEND != "torch" or word.is_meta:
        yield
        return
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(word.item())
        yield


def calls_of(state):
    """Returns the call counter of a state as an int32 scalar."""
    return cast(state[1], "int32")


def rate_of(state):
    """Returns the rate of a state as a float32 scalar."""
    bits = _words(state)[3]
    if BACKEND == "tensorflow":
        return tf.bitcast(bits, tf.float32)
    if BACKEND == "jax":
        return jax.lax.bitcast_convert_type(bits, jnp.float32)
    if torch.jit.is_tracing():
        # TorchScript, of which ONNX files are made, cannot take the bits of one type for those of another.
        return torch.from_numpy(bits.numpy(force=True).view("float32")).to(bits.device)
    return bits.view(torch.float32)


def _words(state):
    return cast(state, WORD)


def _replica():
    """The index of this replica where the backend runs a copy of the program's Python or graph for each, or `None`."""
    if BACKEND == "tensorflow":
        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            return context.replica_id_in_sync_group
    elif BACKEND == "torch" and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return None


def compiled(function):
    """Decorates a function of tensors, and then sizes, that should run as one loop.

    TensorFlow: `tf.function(jit_compile=True)`, also inside a model that is not compiled. JAX: `jax.jit`, with sizes
    among the arguments kept static. PyTorch: on a CPU its namesake in `numba_kernels`, if Numba is installed; else it
    runs as it stands. Either is one operation to `torch.compile`, which would compile the generator for half a minute.
    """
    if BACKEND == "tensorflow":
        one = tf.function(function, jit_compile=True, autograph=False)

        @functools.wraps(function)
        def call(*args):
            return (one if _xla_is_there() else function)(*args)

        return call
    if BACKEND == "jax":

        @functools.cache
        def jitted(static):
            return jax.jit(function, static_argnums=static)

        def is_size(arg):
            return isinstance(arg, (int, tuple)) or jax.export.is_symbolic_dim(arg)

        @functools.wraps(function)
        def call(*args):
            return jitted(tuple(i for i, arg in enumerate(args) if is_size(arg)))(*args)

        return call
    name = function.__name__.strip("_")
    loop = getattr(numba_kernels, name, None)

    def run(key, *args):
        if torch._C._are_functorch_transforms_active():
            _refuse_vmap()
        if loop and key.device.type == "cpu" and type(key) is torch.Tensor:
            return loop(key, *args)
        if not _is_right_on(key.device, function):
            return run(*_on("cpu", key, *args)).to(key.device)
        return function(key, *args)

    *tensors, samples, blocks = inspect.signature(function).parameters
    schema = f"({', '.join(f'Tensor {name}' for name in tensors)}, SymInt {samples}, SymInt {blocks}) -> Tensor"
    operation = torch.library.custom_op(f"keras_dropouts::{name}", run, mutates_args=(), schema=schema)

    @operation.register_fake
    def like(key, *args):
        return torch.empty_like(function(*_on("meta", key, *args)), device=key.device)

    @functools.wraps(function)
    def call(*args):
        return (operation if torch.compiler.is_compiling() else run)(*args)

    return call


if BACKEND == "torch":
    # Where the suite has run, and where there is nothing to run.
    TRIED = ("cpu", "cuda", "meta")

    @functools.cache
    def _is_right_on(device, kernel):
        """Whether a kernel draws on a device what it draws on a CPU, asked at its first use on a new kind of device."""
        if device.type in TRIED:
            return True
        *tensors, _, _ = inspect.signature(kernel).parameters
        known = {
            "key": torch.tensor([5, 7, 3], dtype=torch.int32),
            "threshold": torch.tensor(19661, dtype=torch.int32),
            "probability": torch.tensor(0.3),
            "table": torch.from_numpy(_normals()),
        }
        args = [known[name] for name in tensors]
        try:
            return torch.equal(kernel(*_on(device, *args), 3, 40).cpu(), kernel(*args, 3, 40))
        except (NotImplementedError, RuntimeError, TypeError):
            return False

    def _refuse_vmap():
        """Raises an error where `torch.func.vmap` asks for draws of each call, and it is no product that draws."""
        functorch = torch._C._functorch
        for level in functorch.get_interpreter_stack() or ():
            if level.key() == functorch.TransformType.Vmap:
                randomness = functorch.CVmapInterpreterPtr(level).randomness()
                if randomness != functorch.RandomnessType.Same:
                    raise RuntimeError(
                        f"vmap: a layer that does not multiply its input by what it draws must be called within "
                        f"torch.func.vmap(..., randomness='same'). Received: randomness={randomness.name.lower()!r}"
                    )

    def _on(device, *args):
        return [arg.to(device) if torch.is_tensor(arg) else arg for arg in args]


if BACKEND == "tensorflow":

    def _xla_is_there():
        """Where Keras, too, does not ask for XLA, operations run one by one."""
        return not (APPLE_GPU or is_op_determinism_enabled())

    @functools.cache
    def _batches(function, *sizes):
        """The numbers of samples for which this process compiles a function of otherwise these sizes: see below."""
        return []

    def _is_for_one_kernel(function, shape, elements=1):
        """Whether to compile a function for a shape: XLA does it for each anew, which takes longer than many calls.

        In graphs where a sample is large, for its work soon takes longer still. Where it is small and the shape known,
        for the first four numbers of samples: more are a sign that they vary.

        Args:
            function: The function.
            shape: The number of samples, which may be unknown (`None` or a tensor), and the sizes of one.
            elements: How many there are for each place of a sample.
        """
        if not tf.inside_function() or not shape or not all(isinstance(n, int) for n in shape[1:]):
            return False
        samples, *sizes = shape
        if math.prod(sizes) * elements >= LARGE_SAMPLE:
            return True
        if not isinstance(samples, int):
            return False
        seen = _batches(function, *sizes)
        if len(seen) < 4 and samples not in seen:
            seen.append(samples)
        return samples in seen

    LARGE_SAMPLE = 2**12
    # Whether a function is being traced that is compiled for a shape as a whole.
    _FUSING = contextvars.ContextVar("fusing", default=False)

    APPLE_GPU = (platform.system(), platform.machine()) == ("Darwin", "arm64") and tf.config.list_physical_devices(
        "GPU"
    )


def fused(function):
    """Decorates a function of few operations on tensors and sizes, that eager calls may run one by one.

    TensorFlow: as `compiled`, but only in graphs, and not where the shape of the first argument varies and is small.
    JAX: as `compiled`. PyTorch: runs as it stands; `torch.compile` sees through it.
    """
    if BACKEND == "torch":
        return function
    if BACKEND == "jax":
        return compiled(function)

    @compiled
    def one(*args):
        token = _FUSING.set(True)
        try:
            return function(*args)
        finally:
            _FUSING.reset(token)

    @functools.wraps(function)
    def call(x, *args):
        shape = () if x.shape.rank is None else tuple(x.shape)
        return (one if _is_for_one_kernel(function, shape) else function)(x, *args)

    return call


def hinted(function):
    """Decorates what runs at inference, as `fused` but in plain operations, which other makers' programs read.

    TensorFlow: the operations of a graph carry a hint, upon which XLA compiles them where it is to be had.
    """
    if BACKEND != "tensorflow":
        return fused(function)

    @functools.wraps(function)
    def call(*args):
        in_graph = tf.inside_function() and _xla_is_there()
        with tf.xla.experimental.jit_scope() if in_graph else contextlib.nullcontext():
            return function(*args)

    return call


def uncompiled(function):
    """Decorates a function that `torch.compile` shall call and not look into."""
    return torch.compiler.disable(function) if BACKEND == "torch" else function


def _rotate_left(x, distance, spare=None):
    """Rotates the bits of each word; PyTorch puts the result into `spare` where there is one."""
    if BACKEND == "tensorflow":
        left = tf.bitwise.left_shift(x, tf.constant(distance, x.dtype))
        return left | tf.bitwise.right_shift(x, tf.constant(32 - distance, x.dtype))
    if BACKEND == "jax":
        return (x << distance) | (x >> (32 - distance))
    right = torch.bitwise_right_shift(x, 32 - distance, out=spare)
    # The high part is added in the pass that shifts it.
    return right.bitwise_and_((1 << distance) - 1).add_(x, alpha=1 << distance)


def threefry2x32(key, counter, rounds=13):
    """Encrypts a pair of counter words with a pair of key words (Salmon et al., SC 2011, section 3.2).

    Args:
        key: Two scalars of 32-bit integers (uint32; int32 on PyTorch).
        counter: Two tensors of 32-bit integers that broadcast against each other.
        rounds: 20 is the authors' recommendation, 13 their fastest Crush-resistant choice.

    Returns:
        Two tensors of the counters' common shape, and of their dtype.
    """
    keys = (*key, key[0] ^ key[1] ^ PARITY)
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    # The first round, before which a word has but the entries of its own counter.
    x0 = x0 + x1
    x1 = _rotate_left(x1, ROTATIONS[0]) ^ x0
    spare = torch.empty_like(x1) if BACKEND == "torch" else None
    # Augmented assignments: in place on PyTorch, where each new tensor would be a pass over memory.
    for i in range(1, rounds):
        x0 += x1
        x1, spare = _rotate_left(x1, ROTATIONS[i % 8], spare), x1
        x1 ^= x0
        if i % 4 == 3:
            injection = i // 4 + 1
            x0 += keys[injection % 3]
            x1 += keys[(injection + 1) % 3] + injection
    return x0, x1


def _pairs(key, samples, blocks):
    """The two words of each block: int32 of shape (samples, blocks)."""
    if BACKEND == "torch":
        block, sample = (torch.arange(n, dtype=torch.int32, device=key.device) for n in (blocks, samples))
        return threefry2x32((key[0], key[1]), (block[None], (sample + key[2])[:, None]))
    if BACKEND == "tensorflow":
        block, sample = (tf.cast(tf.range(n), tf.uint32) for n in (blocks, samples))
        words = threefry2x32((key[0], key[1]), (block[None], (sample + key[2])[:, None]))
        return [tf.bitcast(word, tf.int32) for word in words]
    block, sample = (jax.lax.iota(jnp.uint32, n) for n in (blocks, samples))
    words = threefry2x32((key[0], key[1]), (block[None], (sample + key[2])[:, None]))
    return [jax.lax.bitcast_convert_type(word, jnp.int32) for word in words]


def _draws(key, samples, blocks):
    """The words a, b, c and d of each block, each two signed 16-bit draws: int32 of shape (samples, blocks)."""
    pair = _pairs(key, samples, blocks)
    mixtures = []
    for word, other in (pair, pair[::-1]):
        mixture = word * 256
        mixture ^= _shifted(word, 8)
        mixture ^= other
        mixtures.append(mixture)
    return [*pair, *mixtures]


def _halves(words):
    """The two signed 16-bit draws of each word, lower half first, along a new last axis; int16 on PyTorch."""
    if BACKEND == "torch":
        # Flat first: a tensor without entries may have strides that other types do not take.
        return words.view(-1).view(torch.int16).view(*words.shape, 2)
    shifts = np.array([16, 0], "int32")
    if BACKEND == "tensorflow":
        return tf.bitwise.right_shift(tf.bitwise.left_shift(words[..., None], shifts), tf.constant(16))
    return words[..., None] << shifts >> 16


@compiled
def _keep(key, threshold, samples, blocks):
    """Words whose bytes are 1 for the elements to keep, else 0: int32 of shape (samples, 2, blocks)."""
    draws, bound = _draws(key, samples, blocks), threshold - 32768
    if BACKEND == "torch":
        kept = torch.empty((samples, 2, blocks), dtype=torch.int32, device=key.device)
        bound16 = bound.clamp(max=32767).to(torch.int16)
        for word in draws:
            _halves(word).ge_(bound16)
        for i in range(2):
            torch.add(draws[2 + i], draws[i], alpha=256, out=kept[:, i])
        # No 16-bit bound is above all draws, so that a rate of 1 needs the factor 0.
        return kept.mul_(bound < 32768)
    kept = []
    for odd, even in zip(draws[:2], draws[2:], strict=True):
        order = (even * 65536, odd * 65536, even, odd)
        bytes = (cast(_shifted(word, 16) >= bound, "int32") * 256**i for i, word in enumerate(order))
        kept.append(sum(bytes))
    # Joined, not stacked: XLA computes what it joins along an axis that is there once, else for each byte.
    return xp.reshape(xp.concat(kept, axis=1), (samples, 2, blocks))


@compiled
def _rare(key, probability, samples, blocks):
    # 2**32 times the probability, less 2**31. The float itself could not tell such numbers apart.
    scaled = probability * 65536
    bound = (cast(scaled, "int32") - 32768) * 65536 + cast(scaled % 1 * 65536, "int32")
    # Two events from one word: arcs, on the circle of its values, of the same length, that overlap in its square.
    turn = cast(probability * (1 - probability) * 2.0**32, "int32")
    arcs = [arc for word in _pairs(key, samples, blocks) for arc in (word, word - turn)]
    if BACKEND == "torch":
        drawn = arcs[0].lt_(bound)
        for i in range(1, 4):
            drawn.add_(arcs[i].lt_(bound), alpha=2**i)
        drawn = drawn.to(torch.uint8)
    else:
        drawn = sum(cast(arc < bound, "uint8") * 2**i for i, arc in enumerate(arcs))
    return (drawn | cast(probability >= 1, "uint8") * 15)[:, None]


@compiled
def _uniform(key, samples, blocks):
    draws = _draws(key, samples, blocks)
    if BACKEND == "torch":
        uniform = torch.empty((samples, 4, blocks, 2), device=key.device)
        for i, word in enumerate(draws):
            uniform[:, i] = _halves(word)
    else:
        uniform = cast(_halves(_joined(draws)), "float32")
    uniform *= 2**-15
    uniform += 2**-16
    return uniform


@compiled
def _looked_up(key, table, samples, blocks):
    """The entries of a table of 65536 at the bits of the draws."""
    draws = _draws(key, samples, blocks)
    if BACKEND == "torch":
        entries = torch.empty((samples, 4, 2 * blocks), dtype=table.dtype, device=key.device)
        # Once for each sample: PyTorch shares work among rows. A word at a time, to index with less memory.
        rows = table.expand(samples, -1)
        for i, word in enumerate(draws):
            bits = _halves(word).view(torch.uint16).view(samples, 2 * blocks).long()
            entries[:, i] = rows.gather(1, bits)
        return entries.view(samples, 4, blocks, 2)
    bits = _halves(_joined(draws)) & 0xFFFF
    return tf.gather(table, bits) if BACKEND == "tensorflow" else jnp.take(table, bits, mode="clip")


def _joined(draws):
    """One tensor of shape (samples, 4, blocks): XLA computes what it joins once."""
    samples, blocks = keras.ops.shape(draws[0])
    return xp.reshape(xp.concat(draws, axis=1), (samples, 4, blocks))


@functools.cache
def _normals():
    """The normal quantiles at (draw + 32768.5) / 65536, times what makes their variance 1, by the draw's bits."""
    upper = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)])
    upper /= np.sqrt(np.mean(upper**2))
    return np.concatenate([upper, -upper[::-1]]).astype("float32")


if BACKEND == "torch":

    @functools.cache
    def _table_on(device):
        return torch.from_numpy(_normals()).to(device)

    # A function of its own: `torch.compile` looks through the cache.
    @torch.compiler.assume_constant_result
    def _normals_on(device):
        return _table_on(device)


def _shifted(x, distance):
    """Shifts signed integers to the right."""
    return tf.bitwise.right_shift(x, tf.constant(distance, x.dtype)) if BACKEND == "tensorflow" else x >> distance


def _filled(draw, shape):
    """Reshapes what `draw(samples, blocks)` gives to `shape`, whose entries may be scalar tensors on TensorFlow."""
    samples, size = (shape[0], math.prod(shape[1:])) if len(shape) else (1, 1)
    blocks = (size + 7) // 8
    drawn = xp.reshape(draw(samples, blocks), (samples, 8 * blocks))
    if not isinstance(size, int) or size % 8:
        drawn = drawn[:, :size]
    return xp.reshape(drawn, shape)


def _run(kernel, key, samples, blocks, *args):
    """Runs a kernel for so many samples and blocks; the blocks are axis 2 of what it gives."""
    if BACKEND == "tensorflow":
        if _FUSING.get() or _is_for_one_kernel(kernel, (samples, blocks), 8):
            return kernel(key, *args, *map(tf.convert_to_tensor, (samples, blocks)))
        # XLA compiles each shape anew: where shapes vary, they share few.
        sizes = [_size(samples, _few_samples(blocks))]
        sizes.append(_size(blocks, 2**14 // sizes[0]))
        drawn = kernel(key, *args, *map(tf.convert_to_tensor, sizes))
        fits = isinstance(samples, int) and isinstance(blocks, int) and sizes == [samples, blocks]
        return drawn if fits else drawn[:samples, :, :blocks]
    drawn = kernel(key, *args, samples, blocks)
    # Asks XLA to draw once what is used often. Its CPU compiler does not heed it: see `_keep` and `_where`.
    return jax.lax.optimization_barrier(drawn) if BACKEND == "jax" else drawn


def _size(n, floor):
    """About the least number of the form 2**k or 3 * 2**k that is neither below `n` nor below `floor`."""
    if isinstance(n, int) and isinstance(floor, int):
        n = max(n, floor)
        unit = max(2 ** (n.bit_length() - 2), 1) if n > 1 else 1
    else:
        n = tf.maximum(n, floor)
        unit = tf.maximum(2 ** tf.cast(tf.math.log(tf.cast(n, tf.float32)) / math.log(2), tf.int32) // 2, 1)
    return (n + unit - 1) // unit * unit


def _few_samples(blocks):
    """So many samples that they make up 2**14 blocks, which take less time than a call, at most 64; a power of 2."""
    if isinstance(blocks, int):
        return max(1, min(64, 2**14 >> max(blocks - 1, 0).bit_length()))
    octave = tf.math.ceil(tf.math.log(tf.cast(tf.maximum(blocks, 1), tf.float32)) / math.log(2))
    return tf.clip_by_value(2**14 // 2 ** tf.cast(octave, tf.int32), 1, 64)


def threshold_of(rate):
    """The rate in 65536ths, a float32 scalar without fraction: masks draw every rate as a multiple of 2**-16."""
    return xp.round(rate * 65536.0)


def keep_probability(rate):
    """The probability with which `keep_mask` keeps an element, a float32 scalar."""
    return 1.0 - threshold_of(rate) / 65536.0


def keep_scale(rate):
    """The inverse of `keep_probability`, or 65536 where that is 0 and nothing is kept."""
    return 65536.0 / xp.maximum(65536.0 - threshold_of(rate), xp.ones_like(rate))


def keep_mask(key, shape, rate):
    """Draws which elements to keep.

    Args:
        key: What `key_of` gave.
        shape: The mask's shape. Its first axis counts samples.
        rate: Float32 scalar tensor, the probability of dropping; taken to the nearest 2**-16.

    Returns:
        A boolean tensor of `shape`.
    """
    threshold = cast(threshold_of(rate), "int32")

    def draw(samples, blocks):
        words = _run(_keep, key, samples, blocks, threshold)
        if BACKEND == "torch" and torch.compiler.is_compiling():
            # Inductor reads booleans one by one, which takes longer than all else in the loop that selects.
            return words.view(torch.uint8).int() != 0
        return _booleans(words)

    return _filled(draw, shape)


def rare_bits(key, shape, probability):
    """Draws four bits for each element, of any probability: to 2**-32, where `keep_mask` has 2**-17.

    Args:
        key: What `key_of` gave.
        shape: As for `keep_mask`.
        probability: Float32 scalar tensor, that of a 1.

    Returns:
        A uint8 tensor of `shape`, the bits in its lower half.
    """
    return xp.reshape(_run(_rare, key, shape[0], math.prod(shape[1:]), probability), shape)


def unpacked(bits):
    """What `rare_bits` gave, or what was made of it, as booleans, with a new last axis of 4."""
    # Each bit to the bottom of its own byte of a word, and the word taken for four bytes.
    words = cast(bits, "int32")
    words *= 0x00204081
    words &= 0x01010101
    return _booleans(words)


def bit_count(bits):
    """The number of ones in each sample of such bits, int32."""
    pairs = bits - (_shifted(bits, 1) & 5)
    nibbles = (pairs & 3) + _shifted(pairs, 2)
    counts = cast(xp.reshape(nibbles, (keras.ops.shape(bits)[0], -1)), "int32")
    # PyTorch adds up in int64 if not told, five times as slow.
    return counts.sum(1, dtype=torch.int32) if BACKEND == "torch" else keras.ops.sum(counts, 1)


def _booleans(words):
    """The four bytes of each word, lowest first, each 0 or 1, along a new last axis."""
    if BACKEND == "tensorflow":
        return tf.cast(tf.bitcast(words, tf.uint8), tf.bool)
    if BACKEND == "jax":
        # No bitcast: what `jax.export` saves for a batch of any size could not be run.
        return words[..., None] >> np.arange(0, 32, 8, dtype="int32") & 1 != 0
    return words.view(torch.bool).view(*words.shape, 4)


def uniform(key, shape):
    """Draws float32 numbers from 65536 equally spaced values in (-1, 1): mean 0 and variance 1/3 (less 2**-33)."""
    return _filled(functools.partial(_run, _uniform, key), shape)


def normal(key, shape, mean=0.0, deviation=1.0):
    """Draws float32 normal deviates, each one of 65536 equally likely values.

    Args:
        key: What `key_of` gave.
        shape: As for `keep_mask`.
        mean: Float32 scalar.
        deviation: Float32 scalar. The values are the mean and up to 4.3 deviations on both sides.
    """
    table = _scaled_normals(keras.ops.convert_to_tensor(deviation, "float32"), mean)
    return _filled(lambda samples, blocks: _run(_looked_up, key, samples, blocks, table), shape)


@fused
def _scaled_normals(deviation, mean):
    table = _normals_on(deviation.device) if BACKEND == "torch" else keras.ops.convert_to_tensor(_normals())
    return _rounded(table * deviation) + mean


def select(keep, scale, inputs):
    """`inputs * scale` where `keep`, else exactly 0, also where the input is infinite or NaN.

    Args:
        keep: Boolean tensor that broadcasts to `inputs`.
        scale: Float scalar tensor.
        inputs: Float tensor. Types narrower than float32 are scaled in float32: a scale rounded to bfloat16 would
            shift the mean.
    """
    if BACKEND == "torch":
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        if not _may_write(inputs) or torch.compiler.is_compiling():
            return xp.where(keep, wide * scale, 0).to(inputs.dtype)
        # Its bits times 0 or 1: `torch.where` takes ten times as long, but has a gradient. In place, as a new tensor
        # of this size is new memory, which takes longer than a pass over it.
        bits = torch.int64 if wide.dtype == torch.float64 else torch.int32
        kept = keep.to(bits)
        kept = kept.mul_(wide.view(bits)) if kept.shape == wide.shape else wide.view(bits) * kept
        return kept.view(wide.dtype).mul_(scale).to(inputs.dtype)
    return _where(inputs, keep, scale)


def _may_write(inputs):
    """Whether PyTorch, where this is among the operands, may write a result over another operand."""
    # Batched is what comes back through `torch.autograd.grad(..., is_grads_batched=True)`.
    batched = torch._C._functorch.is_legacy_batchedtensor
    return not torch.is_grad_enabled() and (torch.compiler.is_compiling() or not batched(inputs))


@fused
def _where(inputs, keep, scale):
    if keep.shape != inputs.shape:
        # XLA would draw an entry again for each element that it serves, but does not repeat a square root.
        keep = xp.sqrt(cast(keep, "float32")) > 0
    wide = cast(inputs, work_dtype(inputs))
    return cast(xp.where(keep, wide * keras.ops.cast(scale, wide.dtype), 0), inputs.dtype)


def scale(multiplier, inputs):
    """`inputs * multiplier`, computed in at least float32, in the input's dtype."""
    wide = work_dtype(inputs)
    return cast(cast(inputs, wide) * keras.ops.cast(multiplier, wide), inputs.dtype)


@fused
def perturb(inputs, noise, deviation):
    """`inputs * (1 + deviation * noise)`, computed in at least float32, in the input's dtype.

    Args:
        inputs: Float tensor.
        noise: Float32 tensor that broadcasts to `inputs`, and that nothing else reads: PyTorch overwrites it.
        deviation: Float32 scalar tensor.
    """
    noise *= deviation
    noise = _rounded(noise)
    noise += 1
    return apply_noise(inputs, noise)


def _rounded(product):
    """A product to add to. XLA would make the two one operation, which rounds once: other bits than elsewhere."""
    return product if BACKEND == "torch" else xp.maximum(product, np.finfo("float32").min)


def apply_noise(inputs, noise):
    """`inputs * noise`, computed in at least float32, in the input's dtype. The arguments are those of `perturb`."""
    if BACKEND == "torch" and noise.shape == inputs.shape and _may_write(inputs):
        return cast(cast(noise, work_dtype(inputs)).mul_(inputs), inputs.dtype)
    return scale(noise, inputs)


def at_once():
    """Within, operations on known numbers give numbers, also while the function around is being compiled."""
    if BACKEND == "tensorflow":
        return tf.init_scope()
    return jax.ensure_compile_time_eval() if BACKEND == "jax" else contextlib.nullcontext()


def is_dense(x):
    """Whether `x` is a tensor of the backend that has an element at each place: no nest, neither sparse nor ragged."""
    if BACKEND == "tensorflow":
        return isinstance(x, (tf.Tensor, tf.Variable))
    if BACKEND == "jax":
        return isinstance(x, jax.Array)
    return isinstance(x, torch.Tensor) and x.layout == torch.strided and not x.is_nested


def work_dtype(inputs):
    """The type to compute in: the input's own, or float32 where that is narrower."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return dtype if dtype == "float64" else "float32"


def recomputed(multiply, inputs, key, rate):
    """Applies `multiply(inputs, key, rate)` and keeps nothing for the backward pass but `key` and `rate`.

    Args:
        multiply: A function that multiplies its first argument elementwise by numbers that only the other two decide.
            The gradient is therefore the same function of the upstream gradient.
        inputs, key, rate: Its arguments.
    """
    if BACKEND == "jax":
        return jax.checkpoint(multiply)(inputs, key, rate)
    if BACKEND == "torch":
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            key = _KeyOfEach.apply(inputs, key)
        return _product(multiply, inputs, key, rate)

    @tf.custom_gradient
    def apply(x):
        return multiply(x, key, rate), lambda upstream: recomputed(multiply, upstream, key, rate)

    return apply(inputs)


def replayed(function, *tensors):
    """Applies `function(*tensors)` and keeps nothing for the backward pass but the arguments: that runs it again.

    For any function, where `recomputed`, for products alone, saves the second forward pass. What the function reads
    must be among the tensors: TensorFlow cannot differentiate a loop of replayed closures.
    """
    if BACKEND == "jax":
        return jax.checkpoint(function)(*tensors)
    if BACKEND == "torch":
        return torch.utils.checkpoint.checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)

    @tf.custom_gradient
    def apply(*tensors):
        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch([tensor for tensor in tensors if tensor.dtype.is_floating])
                outputs = function(*tensors)
            return tape.gradient(outputs, tensors, upstream)

        return function(*tensors), gradient

    return apply(*tensors)


if BACKEND == "torch":

    def _product(multiply, inputs, key, rate):
        function = _Recomputed if torch.compiler.is_compiling() else _Differentiated
        return function.apply(inputs, key, rate, multiply)

    class _Recomputed(torch.autograd.Function):
        @staticmethod
        def forward(inputs, key, rate, multiply):
            return multiply(inputs, key, rate)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, key, rate, ctx.multiply = inputs
            ctx.save_for_backward(key, rate)
            ctx.save_for_forward(key, rate)

        @staticmethod
        def backward(ctx, upstream):
            return _product(ctx.multiply, upstream, *ctx.saved_tensors), None, None, None

    class _Differentiated(_Recomputed):
        """With what `torch.compile` does not take: a forward-mode derivative, and a rule for `torch.func.vmap`."""

        @staticmethod
        def jvp(ctx, tangent, *_):
            return _product(ctx.multiply, tangent, *ctx.saved_tensors)

        @staticmethod
        def vmap(info, in_dims, inputs, key, rate, multiply):
            # One by one: what draws is a loop over memory, and a layer may look at its whole input.
            parts = _parts(info, in_dims[:3], inputs, key, rate)
            return torch.stack([_product(multiply, *part) for part in parts]), 0

    class _KeyOfEach(torch.autograd.Function):
        """The key of a call, or within `torch.func.vmap` that of each call which it makes one, as its caller asks."""

        @staticmethod
        def forward(inputs, key):
            return key.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output)

        @staticmethod
        def backward(ctx, _):
            return None, None

        @staticmethod
        def jvp(ctx, *_):
            return None

        @staticmethod
        def vmap(info, in_dims, inputs, key):
            if info.randomness == "error":
                raise RuntimeError(
                    "vmap: a layer that draws was called within torch.func.vmap(..., randomness='error'). Choose "
                    "'different' or 'same'."
                )
            parts = _parts(info, in_dims, inputs, key)
            if info.randomness == "different":
                parts = [(part, fold_in(key, i)) for i, (part, key) in enumerate(parts)]
            # One vmap may be within another, for which the parts are batches still.
            return torch.stack([_KeyOfEach.apply(*part) for part in parts]), 0

    def _parts(info, dims, *tensors):
        pairs = list(zip(tensors, dims, strict=True))
        return [
            tuple(tensor if dim is None else tensor.select(dim, i) for tensor, dim in pairs)
            for i in range(info.batch_size)
        ]
