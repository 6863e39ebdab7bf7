"""The runs of a script: which are finished, and doing those that are not."""

import contextlib
import functools
import importlib
import json
import os
import shutil

import keras

from benchmarks import machine
from papers import data
from papers.run import Run

# It looks at all packages that are installed.
described = functools.cache(machine.describe)


def path_of(name, budget, folder):
    return folder / (f"{name}.json" if budget == "usual" else f"{name}.{budget}.json")


def complete(name, budget, folder):
    """Does the runs of a script that have no results in a folder, each of which is written when it is finished.

    Raises:
        ValueError: Where what is there is of another backend or budget or other data, with which nothing may be paired.
    """
    script = importlib.import_module(f"papers.{name}")
    path, settings = path_of(name, budget, folder), {**script.BUDGETS[budget]}
    seeds = settings.pop("seeds")
    found = {
        "backend": keras.backend.backend(),
        "data": script.DATA and {"name": script.DATA, "sha256": data.checksum(script.DATA)},
        "budget": settings,
    }
    results = json.loads(path.read_text()) if path.exists() else {**found, "runs": []}
    for key, value in found.items():
        if results[key] != json.loads(json.dumps(value)):
            raise ValueError(
                f"The runs of {name} must be of one {key}. To begin anew, delete {path}. "
                f"Received: {value!r}, and there are runs of {results[key]!r}"
            )
    finished = {(run["arm"], run["seed"]) for run in results["runs"]}
    # Seed by seed: where runs are missing, those that are there can be paired.
    for seed, arm in [(seed, arm) for seed in range(seeds) for arm in script.ARMS]:
        if (arm, seed) in finished:
            continue
        keras.utils.clear_session()
        keras.utils.set_random_seed(seed)
        place = folder / "unfinished" / path.stem / f"{arm}, {seed}".replace("/", "-")
        run = Run(arm, seed, settings, place)
        rows = script.measure(run)
        results["runs"].append(
            {
                "arm": arm,
                "seed": seed,
                "seconds": round(run.seconds, 1),
                "machine": described(),
                "rows": rows,
            }
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps(results, indent=1) + "\n")
        os.replace(path.with_suffix(".new"), path)
        shutil.rmtree(place, ignore_errors=True)
        print(f"{name}, {arm}, seed {seed}: {_short(rows)} ({run.seconds:.0f} s)", flush=True)
    with contextlib.suppress(OSError):
        for empty in (folder / "unfinished" / path.stem, folder / "unfinished"):
            empty.rmdir()


def _short(rows):
    numbers = {f"{row} {measure}": value for row, of in rows.items() for measure, value in of.items()}
    return "; ".join(f"{name} {value:.4g}" for name, value in numbers.items() if not isinstance(value, list))
