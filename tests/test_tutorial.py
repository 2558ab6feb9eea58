"""docs/tutorial.ipynb runs from the first cell to the last, with three iterations of training."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="nbformat, a development extra, is missing")
nbclient = pytest.importorskip("nbclient", reason="nbclient, a development extra, is missing")
pytest.importorskip("ipykernel", reason="ipykernel, a development extra, is missing")

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture
def notebook():
    return nbformat.read(DOCS / "tutorial.ipynb", as_version=4)


def test_it_is_stored_without_outputs_and_its_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (DOCS / target).is_file(), target


def test_it_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TUTORIAL_ITERATIONS", "3")
    monkeypatch.setenv("TUTORIAL_FOLDER", str(tmp_path))
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(DOCS)}}
    )
    client.execute()  # raises the error of a cell
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "Panoptic quality" in printed
    assert "error:" not in printed
    assert (tmp_path / "model" / "report.html").is_file()
    (prediction,) = (cell for cell in notebook.cells if "segcore.load" in cell.source)
    assert "image/png" in prediction.outputs[-1].data
    assert len(list((tmp_path / "results" / "overlay").iterdir())) == 3
