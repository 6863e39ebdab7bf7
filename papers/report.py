"""The page of all results, and their figures."""

import ast
import collections
import importlib
import json
import pathlib
import re

import numpy as np

from papers.results import path_of

FOLDER = pathlib.Path(__file__).parent
BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def scripts():
    """Returns the names of all scripts."""
    return sorted(path.stem for path in FOLDER.glob("*_[12][0-9][0-9][0-9]_*.py"))


def write(results, docs):
    """Writes `papers.md`, and a figure of each script in `papers/`, of what there is in a folder of results."""
    sections, summary = [], [["result", "what came out"]]
    (docs / "papers").mkdir(parents=True, exist_ok=True)
    for name in scripts():
        for budget in ("usual", "full", "short"):
            path = path_of(name, budget, results)
            if path.exists():
                found = json.loads(path.read_text())
                script = importlib.import_module(f"papers.{name}")
                sections.append(section(script, name, path.stem, found))
                summary.append(summarized(script, found))
                picture(script, measured(found["runs"]), docs / "papers" / f"{path.stem}.png")
    (docs / "papers.md").write_text("\n".join([INTRODUCTION, markdown(summary), *sections]))


INTRODUCTION = """# Papers

What papers report of their methods, done again with the layers of this package, each by a script in `papers/` and at a
budget that is stated: most trainings are shorter than the papers', so orders and differences are to be compared, not
single numbers. Ours are means over seeds with their standard deviation. A difference is that to the first row of its
table, paired by seeds (the same initial weights and order of batches), with its 95 % interval by Student's t. Rows that
do not agree with the paper stay.

`make papers` does all again, `make papers ARGS=<script>` one, and `--budget full` with longer trainings.
"""


def measured(runs):
    """Returns what was measured, an array over seeds: `measured[row][measure]`."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for run in sorted(runs, key=lambda run: run["seed"]):
        for row, numbers in run["rows"].items():
            for measure, value in numbers.items():
                found[row][measure].append(value)
    return {row: {measure: np.array(values, "float64") for measure, values in of.items()} for row, of in found.items()}


def by_seed(runs, row, measure):
    return {run["seed"]: run["rows"][row][measure] for run in runs if measure in run["rows"].get(row, {})}


def difference(runs, measure, baseline, row):
    """Returns the mean over seeds of a row less the baseline, and the ends of its 95 % interval; else `None`."""
    from scipy import stats

    ours, theirs = (by_seed(runs, name, measure) for name in (row, baseline))
    both = sorted(ours.keys() & theirs.keys())
    differences = np.array([ours[seed] - theirs[seed] for seed in both])
    if len(both) < 2:
        return None
    mean, error = differences.mean(), stats.sem(differences)
    # Without any spread the interval is a point, for which SciPy has no number.
    low, high = stats.t.interval(0.95, len(both) - 1, mean, error) if error else (mean, mean)
    return float(mean), float(low), float(high)


def table(script, runs):
    rows = [["", "paper", "ours", "seeds", "less the first row"]]
    for measure, published in script.PUBLISHED.items():
        baseline = next(iter(published))
        for row, said in published.items():
            values = np.array(list(by_seed(runs, row, measure).values()))
            if not len(values):
                continue
            spread = f" ± {values.std(ddof=1):.2g}" if len(values) > 1 else ""
            apart = None if row == baseline else difference(runs, measure, baseline, row)
            rows.append(
                [
                    f"{measure}: {row}",
                    "" if said is None else said,
                    f"{values.mean():.4g}{spread}",
                    len(values),
                    "" if apart is None else "{:+.3g} [{:+.3g}, {:+.3g}]".format(*apart),
                ]
            )
    return markdown(rows)


def paragraphs(script):
    title, _, text = ast.get_docstring(ast.parse(pathlib.Path(script.__file__).read_text())).partition("\n")
    return title.rstrip("."), text.strip()


def source(found):
    return f"{found['data']['name']}, {found['data']['sha256']}" if found["data"] else "drawn"


def minutes(found):
    return f"{sum(run['seconds'] for run in found['runs']) / 60:.1f}"


def summarized(script, found):
    title, _ = paragraphs(script)
    # What GitHub and the site make of the heading.
    anchor = re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
    return [f"[{title}](#{anchor})", script.CONCLUSION]


def section(script, name, stem, found):
    title, text = paragraphs(script)
    machines = " | ".join(dict.fromkeys(run["machine"] for run in found["runs"]))
    budget = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in found["budget"].items())
    return "\n".join(
        [
            f"\n## {title}\n\n{text}\n",
            f"**{script.CONCLUSION}**\n",
            table(script, found["runs"]),
            f"![{title}](papers/{stem}.png)\n",
            f"`papers/{name}.py` with {budget}; {len(found['runs'])} runs in {minutes(found)} minutes on "
            f"{BACKENDS[found['backend']]}; {machines}. Data: {source(found)}.\n",
        ]
    )


def picture(script, measured, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    script.draw(figure, measured)
    figure.savefig(path, dpi=110)


def markdown(rows):
    rows = [[str(cell) for cell in row] for row in rows]
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
