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
LOST = (
    "A layer that draws was called in a backward pass, which must repeat a call of the forward pass, one of the last "
    f"{WAITING} of the layer."
)


class Rematerialization:
    """The draws of one layer that may be repeated.

    On TensorFlow a region is known by the tuple of its arguments, which the two functions of `tf.recompute_grad` that
    run it share; how often each run of them has called the layer is noted in its frame. On PyTorch a draw is known by a
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
            return self._in_regions(draw)
        if BACKEND == "torch":
            if torch.compiler.is_compiling():
                return draw()
            # A state that is counted is none of what torch.func transforms.
            with torch._C._DisableFuncTorch():
                return self._once_by_number(draw)
        return outside(draw)

    def repeats(self):
        """Returns whether a call that is not told to draw is the repetition of one that drew; notes it, if not.

        Keras tells the layers in a model whether it trains only as long as the forward pass runs.
        """
        if BACKEND == "tensorflow":
            return self._in_regions(None) is not None
        if BACKEND == "torch" and self._kept and not torch.compiler.is_compiling():
            with torch._C._DisableFuncTorch():
                if _in_backward_pass():
                    return _next_number() in self._kept
                if _may_be_repeated():
                    self._kept.pop(_next_number(), None)
        return False

    def _in_regions(self, draw):
        """Returns what the next call of this layer draws, or `None` if it does not draw. Notes that in all regions."""
        first, before = [], None
        for frame in _frames():
            if frame.f_code is FIRST:
                first.append(frame)
            elif frame.f_code is AGAIN:
                before = frame
                break
        if before is None:
            drawn = draw and draw()
        else:
            calls, place = self._kept.get(_region(before), ()), self._calls_in(before)
            if place == len(calls):
                raise RuntimeError(LOST)
            drawn = calls[place]
            if drawn is not None and draw is None:
                # Another call comes at once, to draw.
                return drawn
            before.f_locals[NOTE][id(self)] = place + 1
        for frame in first:
            self._note(frame, drawn)
        return drawn

    def _note(self, frame, drawn):
        args, region = tf.nest.flatten(frame.f_locals["args"]), _region(frame)
        graphs = [tensor.graph for tensor in args if tf.is_symbolic_tensor(tensor)]
        if drawn is not None and (not args or (tf.is_symbolic_tensor(drawn) and drawn.graph not in graphs)):
            raise ValueError(
                "A layer that draws must not be called in a loop, a condition or a tf.function within "
                "tf.recompute_grad or keras.remat, nor in one of a function without arguments: its mask would not be "
                "that of the backward pass. Put the loop, condition or tf.function around the recomputed function, and "
                f"give that its tensors. Received: a function of {len(args)} arguments"
            )
        place = self._calls_in(frame)
        if place == 0:
            self._keep(region, [])
        self._kept[region].append(drawn)
        frame.f_locals[NOTE][id(self)] = place + 1

    def _calls_in(self, frame):
        """How often this layer has been called in this run of a region."""
        return frame.f_locals.setdefault(NOTE, {}).get(id(self), 0)

    def _once_by_number(self, draw):
        again = _in_backward_pass()
        if not again and not _may_be_repeated():
            return draw()
        number = _number()
        if not again:
            self._keep(number, draw())
        if number not in self._kept:
            raise RuntimeError(f"{LOST} torch.utils.checkpoint does that with preserve_rng_state=True, its default.")
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

    def _may_be_repeated():
        """Whether this forward pass may be that of a checkpoint, of one of the two kinds."""
        return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None

    def _number():
        return torch.randint(2**62, ()).item()

    def _next_number():
        before = torch.get_rng_state()
        number = _number()
        torch.set_rng_state(before)
        return number
