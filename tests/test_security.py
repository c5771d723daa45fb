"""What the threat model in the guide claims: keys are found in notebooks, a changed graph is not served, and what is inside is listed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.scratch import scratch_bundle

KEY = "AKIA" + "QYLPMN5HIOE2XWZR"


def notebook(path: Path, source: str, printed: str = "") -> Path:
    output = {"output_type": "stream", "name": "stdout", "text": [printed]}
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": source, "outputs": [output]}]}))
    return path


def test_planted_key_is_found_in_a_cell_and_in_an_output_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "a.ipynb", f'client = connect(key="{KEY}")')
    notebook(tmp_path / "b.ipynb", "print(key)", f"{KEY}\n")
    notebook(tmp_path / "c.ipynb", "print(1)", "1\n")
    ended = CliRunner().invoke(app, ["ci", "secrets", "."])
    assert ended.exit_code == 1
    assert "a.ipynb, cell 1, line 1: AWS Access Key" in ended.output
    assert "b.ipynb, output of cell 1, line 1: AWS Access Key" in ended.output
    assert "c.ipynb" not in ended.output and KEY not in ended.output


def test_clean_folder_says_so_to_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "c.ipynb", "print(1)", "1\n")
    ended = CliRunner().invoke(app, ["ci", "secrets", "."])
    assert ended.exit_code == 0 and "1 files, no secret" in ended.output and "clean=true" in ended.output
    (tmp_path / "d.ipynb").write_text("no notebook")
    assert CliRunner().invoke(app, ["ci", "secrets", "."]).exit_code == 2
    assert CliRunner().invoke(app, ["ci", "secrets", "nowhere"]).exit_code == 2


def test_graph_that_was_changed_is_not_served_after_a_restart(tmp_path: Path) -> None:
    endpoint = LocalEndpoint(tmp_path / "state", "cost-dev")
    endpoint.start()
    try:
        endpoint.create_deployment("blue", scratch_bundle(tmp_path / "bundle", 1), "m", 1)
        endpoint.set_traffic({"blue": 100})
        endpoint.stop()
        graph = endpoint.state.bundle("blue") / "model.onnx"
        graph.write_bytes(graph.read_bytes() + b"\0")
        endpoint.start()
        assert next(one for one in endpoint.show().deployments if one.name == "blue").state != "ready"
    finally:
        endpoint.stop()


def test_bill_of_materials_is_valid_and_has_what_serves(tmp_path: Path) -> None:
    """All of it is made; every eighth package is held against the schema here, as all are where CI makes it (40 s)."""
    path = tmp_path / "sbom.cdx.json"
    tool = Path(sys.executable).with_name("cyclonedx-py")
    words = [tool, "environment", "--output-format", "JSON", "--no-validate", "--output-file", path]
    subprocess.run(words, check=True, capture_output=True)
    found = json.loads(path.read_text(encoding="utf-8"))
    assert {"onnxruntime", "brookside-mlops"} <= {one["name"] for one in found["components"]}
    some = found["components"][::8]
    known = {one["bom-ref"] for one in some}
    text = json.dumps(
        found
        | {
            "components": some,
            "dependencies": [one for one in found["dependencies"] if one["ref"] in known],
        }
    )
    version = SchemaVersion.from_version(found["specVersion"])
    assert JsonStrictValidator(version).validate_str(text) is None
