import functools
import io
import json
import pathlib
import re
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
from keras_dropouts.comparison import command, experiment, figure
from keras_dropouts.comparison.data import checked_data
from keras_dropouts.comparison.placement import ByFunction

LAYERS = list(command.LAYERS.values())
TABLE = {"repeats": 2, "folds": 2, "budget": 6, "verbose": False}


@functools.cache
def digits(train=128, test=128):
    bunch = load_digits()
    x, y = bunch.images[..., None], bunch.target
    return (x[:train], y[:train]), (x[train : train + test], y[train : train + test])


def small_model(dropout, data=None):
    return command.small_model(*command.traits(checked_data(data or digits())), dropout)


def built(candidate, build_model=small_model):
    return ByFunction(build_model).build(candidate, checked_data(digits()).task)


ALL_FILES = ["best.keras", "compare.html", "compare.json", "compare.png", "journal.sqlite"]


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
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    out = tmp_path / "new" / "folder"
    layers = [functools.partial(Dropout, 0.5), SpatialDropout2D]
    results = compare(small_model, digits(), layers, [0.3], epochs=2, seed=5, out=out, **TABLE)
    assert files(out) == ALL_FILES
    assert json.loads((out / "compare.json").read_text()) == results
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    entries = results["results"]
    expected = [("none", None), ("Dropout", 0.5), ("SpatialDropout2D", 0.3)]
    assert [(entry["layer"], entry["rate"]) for entry in entries] == expected
    assert [entry["places"] for entry in entries] == [0, 3, 2]
    none = entries[0]
    for entry in entries:
        assert [run["seed"] for run in entry["runs"]] == [5, 6]
        values = [run["held_out"] for run in entry["runs"]]
        np.testing.assert_allclose(
            [entry["accuracy"]["mean"], entry["accuracy"]["std"]], [np.mean(values), np.std(values, ddof=1)]
        )
        gap = np.mean([run["train"] - run["held_out"] for run in entry["runs"]])
        np.testing.assert_allclose(entry["gap"]["mean"], gap)
        assert 0 < entry["step_time"] < 1000
        if entry is not none:
            np.testing.assert_allclose(entry["gain"]["mean"], entry["accuracy"]["mean"] - none["accuracy"]["mean"])
    # The best on the folds is tested, with seeds of its own; without a gain, none alone.
    best = max(entries, key=lambda entry: entry["accuracy"]["mean"])
    assert results["chosen"] == {"layer": best["layer"], "rate": best["rate"]}
    tested = results["test"]["chosen"] or results["test"]["none"]
    assert [run["seed"] for run in tested["runs"]] == [7, 8] and (results["test"]["chosen"] is None) == (best is none)
    # The table, the picture and the page name them alike.
    command.show(results, out)
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line]
    assert ["Dropout", "0.5"] in rows and ["SpatialDropout2D", "0.3"] in rows
    ticks = figure.figure_of(results, None, []).axes[0].get_yticklabels()
    assert {tick.get_text() for tick in ticks} == {"none", "Dropout 0.5", "SpatialDropout2D 0.3"}
    page = (out / "compare.html").read_text()
    assert results["advice"] in page and "<td>SpatialDropout2D</td><td>0.3</td>" in page
    # It opens without a network.
    assert not re.findall(r"""(?:src|href|url)\W+(?!#)(?:http|/|\w+\.)""", page.replace("http://www.w3.org/", ""))
    # What is in the file is what was tested.
    model = keras.saving.load_model(out / "best.keras")
    x, y = digits()[1]
    assert results["reloaded"] == "identical"
    assert np.mean(model.predict(x, verbose=0).argmax(1) == y) == tested["runs"][0]["held_out"]


def test_runs_differ_by_the_dropout_alone(monkeypatch):
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    results = compare(small_model, digits(), [Dropout], [0.0, 0.5], epochs=2, **TABLE)
    none, undropped, dropped = (entry["runs"] for entry in results["results"])
    alone = compare(small_model, digits(), [Dropout], [0.5], epochs=2, **TABLE | {"budget": 4})
    assert [entry["runs"] for entry in alone["results"]] == [none, dropped]
    # A layer that drops nothing learns what the model without it learns: same start, same batches.
    assert undropped == none != dropped


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
        built(candidates.Candidate(layer, *candidates.rates_of(layer, [0.3])))
    assert not command.fits(layer, ByFunction(small_model), checked_data(digits()).task)


@pytest.mark.parametrize(
    "layer", [layer for layer in LAYERS if layer not in (*NO_PLACE, *PATHS)], ids=lambda layer: layer.__name__
)
def test_every_other_layer_has_a_place(layer):
    known = {name: 3 for name in candidates.parameters_of(layer) if name in command.ARGUMENTS}
    layer = functools.partial(layer, **known) if known else layer
    (rate,) = candidates.rates_of(layer, [0.3])
    made = built(candidates.Candidate(layer, rate), model_of_all_ranks)
    assert made.model(np.ones((2, 2, 4, 6, 3), "float32"), training=True).shape == (2, 2)
    assert made.places


@pytest.mark.parametrize("layer", PATHS, ids=lambda layer: layer.__name__)
def test_a_path_goes_around_what_keeps_the_shape(layer):
    assert built(candidates.Candidate(layer, 0.3)).places == 1


def test_a_place_that_fits_is_taken_and_others_are_left():
    made = built(candidates.Candidate(SpatialDropout2D, 0.25))
    placed = [layer for layer in made.model.layers if isinstance(layer, SpatialDropout2D)]
    assert len(placed) == made.places == 2 and len(made.sites) == 3
    assert all(layer.rate == 0.25 for layer in placed)


class Wrapped(keras.layers.Wrapper):
    def __init__(self, layer, strength, **kwargs):
        super().__init__(layer, **kwargs)
        self.strength = strength

    def call(self, inputs):
        return self.layer(inputs)


def test_layers_that_wrap_and_other_arguments():
    candidate = candidates.Candidate(Wrapped, *candidates.rates_of(Wrapped, [0.4]))
    model = built(candidate).model
    assert [layer.strength for layer in model.layers if isinstance(layer, Wrapped)] == [0.4] * 3
    fixed = functools.partial(Dropout, scaling="inference")
    (rate,) = candidates.rates_of(fixed, [0.4])
    candidate = candidates.Candidate(fixed, rate)
    assert str(candidate) == "Dropout(scaling='inference') 0.4"
    assert {layer.scaling for layer in built(candidate).model.layers if isinstance(layer, Dropout)} == {"inference"}


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
        placed = [layer for layer in built(candidate).model.layers if isinstance(layer, kind)]
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
        ({"budget": 0}, "`budget` must be a positive integer"),
        ({"workers": 0}, "`workers` must be a positive integer"),
        ({"folds": 1}, "`folds` must be at least 2"),
        ({"folds": 129}, "`folds` must be the training samples at most"),
        ({"finetune": True}, "`finetune` keeps the weights of a model: give one"),
        ({"finetune": 1}, "`finetune` must be True or False"),
        ({"task": "ranking"}, "`task` must be 'classification' or"),
        ({"metric": "rmse"}, "`metric` must be 'accuracy' or 'nll'"),
        ({"repeats": True}, "`repeats`"),
        ({"batch_size": 1.5}, "`batch_size`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": None}, "`seed`"),
        ({"data": (1, 2)}, "`data` must be a pair"),
        (
            {"model": lambda dropout: keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])},
            "say where dropout may go",
        ),
        ({"model": lambda dropout: dropout}, "must return a functional or Sequential"),
        ({"model": None}, "`model` must be a functional or Sequential keras.Model, or a function"),
        ({"model": lambda: None}, "`model` must be .*: too many positional arguments"),
        ({"model": lambda dropout: classifier(dropout, lambda x: {"y": x})}, "return one tensor"),
        ({"model": lambda dropout: dropout(abs)}, "`build_model` must call `dropout` on layers"),
        ({"data": (([[0.0], [0.0, 1.0]], [0, 1]), digits()[1])}, "x_train and y_train must be arrays"),
        ({"model": lambda dropout: classifier(dropout, keras.layers.Dense(9, "softmax"))}, "of 10 classes"),
        ({"model": lambda dropout: classifier(dropout, keras.layers.Dense(10))}, "end it with a softmax"),
        ({"out": 3}, "`out` must be a folder"),
        ({"out": b"out"}, "`out` must be a folder"),
        ({"verbose": "x"}, "`verbose` must be"),
        ({"verbose": None}, "`verbose` must be"),
    ],
)
def test_refusals_before_any_training(monkeypatch, changes, message):
    arguments = {"model": small_model, "data": digits(), "layers": [Dropout], "verbose": False, **changes}
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
        ({}, ["--data", "mnist"], "--data must be digits, fashion_mnist, a path"),
        ({}, ["--model", "missing.keras"], "no file missing.keras"),
        ({}, ["--target", "y"], "--target is for the columns of a table"),
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
        ({"y_train": np.arange(128) / 128}, ["--task", "classification"], "y_train must hold one integer label"),
        ({"y_test": np.arange(128)}, [], "y_test must hold labels that y_train has, 0 to 9"),
        ({"x_test": np.zeros((128, 8, 9))}, [], "samples of one shape"),
        ({"x_train": np.full((128, 8, 8), np.nan)}, [], "x_train must hold finite numbers"),
        ({"x_train": np.full((128, 8, 8), "a")}, [], "x_train must be an array of numbers"),
        ({"x_train": np.array([{}] * 128, object)}, [], "no readable .npz"),
        (
            {"x_train": np.zeros((128, 2, 2, 2, 2)), "x_test": np.zeros((128, 2, 2, 2, 2))},
            [],
            "for other data use --model",
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
    absent = "jinja2", "joblib", "matplotlib", "pandas", "sklearn"
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import keras_dropouts"
    assert not subprocess.run([sys.executable, "-c", code]).returncode


@functools.cache
def vectors():
    x = np.random.default_rng(1).normal(size=(128, 6))
    y = (x[:, 0] + x[:, 1] > 0).astype("uint8")[:, None]
    return (x[:64], y[:64]), (x[64:], y[64:])


def run_on_vectors(folder, *options, layers=("--layers", "Dropout")):
    (x_train, y_train), (x_test, y_test) = vectors()
    np.savez(folder / "vectors.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    known = ["--data", str(folder / "vectors.npz"), "--rates", "0.3", "--epochs", "1", "--out", str(folder / "out")]
    few = ["--folds", "2", "--repeats", "1", "--budget", "2"]
    return command.main(["compare", *known, *few, *layers, *options])


def test_command_line_on_vectors(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment, "ROUNDS", 1)
    # On a narrow terminal too the numbers are whole.
    monkeypatch.setenv("COLUMNS", "20")
    assert run_on_vectors(tmp_path, layers=("--layers", "Dropout", "GaussianDropout")) == 0
    results = json.loads((tmp_path / "out" / "compare.json").read_text())
    printed = capsys.readouterr().out
    assert f"{100 * results['results'][0]['accuracy']['mean']:.1f} " in printed
    assert " ".join(results["advice"].split()) in " ".join(printed.split())
    assert [entry["layer"] for entry in results["results"]] == ["none", "Dropout", "GaussianDropout"]


def test_layers_that_fit_are_found(monkeypatch):
    called = {}
    monkeypatch.setattr(keras_dropouts, "compare", lambda *args, **kwargs: called.update(layers=args[2]) or {})
    with pytest.raises(KeyError):
        command.main(["compare", "--data", "digits"])
    names = {getattr(layer, "func", layer).__name__ for layer in called["layers"]}
    assert {"Dropout", "SpatialDropout2D", "DropBlock2D", "DropConnect"} <= names
    assert not {"SpatialDropout1D", "DropPath", "TimestepDropout", "Zoneout"} & names


@pytest.mark.parametrize("out", ["file", "file/folder", "taken"])
def test_an_out_that_cannot_be_written_to_is_refused_before_any_training(tmp_path, monkeypatch, capsys, out):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "compare.json").mkdir(parents=True)
    monkeypatch.setattr(keras.Model, "fit", None)
    with pytest.raises(SystemExit) as exit:
        run_on_vectors(tmp_path, "--out", str(tmp_path / out))
    printed = capsys.readouterr().err
    assert exit.value.code == 2 and "`out` must be a folder to write to" in printed and printed.count("\n") == 1


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
