"""Moon et al. 2015, RNNDrop: what a scale does to the memory over 50 timesteps.

RNNDrop multiplies an LSTM's cell state by one mask at all timesteps. Programs that followed scale what is kept by
1 / (1 - rate) at each timestep. By arithmetic, of a memory that decays to 0.95 of itself at each timestep 0.077 is left
after 50, but with that scale, at a rate of 0.2, there is 5.4e3 of it; the paper, of which only the abstract was read,
has no number of this: what stands in its column are sums of that series. Here run the layer, which scales what enters
the memory and not the memory, and the layer changed to scale each timestep, from a memory of 1: in an LSTM of one unit
without weights, whose biases set the forget gate to 0.95 and write nothing, or 0.05, at each timestep.
"""

import keras
import numpy as np
from keras import ops

from keras_dropouts import RNNDrop
from keras_dropouts.layers.recurrent_wrapper import step_of
from keras_dropouts.random.multiply import select

DATA = None
ARMS = ("nothing written", "0.05 written")
BUDGETS = {
    "short": {"seeds": 1, "sequences": 500, "timesteps": 50},
    "usual": {"seeds": 5, "sequences": 10_000, "timesteps": 50},
    "full": {"seeds": 20, "sequences": 100_000, "timesteps": 50},
}
HOWS = ("no dropout", "RNNDrop", "scaled each timestep")
PUBLISHED = {
    "nothing written, memory where kept": dict(zip(HOWS, (0.077, 0.077, "5.4e3"), strict=True)),
    "0.05 written, memory where kept": dict(zip(HOWS, (1.0, 1.23, "7.2e3"), strict=True)),
    "0.05 written, mean memory": dict(zip(HOWS, (1.0, 0.985, "5.8e3"), strict=True)),
}
CONCLUSION = (
    "Scaled at each timestep, a memory that would decay grows 5.4e3 times in 50 timesteps; the layer's decays as "
    "without dropout, and what is written has the same mean."
)
RATE, FORGET = 0.2, 0.95


class ScaledEachTimestep(RNNDrop):
    def _step(self, cell, inputs, states, masks):
        keep, scale = next(masks)
        return step_of(cell, inputs, states, memory=lambda c: select(keep, scale, c))


def measure(run):
    written = 0.05 if run.arm == "0.05 written" else 0.0
    x = np.zeros((run.budget.sequences, run.budget.timesteps, 1), "float32")
    # The output gate, as the input gate, is 1/2, and nothing is bent: the output is half the memory.
    lstm = keras.layers.LSTM(1, "linear", return_sequences=True)
    seed, rows = run.layer_seed(), {}
    for how in HOWS:
        layer = (ScaledEachTimestep if how == HOWS[2] else RNNDrop)(lstm, RATE, seed=seed)
        layer.build(x.shape)
        forget = np.log(FORGET / (1 - FORGET))
        lstm.set_weights([np.zeros((1, 4)), np.zeros((1, 4)), np.array([0.0, forget, 2 * written, 0.0])])
        states = [ops.zeros((len(x), 1)), ops.ones((len(x), 1))]
        outputs = layer(x, initial_state=states, training=how != HOWS[0])
        memory = 2 * ops.convert_to_numpy(outputs)[..., 0]
        kept = memory[memory[:, 0] > 0]
        rows[how] = {
            f"{run.arm}, memory where kept": float(kept[:, -1].mean()),
            f"{run.arm}, mean memory": float(memory[:, -1].mean()),
            f"{run.arm}, by timestep": kept.mean(0).tolist(),
        }
    return rows


def draw(figure, measured):
    for axes, arm in zip(figure.subplots(1, 2), ARMS, strict=True):
        for how in (how for how in HOWS if f"{arm}, by timestep" in measured[how]):
            curve = measured[how][f"{arm}, by timestep"].mean(0)
            axes.plot(range(1, len(curve) + 1), curve, "--" if how == HOWS[0] else "-", label=how)
        axes.set(title=arm, xlabel="timestep", ylabel="memory where kept", yscale="log")
        axes.legend()
