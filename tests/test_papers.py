"""Each script of papers runs, a stopped run goes on as if it had not been, and the page says what was measured."""

import importlib
import json
import sys
import types

import keras
import numpy as np
import pytest
from backend import BACKEND
from sklearn.datasets import load_digits

from papers import data, report, results
from papers.__main__ import main
from papers.run import Run

pytestmark = pytest.mark.skipif(BACKEND != "torch", reason="the scripts are the same, and start the fastest there")


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    """Digits of scikit-learn in the size of MNIST."""
    digits = load_digits()
    x = np.pad(digits.images.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))[..., None] / 16
    images = x.astype("float32"), digits.target.astype("int32")
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setattr(data, name, lambda: (tuple(a[:1200] for a in images), tuple(a[1200:] for a in images)))


@pytest.mark.parametrize("name", report.scripts())
def test_a_script_fills_its_table(name, tmp_path):
    main([name, "--budget", "short", "--results", str(tmp_path), "--docs", str(tmp_path)])
    script, page = importlib.import_module(f"papers.{name}"), (tmp_path / "papers.md").read_text()
    for measure, rows in script.PUBLISHED.items():
        for row in rows:
            assert f"| {measure}: {row} |" in page
    assert set(script.BUDGETS) == {"short", "usual", "full"} and script.CONCLUSION in page
    assert (tmp_path / "papers" / f"{name}.short.png").stat().st_size > 5000
    found = json.loads((tmp_path / f"{name}.short.json").read_text())
    assert {run["arm"] for run in found["runs"]} == set(script.ARMS)


def model_and_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model, np.random.default_rng(0).standard_normal((40, 4)), np.ones(40)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, monkeypatch):
    monkeypatch.setattr("papers.run.OFTEN", 0)
    whole = Run("arm", 1, {}, tmp_path / "whole")
    model, x, y = model_and_data()
    logs = whole.fit(model, x, y, 4, 10)

    def stop(model):
        if model.optimizer.iterations == 12:
            raise KeyboardInterrupt
        return {}

    stopped, _, _ = model_and_data()
    run = Run("arm", 1, {}, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        run.fit(stopped, x, y, 4, 10, stop)
    run._write("seconds", 100.0)
    again, _, _ = model_and_data()
    resumed = Run("arm", 1, {}, tmp_path / "stopped")
    trained = []
    assert resumed.fit(again, x, y, 4, 10, lambda _: trained.append(1) or {}) == logs
    assert len(trained) == 2 and resumed.seconds > 100
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def script_of(measure, **budget):
    script = types.SimpleNamespace(DATA=None, ARMS=("a", "b"), measure=measure)
    script.BUDGETS = {"short": {"seeds": 2, **budget}}
    return script


def test_what_is_finished_is_not_done_again(tmp_path, monkeypatch):
    done, stops = [], [("b", 1)]

    def measure(run):
        run.folder.mkdir(parents=True, exist_ok=True)
        if (run.arm, run.seed) in stops:
            raise KeyboardInterrupt
        done.append((run.arm, run.seed))
        return {run.arm: {"error": 1.0}}

    monkeypatch.setitem(sys.modules, "papers.some_2000_thing", script_of(measure))
    with pytest.raises(KeyboardInterrupt):
        results.complete("some_2000_thing", "short", tmp_path)
    unfinished = tmp_path / "unfinished"
    assert [path.name for path in (unfinished / "some_2000_thing.short").iterdir()] == ["b, 1"]
    stops.clear()
    results.complete("some_2000_thing", "short", tmp_path)
    assert done == [("a", 0), ("b", 0), ("a", 1), ("b", 1)] and not unfinished.exists()
    found = json.loads((tmp_path / "some_2000_thing.short.json").read_text())
    assert [(run["arm"], run["seed"]) for run in found["runs"]] == done


def test_runs_of_another_budget_are_refused(tmp_path, monkeypatch):
    modules, name = sys.modules, "some_2000_thing"
    monkeypatch.setitem(modules, f"papers.{name}", script_of(lambda run: {run.arm: {"error": 1.0}}, epochs=1))
    results.complete(name, "short", tmp_path)
    before = (tmp_path / f"{name}.short.json").read_text()
    monkeypatch.setitem(modules, f"papers.{name}", script_of(lambda run: {run.arm: {"error": 2.0}}, epochs=2))
    with pytest.raises(ValueError, match=r"must be of one budget.*'epochs': 2.*'epochs': 1"):
        results.complete(name, "short", tmp_path)
    assert (tmp_path / f"{name}.short.json").read_text() == before


def test_differences_are_paired_by_seed():
    rows = {0: (1.0, 2.0), 1: (3.0, 4.5), 2: (8.0, 8.5), 3: (7.0, None)}
    runs = [
        {"seed": seed, "rows": {row: {"error": value}}}
        for seed, values in rows.items()
        for row, value in zip(("a", "b"), values, strict=True)
        if value is not None
    ]
    # Student's t with two degrees of freedom: 4.303 times 0.5 / sqrt(3).
    np.testing.assert_allclose(report.difference(runs, "error", "a", "b"), (1.0, -0.242, 2.242), atol=1e-3)
    script = types.SimpleNamespace(PUBLISHED={"error": {"a": 1.6, "b": None}})
    page = report.table(script, runs)
    assert (
        "| error: a | 1.6 | 4.75 ± 3.3 | 4 |  |" in page
        and "| error: b |  | 5 ± 3.3 | 3 | +1 [-0.242, +2.24] |" in page
    )
