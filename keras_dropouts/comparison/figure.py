"""What came out, and what each layer does to a feature map, as a picture."""

import math

import numpy as np

from keras_dropouts.comparison.candidate import titled

ORANGE = (0.9, 0.45, 0.1)


def figure_of(results, sample, pictures):
    """Draws what came out, and what each layer does to a feature map."""
    from matplotlib.figure import Figure

    entries = results["results"]
    columns = 5
    rows = -(-(len(pictures) + 2) // columns) if pictures else 0
    heights = 1.6 + 0.26 * len(entries), max(2.0 * rows, 0.1)
    figure = Figure(figsize=(12, sum(heights) + 0.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=heights)
    _draw_results(upper, results)
    if pictures:
        _draw_pictures(lower, rows, columns, sample, pictures)
    return figure


def ranked(results):
    """Returns the entries of the results: none, then those that had the most runs, the best first."""
    none, *entries = results["results"]

    def standing(entry):
        gain = entry["gain"]
        return len(entry["runs"]), -math.inf if gain is None else gain["mean"]

    return [none, *sorted(entries, key=standing, reverse=True)]


def unit_of(results):
    """Returns how the metric is called, and by what it is multiplied to be shown."""
    metric = results["metric"]
    return ("accuracy (%)", 100) if metric == "accuracy" else (metric.upper(), 1)


def _draw_results(figure, results):
    entries = ranked(results)
    name, unit = unit_of(results)
    panels = [
        ("gain", f"gain in {name} over none\n(bars: 95 % interval)", unit),
        ("gap", f"{name}: better in training by", unit),
        ("ece", "calibration error (%)", 100),
        ("step_time", "time of a training step\n(multiple of none)", 1),
    ]
    if entries[0]["ece"] is None:
        del panels[2]
    names = list(dict.fromkeys(entry["layer"] for entry in results["results"]))
    colors = {name: f"C{(i - 1) % 10}" if i else "black" for i, name in enumerate(names)}
    figure.suptitle(
        f"{results['train_samples']} training samples in {results['folds']} folds, {results['epochs']} epochs, "
        f"Keras on {results['backend']} (dots: the runs; dashed: without dropout)",
        fontsize=10,
    )
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (key, title, unit) in zip(axes, panels, strict=True):
        for y, entry in enumerate(entries):
            _draw_entry(axis, y, entry, key, results, unit, colors[entry["layer"]])
        base = {"gain": 0, "step_time": 1}.get(key) if key in ("gain", "step_time") else entries[0][key]
        base = base["mean"] if isinstance(base, dict) else base
        axis.axvline(unit * base, color="black", ls="--", lw=0.8, zorder=0)
        axis.set_xlabel(title)
        axis.grid(axis="x", alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(entries)), [titled(entry["layer"], entry["rate"]) for entry in entries])
    axes[0].invert_yaxis()


def _draw_entry(axis, y, entry, key, results, unit, color):
    value = entry[key]
    if value is None:
        return
    if key == "step_time":
        axis.plot(value, y, "o", color=color)
        return
    if key == "gain":
        bar = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]] if value["low"] is not None else None
        dots = _gains(entry, results)
    else:
        bar, dots = value["std"], [run["ece"] for run in entry["runs"]] if key == "ece" else []
    axis.plot([unit * dot for dot in dots], [y] * len(dots), ".", color=color, alpha=0.4)
    axis.errorbar(
        unit * value["mean"], y, xerr=None if bar is None else np.multiply(bar, unit), fmt="o", color=color, capsize=3
    )


def _gains(entry, results):
    sign = 1 if results["metric"] == "accuracy" else -1
    pairs = zip(entry["runs"], results["results"][0]["runs"], strict=False)
    return [sign * (run["held_out"] - none["held_out"]) for run, none in pairs]


def curves_of(results):
    """Draws the loss by epochs, on the training and on the held-out part, of none and of those that came furthest."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    shown = [entry for entry in ranked(results) if entry["step_time"] is not None]
    for i, entry in enumerate(shown[:4]):
        color = f"C{i - 1}" if i else "black"
        for name, style in (("val_loss", "-"), ("loss", ":")):
            curves = np.array([run["curves"][name] for run in entry["runs"]], "float64").mean(0)
            label = titled(entry["layer"], entry["rate"]) if style == "-" else None
            axis.plot(range(1, len(curves) + 1), curves, style, color=color, label=label)
    axis.set(xlabel="epoch", ylabel="loss (dotted: in training, with dropout)")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def calibration_of(results):
    """Draws how often the model is right on the test data, against how sure it is; `None` in a regression."""
    from matplotlib.figure import Figure

    entries = [entry for entry in (results["test"]["none"], results["test"]["chosen"]) if entry and entry["ece"]]
    if not entries:
        return None
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], "--", color="gray", label="calibrated")
    for i, entry in enumerate(entries):
        confidence, accuracy, share = np.array([run["bins"] for run in entry["runs"]], "float64").transpose(1, 0, 2)
        weight = share.sum(0)
        filled = weight > 0
        x, y = (np.nansum(each * share, axis=0)[filled] / weight[filled] for each in (confidence, accuracy))
        label = f"{titled(entry['layer'], entry['rate'])}: ECE {100 * entry['ece']['mean']:.1f} %"
        axis.plot(x, y, "o-", color=f"C{i - 1}" if i else "black", label=label)
    axis.set(xlabel="confidence", ylabel="share that is right")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    return figure


def _draw_pictures(figure, rows, columns, sample, pictures):
    figure.suptitle(
        "The first sample, and features of it in the untrained model, with each dropout in training (orange: dropped)",
        fontsize=10,
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
