"""docs/explore.ipynb runs on a finished study, from the first cell to the last."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from projects import ROOT

from glassbox.tracking.items import read_items

NOTEBOOK = ROOT / "docs" / "explore.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
def test_the_notebook_says_which_questions_one_group_gets_and_another_does_not(
    in_compared_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("reports", "runs"):
        shutil.copytree(in_compared_folder / name, tmp_path / name)
    items = read_items(next((tmp_path / "runs").rglob("items.parquet")))
    texts = {
        "sample_id": [item["sample_id"] for item in items],
        "prompt": [f"Question {number}?" for number, _ in enumerate(items)],
        "gold": [item["gold"] for item in items],
    }
    (tmp_path / "data" / "tasks").mkdir(parents=True)
    parquet.write_table(pa.table(texts), tmp_path / "data" / "tasks" / "test.parquet")
    monkeypatch.setenv("GLASSBOX_STUDY", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 10 and not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(NOTEBOOK.parent))
    said = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    assert "what black_box gets and sft does not" in said and "--- mmlu, lead +" in said
    assert any("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ()))
