"""How functions of tensors are compiled, each backend in its way, and when."""

import contextlib
import functools
import inspect
import math
import platform
import warnings
from typing import Any

import keras

from keras_dropouts.random.arguments import checked_key
from keras_dropouts.random.backend import BACKEND

numba_kernels: Any = None
triton_kernels: Any = None
if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.framework.config import is_op_determinism_enabled
    from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext
elif BACKEND == "jax":
    import jax
    import jax.export
else:
    import torch

    with contextlib.suppress(ImportError):
        from keras_dropouts.random import numba_kernels as numba_kernels
    with contextlib.suppress(ImportError):
        from keras_dropouts.random import triton_kernels as triton_kernels


def compiled(function):
    """Decorates a function of tensors, and then sizes, that should run as one loop.

    TensorFlow: `tf.function(jit_compile=True)`, also inside a model that is not compiled. JAX: `jax.jit`, with sizes
    among the arguments kept static. PyTorch: runs as it stands; `torch.compile` sees through it.
    """
    if BACKEND == "torch":
        return function
    if BACKEND == "tensorflow":

        @functools.wraps(function)
        def call(*args):
            return opened(function, *args, jit_compile=True)

        return call

    @functools.cache
    def jitted(static):
        return jax.jit(function, static_argnums=static)

    def is_size(arg):
        return isinstance(arg, (int, tuple)) or jax.export.is_symbolic_dim(arg)

    @functools.wraps(function)
    def call(*args):
        return jitted(tuple(i for i, arg in enumerate(args) if is_size(arg)))(*args)

    return call


def kernel(cpu=None, cuda=None):
    """Decorates a function that draws: of a key, further tensors, the number of samples and the number of blocks.

    TensorFlow and JAX: `compiled`. PyTorch: on a device of a type for which there is a loop, that takes its place.
    Either is one operation to `torch.compile`, which would compile the generator for half a minute.

    Args:
        cpu, cuda: Functions that take and give the same on such devices, or `None`. AMD's GPUs are named cuda, too.
    """
    return functools.partial(operation, {"cpu": cpu, "cuda": cuda}) if BACKEND == "torch" else compiled


if BACKEND == "torch":

    def operation(loops, function, like=None):
        """Makes a function of tensors and numbers one operation of PyTorch, whose place a loop may take.

        Args:
            loops: The loops, or `None`, by the types of the devices that they are for.
            function: The function.
            like: Given its arguments, returns a tensor like its result. `None`: the function itself does, on no device.
        """
        name, parameters = function.__name__.strip("_"), inspect.signature(function).parameters

        @functools.wraps(function)
        def run(*args):
            if torch._C._are_functorch_transforms_active():
                _refuse_vmap()
            device = args[0].device
            loop = loops.get(device.type)
            plain = type(args[0]) is torch.Tensor
            if loop and plain and (device.type in TRIED_LOOPS or _is_right_on(device, function, loop)):
                return loop(*args)
            if not _is_right_on(device, function):
                return run(*_on("cpu", *args)).to(device)
            return function(*args)

        schema = ", ".join(f"{TYPES.get(name, 'Tensor')} {name}" for name in parameters)
        one = torch.library.custom_op(f"keras_dropouts::{name}", run, mutates_args=(), schema=f"({schema}) -> Tensor")

        @one.register_fake
        def fake(*args):
            return torch.empty_like((like or function)(*_on("meta", *args)), device=args[0].device)

        @functools.wraps(function)
        def call(*args):
            return (one if torch.compiler.is_compiling() else run)(*args)

        call.loops = loops
        return call

    TYPES = {"samples": "SymInt", "blocks": "SymInt", "rescale": "bool"}
    # Where the suite has run, and where there is nothing to run.
    TRIED = ("cpu", "cuda", "meta")
    # Where it has compared the loops with what they stand in for.
    TRIED_LOOPS = ("cpu",)

    @functools.cache
    def _is_right_on(device, function, loop=None):
        """Whether a function, or its loop, draws on a device what the function draws on a CPU.

        Asked at its first use on a new kind of device, and for loops on each GPU, whose compilers differ.
        """
        if not loop and device.type in TRIED:
            return True
        known = {
            "key": torch.tensor([5, 7, 3], dtype=torch.int32),
            "threshold": torch.tensor(19661, dtype=torch.int32),
            "probability": torch.tensor(0.3),
            "table": torch.arange(65536.0),
            "middle": torch.tensor(0.1),
            "step": torch.tensor(2**-16),
            "samples": 3,
            "blocks": 320,
            "inputs": torch.linspace(-2, 3, 7680).view(3, 2560),
            "rate": torch.tensor(0.3),
            "rescale": True,
            "stddev": torch.tensor(0.7),
            "width": torch.tensor(0.3),
        }
        args = [known[name] for name in inspect.signature(function).parameters]
        try:
            if torch.equal((loop or function)(*_on(device, *args)).cpu(), function(*args)):
                return True
            failure = "it does not draw what they draw"
        # Compilers and drivers raise many kinds.
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"
        if loop:
            warnings.warn(
                f"PyTorch's operations are used on {device} instead of the loop `{loop.__name__}`, which is faster: "
                f"{failure}",
                stacklevel=2,
            )
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

    def _stands_alone():
        """Whether to compile a function by itself: not where all around it becomes one program."""
        return _xla_is_there() and not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())

    @functools.cache
    def _batches(function, *sizes):
        """The numbers of samples for which this process has a program of otherwise these sizes: see below."""
        return []

    def _samples_for(function, shape, elements=1):
        """For how many samples, at least those of a shape, to compile a function: XLA does it for each number anew.

        That takes longer than many calls. In graphs a program is soon worth it where a sample is large, also for a few
        samples more. Where it is small, for the first four numbers of samples: more are a sign that they vary.

        Args:
            function: The function.
            shape: The number of samples, which may be unknown (a tensor), and the sizes of one.
            elements: How many there are for each place of a sample.

        Returns:
            A number, which may be a tensor, or `None`: for none.
        """
        if not tf.inside_function() or not shape or not all(isinstance(n, int) for n in shape[1:]):
            return None
        samples, *sizes = shape
        large = math.prod(sizes) * elements >= LARGE_SAMPLE
        if isinstance(samples, int):
            seen = _batches(function, *sizes)
            if len(seen) < 4 and samples not in seen:
                seen.append(samples)
            if samples in seen or (_of_few(samples) == samples and large):
                return samples
        return _of_few(samples) if large else None

    LARGE_SAMPLE = 2**10

    def _of_few(n):
        """About the least number of the form 2**k or 3 * 2**k that is not below `n`."""
        if isinstance(n, int):
            unit = max(2 ** (n.bit_length() - 2), 1) if n > 1 else 1
        else:
            octave = tf.math.log(tf.cast(tf.maximum(n, 1), tf.float32)) / math.log(2)
            unit = tf.maximum(2 ** tf.cast(octave, tf.int32) // 2, 1)
        return (n + unit - 1) // unit * unit

    def _in_common(kernel, key, *args):
        """Runs a kernel by a program that all numbers of blocks up to the same power of two have in common."""
        *args, samples, blocks = args
        total = samples * blocks
        octave = tf.math.ceil(tf.math.log(tf.cast(tf.maximum(total, FEW), tf.float64)) / math.log(2) - 1e-9)
        drawn = _in_a_row(kernel.__wrapped__, key, *args, tf.cast(2**octave, tf.int32), blocks)
        drawn = tf.reshape(drawn[0, :, :total], (drawn.shape[1], samples, blocks, *drawn.shape[3:]))
        return tf.transpose(drawn, (1, 0, *range(2, len(drawn.shape))))

    @compiled
    def _in_a_row(function, key, *args):
        *args, n, blocks = args
        return function(key, *args, 1, (n, blocks))

    # So many blocks take less time than a call.
    FEW = 2**11

    APPLE_GPU = (platform.system(), platform.machine()) == ("Darwin", "arm64") and tf.config.list_physical_devices(
        "GPU"
    )

    @functools.cache
    def _graph_of(function, jit_compile, signature):
        def is_tensor(arg):
            return isinstance(arg, tf.TensorSpec)

        def call(*tensors):
            rest = iter(tensors)
            return function(*tf.nest.map_structure(lambda arg: next(rest) if is_tensor(arg) else arg, signature))

        specs = list(filter(is_tensor, tf.nest.flatten(signature)))
        return tf.function(call, specs, autograph=False, jit_compile=jit_compile)


def opened(function, *args, jit_compile=None):
    """Returns `function(*args)`; on TensorFlow from a graph that is traced once for all shapes of tensors in `args`."""
    if BACKEND != "tensorflow":
        return function(*args)

    def spec(arg):
        if not tf.is_tensor(arg):
            return arg
        return tf.TensorSpec([None] * arg.shape.rank, arg.dtype)

    graph = _graph_of(function, jit_compile, tf.nest.map_structure(spec, args))
    return graph(*filter(tf.is_tensor, tf.nest.flatten(args)))


def fused(function):
    """Decorates a function of few operations on tensors and sizes.

    It must take samples one by one: the first axis of the first tensor counts them, and those of its results and of the
    tensors that have its rank and no 1 there. A single result of that rank has the shape of the first tensor.

    TensorFlow: as `compiled` in graphs, where the shape of the first tensor is known or a sample large; else `opened`.
    JAX: as `compiled`. PyTorch: runs as it stands; `torch.compile` sees through it.
    """
    if BACKEND == "torch":
        return function
    if BACKEND == "jax":
        return compiled(function)

    one = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(x, *args):
        if x.shape.rank is None or not _stands_alone():
            return function(x, *args)
        shape = keras.ops.shape(x)
        samples = _samples_for(function, shape)
        if samples is None:
            results = opened(function, x, *args)
            if tf.is_tensor(results) and results.shape.rank == x.shape.rank:
                results.set_shape(x.shape)
            return results
        if samples is shape[0]:
            return one(x, *args)

        def longer(arg):
            if not tf.is_tensor(arg) or arg.shape.rank != x.shape.rank or arg.shape[0] == 1:
                return arg
            # Where it is found out late that there is a 1.
            more = tf.where(tf.shape(arg)[0] == shape[0], samples - shape[0], 0)
            return tf.pad(arg, [(0, more), *[(0, 0)] * (len(shape) - 1)])

        return tf.nest.map_structure(lambda y: y[: shape[0]], one(*map(longer, (x, *args))))

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


def run(kernel, key, samples, blocks, *args):
    """Runs a kernel for so many samples and blocks; the blocks are axis 2 of what it gives."""
    checked_key(key)
    if BACKEND == "tensorflow":
        if not _stands_alone():
            return kernel.__wrapped__(key, *args, samples, blocks)
        drawn_for = _samples_for(kernel, (samples, blocks), 8)
        if drawn_for is None:
            return opened(_in_common, kernel, key, *args, *map(tf.convert_to_tensor, (samples, blocks)))
        drawn = kernel(key, *args, *map(tf.convert_to_tensor, (drawn_for, blocks)))
        return drawn if drawn_for is samples else drawn[:samples]
    drawn = kernel(key, *args, samples, blocks)
    # Asks XLA to draw once what is used often. Its CPU compiler does not heed it: see `_keep` in `bits.py`, `_where` in
    # `multiply.py`.
    return jax.lax.optimization_barrier(drawn) if BACKEND == "jax" else drawn
