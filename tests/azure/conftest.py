"""An Azure on loopback for each test that asks for one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.places import VARIABLE
from tests.azure.emulator import Emulator, running

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Yield an Azure on loopback; the environment says where it is, and who we are there."""
    with running(tmp_path / "azure") as emulator:
        for name in (
            "AZURE_CLIENT_SECRET",
            "AZUREML_CURRENT_CLOUD",
            "https_proxy",
            "no_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            monkeypatch.delenv(name, raising=False)
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(VARIABLE, "")  # put back at the end: --target sets it
        monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "")  # put back at the end: the SDK sets it
        monkeypatch.delenv("AZUREML_CURRENT_CLOUD")
        yield emulator
        # What onnxruntime sends in a process that loaded it before it could be told not to is none of ours.
        strange = [one for one in emulator.strangers if one != "mobile.events.data.microsoft.com"]
        assert strange == [], "a host outside this cloud was asked for"


@pytest.fixture
def azure_project(azure: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project with our settings.ini, which is the folder we are in."""
    project = tmp_path / "project"
    project.mkdir()
    shutil.copy(ROOT / "settings.ini", project)
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def azure_store(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Yield that Azure with storage (Azurite) and endpoints that serve."""
    from tests.azure.endpoints import LOGS, of, stored

    logs = f"{azure.group}/providers/Microsoft.OperationalInsights/workspaces/log-endpoints"
    azure.put(logs, {"location": "eastus", "properties": {"customerId": LOGS}})
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", LOGS)
    with stored(azure):
        yield azure
        of(azure).close()
