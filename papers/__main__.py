"""Does again what papers report, on the backend of KERAS_BACKEND: `make papers`, or `python -m papers`.

Names choose scripts, `--budget full` the longer trainings: `make papers ARGS="srivastava_2014_max_norm --budget full"`.
Each run, an arm with a seed, is in `results/` as soon as it is finished; one that is stopped goes on where it was. Of
all results `docs/papers.md` is made, and a figure for each.

A script is a module of this folder, `<first author>_<year>_<what>.py`, for one published result. It has

- a docstring: a title line, then what the paper did and found, and what is done here; it is shown in the docs;
- `DATA`: the name of a function of `data.py`, whose data are `data.load(DATA)`, or `None` where the data are drawn;
- `ARMS`: the names of what is trained;
- `BUDGETS`: `{"short": {...}, "usual": {...}, "full": {...}}`, each with `"seeds"`, how many, and what else the script
  asks of `run.budget`. The short one is for tests, of a few seconds;
- `measure(run)`: does one run, and returns `{row: {measure: number or list}}`. A row is most often `run.arm`, but one
  training may serve several. Every layer that draws takes `seed=run.layer_seed()`: then arms with the same seed start
  from the same weights. `run.fit` trains, in an order of batches that the seed alone decides, and resumes;
- `PUBLISHED`: `{measure: {row: what the paper says}}`, the rows and measures of the table: a number, or words, or
  `None`. Differences, paired by seeds, are to the first row;
- `draw(figure, measured)`: draws on a Matplotlib figure what was measured, `measured[row][measure]` with an array over
  seeds, in any order of rows and with seeds or rows missing where runs are;
- `CONCLUSION`: a sentence, written after the runs.

Data come by Keras's own loaders; `MNIST_NPZ` may name a copy of `mnist.npz` where that cannot be downloaded.
"""

import argparse
import pathlib

from papers import report, results

FOLDER = pathlib.Path(__file__).parent


def main(arguments=None):
    names = report.scripts()
    parser = argparse.ArgumentParser(prog="papers", description="Does again what papers report.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which, of {', '.join(names)}; all unless given")
    parser.add_argument("--budget", choices=("short", "usual", "full"), default="usual", help="how long to train")
    parser.add_argument("--results", type=pathlib.Path, default=FOLDER / "results", help="the folder of the results")
    parser.add_argument("--docs", type=pathlib.Path, default=FOLDER.parent / "docs", help="the folder of the page")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(names):
        parser.error(f"`name` must be of {', '.join(names)}. Received: {', '.join(sorted(unknown))}")
    for name in given.names or names:
        results.complete(name, given.budget, given.results)
        report.write(given.results, given.docs)


if __name__ == "__main__":
    main()
