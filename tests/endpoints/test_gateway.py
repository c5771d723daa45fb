"""The gateway in this process: the same application, without a port."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.endpoints.gateway import Gateway, Rotation, listen
from brookside_mlops.endpoints.protocol import PIN, Deployment
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.scratch import scratch_bundle as adding


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 100), max_size=5))
def test_rotation_keeps_weights_exactly_over_a_round(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    rotation = Rotation(weights)
    chosen = [rotation.choose() for _ in range(total or 1)]
    assert {name: chosen.count(name) for name in weights} == (weights if total else dict.fromkeys(weights, 0))


def state_with(folder: Path, *names: str) -> EndpointState:
    state = EndpointState(folder, "cost-dev")
    state.create()
    for number, name in enumerate(names):
        bundle = adding(folder / "bundles" / name, number)
        state.add(Deployment(name=name, model_name="m", version=number, sha256="0"), bundle)
    return state


async def talk(state: EndpointState, steps) -> None:  # type: ignore[no-untyped-def]
    gateway = Gateway(state)
    app = gateway.app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            client.headers["Authorization"] = f"Bearer {state.read_keys()[0]}"
            await steps(gateway, client)


def test_state_is_read_again_on_command(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert (await client.post("/score", json=[{"weeks": 1}])).status_code == 503
        state.weigh({"green": 100})
        own = {"Authorization": f"Bearer {state.read_keys()[2]}"}
        assert (await client.post("/-/reload", headers=own)).json() == {"blue": "ready", "green": "ready"}
        assert (await client.post("/score", json=[{"weeks": 1}])).json() == [2.0]
        pinned = await client.post("/score", json=[{"weeks": 1}], headers={PIN: "blue"})
        assert pinned.json() == [1.0]
        state.remove("blue")
        await client.post("/-/reload", headers=own)
        assert (await client.get("/health")).json()["deployments"] == {"green": "ready"}
        assert (await client.post("/score", json=[{"weeks": 1}], headers={PIN: "blue"})).status_code == 404
        assert (await client.post("/score", content=b" " * (11 << 20))).status_code == 413

    asyncio.run(talk(state, steps))


def test_dead_worker_costs_its_own_requests_only(tmp_path: Path) -> None:
    state = state_with(tmp_path, "blue", "green")
    state.weigh({"green": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        assert (await client.post("/score", json=[{"weeks": 1}], headers={PIN: "blue"})).status_code == 200
        me = os.getpid()
        for pid in map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split()):
            if b"deployments/blue" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        statuses = set()
        for _ in range(600):
            statuses.add(
                (await client.post("/score", json=[{"weeks": 1}], headers={PIN: "blue"})).status_code
            )
            assert (await client.post("/score", json=[{"weeks": 1}])).json() == [2.0]
            if 503 in statuses and gateway.workers["blue"].state == "ready":
                break
            await asyncio.sleep(0.05)
        assert 503 in statuses
        assert (await client.post("/score", json=[{"weeks": 1}], headers={PIN: "blue"})).status_code == 200

    asyncio.run(talk(state, steps))


def test_worker_that_hangs_is_given_up(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("brookside_mlops.endpoints.gateway.TIMEOUT", 0.5)
    state = state_with(tmp_path, "blue")
    state.weigh({"blue": 100})

    async def steps(gateway: Gateway, client: httpx.AsyncClient) -> None:
        me = os.getpid()
        (pid,) = map(int, Path(f"/proc/{me}/task/{me}/children").read_text().split())
        os.kill(pid, signal.SIGSTOP)
        answer = await client.post("/score", json=[{"weeks": 1}])
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        os.kill(pid, signal.SIGCONT)
        assert (await client.post("/score", json=[{"weeks": 1}])).status_code == 200

    asyncio.run(talk(state, steps))


def test_port_of_last_time_is_taken_again_if_it_is_free() -> None:
    first = listen(0)
    first.listen()
    port = first.getsockname()[1]
    second = listen(port)
    assert second.getsockname()[1] != port
    first.close()
    second.close()
