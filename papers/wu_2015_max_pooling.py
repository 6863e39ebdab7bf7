"""Wu and Gu 2015, max-pooling dropout: dropping before the maximum, and pooling by the mean over the masks.

The paper trains convolutional networks with dropout on what max pooling reads, and infers with probabilistic weighted
pooling, which is better there than max pooling or max pooling times the probability of keeping; its best error on MNIST
is 0.39 %. That is out of reach here: compared is the order. A network of two convolutions of 5 x 5 (16 and 32 channels)
and a dense layer is trained on a part of MNIST with either pooling, Adam; the weights trained with max-pooling dropout
of rate 0.5 then infer in the three ways.
"""

import keras
from keras import layers

from keras_dropouts import MaxPoolingDropout2D
from papers import data, figures
from papers.run import test_error

DATA = "mnist"
ARMS = ("max pooling", "max-pooling dropout")
BUDGETS = {
    "short": {"seeds": 1, "images": 300, "channels": 2, "epochs": 1},
    "usual": {"seeds": 5, "images": 2000, "channels": 16, "epochs": 12},
    "full": {"seeds": 5, "images": 60_000, "channels": 32, "epochs": 100},
}
PUBLISHED = {
    "test error, %": {
        "max pooling": None,
        "max-pooling dropout": "0.39 at best",
        "max-pooling dropout, inferred by max pooling": "more",
        "max-pooling dropout, inferred by scaled max pooling": "more",
    }
}
CONCLUSION = (
    "The paper's order does not show: with 2000 images max-pooling dropout is not better than max pooling (+0.37 "
    "[-0.08, +0.82]); weighted pooling is better than scaled max pooling by 0.13, and no different from max pooling."
)
RATE = 0.5


def network(shape, channels, poolings):
    stack = [keras.Input(shape)]
    for factor, pooling in zip((1, 2), poolings, strict=True):
        stack += [layers.Conv2D(factor * channels, 5, activation="relu"), *pooling]
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10, "softmax")])


def measure(run):
    train, test = data.load(DATA)
    x, y = data.balanced(train, run.budget.images)

    def poolings(scale=1.0):
        return [[layers.MaxPooling2D(), *([layers.Rescaling(scale)] if scale != 1 else [])] for _ in range(2)]

    drops = run.arm == "max-pooling dropout"
    own = [[MaxPoolingDropout2D(RATE, seed=run.layer_seed())] for _ in range(2)] if drops else poolings()
    model = network(x.shape[1:], run.budget.channels, own)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    run.fit(model, x, y, run.budget.epochs, batch_size=50)
    rows = {run.arm: {"test error, %": test_error(model, test)}}
    for name, scale in {"max pooling": 1.0, "scaled max pooling": 1 - RATE}.items() if drops else ():
        other = network(x.shape[1:], run.budget.channels, poolings(scale))
        other.set_weights(model.get_weights())
        rows[f"{run.arm}, inferred by {name}"] = {"test error, %": test_error(other, test)}
    return rows


def draw(figure, measured):
    figures.dots(figure.subplots(), measured, PUBLISHED["test error, %"], "test error, %")
