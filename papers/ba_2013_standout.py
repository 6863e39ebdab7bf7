"""Ba and Frey 2013, standout: units kept the more probably the more active they are.

The paper reports 0.80 % on MNIST, with unsupervised pretraining, and less error than with dropout. A reimplementation
without pretraining found no gain: 1.49 % against dropout's 1.30 %. Here, without pretraining, a network of 2 x 800 ReLU
units is trained on a part of MNIST with each: hidden layers with standout of alpha 1 and beta 0 (which keeps a unit
with probability 0.5 where its input is 0), with dropout of rate 0.5, and with none, nothing at the input. SGD with a
momentum of 0.95 and a learning rate that falls from 0.03 to 0 by a cosine.
"""

import keras
from keras import layers

from keras_dropouts import Dropout, Standout
from papers import data, figures
from papers.run import test_error

DATA = "mnist"
ARMS = ("dropout", "standout", "none")
BUDGETS = {
    "short": {"seeds": 1, "images": 300, "units": 16, "epochs": 1},
    "usual": {"seeds": 5, "images": 1000, "units": 800, "epochs": 80},
    "full": {"seeds": 5, "images": 60_000, "units": 800, "epochs": 200},
}
PUBLISHED = {
    "test error, %": {"dropout": "1.30 (reimplementation)", "standout": "0.80; 1.49 (reimplementation)", "none": None}
}
CONCLUSION = (
    "Standout without pretraining gives no gain over dropout, as the reimplementer found: it is worse (+1.14 [+1.01, "
    "+1.27]), and hardly better than none."
)


def measure(run):
    train, test = data.load(DATA)
    x, y = data.balanced(train, run.budget.images)
    stack = [keras.Input(x.shape[1:]), layers.Flatten()]
    for _ in range(2):
        dense = layers.Dense(run.budget.units, "relu", kernel_initializer="he_uniform")
        if run.arm == "standout":
            stack.append(Standout(dense, seed=run.layer_seed()))
        else:
            stack += [dense, *([Dropout(0.5, seed=run.layer_seed())] if run.arm == "dropout" else [])]
    model = keras.Sequential([*stack, layers.Dense(10, "softmax")])
    schedule = keras.optimizers.schedules.CosineDecay(0.03, len(x) // 100 * run.budget.epochs)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.95), "sparse_categorical_crossentropy")
    part = tuple(array[:1000] for array in test)
    logs = run.fit(model, x, y, run.budget.epochs, 100, lambda model: {"error": test_error(model, part)})
    return {run.arm: {"test error, %": test_error(model, test), "by epoch": [log["error"] for log in logs]}}


def draw(figure, measured):
    left, right = figure.subplots(1, 2)
    figures.curves(left, measured, ARMS, "by epoch", "test error (1000 images), %")
    figures.dots(right, measured, ARMS, "test error, %")
