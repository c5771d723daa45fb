"""What an endpoint and a monitor did reaches Application Insights, by the real SDK over HTTPS, and no payload does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from brookside_mlops.azure_queries import ROWS, SQUARES, VALUES, WATCHED
from brookside_mlops.endpoints.local import LocalEndpoint, stop_all
from brookside_mlops.telemetry import CONNECTION
from tests.azure.emulator import Emulator
from tests.azure.insights import KEY, connection_string, envelopes, metrics, until
from tests.bundles import failing

ROOT = Path(__file__).resolve().parents[2]
SECRET = 4.125  # a value that a caller sends, and that nobody else is to see


@pytest.fixture
def sending(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    monkeypatch.setenv(CONNECTION, connection_string(azure))
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    return azure


def ask(endpoint: LocalEndpoint, *weeks: float) -> int:
    body = {
        "input_data": {
            "columns": ["weeks"],
            "index": list(range(len(weeks))),
            "data": [[one] for one in weeks],
        }
    }
    return endpoint.score(json.dumps(body).encode()).status


def test_gateway_tells_requests_and_predictions_and_no_payload(sending: Emulator, tmp_path: Path) -> None:
    state = tmp_path / ".brookside"
    endpoint = LocalEndpoint(state, "cost-dev")
    endpoint.start()
    try:
        endpoint.create_deployment("blue", failing(tmp_path / "bundle"), "cost", 1)
        endpoint.set_traffic({"blue": 100})
        assert ask(endpoint, 1, 2) == 200 and ask(endpoint, SECRET) == 200 and ask(endpoint, 50) >= 500
        until(
            lambda: len(envelopes(sending, "RequestData")) >= 3
            and sum(one for one, _ in metrics(sending, ROWS)) >= 3
        )
    finally:
        stop_all(state)
    requests = envelopes(sending, "RequestData")
    assert sorted(one["responseCode"] for one in requests)[:2] == ["200", "200"]
    assert {one["success"] for one in requests} == {True, False}
    assert {one["properties"]["deployment"] for one in requests} == {"blue"}
    assert sum(one for one, _ in metrics(sending, VALUES)) == 1 + 2 + int(SECRET)
    assert sum(one for one, _ in metrics(sending, SQUARES)) == 1 + 4 + int(SECRET) ** 2
    assert {about["endpoint"] for _, about in metrics(sending, ROWS)} == {"cost-dev"}
    sent = json.dumps(sending.more["envelopes"])
    assert str(SECRET) not in sent and "input_data" not in sent
    assert sending.strangers == [], "the SDK sends nothing about itself elsewhere"


def test_monitor_tells_what_it_saw(sending: Emulator, tmp_path: Path) -> None:
    state = tmp_path / ".brookside"
    endpoint = LocalEndpoint(state, "viability-prod")
    endpoint.start()
    try:
        endpoint.create_deployment("blue", failing(tmp_path / "bundle"), "cost", 1)
        endpoint.set_traffic({"blue": 100})
        said = subprocess.run(
            [sys.executable, "-m", "tests.azure.look"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
    finally:
        stop_all(state)
    found = metrics(sending, WATCHED + "health")
    assert found and all(one == (1.0, {"endpoint": "viability-prod"}) for one in found)
    assert KEY not in said.stdout + said.stderr


def test_without_a_connection_string_nothing_is_imported_or_sent(tmp_path: Path) -> None:
    code = (
        "import sys; from brookside_mlops.telemetry import request_listener, tell_watched; "
        "assert request_listener('a') is None; tell_watched('a', {'health': 1.0}); "
        "print([one for one in sys.modules if one.startswith(('azure', 'opentelemetry'))])"
    )
    environ = {key: value for key, value in os.environ.items() if key != CONNECTION} | {
        "PYTHONPATH": str(ROOT)
    }
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ
    )
    assert said.stdout.strip() == "[]"


def test_wrong_connection_string_is_told_and_not_shown(tmp_path: Path) -> None:
    code = (
        "from brookside_mlops.telemetry import request_listener, tell_watched\n"
        "assert request_listener('a') is None\n"
        "tell_watched('a', {})"
    )
    environ = {**os.environ, CONNECTION: "hunter2", "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ
    )
    assert (
        "no telemetry: " in said.stderr and f"InputError: {CONNECTION} is no connection string" in said.stderr
    )
    assert "hunter2" not in said.stderr.replace("InputError", "")
