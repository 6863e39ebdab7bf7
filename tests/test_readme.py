import re

import catalog
import keras
import pytest

import keras_dropouts

TEXT = catalog.README.read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})


def test_the_first_model_has_ten_lines():
    assert len(BLOCKS[0].strip().replace("\n\n", "\n").splitlines()) <= 12


def test_the_table_is_the_catalogues():
    assert catalog.readme_with_table(TEXT) == TEXT, "run `python tests/catalog.py`"


def test_every_link_leads_somewhere():
    headings = re.findall("^#+ (.*)$", TEXT, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if not link.startswith("https:")]
    assert all(link in anchors or (catalog.README.parent / link).is_file() for link in links), links


def test_every_public_layer_has_a_row():
    public = {name: getattr(keras_dropouts, name) for name in keras_dropouts.__all__}
    layers = {name for name, it in public.items() if isinstance(it, type) and issubclass(it, keras.layers.Layer)}
    assert layers - {"RandomLayer"} == {str(row) for row in catalog.ROWS}
