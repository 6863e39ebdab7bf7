"""Measures where dropout is better placed for Monte Carlo dropout: after every convolution, or once before the head.

`python benchmarks/placement.py [digits | fashion_mnist] [seeds]` trains the small network of `keras_dropouts compare`
in each way, prints a table, and draws `placement_<data>.png`.
"""

import functools
import sys

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_dropouts as kd
from keras_dropouts.comparison.command import small_model, traits
from keras_dropouts.comparison.data import Data, load

RATES, SAMPLES, EPOCHS = (0.1, 0.3, 0.5), 30, 18
# Images to test with, at most.
TEST = 2000
MEASURES = {"accuracy": "test accuracy", "nll": "negative log-likelihood (nats)", "ece": "calibration error (ECE)"}
PLACES = {
    "SpatialDropout2D after every convolution": (kd.SpatialDropout2D, keras.layers.Conv2D),
    "one Dropout before the head": (kd.Dropout, keras.layers.Dense),
}


def place(layer, make, after):
    return keras.Sequential([layer, make()]) if isinstance(layer, after) else layer


def scores(data, seed, make=None, after=()):
    """Trains a model, and returns its scores on the test data: with dropout off, and of many predictions."""
    (x, y), (x_test, y_test) = data.whole()
    keras.utils.set_random_seed(seed)
    model = small_model(*traits(data), functools.partial(place, make=make, after=after))
    model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)
    off = kd.ClassificationScore(model.predict(x_test, batch_size=256, verbose=0), y_test)
    if make is None:
        return [off]
    return [off, kd.monte_carlo(model, x_test, SAMPLES, 256, verbose=0, seed=seed, keep_samples=False).score(y_test)]


def measure(data, seeds):
    """Returns, by what was tried, an array of (seeds, dropout off or many predictions, measures)."""
    tried = {"none": {}}
    for name, (layer, after) in PLACES.items():
        for rate in RATES:
            # With a seed of its own it takes no random numbers from the weights.
            tried[f"{name}, {rate}"] = {"make": functools.partial(layer, rate, seed=1), "after": after}
    results = {name: [] for name in tried}
    for seed in range(seeds):
        for name, where in tried.items():
            found = scores(data, seed, **where)
            results[name].append([[getattr(score, measure) for measure in MEASURES] for score in found])
            print(".", end="", flush=True)
    return {name: np.array(found) for name, found in results.items()}


def table(results):
    yield "dropout | predicted by | " + " | ".join(MEASURES)
    yield "|".join(["---"] * (2 + len(MEASURES)))
    for name, found in results.items():
        for how, values in zip(("dropout off", f"{SAMPLES} samples"), found.swapaxes(0, 1), strict=False):
            spread = zip(values.mean(0), values.std(0, ddof=1), strict=True)
            yield f"{name} | {how} | " + " | ".join(f"{mean:.4f} ± {std:.4f}" for mean, std in spread)


def draw(results, title):
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for i, (axis, label) in enumerate(zip(axes, MEASURES.values(), strict=True)):
        for y, found in enumerate(results.values()):
            for values, color, shift in zip(found.swapaxes(0, 1), ("gray", "C0"), (-0.15, 0.15), strict=False):
                mean, std = values[:, i].mean(), values[:, i].std(ddof=1)
                name = {"gray": "dropout off", "C0": f"mean of {SAMPLES} samples"}[color] if y == 1 and i == 0 else None
                axis.errorbar(mean, y + shift, xerr=std, fmt="o", color=color, capsize=3, label=name)
                axis.plot(values[:, i], [y + shift] * len(values), ".", color=color, alpha=0.4)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(results)), list(results))
    axes[0].invert_yaxis()
    figure.legend(loc="outside lower left", ncols=2, frameon=False)
    return figure


def main(name="digits", seeds="5"):
    keras.config.set_image_data_format("channels_last")
    train, (x_test, y_test) = load(name).whole()
    data = Data(train, (x_test[:TEST], y_test[:TEST]))
    results = measure(data, int(seeds))
    print("", *table(results), sep="\n")
    title = (
        f"{name}: {len(data.y_train)} training and {len(data.y_test)} test images, {EPOCHS} epochs, Keras on "
        f"{keras.config.backend()} (bars: ± one standard deviation over {seeds} seeds, dots: the seeds)"
    )
    draw(results, title).savefig(f"placement_{name}.png", dpi=100)


if __name__ == "__main__":
    main(*sys.argv[1:])
