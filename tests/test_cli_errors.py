"""What the command line refuses: one line, the right code, JSON where it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from brookside_mlops.cli import app
from brookside_mlops.cli_iterate import _open as open_notebook
from brookside_mlops.cli_options import expected
from brookside_mlops.endpoints.local import LocalEndpoint, stop_all
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.run_diff import window
from brookside_mlops.run_record import StageRecord
from brookside_mlops.runs import Run, damaged_runs, list_runs

ROOT = Path(__file__).resolve().parent.parent
MAIN = "from brookside_mlops.cli import main; main()"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def call(*words: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def settings(project: Path, old: str, new: str) -> None:
    text = (ROOT / "settings.ini").read_text()
    assert old in text
    (project / "settings.ini").write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "--resume", ""), "the id of a run is missing"),
        (("ci", "undo", ""), "the id of the run is empty"),
        (("ci", "undo", "r", "--environment", "pord"), "environment 'pord' is not one of dev, staging, prod"),
        (("ci", "outputs", "--environment", "pord"), "environment 'pord' is not one of dev, staging, prod"),
        (("ci", "summary", "--usecase", "viabilty"), "has no [usecase.viabilty]"),
        (("ci", "keep", "."), "is a folder"),
        (("ci", "check", "quality"), "checks are of a clone of the repository"),
        (("runs", "show", ""), "the id of a run is missing"),
        (("runs", "diff", "", ""), "the id of a run is missing"),
        (("deploy", "--run", ""), "the id of a run is missing"),
        (("stage", "train", "--run", " "), "the id of a run is missing"),
        (("run", "-p", "data=none.csv"), "validate.data: no such file"),
        (("run", "--data", "none.csv"), "no such file"),
        (
            ("run", "-e", "production", "-u", "churn", "--data", "t.csv", "--target", "y"),
            "'production' is not",
        ),
        (("run", "-p", "tree=3", "-u", "churn", "--data", "t.csv", "--target", "y"), "unknown parameter"),
        (("run", "-u", "Churn-2", "--data", "t.csv", "--target", "y"), "a lower-case letter, then up to 31"),
        (("run", "-u", "a" * 30, "--data", "t.csv", "--target", "y"), "3 to 32 of a-z"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_written(
    here: Path, words: tuple[str, ...], said: str
) -> None:
    pd.DataFrame({"x": range(40), "y": ["a", "b"] * 20}).to_csv("t.csv", index=False)
    result = call(*words)
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert "ValidationError" not in result.output and "Traceback" not in result.output
    assert [path.name for path in here.iterdir()] == ["t.csv"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("-p", "train.trees=3"), "--set"),
        (("-e", "dev"), "--environment"),
        (("--data", "t.csv"), "--data"),
        (("-u", "cost", "--target", "y"), "--usecase, --target"),
    ],
)
def test_options_that_make_a_new_run_are_refused_with_resume(
    here: Path, options: tuple[str, ...], named: str
) -> None:
    run = Run.create(here, "dev", "viability")
    result = call("run", "--resume", run.id, *options)
    assert result.exit_code == 2 and result.stderr.startswith(f"{named} with --resume")
    assert Run(run.folder).record.stages == {}


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--resume", "nothing"),
        ("run", "-e", "production"),
        ("run", "--resume"),
        ("stage", "bake"),
        ("deploy", "--run", "nothing"),
        ("smoke-test",),
        ("rollback",),
        ("promote", "nothing", "--to", "prod"),
        ("promote", "nothing"),
        ("approve", "nothing"),
        ("drift", "--reference", "a.csv"),
        ("runs", "show", "nothing"),
        ("runs", "diff", "one", "two"),
        ("endpoint", "show", "cost-dev"),
        ("endpoint", "start", "cost-dev"),
        ("endpoint", "stop", "../x"),
        ("endpoint", "traffic", "cost-dev", "--set", "blue=100"),
    ],
)
def test_error_is_one_json_object_where_json_is_asked_for(here: Path, words: tuple[str, ...]) -> None:
    result = call(*words, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == found["error"]["exit_code"] == 2
    assert found["error"]["message"] and "Traceback" not in result.output


def test_failing_stage_tells_error_and_run_in_one_json_object(here: Path) -> None:
    run = Run.create(here, "dev", "viability")
    result = call("deploy", "--run", run.id, "--json")
    found = json.loads(result.stdout)
    assert found["error"]["exit_code"] == 2 and found["run"]["run"] == run.id
    result = call("run", "-e", "prod", "-p", "rows=600", "-p", "trees=5", "-p", "bootstrap=100", "--json")
    found = json.loads(result.stdout)
    assert found["error"]["exit_code"] == result.exit_code == 1
    assert found["runs"][0]["stages"]["evaluate"]["verdict"] == "fail"


def test_missing_table_of_a_drift_check_leaves_the_run_as_it_was(here: Path) -> None:
    run = Run.create(here, "dev", "viability")
    before = (run.folder / "run.json").read_text()
    result = call("drift", "--run", run.id, "--current", "missing.csv")
    assert result.exit_code == 2 and "drift.current: no such file" in result.stderr
    assert (run.folder / "run.json").read_text() == before


def damage(project: Path) -> dict[str, bytes]:
    whole = (Run.create(project, "dev", "viability").folder / "run.json").read_bytes()
    found: dict[str, Any] = json.loads(whole)
    return {
        "half": whole[:100],
        "empty": b"",
        "bytes": whole.replace(b"viability", b"viab\xff\xfeility"),
        "fields": json.dumps(found | {"seed": "many", "extra": 1}).encode(),
    }


def test_damaged_run_is_listed_and_hides_no_other(here: Path) -> None:
    good = Run.create(here, "dev", "viability")
    for name, content in damage(here).items():
        (here / "parameterized" / "dev" / name).mkdir()
        (here / "parameterized" / "dev" / name / "run.json").write_bytes(content)
    listed = call("runs", "list")
    assert listed.exit_code == 0 and good.id in listed.stdout and listed.stdout.count(" is damaged: ") == 4
    found = json.loads(call("runs", "list", "--json").stdout)
    assert {one["run"] for one in found if "damaged" in one} == {"half", "empty", "bytes", "fields"}
    assert good.id in [run.id for run in list_runs(here)] and len(damaged_runs(here)) == 4
    assert call("runs", "show", good.id).exit_code == 0
    for name in ("half", "empty", "bytes", "fields"):
        result = call("runs", "show", name)
        assert result.exit_code == 2 and "is damaged" in result.stderr and "Traceback" not in result.output
    said = call("runs", "show", "fields").stderr
    assert "seed: " in said and "extra: " in said


def test_folder_without_runs_says_so(here: Path) -> None:
    listed = call("runs", "list")
    assert listed.exit_code == 0 and f"no runs in {here} yet" in listed.stdout
    assert json.loads(call("runs", "list", "--json").stdout) == []


def test_page_in_place_of_a_folder_is_refused(here: Path) -> None:
    run = Run.create(here, "dev", "viability")
    result = call("runs", "diff", run.id, run.id, "--html", str(here))
    assert result.exit_code == 2 and f"--html {here} is a folder" in result.stderr


def test_lab_is_opened_as_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/words\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    open_notebook(Path("03_train.ipynb"))
    root = "--allow-root " if os.geteuid() == 0 else ""
    assert (tmp_path / "words").read_text() == f"-m jupyter lab {root}03_train.ipynb\n"


def test_verbs_honour_the_folders_of_the_settings(here: Path) -> None:
    settings(
        here,
        "state_folder = .brookside\nruns_folder = parameterized",
        "state_folder = state\nruns_folder = out/runs",
    )
    run = Run.create(here, "dev", "viability")
    assert run.folder == here / "out" / "runs" / "dev" / run.id and run.project == here.resolve()
    assert run.id in call("runs", "list").stdout
    assert call("runs", "show", run.id).exit_code == 0
    LocalEndpoint(here / "state", "viability-dev").start()
    try:
        for words in (
            ("list",),
            ("show", "viability-dev"),
            ("stop", "viability-dev"),
            ("start", "viability-dev"),
        ):
            result = call("endpoint", *words, "--json")
            assert result.exit_code == 0 and "viability-dev" in result.stdout, result.output
        result = call("rollback", "--run", run.id)
        assert (
            result.exit_code == 2 and "nothing serves, so there is nothing to go back from" in result.stderr
        )
        assert not (here / ".brookside").exists() and not (here / "parameterized").exists()
    finally:
        stop_all(here / "state")


def test_environment_may_keep_its_runs_and_state_elsewhere(here: Path) -> None:
    settings(here, "[prod]\n", "[prod]\nruns_folder = prod-runs\nstate_folder = prod-state\n")
    runs = [Run.create(here, name, "viability") for name in ("dev", "prod")]
    assert {run.id for run in list_runs(here)} == {run.id for run in runs}
    assert [run.project for run in runs] == [here.resolve()] * 2
    for folder, name in ((".brookside", "cost-dev"), ("prod-state", "cost-prod")):
        EndpointState(here / folder, name).create()
    assert [one["name"] for one in json.loads(call("endpoint", "list", "--json").stdout)] == [
        "cost-dev",
        "cost-prod",
    ]
    assert call("endpoint", "show", "cost-prod").exit_code == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "endpoint = {usecase}-{environment}",
            "endpoint = {foo}",
            "settings.ini [DEFAULT] endpoint: '{foo}': a name in which",
        ),
        ("endpoint = {usecase}-{environment}", "endpoint = {usecase", "[DEFAULT] endpoint: '{usecase': "),
        ("endpoint = {usecase}-{environment}", "endpoint = {usecase.name}", "a name in which"),
        (
            "[dev]\n",
            "[dev]\nendpoint = Viability\n",
            "settings.ini [dev] endpoint: 'Viability' names an endpoint 'Viability': 3 to 32",
        ),
        (
            "rollout_steps = 10, 50, 100",
            "rollout_steps = 0, 100",
            "[DEFAULT] rollout_steps: ('0', '100'): weights from 1 to 100",
        ),
        ("rollout_steps = 10, 50, 100", "rollout_steps = 50, 10", "weights from 1 to 100, each larger"),
        (
            "slices = business_unit, channel",
            "staging.min_foo = 1",
            "[usecase.viability] staging.min_foo: '1': not a setting",
        ),
        (
            "slices = business_unit, channel",
            "prod.min_accuracy = 7",
            "[usecase.viability] prod.min_accuracy: '7': ",
        ),
        (
            "slices = business_unit, channel",
            "dev.min_accuracy = 7",
            "[usecase.viability] dev.min_accuracy: '7': ",
        ),
        ("seed = 20260101", "seed = soon", "settings.ini [DEFAULT] seed: 'soon'"),
        ("[dev]\n", "[dev]\nname = x\n", "[dev] name: 'x': not a setting"),
    ],
)
def test_wrong_settings_stop_a_command_before_anything_runs(
    here: Path, old: str, new: str, said: str
) -> None:
    settings(here, old, new)
    result = call("run")
    assert result.exit_code == 2 and said in result.stderr, result.output
    assert not (here / "parameterized").exists()


def test_wrong_section_of_another_environment_is_its_own_matter(here: Path) -> None:
    settings(here, "min_accuracy = 0.90", "min_accuracy = 7")
    Run.create(here, "dev", "viability")
    assert "[prod] min_accuracy: '7'" in call("run", "-e", "dev,prod").stderr


@pytest.mark.parametrize(
    "split", ["blue=²", "blue=ten", "blue=-1", "blue=1e2", "blue=101", "blue=٣٠", "blue", "green=100"]
)
def test_split_that_is_none_is_one_line(here: Path, split: str) -> None:
    EndpointState(here / ".brookside", "cost-dev").create()
    result = call("endpoint", "traffic", "cost-dev", "--set", split)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1 and "Traceback" not in result.output


def test_folder_that_is_no_endpoint_does_not_hide_the_others(here: Path) -> None:
    EndpointState(here / ".brookside", "cost-dev").create()
    for name, content in (
        ("Bad Name", b""),
        ("no-database", b"not a database, and long enough to be noticed as none"),
    ):
        (here / ".brookside" / "endpoints" / name).mkdir()
        (here / ".brookside" / "endpoints" / name / "state.db").write_bytes(content)
    result, found = call("endpoint", "list"), json.loads(call("endpoint", "list", "--json").stdout)
    for name in ("Bad Name", "no-database"):
        shutil.rmtree(here / ".brookside" / "endpoints" / name)
    assert (
        result.exit_code == 0 and "cost-dev" in result.stdout and result.stderr.count("is no endpoint") == 2
    )
    assert [one["name"] for one in found] == ["cost-dev"]


def test_endpoint_verbs_and_approval_answer_in_json(here: Path) -> None:
    LocalEndpoint(here / ".brookside", "cost-dev").start()
    assert json.loads(call("endpoint", "traffic", "cost-dev", "--set", "", "--json").stdout)["error"]
    assert json.loads(call("endpoint", "stop", "cost-dev", "--json").stdout) == {
        "name": "cost-dev",
        "stopped": True,
    }
    assert json.loads(call("endpoint", "start", "cost-dev", "--json").stdout)["running"]
    run = Run.create(here, "prod", "viability")
    assert json.loads(call("approve", run.id, "--as", "Ada", "--json").stdout)["approval"]["by"] == "Ada"


def test_approval_is_refused_where_none_is_asked_for(here: Path) -> None:
    run = Run.create(here, "dev", "viability")
    result = call("approve", run.id, "--as", "Ada")
    assert result.exit_code == 2 and "dev asks for no approval" in result.stderr
    assert Run(run.folder).record.approval is None


def test_folder_that_cannot_be_written_is_one_line(here: Path) -> None:
    (here / "parameterized").write_text("a file where a folder should be")
    result = call("run")
    assert result.exit_code == 2 and "parameterized" in result.stderr and len(result.stderr.splitlines()) == 1
    full = expected(OSError(28, "No space left on device", "run.json"))
    assert full is not None and full.exit_code == 1 and str(full) == "run.json: No space left on device"
    assert expected(BrokenPipeError()) is None and expected(ZeroDivisionError()) is None


def test_state_that_cannot_be_opened_is_one_line(here: Path) -> None:
    (here / ".brookside" / "endpoints" / "cost-dev" / "state.db").mkdir(parents=True)
    result = call("endpoint", "show", "cost-dev")
    shutil.rmtree(here / ".brookside")
    assert (
        result.exit_code == 1
        and "unable to open database file" in result.stderr
        and "Traceback" not in result.output
    )


def test_ctrl_c_ends_in_130_and_says_how_to_go_on(here: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "-p", "rows=2500"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout and process.stderr
        for line in process.stdout:
            if "01 validate" in line:
                process.send_signal(signal.SIGINT)
                break
        code, said = process.wait(), process.stderr.read()
    (run,) = list_runs(here)
    assert code == 130 and f"go on: brookside-mlops run --resume {run.id}" in said and "Traceback" not in said
    assert "running" not in {one.state for one in run.record.stages.values()}
    assert (
        "interrupted at" in call("runs", "list").stdout
        or "pending at engineer" in call("runs", "list").stdout
    )


def test_killed_run_is_listed_as_interrupted(here: Path) -> None:
    run = Run.create(here, "dev", "viability")
    with run.change() as record:
        record.stages["validate"] = StageRecord(state="running")
    assert "interrupted at validate" in call("runs", "list").stdout
    assert call("runs", "show", run.id).stdout.splitlines()[1].startswith("interrupted")


def test_line_that_opens_mlflow_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brookside_mlops.settings import read_settings
    from brookside_mlops.tracking import ui_command

    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    line = ui_command(read_settings(folder, "dev", "viability")[0])
    shell = shutil.which("sh")
    assert shell
    words = subprocess.run(
        [shell, "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True, check=True
    )
    assert words.stdout.splitlines()[-1] == "sqlite:///my project/.brookside/mlflow.db"


def test_difference_at_the_end_of_long_values_is_shown() -> None:
    old, new = window("x" * 50 + "old", "x" * 50 + "new")
    assert old.endswith("old") and new.endswith("new") and max(len(old), len(new)) <= 36
    assert window("a", "b") == ("a", "b")
    long = window("x" * 80, "x" * 81)
    assert long[0] != long[1]


def test_stage_runs_with_the_parameters_of_its_run(here: Path) -> None:
    run = Run.create(here, "dev", "viability", {"rows": 700})
    assert call("stage", "validate", "--run", run.id).exit_code == 0
    assert json.loads((run.folder / "validate.json").read_text())["rows"] == 700
    assert call("stage", "validate", "--run", run.id, "-p", "rows=800").exit_code == 0
    assert json.loads((run.folder / "validate.json").read_text())["rows"] == 800
