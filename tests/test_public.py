"""What `help` says of all that is public, and what type checkers know of it."""

import inspect
import re

import keras
import pytest

import keras_dropouts

PUBLIC = [getattr(keras_dropouts, name) for name in keras_dropouts.__all__]
every = pytest.mark.parametrize("it", PUBLIC, ids=keras_dropouts.__all__)


@every
def test_help_answers(it):
    headings = {"Example"}
    if isinstance(it, type) and issubclass(it, keras.layers.Layer):
        headings |= {"Args", "Call arguments", "Input shape", "Output shape", "Raises", "Reference"}
        for answer in ("training", "inference", "scal|divide|multipl"):
            assert re.search(answer, it.__doc__, re.IGNORECASE)
    elif "    Args:\n" in it.__doc__:
        headings |= {"Raises"}
    assert headings <= set(re.findall("^    ([A-Z].*):$", it.__doc__, re.MULTILINE))
    # Which doctest runs.
    assert ">>> " in it.__doc__


@every
def test_arguments_have_types(it):
    parameters = list(inspect.signature(it.__init__ if isinstance(it, type) else it).parameters.values())
    for parameter in parameters[isinstance(it, type) :]:
        assert parameter.annotation is not parameter.empty, parameter
