import concurrent.futures
import functools
import io
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_dropouts
from keras_dropouts import Dropout, GaussianDropout, SpatialDropout2D, SpatialDropout3D, compare
from keras_dropouts.comparison import candidate as candidates
from keras_dropouts.comparison import command, figure, progress
from keras_dropouts.comparison import compare as comparing

LAYERS = list(command.LAYERS.values())


@functools.cache
def digits(train=128, test=128):
    bunch = load_digits()
    x, y = bunch.images[..., None], bunch.target
    return (x[:train], y[:train]), (x[train : train + test], y[train : train + test])


def small_model(dropout, data=None):
    return command.small_model(*command.traits(comparing.checked_data(data or digits())), dropout)


ALL_FILES = ["best.keras", "compare.json", "compare.png"]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def model_of_all_ranks(dropout):
    """A model that offers places of rank 2 to 5."""
    inputs = keras.Input((2, 4, 6, 3))
    x = dropout(keras.layers.Conv3D(4, 1, data_format="channels_last"))(inputs)
    x = keras.layers.Reshape((8, 6, 4))(x)
    x = dropout(keras.layers.Conv2D(4, 3, data_format="channels_last"))(x)
    x = keras.layers.Reshape((24, 4))(x)
    x = dropout(keras.layers.Conv1D(4, 3, data_format="channels_last"))(x)
    x = dropout(keras.layers.Dense(12))(keras.layers.Flatten()(x))
    return keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(x))


def test_results_and_files_agree(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(comparing, "ROUNDS", 2)
    out = tmp_path / "new" / "folder"
    layers = [functools.partial(Dropout, 0.5), SpatialDropout2D]
    results = compare(small_model, digits(), layers, [0.3], epochs=2, repeats=2, seed=5, out=out, verbose=False)
    assert files(out) == ALL_FILES
    assert json.loads((out / "compare.json").read_text()) == results
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    entries = results["results"]
    expected = [("none", None), ("Dropout", 0.5), ("SpatialDropout2D", 0.3)]
    assert [(entry["layer"], entry["rate"]) for entry in entries] == expected
    assert [entry["places"] for entry in entries] == [0, 3, 2]
    for entry in entries:
        assert [run["seed"] for run in entry["runs"]] == [5, 6]
        for name in ("accuracy", "gap", "ece"):
            values = [run[name] for run in entry["runs"]]
            np.testing.assert_allclose(
                [entry[name]["mean"], entry[name]["std"]], [np.mean(values), np.std(values, ddof=1)]
            )
        assert 0 < entry["step_time"] < 1000
    # The table and the picture name them alike.
    command.show(results, out)
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line]
    assert ["Dropout", "0.5"] in rows and ["SpatialDropout2D", "0.3"] in rows
    ticks = figure.figure_of(results, digits()[1][0][0], []).axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == ["none", "Dropout 0.5", "SpatialDropout2D 0.3"]
    # What is in the file is what was measured.
    best = results["best"]
    model = keras.saving.load_model(out / "best.keras")
    x, y = digits()[1]
    accuracy = np.mean(model.predict(x, verbose=0).argmax(1) == y)
    assert best["reloaded"] == "identical" and not results["interrupted"]
    assert best["accuracy"] == accuracy == max(run["accuracy"] for entry in entries for run in entry["runs"])


def test_runs_differ_by_the_dropout_alone(monkeypatch):
    monkeypatch.setattr(comparing, "ROUNDS", 1)
    results = compare(small_model, digits(), [Dropout], [0.0, 0.5], epochs=2, repeats=2, verbose=False)
    none, undropped, dropped = (entry["runs"] for entry in results["results"])
    alone = compare(small_model, digits(), [Dropout], [0.5], epochs=2, repeats=1, seed=1, verbose=False)
    assert [entry["runs"] for entry in alone["results"]] == [none[1:], dropped[1:]]
    # A layer that drops nothing learns what the model without it learns: same start, same batches.
    assert undropped == none != dropped


def test_a_softmax_may_be_some_hundredths_off():
    data = digits()
    outputs = np.full((3, 10), 0.1)
    np.testing.assert_array_equal(comparing._probabilities(outputs * 1.04, 3, data), np.float32(outputs * 1.04))
    for wrong in (outputs * 1.2, outputs - 1.5 * np.eye(3, 10), outputs[:, 1:], outputs * np.nan):
        with pytest.raises(ValueError, match="end it with a softmax"):
            comparing._probabilities(wrong, 3, data)


# They are no layers to put behind another, or not with a rate alone.
NO_PLACE = {
    keras_dropouts.Cutout: "needs values for length",
    keras_dropouts.TimeMasking: "needs values for max_width",
    keras_dropouts.FrequencyMasking: "needs values for max_width",
    keras_dropouts.PatchDropout: "expected ndim=3",
    keras_dropouts.EmbeddingDropout: "must be a keras.layers.Embedding",
    keras_dropouts.ModalityDropout: "must be a list or tuple",
    keras_dropouts.MaxPoolingDropout1D: "expected ndim=3",
    keras_dropouts.MaxPoolingDropout2D: "must not change the shape",
    keras_dropouts.MaxPoolingDropout3D: "expected ndim=5",
    keras_dropouts.MultiHeadAttention: "needs values for key_dim",
    keras_dropouts.StochasticDepth: "expects 2 input",
    keras_dropouts.FractalJoin: "must be a list or tuple of two or more tensors",
    keras_dropouts.ShakeShake: "must be a list or tuple of two tensors",
    keras_dropouts.StochasticPooling1D: "expected ndim=3",
    keras_dropouts.StochasticPooling2D: "must not change the shape",
    keras_dropouts.StochasticPooling3D: "expected ndim=5",
    keras_dropouts.RNNDrop: "must be a keras.layers.LSTM",
    keras_dropouts.RecurrentDropout: "must be a keras.layers.LSTM",
    keras_dropouts.VariationalRNNDropout: "must be a keras.layers.LSTM",
    keras_dropouts.Zoneout: "must be a keras.layers.LSTM",
    keras_dropouts.VariationalDropout: "needs values for kl_weight",
}


# Their place is around what keeps the shape.
PATHS = keras_dropouts.LayerDrop, keras_dropouts.SkipPath


@pytest.mark.parametrize("layer", NO_PLACE, ids=lambda layer: layer.__name__)
def test_why_a_layer_has_no_place(layer):
    with pytest.raises(ValueError, match=f"{layer.__name__} .*{NO_PLACE[layer]}"):
        candidates.Candidate(layer, *candidates.rates_of(layer, [0.3])).build(small_model)
    assert not command.fits(layer, small_model)


@pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS if layer not in (*NO_PLACE, *PATHS)], ids=lambda layer: layer.__name__
)
def test_every_other_layer_has_a_place(layer):
    known = {name: 3 for name in candidates.parameters_of(layer) if name in command.ARGUMENTS}
    layer = functools.partial(layer, **known) if known else layer
    (rate,) = candidates.rates_of(layer, [0.3])
    candidate = candidates.Candidate(layer, rate)
    assert candidate.build(model_of_all_ranks)(np.ones((2, 2, 4, 6, 3), "float32"), training=True).shape == (2, 2)
    assert candidate.places


@pytest.mark.parametrize("layer", PATHS, ids=lambda layer: layer.__name__)
def test_a_path_goes_around_what_keeps_the_shape(layer):
    candidate = candidates.Candidate(layer, 0.3)
    candidate.build(small_model)
    assert candidate.places == 1


def test_a_place_that_fits_is_taken_and_others_are_left():
    candidate = candidates.Candidate(SpatialDropout2D, 0.25)
    model = candidate.build(small_model)
    placed = [layer for layer in model.layers if isinstance(layer, SpatialDropout2D)]
    assert len(placed) == candidate.places == 2 and len(candidate.sites) == 3
    assert all(layer.rate == 0.25 for layer in placed)


class Wrapped(keras.layers.Wrapper):
    def __init__(self, layer, strength, **kwargs):
        super().__init__(layer, **kwargs)
        self.strength = strength

    def call(self, inputs):
        return self.layer(inputs)


def test_layers_that_wrap_and_other_arguments():
    candidate = candidates.Candidate(Wrapped, *candidates.rates_of(Wrapped, [0.4]))
    model = candidate.build(small_model)
    assert [layer.strength for layer in model.layers if isinstance(layer, Wrapped)] == [0.4] * 3
    fixed = functools.partial(Dropout, scaling="inference")
    (rate,) = candidates.rates_of(fixed, [0.4])
    candidate = candidates.Candidate(fixed, rate)
    assert str(candidate) == "Dropout(scaling='inference') 0.4"
    assert {layer.scaling for layer in candidate.build(small_model).layers if isinstance(layer, Dropout)} == {
        "inference"
    }


class Strength(keras.layers.Layer):
    """A layer whose signature does not name its arguments."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.dropout = Dropout(*args, **kwargs)

    @property
    def rate(self):
        return self.dropout.rate

    def call(self, inputs, training=False):
        return self.dropout(inputs, training=training)


class Two(Dropout):
    def __init__(self, factor, power, **kwargs):
        super().__init__(factor**power, **kwargs)


@pytest.mark.parametrize(
    ("layer", "rates", "title"),
    [
        (functools.partial(Dropout, rate=0.5), [0.5], "Dropout 0.5"),
        (functools.partial(Dropout, 0.5), [0.5], "Dropout 0.5"),
        (functools.partial(Dropout, np.float32(0.5), scaling="inference"), [0.5], "Dropout(scaling='inference') 0.5"),
        (functools.partial(functools.partial(Dropout, rate=0.1), rate=0.5), [0.5], "Dropout 0.5"),
        (functools.partial(Strength, rate=0.5), [0.5], "Strength 0.5"),
        (functools.partial(keras_dropouts.DropBlock2D, 0.5, 3), [0.5], "DropBlock2D(block_size=3) 0.5"),
        (functools.partial(keras_dropouts.UniformDropout, beta=0.5), [0.5], "UniformDropout 0.5"),
        (functools.partial(keras_dropouts.DropConnect, rate=0.5), [0.5], "DropConnect 0.5"),
        (functools.partial(Two, power=1), [0.1, 0.3], "Two(power=1) 0.1"),
        (functools.partial(Two, 0.5), [0.1, 0.3], "Two(factor=0.5) 0.1"),
        (functools.partial(Two, 0.5, power=1), [0.5], "Two(power=1) 0.5"),
        (
            functools.partial(Dropout, keras.optimizers.schedules.PolynomialDecay(0.5, 9)),
            [None],
            "Dropout(rate=PolynomialDecay)",
        ),
    ],
)
def test_a_partial_that_fixes_the_rate_runs_once_at_it(layer, rates, title):
    assert candidates.rates_of(layer, [0.1, 0.3]) == rates
    candidate = candidates.Candidate(layer, rates[0])
    assert str(candidate) == title
    if rates == [0.5]:
        kind = layer.func
        placed = [layer for layer in candidate.build(small_model).layers if isinstance(layer, kind)]
        assert {getattr(layer, "rate", None) or layer.beta for layer in placed} == {0.5}


def classifier(dropout, last):
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, last(dropout(keras.layers.Dense(4))(keras.layers.Flatten()(inputs))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": [1.5]}, r"Dropout 1\.5 cannot be made.* `rate` must be a number in \[0, 1\]"),
        ({"rates": []}, "`rates` must hold"),
        *[
            ({"rates": rates}, "`rates` must be a sequence of finite numbers")
            for rates in (0.3, None, "0.3", np.array(0.3), [[0.3]], ["0.3"], [True], [np.nan], [np.inf], [None])
        ],
        ({"layers": [GaussianDropout], "rates": [1.0]}, "GaussianDropout 1 cannot be made.*`rate`"),
        *[
            ({"layers": layers}, "`layers` must be a sequence of layer classes")
            for layers in (Dropout, Dropout(0.3), [Dropout(0.3)], "Dropout", ["Dropout"], [Dropout.call], [], None)
        ],
        ({"layers": [functools.partial(Dropout, *range(9))]}, "`layers` must not .* too many positional arguments"),
        ({"layers": [functools.partial(Dropout, strength=1)]}, "cannot be made.*strength"),
        ({"layers": [functools.partial(Two, 0.5, factor=0.5)]}, "cannot be made.*multiple values"),
        ({"layers": [functools.partial(Wrapped, keras.layers.Dense(3))]}, "`layers` must leave `layer` free"),
        ({"layers": [Strength]}, "Strength cannot be made.*'rate'"),
        ({"layers": [keras_dropouts.DropConnect], "rates": [2]}, "DropConnect 2 cannot be made.* `rate` must be"),
        ({"layers": [SpatialDropout3D]}, "SpatialDropout3D 0.1 fits nowhere"),
        ({"epochs": 0}, "`epochs` must be a positive integer"),
        ({"repeats": True}, "`repeats`"),
        ({"batch_size": 1.5}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": None}, "`seed`"),
        ({"data": (1, 2)}, "`data` must be a pair"),
        (
            {"build_model": lambda dropout: keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])},
            "say where dropout may go",
        ),
        ({"build_model": lambda dropout: dropout}, "must return a functional or Sequential"),
        ({"build_model": None}, "`build_model` must be a function"),
        ({"build_model": lambda: None}, "`build_model` must be a function .*: too many positional arguments"),
        ({"build_model": lambda dropout: classifier(dropout, lambda x: {"y": x})}, "return one tensor"),
        ({"build_model": lambda dropout: dropout(abs)}, "`build_model` must call `dropout` on layers"),
        ({"data": (([[0.0], [0.0, 1.0]], [0, 1]), digits()[1])}, "x_train and y_train must be arrays"),
        ({"build_model": lambda dropout: classifier(dropout, keras.layers.Dense(9, "softmax"))}, "of 10 classes"),
        ({"build_model": lambda dropout: classifier(dropout, keras.layers.Dense(10))}, "end it with a softmax"),
        ({"out": 3}, "`out` must be a folder"),
        ({"out": b"out"}, "`out` must be a folder"),
        ({"verbose": "x"}, "`verbose` must be"),
        ({"verbose": None}, "`verbose` must be"),
    ],
)
def test_refusals_before_any_training(monkeypatch, changes, message):
    arguments = {"build_model": small_model, "data": digits(), "layers": [Dropout], "verbose": False, **changes}
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(ValueError, match=message):
        compare(**arguments)


def arrays(**changes):
    (x_train, y_train), (x_test, y_test) = digits()
    data = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test} | changes
    return {name: np.asarray(value) for name, value in data.items() if value is not None}


def crafted(changes):
    """The bytes of an .npz file whose first member has other bytes than NumPy writes, in the zip or in the array."""
    buffer, whole = io.BytesIO(), io.BytesIO()
    np.savez(whole, **arrays())
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, changes.get(name, source.read(name)))
    data = bytearray(buffer.getvalue())
    # Flags and compression method stand at these places in the header of a member and in that of the directory.
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = data.index(header) + flags
        data[at] |= changes.get("flags", 0)
        data[at + 2] = changes.get("method", 0)
    return bytes(data)


def npy(header):
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({}, ["--layers", "Dropuot"], "no layer 'Dropuot': choose from "),
        ({}, ["--rates", "1.5", "--layers", "Dropout"], "`rate` must be a number"),
        ({}, ["--rates", "nan"], "`rates` must be a sequence of finite numbers"),
        ({}, ["--rates", "half"], "argument --rates: invalid float value: 'half'"),
        ({}, ["--epochs", "0"], "`epochs` must be"),
        ({}, ["--layers", "SpatialDropout3D"], "fits nowhere"),
        ({}, ["--data", "missing.npz"], "no file missing.npz"),
        ({}, ["--data", "mnist"], "--data must be digits, fashion_mnist or a path"),
        (b"not a zip", [], "no readable .npz"),
        (b"", [], "no readable .npz"),
        (crafted({})[:-100], [], "no readable .npz"),
        (crafted({"flags": 1}), [], "encrypted"),
        (crafted({"method": 99}), [], "compression method"),
        (crafted({"x_train.npy": npy("{'descr'")}), [], "no readable .npz"),
        (crafted({"x_train.npy": npy("(" * 9999)}), [], "no readable .npz"),
        (
            crafted({"x_train.npy": npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(3 * 2**40, 1)}}}\n")}),
            [],
            "no readable .npz",
        ),
        ({"y_test": None}, [], "lacks y_test"),
        ({"y_train": np.arange(127) % 10}, [], "y_train must hold one integer label for each of the 128"),
        ({"y_train": np.arange(128) % 10 + 1}, [], "numbered from 0 without gaps"),
        ({"y_train": np.arange(128) / 128}, [], "y_train must hold one integer label"),
        ({"y_test": np.arange(128)}, [], "y_test must hold labels that y_train has, 0 to 9"),
        ({"x_test": np.zeros((128, 8, 9))}, [], "samples of one shape"),
        ({"x_train": np.full((128, 8, 8), np.nan)}, [], "x_train must hold finite numbers"),
        ({"x_train": np.full((128, 8, 8), "a")}, [], "x_train must be an array of numbers"),
        ({"x_train": np.array([{}] * 128, object)}, [], "no readable .npz"),
        (
            {"x_train": np.zeros((128, 2, 2, 2, 2)), "x_test": np.zeros((128, 2, 2, 2, 2))},
            [],
            "with a model of your own",
        ),
    ],
)
def test_one_line_and_nothing_written(tmp_path, monkeypatch, capsys, files, options, message):
    monkeypatch.chdir(tmp_path)
    if files:
        path = pathlib.Path("data.npz")
        path.write_bytes(files) if isinstance(files, bytes) else np.savez(path, **arrays(**files))
    elif files == b"":
        pathlib.Path("data.npz").touch()
    before = sorted(tmp_path.iterdir())
    data = [] if "--data" in options or files == {} else ["--data", "data.npz"]
    with pytest.raises(SystemExit) as exit:
        command.main(["compare", *data, *options, "--out", "out"])
    printed = capsys.readouterr()
    assert exit.value.code == 2
    assert message in printed.err and printed.err.count("\n") == 1 and not printed.out
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as exit:
        command.main(["compare", "--layers", "Dropout", "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1
    assert "compare needs matplotlib: pip install keras-dropouts[compare]" in error
    assert not list(tmp_path.iterdir())


def test_import_needs_no_extra():
    code = "import sys; sys.modules.update(matplotlib=None, sklearn=None); import keras_dropouts"
    assert not subprocess.run([sys.executable, "-c", code]).returncode


@functools.cache
def vectors():
    x = np.random.default_rng(1).normal(size=(128, 6))
    y = (x[:, 0] + x[:, 1] > 0).astype("uint8")[:, None]
    return (x[:64], y[:64]), (x[64:], y[64:])


def build_dense(dropout):
    return small_model(dropout, vectors())


def run_on_vectors(folder, *options, layers=("--layers", "Dropout")):
    (x_train, y_train), (x_test, y_test) = vectors()
    np.savez(folder / "vectors.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    known = ["--data", str(folder / "vectors.npz"), "--rates", "0.3", "--epochs", "1", "--out", str(folder / "out")]
    return command.main(["compare", *known, *layers, *options])


def test_command_line_on_vectors(tmp_path, capsys):
    assert run_on_vectors(tmp_path, "--repeats", "1", layers=[]) == 0
    names = [entry["layer"] for entry in json.loads((tmp_path / "out" / "compare.json").read_text())["results"]]
    assert {"none", "Dropout", "GaussianDropout"} <= set(names)
    assert not {"SpatialDropout2D", "TimestepDropout"} & set(names)
    assert all(name.split("(")[0] in capsys.readouterr().out for name in names[:1])


def press_ctrl_c(monkeypatch, owner, name, first=0):
    """Has a function, but for its first calls, begin with what Ctrl-C does."""
    function, calls = getattr(owner, name), itertools.count()

    def pressing(*args, **kwargs):
        if next(calls) >= first:
            signal.raise_signal(signal.SIGINT)
        return function(*args, **kwargs)

    monkeypatch.setattr(owner, name, pressing)


# Of the second run of six, or as the first is written.
MOMENTS = {
    "timed": lambda patch: press_ctrl_c(patch, comparing._Clock, "on_epoch_end"),
    "trained": lambda patch: press_ctrl_c(patch, progress.Progress, "callback", first=1),
    "tested": lambda patch: press_ctrl_c(patch, comparing, "ClassificationScore", first=2),
    "written": lambda patch: press_ctrl_c(patch, comparing, "_write"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_keeps_what_is_finished(tmp_path, monkeypatch, capsys, moment):
    MOMENTS[moment](monkeypatch)
    # Pressed again and again, it waits until all is written.
    for name in ("finish", "_reload", "_write_results", "_pictures"):
        press_ctrl_c(monkeypatch, comparing._Comparison, name)
    press_ctrl_c(monkeypatch, comparing, "figure_of")
    before = signal.getsignal(signal.SIGINT)
    # On a narrow terminal too the numbers are whole.
    monkeypatch.setenv("COLUMNS", "20")
    assert run_on_vectors(tmp_path) == 130
    assert signal.getsignal(signal.SIGINT) is before
    results = json.loads((tmp_path / "out" / "compare.json").read_text())
    printed = capsys.readouterr().out
    assert "Interrupted" in printed and f"{100 * results['results'][0]['accuracy']['mean']:.1f} " in printed
    assert files(tmp_path / "out") == ALL_FILES
    assert results["interrupted"] and results["best"]["reloaded"] == "identical"
    assert [len(entry["runs"]) for entry in results["results"]] == [1]


def test_ctrl_c_after_the_last_run_loses_nothing(tmp_path, monkeypatch, capsys):
    press_ctrl_c(monkeypatch, comparing._Comparison, "_reload")
    press_ctrl_c(monkeypatch, comparing, "figure_of")
    press_ctrl_c(monkeypatch, command, "show")
    with pytest.raises(SystemExit) as exit:
        run_on_vectors(tmp_path, "--repeats", "1")
    assert exit.value.code == 130 and capsys.readouterr().err.endswith(f"the results are in {tmp_path / 'out'}\n")
    assert files(tmp_path / "out") == ALL_FILES
    assert not json.loads((tmp_path / "out" / "compare.json").read_text())["interrupted"]


def test_a_second_ctrl_c_waits_while_the_first_is_on_its_way():
    reached = False
    with progress.Interrupts() as interrupts, pytest.raises(KeyboardInterrupt), interrupts.let_through():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            reached = True
    assert reached


def test_ctrl_c_before_the_first_run_is_finished(tmp_path, monkeypatch, capsys):
    press_ctrl_c(monkeypatch, keras.Model, "predict")
    with pytest.raises(SystemExit) as exit:
        run_on_vectors(tmp_path)
    assert exit.value.code == 130 and "nothing to write\n" in capsys.readouterr().err
    assert not files(tmp_path / "out")


def test_a_comparison_that_dies_leaves_what_is_finished(tmp_path, monkeypatch):
    # Of an earlier comparison, and of one that was killed while it wrote.
    for name in (*ALL_FILES, ".best.keras", ".compare.json"):
        (tmp_path / name).write_text("old")

    def die(*_):
        raise RuntimeError("died")

    monkeypatch.setattr(comparing._Clock, "on_epoch_end", die)
    arguments = build_dense, vectors(), [Dropout], [0.3], 1, 1, 0, 64, tmp_path, False
    # In a thread, where no handler of signals can be set.
    with concurrent.futures.ThreadPoolExecutor() as pool, pytest.raises(RuntimeError, match="died"):
        pool.submit(compare, *arguments).result()
    assert files(tmp_path) == ["best.keras", "compare.json"]
    results = json.loads((tmp_path / "compare.json").read_text())
    assert results["interrupted"] and [entry["layer"] for entry in results["results"]] == ["none"]
    assert keras.saving.load_model(tmp_path / "best.keras")


@pytest.mark.parametrize("out", ["file", "file/folder", "taken"])
def test_an_out_that_cannot_be_written_to_is_refused_before_any_training(tmp_path, monkeypatch, capsys, out):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "compare.json").mkdir(parents=True)
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(SystemExit) as exit:
        run_on_vectors(tmp_path, "--out", str(tmp_path / out))
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and "`out` must be a folder to write to" in printed and printed.count("\n") == 1


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write(part):
        part.write_text("ne")
        assert path.read_text() == "old"
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        comparing._write(path, write)
    assert path.read_text() == "old" and files(tmp_path) == ["file"]


def test_training_resumes_to_the_last_bit(tmp_path):
    def model():
        keras.utils.set_random_seed(3)

        def dropout(layer):
            def apply(inputs):
                x = layer(inputs)
                x = SpatialDropout2D(0.2)(x) if len(x.shape) == 4 else Dropout(0.4)(x)
                return GaussianDropout(0.1)(x)

            return apply

        built = small_model(dropout)
        built.compile("adam", "sparse_categorical_crossentropy")
        return built

    x, y = digits()[0]
    train = functools.partial(keras.Model.fit, x=x, y=y, batch_size=32, shuffle=False, verbose=0)
    straight, paused = model(), model()
    losses = train(straight, epochs=4).history["loss"]
    first = train(paused, epochs=2).history["loss"]
    paused.save(tmp_path / "paused.keras")
    resumed = keras.saving.load_model(tmp_path / "paused.keras")
    second = train(resumed, epochs=2).history["loss"]
    assert first + second == losses
    for ours, theirs in zip(resumed.variables, straight.variables, strict=True):
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(variable) for variable in (ours, theirs)))
