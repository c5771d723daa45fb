"""Real Azurite as the storage account of the workspace on loopback, and the addresses and signatures that lead to it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas

from tests.azure.emulator import ML, STORAGE, Emulator, Reply, Request, route

KEY = base64.b64encode(b"k" * 64).decode()
CONTAINER = "azureml-blobstore"
NAME = "brooksidestore"
LISTENS = re.compile(r"successfully listens on https://127\.0\.0\.1:(\d+)")
ACCOUNT = f"https://{NAME}.blob.{STORAGE}"
WORKSPACE = rf"/subscriptions/[^/]+/resourcegroups/[^/]+/providers/{ML}/workspaces/[^/]+"


@contextmanager
def azurite(emulator: Emulator) -> Iterator[ContainerClient]:
    """Run the real Azurite, over HTTPS with our certificate."""
    packages = Path(os.environ.get("BROOKSIDE_NODE_PACKAGES", "")) / "node_modules"
    main = packages / "azurite" / "dist" / "src" / "blob" / "main.js"
    node = shutil.which("node")
    assert node and main.exists(), "npm install azurite, and set BROOKSIDE_NODE_PACKAGES to its folder"
    folder = emulator.folder / "azurite"
    folder.mkdir()
    emulator.certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
    emulator.certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    log = (folder / "out.log").open("wb")
    order = ["--blobHost", "127.0.0.1", "--blobPort", "0", "--location", str(folder)]
    order += ["--skipApiVersionCheck", "--disableTelemetry"]
    order += ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
    environ = {"PATH": os.environ["PATH"], "AZURITE_ACCOUNTS": f"{NAME}:{KEY}"}
    process = subprocess.Popen([node, str(main), *order], stdout=log, stderr=log, env=environ)
    try:
        end = time.monotonic() + 60
        while not (listens := LISTENS.search(said := (folder / "out.log").read_text())):
            assert process.poll() is None and time.monotonic() < end, said
            time.sleep(0.05)
        emulator.hosts[f"blob.{STORAGE}"] = int(listens[1])
        blobs = ContainerClient(
            ACCOUNT,
            CONTAINER,
            credential={"account_name": NAME, "account_key": KEY},
        )
        blobs.create_container()
        emulator.more["blobs"] = blobs
        yield blobs
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def container_of(uri: str) -> ContainerClient:
    """Return the container of the account that an address lies in."""
    held = uri.removeprefix(f"{ACCOUNT}/").split("/")[0]
    return ContainerClient(ACCOUNT, held, credential={"account_name": NAME, "account_key": KEY})


def signature(container: str = CONTAINER) -> str:
    """Return a signature that lets a client read and write a container."""
    return generate_container_sas(
        NAME,
        container,
        KEY,
        permission=ContainerSasPermissions(read=True, write=True, list=True, create=True, add=True),
        expiry=datetime.now(UTC) + timedelta(hours=1),
    )


@route("POST", rf"{WORKSPACE}/codes/(?P<name>[^/]+)/versions/(?P<version>[^/]+)/startPendingUpload")
def start_upload(emulator: Emulator, request: Request) -> Reply:
    """Give a version of a code a container of its own, as the service does: the SDK would take what lies in a shared one for its own."""
    own = request.given["name"].lower()
    place = f"{ACCOUNT}/{own}"
    with container_of(place) as made:
        if not made.exists():
            made.create_container()
    credential = {"credentialType": "SAS", "sasUri": f"{place}?{signature(own)}"}
    return Reply(
        200,
        {
            "pendingUploadType": "TemporaryBlobReference",
            "pendingUploadId": request.given["version"],
            "blobReferenceForConsumption": {
                "blobUri": place,
                "storageAccountArmId": "",
                "credential": credential,
            },
        },
    )


@route("POST", rf"{WORKSPACE}/datastores/[^/]+/listSecrets")
def list_secrets(emulator: Emulator, request: Request) -> Reply:
    return Reply(200, {"secretsType": "Sas", "sasToken": signature()})


CODES = rf"(?P<workspace>/.*/providers/{ML}/workspaces/[^/]+)/codes/(?P<name>[^/]+)/versions"


@route("GET", CODES)
def codes_with_hash(emulator: Emulator, request: Request) -> Reply | None:
    """The codes of the workspace that have a hash, whatever their names."""
    wanted = request.query.get("hash")
    if not wanted:
        return None
    begin = f"{request.given['workspace']}/codes/".lower()
    there = [one for key, one in list(emulator.resources.items()) if key.startswith(begin)]
    return Reply(200, {"value": [one for one in there if wanted in str(one["properties"].get("properties"))]})
