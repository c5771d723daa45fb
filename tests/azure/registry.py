"""A registry on loopback: it is discovered, and its assets are put and read through its own service, with their files in Azurite."""

from __future__ import annotations

import re
import uuid
from contextlib import suppress

from azure.core.exceptions import ResourceExistsError

from tests.azure.blobs import ACCOUNT, container_of, signature
from tests.azure.emulator import (
    GROUP,
    LOCATION,
    ML,
    SUBSCRIPTION,
    TENANT,
    WORKSPACE,
    Emulator,
    Refused,
    Reply,
    Request,
    route,
)

REGISTRY = "brookside-registry"
SERVICE = "mferp/managementfrontend"
PLACE = rf"/{SERVICE}(?P<inner>/subscriptions/[^/]+/resourceGroups/[^/]+/providers/{ML}/registries/[^/]+"
VERSION = "2021-10-01-dataplanepreview"


def registry_id(name: str = REGISTRY) -> str:
    return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/{ML}/registries/{name}"


def add_registry(emulator: Emulator) -> None:
    """Put a registry that the workspaces of this region can use."""
    emulator.put(registry_id(), {"location": LOCATION})


@route("GET", r"/registrymanagement/v1.0/registries/(?P<name>[^/]+)/discovery")
def discovery(emulator: Emulator, request: Request) -> Reply:
    """Where the service of a registry is."""
    emulator.check_token(request)
    name = request.given["name"]
    if emulator.find(registry_id(name)) is None:
        raise Refused(404, "RegistryNotFound", f"Registry {name} was not found.")
    return Reply(
        200,
        {
            "registryName": name,
            "tenantId": TENANT,
            "primaryRegion": LOCATION,
            "regions": [LOCATION],
            "subscriptionId": SUBSCRIPTION,
            "resourceGroup": GROUP,
            "workspaceName": "",
            "primaryRegionResourceProviderUri": f"{emulator.address}/",
        },
    )


def _inside(emulator: Emulator, request: Request) -> str:
    """Check a request to the service of a registry, and return the id it is about."""
    emulator.check_token(request)
    if request.query.get("api-version") != VERSION:
        raise Refused(400, "InvalidApiVersionParameter", f"The service takes {VERSION}.")
    return request.given["inner"]


@route("GET", PLACE + "/.+)")
def read(emulator: Emulator, request: Request) -> Reply:
    """An asset, or a list of its versions."""
    request.path = _inside(emulator, request)
    return emulator.generic(request)


def container(kind: str, name: str, version: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"registry-{kind}-{name}-{version}".lower())[:60]


def place_of(name: str) -> dict[str, object]:
    """Return the container of an asset, made if need be, with a signature for it."""
    with suppress(ResourceExistsError):
        container_of(f"{ACCOUNT}/{name}").create_container()
    address = f"{ACCOUNT}/{name}"
    credential = {"credentialType": "SAS", "sasUri": f"{address}?{signature(name)}"}
    return {"blobUri": address, "credential": credential}


@route("PUT", PLACE + "/tempdatarefs/(?P<name>[^/]+)/versions/(?P<version>[^/]+))")
def begin_upload(emulator: Emulator, request: Request) -> Reply:
    """Where the files of a new version go. The files of one that is there are not written again."""
    _inside(emulator, request)
    found = re.search(r"registries/[^/]+/(\w+)/", request.json["assetId"])
    assert found
    kind, name, version = found[1], request.given["name"], request.given["version"]
    if emulator.find(f"{registry_id()}/{kind}/{name}/versions/{version}"):
        raise Refused(409, "Conflict", f"{name} version {version} is there.")
    return Reply(200, {"blobReferenceForConsumption": place_of(container(kind, name, version))})


@route("POST", PLACE + "/datarefs/(?P<name>[^/]+)/versions/(?P<version>[^/]+))")
def begin_download(emulator: Emulator, request: Request) -> Reply:
    """Leave to read the files of a version."""
    _inside(emulator, request)
    held = request.json["blobUri"].removeprefix(f"{ACCOUNT}/").split("/")[0]
    return Reply(200, {"blobReferenceForConsumption": place_of(held)})


@route("PUT", PLACE + "/(?P<kind>models|environments)/(?P<name>[^/]+)/versions/(?P<version>[^/]+))")
def put_asset(emulator: Emulator, request: Request) -> Reply:
    """A version of an asset, which is never changed once it is there."""
    path = _inside(emulator, request)
    if emulator.find(path):
        raise Refused(409, "Conflict", f"{request.given['name']} of this version is there.")
    body = dict(request.json)
    if body["properties"].get("modelType") == "mlflow_model":
        body["properties"].setdefault("flavors", {"onnx": {"data": {"data": "model.onnx"}}})
    with emulator.lock:
        stored = emulator._store(path, body, "Succeeded")
        name, version = request.given["name"], request.given["version"]
        stored["id"] = f"azureml://registries/{REGISTRY}/{request.given['kind']}/{name}/versions/{version}"
        emulator.more.setdefault("shared", {})[stored["id"]] = stored
    return Reply(201, stored)


def add_workspace(emulator: Emulator, name: str) -> None:
    """Put another workspace of the same group, with the same storage."""
    first = emulator.existing(emulator.workspace)
    path = emulator.workspace.replace(WORKSPACE, name)
    emulator.put(path, {**first, "properties": {**first["properties"], "workspaceId": str(uuid.uuid4())}})
    store = emulator.existing(f"{emulator.workspace}/datastores/workspaceblobstore")
    emulator.put(f"{path}/datastores/workspaceblobstore", dict(store))
