"""Every stage notebook, opened alone in a fresh clone and run from top to bottom as JupyterLab does, with its defaults."""

from __future__ import annotations

import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

STAGES = sorted((Path(__file__).resolve().parent.parent / "nbs" / "stages").glob("*.ipynb"))


@pytest.mark.endtoend
@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_run_all_works_alone_and_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # as in the shell of a person
    before = set(os.listdir(path.parent))
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute()  # raises where a cell does

    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    shown = [one.data for one in outputs if "data" in one]
    assert "text/html" in shown[0], "the run shows itself first"
    assert "<table" in shown[-1]["text/html"], "the verdict comes last"
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    assert pictures or path.stem in ("05_register", "09_rollback")
    assert all(one.metadata["image/png"]["alt"] for one in pictures)
    printed = "".join(one.text for one in outputs if one.output_type == "stream")
    assert "Posix" not in printed and "0x" not in printed, "what is printed is for people"
    assert not [one for one in outputs if one.get("name") == "stderr"]

    assert set(os.listdir(path.parent)) - before <= {".ipynb_checkpoints"}
    for _ in range(600):  # what stops the endpoints goes on after the kernel
        if not list(tmp_path.glob("brookside-*")):
            break
        time.sleep(0.1)
    else:
        pytest.fail("the scratch run is still there")
