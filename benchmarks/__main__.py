"""Measures the layers on the backend of KERAS_BACKEND, in some ten minutes: `make bench`, or `python benchmarks`.

Writes `results/<backend>.json`, and makes `results/README.md` and `results/benchmarks.png` of all that is there. Give
names to measure only some of it: `python benchmarks training_step memory`.
"""

import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import sys

import keras
import report

PARTS = ("training_step", "layer_alone", "memory", "compilation")
PACKAGES = ("keras", "tensorflow", "tensorflow_cpu", "jax", "torch", "numba", "dropblock", "numpy")


def machine():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    found = re.search("model name\\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores, {platform.system()}, {device()}"


def device():
    if keras.backend.backend() != "torch":
        return ", ".join(keras.distribution.list_devices())
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu:0"


def versions():
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return ", ".join(f"{name} {version}" for name, version in found.items()) + f", Python {platform.python_version()}"


def main(parts):
    path = report.FOLDER / f"{keras.backend.backend()}.json"
    path.parent.mkdir(exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    for part in parts:
        print(part, flush=True)
        results |= {"machine": machine(), "versions": versions(), part: importlib.import_module(part).measure()}
        path.write_text(json.dumps(results, indent=1) + "\n")
    report.write()


if __name__ == "__main__":
    main(sys.argv[1:] or PARTS)
