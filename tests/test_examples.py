"""Each example does what its README says, in a copy of its folder."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from brookside_mlops.cli import app
from tests.test_guide import commands_in, prose_of

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FOLDERS = sorted(path.parent for path in EXAMPLES.glob("*/README.md"))


def test_there_are_the_three_use_cases_and_a_table_of_ones_own() -> None:
    assert [one.name for one in FOLDERS] == ["cost", "own_table", "patterns", "viability"]


@pytest.mark.endtoend
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda one: one.name)
def test_example_runs_as_its_readme_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Path(shutil.copytree(folder, tmp_path / folder.name))
    monkeypatch.chdir(project)
    lines = [one for one in commands_in(prose_of(folder / "README.md")) if " " in one]
    assert len(lines) >= 2
    for line in lines:
        result = CliRunner().invoke(app, shlex.split(line)[1:])
        assert result.exit_code == 0, f"{line}:\n{result.output}"
    assert list(project.glob("parameterized/dev/*/04_evaluate.ipynb"))
    assert folder.name != "own_table" or (project / "contracts" / "deliveries.yaml").is_file()


def test_bundled_table_is_what_its_script_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "own_table"))
    from make_deliveries import deliveries  # type: ignore[import-not-found]

    pd.testing.assert_frame_equal(pd.read_csv(EXAMPLES / "own_table" / "deliveries.csv"), deliveries())
