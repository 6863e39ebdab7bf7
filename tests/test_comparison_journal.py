"""Nothing that is finished is lost, and what goes on ends as if it had never stopped."""

import contextlib
import functools
import os
import signal
import sqlite3

import joblib
import keras
import numpy as np
import pytest

from keras_dropouts import Dropout, compare
from keras_dropouts.comparison import compare as comparing
from keras_dropouts.comparison import experiment
from keras_dropouts.comparison.journal import JOURNAL, Journal, write_whole


def build_model(dropout):
    inputs = keras.Input((4,))
    hidden = dropout(keras.layers.Dense(8, activation="relu"))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(hidden))
    # Nothing to compile, in the other processes neither.
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    return model


def small_data(shift=0.0):
    x = np.random.default_rng(0).normal(size=(96, 4)) + shift
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    return (x[:64], y[:64]), (x[64:], y[64:])


def compared(out=None, data=None, **changes):
    settings = {"rates": [0.2, 0.5], "epochs": 1, "repeats": 2, "folds": 2, "budget": 6, "verbose": False}
    results = compare(build_model, data or small_data(), [Dropout], out=out, **settings | changes)
    for entry in results["results"]:
        entry["step_time"] = None
    return results | {"reloaded": None, "advice": None}


@pytest.fixture
def untimed(monkeypatch):
    monkeypatch.setattr(experiment.Experiment, "step_time", lambda self, number: 1.0)


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(comparing.Comparison, "_write", lambda self, results: None)


def test_ctrl_c_at_any_moment_loses_nothing(tmp_path, monkeypatch, untimed, undrawn):
    """It comes in each run, before it is written and after, and the next call goes on with the next run."""
    expected, put, trained = compared(), Journal.put, []
    run = experiment.Experiment.run

    def counted(self, which, keep=False):
        trained.append(which)
        return run(self, which, keep)

    def interrupted(before, self, key, record):
        if before:
            raise KeyboardInterrupt
        put(self, key, record)
        if not before:
            raise KeyboardInterrupt

    monkeypatch.setattr(experiment.Experiment, "run", counted)
    for before in (True, False) * 4:
        monkeypatch.setattr(Journal, "put", functools.partialmethod(functools.partial(interrupted, before)))
        with pytest.raises(KeyboardInterrupt):
            compared(tmp_path)
    done = len(trained)
    monkeypatch.setattr(Journal, "put", put)
    assert compared(tmp_path) == expected
    # One was lost for each that came before the writing, but nothing that was written; the identity is the first.
    whole = len({*trained})
    assert done < whole and len(trained) - whole == 3
    # All is there.
    trained.clear()
    assert compared(tmp_path) == expected and not trained


# Python and JAX warn of a fork where there are threads. The child, which comes to nothing else, uses none.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_is_killed_as_it_writes_leaves_what_was_written(tmp_path):
    """`benchmarks/kills.py` does so to whole comparisons."""
    child = os.fork()
    if not child:
        journal = Journal(tmp_path, {})
        journal.put("finished", {"value": 1})
        journal.connection.execute("BEGIN")
        journal.put("half", {"value": 2})
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with contextlib.closing(Journal(tmp_path, {})) as journal:
        assert journal.get("finished") == {"value": 1} and journal.get("half") is None


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch, untimed, undrawn):
    opened = Journal.__init__

    def full(self, folder, identity):
        opened(self, folder, identity)
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count = {pages + 1}")

    monkeypatch.setattr(Journal, "__init__", full)
    with pytest.raises(OSError, match=r"full\. make room, and give the same command again"):
        compared(tmp_path)
    with sqlite3.connect(tmp_path / JOURNAL) as connection:
        finished = connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    connection.close()
    assert finished > 1
    monkeypatch.setattr(Journal, "__init__", opened)
    assert compared(tmp_path) == compared()


@pytest.mark.parametrize(
    "changes, differs",
    [
        ({"epochs": 2}, r"epochs \(1, now 2\)"),
        ({"seed": 3}, r"seed \(0, now 3\)"),
        ({"rates": [0.2, 0.4]}, "layers"),
        ({"data": small_data(1.0)}, r"data \("),
        ({"metric": "nll"}, "task"),
    ],
)
def test_another_experiment_in_the_folder_is_refused(tmp_path, monkeypatch, untimed, undrawn, changes, differs):
    monkeypatch.setattr(experiment.Experiment, "run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(BaseException, match="it ran"):
        compared(tmp_path)
    with pytest.raises(ValueError, match=f"`out` holds another experiment, which differs in .*{differs}"):
        compared(tmp_path, **changes)


def test_a_layer_with_other_arguments_or_weights_is_another_experiment(tmp_path, monkeypatch):
    def identity(model, layers=(Dropout,), **changes):
        seen = []
        monkeypatch.setattr(comparing, "Journal", lambda folder, found: seen.append(found) or pytest.skip.Exception)
        with pytest.raises(AttributeError):
            compare(model, small_data(), layers, [0.2], verbose=False, **changes)
        return seen[0]

    def wider(dropout):
        inputs = keras.Input((4,))
        return keras.Model(inputs, keras.layers.Dense(2, "softmax")(dropout(keras.layers.Dense(9))(inputs)))

    keras.utils.set_random_seed(0)
    one, same, other = (
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
        for _ in range(3)
    )
    same.set_weights(one.get_weights())
    # Names count on in a process, and say nothing.
    assert identity(build_model) == identity(build_model)
    assert identity(one, finetune=True) == identity(same, finetune=True) != identity(other, finetune=True)
    assert identity(one) == identity(other)
    assert identity(wider) != identity(build_model)
    noisy = functools.partial(Dropout, scaling="inference")
    assert identity(build_model, [noisy]) != identity(build_model)


def test_two_processes_do_not_write_into_one_folder(tmp_path):
    journal = Journal(tmp_path, {})
    with pytest.raises(OSError, match="another process compares into this folder"):
        Journal(tmp_path, {})
    journal.close()
    Journal(tmp_path, {}).close()


def test_what_is_no_journal_is_refused_and_left(tmp_path):
    (tmp_path / JOURNAL).write_bytes(b"mine" * 999)
    with pytest.raises(ValueError, match="is no journal of a comparison"):
        Journal(tmp_path, {})
    assert (tmp_path / JOURNAL).read_bytes() == b"mine" * 999


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(part):
        part.write_text("ne")
        assert path.read_text() == "old"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, write)
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_model_file_that_was_deleted_is_made_again(tmp_path, untimed, undrawn):
    expected = compared(tmp_path)
    (tmp_path / comparing.MODEL).unlink()
    assert compared(tmp_path) == expected and (tmp_path / comparing.MODEL).is_file()


def test_a_run_that_diverges_is_the_worst(monkeypatch, untimed):
    predictions = experiment.Experiment.predictions

    def diverging(self, model, *args, **kwargs):
        p = predictions(self, model, *args, **kwargs)
        return p * np.nan if any(isinstance(layer, Dropout) and layer.rate == 0.5 for layer in model.layers) else p

    monkeypatch.setattr(experiment.Experiment, "predictions", diverging)
    results = compared()
    none, half = results["results"][0], results["results"][2]
    assert half["accuracy"] is half["gain"] is None and none["accuracy"] is not None
    assert results["chosen"]["rate"] != 0.5
    monkeypatch.setattr(experiment.Experiment, "predictions", lambda *_, **__: np.full(1, np.nan))
    with pytest.raises(ValueError, match="`model` must learn without dropout"):
        compared()


# Of processes that start Python and Keras, on Dask's scheduler the second as well.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["processes", "dask"])
def test_results_of_workers_are_those_of_one_process(tmp_path, monkeypatch, untimed, undrawn, where):
    if where == "processes":
        assert compared(tmp_path, workers=2) == compared()
        return
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):
        spread = compared(tmp_path)
    assert spread == compared()
