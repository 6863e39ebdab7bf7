"""The values that normal deviates have."""

import functools
import statistics

import numpy as np

from keras_dropouts.random.backend import BACKEND

if BACKEND == "torch":
    import torch


@functools.cache
def normals():
    """The normal quantiles at (draw + 32768.5) / 65536, times what makes their variance 1, by the draw's bits."""
    upper = np.array([statistics.NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)])
    upper /= np.sqrt(np.mean(upper**2))
    return np.concatenate([upper, -upper[::-1]]).astype("float32")


if BACKEND == "torch":

    @functools.cache
    def _table_on(device):
        return torch.from_numpy(normals()).to(device)

    # A function of its own: `torch.compile` looks through the cache.
    @torch.compiler.assume_constant_result
    def normals_on(device):
        return _table_on(device)
