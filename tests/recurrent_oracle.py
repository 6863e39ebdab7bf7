"""Recurrent layers once more, in NumPy, one timestep after the other, with every place where the methods drop."""

import functools

import keras
import numpy as np
from backend import to_numpy
from keras import ops
from oracle import draws

SAMPLES, TIMESTEPS, FEATURES, UNITS = 3, 5, 7, 6
X = np.random.default_rng(0).standard_normal((SAMPLES, TIMESTEPS, FEATURES)).astype("float32")
# Padded behind, in between, and before.
PADDING = np.array([[1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [0, 1, 1, 1, 1]], "bool")
SEED = 3


def made(layer, **kwargs):
    """Makes a layer to wrap that shows all that it computes, with fixed weights, and biases that are not zeros."""
    initializers = {
        "kernel_initializer": keras.initializers.GlorotUniform(seed=1),
        "recurrent_initializer": keras.initializers.Orthogonal(seed=2),
        "bias_initializer": keras.initializers.RandomNormal(stddev=0.5, seed=3),
    }
    if layer is keras.layers.LSTM:
        initializers["unit_forget_bias"] = False
    return layer(UNITS, **initializers, **{"return_sequences": True, "return_state": True, **kwargs})


LSTM, GRU = (functools.partial(made, layer) for layer in (keras.layers.LSTM, keras.layers.GRU))
GATED = {
    "LSTM": LSTM,
    "GRU": GRU,
    "GRU, reset before": functools.partial(made, keras.layers.GRU, reset_after=False),
}
ALL = {**GATED, "SimpleRNN": functools.partial(made, keras.layers.SimpleRNN)}


def keep_masks(rates, sizes, timesteps=1, call=0):
    """What a wrapper of seed `SEED` keeps in a call: for each rate a mask of so many elements of each timestep."""
    drawn = np.split(draws(SEED, call, (SAMPLES, timesteps, sum(sizes))), np.cumsum(sizes)[:-1], axis=-1)
    return [part >= round(rate * 65536) - 32768 for part, rate in zip(drawn, rates, strict=True)]


def agrees(wrapper, training=True, **drops):
    """Asserts that the wrapper computes what `run` does with these drops."""
    outputs, *states = wrapper(X, mask=ops.convert_to_tensor(PADDING), training=training)
    expected, expected_states = run(wrapper.layer, X, PADDING, **drops)
    np.testing.assert_allclose(to_numpy(outputs), expected, atol=2e-6)
    for state, truth in zip(states, expected_states, strict=True):
        np.testing.assert_allclose(to_numpy(state), truth, atol=2e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(layer, x, padding=None, states=None, inputs=1.0, read=1.0, update=1.0, memory=1.0, kept=None):
    """Returns the outputs of all timesteps, and the last states, of an LSTM, GRU or SimpleRNN.

    Args:
        layer: The layer or its cell, with tanh and sigmoid.
        x: Of shape `(samples, timesteps, features)`.
        padding: Which timesteps count, of shape `(samples, timesteps)`.
        states: The first ones.
        inputs, read, update, memory: What multiplies `x`, the output read from the timestep before, what is added to
            the memory, and the memory: numbers or arrays that broadcast to `(samples, timesteps, units or features)`.
        kept: For each state how much is kept of that before, likewise.
    """
    kernel, recurrent, *bias = (w.astype("float64") for w in layer.get_weights())
    kind, units = type(layer).__name__.removesuffix("Cell"), layer.units
    samples, timesteps, _ = x.shape
    x = x * inputs
    read, update, memory = (np.broadcast_to(m, (samples, timesteps, units)) for m in (read, update, memory))
    number = 2 if kind == "LSTM" else 1
    kept = [np.broadcast_to(z, (samples, timesteps, units)) for z in kept or [0.0] * number]
    states = [np.zeros((samples, units))] * number if states is None else [np.array(s, "float64") for s in states]
    outputs = []
    for t in range(timesteps):
        h = states[0]
        if kind == "LSTM":
            i, f, g, o = np.split(x[:, t] @ kernel + (h * read[:, t]) @ recurrent + bias[0], 4, 1)
            c = memory[:, t] * (sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g) * update[:, t])
            new = [sigmoid(o) * np.tanh(c), c]
        elif kind == "GRU":
            first, second = bias[0] if layer.reset_after else (bias[0], 0)
            xz, xr, xg = np.split(x[:, t] @ kernel + first, 3, 1)
            uz, ur, ug = np.split(recurrent, 3, 1)
            bz, br, bg = np.split(second * np.ones(3 * units), 3)
            hd = h * read[:, t]
            z, r = sigmoid(xz + hd @ uz + bz), sigmoid(xr + hd @ ur + br)
            inner = r * (hd @ ug + bg) if layer.reset_after else (r * hd) @ ug
            new = [memory[:, t] * (z * h + (1 - z) * np.tanh(xg + inner) * update[:, t])]
        else:
            new = [memory[:, t] * update[:, t] * np.tanh(x[:, t] @ kernel + (h * read[:, t]) @ recurrent + bias[0])]
        new = [z[:, t] * before + (1 - z[:, t]) * after for z, before, after in zip(kept, states, new, strict=True)]
        if padding is not None:
            new = [np.where(padding[:, t, None], after, before) for before, after in zip(states, new, strict=True)]
        states = new
        outputs.append(states[0])
    return np.stack(outputs, 1), states
