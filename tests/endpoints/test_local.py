"""The local endpoint: a real server, real workers, and what happens when they die."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brookside_mlops.endpoints.local import EndpointError, LocalEndpoint, list_endpoints
from brookside_mlops.endpoints.protocol import PIN, REQUEST_ID
from brookside_mlops.errors import InputError
from brookside_mlops.scratch import scratch_bundle as adding

BODY = json.dumps([{"weeks": 4}]).encode()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[LocalEndpoint]:
    one = LocalEndpoint(tmp_path / "state", "cost-dev")
    one.start()
    one.create_deployment("blue", adding(tmp_path / "blue", 0.5), "brookside-cost", 1)
    one.set_traffic({"blue": 100})
    yield one
    one.stop()


def eventually(wanted: object, ask: object) -> None:
    """Ask until the wanted answer comes; a minute is for machines that are busy, not a bound on speed."""
    end = time.monotonic() + 60
    while ask() != wanted:  # type: ignore[operator]
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_weights_are_kept_exactly_and_a_pin_overrides_them(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", adding(tmp_path / "green", 0.25), "brookside-cost", 2)
    endpoint.set_traffic({"blue": 90, "green": 10})
    answers = [endpoint.score(BODY) for _ in range(50)]
    assert [one.deployment for one in answers].count("green") == 5
    assert endpoint.score(BODY, "green").content == [4.25]
    assert endpoint.show().traffic == {"blue": 90, "green": 10}


def test_answer_carries_request_id_and_deployment(endpoint: LocalEndpoint) -> None:
    key = endpoint.state.read_keys()[1]
    headers = {"Authorization": f"Bearer {key}", REQUEST_ID: "mine"}
    answer = httpx.post(endpoint.show_uri(), content=BODY, headers=headers)
    assert (answer.status_code, answer.headers[PIN], answer.headers[REQUEST_ID]) == (200, "blue", "mine")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"weeks=4", 400, "not_json"),
        (b'[{"weeks": "four"}]', 422, "wrong_type"),
        (b'[{"months": 4}]', 422, "columns_missing"),
        (b"[" + b" " * (11 << 20) + b"]", 413, "too_large"),
        (json.dumps([{"weeks": 1}] * 10_001).encode(), 413, "too_many_rows"),
    ],
)
def test_bad_payload_is_refused_by_name(endpoint: LocalEndpoint, body: bytes, status: int, code: str) -> None:
    answer = endpoint.score(body)
    assert (answer.status, answer.content["error"]["code"]) == (status, code)


def test_wrong_key_and_unknown_deployment_are_refused(endpoint: LocalEndpoint) -> None:
    assert endpoint.score(BODY, key="wrong").status == 401
    assert endpoint.score(BODY, key=endpoint.state.read_keys()[2]).status == 401
    assert endpoint.score(BODY, "red").status == 404
    port = endpoint.state.server()[1]
    assert (
        httpx.post(f"http://127.0.0.1:{port}/-/reload", headers={"Authorization": "Bearer x"}).status_code
        == 401
    )


def test_killed_worker_comes_back_and_others_go_on(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", adding(tmp_path / "green", 0.25), "brookside-cost", 2)
    gateway = endpoint.state.server()[0]
    for pid in children(gateway):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"deployments/green" in command:
            os.kill(pid, signal.SIGKILL)
    assert endpoint.score(BODY).content == [4.5]
    eventually(200, lambda: endpoint.score(BODY, "green").status)


def test_killed_server_comes_back_with_deployments_weights_and_keys(endpoint: LocalEndpoint) -> None:
    before, keys = endpoint.show(), endpoint.state.read_keys()
    pid = endpoint.state.server()[0]
    workers = children(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(False, lambda: endpoint.show().running)
    eventually(
        [],
        lambda: [
            one for one in workers if Path(f"/proc/{one}/exe").exists() and os.path.exists(f"/proc/{one}/exe")
        ],
    )
    endpoint.start()
    after = endpoint.show()
    assert after.running and after.traffic == before.traffic and endpoint.state.read_keys() == keys
    assert endpoint.score(BODY).content == [4.5]


def test_no_request_fails_while_traffic_moves(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", adding(tmp_path / "green", 0.25), "brookside-cost", 2)
    statuses: list[int] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            statuses.append(endpoint.score(BODY).status)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    for weight in (10, 50, 100, 0):
        endpoint.set_traffic({"green": weight, "blue": 100 - weight})
    over.set()
    for caller in callers:
        caller.join()
    assert statuses and set(statuses) == {200}


def test_request_without_an_answer_is_known_until_it_is_in_the_counts(endpoint: LocalEndpoint) -> None:
    (worker,) = children(endpoint.state.server()[0])
    endpoint.score(BODY)
    assert endpoint.unanswered("blue") == endpoint.unanswered("nobody") == 0
    _, cursor = endpoint.counts("", (1e9, 1e9, 1e9))
    os.kill(worker, signal.SIGSTOP)
    caller = threading.Thread(target=LocalEndpoint(endpoint.state_folder, endpoint.name).score, args=(BODY,))
    caller.start()
    try:
        eventually(True, lambda: endpoint.unanswered("blue") > 0)
        first = endpoint.unanswered("blue")
        eventually(True, lambda: endpoint.unanswered("blue") > first)
        assert endpoint.counts(cursor, (1e9, 1e9, 1e9))[0] == {}
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(0.0, lambda: endpoint.unanswered("blue"))
    assert endpoint.counts(cursor, (1e9, 1e9, 1e9))[0]["blue"].requests == 1
    caller.join()
    endpoint.stop()
    assert endpoint.unanswered("blue") == float("inf")


def test_damaged_bundle_is_refused_and_one_that_cannot_load_is_removed(
    endpoint: LocalEndpoint, tmp_path: Path
) -> None:
    damaged = adding(tmp_path / "damaged", 1)
    (damaged / "model.onnx").write_bytes(b"noise")
    with pytest.raises(InputError, match="SHA-256 differs"):
        endpoint.create_deployment("green", damaged, "brookside-cost", 2)
    broken = adding(tmp_path / "broken", 1)
    endpoint.state.add(
        endpoint.state.deployments()["blue"].model_copy(update={"name": "green", "weight": 0}), broken
    )
    (endpoint.state.bundle("green") / "model.onnx").write_bytes(b"noise")
    endpoint.start()
    assert endpoint._reload()["green"] == "failed"
    endpoint.delete_deployment("green")
    assert endpoint.score(BODY).content == [4.5]


def test_deployment_with_traffic_is_not_deleted(endpoint: LocalEndpoint) -> None:
    with pytest.raises(InputError, match="has 100 % of the traffic"):
        endpoint.delete_deployment("blue")
    with pytest.raises(InputError, match="weights sum to 60"):
        endpoint.set_traffic({"blue": 60})
    with pytest.raises(InputError, match="already has a deployment blue"):
        endpoint.create_deployment("blue", endpoint.state.bundle("blue"), "m", 1)


def test_keys_are_private_and_not_in_the_log(endpoint: LocalEndpoint) -> None:
    endpoint.score(BODY)
    endpoint.score(b"noise", key="wrong")
    log = endpoint.state.log.read_text()
    assert not any(key in log for key in endpoint.state.read_keys())
    assert endpoint.state.key_file.stat().st_mode & 0o077 == 0
    assert endpoint.state.read_keys()[0] not in endpoint.curl_line()


def test_endpoints_are_listed_and_stopped_once(endpoint: LocalEndpoint) -> None:
    (found,) = list_endpoints(endpoint.state_folder)
    assert (found.name, found.running, found.traffic) == ("cost-dev", True, {"blue": 100})
    assert endpoint.stop() and not endpoint.stop()
    assert not endpoint.show().running
    with pytest.raises(EndpointError, match="does not answer"):
        endpoint.score(BODY)


def test_names_that_are_none_and_endpoints_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 to 32"):
        LocalEndpoint(tmp_path, "../etc")
    with pytest.raises(InputError, match="no endpoint 'cost-prod'"):
        LocalEndpoint(tmp_path, "cost-prod").show()


def test_deployment_with_all_the_traffic_gets_no_copies_of_it(
    endpoint: LocalEndpoint, tmp_path: Path
) -> None:
    endpoint.create_deployment("green", adding(tmp_path / "green", 1.5), "brookside-cost", 2)
    with pytest.raises(InputError, match="blue takes all the traffic itself"):
        endpoint.set_mirror({"blue": 10})
    endpoint.set_mirror({"green": 10})
    endpoint.set_mirror({"blue": 0})
    assert endpoint.show().mirror == {}
