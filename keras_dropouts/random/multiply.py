"""Products with what was drawn, computed in at least float32 and rounded once to the type of the input."""

import functools
import inspect

import keras

from keras_dropouts.random.arguments import LARGEST, Tensor, checked_key, checked_scalar
from keras_dropouts.random.backend import BACKEND, cast, rounded, xp
from keras_dropouts.random.bits import keep_mask, keep_scale, normal, uniform
from keras_dropouts.random.compilation import fused, numba_kernels, triton_kernels

if BACKEND == "torch":
    import torch

    from keras_dropouts.random.backend import materialized
    from keras_dropouts.random.compilation import operation


def multiply_where(keep: Tensor, scale: float | Tensor, inputs: Tensor) -> Tensor:
    """Returns `inputs * scale` where `keep`, else exactly 0, also where the input is infinite or NaN.

    Args:
        keep: Boolean tensor that broadcasts to `inputs`.
        scale: A number, or a float tensor without axes. An infinite one may count as the largest finite float32.
        inputs: Float tensor. Types narrower than float32 are scaled in float32: a scale rounded to bfloat16 would
            shift the mean.

    Returns:
        A tensor of the shape and the type of `inputs`.

    Raises:
        ValueError: Where `keep` is not boolean, or `scale` has axes.

    Example:

    >>> import keras
    >>> from keras_dropouts import random
    >>> keep, x = keras.ops.convert_to_tensor([True, False]), keras.ops.convert_to_tensor([3.0, float("inf")])
    >>> keras.ops.convert_to_numpy(random.multiply_where(keep, 2.0, x)).tolist()
    [6.0, 0.0]
    """
    if keep.dtype != xp.bool:
        raise ValueError(f"`keep` must be a boolean tensor. Received: keep of dtype {keep.dtype}")
    if getattr(scale, "ndim", 0):
        raise ValueError(f"`scale` must be a number, or a tensor without axes. Received: scale={scale!r}")
    if BACKEND == "torch":
        if torch.compiler.is_compiling() or _is_transformed(inputs):
            return _chosen(inputs, keep, scale)
        if not torch.is_grad_enabled():
            return _selected(inputs, keep, scale)
        large = inputs.device.type == "cpu" and inputs.numel() >= LARGE
        learned = getattr(scale, "requires_grad", False)
        return (_Selection.apply if large and not learned else _chosen)(inputs, keep, scale)
    # A number would be one of a graph on TensorFlow, which would be another for each; so would a variable, which may be
    # gone when the graph runs again.
    inputs = xp.convert_to_tensor(inputs) if BACKEND == "tensorflow" else inputs
    scale = keras.ops.convert_to_tensor(scale, work_dtype(inputs))
    return _where(inputs, keras.ops.convert_to_tensor(keep), scale)


if BACKEND == "torch":

    def _chosen(inputs, keep, scale):
        wide = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
        return torch.where(keep, wide * scale, 0).to(inputs.dtype)

    def _kept(wide, keep):
        # Its bits times 0 or 1: `torch.where` takes ten times as long, but has a gradient. In place, as a new tensor of
        # this size is new memory, which takes longer than a pass over it.
        bits = torch.int64 if wide.dtype == torch.float64 else torch.int32
        kept = keep.to(bits)
        kept = kept.mul_(wide.view(bits)) if kept.shape == wide.shape else wide.view(bits) * kept
        return kept.view(wide.dtype)

    def _selected(inputs, keep, scale):
        wide = materialized(inputs).to(torch.promote_types(inputs.dtype, torch.float32))
        kept = _kept(wide, keep)
        if not (isinstance(scale, float) and scale == 1):
            # Of an infinite one, what is dropped would be NaN; whether a tensor is infinite the host must not ask.
            kept = kept.mul_(scale.clamp(max=LARGEST) if hasattr(scale, "clamp") else min(scale, LARGEST))
        return kept.to(inputs.dtype)

    class _Selection(torch.autograd.Function):
        """`_selected`, with a gradient."""

        @staticmethod
        def forward(ctx, inputs, keep, scale):
            ctx.save_for_backward(keep)
            ctx.scale = scale
            return _selected(inputs, keep, scale)

        @staticmethod
        def backward(ctx, upstream):
            return multiply_where(*ctx.saved_tensors, ctx.scale, upstream), None, None


# The elements from which on a function of PyTorch in Python takes less time than `torch.where`.
LARGE = 2**13


def affine_where(keep, scale, inputs, dropped, shift):
    """`inputs * scale + shift` where `keep`, else `dropped + shift`, computed in at least float32.

    Args:
        keep: Boolean tensor that broadcasts to `inputs`.
        scale, dropped, shift: Float32 scalar tensors, finite.
        inputs: Float tensor.
    """
    wide = work_dtype(inputs)
    scale, dropped, shift = (cast(x, wide) for x in (scale, dropped, shift))
    if BACKEND != "torch":
        return _affine_where(inputs, keep, scale, dropped, shift)
    product = cast(inputs, wide) * scale
    if not _may_write(inputs) or torch.compiler.is_compiling():
        return cast(xp.where(keep, product, dropped) + shift, inputs.dtype)
    # As in `multiply_where`: `torch.where` takes four times as long.
    bits = torch.int64 if wide == "float64" else torch.int32
    product.view(bits).sub_(dropped.view(bits)).mul_(keep.to(bits)).add_(dropped.view(bits))
    return cast(product.add_(shift), inputs.dtype)


@fused
def _affine_where(inputs, keep, scale, dropped, shift):
    # XLA would make a product and a sum one operation, and does not where the one is chosen from other things.
    chosen = xp.where(_drawn_once(keep, inputs), cast(inputs, scale.dtype) * scale, rounded(dropped))
    return cast(chosen + rounded(shift), inputs.dtype)


def _may_write(inputs):
    """Whether PyTorch, where this is among the operands, may write a result over another operand."""
    if torch.is_grad_enabled():
        return False
    return torch.compiler.is_compiling() or not _is_transformed(inputs)


def _is_transformed(inputs):
    """Whether PyTorch does with an operation more than run it, or keep it for a backward pass."""
    # Batched is what comes back through `torch.autograd.grad(..., is_grads_batched=True)`.
    batched = torch._C._are_functorch_transforms_active() or torch._C._functorch.is_legacy_batchedtensor(inputs)
    return batched or torch.autograd.forward_ad._current_level >= 0


@fused
def _where(inputs, keep, scale):
    return select(_drawn_once(keep, inputs), scale, inputs)


def _drawn_once(keep, inputs):
    # XLA would draw an entry again for each element that it serves, but does not repeat a square root.
    return keep if keep.shape == inputs.shape else xp.sqrt(cast(keep, "float32")) > 0


def select(keep, scale, inputs):
    """`multiply_where` for inputs that broadcast to `keep`, in operations of their own on TensorFlow.

    For loops, where to call what XLA compiled takes longer than what it does.
    """
    if BACKEND == "torch":
        return multiply_where(keep, scale, inputs if inputs.shape == keep.shape else inputs.expand(keep.shape))
    wide = cast(inputs, work_dtype(inputs))
    return cast(xp.where(keep, wide * keras.ops.cast(scale, wide.dtype), 0), inputs.dtype)


def multiply(inputs, noise):
    """`inputs * noise`, computed in at least float32, in the input's dtype.

    Args:
        inputs: Float tensor.
        noise: Float tensor that broadcasts to `inputs`, and that nothing else reads: PyTorch may overwrite it.
    """
    wide = work_dtype(inputs)
    noise = keras.ops.cast(noise, wide)
    if BACKEND == "torch" and noise.shape == inputs.shape and _may_write(inputs):
        return cast(noise.mul_(inputs), inputs.dtype)
    return cast(cast(inputs, wide) * noise, inputs.dtype)


def _drawing(cpu, cuda):
    """Decorates a product with what is drawn for each element, given the input, the key and the numbers to draw by.

    PyTorch: on a device of a type for which there is a loop, that draws and multiplies in one pass over memory.
    """

    def decorated(function):
        if BACKEND != "torch":
            return function
        loops = {"cpu": cpu, "cuda": cuda}
        names = list(inspect.signature(function).parameters)
        one = operation(loops, function, lambda x, *_: torch.empty(x.shape, dtype=x.dtype, device="meta"))

        @functools.wraps(function)
        def call(inputs, key, number, *args):
            # One thread of a CPU is soon slower than drawing first and all threads of PyTorch then.
            large = inputs.device.type == "cpu" and inputs.numel() >= 2**19
            if loops.get(inputs.device.type) and not large and _may_write(inputs):
                # The loops read memory as it lies.
                key, number = checked_key(key), checked_scalar(names[2], number)
                if key.device == number.device == inputs.device:
                    return one(inputs, key, number, *args)
            return function(inputs, key, number, *args)

        call.loops = loops
        return call

    return decorated


@fused
@_drawing(cpu=numba_kernels and numba_kernels.drop, cuda=triton_kernels and triton_kernels.drop)
def drop(inputs, key, rate, rescale):
    """`multiply_where` with a `keep_mask` of the input's shape.

    Args:
        inputs: Float tensor.
        key, rate: As for `keep_mask`.
        rescale: Whether to multiply by the `keep_scale`, or by 1.
    """
    keep = keep_mask(key, keras.ops.shape(inputs), rate)
    return multiply_where(keep, keep_scale(rate) if rescale else 1.0, inputs)


def drop_together(inputs, key, rate, rescale, noise_shape):
    """`drop` with one draw for all the elements that share an entry of a tensor of `noise_shape`."""
    on_cpu = BACKEND == "torch" and inputs.device.type == "cpu" and drop.loops["cpu"]
    if on_cpu and _may_write(inputs) and not torch.compiler.is_compiling():
        # The loop finds out threshold and scale, too: a dozen operations on scalars, where there is little to draw.
        noise = drop(torch.ones(noise_shape, dtype=torch.float32, device=inputs.device), key, rate, rescale)
        wide = materialized(inputs).to(torch.promote_types(inputs.dtype, torch.float32))
        return _kept(wide, noise != 0).mul_(noise).to(inputs.dtype)
    keep = keep_mask(key, noise_shape, rate)
    return multiply_where(keep, keep_scale(rate) if rescale else 1.0, inputs)


@_drawing(cpu=numba_kernels and numba_kernels.times_normal, cuda=triton_kernels and triton_kernels.times_normal)
def times_normal(inputs, key, stddev):
    """`inputs` times normal deviates of mean 1, one for each element."""
    # Not `fused`: TensorFlow by itself writes the product over the noise, for which XLA takes new memory.
    return multiply(inputs, normal(key, keras.ops.shape(inputs), 1.0, stddev))


@_drawing(cpu=numba_kernels and numba_kernels.times_uniform, cuda=triton_kernels and triton_kernels.times_uniform)
def times_uniform(inputs, key, width):
    """`inputs` times uniform numbers between `1 - width` and `1 + width`, one for each element."""
    return multiply(inputs, uniform(key, keras.ops.shape(inputs), 1 - width, 1 + width))


def work_dtype(inputs):
    """The type to compute in: the input's own, or float32 where that is narrower."""
    dtype = keras.backend.standardize_dtype(inputs.dtype)
    return dtype if dtype == "float64" else "float32"
