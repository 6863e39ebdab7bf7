"""README and the pages of `docs/` say what is true: their code runs, their links lead somewhere, no layer is missing.

That the site has a page for every public name is seen where it is built, by `make docs`.
"""

import re

import catalog
import keras
import pytest

import keras_dropouts

ROOT = catalog.PAGE.parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
BLOCKS = [(path, i, block) for path in PAGES for i, block in enumerate(BLOCK.findall(path.read_text()))]


@pytest.mark.parametrize(
    "path, block", [(path, block) for path, _, block in BLOCKS], ids=[f"{p.stem}-{i}" for p, i, _ in BLOCKS]
)
def test_every_block_runs(path, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, path.name, "exec"), {"__name__": "readme"})


def test_the_first_model_has_ten_lines():
    first = BLOCK.search(README.read_text())[1]
    assert len(first.strip().replace("\n\n", "\n").splitlines()) <= 12


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 160


def test_the_table_is_the_catalogues():
    text = catalog.PAGE.read_text()
    assert catalog.with_table(text) == text, "run `python tests/catalog.py`"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_leads_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    for link in links:
        if not link.startswith("https:"):
            name, _, anchor = link.partition("#")
            target = path.parent / name if name else path
            assert target.is_file(), link
            assert not anchor or anchor in anchors(target), link


def anchors(path):
    headings = re.findall("^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_public_layer_has_a_row():
    public = {name: getattr(keras_dropouts, name) for name in keras_dropouts.__all__}
    layers = {name for name, it in public.items() if isinstance(it, type) and issubclass(it, keras.layers.Layer)}
    assert layers - {"RandomLayer"} == {str(row) for row in catalog.ROWS}
