"""A run is trained in Azure: sent by the real SDK, run by the command lines of its steps, fetched, and finished here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.azure_client import AzureError, ml_client
from brookside_mlops.azure_jobs import Clock, fetch, send, sent_of, train_in_azure, trained, wait
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.errors import GateFailed
from brookside_mlops.runs import Run
from tests.azure import jobs
from tests.azure.blobs import azurite
from tests.azure.emulator import Emulator, Fault

ROOT = Path(__file__).resolve().parent.parent.parent
SMALL = {"rows": 2_500, "bootstrap": 100, "train.trees": 300}
pytestmark = pytest.mark.azure


@pytest.fixture
def cloud(azure: Emulator) -> Iterator[Emulator]:
    """Yield an Azure with storage and the clusters of the environments."""
    with azurite(azure):
        for name in ("dev", "staging", "prod"):
            azure.put(f"{azure.workspace}/computes/train-{name}", {"properties": {"computeType": "AmlCompute"}})
        yield azure
        jobs.of(azure).held.set()
        jobs.of(azure).join()


@pytest.fixture
def quick() -> Clock:
    """Return a clock that lets time pass by looking at the job again soon."""
    import time

    return Clock(minutes=10, sleep=lambda seconds: time.sleep(0.2))


def test_run_is_trained_on_the_cluster_and_goes_on_here(cloud: Emulator, project: Path, quick: Clock) -> None:
    run = Run.create(project, "dev", "viability", SMALL)
    said: list[str] = []
    train_in_azure(run, azure_settings(project), said.append, quick)
    assert trained(run), jobs.of(cloud).walks
    assert [line.split()[0] for line in said][-1] == "completed"
    assert (run.folder / "05_register.ipynb").exists() and (run.folder / "deployment.json").exists()
    assert not (run.folder / "baseline").exists()
