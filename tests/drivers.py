"""Processes that drive real rollouts, and die in the middle of them.

`ONE` forks each process from a warm one that has the imports done, so that a process costs some milliseconds.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from brookside_mlops.audit import audit_log
from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import Limits
from brookside_mlops.errors import BrooksideError
from brookside_mlops.load import Outcome
from brookside_mlops.replay import ReplayTraffic
from brookside_mlops.rollout import Context, Record
from brookside_mlops.rollout_driver import go_on, roll_out
from brookside_mlops.rollout_plan import Plan, Target
from brookside_mlops.rollout_store import RolloutStore, Wish
from brookside_mlops.smoke import smoke

NAME = "cost-dev"
ONE = multiprocessing.get_context("forkserver")
ONE.set_forkserver_preload(
    ["tests.drivers", "scipy.stats", "scipy.special", "scipy.optimize", "onnxruntime", "mlflow", "pandas"]
)
BODIES = [json.dumps([{"weeks": number}]).encode() for number in range(10)]
LIMITS = Limits(request_seconds=2.0)


def target(bundle: Path, version: int) -> Target:
    """Return a version by its bundle."""
    return Target(bundle=bundle, model_name="m", version=version, sha256=Bundle.open(bundle).info.sha256)


def short_plan(strategy: str = "canary", steps: tuple[int, ...] = (50, 100), **more: Any) -> Plan:
    """Return a plan whose bakes take a fraction of a second; with a margin of 1 little traffic is enough."""
    rules = {"margin": 1.0, "error_seconds": 1e6, "availability_seconds": 1e6, "latency_seconds": 1e6}
    rules |= more.pop("rules", {})
    given = {"strategy": strategy, "steps": steps, "bake": 0.2, "look": 0.04, "pause": 0.05, "rules": rules}
    return Plan.model_validate(given | more)


def context_of(folder: Path, **more: Any) -> Context:
    """Return what drives a rollout of the endpoint in a folder: its server, its audit trail, a real smoke test."""
    log = audit_log(folder)

    def audit(event: str, details: Mapping[str, Any]) -> None:
        log.append(event, NAME, details)  # type: ignore[arg-type]

    given = {"store": RolloutStore(folder), "smoke": smoke, "audit": audit}
    return Context(**(given | {"endpoint": LocalEndpoint(folder, NAME, LIMITS)} | more))


def die() -> None:
    """End this process as kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def full_disk() -> None:
    """Let no file of this process grow any more, as on a disk without room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, most))


Place = tuple[Literal["written", "before", "after"], str]


@dataclass(frozen=True)
class Order:
    """What a process does: roll a version out, or with None go on with what is open; and what happens to it at which place.

    A place is a state that has just been written down, or the moment before or after a method of the endpoint.
    """

    folder: Path
    wanted: Target | None = None
    plan: Plan = field(default_factory=short_plan)
    place: Place | None = None
    fate: Callable[[], None] = die
    wish: Wish = ""


class Doomed:
    """An endpoint at one of whose methods the process meets its fate."""

    def __init__(self, endpoint: LocalEndpoint, place: Place, fate: Callable[[], None]) -> None:
        self._endpoint, self._place, self._fate = endpoint, place, fate

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._endpoint, name)
        when, method = self._place
        if name != method or when == "written":
            return found

        def call(*args: Any, **more: Any) -> Any:
            if when == "before":
                self._fate()
            made = found(*args, **more)
            if when == "after":
                self._fate()
            return made

        return call


def doomed_context(order: Order) -> Context:
    """Return a context whose process meets its fate at the place of an order."""

    def listen(record: Record) -> None:
        if order.place == ("written", record.state):
            order.fate()

    endpoint: Any = LocalEndpoint(order.folder, NAME, LIMITS)
    if order.place:
        endpoint = Doomed(endpoint, order.place, order.fate)
    return context_of(order.folder, endpoint=endpoint, listen=listen)


def obey(order: Order) -> Record | None:
    """Do what an order says, in this process, as a command does: see that the server answers, then go."""
    context = doomed_context(order)
    context.endpoint.start()
    if order.wanted is None:
        return go_on(context, order.wish, "Ada")
    return roll_out(context, order.plan, order.wanted)


def _work(order: Order, answers: Any) -> None:
    try:
        record = obey(order)
        answers.put(("record", record.model_dump_json() if record else ""))
    except BrooksideError as error:
        answers.put((type(error).__name__, str(error)))
    except BaseException as error:
        answers.put((type(error).__name__, str(error)))
        raise


@dataclass
class Driver:
    """A process that obeys an order."""

    order: Order

    def __post_init__(self) -> None:
        self.answers = ONE.SimpleQueue()
        self.process = ONE.Process(target=_work, args=(self.order, self.answers))
        self.process.start()

    def wait(self) -> int:
        """Wait for its end and return its exit code: -9 for one that was killed."""
        self.process.join(120)
        assert self.process.exitcode is not None, "the driver did not end"
        return int(self.process.exitcode)

    def answer(self) -> tuple[str, str]:
        """Return what it said at its end: ("record", JSON), or the name and the text of an error."""
        self.wait()
        assert not self.answers.empty(), f"the driver said nothing and ended with {self.process.exitcode}"
        kind, text = self.answers.get()
        return str(kind), str(text)

    def record(self) -> Record:
        """Return the record that it ended with."""
        kind, text = self.answer()
        assert kind == "record" and text, (kind, text)
        return Record.model_validate_json(text)


class Callers(ReplayTraffic):
    """Traffic in the background; what did not end well is kept."""

    def __init__(self, endpoint: LocalEndpoint, rate: float = 250.0) -> None:
        super().__init__(endpoint.show_uri(), endpoint.keys()[0], BODIES, rate)
        self.bad: list[Outcome] = []

    def _record(self, outcome: Outcome) -> None:
        super()._record(outcome)
        if outcome.category != "ok":
            self.bad.append(outcome)

    @property
    def answered(self) -> int:
        """The number of good answers so far."""
        return self.counts["ok"]

    def more(self, number: int = 20) -> None:
        """Wait for so many more good answers."""
        wanted = self.answered + number
        until(lambda: self.answered >= wanted)


def until(holds: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until something holds and return it; the seconds are for busy machines, not a bound on speed."""
    end = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def state_of(pid: int) -> str:
    """Return the state of a process as Linux has it, such as T (stopped) and Z (ended, not waited for); '' where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


def record_of(folder: Path) -> Record | None:
    """Return the newest rollout as it is written down."""
    row = RolloutStore(folder).last(NAME)
    return Record.model_validate_json(row.document) if row else None


def said(folder: Path) -> list[str]:
    """Return the texts of the audit trail."""
    return [str(row.details.get("text", "")) for row in audit_log(folder).rows(NAME)]


def workers(endpoint: LocalEndpoint) -> dict[str, int]:
    """Return the process of each deployment's worker."""
    server = endpoint.state.server()[0]
    found = {}
    for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if len(words) > 3:
            found[Path(words[3].decode()).name] = int(child)
    return found


def check_whole(endpoint: LocalEndpoint) -> None:
    """Check that the state on disk, the server and the audit trail are whole and agree."""
    with closing(sqlite3.connect(endpoint.state.folder / "state.db")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        assert database.execute("select sum(weight) from deployment").fetchone() == (100,)
    info = endpoint.show()
    assert info.running and sum(info.traffic.values()) == 100
    ready = endpoint._http.get(endpoint.show_uri().replace("/score", "/health/ready")).json()
    assert ready["ready"]
    for one in info.deployments:
        assert Bundle.open(endpoint.state.bundle(one.name)).info.sha256 == one.sha256
    found = audit_log(endpoint.state_folder).verify()
    assert found.intact, found.faults
