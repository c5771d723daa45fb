"""HTTP servers on loopback whose answers a test writes byte by byte."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

HANG = object()  # say nothing, and keep the connection open


def http(status: int, body: bytes = b"", *headers: bytes) -> bytes:
    """Return an HTTP answer."""
    lines = [b"HTTP/1.1 %d Said" % status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@dataclass
class Seen:
    """What reached a server: heads and bodies of requests, and the number of connections."""

    url: str = ""
    port: int = 0
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    connections: int = 0


Answering = Callable[[int, bytes], "bytes | list[bytes] | object"]


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Seen, say: Answering
) -> None:
    """Answer the requests of one connection; an answer that does not tell its length ends the connection."""
    seen.connections += 1
    with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().rpartition(b"content-length:")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
            seen.heads.append(head)
            seen.bodies.append(body)
            answer = say(len(seen.bodies), body)
            if answer is HANG:
                await reader.read()
                break
            pieces = answer if isinstance(answer, list) else [answer]
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            lower = b"".join(pieces).lower()
            if b"content-length" not in lower and b"chunked" not in lower:
                break
            if b"x-then: close" in lower:  # without telling
                break
    writer.close()


@contextmanager
def serving(say: Answering, tls: ssl.SSLContext | None = None) -> Iterator[Seen]:
    """Serve what `say` returns for the number and body of each request: bytes, pieces of bytes, or HANG."""
    loop, seen = asyncio.new_event_loop(), Seen()

    async def begin() -> asyncio.Server:
        return await asyncio.start_server(
            lambda reader, writer: _serve(reader, writer, seen, say), "127.0.0.1", 0, ssl=tls
        )

    async def end(server: asyncio.Server) -> None:
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(begin(), loop).result()
    seen.port = server.sockets[0].getsockname()[1]
    seen.url = f"{'https' if tls else 'http'}://127.0.0.1:{seen.port}/score"
    try:
        yield seen
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
