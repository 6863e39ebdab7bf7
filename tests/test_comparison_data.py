"""What a comparison reads, and what it is measured by."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from keras_dropouts import ClassificationScore, Dropout, compare
from keras_dropouts.comparison import command, experiment
from keras_dropouts.comparison.data import Data, checked_data, load
from keras_dropouts.comparison.task import Task

RNG = np.random.default_rng(0)


def split(x, y):
    half = len(x) // 2
    return (x[:half], y[:half]), (x[half:], y[half:])


X = RNG.normal(size=(24, 3))


@pytest.mark.parametrize(
    "y, task",
    [
        (np.arange(24) % 3, Task("classification", "accuracy", 3)),
        ((np.arange(24) % 2)[:, None], Task("classification", "accuracy", 2)),
        (np.eye(3)[np.arange(24) % 3], Task("classification", "accuracy", 3)),
        (RNG.integers(0, 2, (24, 4)), Task("multilabel", "accuracy", 4)),
        (RNG.integers(0, 2, (24, 4)).astype("float32"), Task("multilabel", "accuracy", 4)),
        (np.arange(48).reshape(24, 2) % 5, Task("tokens", "accuracy", 5)),
        (RNG.normal(size=24), Task("regression", "mae", 1)),
        (RNG.normal(size=(24, 2)), Task("regression", "mae", 2)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_the_labels_say_what_the_task_is(y, task):
    data = checked_data(split(X, y))
    assert data.task == task
    if task.kind == "classification":
        np.testing.assert_array_equal(data.y_train, np.arange(12) % task.outputs)


def test_the_measures_are_scikit_learns():
    p = RNG.dirichlet(np.ones(3), 40).astype("float32")
    y = RNG.integers(0, 3, 40)
    for metric, expected in (
        ("accuracy", metrics.accuracy_score(y, p.argmax(1))),
        ("nll", metrics.log_loss(y, p.astype("float64") / p.sum(1, keepdims=True, dtype="float64"))),
    ):
        task = Task("classification", metric, 3)
        assert task.value(task.losses(task.checked(p, y), y)) == pytest.approx(expected, rel=1e-6)
    assert Task("classification", "nll", 3).calibration(p, y)[0] == pytest.approx(ClassificationScore(p, y).ece)
    labels, marks = RNG.integers(0, 2, (40, 4)), RNG.random((40, 4)).astype("float32")
    several = Task("multilabel", "accuracy", 4)
    expected = 1 - metrics.hamming_loss(labels, marks >= 0.5)
    assert several.value(several.losses(marks, labels)) == pytest.approx(expected)
    true, said = RNG.normal(size=(40, 2)).astype("float32"), RNG.normal(size=(40, 2)).astype("float32")
    for metric, measure in (("mae", metrics.mean_absolute_error), ("rmse", metrics.root_mean_squared_error)):
        task = Task("regression", metric, 2)
        one = task.losses(task.checked(said[:, :1], true[:, 0]), true[:, 0])
        assert task.value(one) == pytest.approx(measure(true[:, 0], said[:, 0]), rel=1e-5)
        # What each sample adds has that mean too.
        assert task.shares(one).mean() == pytest.approx(task.value(one))


def test_tokens_that_do_not_count_do_not():
    y = np.array([[0, 1, -1], [2, -1, -1]])
    p = np.eye(3, dtype="float32")[[[0, 0, 0], [2, 0, 1]]]
    task = Task("tokens", "accuracy", 3)
    assert task.value(task.losses(task.checked(p, y), y)) == pytest.approx(2 / 3)
    assert task.calibration(p, y)[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_logits_and_one_output_are_probabilities_too(kind):
    y = np.array([0, 1, 1]) if kind == "classification" else np.array([[0], [1], [1]])
    task = Task(kind, "accuracy", 2 if kind == "classification" else 1)
    p = task.checked(np.array([[-9.0], [9.0], [-9.0]]), y, from_logits=True)
    assert task.value(task.losses(p, y)) == pytest.approx(2 / 3)


def test_folds_are_of_one_size_and_apart_and_of_all_classes():
    y = np.repeat([0, 1, 2], [60, 30, 13])
    data = Data((RNG.normal(size=(103, 2)), y), (RNG.normal(size=(9, 2)), y[::12]))
    folds = data.folds(5, seed=1)
    assert {len(fold) for fold in folds} == {20} and len(np.unique(np.concatenate(folds))) == 100
    counts = np.array([np.bincount(y[fold]) for fold in folds])
    assert (np.ptp(counts, axis=0) <= 1).all()
    (x_train, _), (x, y_held) = data.fold(folds[0])
    assert len(x_train) == 83 and len(x) == len(y_held) == 20
    assert not np.array_equal(folds[0], data.folds(5, seed=2)[0])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, i):
        return X[4 * i : 4 * i + 4], np.arange(4 * i, 4 * i + 4) % 2


def loaders():
    yield Batches()
    try:
        import torch

        pairs = torch.utils.data.TensorDataset(torch.tensor(X[:12]), torch.arange(12) % 2)
        yield torch.utils.data.DataLoader(pairs, 5)
    except ImportError:
        pass
    try:
        import tensorflow as tf

        yield tf.data.Dataset.from_tensor_slices((X[:12], np.arange(12) % 2)).batch(5)
    except ImportError:
        pass


def test_data_sets_that_yield_batches_are_read():
    arrays = checked_data(((X[:12], np.arange(12) % 2),) * 2)
    found = list(loaders())
    for batches in found:
        assert checked_data((batches, batches)).checksum() == arrays.checksum()
    assert found
    with pytest.raises(ValueError, match="must yield batches"):
        checked_data((iter(()), iter(())))


def table(rows=60):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": rng.normal(40, 10, rows),
            "city": rng.choice(["Oslo", "Rome", "Lima"], rows),
            "member": rng.random(rows) > 0.5,
            "spent": rng.normal(0, 1, rows),
        }
    )
    frame.loc[3:8, "age"] = np.nan
    frame.loc[10:12, "city"] = None
    frame["bought"] = np.where(frame.spent + rng.normal(0, 0.5, rows) > 0, "yes", "no")
    frame.loc[5, "bought"] = None
    return frame


def test_a_table_is_prepared_by_what_trains_alone(tmp_path):
    frame = table()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    data = load(str(tmp_path / "t.csv"), ["bought"])
    assert load(str(tmp_path / "t.parquet"), ["bought"]).checksum() == data.checksum()
    assert data.task.kind == "classification" and data.classes == ["no", "yes"]
    assert len(data.y_train) == 47 and len(data.y_test) == 12 and "1 rows without a target" in data.note
    folds = data.folds(4, 0)
    (x, _), (held_out, _) = data.fold(folds[0])
    # Two numbers, one with holes, four cities with the missing, two of member.
    assert x.shape[1] == held_out.shape[1] == data.whole()[0][0].shape[1] == 2 + 1 + 4 + 2
    assert np.isfinite(x).all() and np.isfinite(held_out).all()
    # By the mean of the training part, not of the others.
    np.testing.assert_allclose(x[:, :2].mean(0), 0, atol=1e-6)
    assert (abs(held_out[:, :2].mean(0)) > 1e-3).all()
    # A fold that is far away does not move it.
    data.x_train.iloc[folds[0], data.x_train.columns.get_loc("spent")] += 1e6
    np.testing.assert_array_equal(data.fold(folds[0])[0][0], x)


@pytest.mark.parametrize(
    "target, task, message",
    [
        ([], None, "--target must name a column"),
        (["price"], None, "--target must name a column .* age, city, member, spent, bought"),
        (["age"], "multilabel", "y_train must hold a row of labels"),
        (["city"], "regression", "--target must name a column of numbers"),
        (["city", "age"], None, "several columns must hold numbers"),
    ],
)
def test_a_table_that_says_too_little_is_refused(tmp_path, target, task, message):
    table().to_csv(tmp_path / "t.csv")
    table().to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "t.csv"), target, task)


def test_whole_numbers_of_many_values_want_a_task(tmp_path):
    pd.DataFrame({"x": np.arange(200.0), "rooms": np.arange(200)}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match="--task must say whether rooms is a class or a number"):
        load(str(tmp_path / "t.csv"), ["rooms"])
    assert load(str(tmp_path / "t.csv"), ["rooms"], "regression").task == Task("regression", "mae", 1)
    (tmp_path / "t.csv").write_bytes(b"\x00\xff")
    with pytest.raises(ValueError, match="no readable table"):
        load(str(tmp_path / "t.csv"), ["rooms"])


def test_advice_on_a_table_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    table().to_csv(tmp_path / "t.csv", index=False)
    options = f"--target spent --layers Dropout --epochs 1 --folds 2 --repeats 1 --budget 4 --out {tmp_path / 'out'}"
    assert command.main(["compare", "--data", str(tmp_path / "t.csv"), *options.split()]) == 0
    results = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert results["task"] == "regression" and results["metric"] == "mae"
    assert results["advice"].split(".")[0] in " ".join(capsys.readouterr().out.split())
    # There is no calibration of numbers, in the page neither.
    assert "Calibration" not in (tmp_path / "out" / "compare.html").read_text()


# Keras reads images with TensorFlow.
def test_a_folder_of_images(tmp_path):
    pytest.importorskip("tensorflow")
    for name, shade in (("cat", 0), ("dog", 250)):
        (tmp_path / name).mkdir()
        for i in range(10):
            keras.utils.save_img(tmp_path / name / f"{i}.png", np.full((6, 6, 3), shade + i % 5), scale=False)
    data = load(str(tmp_path), size=(4, 4))
    assert data.x_train.shape == (16, 4, 4, 3) and data.classes == ["cat", "dog"]
    assert ((data.x_train.mean((1, 2, 3)) > 100) == data.y_train).all()
    for part in ("train", "test"):
        (tmp_path / "parts" / part).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / name).copy(tmp_path / "parts" / part / name) if hasattr(tmp_path, "copy") else (
                tmp_path / "parts" / part / name
            ).symlink_to(tmp_path / name)
    data = load(str(tmp_path / "parts"), size=(4, 4))
    assert data.x_train.shape == data.x_test.shape == (20, 4, 4, 3)
    with pytest.raises(ValueError, match="no folder of images"):
        load(str(tmp_path / "cat"))


def test_a_model_of_several_inputs_and_one_hot_labels(monkeypatch):
    """Of its own loss, which wants one-hot labels."""
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    hidden = keras.layers.Dense(4, "relu")(keras.layers.Concatenate()([a, b]))
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(3, "softmax")(hidden))
    model.compile("sgd", "categorical_crossentropy")
    y = np.eye(3)[np.arange(12) % 3]
    part = {"a": X[:12, :2], "b": X[:12, 2:]}, y
    results = compare(model, (part, part), [Dropout], [0.5], 1, 1, folds=2, budget=2, verbose=False)
    assert results["task"] == "classification" and results["test"]["none"]["runs"][0]["curves"]["loss"]
