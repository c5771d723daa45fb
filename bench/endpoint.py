"""Requests per second and latency of the local endpoint against its peers, side by side in one run.

    python bench/endpoint.py [--seconds 5] [--rounds 3] [--connections 1 16 64]

Needs wrk (Debian: apt-get install wrk). The peers are `mlflow models serve`, and azureml-inference-server-http from a virtual environment
that the bench makes in .bench/. Each serves the model twice: as people deploy it, the fitted scikit-learn pipeline as an MLflow model that
takes a data frame; and as our ONNX graph, with mlflow as named tensors, with azureml through our own bundle: what is left of the ratio
then is the server alone. Ours runs with everything on: keys, two deployments, the log of requests, samples, mirror traffic. A bare
starlette server that echoes is the bound of the HTTP server itself. Servers take turns, so that whatever else the machine does meets all
of them. Medians of the rounds; one row of 15 features, and batches of 1,000 rows.
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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
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
    bundle = Bundle.open(Path(os.environ["MODEL"]))


def run(raw_data):
    return bundle.predict(parse_payload(raw_data.encode(), bundle.info.columns))
"""
PIPELINE_ENTRY = """
import json, os
import mlflow.pyfunc
import pandas as pd


def init():
    global model, kinds
    model = mlflow.pyfunc.load_model(os.environ["MODEL"])
    schema = model.metadata.get_input_schema()
    kinds = dict(zip(schema.input_names(), schema.pandas_types()))


def run(raw_data):
    table = json.loads(raw_data)["input_data"]
    return model.predict(pd.DataFrame(table["data"], columns=table["columns"]).astype(kinds)).tolist()
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
    """Train the viability model of the portfolio and return the folder of its run."""
    from brookside_mlops.run_record import STAGES
    from brookside_mlops.runs import Run
    from brookside_mlops.scratch import _advance

    run = Run.create(folder, "dev", "viability")
    _advance(run, STAGES[:5])
    return run.folder


def save_pipeline(run: Path, folder: Path) -> tuple[Path, list[str], list[list[Any]]]:
    """Save the fitted scikit-learn pipeline of a run as an MLflow model; return it, and the columns and a row that it takes."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    from brookside_mlops.datasets import read_table
    from brookside_mlops.features import model_inputs
    from brookside_mlops.modelling import load_model

    model = load_model(run / "model.skops")
    inputs = model_inputs(read_table(run / "test.parquet").dropna(), model.features)
    path = folder / "pipeline"
    mlflow.sklearn.save_model(
        model.pipeline,
        path,
        signature=infer_signature(inputs),
        pyfunc_predict_fn="predict_proba",
        serialization_format="cloudpickle",
        pip_requirements=[],
    )
    return path, list(inputs.columns), json.loads(inputs.head(1).to_json(orient="values"))


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


def save_graph(bundle: Path, folder: Path) -> Path:
    """Save the ONNX graph of a bundle as an MLflow model and return its folder."""
    import mlflow.onnx
    import onnx

    from brookside_mlops.bundle import BundleInfo
    from brookside_mlops.registry import _signature

    info = BundleInfo.model_validate_json((bundle / "bundle.json").read_text())
    path = folder / "graph"
    mlflow.onnx.save_model(onnx.load(bundle / "model.onnx"), path, signature=_signature(info))
    return path


@contextmanager
def mlflow_server(name: str, model: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve an MLflow model with `mlflow models serve`."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "mlflow"), "models", "serve", "-m", str(model)]
    command += ["--env-manager", "local", "-h", "127.0.0.1", "-p", str(port)]
    with process(
        command, f"http://127.0.0.1:{port}/ping", PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ):
        yield Server(f"mlflow models serve, {name}", f"http://127.0.0.1:{port}/invocations", one, many)


def peers() -> Path:
    """Return the virtual environment of azureml-inference-server-http; make it where it is not there."""
    if not (PEERS / "bin" / "azmlinfsrv").exists():
        same = ["mlflow-skinny", "scikit-learn", "xgboost", "numpy", "pandas", "onnxruntime", "pydantic"]
        known = [f"{one}=={version(one)}" for one in same]
        subprocess.run([sys.executable, "-m", "venv", "--clear", PEERS], check=True)
        subprocess.run(
            [PEERS / "bin" / "pip", "install", "-q", "azureml-inference-server-http", *known], check=True
        )
    return PEERS


@contextmanager
def azure_server(name: str, entry: str, model: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve a model with azureml-inference-server-http from its own environment."""
    script = model.parent / f"score_{model.name}.py"
    script.write_text(entry)
    port = free_port()
    command = [str(peers() / "bin" / "azmlinfsrv"), "--entry_script", str(script), "--port", str(port)]
    more = {"MODEL": str(model), "PYTHONPATH": str(ROOT), "PATH": f"{PEERS / 'bin'}:{os.environ['PATH']}"}
    with process(command, f"http://127.0.0.1:{port}/", **more):
        yield Server(f"azureml-inference-server-http, {name}", f"http://127.0.0.1:{port}/score", one, many)


@contextmanager
def echo_server(folder: Path, one: bytes, many: bytes) -> Iterator[Server]:
    """Serve an echo with starlette and uvicorn."""
    (folder / "echo_app.py").write_text(ECHO)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "echo_app:app", "--app-dir", str(folder), "--port", str(port)]
    with process([*command, "--no-access-log", "--log-level", "warning"], f"http://127.0.0.1:{port}/score"):
        yield Server("bare starlette echo", f"http://127.0.0.1:{port}/score", one, many)


def check(server: Server) -> None:
    """Refuse to measure a server that does not answer 200 to what it is asked."""
    for body in (server.one, server.many):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key or 'none'}"}
        answer = httpx.post(server.url, content=body, headers=headers, timeout=60, trust_env=False)
        if answer.status_code != 200:
            raise SystemExit(f"{server.name} answers {answer.status_code}: {answer.text[:500]}")


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
    options = parser.parse_args()
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        run = train(folder)
        bundle = run / "bundle"
        columns, rows = bodies(bundle)
        thousand = (rows * 1000)[:1000]
        sent = ours_body(columns, rows[:1]), ours_body(columns, thousand)
        tensors = mlflow_body(bundle, columns, rows[:1]), mlflow_body(bundle, columns, thousand)
        pipeline, names, row = save_pipeline(run, folder)
        frames = [
            json.dumps({"dataframe_split": {"columns": names, "data": one}}).encode()
            for one in (row, row * 1000)
        ]
        tables = ours_body(names, row), ours_body(names, row * 1000)
        graph = save_graph(bundle, folder)
        servers = [
            stack.enter_context(one)
            for one in (
                ours(folder, bundle, *sent),
                mlflow_server("scikit-learn pipeline", pipeline, frames[0], frames[1]),
                mlflow_server("our graph", graph, *tensors),
                azure_server("scikit-learn pipeline", PIPELINE_ENTRY, pipeline, *tables),
                azure_server("our bundle", ENTRY, bundle, *sent),
                echo_server(folder, *sent),
            )
        ]
        for server in servers:
            check(server)
        measure(folder, servers, options)
        print(f"\nWhere a worker's time goes, one row: {where_time_goes(bundle, sent[0])}.")


def measure(folder: Path, servers: list[Server], options: argparse.Namespace) -> None:
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
