"""The data: real ones by their usual loaders, scaled to [0, 1], and what they are known by."""

import functools
import hashlib
import os

import keras
import numpy as np


@functools.cache
def mnist():
    """Returns `(x_train, y_train), (x_test, y_test)` of MNIST, images of shape (28, 28, 1)."""
    path = os.environ.get("MNIST_NPZ")
    if path:
        with np.load(path) as arrays:
            return _images(*[(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in ("train", "test")])
    return _images(*keras.datasets.mnist.load_data())


@functools.cache
def fashion_mnist():
    """Returns `(x_train, y_train), (x_test, y_test)` of Fashion-MNIST, images of shape (28, 28, 1)."""
    return _images(*keras.datasets.fashion_mnist.load_data())


@functools.cache
def digits():
    """Returns `(x_train, y_train), (x_test, y_test)` of scikit-learn's digits, images of shape (8, 8, 1)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    x, y = found.images[order] * (255 / 16), found.target[order]
    return _images((x[:1297], y[:1297]), (x[1297:], y[1297:]))


def _images(*parts):
    return tuple((x[..., None].astype("float32") / 255, y.astype("int32")) for x, y in parts)


def load(name):
    """Returns what the function of a name returns: the data of a script are `data.load(DATA)`."""
    return globals()[name]()


def balanced(part, images):
    """Returns the first images of each class, as many of each, `images` in all: a smaller data set."""
    x, y = part
    classes = np.unique(y)
    chosen = np.sort(np.concatenate([np.flatnonzero(y == c)[: images // len(classes)] for c in classes]))
    return x[chosen], y[chosen]


def checksum(name):
    """Returns the first digits of the SHA-256 of all arrays of a data set, as its function returns them."""
    digest = hashlib.sha256()
    for array in (array for part in load(name) for array in part):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]
