"""Managed online endpoints on loopback: behind each scoring URI stands the local endpoint's real server.

Deployments take their model from Azurite, where the SDK has put it, and their traffic is split by that server. What goes wrong is
switched on per test: `Endpoints.fates` by deployment, `stale` and `busy` by endpoint.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from brookside_mlops.endpoints.local import EndpointError, LocalEndpoint
from brookside_mlops.endpoints.protocol import PIN, REPLAYED, Limits, mirror_fault, traffic_fault
from brookside_mlops.endpoints.request_log import INSERT, Entry
from brookside_mlops.errors import InputError
from tests.azure.blobs import ACCOUNT, azurite, container_of
from tests.azure.emulator import ML, Emulator, Refused, Reply, Request, route

ENDPOINT = rf"(?P<endpoint>/subscriptions/[^/]+/resourcegroups/[^/]+/providers/{ML}/workspaces/[^/]+/onlineEndpoints/(?P<name>[^/]+))"
DEPLOYMENT = rf"(?P<path>{ENDPOINT}/deployments/(?P<deployment>[^/]+))"
TYPES = (f"{ML}/workspaces/onlineendpoints".lower(), f"{ML}/workspaces/onlineendpoints/deployments".lower())
NEVER = 10**9
MODEL = (400, 500)  # of the local server: what a model answers itself, for which the service gives 424
LOGS = "22222222-3333-4444-5555-666666666666"


@dataclass
class Endpoints:
    """What the service keeps beside the resources."""

    folder: Path
    blobs: Any = None
    fates: dict[str, str] = field(default_factory=dict)  # deployment: stuck, failed, quota
    busy: int = 0  # so many changes of an endpoint are refused, as another one is on its way
    stale: int = 0  # so many reads of an endpoint still show what was before the last change
    ingested: list[tuple[int, float]] = field(default_factory=list)
    old: dict[str, dict[str, Any]] = field(default_factory=dict)
    http: httpx.Client = field(
        default_factory=lambda: httpx.Client(trust_env=False, timeout=60, limits=httpx.Limits())
    )

    def local(self, name: str) -> LocalEndpoint:
        return LocalEndpoint(self.folder, name, Limits(request_seconds=5))

    def close(self) -> None:
        from brookside_mlops.endpoints.local import stop_all

        stop_all(self.folder)
        self.http.close()


def of(emulator: Emulator) -> Endpoints:
    if "endpoints" not in emulator.more:
        emulator.more["endpoints"] = Endpoints(emulator.folder / "served")
        emulator.long_running |= set(TYPES)
    found: Endpoints = emulator.more["endpoints"]
    return found


def bad(message: str) -> Refused:
    return Refused(400, "BadArgument", message)


# Endpoints


@route("PUT", ENDPOINT)
def put_endpoint(emulator: Emulator, request: Request) -> Reply | None:
    name, path = request.given["name"], request.given["endpoint"]
    served, body = of(emulator), dict(request.json)
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9-]{1,30}[a-zA-Z0-9]", name):
        raise bad(
            f"The endpoint name {name} is invalid: 3 to 32 letters, digits and -, beginning with a letter."
        )
    properties = dict(body.get("properties") or {})
    if properties.get("authMode") not in ("Key", "AMLToken", "AADToken"):
        raise bad("properties.authMode must be Key, AMLToken or AADToken.")
    local, old = served.local(name), emulator.find(path)
    if old is None and properties.get("traffic"):
        raise bad("A new endpoint has no deployments, so it takes no traffic.")
    if old is not None:
        free_of_changes(emulator, path)
    traffic, mirror = dict(properties.get("traffic") or {}), dict(properties.get("mirrorTraffic") or {})
    known = [
        one["name"]
        for one in emulator.below(f"{path}/deployments")
        if one["properties"]["provisioningState"] == "Succeeded"
    ]
    fault = traffic_fault(traffic, known) or mirror_fault(mirror, known)
    if fault:
        raise bad(f"The traffic rules are not valid: {fault}.")
    if old is None:
        local.start()
        local.set_mirror({})
        local.set_traffic({})
        for left in local.deployments():  # by one of this name that somebody dropped
            local.delete_deployment(left)
    else:
        served.old[path.lower()] = {
            **old,
            "properties": {**old["properties"], "provisioningState": "Succeeded"},
        }
    properties |= {
        "scoringUri": f"{emulator.address}/score/{name}",
        "swaggerUri": f"{emulator.address}/swagger/{name}",
        "traffic": dict((old or {}).get("properties", {}).get("traffic") or {}),
        "mirrorTraffic": dict((old or {}).get("properties", {}).get("mirrorTraffic") or {}),
    }

    def finish() -> Mapping[str, Any] | None:
        found = emulator.find(path)
        if found is None:
            return {"code": "ResourceNotFound", "message": f"{name} was deleted while it was changed."}
        local.set_mirror({})
        if known:
            local.set_traffic(traffic)
        local.set_mirror(mirror)
        found["properties"] |= {"provisioningState": "Succeeded", "traffic": traffic, "mirrorTraffic": mirror}
        return None

    with emulator.lock:
        stored = emulator._store(path, {**body, "properties": properties}, "Updating" if old else "Creating")
    return emulator.accepted(Reply(200 if old else 201, stored), finish, path)


def free_of_changes(emulator: Emulator, path: str) -> None:
    """Refuse a change of an endpoint while another one is on its way."""
    served = of(emulator)
    found = emulator.find(path)
    state = found["properties"]["provisioningState"] if found else ""
    if served.busy > 0 or state in ("Creating", "Updating", "Deleting"):
        served.busy -= served.busy > 0
        raise Refused(
            409,
            "Conflict",
            f"There is already an ongoing operation on the endpoint, which is {state or 'Updating'}.",
        )


@route("GET", ENDPOINT)
def get_endpoint(emulator: Emulator, request: Request) -> Reply | None:
    served, path = of(emulator), request.given["endpoint"].lower()
    if served.stale > 0 and path in served.old and emulator.find(path):
        served.stale -= 1
        return Reply(200, served.old[path])
    return None


@route("DELETE", ENDPOINT)
def delete_endpoint(emulator: Emulator, request: Request) -> Reply | None:
    of(emulator).local(request.given["name"]).stop()
    return None


@route("POST", ENDPOINT + "/listKeys")
def list_keys(emulator: Emulator, request: Request) -> Reply:
    emulator.existing(request.given["endpoint"])
    first, second = of(emulator).local(request.given["name"]).keys()
    return Reply(200, {"primaryKey": first, "secondaryKey": second})


@route("POST", ENDPOINT + "/regenerateKeys")
def regenerate_keys(emulator: Emulator, request: Request) -> Reply:
    emulator.existing(request.given["endpoint"])
    local, which = of(emulator).local(request.given["name"]), request.json["keyType"].lower()

    def finish() -> None:
        local.regenerate_key("primary" if which == "primary" else "secondary")

    return emulator.accepted(Reply(202), finish, "")


# Deployments


@route("PUT", DEPLOYMENT)
def put_deployment(emulator: Emulator, request: Request) -> Reply:
    served, name, deployment = of(emulator), request.given["name"], request.given["deployment"]
    path, body = request.given["path"], dict(request.json)
    emulator.existing(request.given["endpoint"])
    free_of_changes(emulator, request.given["endpoint"])
    properties = dict(body["properties"])
    if properties.get("endpointComputeType") != "Managed":
        raise bad("Only managed deployments are sold here.")
    properties["scaleSettings"] = properties.get("scaleSettings") or {"scaleType": "Default"}
    model = asset(emulator, properties.get("model") or "")
    if model is None or not asset(emulator, properties.get("environmentId") or ""):
        raise bad(
            f"The model {properties.get('model')} or the environment {properties.get('environmentId')} was not found."
        )
    code = properties.get("codeConfiguration") or {}
    if not emulator.find(code.get("codeId") or ""):
        raise bad(f"The code {code.get('codeId')} was not found.")
    if emulator.find(path):
        free_of_changes(emulator, path)
    for one in ((properties.get("dataCollector") or {}).get("collections") or {}).values():
        one["dataCollectionMode"] = one["dataCollectionMode"].capitalize()
    fate = served.fates.get(deployment, "")
    with emulator.lock:
        stored = emulator._store(path, {**body, "properties": properties}, "Creating")

    def failed(code: str, message: str) -> dict[str, Any]:
        emulator.set_state(path, "Failed")
        return {"code": code, "message": message}

    def finish() -> Mapping[str, Any] | None:
        if emulator.find(path) is None:
            return {"code": "ResourceNotFound", "message": f"{deployment} was deleted while it was made."}
        if fate == "quota":
            said = f"Not enough quota available for {properties.get('instanceType')} in this subscription: needed 8, left 2."
            return failed("OutOfQuota", said)
        if fate == "failed":
            return failed(
                "ResourceNotReady",
                "User container has crashed or terminated. Please see troubleshooting guide.",
            )
        bundle = fetch(served, model, emulator.folder / "fetched" / secrets.token_hex(4))
        tags = body.get("tags") or {}
        try:
            served.local(name).create_deployment(
                deployment, bundle, tags.get("model_name", "model"), int(tags.get("version", 1))
            )
        except (EndpointError, InputError) as error:
            return failed("ResourceNotReady", f"User container has crashed or terminated: {error}")
        emulator.set_state(path, "Succeeded")
        return None

    looks = NEVER if fate == "stuck" else None
    return emulator.accepted(Reply(201, stored), finish, path, looks)


@route("DELETE", DEPLOYMENT)
def delete_deployment(emulator: Emulator, request: Request) -> Reply:
    path = request.given["path"]
    if emulator.find(path) is None:
        return Reply(204)
    endpoint = emulator.existing(request.given["endpoint"])["properties"]
    name = request.given["deployment"]
    if (endpoint.get("traffic") or {}).get(name) or (endpoint.get("mirrorTraffic") or {}).get(name):
        raise bad(f"The deployment {name} takes traffic: set its traffic to 0 before it is deleted.")
    emulator.set_state(path, "Deleting")
    local = of(emulator).local(request.given["name"])

    def finish() -> None:
        local.delete_deployment(name)
        emulator.drop(path)

    return emulator.accepted(Reply(202), finish, "")


@route("POST", DEPLOYMENT + "/getLogs")
def get_logs(emulator: Emulator, request: Request) -> Reply:
    emulator.existing(request.given["path"])
    fate = of(emulator).fates.get(request.given["deployment"], "")
    lines = of(emulator).local(request.given["name"]).logs(int(request.json.get("tail") or 50))
    if fate:
        lines = [
            "Instance status:",
            "SystemSetup: Succeeded",
            f"ModuleNotFoundError: No module named 'of-{fate}'",
        ]
    return Reply(200, {"content": "\n".join(lines)})


@route("POST", r"/score/(?P<name>[^/]+)")
def score(emulator: Emulator, request: Request) -> Reply:
    """A request of a caller: to the real server, with its headers."""
    wanted = ("authorization", "content-type", PIN, REPLAYED, "x-ms-request-id", "content-encoding")
    headers = {key: value for key, value in request.headers.items() if key in wanted}
    served = of(emulator)
    try:
        answer = served.http.post(
            served.local(request.given["name"]).show_uri(), content=request.body, headers=headers
        )
    except httpx.HTTPError:
        raise Refused(502, "BadGateway", "No deployment answers.") from None
    kept = ("content-type", PIN, "x-ms-request-id", "retry-after")
    headers = {key: answer.headers[key] for key in kept if key in answer.headers}
    status = answer.status_code
    if status in MODEL:
        headers |= {
            "ms-azureml-model-error-statuscode": str(status),
            "ms-azureml-model-error-reason": "model_error",
        }
        status = 424
    return Reply(status, answer.content or b"{}", headers)


# Storage and models


def asset(emulator: Emulator, name: str) -> dict[str, Any] | None:
    """Return a model or an environment by its id, of the workspace or of a registry."""
    shared: dict[str, dict[str, Any]] = emulator.more.get("shared", {})
    return shared.get(name) or emulator.find(name)


@route("PUT", rf"(?P<path>/.*/providers/{ML}/workspaces/[^/]+/models/[^/]+/versions/[^/]+)")
def put_model(emulator: Emulator, request: Request) -> Reply:
    """A model; of an MLflow model the service reads its flavors."""
    properties = request.json["properties"]
    if (
        emulator.find(request.given["path"])
        and properties["modelUri"] != emulator.existing(request.given["path"])["properties"]["modelUri"]
    ):
        raise Refused(409, "Conflict", "A model of this name and version is there, with another content.")
    if properties.get("modelType") == "mlflow_model" and not properties.get("flavors"):
        properties["flavors"] = {"onnx": {"data": {"data": "model.onnx"}}}
    return emulator.write(request.given["path"], request, request.json)


def fetch(served: Endpoints, model: Mapping[str, Any], folder: Path) -> Path:
    """Return a folder with the files of a model, from the storage that they were uploaded to."""
    assert served.blobs is not None, "a model needs Azurite"
    uri = model["properties"]["modelUri"]
    place = re.search(r"/paths/(.+)$", uri)
    blobs = served.blobs if place else container_of(uri)
    prefix = (place[1] if place else uri.removeprefix(f"{ACCOUNT}/").partition("/")[2]).rstrip("/") + "/"
    for blob in blobs.list_blobs(name_starts_with=prefix):
        file = folder / blob.name.removeprefix(prefix)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blobs.download_blob(blob.name).readall())
    return folder


@contextmanager
def stored(emulator: Emulator) -> Iterator[None]:
    """Give the endpoints a storage account to take their models from."""
    with azurite(emulator) as blobs:
        of(emulator).blobs = blobs
        yield


@route("PUT", r".*/workspaces/[^/]+/schedules/[^/]+")
def put_schedule(emulator: Emulator, request: Request) -> None:
    """Refuse a monitor of a task that the service has no name for; the rest is as with any resource."""
    action = request.json["properties"].get("action") or {}
    target = (action.get("monitorDefinition") or {}).get("monitoringTarget") or {}
    if target and str(target.get("taskType")).lower() not in ("classification", "regression"):
        raise bad(f"Error converting value '{target.get('taskType')}' to type 'ModelTaskType'.")


# Logs


def log_requests(
    emulator: Emulator, name: str, deployment: str, start: float, minutes: int, status: int
) -> None:
    """Have three requests a minute in the log of an endpoint, from a time on."""
    path = of(emulator).local(name).state.requests
    rows = [Entry(start + 20 * one, deployment, "live", status, 0.01) for one in range(3 * minutes)]
    with closing(sqlite3.connect(path, timeout=30)) as database, database:
        database.executemany(INSERT, rows)


@route("POST", r"/v1/workspaces/[^/]+/query")
def traffic_log(emulator: Emulator, request: Request) -> Reply | None:
    """The rows of AmlOnlineEndpointTrafficLog that our query asks for, from the log of the real server."""
    emulator.check_token(request)
    query = str(request.json.get("query", ""))
    name = re.search(r"EndpointName == '([^']+)'", query)
    told = "Code == 424 and Model > 0, Model" in query  # else a model's own status is hidden behind 424
    since = re.search(r"Ingested > datetime\(([^)]+)\)", query)
    most = re.search(r"take (\d+)", query)
    if not (name and since and most and "AmlOnlineEndpointTrafficLog" in query):
        return None  # not the question of a canary
    begin = datetime.fromisoformat(since[1]).timestamp()
    served = of(emulator)
    path = served.local(name[1]).state.requests
    rows: list[tuple[Any, ...]] = []
    if path.exists():
        with closing(sqlite3.connect(path, timeout=30)) as database:
            rows = database.execute(
                "select id, time, deployment, status, seconds, kind, rows, total, squares, classes from request order by id"
            ).fetchall()
    with emulator.lock:
        last = served.ingested[-1][0] if served.ingested else 0
        if rows and rows[-1][0] > last:
            served.ingested.append((rows[-1][0], datetime.now(UTC).timestamp()))
        marks = list(served.ingested)

    def stamp(seconds: float) -> str:
        return datetime.fromtimestamp(seconds, UTC).isoformat()

    found = []
    for number, at, deployment, status, seconds, kind, *values in rows:
        came = next(when for until, when in marks if number <= until)
        if came > begin:
            found.append(
                [
                    stamp(came),
                    stamp(at),
                    deployment,
                    status if told or status not in MODEL else 424,
                    seconds * 1000,
                    int(kind == "pinned"),
                    *values,
                ]
            )
    names = ["Ingested", "TimeGenerated", "DeploymentName", "Status", "TotalDurationMs", "Pinned"]
    names += ["Rows", "Total", "Squares", "Classes"]
    kinds = ["datetime", "datetime", "string", "int", "real", "long", "long", "real", "real", "string"]
    columns = [{"name": one, "type": kind} for one, kind in zip(names, kinds, strict=True)]
    table = {"name": "PrimaryResult", "columns": columns, "rows": found[: int(most[1])]}
    return Reply(200, {"tables": [table]})
