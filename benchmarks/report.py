"""The tables and the picture of what was measured, on all backends that have results."""

import json
import pathlib

from layers import FLOOR, LAYERS

FOLDER = pathlib.Path(__file__).parent / "results"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
OURS, STOCK, GREY = (0.9, 0.45, 0.1), (0.35, 0.45, 0.6), (0.7, 0.7, 0.7)


def table(title, unit, digits, sections):
    """Markdown: a row for each layer of each section, and for each backend what ours, Keras's own and a peer take.

    Args:
        sections: Numbers by backend, section and layer.
    """
    names = list(dict.fromkeys(section for of_backend in sections.values() for section in of_backend))
    header = [f"{title} ({unit})"]
    for backend in sections:
        header += [f"{BACKENDS[backend]}: ours", "Keras's", "peer"]
    rows = []
    for section in names:
        for kind in (FLOOR, *LAYERS):
            cells = [f"{section}: {kind}"]
            for of_backend in sections.values():
                numbers = of_backend.get(section, {})
                wanted = (
                    [FLOOR]
                    if kind == FLOOR
                    else [name for name in numbers if name.replace(".", " ").split()[-1] == kind]
                )
                found = [f"{numbers[name]:.{digits}f}" for name in wanted if name in numbers]
                cells += [*found, *[""] * (3 - len(found))]
            if any(cells[1:]):
                rows.append(cells)
    # No column for peers where there are none.
    full = [i for i in range(len(header)) if i == 0 or any(row[i] for row in rows)]
    lines = [[row[i] for i in full] for row in (header, ["---"] * len(header), *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def sections_of(part, field=None):
    """A function that takes, of a backend's results, the numbers of one part, by section and layer."""

    def numbers(measured):
        sections = measured.get(part, {}).items()
        return {name: {layer: n[field] if field else n for layer, n in layers.items()} for name, layers in sections}

    return numbers


def alone(direction):
    """The same of the milliseconds of a layer alone."""

    def numbers(measured):
        sections = measured.get("layer_alone", {}).items()
        return {f"{name} floats": {layer: n["ms"] for layer, n in of[direction].items()} for name, of in sections}

    return numbers


TABLES = (
    ("Training step", "times that without the layer", 2, sections_of("training_step", "ratio")),
    ("Training step", "ms", 1, sections_of("training_step", "ms")),
    ("Forward and backward", "ms", 2, alone("forward and backward")),
    ("Forward", "ms", 2, alone("forward")),
    ("Kept for the backward pass", "bytes an element", 3, sections_of("memory")),
    ("Compilation included", "seconds", 2, sections_of("compilation")),
)


def write():
    """Writes `results/README.md` and `results/benchmarks.png`."""
    results = {backend: FOLDER / f"{backend}.json" for backend in BACKENDS}
    results = {backend: json.loads(path.read_text()) for backend, path in results.items() if path.exists()}
    text = ["# Measured\n"]
    for backend, measured in results.items():
        text.append(f"- {BACKENDS[backend]}: {measured['machine']}; {measured['versions']}")
    for title, unit, digits, numbers in TABLES:
        sections = {backend: numbers(measured) for backend, measured in results.items()}
        text.append("\n" + table(title, unit, digits, sections))
    (FOLDER / "README.md").write_text("\n".join(text) + "\n")
    drawn = {backend: m for backend, m in results.items() if {"training_step", "layer_alone"} <= m.keys()}
    if drawn:
        picture(drawn)


def picture(results):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results), 6), layout="constrained")
    axes = figure.subplots(2, len(results), sharey="row", squeeze=False)
    for (backend, measured), (bars, lines) in zip(results.items(), axes.T, strict=True):
        step = measured["training_step"]["residual CNN"]
        pairs = list(LAYERS.values())
        for offset, (which, colour) in enumerate([("ours", OURS), ("Keras's", STOCK)]):
            heights = [step[list(pair)[offset]]["ratio"] for pair in pairs]
            bars.bar([i + 0.4 * offset for i in range(len(pairs))], heights, 0.38, color=colour, label=which)
        bars.axhline(step[FLOOR]["ratio"], color="black", linewidth=1, linestyle="--", label=FLOOR)
        bars.set_xticks([i + 0.2 for i in range(len(pairs))], [name.removesuffix("2D") for name in LAYERS], rotation=20)
        bars.set_title(BACKENDS[backend])
        by_size = [(int(size), sizes) for size, sizes in measured["layer_alone"].items() if size.isdigit()]
        for name, colour in (("Dropout", OURS), ("keras Dropout", STOCK), (FLOOR, GREY)):
            points = [(size, numbers["forward and backward"][name]["ms"]) for size, numbers in by_size]
            lines.loglog(*zip(*points, strict=True), color=colour, marker=".", label=name)
        lines.set_xlabel("elements")
    axes[0, 0].set_ylim(bottom=0.9)
    axes[0, 0].set_ylabel("training step of a small residual CNN,\ntimes that without the layer")
    axes[1, 0].set_ylabel("Dropout alone, forward and backward, ms")
    axes[0, 0].legend()
    axes[1, 0].legend()
    figure.savefig(FOLDER / "benchmarks.png", dpi=110)
