"""Real Azurite as the storage account of the workspace on loopback."""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from azure.storage.blob import ContainerClient

from tests.azure.emulator import SUFFIX, Emulator

KEY = base64.b64encode(b"k" * 64).decode()
CONTAINER = "azureml-blobstore"


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (folder / "out.log").open("wb")
    order = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    order += ["--skipApiVersionCheck", "--disableTelemetry"]
    order += ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
    environ = {"PATH": os.environ["PATH"], "AZURITE_ACCOUNTS": f"brooksidestore:{KEY}"}
    process = subprocess.Popen([node, str(main), *order], stdout=log, stderr=log, env=environ)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (folder / "out.log").read_text()
                time.sleep(0.05)
        host = f"blob.{SUFFIX}"
        emulator.hosts[host] = port
        blobs = ContainerClient(
            f"https://brooksidestore.{host}",
            CONTAINER,
            credential={"account_name": "brooksidestore", "account_key": KEY},
        )
        blobs.create_container()
        emulator.more["blobs"] = blobs
        yield blobs
    finally:
        process.terminate()
        process.wait(30)
        log.close()
