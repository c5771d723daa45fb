"""Azure begins trainings by itself, and its monitor has the thresholds of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from brookside_mlops.azure_client import AzureError, ml_client
from brookside_mlops.azure_schedules import (
    Wanted,
    code_digest,
    difference,
    install,
    recurrence,
    wanted_training,
)
from brookside_mlops.azure_settings import AzureSettings, azure_settings
from brookside_mlops.monitoring_config import monitoring_config
from brookside_mlops.schedules import parse_schedule
from tests.azure import jobs
from tests.azure.blobs import azurite
from tests.azure.emulator import Emulator, Fault

ROOT = Path(__file__).resolve().parent.parent.parent


def training() -> Wanted:
    found = wanted_training(monitoring_config(ROOT).profile("prod"), "prod", "viability", AzureSettings())
    assert found is not None
    return found


@pytest.fixture
def cloud(azure: Emulator) -> Iterator[Emulator]:
    assert jobs.of(azure)
    with azurite(azure):
        azure.put(f"{azure.workspace}/computes/train-prod", {"properties": {"computeType": "AmlCompute"}})
        yield azure


def test_environment_that_is_not_retrained_has_no_schedule() -> None:
    profile = monitoring_config(ROOT).profile("dev")
    assert wanted_training(profile, "dev", "viability", AzureSettings()) is None


@pytest.mark.parametrize(
    ("words", "frequency", "pattern"),
    [
        ("every 30 minutes", "minute", None),
        ("daily 06:00", "day", {"hours": 6, "minutes": 0}),
        ("weekly sunday 23:59", "week", {"hours": 23, "minutes": 59, "week_days": ["sunday"]}),
        ("monthly second tuesday 01:05", "month", {"hours": 1, "minutes": 5, "month_days": [8]}),
    ],
)
def test_schedule_is_repeated_as_azure_does(words: str, frequency: str, pattern: object) -> None:
    found = recurrence(parse_schedule(words))
    assert (found["frequency"], found.get("schedule")) == (frequency, pattern)


@pytest.mark.azure
def test_schedule_is_installed_once_and_again_when_it_changes(cloud: Emulator, project: Path) -> None:
    client = ml_client(azure_settings(project))
    assert install(client, project, training()) and not install(client, project, training())
    assert len(cloud.seen("PUT", "/schedules/")) == 1
    kept = cloud.find(f"{cloud.workspace}/schedules/brookside-train-viability-prod")
    assert kept is not None
    job = kept["properties"]["action"]["jobDefinition"]
    assert job["settings"]["default_compute"].endswith("/computes/train-prod") and len(job["jobs"]) == 6
    assert job["inputs"]["environment"]["value"] == "prod"
    again = replace(training(), words="monthly second monday 02:00")
    assert difference(client, again.name, again.digest) == "change" and install(client, project, again)


def test_changed_code_is_another_schedule(project: Path) -> None:
    before = code_digest(project)
    assert code_digest(project) == before
    settings = (ROOT / "settings.ini").read_text()
    (project / "settings.ini").write_text(settings.replace("seed = 20260101", "seed = 1"))
    assert code_digest(project) != before


@pytest.mark.azure
def test_schedule_that_azure_refuses_is_told(cloud: Emulator, project: Path) -> None:
    cloud.faults.append(
        Fault(403, "AuthorizationFailed", "No right to write.", "PUT", "/schedules/", times=9)
    )
    with pytest.raises(AzureError, match=r"brookside-train-viability-prod.*No right to write"):
        install(ml_client(azure_settings(project)), project, training())
