"""Callers that send slowly, too much, or nothing at all, at a real server; and what the server says about them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import REQUEST_ID, Limits
from brookside_mlops.scratch import scratch_bundle

MOST = 4


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    folder = tmp_path_factory.mktemp("callers")
    one = LocalEndpoint(folder, "cost-dev", Limits(request_seconds=1, max_concurrent=MOST, max_body_mb=1))
    one.start()
    one.create_deployment("blue", scratch_bundle(folder / "blue", 0.5), "m", 1)
    one.set_traffic({"blue": 100})
    yield one
    one.stop()


def call(endpoint: LocalEndpoint) -> socket.socket:
    port = int(endpoint.show_uri().rpartition(":")[2].partition("/")[0])
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def head(endpoint: LocalEndpoint, *lines: str) -> bytes:
    key = f"Authorization: Bearer {endpoint.keys()[0]}"
    return "\r\n".join(("POST /score HTTP/1.1", "Host: x", key, *lines, "", "")).encode()


def rest(caller: socket.socket) -> bytes:
    """Return all that comes until the server ends the connection."""
    answer = b""
    try:
        while more := caller.recv(65_536):
            answer += more
    except ConnectionResetError:
        pass
    return answer


def said(answer: bytes) -> tuple[int, str]:
    first, _, body = answer.partition(b"\r\n\r\n")
    return int(first.split()[1]), json.loads(body)["error"]["code"]


def metrics(endpoint: LocalEndpoint) -> str:
    return httpx.get(endpoint.show_uri().replace("/score", "/metrics")).text


def refused(endpoint: LocalEndpoint, status: int, code: str) -> int:
    labels = f'{{code="{code}",endpoint="cost-dev",status="{status}"}}'
    found = re.search(
        rf"^brookside_requests_refused_total{re.escape(labels)} (\S+)$", metrics(endpoint), re.M
    )
    return int(float(found[1])) if found else 0


def test_bodies_that_never_begin_give_their_places_back(endpoint: LocalEndpoint) -> None:
    before = refused(endpoint, 408, "slow_body")
    callers = [call(endpoint) for _ in range(MOST)]
    for caller in callers:
        caller.sendall(head(endpoint, "Content-Length: 500", "Connection: close"))
    assert [said(rest(caller)) for caller in callers] == [(408, "slow_body")] * MOST
    assert endpoint.score(b'[{"weeks": 4}]').content == [4.5]
    assert refused(endpoint, 408, "slow_body") == before + MOST


def test_connection_of_a_body_that_never_comes_is_ended(endpoint: LocalEndpoint) -> None:
    with call(endpoint) as caller:
        caller.sendall(head(endpoint, "Content-Length: 500"))
        assert said(rest(caller)) == (408, "slow_body")


@pytest.mark.parametrize("earlier", [0, 1])
def test_half_a_header_is_refused_after_a_while(endpoint: LocalEndpoint, earlier: int) -> None:
    before = refused(endpoint, 408, "slow_header")
    with call(endpoint) as caller:
        for _ in range(earlier):
            caller.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}}"):
                answer += caller.recv(65_536)
        caller.sendall(b"GET /health HTTP/1.1\r\n")
        assert said(rest(caller)) == (408, "slow_header")
    assert refused(endpoint, 408, "slow_header") == before + 1


def test_half_a_header_behind_a_whole_request_ends_the_connection_too(endpoint: LocalEndpoint) -> None:
    with call(endpoint) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /health")
        assert rest(caller).startswith(b"HTTP/1.1 200")


def test_header_that_comes_letter_by_letter_gets_no_more_time(endpoint: LocalEndpoint) -> None:
    with call(endpoint) as caller:
        caller.sendall(b"GET /health HTTP/1.1\r\nX: ")
        caller.settimeout(0.05)
        answer, letters = b"", 0
        while not answer and letters < 1000:
            caller.sendall(b"a")
            letters += 1
            try:
                answer = caller.recv(65_536)
            except TimeoutError:
                continue
    assert said(answer) == (408, "slow_header")


def test_connection_on_which_nothing_is_said_is_ended(endpoint: LocalEndpoint) -> None:
    with call(endpoint) as caller:
        assert rest(caller) == b""


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nHost: x\r\nX: ",
        b"GET /health?",
        b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: ",
        b"POST /health HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;",
    ],
    ids=["header", "address", "trailer", "chunk extension"],
)
def test_line_without_an_end_is_cut_and_costs_no_memory(endpoint: LocalEndpoint, start: bytes) -> None:
    before, used = refused(endpoint, 431, "header_too_large"), memory_kb(endpoint)
    sent = 0
    with call(endpoint) as caller:
        caller.sendall(start)
        try:
            while sent < 50:
                caller.sendall(b"a" * 1_000_000)
                sent += 1
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert sent < 50
    assert refused(endpoint, 431, "header_too_large") == before + 1
    assert memory_kb(endpoint) - used < 20_000


def memory_kb(endpoint: LocalEndpoint) -> int:
    status = Path(f"/proc/{endpoint.state.server()[0]}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize(
    ("size", "status"), [(60_000, 200), (70_000, 431)], ids=["within the limit", "above the limit"]
)
@pytest.mark.parametrize("lines", [1, 100])
def test_header_has_a_limit_however_it_comes(
    endpoint: LocalEndpoint, size: int, status: int, lines: int
) -> None:
    one = f"X: {'a' * (size // lines - 5)}"
    body = b'[{"weeks": 4}]'
    with call(endpoint) as caller:
        length = f"Content-Length: {len(body)}"
        caller.sendall(head(endpoint, *([one] * lines), length, "Connection: close") + body)
        assert rest(caller).split()[1] == str(status).encode()


def test_large_body_in_pieces_is_no_header(endpoint: LocalEndpoint) -> None:
    padded = b'[{"weeks": 4}]' + b" " * 900_000
    assert endpoint.score(padded).content == [4.5]

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(padded), 100_000):
            yield padded[at : at + 100_000]

    key = {"Authorization": f"Bearer {endpoint.keys()[0]}"}
    assert httpx.post(endpoint.show_uri(), content=pieces(), headers=key).json() == [4.5]


def test_connection_is_kept_between_requests_even_if_a_key_was_wrong(endpoint: LocalEndpoint) -> None:
    with call(endpoint) as caller:
        for key, status in (("wrong", b"401"), (endpoint.keys()[0], b"200")):
            lines = f"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Length: 14\r\n\r\n"
            caller.sendall(lines.encode())
            caller.sendall(b'[{"weeks": 4}]')
            answer = b""
            while not re.search(rb'\r\n\r\n(\[4.5\]|.*"Authorization"}})', answer):
                answer += caller.recv(65_536)
            assert answer.split()[1] == status


def test_refusals_are_counted_by_status_and_reason(endpoint: LocalEndpoint) -> None:
    key = {"Authorization": f"Bearer {endpoint.keys()[0]}"}
    for headers, body, status, code in (
        ({"Authorization": "Bearer wrong"}, b"[]", 401, "unauthorized"),
        (key, b" " * 2_000_000, 413, "too_large"),
        (key | {"Content-Encoding": "br"}, b"[]", 415, "encoding"),
    ):
        before = refused(endpoint, status, code)
        assert httpx.post(endpoint.show_uri(), content=body, headers=headers).status_code == status
        assert refused(endpoint, status, code) == before + 1
    before = refused(endpoint, 429, "too_many_requests")
    callers = [call(endpoint) for _ in range(MOST + 1)]
    for caller in callers:
        caller.sendall(head(endpoint, "Content-Length: 500", "Connection: close"))
    codes = sorted(said(rest(caller)) for caller in callers)
    assert codes == [(408, "slow_body")] * MOST + [(429, "too_many_requests")]
    assert refused(endpoint, 429, "too_many_requests") == before + 1


def test_what_is_no_request_is_refused_in_json_counted_and_logged_with_its_time(
    endpoint: LocalEndpoint,
) -> None:
    before = refused(endpoint, 400, "not_http")
    with call(endpoint) as caller:
        caller.sendall(b"\x16\x03\x01\x02\x00")
        answer = rest(caller)
    assert said(answer) == (400, "not_http") and REQUEST_ID.encode() in answer
    assert refused(endpoint, 400, "not_http") == before + 1
    line, *_ = [line for line in endpoint.logs() if "Invalid HTTP request" in line]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line)


@pytest.mark.parametrize(("method", "path"), [("GET", "/score"), ("GET", "/nothing"), ("GET", "/health")])
def test_every_answer_has_the_id_of_its_request(endpoint: LocalEndpoint, method: str, path: str) -> None:
    uri = endpoint.show_uri().replace("/score", path)
    assert httpx.request(method, uri, headers={REQUEST_ID: "mine"}).headers[REQUEST_ID] == "mine"
    assert len({httpx.request(method, uri).headers[REQUEST_ID] for _ in range(3)}) == 3


def test_words_that_have_no_case_are_taken_in_any(endpoint: LocalEndpoint) -> None:
    import gzip

    first, *_ = endpoint.keys()
    for scheme in ("Bearer", "bearer", "BEARER"):
        headers = {"Authorization": f"{scheme} {first}", "Content-Encoding": "GZIP"}
        answer = httpx.post(endpoint.show_uri(), content=gzip.compress(b'[{"weeks": 4}]'), headers=headers)
        assert answer.json() == [4.5]
    upper = {"Authorization": f"Bearer {first.swapcase()}"}
    assert httpx.post(endpoint.show_uri(), content=b"[]", headers=upper).status_code == 401
