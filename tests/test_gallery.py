import gallery
import numpy as np
from catalog import ROWS
from PIL import Image


def test_the_picture_shows_what_each_layer_does():
    panels = gallery.panels()
    assert list(panels)[-len(ROWS) :] == [str(row) for row in ROWS]
    with Image.open(gallery.PICTURE) as picture:
        assert picture.text["Description"] == ", ".join(panels), "run `python tests/gallery.py`"
        published = np.asarray(picture.convert("RGB")) / 255
    stale = [
        title
        for title, drawn, cell in zip(panels, panels.values(), gallery.cells(published), strict=False)
        if np.abs(drawn - cell).max() > 1.5 / 255
    ]
    assert not stale, "run `python tests/gallery.py`"
