"""Which backend runs, and what has another name in each."""

import contextlib

import keras
import numpy as np

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    xp, cast = tf, tf.cast
elif BACKEND == "jax":
    import jax
    import jax.export
    import jax.numpy as jnp

    xp, cast = jnp, jnp.astype
elif BACKEND == "torch":
    import torch

    xp = torch

    def cast(x, dtype):
        dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        # To find out that there is nothing to do takes PyTorch as long as to do it.
        return x if x.dtype is dtype else x.to(dtype)
else:
    raise ImportError(f"keras_dropouts runs on the backends tensorflow, jax and torch. Received: {BACKEND!r}")

# `xp` is the backend itself, for what has one name and meaning in all three: keras.ops looks for symbolic tensors among
# the arguments of each call, which on PyTorch takes longer than the operation.

# PyTorch shifts and adds only signed integers; the bits are the same.
WORD = "int32" if BACKEND == "torch" else "uint32"


if BACKEND == "tensorflow":

    def shift_left(x, distance):
        return tf.bitwise.left_shift(x, tf.constant(distance, x.dtype))

    def shift_right(x, distance):
        """Shifts to the right; signed integers keep their sign."""
        return tf.bitwise.right_shift(x, tf.constant(distance, x.dtype))

    def bits_as(x, dtype):
        """Takes the bits of each number for those of another type of the same size."""
        return tf.bitcast(x, dtype)

    def indices(n, key):
        """The words 0 to `n - 1`, where the key is."""
        return tf.cast(tf.range(n), WORD)

    def at_once():
        """Within, operations on known numbers give numbers, also while the function around is being compiled."""
        return tf.init_scope()

    def is_dense(x):
        """Whether `x` is a tensor that has an element at each place: no nest, neither sparse nor ragged."""
        return isinstance(x, (tf.Tensor, tf.Variable))

    def is_unknown_size(n):
        """Whether `n` stands for the size of an axis that is known only as the program runs."""
        return isinstance(n, tf.Tensor)

elif BACKEND == "jax":

    def shift_left(x, distance):
        return x << distance

    def shift_right(x, distance):
        return x >> distance

    def bits_as(x, dtype):
        return jax.lax.bitcast_convert_type(x, dtype)

    def indices(n, key):
        return jax.lax.iota(WORD, n)

    def at_once():
        return jax.ensure_compile_time_eval()

    def is_dense(x):
        return isinstance(x, jax.Array)

    def is_unknown_size(n):
        return jax.export.is_symbolic_dim(n)

else:

    def shift_left(x, distance):
        return x << distance

    def shift_right(x, distance):
        return x >> distance

    def bits_as(x, dtype):
        if x.dtype == getattr(torch, dtype):
            return x
        if torch.jit.is_tracing():
            # TorchScript, of which ONNX files are made, cannot take the bits of one type for those of another.
            return torch.from_numpy(x.numpy(force=True).view(dtype)).to(x.device)
        return x.view(getattr(torch, dtype))

    def indices(n, key):
        return torch.arange(n, dtype=torch.int32, device=key.device)

    def materialized(x):
        """The tensor, or a copy where its memory does not hold what it is: of zeros without any, of negative views."""
        return x.clone() if x.is_neg() or torch._is_zerotensor(x) else x

    def is_mapped(x):
        """Whether a tensor stands for many, within `torch.func`."""
        return torch._C._functorch.is_functorch_wrapped_tensor(x)

    def at_once():
        return contextlib.nullcontext()

    def is_dense(x):
        return isinstance(x, torch.Tensor) and x.layout == torch.strided and not x.is_nested

    def is_unknown_size(n):
        return isinstance(n, torch.SymInt)


def rounded(product):
    """A product to add to. XLA would make the two one operation, which rounds once: other bits than elsewhere."""
    return product if BACKEND == "torch" else xp.maximum(product, np.finfo("float32").min)


@contextlib.contextmanager
def global_generator(words):
    """Within, PyTorch's own generators start from two words: Keras's layers without a seed draw from those.

    That is the CPU's generator, which heeds the first word alone, and that of the device where the words are.
    """
    if BACKEND != "torch" or words.is_meta:
        yield
        return
    low, high = (word % 2**32 for word in words.tolist())
    seed = high << 32 | low
    devices = [words.device] if words.device.type != "cpu" else []
    with torch.random.fork_rng(devices, device_type=words.device.type):
        # Not torch.manual_seed(), which starts the generators of all devices anew.
        torch.default_generator.manual_seed(seed)
        for device in devices:
            state = torch.Generator(device).manual_seed(seed).get_state()
            torch.get_device_module(device).set_rng_state(state, device)
        yield
