"""Activation checkpointing: what a forward pass drew, its repetition in the backward pass draws again.

Whoever trades time for memory by `keras.remat`, `keras.RematScope`, `torch.utils.checkpoint`, `tf.recompute_grad` or
`jax.checkpoint` has a part of the forward pass run a second time. Its masks must be those of the first time, or the
gradient is that of another function; nothing of it may count as a call.

No framework says publicly which part of a program is such a repetition. What is read of them here is private, and
`tests/test_checkpointing.py` fails where they change it.
"""

import sys

from keras_dropouts.random.backend import BACKEND

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
    from jax._src import ad_checkpoint
    from jax._src.interpreters import partial_eval

    CACHES = [
        getattr(module, name)
        for module, name in ((ad_checkpoint, "_trace_to_jaxpr"), (partial_eval, "trace_to_jaxpr"))
        if hasattr(getattr(module, name, None), "evict_weakref")
    ]
elif BACKEND == "torch":
    import torch

# What may wait for its backward pass: regions of one layer on TensorFlow, draws of all layers on PyTorch.
WAITING = 2**15
NOTE = "keras_dropouts"
LOST = (
    "A layer that draws was called in a backward pass, which must repeat a call of the forward pass, one of the last "
    f"{WAITING}."
)


class Checkpoints:
    """The draws of one layer that may be repeated.

    On TensorFlow a region is known by the tuple of its arguments, which the two functions of `tf.recompute_grad` that
    run it share; how often each run of them has called the layer is noted in its frame. On PyTorch a draw is known by a
    number from the default generator, whose state a checkpoint restores before it runs its function again (two regions
    that begin at one state of it, set by hand, are one). On JAX, where what was traced is run again, nothing needs to
    be kept: the call must be counted outside of the region, and the next one be traced anew.
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
        return once_by_number(draw) if BACKEND == "torch" else outside(draw)

    def repeats(self):
        """Returns whether a call that is not told to draw is the repetition of one that drew; notes it, if not.

        Keras tells the layers in a model whether it trains only as long as the forward pass runs.
        """
        if BACKEND == "tensorflow":
            return self._in_regions(None) is not None
        if BACKEND == "jax":
            # What draws in training alone is to be traced anew for it.
            return outside(lambda: False)
        return not torch.compiler.is_compiling() and _repeats_by_number()

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
                "tf.recompute_grad or keras.remat, nor where those are not given their tensors by position: its mask "
                "would not be that of the backward pass. Put the loop, condition or tf.function around the recomputed "
                f"function. Received: a function called with {len(args)} arguments by position"
            )
        place = self._calls_in(frame)
        if place == 0:
            _keep(self._kept, region, [])
        self._kept[region].append(drawn)
        frame.f_locals[NOTE][id(self)] = place + 1

    def _calls_in(self, frame):
        """How often this layer has been called in this run of a region."""
        return frame.f_locals.setdefault(NOTE, {}).get(id(self), 0)


def _keep(kept, name, value):
    # Anew, as the last one.
    kept.pop(name, None)
    kept[name] = value
    if len(kept) > WAITING:
        del kept[next(iter(kept))]


def outside(function):
    """Returns `function()`; on JAX, computed outside of the regions that are being traced."""
    if BACKEND != "jax":
        return function()
    regions = _traced_regions()
    if not regions:
        return function()
    _trace_anew()
    with set_current_trace(regions[-1].parent_trace):
        return function()


def is_within_region():
    """Returns whether this is a region of which the backend knows the result alone; PyTorch knows all."""
    if BACKEND == "tensorflow":
        return any(frame.f_code is FIRST for frame in _frames())
    return BACKEND == "jax" and bool(_traced_regions())


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

    def _traced_regions():
        """Returns the traces of the regions that are being traced, from the inside out."""
        with take_current_trace() as trace:
            pass
        regions = []
        # Through what maps and differentiates within a region, but not through a compiled function or a loop.
        while trace is not None and (_is_region(trace) or not hasattr(trace, "frame")):
            if _is_region(trace):
                regions.append(trace)
            trace = getattr(trace, "parent_trace", None)
        return regions

    def _trace_anew():
        """Has JAX trace the functions of these regions again when they are called again, though they are the same."""
        frame = sys._getframe(1)
        while frame is not None:
            code = frame.f_code
            if code.co_name == "_trace_to_jaxpr" and code.co_filename == ad_checkpoint.__file__:
                # What is let go while it is being made is not kept.
                for cache in CACHES:
                    cache.evict_weakref(frame.f_locals["fun"])
            frame = frame.f_back

    def _is_region(trace):
        info = getattr(getattr(trace, "frame", None), "debug_info", None)
        return info is not None and info.traced_for == "checkpoint / remat"


elif BACKEND == "torch":
    # Of all layers, by the number of the draw.
    _kept: dict = {}

    def once_by_number(draw, *args):
        # A state that is counted is none of what torch.func transforms.
        with torch._C._DisableFuncTorch():
            again = _in_backward_pass()
            if not again and not _may_be_repeated():
                return draw(*args)
            number = _number()
            if not again:
                _keep(_kept, number, draw(*args))
        if number not in _kept:
            raise RuntimeError(f"{LOST} torch.utils.checkpoint does that with preserve_rng_state=True, its default.")
        return _kept[number]

    def _repeats_by_number():
        if _kept and _in_backward_pass():
            return _next_number() in _kept
        if _kept and _may_be_repeated():
            _kept.pop(_next_number(), None)
        return False

    def _in_backward_pass():
        return torch._C._current_graph_task_id() != -1

    def _may_be_repeated():
        """Whether this forward pass may be that of a checkpoint, of one of the two kinds."""
        return not torch.is_grad_enabled() or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None

    def _number():
        return torch.randint(2**62, (), device="cpu").item()

    def _next_number():
        before = torch.get_rng_state()
        with torch._C._DisableFuncTorch():
            number = _number()
        torch.set_rng_state(before)
        return number
