"""Real servers on loopback that receive what is sent: mail, and anything over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session


def command_lines() -> list[str]:
    """Return the command lines of the processes that this one has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.append((stat.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@dataclass
class Mailbox:
    """What an SMTP server got. It takes mail only from the user and password given, where they are."""

    port: int = 0
    login: tuple[bytes, bytes] | None = None
    mails: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        mail = message_from_bytes(envelope.content or b"", policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        return "250 taken"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("nobody@"):
            return "550 unknown here"
        envelope.rcpt_tos.append(address)
        return "250 known"

    def authenticate(
        self, server: SMTP, session: Session, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        return AuthResult(success=(data.login, data.password) == self.login)


@contextmanager
def mailbox(login: tuple[bytes, bytes] | None = None) -> Iterator[Mailbox]:
    """Serve SMTP on a free port."""
    box = Mailbox(login=login)
    loop = asyncio.new_event_loop()

    def protocol() -> SMTP:
        return SMTP(
            box,
            loop=loop,
            authenticator=box.authenticate,
            auth_required=login is not None,
            auth_require_tls=False,
        )

    server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", 0))
    box.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield box
    finally:
        server.close()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Request:
    """A request as it came, and what the processes of this one were called meanwhile."""

    path: str
    headers: dict[str, str]
    content: Any
    processes: list[str]


@dataclass
class Site:
    """What an HTTP server got. It answers with these statuses in turn, the last one for ever; 0 is no answer at all."""

    statuses: list[int]
    answer: bytes
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def status(self) -> int:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]


@contextmanager
def site(*statuses: int, answer: bytes = b"{}", headers: dict[str, str] | None = None) -> Iterator[Site]:
    """Serve HTTP on a free port."""
    place = Site(list(statuses) or [200], answer)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            seen = Request(self.path, dict(self.headers), json.loads(body), command_lines())
            place.requests.append(seen)
            status = place.status()
            if status == 0:
                place.over.wait()
                return
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        place.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield place
        finally:
            place.over.set()
            server.shutdown()
            thread.join()
