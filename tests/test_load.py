"""Load by the clock: what a latency counts from, what became of a request, and the numbers made of it."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import socket
import statistics
import time
from collections.abc import Iterator
from itertools import count, takewhile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.bundle import BundleInfo
from brookside_mlops.connections import Pool, Reply
from brookside_mlops.endpoints.protocol import PIN
from brookside_mlops.errors import InputError
from brookside_mlops.load import (
    Clock,
    Load,
    Outcome,
    Request,
    Sender,
    Summary,
    constant_rate,
    judged,
    measure,
    run_in_loop,
    summarise,
)
from brookside_mlops.replay import BACK_OFF, Pace, ReplayTraffic, replay
from brookside_mlops.target import Target
from tests.servers import HANG, http, serving

CATEGORIES = ("ok", "connect", "timeout", "4xx", "5xx", "format", "mismatch")
OUTCOMES = st.lists(
    st.builds(
        Outcome,
        intended=st.floats(0, 60),
        seconds=st.floats(1e-6, 30),
        category=st.sampled_from(CATEGORIES),
        deployment=st.sampled_from(["", "blue", "green"]),
    ),
    min_size=2,
    max_size=60,
)
COST = BundleInfo(usecase="cost", task="regression", columns=(), sha256="")


@given(st.integers(1, 500), st.integers(1, 20))
def test_starts_are_evenly_spaced_and_as_many_as_rate_and_time_say(rate: int, seconds: int) -> None:
    starts = list(constant_rate(rate, seconds))
    assert len(starts) == rate * seconds
    assert np.allclose(np.diff(starts), 1 / rate)


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(InputError, match="a number over 0"):
        constant_rate(rate)


class Stalling:
    """A server that takes one request after the other, and stalls with one of them until it is released."""

    def __init__(self, stall_at: int) -> None:
        self.stall_at, self.received, self.stalled = stall_at, 0, False
        self.released, self.turn = asyncio.Event(), asyncio.Lock()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.rpartition(b"Content-Length: ")[2]))
                number, self.received = self.received, self.received + 1
                self.stalled = self.stalled or number == self.stall_at
                async with self.turn:
                    if number == self.stall_at:
                        await self.released.wait()
                writer.write(http(200, b"[1.0]"))
        except asyncio.IncompleteReadError:
            writer.close()

    def release(self) -> None:
        self.stalled = False
        self.released.set()


class Counted(Pool):
    """A pool that counts what it was asked to post."""

    started = 0

    async def post(self, body: bytes) -> Reply:
        self.started += 1
        return await super().post(body)


class StandingClock(Clock):
    """Time that stands still while requests are under way, and moves when everyone who can be answered is.

    The server is released at `release_at`. At the sleeps in `jumps` time moves on by that much more, as when the client is suspended.
    """

    def __init__(self, server: Stalling, release_at: float, jumps: dict[int, float] | None = None) -> None:
        self.server, self.release_at, self.jumps = server, release_at, jumps or {}
        self.time, self.sleeps, self.pool = 0.0, 0, Counted(Target("http://127.0.0.1:9/score", "key"))
        self.outcomes: list[Outcome] = []

    def now(self) -> float:
        return self.time

    async def settled(self) -> None:
        """Wait until all that was sent is answered, or lies at the server that stalls."""
        await asyncio.sleep(0)
        while len(self.outcomes) < self.pool.started:
            if self.server.stalled and self.server.received == self.pool.started:
                return
            await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await self.settled()
        if seconds > 0:
            self.sleeps += 1
            self.time += seconds + self.jumps.get(self.sleeps, 0.0)
            if self.time >= self.release_at - 1e-9:
                self.server.release()
                await self.settled()


async def on_a_stalling_server(
    requests: int,
    stall_at: int,
    release_at: float,
    *,
    closed: bool = False,
    jumps: dict[int, float] | None = None,
) -> list[Outcome]:
    """Send requests every 10 ms of a standing clock to a server that stalls; return what became of them."""
    server = Stalling(stall_at)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/score"
    clock = StandingClock(server, release_at, jumps)
    async with Counted(Target(url, "key")) as pool:
        clock.pool = pool
        sender = Sender(pool, clock.outcomes.append, timeout=10, clock=clock)
        if not closed:
            await sender.send(
                [Request(b"[]")], takewhile(lambda at: at < requests / 100, (n / 100 for n in count()))
            )
        while closed and len(clock.outcomes) < requests:  # the next one when the last is answered
            task = asyncio.create_task(sender._one(Request(b"[]"), clock.now(), 0.0))
            while not task.done():
                await clock.sleep(0.01)
    listening.close()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
    return sorted(clock.outcomes, key=lambda outcome: outcome.intended)


def test_stall_is_felt_by_everyone_who_was_due_in_it() -> None:
    outcomes = asyncio.run(on_a_stalling_server(100, stall_at=10, release_at=0.5))
    expected = [0.5 - n / 100 if 10 <= n < 50 else 0.0 for n in range(100)]
    assert [one.seconds for one in outcomes] == pytest.approx(expected)
    assert summarise(outcomes, 100).p95_ms == pytest.approx(1000 * np.percentile(expected, 95))


def test_closed_loop_hides_the_stall() -> None:
    outcomes = asyncio.run(on_a_stalling_server(100, stall_at=10, release_at=0.5, closed=True))
    assert len([one for one in outcomes if one.seconds > 0.05]) == 1
    assert (summarise(outcomes, 100).p95_ms or 0) < 20


def test_latency_counts_from_the_intended_start_when_the_client_is_late() -> None:
    outcomes = asyncio.run(on_a_stalling_server(100, stall_at=-1, release_at=9, jumps={20: 0.3}))
    expected = [max(0.0, 0.3 - (n - 20) / 100) if n >= 20 else 0.0 for n in range(100)]
    assert [one.seconds for one in outcomes] == pytest.approx(expected)
    assert [one.late for one in outcomes] == pytest.approx(expected)


def test_request_whose_time_is_over_before_it_is_sent_has_timed_out() -> None:
    outcomes = asyncio.run(on_a_stalling_server(30, stall_at=-1, release_at=99, jumps={20: 11.0}))
    assert [one.category for one in outcomes] == ["ok"] * 20 + ["timeout"] * 10
    assert all(one.seconds > 10 and "before it could be sent" in one.note for one in outcomes[20:])


def closed_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{bound.getsockname()[1]}/score"


@pytest.mark.parametrize(
    ("answer", "category", "note"),
    [
        (http(200, b"[4.5]"), "ok", ""),
        (HANG, "timeout", "no answer in time"),
        (http(404, b"{}"), "4xx", "status 404"),
        (http(429), "4xx", "status 429"),
        (http(500, b"[4.5]"), "5xx", "status 500"),
        (b"\x00\xff garbage\r\n\r\n", "format", "not HTTP"),
        (http(302, b"", b"Location: /login"), "format", "status 302"),
        (http(200, b"<html>sign in</html>"), "format", "not JSON"),
        (http(200, b'{"output": 4.5}'), "format", "not a list"),
        (http(200, b"[4.5, 4.5]"), "format", "2 answers for 1 rows"),
        (http(200, b'["4.5"]'), "format", "not a number"),
        (http(200, b"[4.6]"), "mismatch", "another answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Then: close\r\n\r\n[4.5", "connect", "ended before"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", b"\r\n[4", b".5]"], "ok", ""),
    ],
)
def test_each_way_to_fail_has_its_category(answer: object, category: str, note: str) -> None:
    request = Request(b'[{"weeks": 4}]', expected=[4.5])
    with serving(lambda number, body: answer) as server:
        target = Target(server.url, "key", timeout=0.3 if answer is HANG else 10)
        outcomes = measure(target, [request], Load(rate=100, seconds=0.03, warm_up=0.01), COST)
    assert {one.category for one in outcomes} == {category} and len(outcomes) == 3
    assert note in outcomes[0].note
    assert set(server.bodies) == {request.body}


def test_nobody_listening_is_a_failed_connection() -> None:
    outcomes = measure(Target(closed_port(), "key"), [Request(b"[]")], Load(100, 0.05, 0.01))
    found = summarise(outcomes, 100)
    assert (found.categories, found.available, found.p95_ms) == ({"connect": 5}, 0.0, None)
    assert "Refused" in outcomes[0].note


def test_server_that_dies_at_its_first_request_fails_to_connect() -> None:
    with serving(lambda number, body: b"") as server:
        outcomes = measure(Target(server.url, "key"), [Request(b"[]")], Load(100, 0.03, 0.01))
    assert {one.category for one in outcomes} == {"connect"}


def test_requests_go_round_and_warm_up_is_not_counted() -> None:
    bodies = [b"[1]", b"[2]", b"[3]"]
    blue = f"{PIN}: blue".encode()
    with serving(lambda number, body: http(200, body, blue)) as server:
        requests = [Request(body, expected=json.loads(body)) for body in bodies]
        outcomes = measure(Target(server.url, "key", "blue"), requests, Load(200, 0.035, warm_up=0.02))
    assert [one.category for one in outcomes] == ["ok"] * 7
    assert len(server.bodies) == 4 + 7
    assert {body: server.bodies.count(body) for body in bodies} == {b"[1]": 5, b"[2]": 3, b"[3]": 3}
    assert {one.deployment for one in outcomes} == {"blue"} and blue in server.heads[0]


def test_load_runs_inside_a_running_loop() -> None:
    async def outer() -> int:
        async def inner() -> int:
            return 7

        return run_in_loop(inner)

    assert asyncio.run(outer()) == 7


@given(OUTCOMES)
def test_percentiles_are_those_of_numpy_and_of_the_standard_library(outcomes: list[Outcome]) -> None:
    found = summarise(outcomes, 10)
    timed = [
        1000 * one.seconds for one in outcomes if one.category in ("ok", "format", "mismatch", "timeout")
    ]
    if not timed:
        assert found.p50_ms is found.p95_ms is found.p99_ms is found.max_ms is None
        return
    expected = np.percentile(timed, [50, 95, 99])
    assert [found.p50_ms, found.p95_ms, found.p99_ms] == pytest.approx(expected)
    assert found.max_ms == max(timed)
    if len(timed) > 1:
        cuts = statistics.quantiles(timed, n=100, method="inclusive")
        assert [found.p50_ms, found.p95_ms, found.p99_ms] == pytest.approx([cuts[49], cuts[94], cuts[98]])


@given(OUTCOMES)
def test_shares_and_counts_are_those_of_the_outcomes(outcomes: list[Outcome]) -> None:
    found = summarise(outcomes, 10)
    served = [one for one in outcomes if one.category in ("ok", "4xx", "format", "mismatch")]
    assert found.available == pytest.approx(len(served) / len(outcomes))
    assert found.success == pytest.approx(sum(one.category == "ok" for one in outcomes) / len(outcomes))
    assert sum(found.categories.values()) == found.requests == len(outcomes)
    assert sum(found.deployments.values()) == sum(bool(one.deployment) for one in outcomes)
    assert 0 <= found.keeps_up <= 1
    assert Summary.model_validate_json(found.model_dump_json()) == found


@given(st.floats(10, 1000), st.floats(0.2, 3), st.floats(0, 2))
def test_pace_tells_a_growing_queue_from_a_long_way(rate: float, share: float, way: float) -> None:
    capacity = share * rate
    ends = [way + max(n / rate, (n + 1) / capacity) for n in range(400)]
    found = summarise([Outcome(n / rate, end - n / rate, "ok") for n, end in enumerate(ends)], rate)
    assert found.keeps_up == pytest.approx(min(1.0, share), abs=0.02)


def test_summary_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no request was sent"):
        summarise([], 10)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(-2, 2) | st.text(max_size=3), st.lists, max_leaves=3
)


@given(
    st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([200, 204, 404, 500]),
)
def test_every_answer_has_a_category_and_only_the_right_one_is_ok(body: bytes, status: int) -> None:
    request = Request(b"[]", expected=[1.0])
    category, note = judged(request, Reply(status, body, ""), COST)
    assert category in CATEGORIES and bool(note) == (category != "ok")
    try:
        number = json.loads(body)[0] if len(json.loads(body)) == 1 else None
        right = isinstance(number, float | int) and not isinstance(number, bool) and abs(number - 1) <= 1e-5
    except (ValueError, TypeError, KeyError):
        right = False
    assert (category == "ok") == (status == 200 and right)


def test_replay_goes_on_until_told_and_waits_for_its_answers() -> None:
    outcomes: list[Outcome] = []
    with serving(lambda number, body: http(200, b"[1]")) as server:
        stopped = replay(
            server.url,
            "key",
            [b"[1]", Request(b"[2]")],
            500,
            lambda: len(outcomes) >= 10,
            record=outcomes.append,
        )
        asyncio.run(stopped)
    assert len(outcomes) == len(server.bodies) >= 10
    assert {one.category for one in outcomes} == {"ok"} and set(server.bodies) == {b"[1]", b"[2]"}


def deployments() -> Iterator[bytes]:
    for number in count():
        yield f"{PIN}: {'green' if number % 4 == 0 else 'blue'}".encode()


def test_traffic_lasts_as_long_as_its_block_and_is_counted_by_deployment() -> None:
    names = deployments()
    with serving(lambda number, body: http(503 if number % 4 == 1 else 200, b"[1]", next(names))) as server:
        with ReplayTraffic(server.url, "key", [b"[1]"], rate=400) as traffic:
            while traffic.counts["5xx"] < 2:
                time.sleep(0.001)
        counted = dict(traffic.by_deployment)
        assert sum(counted.values()) == len(server.bodies) == traffic.counts.total()
    assert set(counted) == {("green", "5xx"), ("blue", "ok")}
    traffic.stop()


def test_traffic_says_what_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    traffic = ReplayTraffic("https://127.0.0.1:9/score", "key", [b"[1]"], rate=10)
    traffic.start()
    with pytest.raises(InputError, match=r"REQUESTS_CA_BUNDLE=/nowhere\.pem"):
        traffic.stop()


@pytest.mark.parametrize(("bodies", "rate"), [([], 10.0), ([b"[]"], 0.0)])
def test_traffic_that_cannot_be_is_refused_before_it_starts(bodies: list[bytes], rate: float) -> None:
    with pytest.raises(InputError):
        ReplayTraffic("http://127.0.0.1:9/score", "key", bodies, rate)


class Told(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 100.0

    def now(self) -> float:
        return self.at


def test_replayed_traffic_backs_off_where_the_endpoint_is_busy_and_never_catches_up() -> None:
    clock = Told()
    pace = Pace(10, clock)
    starts = pace.starts()
    assert [next(starts), next(starts)] == pytest.approx([0.0, 0.1])
    clock.at += 5  # the machine was busy: the 49 requests of that time are not sent now
    assert next(starts) == pytest.approx(5.0)
    for status in (429, 200, 429):
        pace.hear(Outcome(0.0, 0.1, "4xx" if status == 429 else "ok", status))
    assert [next(starts), next(starts)] == pytest.approx([5.0 + BACK_OFF, 5.1 + BACK_OFF])


def test_endpoint_that_is_busy_gets_few_requests() -> None:
    """Its first answer is 429; in the second after it, no other request comes."""
    begun: list[float] = []

    def say(number: int, body: bytes) -> bytes:
        begun.append(time.monotonic())
        return http(429 if len(begun) == 1 else 200, b"[1]")

    with serving(say) as server, ReplayTraffic(server.url, "key", [b"[1]"], rate=20) as traffic:
        while traffic.counts["ok"] < 3:
            time.sleep(0.001)
    # what was on its way when the first answer came may have been sent; then there is a pause
    assert max(later - one for one, later in itertools.pairwise(begun)) >= 0.9 * BACK_OFF
