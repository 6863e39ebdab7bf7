import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# As many processes as cores run the tests, and PyTorch's threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Two devices, so that a batch can be sharded.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
# What JAX has compiled for one test, the next ones and the other processes need not compile again.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import keras
import pytest

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    # Two devices, so that a strategy can replicate.
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )


@pytest.fixture(params=["float32", "mixed_float16", "mixed_bfloat16"])
def policy(request):
    return request.param


def pytest_collection_modifyitems(items):
    """Puts the laws of a row one after the other, for one process: what JAX has compiled for one serves the next."""

    def row(item):
        return str(item.callspec.params.get("row", "")) if hasattr(item, "callspec") else ""

    laws = [i for i, item in enumerate(items) if item.path.name == "test_laws.py"]
    for i, item in zip(laws, sorted((items[i] for i in laws), key=row), strict=True):
        items[i] = item
