"""Morerio et al. 2017, curriculum dropout: a rate that rises from 0.

The paper lets the rates of dropout rise from 0 to their usual values by an exponential, and reports less error than
with constant rates on MNIST and eight other sets of images (no number was at hand), and that the reverse, annealed
dropout, which starts at the usual rate and falls, is worse. Here a network of 2 x 800 ReLU units is trained on a part
of MNIST without dropout, with constant rates of 0.2 at the input and 0.5 in the hidden layers, and with rates that
approach these or fall from these with gamma = 10 / updates. SGD with a momentum of 0.95 and a learning rate that falls
from 0.03 to 0 by a cosine. The paper's networks are convolutional.
"""

import math

from keras.optimizers.schedules import ExponentialDecay

from keras_dropouts import CurriculumDropout, Dropout
from papers import data, figures
from papers.networks import dense_network
from papers.run import test_error

DATA = "mnist"
ARMS = ("constant", "curriculum", "annealed", "none")
BUDGETS = {
    "short": {"seeds": 1, "images": 300, "units": 16, "epochs": 1},
    "usual": {"seeds": 5, "images": 1000, "units": 800, "epochs": 80},
    "full": {"seeds": 10, "images": 60_000, "units": 800, "epochs": 200},
}
PUBLISHED = {
    "test error, %": {"constant": None, "curriculum": "less than constant", "annealed": "more", "none": "the most"}
}
CONCLUSION = (
    "Curriculum dropout is not better than constant rates here (+0.13 [-0.06, +0.32]), against the paper; that "
    "annealed dropout is worse (+1.68 [+1.49, +1.87]), nearly as without dropout, agrees."
)


def measure(run):
    train, test = data.load(DATA)
    x, y = data.balanced(train, run.budget.images)
    updates = len(x) // 100 * run.budget.epochs

    def noise(rate):
        rates = {
            "constant": rate,
            "curriculum": CurriculumDropout(rate, gamma=10 / updates),
            "annealed": ExponentialDecay(rate, decay_steps=updates, decay_rate=math.exp(-10)),
        }
        return Dropout(rates[run.arm], seed=run.layer_seed())

    model = dense_network(x.shape[1:], [run.budget.units] * 2, updates, None if run.arm == "none" else noise)
    part = tuple(array[:1000] for array in test)
    logs = run.fit(model, x, y, run.budget.epochs, 100, lambda model: {"error": test_error(model, part)})
    return {run.arm: {"test error, %": test_error(model, test), "by epoch": [log["error"] for log in logs]}}


def draw(figure, measured):
    left, right = figure.subplots(1, 2)
    figures.curves(left, measured, ARMS, "by epoch", "test error (1000 images), %")
    figures.dots(right, measured, ARMS, "test error, %")
