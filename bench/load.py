"""What a request costs the client: our connections against httpx, at rising rates, side by side.

    python bench/load.py [--rates 100 500 1000 2000 4000] [--seconds 2]

The server answers at once, from a process of its own, so what is measured is the client. Each line has the pace of the answers
(1: it keeps up), the
median latency from the intended start, and how late the client sent (99th percentile).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
from typing import Any

import httpx

from brookside_mlops import load
from brookside_mlops.connections import Pool, Reply
from brookside_mlops.target import Target

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n[4.5]"


class Server(asyncio.Protocol):
    """Answers every request, which arrives whole on loopback, in the same way."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(ANSWER)


def serve(ready: Any) -> None:
    """Serve until killed; send the port."""
    import uvloop

    async def work() -> None:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(work())


class HttpxPool(Pool):
    """The same through httpx."""

    def __init__(self, target: Target, most: int = 256) -> None:
        limits = httpx.Limits(max_connections=most, max_keepalive_connections=most)
        self.client = httpx.AsyncClient(limits=limits, trust_env=False, timeout=target.timeout)
        self.target = target

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    async def post(self, body: bytes) -> Reply:
        answer = await self.client.post(self.target.url, content=body, headers=self.target.headers())
        return Reply(answer.status_code, answer.content, "")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[100, 250, 500, 1000, 2000, 4000])
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    target = Target(f"http://127.0.0.1:{ours.recv()}/score", "key")
    requests = [load.Request(b'[{"weeks": 4}]', expected=[4.5])]
    for rate in options.rates:
        for name, pool in (("connections", Pool), ("httpx", HttpxPool)):
            load.Pool = pool  # type: ignore[misc]
            outcomes = load.measure(target, requests, load.Load(rate, options.seconds))
            found = load.summarise(outcomes, rate)
            print(
                f"{name:12} {rate:6.0f}/s  right {found.success:7.2%}  pace {found.keeps_up:.2f}"
                f"  P50 {found.p50_ms or 0:9.2f} ms  late {found.late_ms:9.2f} ms"
            )
    process.terminate()


if __name__ == "__main__":
    main()
