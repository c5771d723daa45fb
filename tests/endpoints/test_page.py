"""The page of an endpoint: what it shows, who gets it, and what it sends."""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
import json
import re
import sqlite3
import threading
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from typer.testing import CliRunner

from brookside_mlops.audit import audit_log
from brookside_mlops.audit_chain import AuditRow
from brookside_mlops.canary import Evidence, Look, Rules, decide, observe
from brookside_mlops.canary import Step as CanaryStep
from brookside_mlops.cli_care import endpoint_app
from brookside_mlops.endpoints import page as page_module
from brookside_mlops.endpoints.gateway import Gateway
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.page import FILES, Page
from brookside_mlops.endpoints.page_view import DeploymentView, Driven, PageView, page_view
from brookside_mlops.endpoints.protocol import Counts
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.endpoints.tickets import Sessions, Tickets
from brookside_mlops.evidence import difference_interval
from brookside_mlops.rollout import Move, Record, State, Waiting
from brookside_mlops.rollout_plan import Plan, Target
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.scratch import scratch_bundle

NAME = "cost-dev"
HERE = "http://127.0.0.1:8000"
STATIC = Path(page_module.__file__).parent / "static"
ROOT = Path(__file__).resolve().parents[2]


def record(**changes: Any) -> Record:
    plan = Plan(strategy="canary", steps=(10, 50, 100), bake=60, rules=Rules(), approval=True)
    target = Target(bundle=Path("/b"), model_name="m", version=2, sha256="2")
    moves = [Move(at="2026-01-02T03:04:05.000+00:00", event="traffic", text="green 10 %, blue 90 %")]
    first = Record(
        endpoint=NAME, plan=plan, target=target, new="green", old="blue", before={"blue": 100}, moves=moves
    )
    return first.model_copy(update=changes)


def looked(canary: Counts, stable: Counts) -> Record:
    rules = record().plan.rules
    evidence = observe(Evidence(), Look(start=0, end=30, canary=canary, stable=stable), rules)
    decision = decide(evidence, rules, CanaryStep(weight=10, baked=30, bake=60))
    live = [{"green": 10, "blue": 90}]
    return record(state="bake", baked=30.0, total=30.0, evidence=evidence, decision=decision, live=live)


# What it shows


@pytest.mark.parametrize("old", ["blue", ""])
@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("waiting", get_args(Waiting))
def test_every_state_of_a_rollout_can_be_shown(state: State, waiting: Waiting, old: str) -> None:
    for cause, driver in itertools.product(("", "smoke"), ("", "ada")):
        found = record(state=state, waiting=waiting, old=old, cause=cause)
        view = page_view(NAME, [], Driven(found, driver))
        assert PageView.model_validate_json(view.model_dump_json()) == view
        shown = view.rollout
        assert shown is not None and shown.headline and shown.steps[0].name == "create"
        now = [step.state for step in shown.steps if step.state in ("now", "stopped")]
        assert now == ([] if state == "finished" else ["stopped" if "restore" in state else "now"])
        over = state in ("finished", "restored")
        assert bool(shown.hint) == (waiting == "approval" or (not over and not driver))


def test_bake_counts_down_and_stops_where_its_driver_is_gone() -> None:
    baking = looked(Counts(requests=100), Counts(requests=900))
    left = [page_view(NAME, [], Driven(baking, "ada", age)).rollout.left for age in (0, 0.5, 1, 900)]
    assert left == [30, 29.5, 29, 29]
    for waiting in ("paused", "held"):
        shown = page_view(NAME, [], Driven(baking.model_copy(update={"waiting": waiting}))).rollout
        assert (shown.bake, shown.left, shown.tone) == (0, 0, "warn")


@pytest.mark.parametrize(("errors", "said"), [(9, ", not yet under the margin"), (0, ", under the margin")])
def test_analysis_is_that_of_the_evidence(errors: int, said: str) -> None:
    found = looked(Counts(requests=200, errors=errors), Counts(requests=1_800, errors=20))
    analysis = page_view(NAME, [], Driven(found)).analysis
    assert analysis is not None and (analysis.requests, analysis.errors) == ((200, 1_800), (errors, 20))
    low, high = difference_interval((200, errors), (1_800, 20), 0.01)
    assert (analysis.points[-1].low, analysis.points[-1].high) == pytest.approx((low, high), abs=1e-5)
    assert analysis.needed == 200 and f"and {100 * high:+.2f} percentage points" in analysis.difference
    assert said in analysis.difference
    assert page_view(NAME, [], Driven(found.model_copy(update={"old": ""}))).analysis is None


def test_analysis_without_a_request_claims_nothing() -> None:
    analysis = page_view(NAME, [], Driven(looked(Counts(), Counts(requests=900)))).analysis
    assert analysis is not None and "margin" not in analysis.difference
    assert analysis.difference.startswith("No request to green is counted yet")


def test_events_are_told_in_words_newest_first() -> None:
    def row(number: int, details: dict[str, Any]) -> AuditRow:
        return AuditRow.model_validate(
            {"number": number, "time": "2026-01-02T03:04:05.000+00:00", "event": "traffic", "subject": NAME}
            | {"actor": "ada", "details": details, "previous": "0" * 64, "hash": "1" * 64}
        )

    rows = [row(1, {"text": "blue 100 %", "split": {"blue": 100}}), row(2, {"mirror": {"green": "10"}})]
    events = page_view(NAME, [], None, rows).events
    assert [(one.number, one.text) for one in events] == [(2, "mirror green 10"), (1, "blue 100 %")]


# Who gets it


@pytest.fixture
def state(tmp_path: Path) -> EndpointState:
    found = EndpointState(tmp_path / "state", NAME)
    found.create()
    return found


def test_ticket_opens_once_and_within_a_minute(state: EndpointState) -> None:
    now = [1_000.0]
    tickets = Tickets(state, lambda: now[0])
    first, second, third = (tickets.make() for _ in range(3))
    assert [tickets.use(one) for one in ("", "guessed", first, first)] == [False, False, True, False]
    now[0] += 59.9
    assert tickets.use(second)
    now[0] += 0.1
    assert not tickets.use(third)


def test_ticket_does_not_outlive_a_clock_that_is_set_back(state: EndpointState) -> None:
    now = [10_000.0]
    tickets = Tickets(state, lambda: now[0])
    ticket = tickets.make()
    now[0] -= 3_600
    assert not tickets.use(ticket)
    now[0] += 3_600
    assert not tickets.use(ticket)


def test_ticket_is_not_on_the_disk(state: EndpointState) -> None:
    ticket = Tickets(state).make()
    for path in state.folder.rglob("*"):
        assert path.is_dir() or ticket.encode() not in path.read_bytes(), path


def test_two_that_come_with_one_ticket_do_not_both_get_in(state: EndpointState) -> None:
    tickets = Tickets(state)
    for _ in range(20):
        ticket, start, got = tickets.make(), threading.Barrier(4), []

        def use(ticket: str = ticket, start: threading.Barrier = start, got: list[bool] = got) -> None:
            start.wait()
            got.append(tickets.use(ticket))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [False, False, False, True]


def test_session_ends_after_twelve_hours() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    word = sessions.begin()
    now[0] = 12 * 3600 - 1
    assert sessions.open(word) and not sessions.open("") and not sessions.open(word + "x")
    now[0] += 1
    assert not sessions.open(word)


@pytest.fixture
def gateway(state: EndpointState) -> Gateway:
    return Gateway(state)


def ask(gateway: Gateway, *requests: tuple[str, str, dict[str, str]]) -> list[httpx.Response]:
    """Send requests as one browser does: it keeps cookies, and is shown redirects."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(gateway.site)
        async with httpx.AsyncClient(transport=transport, base_url=HERE) as client:
            return [await client.request(method, path, headers=extra) for method, path, extra in requests]

    return asyncio.run(send())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_page_needs_a_key_or_a_link(gateway: Gateway) -> None:
    first, second, own = gateway.state.read_keys()
    given = ({}, bearer(first), bearer(second), bearer(own), bearer(""), {"Cookie": f"brookside-{NAME}=x"})
    answers = ask(gateway, *(("GET", "/", extra) for extra in given))
    assert [one.status_code for one in answers] == [401, 200, 200, 401, 401, 401]
    assert f"brookside-mlops endpoint open {NAME}" in answers[0].text
    assert answers[0].headers["www-authenticate"] == "Bearer"
    (events,) = ask(gateway, ("GET", "/events", {}))
    assert events.status_code == 401


def test_key_that_was_made_anew_closes_the_page(gateway: Gateway) -> None:
    old = bearer(gateway.state.read_keys()[0])
    assert ask(gateway, ("GET", "/", old))[0].status_code == 200
    gateway.state.regenerate_key("primary")
    gateway.scoring.read_keys()
    assert ask(gateway, ("GET", "/", old))[0].status_code == 401


def test_link_becomes_a_session_and_leaves_the_address(gateway: Gateway) -> None:
    ticket = gateway.page.tickets.make()
    link = ("GET", f"/?ticket={ticket}", {})
    entered, page, again = ask(gateway, link, ("GET", "/", {}), link)
    assert (entered.status_code, entered.headers["location"], page.status_code) == (303, "/", 200)
    cookie = entered.headers["set-cookie"].lower()
    for part in (f"brookside-{NAME}=", "httponly", "samesite=strict", "path=/", "max-age=43200"):
        assert part in cookie
    assert ticket not in cookie and (again.status_code, "set-cookie" in again.headers) == (303, False)
    (stranger,) = ask(gateway, link)
    assert stranger.status_code == 401 and "set-cookie" not in stranger.headers


def test_link_on_another_site_moves_on_by_itself(gateway: Gateway) -> None:
    link = f"/?ticket={gateway.page.tickets.make()}"
    moved, page = ask(gateway, ("GET", link, {"Sec-Fetch-Site": "cross-site"}), ("GET", "/", {}))
    assert (moved.status_code, page.status_code) == (200, 200)
    assert '<meta http-equiv="refresh" content="0; url=/">' in moved.text and "ticket" not in moved.text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1", "127.0.0.1:8001", "0.0.0.0:8000", ""]
)
def test_other_hosts_are_refused(gateway: Gateway, host: str) -> None:
    extra = bearer(gateway.state.read_keys()[0]) | {"Host": host}
    paths = ["/", "/?ticket=" + gateway.page.tickets.make(), "/events", *(f"/{name}" for name in FILES)]
    answers = ask(gateway, *(("GET", path, extra) for path in paths))
    assert [one.status_code for one in answers] == [421] * len(paths)
    assert all("set-cookie" not in one.headers for one in answers)


def test_localhost_is_this_server(gateway: Gateway) -> None:
    extra = bearer(gateway.state.read_keys()[0]) | {"Host": "localhost:8000"}
    assert ask(gateway, ("GET", "/", extra))[0].status_code == 200


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_page_is_only_read(gateway: Gateway, method: str) -> None:
    key = bearer(gateway.state.read_keys()[0])
    ticket = gateway.page.tickets.make()
    paths = ["/", f"/?ticket={ticket}", "/events", *(f"/{name}" for name in FILES)]
    answers = ask(gateway, *((method, path, key) for path in paths))
    assert [one.status_code for one in answers] == [405] * len(paths)
    assert gateway.page.tickets.use(ticket)


def test_every_answer_keeps_scripts_of_others_out(gateway: Gateway) -> None:
    key = bearer(gateway.state.read_keys()[0])
    paths = [("GET", f"/{name}", key) for name in ("", *FILES)]
    for answer in ask(gateway, *paths, ("GET", "/", {"Host": "evil.example"}), ("GET", "/", {})):
        policy = dict(
            part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
        assert {policy[kind] for kind in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_files_have_nothing_inline_and_nothing_from_elsewhere() -> None:
    for name in ("index.html", "door.html"):
        text = (STATIC / name).read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|javascript:", text), name
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|url\(|@import|src=\"//", text), path.name
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", script)
    assert len(script.splitlines()) < 400


def test_files_are_part_of_the_package() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = known["tool"]["setuptools"]["package-data"]["brookside_mlops.endpoints"]
    for path in STATIC.iterdir():
        assert any(fnmatch.fnmatch(f"static/{path.name}", one) for one in patterns)


# What it sends


def stream_of(page: Page, steps: dict[int, Any], stop: int) -> list[str]:
    """Return the first `stop` events of a stream, doing a step after the event of that number."""

    async def listen() -> list[str]:
        found: list[str] = []
        async for event in page.stream(lambda: len(found) < stop):
            found.append(event.partition("\n")[0])
            steps.get(len(found), lambda: None)()
        return found

    return asyncio.run(listen())


def test_stream_sends_what_changes_and_signs_of_life(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "PERIOD", 0.01)
    log = audit_log(gateway.state.folder.parent.parent)
    steps = {3: lambda: log.append("key", NAME, {"regenerated": "primary"})}
    page, alive = "event: page", "event: alive"
    assert stream_of(gateway.page, steps, 5) == ["retry: 1000", page, alive, page, alive]


def test_folder_is_read_once_for_all_who_watch_and_never_for_nobody(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = page_module.read_page
    monkeypatch.setattr(page_module, "read_page", lambda *rest: reads.append(rest) or read(*rest))
    key = bearer(gateway.state.read_keys()[0])
    ask(gateway, *(("GET", f"/{name}", key) for name in ("", "health", *FILES)))
    assert not reads

    async def watch() -> None:
        await asyncio.gather(*(gateway.page.shown() for _ in range(20)))

    asyncio.run(watch())
    assert len(reads) == 1


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(gateway: Gateway) -> None:
    folder = gateway.state.folder.parent.parent
    RolloutStore(folder).begin(NAME, '{"not": "a rollout"}')
    log = audit_log(folder)
    log.append("key", NAME, {"regenerated": "primary"})
    with closing(sqlite3.connect(log.path)) as database, database:
        database.execute("drop trigger audit_update")
        database.execute("update audit set time = 'yesterday'")
    page = PageView.model_validate_json(asyncio.run(gateway.page.shown()))
    assert len(page.faults) == 2 and "row 1 was changed" in page.faults[1]
    assert (page.endpoint, page.rollout, page.events) == (NAME, None, [])


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[LocalEndpoint]:
    one = LocalEndpoint(tmp_path / "state", NAME)
    one.start()
    for number, name in enumerate(("blue", "green"), 1):
        one.create_deployment(name, scratch_bundle(tmp_path / name, number), "m", number)
    one.set_traffic({"blue": 100})
    yield one
    one.stop()


def pages(lines: Iterator[str]) -> Iterator[PageView]:
    """Yield the pages of a stream of events."""
    for line in lines:
        if line.startswith("data: {"):
            yield PageView.model_validate_json(line.removeprefix("data: "))


def test_real_server_streams_traffic_and_mirror_agreement(endpoint: LocalEndpoint) -> None:
    address = endpoint.show_uri().removesuffix("score")
    with httpx.stream("GET", f"{address}events", headers=bearer(endpoint.keys()[0]), timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        seen = pages(answer.iter_lines())
        blue, green = next(seen).deployments
        assert (blue.version, blue.weight, blue.state, blue.rate) == (1, 100, "ready", 0)
        assert (green.version, green.weight) == (2, 0)
        endpoint.set_traffic({"blue": 90, "green": 10})
        endpoint.set_mirror({"green": 50})
        for weeks in [1] * 15 + [
            1_000
        ] * 25:  # version 2 answers one more: within one percent only for 1,000 weeks
            assert endpoint.score(json.dumps([{"weeks": weeks}] * 3).encode()).status == 200
        page = next(one for one in seen if one.deployments[1].rate and one.mirror and one.mirror.copies == 20)
        assert [one.weight for one in page.deployments] == [90, 10] and page.deployments[0].p99_ms > 0
    endpoint.stop()  # the log of requests is whole then
    with closing(sqlite3.connect(endpoint.state.requests)) as database:
        sums = "select count(*), sum(rows), sum(agreed) from request where kind = 'mirror'"
        assert page.mirror is not None
        assert database.execute(sums).fetchone() == (20, page.mirror.rows, page.mirror.agreed)
    assert 0 < page.mirror.agreed < page.mirror.rows == 60


def test_server_that_is_watched_ends_its_streams(endpoint: LocalEndpoint) -> None:
    address = endpoint.show_uri().removesuffix("score")
    with httpx.stream("GET", f"{address}events", headers=bearer(endpoint.keys()[0]), timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(pages(lines)).endpoint == NAME
        endpoint.stop()
        assert list(lines) is not None  # ends, and is not cut off, which httpx would raise
    assert "graceful shutdown exceeded" not in "\n".join(endpoint.logs())


def test_command_prints_a_link_that_opens_the_page_once(endpoint: LocalEndpoint) -> None:
    arguments = ["open", NAME, "--no-browser", "--state-folder", str(endpoint.state_folder)]
    result = CliRunner().invoke(endpoint_app, arguments)
    link = result.stdout.strip()
    assert result.exit_code == 0 and re.fullmatch(r"http://127\.0\.0\.1:\d+/\?ticket=[\w-]{43}", link)
    with httpx.Client(follow_redirects=True) as client:
        assert client.get(link).status_code == 200
    assert httpx.get(link, follow_redirects=True).status_code == 401
    wrong = CliRunner().invoke(endpoint_app, ["open", "nobody", "--state-folder", str(endpoint.state_folder)])
    assert wrong.exit_code == 2 and "no endpoint 'nobody'" in wrong.stderr


def test_numbers_of_a_deployment_are_kept_as_they_are() -> None:
    numbers = {"rate": 9.5, "error_rate": 0.25, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    one = DeploymentView(
        name="blue", version=1, state="ready", weight=90, restarts={"crash": 2}, history=[1, 2], **numbers
    )
    (shown,) = page_view(NAME, [one], Driven(record(state="bake"))).deployments
    assert shown == one.model_copy(update={"role": "stable"})
