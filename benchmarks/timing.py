"""Times of calls that take turns, so that a machine's moods meet them all alike."""

import multiprocessing
import statistics
import time

import keras

FEWEST_ROUNDS = 5


def wait(x):
    """Returns when the tensor `x` has been computed: on a GPU that is later than when the call returns that asked."""
    if keras.backend.backend() == "jax":
        x.block_until_ready()
    elif keras.backend.backend() == "tensorflow":
        # Reading one number waits for all.
        x[(0,) * len(x.shape)].numpy()
    elif x.is_cuda:
        import torch

        torch.cuda.synchronize()


def interleaved(calls, seconds):
    """Times every call once a round, in rounds for so many seconds; a first round, that compiles, is not counted.

    Args:
        calls: Functions without arguments that return when their work is done, by name.
        seconds: How long to go on.

    Returns:
        The seconds of each call, a list by name: entries of one index were measured side by side.
    """
    for call in calls.values():
        call()
    times = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(calls))]) < FEWEST_ROUNDS:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def in_fresh_processes(function, arguments, workers=1):
    """What a function returns for each of these tuples of arguments, each in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=1) as processes:
        return processes.starmap(function, arguments, chunksize=1)


def by_layer(numbers):
    """Numbers by layer, and there by whose it is, from numbers by both."""
    nested = {}
    for (name, whose), number in numbers.items():
        nested.setdefault(name, {})[whose] = number
    return nested


def summary(times, steps=1):
    """The median milliseconds of each, and the median of its ratios to the first, round by round."""
    first = next(iter(times.values()))
    return by_layer(
        {
            which: {
                "ms": statistics.median(taken) / steps * 1e3,
                "ratio": statistics.median(t / t0 for t, t0 in zip(taken, first, strict=True)),
            }
            for which, taken in times.items()
        }
    )
