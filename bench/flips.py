"""Traffic that goes back and forth between two deployments under load: does a request fail, and how long does a flip take?

    python bench/flips.py [--requests 100000] [--flips 20] [--connections 1 16 64]

A blue-green endpoint with two versions is rolled back, and back again, twenty times: each flip is a whole rollback, written down,
smoke-tested and audited. Meanwhile clients in a process of their own send requests as fast as they are answered, over so many connections,
until there were at least so many requests; the flips are spread over them. The decision is the moment when set_traffic is called. From
there are measured, in milliseconds: to the first answer of the new deployment; to the last answer of the old one, where requests in hand
at the decision are answered by the old one, of course; to the last request that was sent later and still went to the old one; and to the
return of set_traffic, when the split has been read back. `command` is the time from the start of the rollback to there.

Promise: no request fails, and the flip has taken effect within 50 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brookside_mlops.audit import audit_log
from brookside_mlops.bundle import Bundle
from brookside_mlops.connections import BadAnswer, Pool
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.load import run_in_loop
from brookside_mlops.rollback_run import plan_back
from brookside_mlops.rollout import Context
from brookside_mlops.rollout_driver import roll_out
from brookside_mlops.rollout_plan import Target
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.smoke import smoke
from brookside_mlops.target import Target as Address

NAME = "cost-bench"
BODY = json.dumps([{"weeks": 4}]).encode()
PROMISE = 50.0  # ms
ONE = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Seen:
    """One request: when it was sent and answered (seconds of this machine's clock), its status and who answered."""

    sent: float
    answered: float
    status: int
    deployment: str


def load(address: tuple[str, str], connections: int, count: Any, over: Any, results: Any) -> None:
    """Send requests over so many connections until told to stop; hand over what was seen."""
    seen: list[Seen] = []

    async def one(pool: Pool) -> None:
        while not over.is_set():
            sent = time.perf_counter()
            try:
                reply = await pool.post(BODY)
                status, deployment = reply.status, reply.deployment
            except (OSError, BadAnswer):
                status, deployment = 0, ""
            seen.append(Seen(sent, time.perf_counter(), status, deployment))
            count.value = len(seen)

    async def work() -> None:
        async with Pool(Address(*address), connections) as pool:
            await asyncio.gather(*(one(pool) for _ in range(connections)))

    run_in_loop(work)
    results.send([(one.sent, one.answered, one.status, one.deployment) for one in seen])


class Timed(LocalEndpoint):
    """An endpoint that notes when its traffic was set: the moments of the call and of its return."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, NAME)
        self.calls: list[tuple[float, float]] = []

    def set_traffic(self, weights: Mapping[str, int], standby: str = "") -> None:
        """Set the split and note the times."""
        begun = time.perf_counter()
        super().set_traffic(weights, standby)
        self.calls.append((begun, time.perf_counter()))


@dataclass(frozen=True)
class Flip:
    """One flip, in milliseconds from its decision."""

    first: float
    last: float
    late: float
    returned: float
    command: float


def measured(decided: float, returned: float, begun: float, new: str, seen: list[Seen]) -> Flip:
    """Return the times of a flip to a deployment, from the requests up to the next flip."""
    after = [one for one in seen if one.answered >= decided]
    first = min(one.answered for one in after if one.deployment == new)
    old = [one for one in after if one.deployment != new]
    late = [one.sent for one in old if one.sent >= decided]
    return Flip(
        first=1000 * (first - decided),
        last=1000 * (max((one.answered for one in old), default=decided) - decided),
        late=1000 * (max(late, default=decided) - decided),
        returned=1000 * (returned - decided),
        command=1000 * (returned - begun),
    )


def prepared(folder: Path) -> tuple[Context, dict[str, Target]]:
    """Return an endpoint with version 1 as blue at 100 % and version 2 as green at 0 %."""
    endpoint = Timed(folder / "state")
    endpoint.start()
    targets = {}
    for version, name in enumerate(("blue", "green"), 1):
        bundle = scratch_bundle(folder / name, version)
        targets[name] = Target(
            bundle=bundle, model_name="m", version=version, sha256=Bundle.open(bundle).info.sha256
        )
        endpoint.create_deployment(name, bundle, "m", version)
    endpoint.set_traffic({"blue": 100})
    log = audit_log(folder / "state")

    def audit(event: str, details: Mapping[str, Any]) -> None:
        log.append(event, NAME, details)  # type: ignore[arg-type]

    return Context(endpoint, RolloutStore(folder / "state"), smoke, audit), targets


def flip(context: Context, target: Target, new: str) -> tuple[float, float, float]:
    """Roll back to a version; return when the command began, when the traffic was set, and when that call returned."""
    endpoint: Any = context.endpoint
    endpoint.calls.clear()
    begun = time.perf_counter()
    record = roll_out(context, plan_back("asked", 0.0, False), target, kind="rollback", reason="bench")
    if record.state != "finished" or record.new != new:
        raise SystemExit(f"the rollback ended {record.state} with {record.new}: {record.reason}")
    decided, returned = endpoint.calls[0]
    return begun, decided, returned


def run(
    context: Context, targets: dict[str, Target], flips: int, requests: int, connections: int
) -> list[Flip]:
    """Flip under load and return the times; ends the run where a request failed."""
    endpoint: Any = context.endpoint
    count, over = ONE.Value("q", 0, lock=False), ONE.Event()
    ours, theirs = ONE.Pipe()
    address = (endpoint.show_uri(), endpoint.keys()[0])
    process = ONE.Process(target=load, args=(address, connections, count, over, theirs))
    process.start()
    moments = []
    for number in range(flips):
        while count.value < requests * (number + 1) / (flips + 1):
            time.sleep(0.001)
        now = max(endpoint.show().traffic.items(), key=lambda item: item[1])[0]
        new = "green" if now == "blue" else "blue"
        moments.append((*flip(context, targets[new], new), new))
    while count.value < requests:
        time.sleep(0.001)
    over.set()
    seen = [Seen(*one) for one in ours.recv()]
    process.join()
    failed = [one for one in seen if one.status != 200]
    found = []
    for place, (begun, decided, returned, new) in enumerate(moments):
        until = moments[place + 1][1] if place + 1 < len(moments) else float("inf")
        found.append(measured(decided, returned, begun, new, [one for one in seen if one.answered < until]))
    seconds = seen[-1].answered - seen[0].sent
    print(
        f"{connections:11} {len(seen):9,} {len(seen) / seconds:8,.0f} {len(failed):7} "
        + " ".join(
            f"{statistics.median(values):7.1f} {max(values):7.1f}"
            for values in (
                [getattr(one, name) for one in found]
                for name in ("first", "last", "late", "returned", "command")
            )
        )
    )
    if failed:
        print(f"FAILED: {len(failed)} requests, first {failed[0]}", file=sys.stderr)
        sys.exit(1)
    return found


def main() -> None:
    """Flip and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--flips", type=int, default=20)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brookside-flips-") as name:
        context, targets = prepared(Path(name))
        pairs = ("first new", "last old", "sent late", "read back", "command")
        print("connections  requests    req/s  failed " + " ".join(f"{pair:>15}" for pair in pairs))
        print(" " * 39 + " ".join([f"{'median':>7} {'max':>7}"] * len(pairs)) + "  ms")
        try:
            found = [
                one
                for connections in options.connections
                for one in run(context, targets, options.flips, options.requests, connections)
            ]
        finally:
            context.endpoint.stop()  # type: ignore[attr-defined]
    worst = max(max(one.late, one.first) for one in found)
    print(f"the slowest flip took effect after {worst:.1f} ms; promised are {PROMISE:g} ms")
    if worst > PROMISE:
        sys.exit(1)


if __name__ == "__main__":
    main()
