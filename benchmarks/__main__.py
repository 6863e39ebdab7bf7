"""Measures the layers on the backend of KERAS_BACKEND, in some fifteen minutes: `make bench`, or `python benchmarks`.

Writes `results/<backend>.json`, and makes `results/README.md` and `results/benchmarks.png` of all that is there. Give
names to measure only some of it: `python benchmarks training_step memory`.
"""

import importlib
import json
import os
import sys
import time

# Or else JAX and TensorFlow take a GPU's whole memory, and leave none for processes of their own.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import keras
import machine
import report

PARTS = ("training_step", "layer_alone", "memory", "compilation")


def main(parts):
    path = report.FOLDER / f"{keras.backend.backend()}.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:
        print(part, end=": ", flush=True)
        start = time.perf_counter()
        results[part] = {"machine": machine.describe(), "measured": importlib.import_module(part).measure()}
        print(f"{time.perf_counter() - start:.0f} s", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    report.write()


if __name__ == "__main__":
    main(sys.argv[1:] or PARTS)
