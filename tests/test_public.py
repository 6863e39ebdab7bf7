"""What `help` says of all that is public, and what type checkers know of it."""

import importlib.metadata
import inspect
import re

import keras
import pytest

import keras_dropouts as kd

PUBLIC = {name: getattr(kd, name) for name in kd.__all__}
RANDOM = PUBLIC.pop("random")
PUBLIC |= {f"random.{name}": getattr(RANDOM, name) for name in RANDOM.__all__}
VERSION = PUBLIC.pop("__version__")
HOOKS = [getattr(kd.RandomLayer, name) for name in ("keep_mask", "multiply", "training_call", "inference_call")]
every = pytest.mark.parametrize("it", PUBLIC.values(), ids=PUBLIC)


@every
def test_help_answers(it):
    headings = {"Example"}
    if isinstance(it, type) and issubclass(it, keras.layers.Layer):
        headings |= {"Args", "Call arguments", "Input shape", "Output shape", "Raises"}
        # The base of the methods is none.
        headings |= {"Reference"} if it is not kd.RandomLayer else set()
        for answer in ("training", "inference", "scal|divide|multipl"):
            assert re.search(answer, it.__doc__, re.IGNORECASE)
    elif "    Args:\n" in it.__doc__ and it is not RANDOM.rematerialized:
        headings |= {"Raises"}
    if it in vars(RANDOM).values():
        headings |= {"Args", "Returns"}
    assert headings <= set(re.findall("^    ([A-Z].*):$", it.__doc__, re.MULTILINE))
    # Which doctest runs.
    assert ">>> " in it.__doc__


@pytest.mark.parametrize("it", [*PUBLIC.values(), *HOOKS], ids=[*PUBLIC, *(hook.__name__ for hook in HOOKS)])
def test_arguments_have_types(it):
    parameters = list(inspect.signature(it.__init__ if isinstance(it, type) else it).parameters.values())
    for parameter in parameters[isinstance(it, type) or it in HOOKS :]:
        assert parameter.annotation is not parameter.empty, parameter


def test_the_hooks_are_explained():
    for hook in HOOKS:
        assert f"`{hook.__name__}(" in kd.RandomLayer.__doc__ and hook.__doc__


def test_the_version_is_that_of_the_installed_package():
    # An older one is from before the version was changed: install anew.
    assert importlib.metadata.version("keras-dropouts") == VERSION
