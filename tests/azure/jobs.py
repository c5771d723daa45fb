"""Pipeline jobs on loopback: a job that is sent is run on this machine, each step by its own command line, with its files in Azurite."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from azure.storage.blob import ContainerClient

from tests.azure.blobs import WORKSPACE, container_of
from tests.azure.emulator import SUFFIX, Emulator, Refused, Reply, Request, route
from tests.azure.walk import Node, Walk, walk

JOB = rf"(?P<path>{WORKSPACE}/jobs/(?P<name>[^/]+))"


@dataclass
class Jobs:
    """The jobs that were sent: what came of each, and the thread that runs it."""

    folder: Path
    walks: dict[str, Walk] = field(default_factory=dict)
    threads: dict[str, threading.Thread] = field(default_factory=dict)
    held: threading.Event = field(default_factory=threading.Event)
    run: bool = True  # False: a job is taken, and never begins

    def __post_init__(self) -> None:
        self.held.set()

    def join(self) -> None:
        for thread in self.threads.values():
            thread.join()


def of(emulator: Emulator) -> Jobs:
    found: Jobs = emulator.more.setdefault("jobs", Jobs(emulator.folder / "jobs"))
    return found


# What a job is made of


def address_of(uri: str) -> str:
    """Return the path in the container that an address means: of a datastore, or of the container itself."""
    found = re.search(r"/paths/(.+)$", uri) or re.search(r"^https://[^/]+/[^/]+/(.+)$", uri)
    assert found, f"{uri} is not in the store of the workspace"
    return found[1].rstrip("/")


def download(blobs: ContainerClient, uri: str, folder: Path) -> Path:
    """Bring what lies at an address into a folder."""
    prefix = address_of(uri) + "/"
    folder.mkdir(parents=True, exist_ok=True)
    for blob in blobs.list_blobs(name_starts_with=prefix):
        file = folder / blob.name.removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blobs.download_blob(blob.name).readall())
    return folder


def upload(blobs: ContainerClient, folder: Path, uri: str) -> None:
    """Bring a folder to an address."""
    prefix = address_of(uri)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        blobs.upload_blob(f"{prefix}/{file.relative_to(folder)}", file.read_bytes(), overwrite=True)


def _version(emulator: Emulator, arm_id: str) -> Mapping[str, Any]:
    found = emulator.find(arm_id.removeprefix("azureml:"))
    if found is None:
        raise Refused(400, "UserError", f"The asset {arm_id} was not found.")
    properties: Mapping[str, Any] = found["properties"]
    return properties


def nodes_of(emulator: Emulator, body: Mapping[str, Any], folder: Path) -> tuple[list[Node], dict[str, str]]:
    """Return the steps of a job as the service has them, and the address of each output that was given one."""
    nodes, places = [], {}
    for name, job in body["properties"]["jobs"].items():
        spec = _version(emulator, job["componentId"])["componentSpec"]
        code = spec["code"]
        there = folder / "code" / re.sub(r"\W", "-", code)[-80:]
        if not there.exists():
            uri = _version(emulator, code)["codeUri"]
            with container_of(uri.split("?")[0]) as own:
                download(own, uri, there)
        given = {key: str(one["default"]) for key, one in spec.get("inputs", {}).items() if "default" in one}
        given |= {key: str(one["value"]) for key, one in job.get("inputs", {}).items()}
        for key, one in job.get("outputs", {}).items():
            if isinstance(one, Mapping) and one.get("uri"):
                places[f"{name}.{key}"] = one["uri"]
        makes = tuple(spec.get("outputs", {}))
        nodes.append(Node(name, spec["command"], given, {}, makes, there))
    return nodes, places


@route("PUT", JOB)
def put_job(emulator: Emulator, request: Request) -> Reply | None:
    """Take a pipeline job, and run it. A name is given once."""
    properties = request.json["properties"]
    if properties.get("jobType") != "Pipeline":
        return None
    path, name = request.given["path"], request.given["name"]
    if emulator.find(path):
        raise Refused(409, "Conflict", f"A job with the name {name} is already there.")
    compute = str(properties["settings"].get("default_compute", "")).rsplit("/", 1)[-1]
    if emulator.find(f"{emulator.workspace}/computes/{compute}") is None:
        raise Refused(400, "UserError", f"Compute {compute} was not found.")
    link = f"https://ml.portal.{SUFFIX}/runs/{name}?wsid={emulator.workspace}"
    services = {"Studio": {"endpoint": link, "jobServiceType": "Studio"}}
    with emulator.lock:
        stored = emulator._store(path, {"properties": {**properties, "services": services}}, "Succeeded")
        stored["properties"]["status"] = "Preparing"
    jobs = of(emulator)
    if jobs.run:
        thread = threading.Thread(target=execute, args=(emulator, path, name, request.json), daemon=True)
        jobs.threads[name] = thread
        thread.start()
    return Reply(201, stored)


def set_status(emulator: Emulator, path: str, status: str) -> None:
    with emulator.lock:
        found = emulator.find(path)
        if found is not None:
            found["properties"]["status"] = status


def execute(emulator: Emulator, path: str, name: str, body: Mapping[str, Any]) -> None:
    """Run a job to its end."""
    jobs, blobs = of(emulator), emulator.more["blobs"]
    folder = jobs.folder / name
    try:
        jobs.held.wait(60)
        nodes, places = nodes_of(emulator, body, folder)
        inputs = {}
        for key, one in body["properties"].get("inputs", {}).items():
            literal = one["jobInputType"] == "literal"
            inputs[key] = (
                str(one["value"]) if literal else str(download(blobs, one["uri"], folder / "inputs" / key))
            )
        set_status(emulator, path, "Running")

        def listen(step: str, code: int | None) -> None:
            for key, uri in places.items():
                job, _, output = key.partition(".")
                if job == step and code is not None:
                    upload(blobs, folder / "steps" / step / output, uri)

        jobs.walks[name] = walk([replace(node) for node in nodes], inputs, folder / "steps", listen)
        set_status(emulator, path, jobs.walks[name].state)
    except BaseException as error:
        set_status(emulator, path, "Failed")
        jobs.walks[name] = Walk(said={"": repr(error)})
        raise


# What a job gave out


@route("GET", r"/discovery")
def discovery(emulator: Emulator, request: Request) -> Reply:
    """Where the services of the workspace are."""
    return Reply(200, {"api": emulator.address, "history": emulator.address})


@route("POST", rf"/history/v1\.0{WORKSPACE}/rundata")
def rundata(emulator: Emulator, request: Request) -> Reply:
    """What a job gave out, by the ids of data assets: those of `outputs` of the test."""
    emulator.check_token(request)
    name = request.json["runId"]
    given = emulator.more.get("outputs", {}).get(name, {})
    outputs = {key: {"assetId": f"azureml://{name}/{key}", "type": "UriFolder"} for key in given}
    return Reply(200, {"runMetadata": {"runId": name, "outputs": outputs}})


@route("POST", rf"/data/v1\.0{WORKSPACE}/dataversion/batchgetresolveduris")
def resolved(emulator: Emulator, request: Request) -> Reply:
    """Where data assets lie."""
    emulator.check_token(request)
    found = {}
    for asset in request.json["values"]:
        name, _, output = asset.removeprefix("azureml://").partition("/")
        place = emulator.more["outputs"][name][output]
        uri = f"azureml:/{emulator.workspace}/datastores/workspaceblobstore/paths/{place}"
        found[asset] = {"uri": uri, "type": "uri_folder"}
    return Reply(200, {"values": found})


def given_out(emulator: Emulator, name: str, folder: Path | None, status: str = "Completed") -> None:
    """Put a pipeline job there that a schedule began, with a folder as its output `run`, or with none."""
    properties = {
        "jobType": "Pipeline",
        "status": status,
        "jobs": {},
        "settings": {},
        "inputs": {},
        "outputs": {},
    }
    emulator.put(f"{emulator.workspace}/jobs/{name}", {"properties": properties})
    outputs = emulator.more.setdefault("outputs", {})
    if folder is not None:
        place = f"azureml/{name}/run"
        upload(emulator.more["blobs"], folder, f"azureml://datastores/workspaceblobstore/paths/{place}")
        outputs[name] = {"run": f"{place}/"}
