"""Kills a comparison at random moments, goes on each time, and looks whether the end is that of one left in peace.

`python benchmarks/kills.py [kills] [workers]` prints a line for each kill, and fails where a bit of the results
differs; only the times of a step may.
"""

import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

OPTIONS = "--layers Dropout GaussianDropout DropConnect --rates 0.2 0.5 --epochs 2 --repeats 2 --folds 4 --budget 20"


def start(data, out, workers):
    command = [sys.executable, "-m", "keras_dropouts", "compare", "--data", str(data), "--out", str(out)]
    command += [*OPTIONS.split(), "--workers", str(workers)]
    # In a group of its own, with its workers.
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def finished(process):
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"The comparison failed: {errors.decode()}")


def outcome(out):
    """Returns the results but for the times, and the weights of the model."""
    import keras

    import keras_dropouts  # noqa: F401

    results = json.loads((out / "compare.json").read_text())
    for entry in results["results"]:
        entry.pop("step_time")
    # It ends with a time.
    results["advice"] = results["advice"].split(" A training step takes")[0]
    weights = [weight.tolist() for weight in keras.saving.load_model(out / "best.keras").get_weights()]
    return results, weights


def main(kills=20, workers=1, seed=0):
    moments = random.Random(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(256, 8))
    y = (x[:, 0] * x[:, 1] + rng.normal(0, 0.3, 256) > 0).astype(int)
    with tempfile.TemporaryDirectory() as folder:
        data, peace = pathlib.Path(folder) / "data.npz", pathlib.Path(folder) / "peace"
        np.savez(data, x_train=x[:160], y_train=y[:160], x_test=x[160:], y_test=y[160:])
        begun = time.monotonic()
        finished(start(data, peace, workers))
        whole, expected = time.monotonic() - begun, outcome(peace)
        print(f"left in peace: {whole:.1f} s")
        done = rounds = 0
        while done < kills:
            rounds += 1
            out = pathlib.Path(folder) / f"killed {rounds}"
            while done < kills:
                process, moment = start(data, out, workers), moments.uniform(0, whole)
                try:
                    process.communicate(timeout=moment)
                    break
                except subprocess.TimeoutExpired:
                    subprocess.run(["kill", "-9", "--", f"-{process.pid}"], check=True)
                    process.communicate()
                    done += 1
                    print(f"kill {done} after {moment:.1f} s")
            finished(start(data, out, workers))
            if outcome(out) != expected:
                raise SystemExit(f"Round {rounds} ended otherwise.")
            print(f"round {rounds}: equal to the last bit")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
