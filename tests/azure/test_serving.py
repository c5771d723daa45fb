"""The server of Azure ML itself, with the packages of our environment: it answers, and tells what it may tell to whom it may.

`BROOKSIDE_SERVING` names the `bin` folder of an environment in which `conda_file()` of azure_assets is installed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from brookside_mlops.azure_settings import AzureSettings
from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.azure_assets import (
    IMAGE,
    code_folder,
    conda_file,
    data_collector,
    variables_of,
)
from brookside_mlops.endpoints.azure_score import COLLECT, DIGEST, MODEL_DIR
from brookside_mlops.endpoints.protocol import PIN, Limits
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.telemetry import CONNECTION
from tests.azure.emulator import Emulator
from tests.azure.insights import connection_string, envelopes, until

ROOT = Path(__file__).resolve().parents[2]
SERVING = os.environ.get("BROOKSIDE_SERVING", "")
SECRET = 4.125


@pytest.fixture
def sidecar() -> Iterator[tuple[int, list[Any]]]:
    """Yield the port of what Azure runs beside a deployment to take what is collected, and what came there."""
    came: list[Any] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append((self.headers["ce-type"], json.loads(body)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_port, came
    server.shutdown()
    server.server_close()
    thread.join()


def serve(folder: Path, variables: dict[str, str], calls: list[dict[str, str]]) -> list[httpx.Response]:
    """Start the real server with variables, ask it once with each set of headers, and return the answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = code_folder(folder)
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    order = [f"{SERVING}/azmlinfsrv", "--entry_script", str(code / "score.py"), "--port", str(port)]
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(order, cwd=code, env=environ, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(trust_env=False, timeout=30) as client:

            def there() -> bool:
                assert process.poll() is None, (folder / "server.log").read_text()
                try:
                    return client.get(url).status_code == 200
                except httpx.TransportError:
                    return False

            until(there)
            return [
                client.post(f"{url}/score", content=json.dumps([{"weeks": SECRET}]), headers=one)
                for one in calls
            ]
    finally:
        process.terminate()
        process.wait(30)
        log.close()


@pytest.mark.azure
@pytest.mark.skipif(not SERVING, reason="BROOKSIDE_SERVING names no environment with the server of Azure ML")
def test_server_answers_and_rows_go_to_the_collector_alone(
    azure: Emulator, tmp_path: Path, sidecar: tuple[int, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, came = sidecar
    monkeypatch.setenv(CONNECTION, connection_string(azure))
    bundle = scratch_bundle(tmp_path / "model" / "1", 0.5)
    enabled = {
        name: {"enabled": True, "sampleRatePercentage": 100} for name in ("model_inputs", "model_outputs")
    }
    (tmp_path / "mdc.json").write_text(json.dumps({"collections": enabled}))
    given = variables_of(AzureSettings(collect_data=True), "cost-dev", "blue", Limits())
    variables = given | {
        MODEL_DIR: str(tmp_path / "model"),
        DIGEST: Bundle.open(bundle).info.sha256,
        "AZUREML_MDC_CONFIG_PATH": str(tmp_path / "mdc.json"),
        "AZUREML_MDC_PORT": str(port),
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    answers = serve(tmp_path, variables, [{}, {PIN: "blue"}])
    assert [(one.status_code, one.json()) for one in answers] == [(200, [SECRET + 0.5])] * 2
    until(lambda: len(came) >= 2)
    assert sorted(came) == [
        ("azureml.inference.model_inputs", [{"weeks": SECRET}]),
        ("azureml.inference.model_outputs", [{"prediction": SECRET + 0.5}]),
    ], "a request that pins a deployment is one of ours"
    requests = envelopes(azure, "RequestData")
    assert {one["properties"]["deployment"] for one in requests} == {"blue"}
    assert str(SECRET) not in json.dumps([one for one in azure.more["envelopes"] if "cost-dev" in str(one)])


def test_nothing_is_collected_unless_it_is_asked_for() -> None:
    assert COLLECT not in variables_of(AzureSettings(), "cost-dev", "blue", Limits())
    assert data_collector(AzureSettings(), Limits()) is None
    assert data_collector(AzureSettings(collect_data=True), Limits(sample_share=0.0)) is None
    asked = data_collector(AzureSettings(collect_data=True), Limits(sample_share=0.25))
    assert asked is not None and asked.sampling_rate == 0.25
    assert {name: one.enabled for name, one in asked.collections.items()} == {
        "model_inputs": "true",
        "model_outputs": "true",
    }


def test_every_environment_has_one_base_image_by_its_digest() -> None:
    files = sorted((ROOT / "azure-ml" / "environments").glob("*.yml"))
    images = [yaml.safe_load(one.read_text()).get("image") for one in files]
    assert {one for one in images if one} == {IMAGE} and "@sha256:" in IMAGE


def test_every_package_of_the_environment_has_its_version() -> None:
    listed = conda_file()["dependencies"][-1]["pip"]
    assert all(one.count("==") == 1 for one in listed)
    assert f"onnxruntime=={version('onnxruntime')}" in listed
