"""Gal, Hron and Kendall 2017, concrete dropout: the synthetic data, by their number.

The authors' program draws N points of y = 2x + 8 + noise, x and noise standard normal, and fits a network of three
hidden layers of 1024 ReLU units that gives a mean and a log variance, each layer with a concrete dropout of its own,
length scale 1e-4, tau 1, Adam, batches of 20, some 20,000 points seen for each N. It shows that with more data the
learnt rates and the epistemic standard deviation (that of the means of Monte Carlo passes) fall, and that the aleatoric
one (the noise that the network predicts) approaches the truth, 1. No numbers are published. An update of Adam moves the
logit of a rate by about 0.001, so that in a thousand updates a rate that starts at 0.1 cannot pass 0.23; here layers
are narrower, five times as many points are seen, and an epoch is of 2000 points, repeated where N is less, so that all
batches are of 20. The standard deviations are of 20 Monte Carlo passes on 200 new points.
"""

import keras
import numpy as np
from keras import ops

from keras_dropouts import ConcreteDropout, monte_carlo

DATA = None
ARMS = tuple(f"N = {n}" for n in (10, 25, 50, 100, 1000, 10_000))
BUDGETS = {
    "short": {"seeds": 1, "units": 16, "points": 200},
    "usual": {"seeds": 5, "units": 256, "points": 100_000},
    "full": {"seeds": 10, "units": 1024, "points": 400_000},
}
PUBLISHED = {
    "mean of the rates": dict.fromkeys(ARMS) | {ARMS[-1]: "falls with N"},
    "epistemic standard deviation": dict.fromkeys(ARMS) | {ARMS[-1]: "falls with N"},
    "aleatoric standard deviation": dict.fromkeys(ARMS) | {ARMS[-1]: "approaches 1"},
}
CONCLUSION = (
    "As the paper shows, the learnt rates fall with N (0.38 to 0.05 in the mean, all but the first layer's from near "
    "0.5) and so does the epistemic standard deviation (0.88 to 0.39); that the aleatoric one approaches 1 does not "
    "show, it stays between 1.1 and 1.2."
)
PASSES, EPOCH = 20, 2000


def points(random, n):
    x = random.standard_normal((n, 1))
    return x.astype("float32"), (2 * x + 8 + random.standard_normal((n, 1))).astype("float32")


def squared_error_by_precision(y, mean_and_log_variance):
    """Twice the negative log likelihood of a Gaussian, but for a constant."""
    mean, log_variance = ops.split(mean_and_log_variance, 2, axis=-1)
    return ops.mean(ops.exp(-log_variance) * ops.square(y - mean) + log_variance)


def measure(run):
    n = int(run.arm.removeprefix("N = "))
    terms = ConcreteDropout.regularization(examples=n, length_scale=1e-4)
    wrappers = [
        ConcreteDropout(keras.layers.Dense(units, activation), seed=run.layer_seed(), **terms)
        for units, activation in [(run.budget.units, "relu")] * 3 + [(2, None)]
    ]
    model = keras.Sequential([keras.Input((1,)), *wrappers])
    model.compile("adam", squared_error_by_precision)
    # The first points are the same for each N.
    x, y = points(run.random(0), n)
    repeats = max(1, min(EPOCH, run.budget.points) // n)
    epochs = max(1, run.budget.points // (n * repeats))
    run.fit(model, np.tile(x, (repeats, 1)), np.tile(y, (repeats, 1)), epochs, batch_size=20)

    x, _ = points(run.random(1), 200)
    passes = monte_carlo(model, x, PASSES, batch_size=len(x), verbose=0).samples
    return {
        run.arm: {
            "mean of the rates": float(np.mean([wrapper.rate for wrapper in wrappers])),
            "epistemic standard deviation": float(np.sqrt(passes[..., 0].var(0).mean())),
            "aleatoric standard deviation": float(np.sqrt(np.exp(passes[..., 1]).mean())),
            "rates": [wrapper.rate for wrapper in wrappers],
        }
    }


def draw(figure, measured):
    panels = figure.subplots(1, 2)
    rows = [row for row in ARMS if row in measured]
    numbers = [int(row.removeprefix("N = ")) for row in rows]
    for i in range(4):
        panels[0].plot(numbers, [measured[row]["rates"][:, i].mean() for row in rows], "o-", label=f"layer {i + 1}")
    for name in ("epistemic", "aleatoric"):
        values = [measured[row][f"{name} standard deviation"] for row in rows]
        panels[1].errorbar(numbers, [v.mean() for v in values], [v.std() for v in values], marker="o", label=name)
    panels[1].axhline(1, color="black", linewidth=0.8)
    for axes, label in zip(panels, ("learnt rate", "standard deviation"), strict=True):
        axes.set(xscale="log", xlabel="N", ylabel=label)
        axes.legend()
