"""Requests made from the endpoint's own document, right and wrong, and bytes that are no requests, at a real server."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from brookside_mlops.bundle import BundleColumn, BundleInfo
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.openapi import openapi
from brookside_mlops.endpoints.protocol import Limits
from brookside_mlops.scratch import scratch_bundle

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEndpoint]:
    folder = tmp_path_factory.mktemp("fuzz")
    one = LocalEndpoint(folder, "cost-dev", Limits(max_rows=50, request_seconds=2))
    one.start()
    one.create_deployment("blue", scratch_bundle(folder / "blue", 0.5), "m", 1)
    one.set_traffic({"blue": 100})
    yield one
    one.stop()


@pytest.fixture(scope="module")
def worker(endpoint: LocalEndpoint) -> int:
    return restarts(endpoint)


def restarts(endpoint: LocalEndpoint) -> int:
    """Return how often a worker was started again."""
    text = httpx.get(endpoint.show_uri().replace("/score", "/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith("brookside_worker_restarts_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in lines)


def document(endpoint: LocalEndpoint) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(endpoint.show_uri().replace("/score", "/openapi.json")).json()
    return found


def check(endpoint: LocalEndpoint, answer: httpx.Response) -> None:
    """No answer is a server error, all are JSON, a refusal says what is wrong, and the endpoint answers the next caller."""
    assert answer.status_code < 500, answer.text
    content = answer.json()
    if answer.status_code >= 400:
        assert content["error"]["code"] and content["error"]["message"]
        if answer.status_code == 422:
            assert content["error"]["field"]
    assert endpoint.score(b'[{"weeks": 4}]').content == [4.5]


def test_document_is_openapi(endpoint: LocalEndpoint) -> None:
    schema = schemathesis.openapi.from_dict(document(endpoint))
    schema.validate()
    names = {operation.ok().label for operation in schema.get_all_operations()}
    assert names == {"POST /score", "GET /health"}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_made_from_the_document_ends_in_a_server_error(
    endpoint: LocalEndpoint, worker: int, mode: GenerationMode
) -> None:
    operation = schemathesis.openapi.from_dict(document(endpoint))["/score"]["POST"]
    seen = set()

    @FUZZ
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        body = case.body if isinstance(case.body, bytes) else json.dumps(case.body).encode()
        headers = {"Authorization": f"Bearer {endpoint.keys()[0]}", "Content-Type": "application/json"}
        answer = httpx.post(endpoint.show_uri(), content=body, headers=headers)
        seen.add(answer.status_code)
        check(endpoint, answer)

    ask()
    assert (seen == {200}) if mode == GenerationMode.POSITIVE else (seen & {400, 422})
    assert restarts(endpoint) == worker


HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"a":' * 50_000,
            b'[{"weeks": NaN}]',
            b'[{"weeks": Infinity}]',
            b'[{"weeks": 1e999}]',
            b'[{"weeks": ' + b"9" * 5000 + b"}]",
            b'[{"weeks": -1e309}]',
            b'[{"weeks": "\xff\xfe"}]',
            b'[{"weeks": "\\ud800"}]',
            b'[{"weeks": 1, "weeks": 2}]',
            b'[{"weeks": 1, "more": 2}]',
            b'[{"Weeks": 1}]',
            b'[{"weeks": [1]}]',
            b'[{"weeks": {"a": 1}}]',
            b'[{"weeks": true}]',
            b"[[1]]",
            b"[null]",
            b"[1]",
            b"null",
            b'"weeks"',
            b"",
            b"\x00",
            b"\xef\xbb\xbf[]",
            '[{"weeks": 1}]'.encode("utf-16"),
            b'{"input_data": {"columns": ["weeks", "weeks"], "data": [[1, 2]]}}',
            b'{"input_data": {"columns": ["weeks"], "data": [[1, 2]]}}',
            b'{"input_data": {"columns": ["weeks"], "data": [[1]], "index": [1, 2]}}',
            b'{"input_data": {"columns": [["weeks"]], "data": [[1]]}}',
            b'{"input_data": {"columns": [], "data": [[]]}}',
            b'{"input_data": {"data": [[1]]}}',
            b'{"input_data": []}',
        ]
    ),
)


@FUZZ
@given(body=HOSTILE)
def test_no_bytes_end_in_a_server_error(endpoint: LocalEndpoint, worker: int, body: bytes) -> None:
    check(endpoint, endpoint_post(endpoint, body))
    assert restarts(endpoint) == worker


@FUZZ
@given(
    st.dictionaries(
        st.sampled_from(
            ["azureml-model-deployment", "x-ms-request-id", "content-encoding", "content-type", "accept"]
        ),
        st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_categories=["Cc"]), max_size=80),
    )
)
def test_no_header_ends_in_a_server_error(endpoint: LocalEndpoint, headers: dict[str, str]) -> None:
    sent = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = endpoint_post(endpoint, b'[{"weeks": 1}]', **sent)
    check(endpoint, answer)


def endpoint_post(endpoint: LocalEndpoint, body: bytes, **headers: bytes) -> httpx.Response:
    key = {"Authorization": f"Bearer {endpoint.keys()[0]}".encode()}
    return httpx.post(endpoint.show_uri(), content=body, headers={**key, **headers})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc",
    ],
)
def test_broken_http_harms_nobody_else(endpoint: LocalEndpoint, sent: bytes) -> None:
    port = int(endpoint.show_uri().rpartition(":")[2].partition("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        answer = b""
        while more := caller.recv(65_536):
            answer += more
    assert not answer or answer.split()[1][:1] == b"4"
    assert endpoint.score(b'[{"weeks": 4}]').content == [4.5]


def test_document_names_columns_classes_and_limits(tmp_path: Path) -> None:
    info = BundleInfo(
        usecase="viability",
        task="classification",
        columns=(BundleColumn(name="weeks", kind="number"), BundleColumn(name="unit", kind="category")),
        classes=("no", "yes"),
        positive="yes",
        score=True,
        sha256="0" * 64,
    )
    post = openapi("viability-dev", info, Limits(max_rows=7))["paths"]["/score"]["post"]
    wrapped, records = post["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert records["maxItems"] == 7 and records["items"]["required"] == ["weeks", "unit"]
    assert wrapped["properties"]["input_data"]["properties"]["columns"]["const"] == ["weeks", "unit"]
    answers = post["responses"]["200"]["content"]["application/json"]["schema"]["items"]
    assert answers["required"] == ["class", "probability", "score"]
    assert answers["properties"]["class"]["enum"] == ["no", "yes"]
