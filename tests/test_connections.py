"""Requests to a URL with a key: HTTP as servers speak it, certificates, proxies, and keys that stay secret."""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from brookside_mlops.connections import BadAnswer, Pool, Reply
from brookside_mlops.endpoints.local import EndpointError
from brookside_mlops.endpoints.protocol import PIN
from brookside_mlops.errors import InputError
from brookside_mlops.load import Load, Request, measure
from brookside_mlops.target import KEY_VARIABLE, Target, proxy_of, read_key
from tests.servers import http, serving

SECRET = "key-nobody-may-see"
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def post(target: Target, *bodies: bytes, most: int = 256) -> list[Reply]:
    """Post bodies one after the other."""

    async def work() -> list[Reply]:
        async with Pool(target, most) as pool:
            return [await pool.post(body) for body in bodies]

    return asyncio.run(work())


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n3\r\n 2]\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        http(200, b"[1, 2]"),
        http(404, b'{"error": 1}'),
        http(204),
        CHUNKED,
        [CHUNKED[:50], CHUNKED[50:60], CHUNKED[60:]],
        [bytes([byte]) for byte in http(200, b"[1]")],
        b"HTTP/1.1 200 OK\r\n\r\n[1, 2]",
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n[1, 2]",
        b"HTTP/1.1 100 Continue\r\n\r\n" + http(200, b"[1]"),
        http(200, b"[1]", b"Connection: close"),
        http(500, b"x" * 200_000),
    ],
)
def test_answers_are_read_as_httpx_reads_them(answer: bytes | list[bytes]) -> None:
    with serving(lambda number, body: answer) as server:
        replies = post(Target(server.url, "key"), b"[]", b"[]", b"[]")
        with httpx.Client(trust_env=False) as other:
            expected = other.post(server.url, content=b"[]")
    assert {(reply.status, reply.body) for reply in replies} == {(expected.status_code, expected.content)}


@pytest.mark.parametrize(
    ("status", "model", "meant"),
    [(424, b"500", 500), (424, b"400", 400), (424, b"", 424), (424, b"none", 424), (503, b"500", 503)],
)
def test_status_of_the_model_comes_out_from_behind_azures_424(status: int, model: bytes, meant: int) -> None:
    said = http(status, b"{}", *([b"ms-azureml-model-error-statuscode: " + model] if model else []))
    with serving(lambda number, body: said) as server:
        target = Target(server.url, "key")
        assert [one.status for one in post(target, b"[]")] == [meant] == [target.score(b"[]").status]


def test_connections_are_kept_and_no_more_than_allowed() -> None:
    async def work(target: Target) -> None:
        async with Pool(target, most=4) as pool:
            await asyncio.gather(*(pool.post(b"[]") for _ in range(40)))

    with serving(lambda number, body: http(200, b"[]")) as server:
        asyncio.run(work(Target(server.url, "key")))
        assert (server.connections, len(server.bodies)) == (4, 40)


def test_kept_connection_that_the_server_closed_is_replaced() -> None:
    with serving(lambda number, body: http(200, b"[]", b"X-Then: close")) as server:
        replies = post(Target(server.url, "key"), *[b"[]"] * 20)
    assert [reply.status for reply in replies] == [200] * 20 and server.connections == 20


def test_request_is_sent_a_second_time_only_when_nothing_was_heard() -> None:
    def say(number: int, body: bytes) -> bytes:
        return (
            http(200, b"[]")
            if number == 1
            else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nX-Then: close\r\n\r\n["
        )

    with serving(say) as server, pytest.raises(ConnectionError):
        post(Target(server.url, "key"), b"[]", b"[]")
    assert len(server.bodies) == 2


def test_answer_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brookside_mlops.connections.MAX_ANSWER", 1 << 20)
    with (
        serving(lambda number, body: http(200, b"x" * (2 << 20))) as server,
        pytest.raises(BadAnswer, match="larger"),
    ):
        post(Target(server.url, "key"), b"[]")


def test_request_says_who_asks_and_for_whom() -> None:
    with serving(lambda number, body: http(200, b"[]", f"{PIN}: green".encode())) as server:
        target = Target(f"{server.url}?trace=1", SECRET, "green")
        (reply,) = post(target, b"[1]")
        answer = target.score(b"[2]")
    assert reply.deployment == answer.deployment == "green"
    for head in server.heads:
        assert head.startswith(b"POST /score?trace=1 HTTP/1.1\r\n")
        lower = head.lower()
        assert b"authorization: bearer " + SECRET.encode() in lower and f"{PIN}: green".encode() in lower


@pytest.fixture
def authority(monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    for name in CERTIFICATES:
        monkeypatch.delenv(name, raising=False)
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "scoring.test").configure_cert(context)
    return context


@pytest.mark.parametrize("variable", CERTIFICATES[:2])
def test_https_with_the_certificates_of_a_company(
    variable: str,
    authority: trustme.CA,
    secure: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = tmp_path / "company.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv(variable, str(bundle))
    with serving(lambda number, body: http(200, b"[1]"), tls=secure) as server:
        target = Target(server.url, "key")
        assert [reply.body for reply in post(target, b"[]", b"[]")] == [b"[1]"] * 2
        assert target.score(b"[]").content == [1]
        outcomes = measure(target, [Request(b"[]", expected=[1])], Load(100, 0.05, 0.01))
    assert [one.category for one in outcomes] == ["ok"] * 5


def test_unknown_certificate_is_a_failed_connection(secure: ssl.SSLContext) -> None:
    with serving(lambda number, body: http(200, b"[1]"), tls=secure) as server:
        target = Target(server.url, SECRET)
        outcomes = measure(target, [Request(b"[]")], Load(100, 0.02, 0.01))
        with pytest.raises(EndpointError, match="does not answer"):
            target.score(b"[]")
    assert {one.category for one in outcomes} == {"connect"} and "certificate verify failed" in outcomes[
        0
    ].note
    assert server.bodies == []  # and so no key either


def test_file_that_holds_no_certificates_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("no certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match=r"REQUESTS_CA_BUNDLE=.*notes\.txt is not"):
        post(Target("https://127.0.0.1:9/score", "key"), b"[]")


class Proxy:
    """A proxy of a company: takes CONNECT, and leads every name to one port of this machine."""

    def __init__(self, port: int, status: bytes = b"200 Connection established") -> None:
        self.port, self.status, self.heads = port, status, list[bytes]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listening.getsockname()[1]}"
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            try:
                channel, _ = self.listening.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += channel.recv(1)
            self.heads.append(head)
            channel.sendall(b"HTTP/1.1 " + self.status + b"\r\nVia: test\r\n\r\n")
            if not self.status.startswith(b"200"):
                channel.close()
                continue
            there = socket.create_connection(("127.0.0.1", self.port))
            for one, other in ((channel, there), (there, channel)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with closing(other), suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)

    def close(self) -> None:
        self.listening.close()


@pytest.fixture
def through(
    authority: trustme.CA, secure: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Proxy]:
    """Yield a proxy that the environment names, in front of a server that answers [1]."""
    authority.cert_pem.write_to_path(str(tmp_path / "company.pem"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "company.pem"))
    for name in ("NO_PROXY", "no_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving(lambda number, body: http(200, b"[1]"), tls=secure) as server:
        proxy = Proxy(server.port)
        monkeypatch.setenv("https_proxy", f"http://ada:pass%40word@{proxy.address}")
        yield proxy
        proxy.close()


def test_https_goes_through_the_proxy_that_the_environment_names(through: Proxy) -> None:
    target = Target("https://scoring.test/score", SECRET)
    assert [reply.body for reply in post(target, b"[]", b"[]")] == [b"[1]"] * 2
    assert target.score(b"[]").content == [1]
    assert len(through.heads) == 2  # a connection of the pool, and one of httpx
    for head in through.heads:
        assert head.startswith(b"CONNECT scoring.test:443 HTTP/1.1\r\n") and SECRET.encode() not in head
        assert base64.b64encode(b"ada:pass@word") in head


def test_proxy_that_refuses_is_a_failed_connection(through: Proxy) -> None:
    through.status = b"407 Proxy Authentication Required"
    with pytest.raises(ConnectionError, match=r"refused the way to scoring\.test") as error:
        post(Target("https://scoring.test/score", SECRET), b"[]")
    assert "pass" not in str(error.value)


def test_no_proxy_and_this_machine_are_reached_directly(
    through: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert through.address in proxy_of("https://scoring.test/score")
    assert (
        proxy_of("https://127.0.0.1/score")
        == proxy_of("https://localhost/s")
        == proxy_of("http://a.test/s")
        == ""
    )
    monkeypatch.setenv("no_proxy", ".test")
    assert proxy_of("https://scoring.test/score") == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("viability/score", "not a scoring URL"),
        ("ftp://host/score?code=word", "not a scoring URL"),
        ("http:///score", "not a scoring URL"),
        ("http://host:0/score", "not a scoring URL"),
        ("http://host:port/score", "not a URL"),
        ("http://host/score\r\nX-Other: 1", "not a scoring URL"),
        ("http://a..b/score", "not a URL"),
        ("https://me:word@host/score", "leave them out"),
        ("ftp://me:word@host/score", "leave them out"),
    ],
)
def test_wrong_url_is_refused_without_its_secrets(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        Target(url, "key")
    assert "word" not in str(error.value).replace("password", "")


@pytest.mark.parametrize("key", ["a\r\nX-Other: 1", "schlüssel"])
def test_key_that_is_no_header_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="characters that a header cannot hold") as error:
        Target("https://host/score", key)
    assert key not in str(error.value)


def test_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text(f"  {SECRET}\nsecond\n")
    (tmp_path / "empty").write_text("\n")
    assert read_key(str(tmp_path / "keys")) == SECRET
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    for wrong, said in (
        ("", "no key"),
        (str(tmp_path / "empty"), "is empty"),
        (str(tmp_path), "cannot be read"),
    ):
        with pytest.raises(InputError, match=said):
            read_key(wrong)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    assert read_key() == SECRET
    assert SECRET not in repr(Target("https://host/score", SECRET))
