"""Runs: evidence that is complete, and noticed when it is not."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from brookside_mlops.errors import ApprovalNeeded, GateFailed, InputError
from brookside_mlops.files import replacing, sha256, write_json, write_text
from brookside_mlops.results import Check, StageResult
from brookside_mlops.run_record import git_revision
from brookside_mlops.runs import Run, find_run, list_runs

INI = (
    "[dev]\n[staging]\n[prod]\napproval = yes\n[usecase.viability]\ntask = classification\ntarget = viable\n"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "settings.ini").write_text(INI)
    return tmp_path


def finish(run: Run, stage: str, name: str, text: str) -> StageResult:
    run.new(name).write_text(text)
    return run.finish(StageResult(stage=stage, verdict="pass", artifacts={"file": name}))


def test_run_json_says_how_the_run_came_about(project: Path) -> None:
    run = Run.create(project, "dev", "viability", {"rows": 10})
    record = json.loads((run.folder / "run.json").read_text())
    assert record["parameters"] == {"rows": 10}
    assert record["seed"] == run.settings.seed
    assert record["packages"]["xgboost"][0].isdigit()
    assert run.folder == project / "parameterized" / "dev" / run.id
    assert run.usecase.name == "viability" and run.id in run._repr_html_()


def test_finished_stage_records_the_digest_of_its_artifacts(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    finish(run, "engineer", "bundle/a.json", "{}")
    assert run.record.artifacts["bundle/a.json"].sha256 == sha256(run.path("bundle/a.json"))
    assert run.read(StageResult, "engineer").verdict == "pass"


def test_artifact_that_a_stage_no_longer_makes_is_forgotten(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    finish(run, "engineer", "old.json", "{}")
    finish(run, "engineer", "new.json", "{}")
    assert "old.json" not in run.record.artifacts
    with pytest.raises(InputError, match=r"has no old\.json"):
        run.path("old.json")


def test_changed_artifact_is_noticed_and_names_its_stage(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    finish(run, "engineer", "features.json", "{}")
    (run.folder / "features.json").write_text("[]")
    with pytest.raises(InputError, match="not the file that stage engineer wrote"):
        run.path("features.json")


def test_failed_verdict_is_recorded_before_it_stops_the_line(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    check = Check(name="accuracy", measured=0.5, required=">= 0.75", verdict="fail", next_step="more data")
    with pytest.raises(GateFailed, match=r"accuracy 0\.5, required >= 0\.75\. more data"):
        run.finish(StageResult(stage="evaluate", verdict="fail", checks=[check]))
    assert Run(run.folder).record.stages["evaluate"].verdict == "fail"
    assert json.loads((run.folder / "evaluate.json").read_text())["checks"][0]["next_step"] == "more data"


def test_prod_waits_for_an_approval_with_a_name(project: Path) -> None:
    run = Run.create(project, "prod", "viability")
    with pytest.raises(ApprovalNeeded, match=f"approve {run.id}") as error:
        run.need_approval()
    assert error.value.exit_code == 3
    with pytest.raises(InputError):
        run.approve("  ", "command line")
    run.approve("Ada", "command line")
    Run(run.folder).need_approval()
    approval = Run(run.folder).record.approval
    assert approval is not None and approval.by == "Ada" and approval.at.endswith("+00:00")


def test_runs_are_found_by_id_or_folder_newest_first(project: Path) -> None:
    first = Run.create(project, "dev", "viability")
    second = Run.create(project, "staging", "viability")
    with second.change() as record:
        record.created = "9999"
    assert [run.id for run in list_runs(project)] == [second.id, first.id]
    assert find_run(project, first.id).folder == find_run(project, str(first.folder)).folder
    with pytest.raises(InputError, match=second.id):
        find_run(project, "nope")


def test_folder_without_or_with_broken_run_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a run"):
        Run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=rf"run\.json is damaged.*rm -r {tmp_path}"):
        Run(tmp_path)


def test_run_prints_as_a_line(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    assert repr(run) == f"Run({run.id}, viability in dev)"


def test_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: the name of a file"):
        write_text(tmp_path, "text")
    write_text(tmp_path / "new" / "folder" / "file.txt", "text")
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))


def test_export_without_its_tools_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "export.py"))
    monkeypatch.setitem(tool["main"].__globals__, "BIN", tmp_path)
    monkeypatch.setattr(sys, "argv", ["export.py", "--check"])
    assert tool["main"]() == 2
    assert "pip install -e '.[test]'" in capsys.readouterr().err


def test_changes_made_at_once_are_all_kept(project: Path) -> None:
    run = Run.create(project, "dev", "viability")

    def change(number: int) -> None:
        with Run(run.folder).change() as record:
            record.parameters[str(number)] = number

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(change, range(40)))
    assert len(Run(run.folder).record.parameters) == 40


def test_killed_writer_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"state": "old"})
    script = (
        "import sys; from pathlib import Path; from brookside_mlops.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as new:\n"
        "    new.write_text('half'); print('ready', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        os.kill(writer.pid, signal.SIGKILL)
    assert json.loads(path.read_text()) == {"state": "old"}


def test_failed_block_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.json") as new:
        new.write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []


def test_revision_is_empty_outside_git(tmp_path: Path) -> None:
    assert git_revision(tmp_path) == ""
