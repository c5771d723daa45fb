"""Requests per second and latency of the local endpoint against its peers, side by side in one run.

    python bench/endpoint.py [--seconds 5] [--rounds 3] [--connections 1 16 64] [--bundle FOLDER]

Needs wrk (Debian: apt-get install wrk). The peers serve the same ONNX graph: `mlflow models serve`, and azureml-inference-server-http
from a virtual environment that the bench makes in .bench/. Ours runs with everything on: keys, two deployments, the log of requests,
samples, mirror traffic. A bare starlette server that echoes is the bound of the HTTP server itself. Servers take turns, so that
whatever else the machine does meets all of them. Medians of the rounds; one row of 15 features, and batches of 1,000 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from brookside_mlops.endpoints.local import LocalEndpoint

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".bench" / "peers"
ENTRY = """
import json, os
from pathlib import Path
from brookside_mlops.bundle import Bundle
from brookside_mlops.payload import parse_payload


def init():
    global bundle
    bundle = Bundle.open(Path(os.environ["BUNDLE"]))


def run(raw_data):
    return bundle.predict(parse_payload(raw_data.encode(), bundle.info.columns))
"""
ECHO = """
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route


async def echo(request):
    return Response(await request.body(), media_type="application/json")


app = Starlette(routes=[Route("/score", echo, methods=["POST"])])
"""


@dataclass(frozen=True)
class Server:
    """Something that answers POST requests."""

    name: str
    url: str
    one: bytes
    many: bytes
    key: str = ""


@dataclass(frozen=True)
class Point:
    """What wrk measured: requests per second and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    failed: int


def train(folder: Path) -> Path:
    """Train the viability model of the portfolio and return the folder of its bundle."""
    from brookside_mlops.runs import STAGES, Run
    from brookside_mlops.scratch import _advance

    run = Run.create(folder, "dev", "viability")
    _advance(run, STAGES[:5])
    return run.folder / "bundle"


def bodies(bundle: Path) -> tuple[list[str], list[list[Any]]]:
    """Return the columns and the rows of a bundle's example."""
    table = json.loads((bundle / "input_example.json").read_text())["input_data"]
    return table["columns"], table["data"]


def ours_body(columns: list[str], rows: list[list[Any]]) -> bytes:
    """Return rows as Azure ML's deployments take them."""
    return json.dumps(
        {"input_data": {"columns": columns, "index": list(range(len(rows))), "data": rows}}
    ).encode()


def mlflow_body(bundle: Path, columns: list[str], rows: list[list[Any]]) -> bytes:
    """Return rows as named tensors, which is what MLflow's ONNX flavour takes."""
    kinds = {one["name"]: one["kind"] for one in json.loads((bundle / "bundle.json").read_text())["columns"]}
    inputs = {
        one["name"]: one.get("input") or one["name"]
        for one in json.loads((bundle / "bundle.json").read_text())["columns"]
    }
    found = {}
    for place, name in enumerate(columns):
        gap: Any = "" if kinds[name] == "category" else 0.0
        values = [gap if row[place] is None else row[place] for row in rows]
        found[inputs[name]] = [[value if kinds[name] == "category" else float(value)] for value in values]
    return json.dumps({"inputs": found}).encode()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def process(command: list[str], url: str, **more: str) -> Iterator[None]:
    """Run a server until the block ends; wait until something listens."""
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, env=dict(os.environ) | more, start_new_session=True
        ) as server,
    ):
        try:
            end = time.monotonic() + 180
            while True:
                try:
                    httpx.get(url, timeout=2, trust_env=False)
                    break
                except httpx.HTTPError:
                    if server.poll() is not None or time.monotonic() > end:
                        log.seek(0)
                        raise SystemExit(
                            f"{command[0]} did not start:\n{log.read().decode()[-2000:]}"
                        ) from None
                    time.sleep(0.2)
            yield
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


@contextmanager
def ours(folder: Path, bundle: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve with our endpoint, two deployments of the model and a mirror."""
    endpoint = LocalEndpoint(folder, "bench-dev")
    endpoint.start()
    try:
        for number, name in enumerate(("blue", "green")):
            endpoint.create_deployment(name, bundle, "m", number)
        endpoint.set_traffic({"blue": 100})
        endpoint.set_mirror({"green": 1})
        yield Server("brookside-mlops", endpoint.show_uri(), one, many, endpoint.keys()[0])
    finally:
        endpoint.stop()


@contextmanager
def mlflow_server(folder: Path, bundle: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve with `mlflow models serve`."""
    import mlflow.onnx
    import onnx

    from brookside_mlops.bundle import BundleInfo
    from brookside_mlops.registry import _signature

    info = BundleInfo.model_validate_json((bundle / "bundle.json").read_text())
    model = folder / "mlflow-model"
    mlflow.onnx.save_model(onnx.load(bundle / "model.onnx"), model, signature=_signature(info))
    port = free_port()
    command = [str(Path(sys.executable).parent / "mlflow"), "models", "serve", "-m", str(model)]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with process(
        command, f"http://127.0.0.1:{port}/ping", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ):
        yield Server("mlflow models serve", f"http://127.0.0.1:{port}/invocations", one, many)


@contextmanager
def azure_server(folder: Path, bundle: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve with azureml-inference-server-http from its own environment."""
    server = PEERS / "bin" / "azmlinfsrv"
    if not server.exists():
        subprocess.run([sys.executable, "-m", "venv", PEERS], check=True)
        packages = ["azureml-inference-server-http", "onnxruntime", "numpy", "pydantic"]
        subprocess.run([PEERS / "bin" / "pip", "install", "-q", *packages], check=True)
    (folder / "score.py").write_text(ENTRY)
    port = free_port()
    command = [str(server), "--entry_script", str(folder / "score.py"), "--port", str(port)]
    more = {"BUNDLE": str(bundle), "PYTHONPATH": str(ROOT), "PATH": f"{PEERS / 'bin'}:{os.environ['PATH']}"}
    with process(command, f"http://127.0.0.1:{port}/", **more):
        yield Server("azureml-inference-server-http", f"http://127.0.0.1:{port}/score", one, many)


@contextmanager
def echo_server(folder: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve an echo with starlette and uvicorn."""
    (folder / "echo_app.py").write_text(ECHO)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "echo_app:app", "--app-dir", str(folder), "--port", str(port)]
    with process([*command, "--no-access-log", "--log-level", "warning"], f"http://127.0.0.1:{port}/score"):
        yield Server("bare starlette echo", f"http://127.0.0.1:{port}/score", one, many)


def wrk(folder: Path, server: Server, body: bytes, connections: int, seconds: float) -> Point:
    """Load a server and return what came of it."""
    script = folder / "wrk.lua"
    authorization = f'wrk.headers["Authorization"] = "Bearer {server.key}"\n' if server.key else ""
    (folder / "body").write_bytes(body)
    script.write_text(
        f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n{authorization}'
        f'local file = io.open("{folder / "body"}", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
        "done = function(summary, latency, requests)\n"
        "  local e = summary.errors\n"
        "  print(string.format('RESULT %f %f %f %d', summary.requests / summary.duration * 1e6, "
        "latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))\n"
        "end\n"
    )
    script.chmod(0o600)
    command = [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds:g}s",
        "--timeout",
        "30s",
        "-s",
        str(script),
        server.url,
    ]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"RESULT (\S+) (\S+) (\S+) (\d+)", said)
    if not found:
        raise SystemExit(f"wrk said:\n{said}")
    return Point(float(found[1]), float(found[2]), float(found[3]), int(found[4]))


def where_time_goes(bundle_folder: Path, body: bytes, times: int = 3_000) -> str:
    """Return the microseconds of each part of a worker's answer, in this process."""
    from brookside_mlops.bundle import Bundle
    from brookside_mlops.endpoints.worker import answer
    from brookside_mlops.payload import parse_payload

    bundle = Bundle.open(bundle_folder)
    columns = parse_payload(body, bundle.info.columns)
    feed = bundle.feed(columns)
    parts = {
        "JSON and checks": lambda: parse_payload(body, bundle.info.columns),
        "arrays": lambda: bundle.feed(columns),
        "ONNX Runtime": lambda: bundle.session.run(None, feed),
        "whole answer": lambda: answer(bundle, body),
    }
    found = []
    for name, work in parts.items():
        work()
        begun = time.perf_counter()
        for _ in range(times):
            work()
        found.append(f"{name} {(time.perf_counter() - begun) / times * 1e6:.0f} us")
    return ", ".join(found)


def main() -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--bundle", type=Path, help="a bundle to serve; by default one is trained")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = options.bundle or train(folder)
        columns, rows = bodies(bundle)
        thousand = (rows * 1000)[:1000]
        sent = ours_body(columns, rows[:1]), ours_body(columns, thousand)
        other = mlflow_body(bundle, columns, rows[:1]), mlflow_body(bundle, columns, thousand)
        with (
            ours(folder, bundle, *sent) as first,
            mlflow_server(folder, bundle, *other) as second,
            azure_server(folder, bundle, *sent) as third,
            echo_server(folder, *sent) as fourth,
        ):
            servers = (first, second, third, fourth)
            measure(folder, servers, options)
        print(f"\nWhere a worker's time goes, one row: {where_time_goes(bundle, sent[0])}.")


def measure(folder: Path, servers: tuple[Server, ...], options: argparse.Namespace) -> None:
    """Load the servers by turns, and print a table for one row and one for batches."""
    for title, batch, connections in (
        ("one row", False, options.connections),
        ("1,000 rows", True, [1, 4]),
    ):
        print(f"\n### {title}: median of {options.rounds} rounds of {options.seconds:g} s, by turns\n")
        print("| connections | server | requests/s | P50 (ms) | P99 (ms) | failed | ours / this |")
        print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
        for count in connections:
            points: dict[str, list[Point]] = {server.name: [] for server in servers}
            for _ in range(options.rounds):
                for server in servers:
                    body = server.many if batch else server.one
                    points[server.name].append(wrk(folder, server, body, count, options.seconds))
            base = points[servers[0].name]
            for server in servers:
                found = points[server.name]
                ratio = statistics.median(a.rate / b.rate for a, b in zip(base, found, strict=True))
                rate, p50, p99 = (
                    statistics.median(getattr(one, field) for one in found)
                    for field in ("rate", "p50", "p99")
                )
                failed = sum(one.failed for one in found)
                print(
                    f"| {count} | {server.name} | {rate:,.0f} | {p50:.2f} | {p99:.2f} | {failed} | {ratio:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
