"""What `help` says of all that is public, and what type checkers know of it."""

import inspect
import re

import keras
import pytest
from catalog import ROWS

import keras_dropouts

PUBLIC = [getattr(keras_dropouts, name) for name in keras_dropouts.__all__]
every = pytest.mark.parametrize("it", PUBLIC, ids=keras_dropouts.__all__)
# Whose inputs must have so many axes as the catalogue's.
OF_ITS_RANK = [row for row in ROWS if getattr(row.make(0.5).input_spec, "ndim", None)]


def parameters_of(it):
    parameters = list(inspect.signature(it.__init__ if isinstance(it, type) else it).parameters.values())
    return parameters[isinstance(it, type) :]


@every
def test_help_answers(it):
    text = inspect.getdoc(it)
    headings = {"Example"}
    if isinstance(it, type) and issubclass(it, keras.layers.Layer):
        headings |= {"Args", "Call arguments", "Input shape", "Output shape", "Raises", "Reference"}
        for answer in ("training", "inference", "scal|divide|multipl"):
            assert re.search(answer, text, re.IGNORECASE)
    elif "\nArgs:\n" in text:
        headings |= {"Raises"}
    assert headings <= set(re.findall("^([A-Z].*):$", text, re.MULTILINE))
    # Which doctest runs.
    assert re.search(rf"\nExample:\n\n>>> .*\b{it.__name__}\(", text, re.DOTALL)


@every
def test_help_is_whole_sentences(it):
    text = inspect.getdoc(it)
    prose, _, _ = text.partition("\nExample:\n")
    assert re.match(r"[A-Z].*\.(\n\n|$)", prose)
    assert not re.findall(r".*(?:\S  |[ (][,.;:](?!\.)|[{}|]|\*space).*", prose)
    assert "\n\n\n" not in text and max(map(len, text.splitlines())) <= 120


@every
def test_help_tells_of_every_argument(it):
    names = [str(parameter).split(":")[0] for parameter in parameters_of(it)]
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


@every
def test_arguments_have_types(it):
    for parameter in parameters_of(it):
        assert parameter.annotation is not parameter.empty, parameter
