"""Layers that keep nothing for the backward pass but a key: it draws once more what the forward pass drew."""

from collections.abc import Callable

from keras_dropouts.random.arguments import Tensor
from keras_dropouts.random.backend import BACKEND
from keras_dropouts.random.keys import fold_in

if BACKEND == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.eager.forwardprop_util import pack_tangents
elif BACKEND == "jax":
    import jax
else:
    import torch
    import torch.utils.checkpoint


def rematerialized_product(multiply, inputs, key, rate, function=None):
    """Applies `multiply(inputs, key, rate)` and keeps nothing for the backward pass but `key` and `rate`.

    Args:
        multiply: A function that multiplies its first argument elementwise by numbers that only the other two decide.
            The gradient is therefore the same function of the upstream gradient.
        inputs, key, rate: Its arguments.
        function: What to apply instead, where that adds to the product what only `key` and `rate` decide, or where the
            method has a gradient that is not that of what it computes. The gradient is that of `multiply`.
    """
    if BACKEND == "jax":
        remade = jax.checkpoint(multiply)
        return _with_gradient_of(remade, function)(inputs, key, rate) if function else remade(inputs, key, rate)
    function = function or multiply
    if BACKEND == "torch":
        if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
            key = _KeyOfEach.apply(inputs, key)
        return _product(inputs, key, rate, multiply, function)

    @tf.custom_gradient
    def apply(x):
        # The gradient stops, as TensorFlow would prepare one for each function that is called on the way.
        (still,) = _stopped(x)
        outputs = function(still, key, rate)
        if still is x and function is not multiply:
            # A forward accumulator goes through the operations.
            product = multiply(x, key, rate)
            outputs = tf.stop_gradient(outputs) + (product - tf.stop_gradient(product))
        return outputs, lambda upstream: rematerialized_product(multiply, upstream, key, rate)

    return apply(inputs)


def rematerialized(function: Callable, *tensors: Tensor) -> Tensor:
    """Returns `function(*tensors)`, and keeps nothing for the backward pass but the arguments: that runs it again.

    For the `training_call` of a `RandomLayer`, whose masks would else be kept. A product alone has less to do in the
    hook `multiply`: there the function does not run again, but on the gradient.

    Args:
        function: A function of tensors, which draws from a key among them if it draws. All that it reads must be among
            its arguments: TensorFlow cannot differentiate a loop of rematerialized closures.
        *tensors: Its arguments.

    Returns:
        What the function returns.

    Example:

    >>> import keras
    >>> from keras_dropouts import random
    >>> def largest_kept(x, key):
    ...     keep = random.keep_mask(key, keras.ops.shape(x), 0.5)
    ...     return keras.ops.max(random.multiply_where(keep, 1.0, x), axis=-1)
    >>> y = random.rematerialized(largest_kept, keras.ops.ones((2, 100)), random.key(seed=1))
    >>> keras.ops.convert_to_numpy(y).tolist()
    [1.0, 1.0]
    """
    if BACKEND == "jax":
        return jax.checkpoint(function)(*tensors)
    if BACKEND == "torch":
        return torch.utils.checkpoint.checkpoint(function, *tensors, use_reentrant=False, preserve_rng_state=False)

    @tf.custom_gradient
    def apply(*tensors):
        def gradient(upstream):
            # Or else TensorFlow would run the function again at once, and keep what that makes.
            with tf.control_dependencies([upstream]):
                again = [tf.identity(tensor) for tensor in tensors]
            with tf.GradientTape() as tape:
                tape.watch([tensor for tensor in again if tensor.dtype.is_floating])
                outputs = function(*again)
            return tape.gradient(outputs, again, upstream)

        return function(*_stopped(*tensors)), gradient

    # A variable among them would be one that the function reads beside.
    return apply(*map(tf.convert_to_tensor, tensors))


def _stopped(*tensors):
    # A forward accumulator goes through the operations themselves.
    return tensors if pack_tangents(tensors).tangents else [tf.stop_gradient(x) for x in tensors]


if BACKEND == "jax":

    def _with_gradient_of(multiply, function):
        @jax.custom_jvp
        def apply(inputs, key, rate):
            return function(inputs, key, rate)

        @apply.defjvp
        def jvp(primals, tangents):
            _, key, rate = primals
            return apply(*primals), multiply(tangents[0], key, rate)

        return apply


if BACKEND == "torch":

    def _product(inputs, key, rate, multiply, function):
        if not torch.compiler.is_compiling():
            if torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0:
                return _Transformed.apply(inputs, key, rate, multiply, function)
            if not torch.is_grad_enabled():
                return function(inputs, key, rate)
        return _Recomputed.apply(inputs, key, rate, multiply, function)

    class _Recomputed(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, key, rate, multiply, function):
            ctx.multiply = multiply
            ctx.save_for_backward(key, rate)
            return function(inputs, key, rate)

        @staticmethod
        def backward(ctx, upstream):
            return _product(upstream, *ctx.saved_tensors, ctx.multiply, ctx.multiply), None, None, None, None

    class _Transformed(torch.autograd.Function):
        """With a forward-mode derivative and a rule for `torch.func.vmap`, and the slower form that those ask for."""

        @staticmethod
        def forward(inputs, key, rate, multiply, function):
            return function(inputs, key, rate)

        @staticmethod
        def setup_context(ctx, inputs, output):
            _, key, rate, ctx.multiply, _ = inputs
            ctx.save_for_backward(key, rate)
            ctx.save_for_forward(key, rate)

        backward = staticmethod(_Recomputed.backward)

        @staticmethod
        def jvp(ctx, tangent, *_):
            return _product(tangent, *ctx.saved_tensors, ctx.multiply, ctx.multiply)

        @staticmethod
        def vmap(info, in_dims, inputs, key, rate, multiply, function):
            # One by one: what draws is a loop over memory, and a layer may look at its whole input.
            parts = _parts(info, in_dims[:3], inputs, key, rate)
            return torch.stack([_product(*part, multiply, function) for part in parts]), 0

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
