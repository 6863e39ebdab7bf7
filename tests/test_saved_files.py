"""Files that earlier versions wrote: they load, and go on as they were.

`written_by_0.1` in `data`: a model with one layer for each row that the catalogue had then, and a schedule, written by
version 0.1 on TensorFlow, before the modules of the package were moved to folders. Each layer had been called three
times in training; every other one has no seed; GaussianDropout, made with rate 0.25, was set to 0.4 late. In the `.npz`
are the random states and what the model predicted.
"""

import functools
import pathlib

import catalog  # noqa: F401 - registers what the recurrent layers in the file have as an activation.
import keras
import numpy as np
import pytest
from backend import to_numpy

DATA = pathlib.Path(__file__).parent / "data"
WRITTEN = np.load(DATA / "written_by_0.1.npz")
PREDICTIONS = {name: WRITTEN[name] for name in WRITTEN.files if name != "state"}


# Its bits were others.
warned = functools.partial(pytest.warns, UserWarning, match="The file is of version 1 of the random bits")


@functools.cache
def loaded():
    with warned():
        return keras.models.load_model(DATA / "written_by_0.1.keras")


def made_anew():
    """The file's model made from its config, with the rate before it was set, and then given the file's weights."""
    config = loaded().get_config()
    (noise,) = (layer["config"] for layer in config["layers"] if layer["class_name"] == "GaussianDropout")
    noise["rate"] = 0.25
    model = keras.Model.from_config(config)
    with warned():
        model.load_weights(DATA / "written_by_0.1.weights.h5")
    return model


def loaded_again(folder):
    loaded().save(folder / "again.keras")
    return keras.models.load_model(folder / "again.keras")


def states(model):
    return [layer._random_state.read()[:2].tolist() for layer in model.layers if hasattr(layer, "_random_state")]


@pytest.mark.parametrize("how", ["loaded", "made anew", "loaded again"])
def test_a_model_written_by_0_1_is_as_it_was(how, tmp_path):
    model = {"loaded": loaded, "made anew": made_anew, "loaded again": lambda: loaded_again(tmp_path)}[how]()
    assert states(model) == WRITTEN["state"].tolist()
    assert model.get_layer("GaussianDropout").rate == pytest.approx(0.4, rel=1e-7)
    assert model.get_layer("UniformDropout").spatial
    rng = np.random.default_rng(1)
    shapes = {x.name.removeprefix("in_"): x.shape for x in model.inputs}
    # In the order of the predictions, which was the catalogue's.
    inputs = {f"in_{name}": rng.standard_normal((2, *shapes[name][1:])).astype("float32") for name in PREDICTIONS}
    for (name, expected), y in zip(PREDICTIONS.items(), model(inputs), strict=True):
        np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-5, atol=1e-6, err_msg=name)
