"""Gal and Ghahramani 2016, Monte Carlo dropout: digits that are rotated, and images that are no digits.

The paper rotates an image of a 1 step by step, and shows that the predictions of a LeNet with dropout at 0.5 before the
last layer, which has learnt MNIST, scatter over classes when the image is like none: no number. It was not read as a
whole. Here a small LeNet, convolutions of 8 and 16 filters of 5 x 5 with max pooling and 128 units, with dropout at 0.5
before the last layer or without, learns a part of MNIST by Adam at 0.001 in batches of 50. Rotated are test images of
all digits but 0, 6, 8 and 9, which look like digits again. How well a measure of uncertainty tells images of
Fashion-MNIST from digits, and wrong predictions of images rotated by 45 degrees from right ones, is the area under the
ROC curve, 50 % for chance: the measures are the entropy of the mean of the Monte Carlo passes, its part from their
disagreement (mutual information), and the entropy of one prediction with dropout off.
"""

import keras
import numpy as np

from keras_dropouts import Dropout, monte_carlo
from papers import data

DATA = "mnist"
ARMS = ("no dropout", "dropout")
BUDGETS = {
    "short": {"seeds": 1, "images": 500, "epochs": 4, "passes": 3, "rotated": 60, "others": 60},
    "usual": {"seeds": 3, "images": 5000, "epochs": 6, "passes": 30, "rotated": 200, "others": 1000},
    "full": {"seeds": 10, "images": 60_000, "epochs": 20, "passes": 100, "rotated": 5000, "others": 10_000},
}
ROWS = ("no dropout, entropy", "dropout off, entropy", "Monte Carlo, entropy", "Monte Carlo, mutual information")
PUBLISHED = {
    "AUROC of Fashion-MNIST, %": dict.fromkeys(ROWS),
    "AUROC of errors at 45 degrees, %": dict.fromkeys(ROWS),
    "test error, %": dict.fromkeys(ROWS[:3]),
    "wrong and sure by 0.9 at 90 degrees, %": dict.fromkeys(ROWS[:3]),
}
CONCLUSION = (
    "Of digits rotated by 90 degrees, 37 % are mistaken with a confidence above 0.9 without dropout, 28 % with it off, "
    "and 9 % by Monte Carlo; but its passes tell neither clothes nor mistakes apart better than one prediction does "
    "with dropout off, and three seeds do not tell that from no dropout."
)
ANGLES = (0, 15, 30, 45, 60, 75, 90)


def measure(run):
    from scipy.ndimage import rotate
    from sklearn.metrics import roc_auc_score

    train, (x_test, y_test) = data.load(DATA)
    _, (clothes, _) = data.fashion_mnist()
    x, y = data.balanced(train, run.budget.images)
    dropout = [Dropout(0.5, seed=run.layer_seed())] if run.arm == "dropout" else []
    layers = []
    for filters in (8, 16):
        layers += [keras.layers.Conv2D(filters, 5, padding="same", activation="relu"), keras.layers.MaxPooling2D()]
    layers += [keras.layers.Flatten(), keras.layers.Dense(128, "relu"), *dropout, keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    model.compile("adam", "sparse_categorical_crossentropy")
    run.fit(model, x, y, run.budget.epochs, batch_size=50)

    def predicted(images):
        """Returns probabilities and uncertainties, by row."""
        p = model.predict(images, batch_size=200, verbose=0)
        entropy = -(p * np.log(p + 1e-12)).sum(-1)
        if not dropout:
            return {ROWS[0]: (p, entropy)}
        found = monte_carlo(model, images, run.budget.passes, 200, verbose=0, seed=run.seed, keep_samples=False)
        means = zip(ROWS[2:], (found.entropy, found.mutual_information), strict=True)
        return {ROWS[1]: (p, entropy)} | {row: (found.mean, uncertainty) for row, uncertainty in means}

    turned = np.flatnonzero(~np.isin(y_test, (0, 6, 8, 9)))[: run.budget.rotated]
    rotations = np.concatenate([rotate(x_test[turned], angle, (2, 1), reshape=False, order=1) for angle in ANGLES])
    count = run.budget.others
    parts = np.concatenate([rotations, x_test[:count], clothes[:count]]).clip(0, 1)
    rows = {}
    for row, (p, uncertainty) in predicted(parts).items():
        p_turned = p[: len(rotations)].reshape(len(ANGLES), len(turned), -1)
        wrong, sure = p_turned.argmax(-1) != y_test[turned], p_turned.max(-1) > 0.9
        digits, others = uncertainty[len(rotations) : -count], uncertainty[-count:]
        unsure = uncertainty[: len(rotations)].reshape(len(ANGLES), -1)
        rows[row] = {
            "AUROC of Fashion-MNIST, %": 100 * roc_auc_score([0] * count + [1] * count, [*digits, *others]),
            "AUROC of errors at 45 degrees, %": 100 * roc_auc_score(wrong[ANGLES.index(45)], unsure[ANGLES.index(45)]),
            "test error, %": 100 * float((p[len(rotations) : -count].argmax(-1) != y_test[:count]).mean()),
            "wrong and sure by 0.9 at 90 degrees, %": 100 * float((wrong & sure)[ANGLES.index(90)].mean()),
            "uncertainties": unsure.mean(-1).tolist(),
            "errors": (100 * wrong.mean(-1)).tolist(),
        }
    return rows


def draw(figure, measured):
    panels = figure.subplots(1, 2)
    for row in (row for row in ROWS if row in measured):
        curves = measured[row]["uncertainties"]
        panels[0].errorbar(ANGLES, curves.mean(0), curves.std(0), marker="o", label=row)
        if row != ROWS[3]:
            curves = measured[row]["errors"]
            panels[1].errorbar(ANGLES, curves.mean(0), curves.std(0), marker="o", label=row.split(",")[0])
    for axes, label in zip(panels, ("mean uncertainty, nats", "errors, %"), strict=True):
        axes.set(xlabel="rotated by, degrees", ylabel=label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
