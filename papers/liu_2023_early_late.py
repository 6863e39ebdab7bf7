"""Liu et al. 2023, early and late dropout, on a model that underfits and on one that overfits.

Early dropout falls linearly to 0 over the first part of the training: it is said to help models that underfit, with a
lower training loss in the end. Late dropout begins after that part: for models that overfit. On ImageNet, for 300
epochs with a change after 50, the authors' README has an accuracy of 73.9 % for a ViT-T without dropout, 67.9 with it
throughout and 74.3 with early dropout; for a ViT-B 81.6 with stochastic depth and 82.3 with it late. It and the program
were read. Here dense networks of two hidden layers learn MNIST: "underfitting" has 16 units in each and 10,000 images,
"overfitting" 256 and 500 images. The dropout after both is at a rate of 0.1 and 0.5, the change after a sixth of the
training; Adam at 0.001, batches of 50.
"""

import keras
import numpy as np
from keras.optimizers import schedules

from keras_dropouts import Dropout
from papers import data
from papers.run import test_error

DATA = "mnist"
MODELS = {"underfitting": (16, 0.1), "overfitting": (256, 0.5)}
HOWS = ("none", "throughout", "early", "late")
ARMS = tuple(f"{model}, {how}" for model in MODELS for how in HOWS)
BUDGETS = {
    "short": {"seeds": 1, "underfitting": [300, 1], "overfitting": [300, 1]},
    "usual": {"seeds": 5, "underfitting": [10_000, 12], "overfitting": [500, 60]},
    "full": {"seeds": 10, "underfitting": [60_000, 30], "overfitting": [500, 300]},
}
PUBLISHED = {
    "underfitting, test error, %": dict(zip(HOWS, ("26.1, ViT-T", "32.1", "25.7", None), strict=True)),
    "underfitting, training loss": dict.fromkeys(HOWS) | {"early": "lower than with none"},
    "overfitting, test error, %": dict(zip(HOWS, (None, "18.4, ViT-B", None, "17.7"), strict=True)),
    "overfitting, training loss": dict.fromkeys(HOWS),
}
CONCLUSION = (
    "The signs are the paper's, early dropout helps the model that underfits and late dropout the one that overfits, "
    "but neither beyond its interval, and late is no better than throughout; the other way round each does harm."
)
BATCH = 50


def measure(run):
    kind, how = run.arm.split(", ")
    units, rate = MODELS[kind]
    images, epochs = getattr(run.budget, kind)
    train, test = data.load(DATA)
    x, y = data.balanced(train, images)
    change = len(x) // BATCH * epochs // 6
    rates = {
        "throughout": rate,
        "early": schedules.PolynomialDecay(rate, change, 0.0),
        "late": schedules.PiecewiseConstantDecay([change], [0.0, rate]),
    }
    layers = [keras.layers.Flatten()]
    for _ in range(2):
        layers.append(keras.layers.Dense(units, "relu"))
        if how != "none":
            layers.append(Dropout(rates[how], seed=run.layer_seed()))
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers, keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")

    def after_epoch(model):
        given = model.predict(x, batch_size=500, verbose=0)[np.arange(len(y)), y]
        return {"without dropout": float(-np.log(given + 1e-12).mean())}

    logs = run.fit(model, x, y, epochs, BATCH, after_epoch)
    losses = [log["without dropout"] for log in logs]
    return {
        how: {
            f"{kind}, test error, %": test_error(model, test),
            f"{kind}, training loss": losses[-1],
            f"{kind}, losses": losses,
        }
    }


def draw(figure, measured):
    for axes, kind in zip(figure.subplots(1, 2), MODELS, strict=True):
        for how in (how for how in HOWS if f"{kind}, losses" in measured.get(how, {})):
            error = measured[how][f"{kind}, test error, %"].mean()
            curve = measured[how][f"{kind}, losses"].mean(0)
            axes.plot(range(1, len(curve) + 1), curve, label=f"{how}: test error {error:.2f} %")
        axes.set(title=kind, xlabel="epoch", ylabel="training loss, dropout off", yscale="log")
        axes.legend(fontsize="small")
