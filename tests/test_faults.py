"""Whatever fails, callers are answered, the state is whole, and the next command knows what to do.

Real processes on real sockets: a gateway, its workers, the process that drives the rollout, and callers that never stop. In each test
every answer that a caller gets without a pin is 200, since there is always a deployment that could give it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import Counts
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_driver import roll_out
from brookside_mlops.rollout_plan import Target
from brookside_mlops.rollout_store import RolloutStore, TooLate
from brookside_mlops.scratch import scratch_bundle
from tests import bundles
from tests.drivers import (
    BODIES,
    LIMITS,
    NAME,
    Callers,
    Driver,
    Order,
    Place,
    check_whole,
    context_of,
    full_disk,
    record_of,
    said,
    short_plan,
    target,
    until,
    workers,
)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Target]:
    folder = tmp_path_factory.mktemp("versions")
    return {number: target(scratch_bundle(folder / str(number), number), number) for number in (1, 2, 3)}


@dataclass
class Site:
    """An endpoint whose version 1 serves as blue, and its callers."""

    endpoint: LocalEndpoint
    versions: dict[int, Target]
    callers: Callers

    @property
    def folder(self) -> Path:
        return self.endpoint.state_folder

    def order(self, version: int | None = 2, **more: object) -> Order:
        return Order(self.folder, self.versions[version] if version else None, **more)  # type: ignore[arg-type]

    def serving(self) -> list[int]:
        """The versions that have traffic, in a rising order of weight."""
        found = sorted(self.endpoint.show().deployments, key=lambda one: one.weight)
        return [one.version for one in found if one.weight]

    def known(self) -> dict[str, int]:
        return {one.name: one.version for one in self.endpoint.show().deployments}

    def check(self, allowed: tuple[str, ...] = ()) -> None:
        """Check that callers are answered now, that none of them got an error before, and that the state is whole."""
        check_whole(self.endpoint)
        self.callers.more()
        bad = [one for one in self.callers.bad if one.category not in allowed]
        assert bad == [], bad[:5]


@pytest.fixture
def site(tmp_path: Path, versions: dict[int, Target]) -> Iterator[Site]:
    endpoint = LocalEndpoint(tmp_path / "state", NAME, LIMITS)
    endpoint.start()
    try:
        roll_out(context_of(endpoint.state_folder), short_plan(), versions[1])
        with Callers(endpoint) as callers:
            yield Site(endpoint, versions, callers)
    finally:
        endpoint.stop()


def at_split(site: Site, weight: int, place: Place | None = None, **more: object) -> Driver:
    """Begin a rollout of version 2 and return when its deployment has that weight."""
    plan = short_plan(steps=(weight, 100), bake=600.0, **more)
    driver = Driver(site.order(plan=plan, place=place))
    until(lambda: site.endpoint.show().traffic.get("green") == weight)
    return driver


def ask(site: Site, wish: str) -> None:
    RolloutStore(site.folder).ask(NAME, wish, "Ada")  # type: ignore[arg-type]


# Rules of somebody who would not stop a canary for anything, so that a test sees its deployment come back.
PATIENT = {"min_availability": 0, "alpha": 1e-200, "max_error_rate": 1, "limits_ms": (1e9, 1e9, 1e9)}


# ---- workers -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weight", "name"), [(50, "green"), (50, "blue"), (100, "green")])
def test_killed_worker_costs_no_caller_an_answer(site: Site, weight: int, name: str) -> None:
    driver = at_split(site, weight, rules=PATIENT)
    first = workers(site.endpoint)[name]
    site.callers.more()
    os.kill(first, signal.SIGKILL)
    again = until(lambda: workers(site.endpoint).get(name, first) != first and site.endpoint.health())
    until(lambda: (site.endpoint.health() or {}).get(name) == "ready")
    assert again
    ask(site, "promote")
    assert driver.record().state == "finished"
    assert site.known() == {"green": 2}
    site.check()


def test_worker_killed_with_requests_in_hand_costs_no_caller_an_answer(site: Site) -> None:
    """The worker is stopped first, so that requests wait in it when it is killed."""
    driver = at_split(site, 50, rules=PATIENT)
    worker = workers(site.endpoint)["green"]
    os.kill(worker, signal.SIGSTOP)
    before = site.callers.by_deployment["blue", "ok"]
    until(lambda: site.callers.by_deployment["blue", "ok"] > before + 20)
    os.kill(worker, signal.SIGKILL)
    ask(site, "abort")
    assert driver.record().state == "restored"
    site.check()


def test_hanging_worker_costs_time_and_is_replaced(site: Site) -> None:
    driver = at_split(site, 50, rules=PATIENT)
    worker = workers(site.endpoint)["green"]
    os.kill(worker, signal.SIGSTOP)

    def replaced_or_gone() -> bool:  # on a busy machine the rollout may have gone back by itself
        health = site.endpoint.health()
        if health is None:
            return False
        now = workers(site.endpoint).get("green", worker)
        return "green" not in health or (now != worker and health["green"] == "ready")

    until(replaced_or_gone)
    with suppress(TooLate):
        ask(site, "abort")
    assert driver.record().state == "restored"
    assert site.serving() == [1] and site.known() == {"blue": 1}
    site.check()


def test_hanging_worker_of_the_new_version_ends_its_rollout(site: Site) -> None:
    driver = at_split(site, 50, rules={"error_seconds": 0.5, "availability_seconds": 0.5})
    os.kill(workers(site.endpoint)["green"], signal.SIGSTOP)
    record = driver.record()
    assert (record.state, record.cause) in (("restored", "availability"), ("restored", "worse_errors"))
    assert site.serving() == [1] and site.known() == {"blue": 1}
    site.check()


# ---- bad versions ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "steps"), [("canary", (10, 50, 100)), ("blue-green", (100,))])
def test_version_that_fails_a_fifth_of_the_requests_is_found_out_and_no_caller_notices(
    site: Site, tmp_path: Path, strategy: str, steps: tuple[int, ...]
) -> None:
    bad = target(bundles.failing(tmp_path / "failing"), 4)
    rules = {"error_seconds": 0.3}
    record = roll_out(context_of(site.folder), short_plan(strategy, steps, bake=600.0, rules=rules), bad)
    assert record.state == "restored" and record.cause in ("error_rate", "worse_errors")
    first, *_ = record.live
    assert first["green"] == steps[0]
    assert site.serving() == [1] and site.known() == {"blue": 1}
    canary = record.evidence.canary
    assert 0 < canary.errors < canary.requests
    site.check()


def test_slow_version_is_found_out(site: Site, tmp_path: Path) -> None:
    rounds, seconds = 32, 0.0
    while seconds < 0.1:
        rounds *= 2
        bundle = bundles.slow(tmp_path / f"slow{rounds}", rounds)
        opened = Bundle.open(bundle)
        begun = time.perf_counter()
        opened.predict({"weeks": [1]})
        seconds = time.perf_counter() - begun
    limit = 1000 * seconds / 2
    plan = short_plan(steps=(10, 100), bake=600.0, rules={"limits_ms": (1e9, limit, 1e9)})
    record = roll_out(context_of(site.folder), plan, target(bundle, 4))
    assert (record.state, record.cause) in (("restored", "worse_latency"), ("restored", "latency"))
    assert f"more than {limit:g} ms" in record.reason or f"above {limit:g} ms" in record.reason
    assert site.serving() == [1]
    site.check()


def test_version_with_wrong_answers_never_gets_a_caller(site: Site, tmp_path: Path) -> None:
    record = roll_out(context_of(site.folder), short_plan(), target(bundles.unsteady(tmp_path / "u"), 4))
    assert (record.state, record.cause, record.live) == ("restored", "smoke", [])
    assert "another answer" in record.reason
    assert site.serving() == [1] and site.known() == {"blue": 1}
    assert site.callers.by_deployment["green", "ok"] == 0
    site.check()


# ---- the gateway -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [("before", "set_traffic"), ("after", "set_traffic"), ("written", "bake")])
def test_killed_gateway_comes_back_with_a_whole_split(site: Site, place: Place) -> None:
    """Nobody can answer while there is no server; whoever is answered, is answered well."""
    server = site.endpoint.state.server()[0]
    order = site.order(plan=short_plan(bake=0.5), place=place, fate=Kill(server))
    kind, text = Driver(order).answer()
    if kind == "record":
        assert place != ("before", "set_traffic") and Record.model_validate_json(text).state == "finished"
        assert f"the server of {NAME} was gone: started again" in said(site.folder)
    else:
        assert kind == "EndpointError" and site.serving() == [1]
        record = record_of(site.folder)
        assert record is not None and (record.state, record.cause) == ("restored", "fault")
        assert Driver(site.order()).record().state == "finished"
    assert site.endpoint.state.server()[0] != server
    assert site.serving() == [2] and site.known() == {"green": 2}
    site.check(allowed=("connect",))


@dataclass(frozen=True)
class Kill:
    """Kills a process, once."""

    pid: int

    def __call__(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        until(lambda: not Path(f"/proc/{self.pid}").exists() or b"Z" in _stat(self.pid))


def _stat(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2][:3]
    except OSError:
        return b" Z"


def taking(port: int) -> socket.socket | None:
    """Return a socket that listens on a port, None where somebody else does."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
        found.listen()
    except OSError:
        found.close()
        return None
    return found


def hang_up(server: socket.socket) -> None:
    """Accept connections and close them, until the server is closed."""
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_taken_port_is_left_to_who_has_it(site: Site) -> None:
    site.callers.stop()
    server, port = site.endpoint.state.server()
    Kill(server)()
    until(lambda: site.endpoint.health() is None)
    with closing(until(lambda: taking(port))) as other:
        threading.Thread(target=hang_up, args=(other,), daemon=True).start()
        site.endpoint.start()
        assert site.endpoint.state.server()[1] != port
        with Callers(site.endpoint) as callers:
            site.callers = callers
            assert Driver(site.order()).record().state == "finished"
            site.check()


def test_two_that_start_a_killed_server_start_one(site: Site) -> None:
    site.callers.stop()
    Kill(site.endpoint.state.server()[0])()
    drivers = [Driver(Order(site.folder)) for _ in range(4)]
    assert [driver.answer() for driver in drivers] == [("record", "")] * 4
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    folder = str(site.folder.resolve()).encode()
    assert sum(b"endpoints.gateway\0" + folder in line for line in lines) == 1


# ---- the rollout -------------------------------------------------------------------------------------------------------------------------

PLACES: list[Place] = [
    *[("written", state) for state in ("create", "smoke", "shift", "bake", "finish")],
    ("before", "create_deployment"),
    ("after", "create_deployment"),
    ("before", "set_traffic"),
    ("after", "set_traffic"),
    ("before", "counts"),
    ("before", "delete_deployment"),
    ("after", "delete_deployment"),
]


@pytest.mark.parametrize("place", PLACES)
def test_killed_rollout_is_resumed_by_the_next_command(site: Site, place: Place) -> None:
    assert Driver(site.order(place=place)).wait() == -signal.SIGKILL
    killed = record_of(site.folder)
    assert killed is not None and sum(site.endpoint.show().traffic.values()) == 100
    record = Driver(site.order()).record()
    assert record.state == "finished" and site.serving() == [2] and site.known() == {"green": 2}
    assert f"found in state {killed.state}: resumed" in said(site.folder)
    site.check()


@pytest.mark.parametrize("place", PLACES)
def test_killed_rollout_is_restored_for_another_version(site: Site, place: Place) -> None:
    assert Driver(site.order(place=place)).wait() == -signal.SIGKILL
    killed = record_of(site.folder)
    assert killed is not None
    record = Driver(site.order(3)).record()
    ended = killed.state == "finish"
    assert record.state == "finished" and site.serving() == [3]
    assert site.known() == ({"blue": 3} if ended else {"green": 3})
    assert f"found in state {killed.state}: {'resumed' if ended else 'restored'}" in said(site.folder)
    site.check()


@pytest.mark.parametrize("wish", ["abort", "promote", ""])
def test_rollout_killed_while_it_bakes_does_what_the_next_command_asks(site: Site, wish: str) -> None:
    assert Driver(site.order(place=("written", "bake"))).wait() == -signal.SIGKILL
    record = Driver(site.order(None, wish=wish)).record()
    assert record.state == ("restored" if wish == "abort" else "finished")
    assert site.serving() == ([1] if wish == "abort" else [2])
    site.check()


def test_rollout_killed_on_its_way_back_goes_on_back(site: Site) -> None:
    driver = at_split(site, 50, place=("written", "restore"))
    ask(site, "abort")
    assert driver.wait() == -signal.SIGKILL
    assert Driver(site.order(None)).record().state == "restored"
    assert "found in state restore: goes on to restore" in said(site.folder)
    assert site.serving() == [1] and site.known() == {"blue": 1}
    site.check()


def test_driver_killed_again_and_again_comes_to_the_end(site: Site) -> None:
    for place in PLACES[:5]:
        assert Driver(site.order(place=place)).wait() == -signal.SIGKILL
        assert sum(site.endpoint.show().traffic.values()) == 100
    assert Driver(site.order()).record().state == "finished"
    site.check()


# ---- the disk, the clock, and somebody else ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["create", "smoke", "shift", "bake", "finish"])
def test_full_disk_stops_a_rollout_before_its_next_move(site: Site, state: str) -> None:
    kind, text = Driver(site.order(place=("written", state), fate=full_disk)).answer()
    assert kind in ("MachineError", "InputError", "OSError", "OperationalError"), (kind, text)
    record = record_of(site.folder)
    assert record is not None and record.state == state
    check_whole(site.endpoint)
    assert Driver(site.order()).record().state == "finished"
    assert f"found in state {state}: resumed" in said(site.folder)
    assert site.serving() == [2] and site.known() == {"green": 2}
    site.check()


def test_gateway_on_a_full_disk_answers_shifts_and_counts_later(site: Site) -> None:
    """Its log takes no row, so a canary shows nothing and is held for a person; traffic can be moved all the same."""
    free = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    own = [site.endpoint.state.server()[0], *workers(site.endpoint).values()]
    for pid in own:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    site.callers.more()
    record = Driver(site.order(plan=short_plan(rules={"margin": 0.05}, extend=1))).record()
    assert (record.waiting, record.live) == ("held", [{"green": 50, "blue": 50}])
    seen = record.evidence.canary.requests
    site.callers.more()
    assert Driver(site.order(None, wish="abort")).record().state == "restored"
    assert site.serving() == [1] and site.known() == {"blue": 1}
    site.check()
    for pid in own:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, free)
    until(lambda: site.endpoint.counts("", (1, 1, 1))[0].get("green", Counts()).requests > seen)
    site.check()


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_clock_that_jumps_neither_ends_a_bake_nor_a_lease(site: Site, jump: float) -> None:
    """The wall clock of the driver and of everybody else is off by a day while it bakes."""
    driver = at_split(site, 50)
    late = RolloutStore(site.folder, lambda: time.time() + jump)
    with pytest.raises(Exception, match=r"held by .* \(process \d+ on "):
        roll_out(context_of(site.folder, store=late, now=late.clock), short_plan(), site.versions[3])
    ask(site, "abort")
    assert driver.record().state == "restored"
    record = roll_out(context_of(site.folder, store=late, now=late.clock), short_plan(), site.versions[2])
    assert record.state == "finished" and 0.2 <= record.baked < 3_600
    site.check()


def test_two_operators_at_once_roll_out_one_version(site: Site) -> None:
    drivers = [
        Driver(site.order(2, plan=short_plan(bake=1.0))),
        Driver(site.order(3, plan=short_plan(bake=1.0))),
    ]
    answers = [driver.answer() for driver in drivers]
    kinds = sorted(kind for kind, _ in answers)
    assert kinds == ["InputError", "record"], answers
    (refused,) = (text for kind, text in answers if kind == "InputError")
    assert "held by" in refused and "since" in refused and "rollout show cost-dev" in refused
    won = 2 if answers[0][0] == "record" else 3
    assert site.serving() == [won] and len(site.known()) == 1
    site.check()


def test_many_operators_abort_at_once(site: Site) -> None:
    assert Driver(site.order(place=("written", "bake"))).wait() == -signal.SIGKILL
    drivers = [Driver(site.order(None, wish="abort")) for _ in range(4)]
    kinds = {driver.answer()[0] for driver in drivers}
    assert "record" in kinds and kinds <= {"record", "InputError"}
    assert site.serving() == [1] and site.known() == {"blue": 1}
    site.check()


def test_bodies_are_those_of_which_a_fifth_fails(tmp_path: Path) -> None:
    bundle = Bundle.open(bundles.failing(tmp_path / "failing"))
    fails = 0
    for number in range(len(BODIES)):
        try:
            bundle.predict({"weeks": [number]})
        except Exception:
            fails += 1
    assert fails == len(BODIES) / 5
