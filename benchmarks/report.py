"""The tables and the picture of what was measured, on all backends that have results."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from layers import FLOOR, KERAS, LAYERS, NONE, OURS, PEER

FOLDER = pathlib.Path(__file__).parent / "results"
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
COLOURS = {OURS: (0.9, 0.45, 0.1), KERAS: (0.35, 0.45, 0.6), PEER: (0.5, 0.7, 0.4), FLOOR: (0.6, 0.6, 0.6)}
# What is meant to be never slower may be so much slower: two runs agree no better.
NOISE = 1.03


class Goal(NamedTuple):
    """What ours is held to: `measured(section, kind)`, a number or `None`, is to be at most `limit`.

    In sections of fewer floats than `fewest` it is not.
    """

    said: str
    measured: Callable
    limit: float
    fewest: float = 0


def of_floor(section, kind):
    return section[kind][OURS] / section[FLOOR][OURS]


def of_stock(section, kind):
    return section[kind][OURS] / section[kind][KERAS] if KERAS in section[kind] else None


NO_SLOWER = Goal("no slower than Keras's", of_stock, NOISE)
NO_MORE = Goal("no more than Keras's", of_stock, NOISE)


class Table(NamedTuple):
    """What is shown of a part: `sections(measured)` gives numbers by section, layer and whose it is."""

    title: str
    part: str
    sections: Callable
    digits: int
    goals: tuple


def ratios(unit, base, select=lambda section: section, label=str):
    """A function that takes what was measured in `unit`, and gives the base in that, and of the rest its ratios to it.

    Sections that were not measured say why, and are left out.
    """

    def sections(measured):
        chosen = {label(name): select(of) for name, of in measured.items() if not isinstance(of, str)}
        return {
            name: {
                f"{layer}, {unit}" if layer == base else layer: {
                    whose: n[unit if layer == base else "ratio"] for whose, n in numbers.items()
                }
                for layer, numbers in of.items()
            }
            for name, of in chosen.items()
        }

    return sections


def alone(direction):
    return ratios("ms", FLOOR, lambda section: section[direction], lambda name: f"{name} floats")


# Ratios to the floor already.
LARGE = Goal(
    "at most 1.15 of `x * 2` from 1e8 floats on, on a GPU", lambda section, kind: section[kind][OURS], 1.15, 1e8
)
TABLES = (
    Table(
        "Training step (times that without the layer)",
        "training_step",
        ratios("ms", NONE),
        2,
        (Goal("at most 1.05 of the `x * 2` step", of_floor, 1.05), NO_SLOWER),
    ),
    Table(
        "Alone, forward and backward (times `x * 2`)",
        "layer_alone",
        alone("forward and backward"),
        2,
        (NO_SLOWER, LARGE),
    ),
    Table("Alone, forward (times `x * 2`)", "layer_alone", alone("forward"), 2, (NO_SLOWER, LARGE)),
    Table(
        "Kept for the backward pass (bytes an element)",
        "memory",
        lambda measured: measured.get("kept", {}),
        3,
        (Goal("nothing an element", lambda section, kind: section[kind][OURS], 0.001),),
    ),
    Table(
        "Peak memory of a training step (times that without the layer)",
        "memory",
        lambda measured: ratios("MB", NONE)(measured.get("peak", {})),
        2,
        (NO_MORE,),
    ),
    Table("Compilation included (seconds)", "compilation", lambda measured: measured, 2, (NO_SLOWER,)),
)


def floats(section):
    """How many floats a section of layers alone is about."""
    return int(section.split()[-2])


def held(goal, sections):
    """The numbers of which a goal is asked, of a backend, the worst first, each with its section and layer."""
    rows = [
        (goal.measured(section, kind), (name, kind))
        for name, section in sections.items()
        if not goal.fewest or floats(name) >= goal.fewest
        for kind in section
        if kind in LAYERS
    ]
    return sorted((row for row in rows if row[0] is not None), reverse=True)


def markdown(rows):
    rows = [[str(cell) for cell in row] for row in rows]
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def goals_met(measured):
    """Markdown: for each goal and backend the worst row, and how many fall short."""
    rows = [["goal", *(BACKENDS[backend] for backend in measured[TABLES[0]])]]
    for table, by_backend in measured.items():
        for goal in table.goals:
            cells = []
            for sections in by_backend.values():
                asked = held(goal, sections)
                short = sum(number > goal.limit for number, _ in asked)
                worst = f"{asked[0][0]:.2f} ({': '.join(asked[0][1])})" if asked else ""
                cells.append(f"{short} of {len(asked)} fall short; worst {worst}" if asked else "")
            rows.append([f"{table.title.split(' (')[0]}: {goal.said}", *cells])
    return markdown(rows)


def shown(table, by_backend):
    """Markdown: a row for each layer of each section, and for each backend what ours, Keras's own and a peer take.

    What falls short of a goal is bold.
    """
    columns = [(backend, whose) for backend in by_backend for whose in (OURS, KERAS, PEER)]
    short = {
        (backend, *row)
        for backend, sections in by_backend.items()
        for goal in table.goals
        for number, row in held(goal, sections)
        if number > goal.limit
    }
    names = {}
    for sections in by_backend.values():
        for section, of in sections.items():
            names.setdefault(section, {}).update(dict.fromkeys(of))
    rows = [["", *(f"{BACKENDS[backend]}: {whose}" for backend, whose in columns)]]
    for section, kinds in names.items():
        for kind in kinds:
            cells = [f"{section}: {kind}"]
            for backend, whose in columns:
                number = by_backend[backend].get(section, {}).get(kind, {}).get(whose)
                cell = "" if number is None else f"{number:.{table.digits}f}"
                cells.append(f"**{cell}**" if whose == OURS and (backend, section, kind) in short else cell)
            rows.append(cells)
    # No column for peers where there are none.
    full = [i for i in range(len(rows[0])) if i == 0 or any(row[i] for row in rows[1:])]
    return markdown([[row[i] for i in full] for row in rows])


def machines(results):
    """A line for each machine and backend, with the parts that were measured there."""
    for backend, parts in results.items():
        by_machine = {}
        for part, result in parts.items():
            by_machine.setdefault(result["machine"], []).append(part)
        for machine, names in by_machine.items():
            yield f"- {BACKENDS[backend]} ({', '.join(names)}): {machine}"


def left_out(results):
    for backend, parts in results.items():
        for part, result in parts.items():
            for section, why in result["measured"].items():
                if isinstance(why, str):
                    yield f"- {BACKENDS[backend]}, {part}, {section}: {why}"


def write():
    """Writes `results/README.md` and `results/benchmarks.png`."""
    paths = {backend: FOLDER / f"{backend}.json" for backend in BACKENDS}
    results = {backend: json.loads(path.read_text()) for backend, path in paths.items() if path.exists()}
    (FOLDER / "README.md").write_text(page(results))
    picture({backend: parts for backend, parts in results.items() if {"training_step", "layer_alone"} <= parts.keys()})


def page(results):
    """The page of the results: the machines, the goals and how far they are met, then all tables."""
    measured = {
        table: {b: table.sections(parts[table.part]["measured"]) for b, parts in results.items() if table.part in parts}
        for table in TABLES
    }
    nearest = ", ".join(f"{name}: {kind.nearest}" for name, kind in LAYERS.items() if kind.nearest)
    return "\n".join(
        [
            "# Measured\n",
            *machines(results),
            *left_out(results),
            "\nRatios are medians of ratios to what ran beside it. A number that falls short of a goal is bold.\n",
            goals_met({table: {b: by.get(b, {}) for b in results} for table, by in measured.items()}),
            f'"Keras\'s" is the layer of the same name, or the nearest. {nearest}.',
            *(f"\n## {table.title}\n\n{shown(table, by_backend)}" for table, by_backend in measured.items()),
        ]
    )


def picture(results):
    """Draws the training steps, a dot for each layer, and Dropout alone over the sizes."""
    if not results:
        return
    from matplotlib.figure import Figure

    steps = {backend: parts["training_step"]["measured"] for backend, parts in results.items()}
    rows = list(dict.fromkeys((s, k) for step in steps.values() for s in step for k in step[s] if k in LAYERS))
    figure = Figure(figsize=(4 + 3 * len(results), 4 + 0.19 * len(rows)), layout="constrained")
    grid = {"height_ratios": [0.19 * len(rows), 3]}
    axes = figure.subplots(2, len(results), sharey="row", squeeze=False, gridspec_kw=grid)
    for (backend, step), (dots, lines) in zip(steps.items(), axes.T, strict=True):
        for whose in (FLOOR, KERAS, PEER, OURS):
            layer = (FLOOR, OURS) if whose == FLOOR else (None, whose)
            points = [(step.get(s, {}).get(layer[0] or k, {}).get(layer[1]), i) for i, (s, k) in enumerate(rows)]
            points = [(point["ratio"], i) for point, i in points if point]
            if points:
                dots.plot(*zip(*points, strict=True), "|" if whose == FLOOR else "o", color=COLOURS[whose], label=whose)
        dots.set_xscale("log")
        ticks, limits = [1, 1.5, 2, 3, 5, 10, 20], dots.get_xlim()
        dots.set_xticks(ticks, ticks)
        dots.set_xticks([], minor=True)
        dots.set_xlim(limits)
        dots.axvline(1, color="black", linewidth=0.8)
        dots.grid(alpha=0.3)
        dots.set_title(BACKENDS[backend])
        dots.set_xlabel("training step, times that without the layer")
        sizes = results[backend]["layer_alone"]["measured"]
        sizes = [
            (int(size), of["forward and backward"]) for size, of in sizes.items() if size.isdigit() and type(of) is dict
        ]
        for (name, whose), label in {(FLOOR, OURS): FLOOR, ("Dropout", KERAS): KERAS, ("Dropout", OURS): OURS}.items():
            points = [(size, of[name][whose]["ms"]) for size, of in sizes]
            lines.loglog(*zip(*points, strict=True), color=COLOURS[label], marker=".", label=label)
        lines.set_xlabel("elements")
    axes[0, 0].set_yticks(range(len(rows)), [f"{section}: {kind}" for section, kind in rows])
    axes[0, 0].invert_yaxis()
    axes[1, 0].set_ylabel("Dropout alone, forward\nand backward, ms")
    axes[0, -1].legend()
    axes[1, 0].legend()
    figure.savefig(FOLDER / "benchmarks.png", dpi=110)
