"""What tests of rollouts share: an endpoint in memory, a clock that only moves when told, and a way to die anywhere.

`MemoryEndpoint` keeps the protocol's promises and checks the callers': a deployment with traffic is not deleted, a split sums to 0 or
100, what is not named gets 0. Its callers come at a steady rate, so that a window of so many seconds holds so many requests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brookside_mlops.endpoints.local import EndpointError
from brookside_mlops.endpoints.protocol import (
    Answer,
    Counts,
    Deployment,
    EndpointInfo,
    mirror_fault,
    traffic_fault,
)
from brookside_mlops.errors import InputError
from brookside_mlops.places import PlaceName
from brookside_mlops.results import Check
from brookside_mlops.rollout import Context, Record
from brookside_mlops.rollout_plan import Plan, Target
from brookside_mlops.rollout_store import RolloutStore

NAME = "cost-dev"


@dataclass
class Clock:
    """Seconds that pass only by sleeping. `wall` may jump, `monotonic` may not."""

    at: float = 1_000.0
    jump: float = 0.0

    def sleep(self, seconds: float) -> None:
        self.at += seconds

    def monotonic(self) -> float:
        return self.at

    def wall(self) -> float:
        return self.at + self.jump


@dataclass
class Health:
    """How the answers of a deployment are: the shares of its requests that fail, that nobody answers, and that are slow."""

    errors: float = 0.0
    unavailable: float = 0.0
    slow: float = 0.0


@dataclass
class MemoryEndpoint:
    """An endpoint without processes; `rate` requests a second come to it."""

    clock: Clock
    rate: float = 1_000.0
    name: str = NAME
    kind: PlaceName = "local"
    running: bool = True
    standby: str = ""
    health: dict[int, Health] = field(default_factory=dict)
    known: dict[str, Deployment] = field(default_factory=dict)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    hangs_until: float = 0.0  # of the clock: until then a request of second 0 has no answer
    _seen: dict[str, float] = field(default_factory=dict)
    _since: float = 0.0

    def start(self) -> None:
        self.running = True

    def wake(self) -> None:
        self.running = True

    def show(self) -> EndpointInfo:
        state: Literal["ready", "stopped"] = "ready" if self.running else "stopped"
        shown = [one.model_copy(update={"state": state}) for one in self.known.values()]
        traffic = {one.name: one.weight for one in shown}
        return EndpointInfo(
            name=self.name,
            scoring_uri="",
            key_file="",
            running=self.running,
            traffic=traffic,
            standby=self.standby,
            deployments=shown,
        )

    def _must_run(self) -> None:
        if not self.running:
            raise EndpointError(f"endpoint {self.name} does not answer")

    def create_deployment(self, name: str, bundle: Path, model_name: str, version: int) -> Deployment:
        self.calls.append(("create", name))
        self._must_run()
        if name in self.known:
            raise InputError(f"endpoint {self.name} already has a deployment {name}")
        made = Deployment(name=name, model_name=model_name, version=version, sha256=bundle.name)
        self.known[name] = made
        return made

    def delete_deployment(self, name: str) -> None:
        self.calls.append(("delete", name))
        self._must_run()
        if name in self.known and self.known[name].weight:
            raise InputError(f"deployment {name} has {self.known[name].weight} % of the traffic")
        self.known.pop(name, None)

    def set_traffic(self, weights: Mapping[str, int], standby: str = "") -> None:
        self.calls.append(("traffic", dict(weights)))
        self._must_run()
        fault = traffic_fault(({standby: 0} if standby else {}) | dict(weights), list(self.known))
        if fault:
            raise InputError(f"endpoint {self.name}: {fault}")
        self._flow()
        self.standby = standby
        for name, one in self.known.items():
            self.known[name] = one.model_copy(update={"weight": weights.get(name, 0)})

    def set_mirror(self, weights: Mapping[str, int]) -> None:
        fault = mirror_fault(weights, list(self.known))
        if fault:
            raise InputError(f"endpoint {self.name}: {fault}")

    def _flow(self) -> None:
        """Count what has come since the last change."""
        passed, self._since = self.clock.at - self._since, self.clock.at
        for name, one in self.known.items():
            self._seen[name] = self._seen.get(name, 0.0) + self.rate * passed * one.weight / 100

    def counts(self, cursor: str, limits_ms: tuple[float, float, float]) -> tuple[dict[str, Counts], str]:
        self._flow()
        before = dict(item.rsplit("=", 1) for item in cursor.split(",") if item)
        found = {}
        for name, one in self.known.items():
            sick = self.health.get(one.version, Health())
            old, new = float(before.get(name, 0)), self._seen.get(name, 0.0)

            def between(share: float, old: float = old, new: float = new) -> int:
                return int(new * share) - int(old * share)

            found[name] = Counts(
                requests=between(1),
                errors=between(sick.errors + sick.unavailable),
                unavailable=between(sick.unavailable),
                slow=(0, between(sick.slow), 0),
            )
        return found, ",".join(f"{name}={count}" for name, count in self._seen.items())

    def unanswered(self, deployment: str) -> float:
        return self.clock.at if self.clock.at < self.hangs_until else 0.0

    def score(self, body: bytes, deployment: str = "") -> Answer:
        raise AssertionError("a rollout sends no requests of its own")

    def keys(self) -> tuple[str, str]:
        return "first", "second"

    def regenerate_key(self, which: Literal["primary", "secondary"]) -> None:
        raise AssertionError("a rollout makes no keys")

    def logs(self, lines: int = 50) -> list[str]:
        return []

    def traffic(self) -> dict[str, int]:
        """The deployments that have traffic."""
        return {name: one.weight for name, one in self.known.items() if one.weight}

    def versions(self) -> dict[str, int]:
        """The version of each deployment."""
        return {name: one.version for name, one in self.known.items()}


def target(version: int) -> Target:
    """Return a version; a bundle's folder in memory is named by its digest."""
    digest = f"{version:064x}"
    return Target(bundle=Path("/bundles") / digest, model_name="m", version=version, sha256=digest)


def plan(strategy: str = "canary", steps: tuple[int, ...] = (10, 50, 100), **more: Any) -> Plan:
    """Return a plan of ten looks a bake."""
    rules = {"error_seconds": 1e9, "availability_seconds": 1e9, "latency_seconds": 1e9} | more.pop(
        "rules", {}
    )
    return Plan.model_validate({"strategy": strategy, "steps": steps, "bake": 10, "rules": rules} | more)


def passing(endpoint: Any, deployment: str) -> list[Check]:
    """A smoke test that passes."""
    return [Check(name="a table", measured="200, the same answer", verdict="pass")]


def failing(endpoint: Any, deployment: str) -> list[Check]:
    """A smoke test that does not."""
    return [Check(name="a table", measured="200, another answer", verdict="fail")]


@dataclass
class World:
    """An endpoint with version 1 as blue, its store, and all that was heard."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    serving: int = 1
    smoke: Callable[[Any, str], list[Check]] = passing
    approver: str = ""
    events: list[tuple[str, str]] = field(default_factory=list)
    ended: list[Record] = field(default_factory=list)
    heard: list[Record] = field(default_factory=list)
    on_state: dict[str, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.endpoint = MemoryEndpoint(self.clock)
        self.store = RolloutStore(self.folder, self.clock.wall)
        if self.serving:
            one = target(self.serving)
            self.endpoint.create_deployment("blue", one.bundle, one.model_name, one.version)
            self.endpoint.set_traffic({"blue": 100})
            self.endpoint.calls.clear()

    def listen(self, record: Record) -> None:
        self.heard.append(record)
        act = self.on_state.pop(record.state, None)
        if act:
            act()

    def context(self, **more: Any) -> Context:
        given = {
            "endpoint": self.endpoint,
            "store": self.store,
            "smoke": self.smoke,
            "audit": lambda event, details: self.events.append((event, str(details.get("text", "")))),
            "approved": lambda: self.approver,
            "finished": self.ended.append,
            "listen": self.listen,
            "sleep": self.clock.sleep,
            "monotonic": self.clock.monotonic,
            "now": self.clock.wall,
        }
        return Context(**(given | more))

    def record(self) -> Record:
        """The newest rollout as it is written down."""
        row = self.store.last(self.endpoint.name)
        assert row is not None
        return Record.model_validate_json(row.document)

    def said(self, event: str) -> list[str]:
        """What the audit trail says of an event."""
        return [text for name, text in self.events if name == event]


class Killed(BaseException):
    """What stands for kill -9: nobody may catch it."""


@dataclass
class Fuse:
    """Lets the process die at the n-th of its effects: before it, or after it. What is dead does nothing more."""

    at: int
    after: bool
    passed: int = 0
    dead: bool = False

    def guard(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            if self.dead:
                raise Killed
            last = self.passed == self.at
            self.passed += 1
            if last and not self.after:
                self.dead = True
                raise Killed
            found = work(*args, **more)
            if last:
                self.dead = True
                raise Killed
            return found

        return run


class Fused:
    """An object whose methods of these names go through a fuse."""

    def __init__(self, inner: Any, fuse: Fuse, names: tuple[str, ...]) -> None:
        self._inner, self._fuse, self._names = inner, fuse, names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._fuse.guard(found) if name in self._names else found


MOVES = ("set_traffic", "create_deployment", "delete_deployment", "start")
WRITES = ("begin", "claim", "save", "save_unasked", "release", "keep", "forget", "take_wish")


def mortal(world: World, fuse: Fuse) -> Context:
    """Return the context of a process that dies by a fuse."""
    context = world.context()
    return world.context(
        endpoint=Fused(world.endpoint, fuse, MOVES),
        store=Fused(world.store, fuse, WRITES),
        audit=fuse.guard(context.audit),
        finished=fuse.guard(context.finished),
        sleep=fuse.guard(context.sleep),
    )


def bury(world: World) -> None:
    """Let the holder of the open rollout be a process that has ended, and come back as another one."""
    if world.store.last(world.endpoint.name):
        with closing(sqlite3.connect(world.store.path)) as database, database:
            database.execute("update rollout set holder = json_set(holder, '$.born', '1') where holder != ''")
    world.store = RolloutStore(world.folder, world.clock.wall)
