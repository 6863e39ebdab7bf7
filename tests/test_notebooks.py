import pathlib
import sys

import keras
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_DROPOUTS_SHORT", "1")
    # Where there are no data sets: the same run everywhere.
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    notebook = nbformat.read(path, 4)
    here = sys.prefix, keras.config.backend()
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import sys\nassert (sys.prefix, keras.config.backend()) == {here}")
    )
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_outputs(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None and not cell.metadata for cell in code)


def test_there_are_five():
    assert len(NOTEBOOKS) == 5
