"""The word `--target` of the command line, and what a run trained elsewhere needs before the line goes on here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from brookside_mlops.azure_training import register_here
from brookside_mlops.line_plan import plan_of_wish
from brookside_mlops.places import VARIABLE
from brookside_mlops.promotion import carry
from brookside_mlops.registry import RegisterResult, check_version
from brookside_mlops.run_record import STAGES
from brookside_mlops.run_report import REPORT, log_report
from brookside_mlops.runs import Run
from tests.commands import call
from tests.registered import registered_run, write_settings

AZURE = "[azure] {}: is not set; write it there, or set BROOKSIDE_AZURE_{}"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, "")  # put back at the end: --target sets it
    monkeypatch.chdir(project)
    return project


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("stage", "deploy"),
        ("deploy",),
        ("smoke-test",),
        ("rollback",),
        ("promote", "R", "--to", "staging"),
        ("approve", "R"),
        ("retrain",),
        ("drift",),
        ("endpoint", "show", "cost-dev"),
        ("rollout", "show", "cost-dev"),
        ("monitor",),
        ("doctor",),
    ],
)
def test_place_that_is_none_is_refused_by_every_verb(here: Path, words: tuple[str, ...]) -> None:
    result = call(*words, "--target", "moon")
    assert result.exit_code == 2 and "moon" in result.output, result.output
    assert "local" in result.output and "azure" in result.output
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("words", [("run",), ("run", "--plan"), ("run", "-e", "dev,staging")])
def test_run_in_azure_says_before_it_begins_which_settings_are_missing(
    here: Path, words: tuple[str, ...]
) -> None:
    result = call(*words, "--target", "azure")
    assert result.exit_code == 2
    for key in ("subscription", "resource_group", "workspace", "log_workspace"):
        assert AZURE.format(key, key.upper()) in result.stderr
    assert list(here.iterdir()) == []


def test_workspace_may_be_another_one_in_each_environment(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_settings(here)
    for key in ("subscription", "resource_group", "log_workspace"):
        monkeypatch.setenv(f"BROOKSIDE_AZURE_{key.upper()}", key)
    monkeypatch.setenv("BROOKSIDE_AZURE_WORKSPACE", "mlw-{environment}")
    monkeypatch.setenv(VARIABLE, "azure")
    (plan,) = plan_of_wish(here, ("dev",), "cost")
    assert plan.compute == "train-dev"


def test_verbs_of_a_run_in_azure_say_which_settings_are_missing(here: Path) -> None:
    write_settings(here)
    run = registered_run(here, 1)
    for words in (
        ("run", "--resume", run.id),
        ("deploy", "--run", run.id),
        ("smoke-test", "--run", run.id),
        ("retrain", "-u", "cost", "--data", "none.csv"),
    ):
        result = call(*words, "--target", "azure")
        assert result.exit_code == 2 and "BROOKSIDE_AZURE_WORKSPACE" in result.stderr, words
    assert (
        Run(run.folder).record.stages["register"].verdict == "pass"
        and "deploy" not in Run(run.folder).record.stages
    )


def test_run_keeps_its_place_and_takes_it_along(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_settings(here)
    run = registered_run(here, 1)
    assert run.record.target == "" and run.settings.target == "local"
    assert (
        call("approve", run.id, "--as", "Ada", "--target", "azure").exit_code == 2
    )  # dev asks for no approval
    monkeypatch.setenv(VARIABLE, "azure")
    made = Run.create(here, "prod", "cost")
    monkeypatch.setenv(VARIABLE, "")
    assert made.record.target == "azure" and Run(made.folder).settings.target == "azure"
    assert call("approve", made.id, "--as", "Ada", "--target", "local").exit_code == 0
    assert Run(made.folder).record.target == "local"
    monkeypatch.setenv(VARIABLE, "")
    with run.change() as record:
        record.target = "azure"
    assert carry(Run(run.folder), "staging", ("register",)).settings.target == "azure"


def test_plan_of_a_run_shows_what_is_left_and_writes_nothing(here: Path) -> None:
    planned = json.loads(call("run", "--plan", "-e", "dev,prod", "--json").stdout)
    assert [one["target"] for one in planned] == ["local", "local"] and not planned[0]["job"]
    assert planned[0]["here"] == list(STAGES[:8]) and planned[1]["approval"]
    shown = " ".join(call("run", "--plan", "-e", "dev,prod").stdout.split())
    assert "asks for one in deploy, when the new version is smoke-tested at 0 %" in shown
    assert list(here.iterdir()) == []
    assert "not in settings.ini yet" not in call("run", "--plan", "--until", "train").output


def test_training_on_this_machine_is_kept_here_by_a_setting(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("subscription", "resource_group", "workspace", "log_workspace"):
        monkeypatch.setenv(f"BROOKSIDE_AZURE_{key.upper()}", key)
    monkeypatch.setenv(VARIABLE, "azure")
    shown = "\n".join(plan_of_wish(here, ("dev",), "viability")[0].lines())
    assert "validation -> engineering" in shown and "here        deploy -> smoke_test -> drift" in shown
    monkeypatch.setenv("BROOKSIDE_AZURE_TRAIN_ON", "here")
    shown = "\n".join(plan_of_wish(here, ("dev",), "viability")[0].lines())
    assert "here        validate -> engineer" in shown and "in Azure" in shown and "job" not in shown


def test_version_of_a_cluster_is_registered_here_as_the_same_bytes(
    trained: Callable[[str], Run], here: Path
) -> None:
    write_settings(here)
    registered_run(here, 1)
    known = trained("cost")
    folder = here / "parameterized" / "dev" / known.id
    shutil.copytree(known.folder, folder, ignore=shutil.ignore_patterns("project"))
    run, before = Run(folder), known.read(RegisterResult, "register")
    bundle = run.path("bundle/model.onnx").read_bytes()
    number = register_here(run)
    assert number != before.version == 1  # that number is of another run here
    after = run.read(RegisterResult, "register")
    assert after.version == number and after.sha256 == before.sha256
    assert run.path("bundle/model.onnx").read_bytes() == bundle
    check_version(run.settings, after.model_name, number, after.sha256, run.id)
    assert json.loads((folder / "deployment.json").read_text())["version"] == number
    assert register_here(run) == number
    (folder / REPORT).write_text("a report")
    assert log_report(run)
