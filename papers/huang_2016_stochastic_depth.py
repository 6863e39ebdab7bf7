"""Huang et al. 2016, stochastic depth: blocks dropped at rates that grow with the depth, and the time that saves.

The paper trains a ResNet of 110 layers on CIFAR-10 with residual branches dropped for whole batches at rates that grow
linearly to 0.5: 5.25 % in place of 6.41 %, and a quarter of the training time saved where dropped branches are not
computed. `StochasticDepth` is that rule, but computes all; `SkipPath` computes the branches for a part of the samples
only, in place of a part of the batches. Here a small residual network (8 blocks of two 3 x 3 convolutions of 16
channels with batch normalization, at 14 x 14) is trained on a part of Fashion-MNIST with Adam, for 15 epochs, a
fraction of the paper's training. The time is the processor's for training epochs of the three in turn, compilation not
counted, as a multiple of that without dropping; the mean rate of the blocks is 0.28.
"""

import time

import keras
import numpy as np
from keras import layers

from keras_dropouts import SkipPath, StochasticDepth, linear_rates
from papers import data, figures
from papers.run import test_error

DATA = "fashion_mnist"
# They are trained in one run, to be timed in turn.
ARMS = ("all",)
ROWS = ("none", "StochasticDepth", "SkipPath")
BUDGETS = {
    "short": {"seeds": 1, "images": 100, "channels": 2, "blocks": 2, "epochs": 1, "rounds": 1},
    "usual": {"seeds": 5, "images": 1000, "channels": 16, "blocks": 8, "epochs": 15, "rounds": 3},
    "full": {"seeds": 5, "images": 60_000, "channels": 16, "blocks": 54, "epochs": 100, "rounds": 3},
}
PUBLISHED = {
    "test error, %": dict.fromkeys(ROWS) | {"StochasticDepth": "6.41 to 5.25, on CIFAR-10"},
    "time of training, a multiple": dict.fromkeys(ROWS) | {"SkipPath": "0.75"},
}
CONCLUSION = (
    "SkipPath takes 0.74 of the time of training (0.72 to 0.75), as much less as the paper saves with the same rates; "
    "what stochastic depth does to the error, 300 updates and five seeds do not tell (between 22 and 41 % in each "
    "single run)."
)


def network(row, shape, run):
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(run.budget.channels, 3, 2, "same", activation="relu")(x)
    for rate in linear_rates(0.5, run.budget.blocks):
        convolutions = [
            [
                layers.Conv2D(run.budget.channels, 3, padding="same", use_bias=False),
                layers.BatchNormalization(momentum=0.9),
            ]
            for _ in range(2)
        ]
        branch = keras.Sequential([keras.Input(x.shape[1:]), *convolutions[0], layers.ReLU(), *convolutions[1]])
        if row == "SkipPath":
            x = SkipPath(branch, rate, seed=run.layer_seed())(x)
        elif row == "StochasticDepth":
            x = StochasticDepth(rate, seed=run.layer_seed())([x, branch(x)])
        else:
            x = layers.Add()([x, branch(x)])
        x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(10, "softmax")(layers.GlobalAveragePooling2D()(x)))


def measure(run):
    train, test = data.load(DATA)
    x, y = data.balanced(train, run.budget.images)
    models, rows = {}, {}
    for row in ROWS:
        # Of one start for all three.
        keras.utils.set_random_seed(run.seed)
        models[row] = network(row, x.shape[1:], run)
        models[row].compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
        run.fit(models[row], x, y, run.budget.epochs, batch_size=50, name=row)
        rows[row] = {"test error, %": test_error(models[row], test)}
    seconds = {row: [] for row in ROWS}
    for _ in range(run.budget.rounds + 1):
        for row, model in models.items():
            start = time.process_time()
            model.fit(x[: len(x) // 50 * 50], y[: len(x) // 50 * 50], batch_size=50, verbose=0)
            seconds[row].append(time.process_time() - start)
    for row in ROWS:
        # The first round may compile.
        ratios = np.divide(seconds[row], seconds["none"])[1:]
        rows[row]["time of training, a multiple"] = float(np.median(ratios))
    return rows


def draw(figure, measured):
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), PUBLISHED, strict=True):
        figures.dots(axes, measured, ROWS, measure)
