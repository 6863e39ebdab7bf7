"""What came out, and what each layer does to a feature map, as a picture."""

import numpy as np

from keras_dropouts.comparison.candidate import titled

ORANGE = (0.9, 0.45, 0.1)


def figure_of(results, sample, pictures):
    """Draws what came out, and what each layer does to a feature map."""
    from matplotlib.figure import Figure

    entries = results["results"]
    columns = 5
    rows = -(-(len(pictures) + 2) // columns)
    heights = 1.6 + 0.26 * len(entries), 2.0 * rows
    figure = Figure(figsize=(12, sum(heights) + 0.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    _draw_results(upper, results)
    _draw_pictures(lower, rows, columns, sample, pictures)
    return figure


def _draw_results(figure, results):
    entries = results["results"]
    panels = (
        ("accuracy", "test accuracy (%)", 100),
        ("gap", "train \u2212 test accuracy (points)", 100),
        ("ece", "calibration error (%)", 100),
        ("step_time", "time of a training step\n(multiple of none)", 1),
    )
    names = list(dict.fromkeys(entry["layer"] for entry in entries))
    colors = {name: f"C{(i - 1) % 10}" if i else "black" for i, name in enumerate(names)}
    spread = "bars: \u00b1 one standard deviation over seeds, dots: the seeds" if results["repeats"] > 1 else "one seed"
    figure.suptitle(
        f"{results['train_samples']} training and {results['test_samples']} test samples, {results['epochs']} epochs, "
        f"Keras on {results['backend']} ({spread}; dashed: without dropout)",
        fontsize=10,
    )
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (key, title, unit) in zip(axes, panels, strict=True):
        for y, entry in enumerate(entries):
            color = colors[entry["layer"]]
            if key == "step_time":
                axis.plot(entry[key], y, "o", color=color)
                continue
            mean, std = (unit * (entry[key][part] or 0) for part in ("mean", "std"))
            axis.plot([unit * run[key] for run in entry["runs"]], [y] * len(entry["runs"]), ".", color=color, alpha=0.4)
            axis.errorbar(mean, y, xerr=std or None, fmt="o", color=color, capsize=3)
        none = entries[0][key]
        axis.axvline(
            unit * (none["mean"] if isinstance(none, dict) else none), color="black", ls="--", lw=0.8, zorder=0
        )
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(
        range(len(entries)),
        [titled(entry["layer"], entry["rate"]) for entry in entries],
    )
    axes[0].invert_yaxis()


def _draw_pictures(figure, rows, columns, sample, pictures):
    figure.suptitle(
        "The first test sample, and features of it before their activation, in training (orange: dropped)", fontsize=10
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    panels = [("the sample", sample, sample), *[("none", clean, clean) for _, clean, _ in pictures[:1]]]
    panels += [(str(candidate), *features) for candidate, *features in pictures]
    for axis, (title, before, after) in zip(axes, panels, strict=False):
        channels = np.argsort(-(before != 0).mean(tuple(range(before.ndim - 1))), kind="stable")[:6]
        before, after = (_tiles(values, channels) for values in (before, after))
        dropped = (after == 0) & (before != 0)
        axis.imshow(painted(after, dropped, np.nanmin(before), np.nanmax(before)), interpolation="nearest")
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.axis("off")


def painted(values, dropped, low, high):
    """Returns a picture of `values`, from black for `low` to white for `high`, and orange where `dropped`."""
    gray = (values - low) / (high - low or 1)
    image = np.repeat(np.clip(np.nan_to_num(gray, nan=1), 0, 1)[..., None], 3, axis=-1)
    image[dropped] = ORANGE
    return image


def _tiles(values, channels):
    """Returns features as one image: channels side by side, a vector folded into rows. NaN where nothing is."""
    if values.ndim > 3:
        return _tiles(values[len(values) // 2], channels)
    if values.ndim == 2:
        return values.T
    if values.ndim == 1:
        width = int(np.ceil(np.sqrt(2 * len(values))))
        height = -(-len(values) // width)
        return np.pad(values, (0, width * height - len(values)), constant_values=np.nan).reshape(height, width)
    gap = max(1, values.shape[1] // 10)
    tiles = [np.pad(values[..., i], gap, constant_values=np.nan) for i in channels]
    tiles += [np.full_like(tiles[0], np.nan)] * (-len(tiles) % 3 if len(tiles) > 3 else 0)
    return np.concatenate([np.concatenate(tiles[i : i + 3], axis=1) for i in range(0, len(tiles), 3)])
