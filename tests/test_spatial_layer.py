import inspect

import pytest

from keras_dropouts.layers.spatial_layer import SpatialLayer


class Family(SpatialLayer):
    """What the three share.

    Of {a line|a plane|
    a room}, and of {one axis|axes}{|, as many as it takes
    |}: `(batch, *space, channels)`.

    The same for all.
    """


class Variant1D(Family):
    """Is long.

    >>> Variant1D.dimensions
    1
    """

    dimensions = 1


class Variant2D(Family):
    """Is wide.

    >>> Variant2D.dimensions
    2
    """

    dimensions = 2


class Variant3D(Family):
    """Is deep.

    >>> Variant3D.dimensions
    3
    """

    dimensions = 3


@pytest.mark.parametrize(
    ("variant", "summary", "own"),
    [
        (Variant1D, "Is long.", "Of a line, and of one axis: `(batch, timesteps, channels)`."),
        (Variant2D, "Is wide.", "Of a plane, and of axes, as many as it takes: `(batch, height, width, channels)`."),
        (Variant3D, "Is deep.", "Of a room, and of axes: `(batch, depth, height, width, channels)`."),
    ],
)
def test_a_variant_reads_its_own_words(variant, summary, own):
    example = f">>> {variant.__name__}.dimensions\n{variant.dimensions}"
    assert inspect.getdoc(variant) == "\n\n".join([summary, own, "The same for all.", example])


def test_other_docstrings_stay():
    class Silent(Variant2D):
        pass

    class Own(Variant2D):
        """Mine, {as it is|}."""

    # As under `python -OO`.
    bare = type("Bare", (Family,), {"dimensions": 2})
    assert (Silent.__doc__, Own.__doc__, bare.__doc__) == (None, "Mine, {as it is|}.", None)


@pytest.mark.parametrize("variant", [Variant1D, Variant2D, Variant3D])
def test_the_axes(variant):
    n = variant.dimensions
    last, first = (variant(0.5, data_format) for data_format in ("channels_last", "channels_first"))
    assert (last._space, last._channels) == (tuple(range(1, n + 1)), n + 1)
    assert (first._space, first._channels) == (tuple(range(2, n + 2)), 1)
    assert last._of_each_axis(4) == (4,) * n and last._of_each_axis((4, 5)) == (4, 5)
