"""Azure DevOps on loopback, over HTTPS: work items by query and by JSON patch, leases, and what it says to those it does not know."""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

CLOSED = ("Closed", "Done", "Removed", "Resolved", "Completed")


@dataclass
class DevOps:
    """What the service knows, and its `first` answers: status, headers, and whether it acts."""

    token: str = "job-token-0123456789"
    items: dict[int, dict[str, str]] = field(default_factory=dict)
    leases: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    first: list[tuple[int, dict[str, str], bool]] = field(default_factory=list)
    kinds: tuple[str, ...] = ("Bug", "Issue")
    url: str = ""

    def act(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        if path.endswith("/_apis/wit/wiql"):
            return 200, {
                "workItems": [{"id": one} for one in sorted(self.items) if self._found(one, body["query"])]
            }
        if found := re.search(r"/_apis/wit/workitems/\$(\w+)$", path):
            if found.group(1) not in self.kinds:
                return 404, {
                    "message": f"VS402323: Work item type {found.group(1)} does not exist in project"
                }
            number = 100 + len(self.items)
            self.items[number] = {"System.State": "New"} | self._fields(body)
            return 200, {"id": number}
        if found := re.search(r"/_apis/wit/workitems/(\d+)$", path):
            number = int(found.group(1))
            if method == "PATCH":
                self.items[number] |= self._fields(body)
            return 200, {"id": number}
        if path.endswith("/_apis/build/retention/leases"):
            self.leases += body
            return 200, {"count": 1, "value": [{"validUntil": "2027-11-28T00:00:00Z"}]}
        return 404, {"message": f"no {path}"}

    @staticmethod
    def _fields(body: list[dict[str, str]]) -> dict[str, str]:
        assert all(one["op"] == "add" for one in body)
        return {one["path"].removeprefix("/fields/"): one["value"] for one in body}

    def _found(self, number: int, query: str) -> bool:
        item = self.items[number]
        tags = [
            one.replace("''", "'") for one in re.findall(r"\[System\.Tags\] CONTAINS '((?:[^']|'')*)'", query)
        ]
        assert tags and all(f"'{one}'" in query for one in CLOSED)
        return item["System.State"] not in CLOSED and set(tags) <= set(item["System.Tags"].split("; "))


def _handler(service: DevOps) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _any(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            service.asked.append((self.command, path))
            assert query == "api-version=7.1"
            if self.headers["Authorization"] != f"Bearer {service.token}":
                page = b"<html>Azure DevOps Services | Sign In</html>"
                return self._answer(203, page, {"Content-Type": "text/html"})
            if "workitems" in path and body:
                assert self.headers["Content-Type"] == "application/json-patch+json"
            if service.first:
                status, headers, acts = service.first.pop(0)
                if acts:
                    service.act(self.command, path, json.loads(body or b"null"))
                return self._answer(status, b'{"message": "not now"}', headers)
            status, content = service.act(self.command, path, json.loads(body or b"null"))
            return self._answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

        do_GET = do_POST = do_PATCH = _any

    return Handler


@contextmanager
def devops(folder: Path) -> Iterator[tuple[DevOps, dict[str, str]]]:
    """Yield the service and the variables that a job of Azure Pipelines would have; SSL_CERT_FILE is its certificate authority."""
    authority, service = trustme.CA(), DevOps()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    service.url = f"https://127.0.0.1:{server.server_address[1]}/brookside/"
    environ = {
        "SYSTEM_COLLECTIONURI": service.url,
        "SYSTEM_TEAMPROJECT": "Machine learning",
        "SYSTEM_ACCESSTOKEN": service.token,
        "SSL_CERT_FILE": str(folder / "authority.pem"),
        "BUILD_BUILDID": "41",
        "SYSTEM_DEFINITIONID": "7",
        "TF_BUILD": "True",
    }
    try:
        yield service, environ
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
