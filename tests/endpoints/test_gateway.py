"""The gateway in this process: the same application and real workers, without a port."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from brookside_mlops.endpoints.gateway import Gateway, listen
from brookside_mlops.endpoints.protocol import PIN, REQUEST_ID, Limits
from brookside_mlops.endpoints.request_log import read_counts
from brookside_mlops.endpoints.state import EndpointState
from tests.endpoints.states import ROW, gateway_of, state_with

Steps = Callable[[Gateway, httpx.AsyncClient], Awaitable[None]]


def talk(state: EndpointState, steps: Steps) -> None:
    async def work() -> None:
        async with gateway_of(state) as (gateway, client):
            await steps(gateway, client)

    asyncio.run(work())


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition; a minute is for machines that are busy, not a bound on speed."""
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.02)


def pid_of(gateway: Gateway, name: str) -> int:
    life = gateway.fleet.workers[name].life
    assert life is not None
    return life.process.pid


def test_state_is_read_again_on_command(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert code(await client.post("/score", json=ROW)) == (503, "no_traffic")
        assert (await client.get("/health/ready")).status_code == 503
        state.weigh({"green": 100})
        own = {"Authorization": f"Bearer {state.read_keys()[2]}"}
        answer = (await client.post("/-/reload", headers=own)).json()
        assert answer == {"deployments": {"blue": "ready", "green": "ready"}, "traffic": {"green": 100}}
        assert (await client.get("/health/ready")).json() == {"ready": True, "deployments": ["green"]}
        assert (await client.post("/score", json=ROW)).json() == [2.0]
        pinned = await client.post("/score", json=ROW, headers={PIN: "blue"})
        assert pinned.json() == [1.0] and pinned.headers[PIN] == "blue"
        state.remove("blue")
        await client.post("/-/reload", headers=own)
        assert (await client.get("/health")).json()["deployments"] == {"green": "ready"}
        assert code(await client.post("/score", json=ROW, headers={PIN: "blue"})) == (404, "no_deployment")

    talk(state, steps)


def test_log_holds_all_requests_by_the_old_split_once_the_new_one_is_read(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        gateway.log._over.set()  # nobody writes but on command
        await asyncio.to_thread(gateway.log._thread.join)
        for _ in range(5):
            assert (await client.post("/score", json=ROW)).headers[PIN] == "blue"
        assert read_counts(state.requests, 0, (1e9, 1e9, 1e9))[0] == {}
        state.weigh({"green": 100})
        await client.post("/-/reload", headers={"Authorization": f"Bearer {state.read_keys()[2]}"})
        found, _ = read_counts(state.requests, 0, (1e9, 1e9, 1e9))
        assert {name: one.requests for name, one in found.items()} == {"blue": 5}

    talk(state, steps)


def test_request_id_is_the_callers_or_a_new_one(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue")

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        mine = await client.post("/score", json=ROW, headers={REQUEST_ID: "mine", PIN: "blue"})
        assert mine.headers[REQUEST_ID] == "mine"
        others = {(await client.post("/score", json=ROW)).headers[REQUEST_ID] for _ in range(3)}
        assert len(others) == 3

    talk(state, steps)


def test_limits_refuse_before_a_worker_is_asked(tmp_path: Path) -> None:
    limits = Limits(max_body_mb=0.01, max_rows=5, request_seconds=0.3)
    state = state_with(tmp_path, "blue", limits=limits)
    state.weigh({"blue": 100})

    async def slow() -> object:
        yield b"[{"
        await asyncio.sleep(60)

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert code(await client.post("/score", json=ROW * 6)) == (413, "too_many_rows")
        assert code(await client.post("/score", content=b" " * 20_000)) == (413, "too_large")

        async def parts() -> object:
            for _ in range(20):
                yield b" " * 1000

        assert code(await client.post("/score", content=parts())) == (413, "too_large")
        zipped = {"Content-Encoding": "gzip"}
        bomb = gzip.compress(b" " * (5 << 20))
        assert len(bomb) < 10_000
        assert code(await client.post("/score", content=bomb, headers=zipped)) == (413, "too_large")
        good = await client.post("/score", content=gzip.compress(json.dumps(ROW).encode()), headers=zipped)
        assert good.json() == [1.0]
        assert code(await client.post("/score", content=b"x", headers=zipped)) == (400, "not_gzip")
        cut = gzip.compress(json.dumps(ROW).encode())[:-8]
        assert code(await client.post("/score", content=cut, headers=zipped)) == (400, "not_gzip")
        brotli = {"Content-Encoding": "br"}
        assert code(await client.post("/score", content=b"x", headers=brotli)) == (415, "encoding")
        assert code(await client.post("/score", content=slow())) == (408, "slow_body")

    talk(state, steps)


def test_too_many_at_once_are_asked_to_come_back(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", limits=Limits(max_concurrent=2))
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        os.kill(pid_of(gateway, "blue"), signal.SIGSTOP)
        waiting = [asyncio.create_task(client.post("/score", json=ROW)) for _ in range(2)]
        await until(lambda: gateway.scoring.active == 2)
        refused = await client.post("/score", json=ROW)
        assert code(refused) == (429, "too_many_requests") and refused.headers["Retry-After"] == "1"
        os.kill(pid_of(gateway, "blue"), signal.SIGCONT)
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]

    talk(state, steps)


def test_keys_are_checked_and_change_at_once(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue")
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        first, second, own = state.read_keys()
        for key, status in ((first, 200), (second, 200), (own, 401), ("", 401), (first[:-1], 401)):
            answer = await client.post("/score", json=ROW, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status
        assert (await client.post("/score", json=ROW, headers={"Authorization": first})).status_code == 401
        state.regenerate_key("primary")
        assert (
            await client.post("/-/reload", headers={"Authorization": f"Bearer {first}"})
        ).status_code == 401
        await client.post("/-/reload", headers={"Authorization": f"Bearer {own}"})
        assert (await client.post("/score", json=ROW)).status_code == 401
        answer = await client.post("/score", json=ROW, headers={"Authorization": f"Bearer {second}"})
        assert answer.status_code == 200

    talk(state, steps)


def test_killed_worker_costs_nothing_while_another_one_can_answer(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")
    state.weigh({"blue": 50, "green": 50})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        os.kill(pid_of(gateway, "blue"), signal.SIGSTOP)
        tasks = [asyncio.create_task(client.post("/score", json=ROW)) for _ in range(20)]
        await until(lambda: len(gateway.fleet.workers["blue"].life.channel.waiting) == 10)
        os.kill(pid_of(gateway, "blue"), signal.SIGKILL)
        answers = await asyncio.gather(*tasks)
        assert [answer.status_code for answer in answers] == [200] * 20
        assert {answer.headers[PIN] for answer in answers} == {"green"}
        down = await client.post("/score", json=ROW, headers={PIN: "blue"})
        assert code(down) == (503, "deployment_down") and down.headers[PIN] == "blue"
        await until(lambda: gateway.fleet.workers["blue"].ready)
        assert (await client.post("/score", json=ROW, headers={PIN: "blue"})).json() == [1.0]
        assert gateway.fleet.workers["blue"].restarts == {"crash": 1}
        gateway.log.flush()
        live, _ = read_counts(state.requests, 0, (1e9, 1e9, 1e9))
        assert (live["blue"].errors, live["blue"].unavailable, live["green"].errors) == (10, 10, 0)
        stepped_in, _ = read_counts(state.requests, 0, (1e9, 1e9, 1e9), "failover")
        assert stepped_in["green"].requests == 10

    talk(state, steps)


def test_hanging_worker_is_replaced_and_its_request_answered_by_another(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green", limits=Limits(request_seconds=0.5))
    state.weigh({"blue": 50, "green": 50})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        first = pid_of(gateway, "blue")
        os.kill(first, signal.SIGSTOP)
        answers = await asyncio.gather(*(client.post("/score", json=ROW) for _ in range(4)))
        assert [answer.json() for answer in answers] == [[2.0]] * 4
        await until(lambda: gateway.fleet.workers["blue"].ready)
        assert pid_of(gateway, "blue") != first and gateway.fleet.workers["blue"].restarts == {"hang": 1}
        os.kill(pid_of(gateway, "blue"), signal.SIGSTOP)
        alone = await client.post("/score", json=ROW, headers={PIN: "blue"})
        assert code(alone) == (504, "timeout")

    talk(state, steps)


def test_worker_that_has_grown_is_replaced_before_it_ends(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue")
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        first = pid_of(gateway, "blue")
        worker = gateway.fleet.workers["blue"]
        statuses = []
        worker.post = worker.post.__class__(worker.post.bundle, worker.post.samples, memory_mb=1.0)
        while pid_of(gateway, "blue") == first:
            statuses.append((await client.post("/score", json=ROW)).status_code)
        worker.post = worker.post.__class__(worker.post.bundle, worker.post.samples)
        assert set(statuses) == {200} and "memory" in worker.restarts

    talk(state, steps)


def test_mirror_gets_copies_and_nobody_waits_for_them(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")
    state.weigh({"blue": 100})
    state.mirror({"green": 50})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        for weeks in [1] * 10 + [1000] * 10:
            assert (await client.post("/score", json=[{"weeks": weeks}])).headers[PIN] == "blue"
        await until(lambda: not gateway.scoring._copies)
        gateway.log.flush()
        copies, _ = read_counts(state.requests, 0, (1e9, 1e9, 1e9), "mirror")
        live, _ = read_counts(state.requests, 0, (1e9, 1e9, 1e9))
        assert copies["green"].requests == 10 and live["blue"].requests == 20 and "green" not in live
        import sqlite3

        agreed = sqlite3.connect(state.requests).execute("select sum(agreed) from request").fetchone()[0]
        assert agreed == 5  # 1000 and 1001 are within one percent, 1 and 2 are not

    talk(state, steps)


def test_everything_else_is_answered_in_json(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue")
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        for method, path, status in (
            ("GET", "/score", 405),
            ("PUT", "/score", 405),
            ("GET", "/nothing", 404),
        ):
            assert code(await client.request(method, path)) == (status, "no_route")
        await client.post("/score", json=ROW)
        await client.post("/score", json=[{"weeks": "x"}])
        text = (await client.get("/metrics")).text
        assert 'brookside_requests_total{deployment="blue",endpoint="cost-dev",status="422"} 1.0' in text
        assert 'brookside_weight_percent{deployment="blue",endpoint="cost-dev"} 100.0' in text
        document = (await client.get("/openapi.json")).json()
        assert document["info"]["title"] == "cost-dev"

    talk(state, steps)


def test_openapi_of_an_endpoint_without_deployments_is_not_there(tmp_path: Path) -> None:
    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert code(await client.get("/openapi.json")) == (404, "no_deployment")

    talk(state_with(tmp_path), steps)


@pytest.mark.parametrize("taken", [True, False])
def test_port_of_last_time_is_taken_again_if_it_is_free(taken: bool) -> None:
    first = listen(0)
    port = first.getsockname()[1]
    if taken:
        first.listen()
    else:
        first.close()
    second = listen(port)
    assert (second.getsockname()[1] == port) is not taken
    first.close()
    second.close()
