"""The benchmarks leave no layer out, and say where it falls short and on what machine that was measured."""

import functools

import machine
import placement
import pytest
import report
from backend import BACKEND
from catalog import ROWS
from layers import FLOOR, KERAS, LAYERS, NONE, OURS
from networks import NETWORKS

from keras_dropouts.comparison.task import Task
from keras_dropouts.keras_internals import all_layers


def test_every_layer_is_measured():
    assert {str(row) for row in ROWS} <= LAYERS.keys()
    for kind in LAYERS.values():
        assert kind.networks and set(kind.networks) <= NETWORKS.keys()


@pytest.mark.parametrize(
    "flags, vectors",
    [("sse2 avx2 avx512f", "AVX-512"), ("sse2 avx avx2", "AVX2"), ("sse2 avx", "no AVX2")],
)
def test_a_processor_is_named_with_its_vectors(flags, vectors):
    assert machine.processor(f"model name\t: Fast\nflags\t\t: {flags}\n") == f"Fast, {vectors}"


def test_a_gpu_is_named_with_its_driver(monkeypatch):
    monkeypatch.setattr(machine, "ON_GPU", True)
    monkeypatch.setattr(
        machine, "_nvidia", lambda *fields: [{"name": "Card", "driver_version": "1.2"}[f] for f in fields]
    )
    assert "Card, driver 1.2" in machine.describe()


def test_what_falls_short_of_a_goal_is_counted_and_bold():
    numbers = {
        NONE: {OURS: {"ms": 10.0, "ratio": 1.0}},
        FLOOR: {OURS: {"ms": 10.0, "ratio": 1.0}},
        "Dropout": {OURS: {"ms": 12.5, "ratio": 1.25}, KERAS: {"ms": 15.0, "ratio": 1.5}},
        "MaxDrop": {OURS: {"ms": 10.0, "ratio": 1.0}},
    }
    page = report.page({BACKEND: {"training_step": {"machine": "here", "measured": {"CNN": numbers}}}})
    assert "1 of 2 fall short; worst 1.25 (CNN: Dropout)" in page
    assert "0 of 1 fall short; worst 0.83 (CNN: Dropout)" in page
    assert "| CNN: no layer, ms | 10.00 |" in page
    assert "| CNN: Dropout | **1.25** | 1.50 |" in page and "| CNN: MaxDrop | 1.00 |" in page


def test_what_was_not_measured_says_why():
    measured = {"400000000": "not measured: may take 19 GB, and there are 8"}
    page = report.page({BACKEND: {"layer_alone": {"machine": "here", "measured": measured}}})
    assert "layer_alone, 400000000: not measured: may take 19 GB" in page


def test_dropout_is_placed_where_the_name_says():
    numbers = []
    for make, after in placement.PLACES.values():
        place = functools.partial(placement.place, make=functools.partial(make, 0.5), after=after)
        model = placement.small_model((8, 8, 1), Task("classification", "accuracy", 10), 0.0, 1.0, place)
        numbers.append([type(layer) for layer in all_layers(model)].count(make))
    assert numbers == [2, 1]
