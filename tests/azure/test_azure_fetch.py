"""What a schedule trained in Azure comes here as a run, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from brookside_mlops.registry import RegisterResult, check_version
from brookside_mlops.run_record import TRAINING, StageRecord
from brookside_mlops.runs import Run, list_runs
from tests.azure import jobs
from tests.azure.blobs import azurite
from tests.azure.emulator import Emulator, Fault
from tests.commands import call

pytestmark = pytest.mark.azure
JOB = "calm_owl_7"


@pytest.fixture
def cloud(azure: Emulator) -> Iterator[Emulator]:
    with azurite(azure):
        yield azure


@pytest.fixture
def made(trained: Callable[[str], Run], tmp_path: Path) -> Run:
    """A run as the last step of the pipeline gives it out."""
    folder = tmp_path / "made"
    shutil.copytree(trained("cost").folder, folder, ignore=shutil.ignore_patterns(".lock", "project"))
    run = Run(folder)
    with run.change() as record:
        record.stages = {name: StageRecord(state="done", verdict="pass") for name in TRAINING}
        record.cause = "begun on Azure, by a schedule or from the studio"
    return run


def test_training_of_a_schedule_becomes_a_run_with_a_version_of_this_project(
    cloud: Emulator, azure_project: Path, made: Run
) -> None:
    jobs.given_out(cloud, JOB, made.folder)
    for _ in range(2):  # the second time it is here already
        said = call("runs", "fetch", JOB)
        assert said.exit_code == 0, said.output
        (run,) = list_runs(azure_project)
        assert f"--resume {run.id}" in said.output and run.folder.parent.name == "dev"
        known = run.read(RegisterResult, "register")
        check_version(run.settings, known.model_name, known.version, known.sha256, run.id)
        assert known.version == 1
    assert "begun on Azure" in call("runs", "show", run.id).output
    assert not list(azure_project.glob("parameterized/.coming-*"))


@pytest.mark.parametrize("status", ["Running", "Failed"])
def test_job_that_is_not_done_is_not_taken(cloud: Emulator, azure_project: Path, status: str) -> None:
    jobs.given_out(cloud, JOB, None, status)
    said = call("runs", "fetch", JOB)
    assert said.exit_code == 2 and f"job {JOB} is {status}" in said.output
    assert list_runs(azure_project) == []


def test_job_that_is_not_there_or_gives_out_no_run_is_told(cloud: Emulator, azure_project: Path) -> None:
    assert call("runs", "fetch", JOB).exit_code == 2
    jobs.given_out(cloud, JOB, None)
    said = call("runs", "fetch", JOB)
    assert said.exit_code == 2 and "gave out no run" in said.output


def test_changed_model_and_lost_connection_leave_nothing_here(
    cloud: Emulator, azure_project: Path, made: Run
) -> None:
    (made.folder / "model_card.md").write_text("better than it is")
    jobs.given_out(cloud, JOB, made.folder)
    said = call("runs", "fetch", JOB)
    assert said.exit_code == 2 and "model_card.md is not the file" in said.output
    cloud.faults.append(Fault(503, "ServiceUnavailable", "Later.", "POST", "/rundata", times=99))
    assert call("runs", "fetch", JOB).exit_code == 1
    assert list_runs(azure_project) == [] and not list(azure_project.glob("parameterized/*/*"))
