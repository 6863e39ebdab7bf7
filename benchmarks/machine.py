"""What is measured on."""

import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess

import keras
import psutil

PACKAGES = ("keras", "tensorflow", "tensorflow_cpu", "jax", "torch", "numba", "triton", "dropblock", "numpy")


def _on_gpu():
    if keras.backend.backend() != "torch":
        return any("gpu" in name for name in keras.distribution.list_devices())
    import torch

    return torch.cuda.is_available()


ON_GPU = _on_gpu()


def _nvidia(*fields):
    """What nvidia-smi says of the first GPU."""
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(", ")


def vectors(flags):
    """The widest vectors that a processor of these flags has."""
    return next((name for name, flag in (("AVX-512", "avx512f"), ("AVX2", "avx2")) if flag in flags), "no AVX2")


def processor(cpuinfo):
    """The processor's name and widest vectors, of the text of Linux's /proc/cpuinfo."""
    found = dict(re.findall(r"^(model name|flags)\s*: (.*)$", cpuinfo, re.MULTILINE))
    name = found.get("model name", platform.processor() or platform.machine())
    return f"{name}, {vectors(found['flags'].split())}" if "flags" in found else name


def describe():
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    said = [processor(cpuinfo.read_text() if cpuinfo.exists() else ""), f"{os.cpu_count()} cores", platform.system()]
    if ON_GPU:
        name, driver = _nvidia("name", "driver_version")
        said.append(f"{name}, driver {driver}")
    return ", ".join([*said, versions()])


def versions():
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return ", ".join(f"{name} {version}" for name, version in found.items()) + f", Python {platform.python_version()}"


def memory():
    """The bytes there are to measure in."""
    return int(_nvidia("memory.total")[0]) * 2**20 if ON_GPU else psutil.virtual_memory().available
