"""What `help` says of all that is public, and what type checkers know of it."""

import importlib.metadata
import inspect
import re

import keras
import pytest
from catalog import ROWS

import keras_dropouts as kd

PUBLIC = {name: getattr(kd, name) for name in kd.__all__}
RANDOM = PUBLIC.pop("random")
PUBLIC |= {f"random.{name}": getattr(RANDOM, name) for name in RANDOM.__all__}
VERSION = PUBLIC.pop("__version__")
HOOKS = [getattr(kd.RandomLayer, name) for name in ("keep_mask", "multiply", "training_call", "inference_call")]
# What functions alone make.
RETURNED = {
    kd.Audit: kd.audit,
    kd.AuditedLayer: kd.audit,
    kd.Finding: kd.audit,
    kd.MonteCarloPrediction: kd.monte_carlo,
    kd.Compression: kd.compress,
}
every = pytest.mark.parametrize("it", PUBLIC.values(), ids=PUBLIC)
# Whose inputs must have so many axes as the catalogue's.
OF_ITS_RANK = [row for row in ROWS if getattr(row.make(0.5).input_spec, "ndim", None)]


def parameters_of(it):
    parameters = list(inspect.signature(it.__init__ if isinstance(it, type) else it).parameters.values())
    return parameters[isinstance(it, type) or it in HOOKS :]


@every
def test_help_answers(it):
    text = inspect.getdoc(it)
    headings = {"Example"}
    if isinstance(it, type) and issubclass(it, keras.layers.Layer):
        headings |= {"Args", "Call arguments", "Input shape", "Output shape", "Raises"}
        # The base of the methods is none.
        headings |= {"Reference"} if it is not kd.RandomLayer else set()
        for answer in ("training", "inference", "scal|divide|multipl"):
            assert re.search(answer, text, re.IGNORECASE)
    elif "\nArgs:\n" in text and it is not RANDOM.rematerialized:
        headings |= {"Raises"}
    if it in vars(RANDOM).values():
        headings |= {"Args", "Returns"}
    assert headings <= set(re.findall("^([A-Z].*):$", text, re.MULTILINE))
    # Which doctest runs.
    made_by = RETURNED.get(it, it)
    assert re.search(rf"\nExample:\n\n>>> .*\b{made_by.__name__}[()]", text, re.DOTALL)


@every
def test_help_is_whole_sentences(it):
    text = inspect.getdoc(it)
    prose, _, _ = text.partition("\nExample:\n")
    assert re.match(r"[A-Z].*\.(\n\n|$)", prose)
    assert not re.findall(r".*(?:\S  |[ (][,.;:](?!\.)|[{}|]|\*space).*", prose)
    assert "\n\n\n" not in text and max(map(len, text.splitlines())) <= 120


@every
def test_help_tells_of_every_argument(it):
    parameters = [] if it in RETURNED else parameters_of(it)
    names = [str(parameter).split(":")[0] for parameter in parameters]
    args = re.search(r"^Args:\n(.*?)(\n\n|\Z)", inspect.getdoc(it), re.MULTILINE | re.DOTALL)
    described = re.findall(r"^    (\S.*?): ", args[1] if args else "", re.MULTILINE)
    assert sorted(name for entry in described for name in entry.split(", ")) == sorted(names)


@pytest.mark.parametrize("row", OF_ITS_RANK, ids=str)
def test_help_speaks_of_the_right_rank(row):
    text, rank = inspect.getdoc(row.layer), len(row.shape)
    shapes = re.findall(r"`\((batch, .*?)\)`", text)
    assert shapes and all(len(shape.split(", ")) == rank for shape in shapes)
    assert all(int(stated) == rank for stated in re.findall(r"rank (\d)", text))
    assert all(int(dimensions) == rank - 2 for dimensions in re.findall(r"(\d)D\b", text))


@pytest.mark.parametrize("row", [row for row in OF_ITS_RANK if "data_format" in row.make(0.5).get_config()], ids=str)
def test_help_knows_the_default_data_format(row):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        follows = row.make(0.5).data_format == "channels_first"
    finally:
        keras.config.set_image_data_format(before)
    assert ("`keras.config.image_data_format()`" in inspect.getdoc(row.layer)) == follows


@pytest.mark.parametrize("it", [*PUBLIC.values(), *HOOKS], ids=[*PUBLIC, *(hook.__name__ for hook in HOOKS)])
def test_arguments_have_types(it):
    for parameter in parameters_of(it):
        assert parameter.annotation is not parameter.empty, parameter


def test_the_hooks_are_explained():
    for hook in HOOKS:
        assert f"`{hook.__name__}(" in kd.RandomLayer.__doc__ and hook.__doc__


def test_the_version_is_that_of_the_installed_package():
    # An older one is from before the version was changed: install anew.
    assert importlib.metadata.version("keras-dropouts") == VERSION
