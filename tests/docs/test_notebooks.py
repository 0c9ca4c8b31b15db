"""The notebooks of the documentation run, twice each, and hold the outputs of such a run."""

from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks")
nbformat = pytest.importorskip("nbformat", reason="nbformat reads notebooks")

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


def printed(notebook: Any) -> str:
    """What the code cells printed."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "".join(str(output.get("text", "")) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_each_cell_again(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    shown = printed(notebook)
    assert shown, f"{path.name} is committed without its outputs"

    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources for _ in range(2)]
    again = nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)
    where = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(again, timeout=300, resources=where).execute()

    first = nbformat.v4.new_notebook(cells=again.cells[::2])
    lines = printed(first).splitlines()
    assert len(lines) == len(shown.splitlines())
    assert lines[0] == shown.splitlines()[0]  # exact everywhere; accuracies need not be


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
