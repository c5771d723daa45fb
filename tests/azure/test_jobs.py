"""A run is sent to Azure by the real SDK; what can go wrong before and while it is trained there. test_line.py trains one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.azure_client import AzureError, ml_client
from brookside_mlops.azure_jobs import Clock, send, sent_of, wait
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.azure_training import fetch, train_in_azure
from brookside_mlops.runs import Run
from tests.azure import jobs
from tests.azure.blobs import azurite
from tests.azure.emulator import Emulator, Fault
from tests.commands import call

SMALL = {"rows": 2_500, "bootstrap": 100, "train.trees": 300}
pytestmark = pytest.mark.azure


@pytest.fixture
def cloud(azure: Emulator) -> Iterator[Emulator]:
    """Yield an Azure with storage and the clusters of the environments."""
    with azurite(azure):
        for name in ("dev", "staging", "prod"):
            azure.put(
                f"{azure.workspace}/computes/train-{name}", {"properties": {"computeType": "AmlCompute"}}
            )
        yield azure
        jobs.of(azure).held.set()
        jobs.of(azure).join()


def test_job_that_takes_too_long_goes_on_and_is_found_again(cloud: Emulator, project: Path) -> None:
    jobs.of(cloud).run = False
    run = Run.create(project, "dev", "viability", SMALL)
    for _ in range(2):
        with pytest.raises(AzureError, match=r"is Preparing after 0 minutes .* --resume"):
            train_in_azure(run, azure_settings(project), lambda line: None, Clock(minutes=0))
    assert len(cloud.seen("PUT", "/jobs/")) == 1
    (job,) = sent_of(run).jobs
    assert job.name == run.id and job.link.startswith("https://ml.portal.")


def test_compute_that_is_not_there_is_named_and_nothing_runs(azure: Emulator, project: Path) -> None:
    with azurite(azure):
        run = Run.create(project, "staging", "viability", SMALL)
        with pytest.raises(AzureError, match=r"train-staging"):
            train_in_azure(run, azure_settings(project), lambda line: None, Clock(minutes=0))
    assert jobs.of(azure).walks == {}


def test_job_that_somebody_removed_is_told(cloud: Emulator, project: Path) -> None:
    jobs.of(cloud).run = False
    run = Run.create(project, "dev", "viability", SMALL)
    client = ml_client(azure_settings(project))
    job = send(client, run, azure_settings(project))
    cloud.drop(f"{cloud.workspace}/jobs/{job.name}")
    with pytest.raises(AzureError, match="somebody removed it"):
        wait(client, run, job, lambda line: None, Clock(minutes=0))


def test_throttling_is_waited_out(cloud: Emulator, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    jobs.of(cloud).run = False
    run = Run.create(project, "dev", "viability", SMALL)
    client = ml_client(azure_settings(project))
    cloud.faults.append(
        Fault(429, "TooManyRequests", method="PUT", path="/jobs/", headers={"Retry-After": "0"})
    )
    job = send(client, run, azure_settings(project))
    assert [one.status for one in cloud.seen("PUT", "/jobs/")] == [429, 201]
    assert job.status == "Preparing" and not fetch(client, run, job)
    assert capfd.readouterr() == ("", ""), "the SDK prints colour codes and warnings of its own"


def test_plan_names_what_azure_has_not(
    cloud: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    for key, value in {"BROOKSIDE_TARGET": "", "BROOKSIDE_AZURE_LOG_WORKSPACE": "logs"}.items():
        monkeypatch.setenv(key, value)
    assert call("run", "--plan", "--target", "azure").exit_code == 0
    cloud.drop(f"{cloud.workspace}/computes/train-dev")
    shown = call("run", "--plan", "--target", "azure")
    assert shown.exit_code == 2 and "has no cluster train-dev: brookside-mlops azure boot" in shown.stderr
    monkeypatch.setenv("BROOKSIDE_AZURE_WORKSPACE", "nowhere")
    shown = call("run", "--plan", "--target", "azure")
    assert shown.exit_code == 2 and "workspace nowhere of resource group" in shown.stderr
