"""An endpoint in Azure is watched as one on this machine: the same verb, rules and actions, on what Azure has logged."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from brookside_mlops.cli import app
from brookside_mlops.due import Due
from brookside_mlops.endpoints.azure import AzureEndpoint
from brookside_mlops.endpoints.targets import endpoint_for
from brookside_mlops.jobs import due_jobs
from brookside_mlops.monitor import look
from brookside_mlops.places import VARIABLE
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.settings import read_settings
from brookside_mlops.watched import watched
from tests.azure.emulator import Emulator, Fault
from tests.azure.endpoints import LOGS, log_requests

NAME = "cost-prod"


def monitor(*words: str) -> Result:
    return CliRunner().invoke(app, ["monitor", *words])


@pytest.fixture
def endpoint(azure_store: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> AzureEndpoint:
    """Return an endpoint in Azure with a version that has answered three requests a minute for an hour."""
    monkeypatch.setenv(VARIABLE, "azure")
    settings, _ = read_settings(azure_project, "prod", "cost")
    found = endpoint_for(settings, NAME)
    assert isinstance(found, AzureEndpoint)
    found.start()
    found.create_deployment("blue", scratch_bundle(azure_project / "bundle", 0.5), "brookside-cost", 1)
    found.set_traffic({"blue": 100})
    log_requests(azure_store, NAME, "blue", time.time() - 4200, 70, 200)
    return found


@pytest.mark.azure
def test_endpoint_is_watched_from_a_clone_without_state(
    endpoint: AzureEndpoint, azure_store: Emulator, azure_project: Path
) -> None:
    due = monitor("--due", "--environment", "prod", "--json")
    said = {one["job"]: one["said"] for one in json.loads(due.stdout)}
    assert due.exit_code == 0 and said["metrics"] == f"looked at {NAME}; open: no alert", due.output
    ran = monitor("--environment", "prod", "--target", "azure")
    assert ran.exit_code == 0 and f"{NAME}  running" in ran.stdout and "no alert is open" in ran.stdout, ran
    assert "180 requests in the last hour" in ran.stdout and "not looked at from here" in ran.stdout
    for job in ("drift", "retraining"):
        said_of = due_jobs(azure_project)[job](Due(job, "prod", datetime.now(UTC)))
        assert said_of.startswith(f"{NAME}: rows and labels are kept in Azure and not looked at from here")
    now = time.time()
    log_requests(azure_store, NAME, "blue", now, 20, 500)
    report = look(watched(azure_project, environment="prod")[0], now + 1500)
    assert report.critical and "error-rate" in {one.rule for one in report.alerts if one.open}
    assert [one.status for one in report.effects if one.event.rule == "error-rate"] == ["done"]


@pytest.mark.azure
def test_failing_endpoint_ends_the_command_in_1(endpoint: AzureEndpoint, azure_store: Emulator) -> None:
    log_requests(azure_store, NAME, "blue", time.time() - 1800, 25, 500)
    ran = monitor("--endpoint", NAME)
    assert ran.exit_code == 1 and "critical error-rate" in ran.stdout, ran.output


def test_refusals_are_told_by_the_list_of_endpoints_without_what_the_sdk_logs(
    azure: Emulator,
    azure_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["endpoint", "list", "--target", "azure"]
    azure.faults.append(Fault(403, "AuthorizationFailed", "Not for you.", "GET", "/onlineEndpoints$"))
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 1 and "AuthorizationFailed: Not for you" in ran.output, ran
    with monkeypatch.context() as other:
        other.setenv("BROOKSIDE_AZURE_WORKSPACE", "nope")
        ran = CliRunner().invoke(app, words)
        assert ran.exit_code == 2 and "workspace nope of resource group" in ran.output, ran
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    monkeypatch.delenv("AZURE_CLIENT_ID")
    for line in (words, ["azure", "bootstrap", "--plan"]):
        logging.getLogger("azure.identity").setLevel(logging.NOTSET)
        ran = CliRunner().invoke(app, line)
        assert ran.exit_code == 1 and "not signed in" in ran.output, ran
    assert [one.name for one in caplog.records if one.name.startswith("azure.identity")] == []


def test_nothing_deployed_and_logs_that_are_refused_are_told(
    azure: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "azure")
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", LOGS)
    ran = monitor("--environment", "prod")
    assert ran.exit_code == 2 and "no endpoint in prod yet" in ran.output, ran
    ran = monitor("--endpoint", NAME)
    assert ran.exit_code == 2 and f"no endpoint '{NAME}'" in ran.output, ran
    properties = {"authMode": "Key", "properties": {}}
    azure.put(f"{azure.workspace}/onlineEndpoints/{NAME}", {"location": "eastus", "properties": properties})
    azure.faults.append(
        Fault(403, "InsufficientAccessError", "You may not read these logs.", "POST", "/query")
    )
    ran = monitor("--environment", "prod")
    assert ran.exit_code == 1 and "InsufficientAccessError" in ran.output, ran
    assert "Log Analytics Reader on the log workspace" in ran.output, ran
    assert "Data Scientist" not in ran.output and "traffic" not in ran.output, ran
