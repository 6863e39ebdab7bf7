"""Wan et al. 2013, DropConnect: inference by moments, by sampled masks, and by the mean network.

DropConnect drops weights, so that what a unit sums is nearly Gaussian over the masks. The paper infers with the mean of
the activation over that Gaussian, in place of the mean over all masks; the mean network, of weights times the
probability of keeping, would take the activation of the mean. No number of this comparison is published. Here one
hidden layer of ReLU units is trained with a mask for each example, rate 0.5, SGD with a learning rate of 0.1 and a
momentum of 0.9, on a part of MNIST, and the same weights then infer in each way: "moments" is the layer itself, "masks"
the mean of the hidden layer over masks that NumPy draws, which the moments stand for, and "networks" the mean of the
probabilities of the networks with these masks.
"""

import keras
import numpy as np

from keras_dropouts import DropConnect
from papers import data

DATA = "mnist"
ARMS = ("DropConnect",)
BUDGETS = {
    "short": {"seeds": 1, "images": 500, "units": 16, "epochs": 1, "masks": 30, "test_images": 50},
    "usual": {"seeds": 5, "images": 3000, "units": 100, "epochs": 10, "masks": 10_000, "test_images": 300},
    "full": {"seeds": 5, "images": 60_000, "units": 800, "epochs": 60, "masks": 10_000, "test_images": 10_000},
}
ROWS = ("moments", "masks", "networks", "mean network")
PUBLISHED = {
    "test error, %": dict.fromkeys(ROWS),
    "negative log likelihood": dict.fromkeys(ROWS),
    "distance of probabilities to masks": dict.fromkeys(("moments", "networks", "mean network")),
}
CONCLUSION = (
    "The moments do stand for the masks, 0.0006 from the probabilities by 10,000 of them where the mean network is "
    "0.012 away; but the mean network has the better likelihood with these weights (0.212 against 0.220), and the "
    "errors on 300 images do not tell the ways apart."
)
RATE = 0.5


def measure(run):
    train, test = data.load(DATA)
    x, y = data.balanced(train, run.budget.images)
    hidden, head = keras.layers.Dense(run.budget.units, "relu"), keras.layers.Dense(10, "softmax")
    layers = [keras.layers.Flatten(), DropConnect(hidden, RATE, seed=run.layer_seed()), head]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "sparse_categorical_crossentropy")
    run.fit(model, x, y, run.budget.epochs, batch_size=100)

    x, y = (part[: run.budget.test_images] for part in test)
    features = x.reshape(len(x), -1)
    kernel, bias, head_kernel, head_bias = (np.array(w) for w in [*hidden.get_weights(), *head.get_weights()])

    def activations(kernel, bias):
        return np.maximum(features @ kernel + bias, 0)

    def probabilities(hidden):
        logits = hidden @ head_kernel + head_bias
        exponentials = np.exp(logits - logits.max(-1, keepdims=True))
        return exponentials / exponentials.sum(-1, keepdims=True)

    random, counts, errors = run.random(1), [], []
    hidden_total = networks_total = 0
    for n in range(1, run.budget.masks + 1):
        keep, keep_bias = (random.random(w.shape, "float32") >= RATE for w in (kernel, bias))
        masked = activations(kernel * keep, bias * keep_bias)
        hidden_total, networks_total = hidden_total + masked, networks_total + probabilities(masked)
        if n in np.geomspace(1, run.budget.masks, 13).round():
            counts.append(n)
            errors.append(_negative_log_likelihood(probabilities(hidden_total / n), y))
    found = {
        "moments": model.predict(x, batch_size=500, verbose=0),
        "masks": probabilities(hidden_total / run.budget.masks),
        "networks": networks_total / run.budget.masks,
        "mean network": probabilities(activations(kernel * (1 - RATE), bias * (1 - RATE))),
    }
    rows = {
        row: {
            "test error, %": 100 * float(np.mean(p.argmax(-1) != y)),
            "negative log likelihood": _negative_log_likelihood(p, y),
            "distance of probabilities to masks": float(np.abs(p - found["masks"]).sum(-1).mean() / 2),
        }
        for row, p in found.items()
    }
    rows["masks"] |= {"numbers of masks": counts, "by number of masks": errors}
    return rows


def _negative_log_likelihood(p, y):
    return float(-np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean())


def draw(figure, measured):
    axes = figure.subplots()
    counts, curves = measured["masks"]["numbers of masks"][0], measured["masks"]["by number of masks"]
    axes.plot(counts, curves.mean(0), "o-", label="masks")
    for row, colour in (("moments", "tab:orange"), ("networks", "tab:red"), ("mean network", "tab:green")):
        values = measured[row]["negative log likelihood"]
        axes.axhline(values.mean(), color=colour, label=row)
    axes.set(xscale="log", xlabel="number of masks", ylabel="negative log likelihood")
    axes.legend()
