"""Activation checkpointing: what a forward pass drew, its repetition in the backward pass draws again.

Whoever trades time for memory by `keras.remat`, `keras.RematScope`, `torch.utils.checkpoint`, `tf.recompute_grad` or
`jax.checkpoint` has a part of the forward pass run a second time. Its masks must be those of the first time, or the
gradient is that of another function; nothing of it may count as a call.

No framework says publicly which part of a program is such a repetition. What is read of them here is private, and
`tests/test_rematerialization.py` fails where they change it.
"""

import sys

import keras

BACKEND = keras.backend.backend()

if BACKEND == "tensorflow":
    import tensorflow as tf

    def _code_within(code, *names):
        for name in names:
            parts = {getattr(part, "co_name", None): part for part in getattr(code, "co_consts", ())}
            code = parts.get(name)
        return code

    FIRST = _code_within(tf.recompute_grad.__code__, "inner")
    AGAIN = _code_within(FIRST, "grad_wrapper", "inner_recompute_grad")
elif BACKEND == "jax":
    try:
        from jax.extend.core import set_current_trace, take_current_trace
    except ImportError:  # Before JAX 0.8.
        from jax.core import set_current_trace, take_current_trace
elif BACKEND == "torch":
    import torch

# Regions, of one layer, that wait for their backward pass.
WAITING = 4096
NOTE = "keras_dropouts"


class Rematerialization:
    """The draws of one layer that may be repeated.

    On TensorFlow a region is known by the tuple of its arguments, which the two functions of `tf.recompute_grad` that
    run it share; how often each run of them has drawn so far is noted in its frame. On PyTorch a draw is known by a
    number from the default generator, whose state a checkpoint restores before it runs its function again. On JAX,
    which traces a region once, nothing needs to be kept: it must only be counted outside of the region.
    """

    def __init__(self):
        self._kept = {}

    def once(self, draw):
        """Returns `draw()`, or within a repetition what that gave in the forward pass.

        Args:
            draw: A function that returns a tensor and counts a call.
        """
        if BACKEND == "tensorflow":
            return self._once_in_regions(draw)
        if BACKEND == "torch":
            if torch.compiler.is_compiling():
                return draw()
            # A state that is counted is none of what torch.func transforms.
            with torch._C._DisableFuncTorch():
                return self._once_by_number(draw)
        return outside(draw)

    def repeats(self):
        """Returns whether this is the repetition of a call that drew.

        Keras tells the layers in a model whether it trains only as long as the forward pass runs.
        """
        if BACKEND == "tensorflow":
            frame = next((frame for frame in _frames() if frame.f_code is AGAIN), None)
            return frame is not None and self._drawn_in(frame) < len(self._kept.get(_region(frame), ()))
        if BACKEND == "torch" and not torch.compiler.is_compiling() and _in_backward_pass():
            before = torch.get_rng_state()
            with torch._C._DisableFuncTorch():
                found = _number() in self._kept
            torch.set_rng_state(before)
            return found
        return False

    def _once_in_regions(self, draw):
        first, drawn = [], None
        for frame in _frames():
            if frame.f_code is FIRST:
                first.append(frame)
            elif frame.f_code is AGAIN:
                place = self._drawn_in(frame)
                drawn = self._kept[_region(frame)][place]
                frame.f_locals[NOTE][id(self)] = place + 1
                break
        if drawn is None:
            drawn = draw()
        for frame in first:
            args = tf.nest.flatten(frame.f_locals["args"])
            symbolic = tf.is_symbolic_tensor(drawn)
            if symbolic and drawn.graph not in [tensor.graph for tensor in args if tf.is_symbolic_tensor(tensor)]:
                raise ValueError(
                    "A layer that draws must not be called in a loop, a condition or a tf.function within "
                    "tf.recompute_grad or keras.remat: its mask would not be that of the backward pass. Put the loop, "
                    "condition or tf.function around the recomputed function."
                )
            place = self._drawn_in(frame)
            if place == 0:
                self._keep(_region(frame), [])
            self._kept[_region(frame)].append(drawn)
            frame.f_locals[NOTE][id(self)] = place + 1
        return drawn

    def _drawn_in(self, frame):
        """How often this layer has drawn in this run of a region."""
        return frame.f_locals.setdefault(NOTE, {}).get(id(self), 0)

    def _once_by_number(self, draw):
        again = _in_backward_pass()
        hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        if not again and not hooked and torch.is_grad_enabled():
            return draw()
        number = _number()
        if not again:
            self._keep(number, draw())
        if number not in self._kept:
            raise RuntimeError(
                "A layer that draws was called in a backward pass, which must repeat a call of the forward pass. "
                "torch.utils.checkpoint.checkpoint does that with preserve_rng_state=True, its default. (It keeps "
                f"track of the last {WAITING} calls of a layer.)"
            )
        return self._kept[number]

    def _keep(self, name, value):
        # Anew, as the last one.
        self._kept.pop(name, None)
        self._kept[name] = value
        if len(self._kept) > WAITING:
            del self._kept[next(iter(self._kept))]


def outside(function):
    """Returns `function()`; on JAX, computed outside of the regions that are being traced."""
    if BACKEND != "jax":
        return function()
    with take_current_trace() as trace:
        pass
    while _is_region(trace):
        trace = trace.parent_trace
    with set_current_trace(trace):
        return function()


if BACKEND == "tensorflow":

    def _frames():
        frame = sys._getframe(1)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _region(frame):
        # The functions that run a region share this tuple.
        return id(frame.f_locals["args"])


elif BACKEND == "jax":

    def _is_region(trace):
        info = getattr(getattr(trace, "frame", None), "debug_info", None)
        return info is not None and info.traced_for == "checkpoint / remat"


elif BACKEND == "torch":

    def _in_backward_pass():
        return torch._C._current_graph_task_id() != -1

    def _number():
        return torch.randint(2**62, ()).item()
