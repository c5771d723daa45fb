"""The dashboard of an endpoint in Azure is made from Log Analytics by the real client over HTTPS."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from azure.monitor.query import LogsQueryClient
from typer.testing import CliRunner

from brookside_mlops.azure_client import AzureError, credential
from brookside_mlops.azure_history import read_azure_dashboard
from brookside_mlops.cli import app
from tests.azure.emulator import Emulator, Fault
from tests.azure.logs import lay
from tests.azure.monitor import CUSTOMER

COUNTS = [(name, "long") for name in ("requests", "errors", "unavailable", "refused")]
TIMES = [(name, "real") for name in ("p50_ms", "p95_ms", "p99_ms")]
NOW = 1_795_000_020.0


@pytest.fixture
def here(azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", CUSTOMER)
    return azure_project


def tables(azure: Emulator, now: float) -> None:
    at = datetime.fromtimestamp(now // 300 * 300 - 600, UTC).isoformat().replace("+00:00", "Z")
    lay(
        azure,
        "by start = bin",
        [("start", "datetime"), *COUNTS, *TIMES],
        [[at, 60, 3, 0, 0, 10.0, 20.0, 30.0]],
    )
    lay(
        azure,
        "by deployment = DeploymentName",
        [("deployment", "string"), *COUNTS, *TIMES],
        [["blue", 100, 5, 1, 2, 11.0, 22.0, 33.0]],
    )
    lay(
        azure,
        "label = ",
        [("deployment", "string"), ("label", "string"), ("rows", "real")],
        [["blue", "yes", 75.0], ["blue", "no", 25.0]],
    )
    lay(
        azure,
        "sumif(",
        [("deployment", "string"), ("rows", "real"), ("total", "real"), ("squares", "real")],
        [["blue", 100.0, 75.0, 75.0]],
    )
    lay(azure, "AmlOnlineEndpointTrafficLog", [*COUNTS, *TIMES], [[100, 5, 1, 2, 11.0, 22.0, 33.0]])


def client(azure: Emulator) -> LogsQueryClient:
    return LogsQueryClient(credential(), endpoint=azure.address)


def test_numbers_are_those_of_the_logs(azure: Emulator, here: Path) -> None:
    tables(azure, NOW)
    data = read_azure_dashboard(here, "viability-prod", 24, NOW, client(azure))
    assert (data.whole.requests, data.whole.error_rate, data.whole.availability) == (100, 0.05, 0.99)
    assert len(data.parts) in (288, 289) and [one.requests for one in data.parts if one.requests] == [60]
    (found,) = data.predictions
    assert (found.rows, found.mean, found.classes) == (100, 0.75, {"yes": 75, "no": 25})
    asked, *_ = azure.seen("POST", f"/v1/workspaces/{CUSTOMER}/query")
    assert "viability-prod" in asked.json["query"] and asked.json["timespan"].count("/") == 1


def test_logs_that_are_refused_are_told(azure: Emulator, here: Path) -> None:
    azure.faults.append(
        Fault(403, "InsufficientAccessError", "You may not read these logs.", "POST", "/query")
    )
    with pytest.raises(AzureError, match="the logs of the endpoint: InsufficientAccessError"):
        read_azure_dashboard(here, "viability-prod", 24, NOW, client(azure))


def test_command_writes_the_page_with_its_pictures(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables(azure, time.time())
    monkeypatch.setattr("brookside_mlops.azure_history.logs_client", lambda: client(azure))
    words = ["monitor", "--generate-dashboard", "--target", "azure", "--endpoint", "viability-prod"]
    made = CliRunner().invoke(app, words)
    assert made.exit_code == 0, made.output
    text = (here / "dashboard-viability-prod.md").read_text()
    assert "| requests | 100 |" in text and "Inference time by deployment" in text and "yes 75.0 %" in text
    assert (here / "dashboard-viability-prod-traffic.png").exists()
