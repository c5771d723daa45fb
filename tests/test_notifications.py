"""Messages arrive, a channel that fails costs nothing, and nobody learns the URL of one."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from brookside_mlops import notifications
from brookside_mlops.cli import app
from brookside_mlops.notifications import VARIABLE, Delivery, Message, channels, notify, safe_name
from tests.receivers import command_lines, mailbox, site

SECRET = "hunter2secret"
MESSAGE = Message(
    title="cost-prod:\nrolled back", body="Verfügbarkeit 93 % <10 min>\n\n- look at *green*", kind="failure"
)
REFUSED = "it did not take the message"
UNUSABLE = "not a whole URL of a service that apprise knows (see BROOKSIDE_NOTIFY)"
PATIENT = 300.0  # seconds for a channel, where the time is not what is tested


@pytest.fixture(autouse=True)
def no_leak(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[None]:
    """Hold every test to it: the secret is in no log at any level, no output and no file of the home folder."""
    caplog.set_level(1)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    output = capfd.readouterr()
    assert SECRET not in caplog.text + output.out + output.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def quick(message: Message, *urls: str, waits: list[float] | None = None, limit: float = PATIENT) -> Delivery:
    """Notify without waiting between tries; the waits that were asked for are kept."""
    kept = [] if waits is None else waits
    return notify(message, {VARIABLE: " ".join(urls)}, limit=limit, sleep=kept.append)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# What arrives


def test_mail_arrives_with_title_and_body_from_a_user_with_a_password() -> None:
    with mailbox(login=(b"ada", SECRET.encode())) as box:
        url = f"mailto://ada:{SECRET}@127.0.0.1:{box.port}?from=mlops@example.com&to=ops@example.com"
        delivery = quick(MESSAGE, url)
    assert delivery == Delivery(sent=["mailto 127.0.0.1"])
    (mail,) = box.mails
    assert mail["Subject"] == "cost-prod: rolled back" and mail["To"] == "ops@example.com"
    assert mail["From"] == "mlops@example.com"
    assert mail.get_content().strip().splitlines() == MESSAGE.body.splitlines()


def test_mail_to_somebody_unknown_is_an_entry_in_failed() -> None:
    with mailbox() as box:
        url = f"mailto://127.0.0.1:{box.port}?from=mlops@example.com&to=nobody@example.com"
        delivery = quick(MESSAGE, url)
    assert delivery == Delivery(failed=[f"mailto 127.0.0.1: {REFUSED}"]) and not box.mails


@pytest.mark.parametrize("kind", ["info", "warning", "failure"])
def test_webhook_arrives_and_no_command_line_shows_its_url(kind: notifications.Kind) -> None:
    message = MESSAGE.model_copy(update={"kind": kind})
    with site(200) as hook:
        delivery = quick(message, f"json://127.0.0.1:{hook.port}/{SECRET}?-token={SECRET}")
    assert delivery == Delivery(sent=["json 127.0.0.1"])
    (request,) = hook.requests
    assert request.path == f"/{SECRET}?token={SECRET}"
    content = request.content
    assert (content["title"], content["message"], content["type"]) == (
        "cost-prod: rolled back",
        message.body,
        kind,
    )
    assert any("brookside_mlops.notifications" in words for words in request.processes)
    assert SECRET not in str(request.processes)


def test_apprise_in_this_process_would_have_logged_the_url(caplog: pytest.LogCaptureFixture) -> None:
    with site(200) as hook:
        assert notifications._deliver(f"json://127.0.0.1:{hook.port}/{SECRET}", MESSAGE) == notifications.SENT
    assert SECRET in caplog.text and {"apprise", "urllib3.connectionpool"} <= {
        record.name for record in caplog.records if SECRET in record.getMessage()
    }
    caplog.clear()


def test_process_that_logs_everything_is_not_heard(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site may set up logging for each Python process; the fixture sees that nothing of it comes out."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text("import logging\nlogging.basicConfig(level=1)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    with site(200) as hook:
        assert quick(MESSAGE, f"json://127.0.0.1:{hook.port}/{SECRET}").sent


def test_all_channels_are_told_though_others_fail() -> None:
    with mailbox() as box, site(200) as hook, site(404) as gone:
        delivery = quick(
            MESSAGE,
            f"json://127.0.0.1:{closed_port()}/{SECRET}\n",
            f"mailto://127.0.0.1:{box.port}?from=mlops@example.com&to=ops@example.com\t",
            f"form://127.0.0.1:{gone.port}",
            SECRET,
            f"json://127.0.0.1:{hook.port}/{SECRET}",
            f"ada:{SECRET}@example.com",
            "mailto://",
        )
    assert delivery.sent == ["mailto 127.0.0.1", "json 127.0.0.1 (number 5)"]
    assert delivery.failed == [
        f"json 127.0.0.1 (number 1): {REFUSED}",
        f"form 127.0.0.1: {REFUSED}",
        f"unknown (number 4): {UNUSABLE}",
        f"unknown (number 6): {UNUSABLE}",
        f"mailto: {UNUSABLE}",
    ]
    assert len(box.mails) == len(hook.requests) == 1


def test_nothing_configured_is_an_empty_delivery() -> None:
    assert notify(MESSAGE, {}) == notify(MESSAGE, {VARIABLE: " \n"}) == Delivery() and channels({}) == []


# Tries and time


def test_refusal_is_tried_again_after_one_and_two_seconds() -> None:
    waits: list[float] = []
    with site(500, 503, 200) as hook:
        assert quick(MESSAGE, f"json://127.0.0.1:{hook.port}", waits=waits).sent == ["json 127.0.0.1"]
    assert waits == [1, 2] and len(hook.requests) == 3


def test_tries_end_after_the_third() -> None:
    waits: list[float] = []
    with site(500) as hook:
        delivery = quick(MESSAGE, f"json://127.0.0.1:{hook.port}/{SECRET}", waits=waits)
    assert delivery.failed == [f"json 127.0.0.1: {REFUSED}"] and len(hook.requests) == 3 and waits == [1, 2]


def test_malformed_url_is_not_tried_again() -> None:
    waits: list[float] = []
    assert not quick(MESSAGE, f"slack://{SECRET}", waits=waits).sent and waits == []


@pytest.mark.parametrize("scheme", ["json", "mailto"])
def test_server_that_never_answers_ends_with_the_time_of_its_channel(scheme: str) -> None:
    waits: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/{SECRET}?rto=9999&cto=9999&from=a@example.com&to=b@example.com"
        delivery = quick(MESSAGE, url, waits=waits, limit=2.0)
    assert delivery == Delivery(failed=[f"{scheme} 127.0.0.1: no answer in time"]) and waits == []
    assert not [words for words in command_lines() if "brookside_mlops.notifications" in words]


def test_tries_share_the_time_of_their_channel_and_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    given: list[float] = []

    def refuse(url: object, message: object, seconds: float) -> str:
        given.append(seconds)
        now[0] += 11
        return REFUSED

    monkeypatch.setattr(notifications, "_try", refuse)
    monkeypatch.setattr(notifications.time, "monotonic", lambda: now[0])
    channel = notifications.configured({VARIABLE: "json://127.0.0.1"})[0]
    assert notifications._send(channel, MESSAGE, 20.0, lambda wait: None) == REFUSED
    assert given == [20.0, 9.0]


def test_no_process_to_be_had_is_an_entry_in_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifications.sys, "executable", "/nowhere/python")
    delivery = quick(MESSAGE, f"json://127.0.0.1/{SECRET}")
    assert delivery.failed == ["json 127.0.0.1: no process could be started: No such file or directory"]


# Names


@pytest.mark.parametrize(
    ("url", "name"),
    [
        (f"mailto://ada:{SECRET}@smtp.example.com", "mailto smtp.example.com"),
        (f"MAILTOS://ada:{SECRET}@SMTP.example.com:587/?to=a@example.com", "mailtos smtp.example.com"),
        (f"json://{SECRET}:{SECRET}@localhost/{SECRET}", "json localhost"),
        (f"jsons://[fe80::1]/{SECRET}", "jsons fe80::1"),
        (f"https://hooks.slack.com/services/{SECRET}", "https hooks.slack.com"),
        (f"workflows://prod.logic.azure.com:443/{SECRET}/{SECRET}", "workflows prod.logic.azure.com"),
        (f"slack://{SECRET}.a/b/c", "slack"),
        (f"tgram://{SECRET}.a:b/c", "tgram"),
        (f"discord://{SECRET}.a/b", "discord"),
        (f"ntfy://{SECRET}.a", "ntfy"),
        (f"mailto://a.b:12/{SECRET}@smtp.example.com", "mailto"),
        (f"mailto://a.b:12?{SECRET}@smtp.example.com", "mailto"),
        (f"mailto://a.b:12#{SECRET}@smtp.example.com", "mailto"),
        (f"mailto://a.b:{SECRET}", "mailto"),
        (f"json://{SECRET}", "json"),
        (f"json://[{SECRET}", "json"),
        (f"{SECRET}://smtp.example.com", "unknown"),
        (f"mailto:ada:{SECRET}@smtp.example.com", "unknown"),
    ],
)
def test_name_shows_a_host_only_where_it_is_one(url: str, name: str) -> None:
    assert safe_name(url) == name


def test_channels_of_one_name_are_told_apart() -> None:
    urls = "slack://a/b/c json://h.example.com/1 slack://d/e/f x json://g.example.com json://h.example.com/2"
    assert channels({VARIABLE: urls}) == [
        "slack (number 1)",
        "json h.example.com (number 2)",
        "slack (number 3)",
        "unknown (number 4)",
        "json g.example.com",
        "json h.example.com (number 6)",
    ]


SEPARATORS = st.sampled_from(
    ["://", ":", "/", "//", "@", "?", "&", "=", "#", "%", "%40", "%2F", "\\", "[", "]", ";", "??", "@@", "+"]
)
WORDS = st.sampled_from(
    [SECRET, SECRET, "ada", "127.0.0.1", "localhost", "smtp.example.com", "25", "to", "é", "\udcff", "\0"]
)
SCHEMES = st.sampled_from(
    ["mailto", "json", "slack", "https", "tgram", "matrix", "gotify", SECRET, "", "JSON", "ü"]
)


@st.composite
def mangled(draw: st.DrawFn) -> str:
    """A URL with a secret in it somewhere, put together wrongly as a rule."""
    words = draw(st.lists(WORDS, min_size=1, max_size=7))
    url = draw(SCHEMES) + draw(st.sampled_from(["://", "://", "://", ":", ""]))
    return url + "".join(word + draw(SEPARATORS) for word in [*words, SECRET])


@settings(max_examples=1500, deadline=None)
@given(st.lists(mangled() | st.text(max_size=40), max_size=3))
@example([f"json://{SECRET}@{SECRET}@127.0.0.1:{SECRET}"])
def test_no_name_raises_or_shows_a_secret(urls: list[str]) -> None:
    environ = {VARIABLE: " ".join(urls)}
    for name in channels(environ):
        assert SECRET not in name
        assert re.fullmatch(r"[a-z0-9]+( [a-z0-9.:-]+)?( \(number \d+\))?", name), name
    assert SECRET not in repr(notifications.configured(environ))


LOCAL = st.sampled_from(["json://", "mailto://", "form://", "slack:/", "nothing://", "", "https:/"])


@settings(max_examples=12, deadline=None)
@given(LOCAL, st.lists(st.tuples(SEPARATORS, WORDS), max_size=4), st.text(max_size=20), st.text(max_size=20))
def test_malformed_url_and_any_text_end_in_a_delivery(
    scheme: str, rest: list[tuple[str, str]], title: str, body: str
) -> None:
    url = f"{scheme}127.0.0.1:1" + "".join(one + other for one, other in rest)
    delivery = quick(Message(title=title, body=body), f"{url}{SECRET}")
    (fault,) = delivery.failed
    assert not delivery.sent and SECRET not in fault and fault.endswith((REFUSED, UNUSABLE))


def test_any_title_and_body_arrive_as_they_are() -> None:
    strange = Message(title="=?utf-8?q?x?= \u202e \x00 é", body="\x1b[31m \x00 {body} %s <b>\n.\n\nQUIT")
    with site(200) as hook:
        assert quick(strange, f"json://127.0.0.1:{hook.port}").sent
    content = hook.requests[0].content
    assert content["message"].split() == strange.body.split()
    assert content["title"] == strange.title


# The verb


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["notify", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert SECRET not in result.output
    return result.exit_code, result.output


def test_verb_says_which_channels_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with site(200) as hook:
        good = f"json://127.0.0.1:{hook.port}/{SECRET}"
        monkeypatch.setenv(VARIABLE, good)
        assert call("--test") == (0, "sent    json 127.0.0.1\n")
        assert hook.requests[0].content["title"] == "brookside-mlops: a test message"
        monkeypatch.setenv(VARIABLE, f"{good} slack://{SECRET}")
        assert call("--test") == (1, f"sent    json 127.0.0.1\nfailed  slack: {UNUSABLE}\n")
        code, output = call("--test", "--json")
        assert code == 1 and json.loads(output) == {
            "sent": ["json 127.0.0.1"],
            "failed": [f"slack: {UNUSABLE}"],
        }
        sent = len(hook.requests)
        code, output = call()
        assert code == 0 and output.splitlines()[:2] == ["json 127.0.0.1", "slack"]
        assert json.loads(call("--json")[1]) == ["json 127.0.0.1", "slack"] and len(hook.requests) == sent


@pytest.mark.parametrize("value", [None, " "])
def test_verb_without_channels_ends_in_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    code, output = call("--test")
    assert code == 2 and "BROOKSIDE_NOTIFY names no channel" in output and "mailtos://" in output


def test_logging_of_this_process_is_left_as_it_was() -> None:
    before = (logging.root.manager.disable, logging.getLogger("apprise").level, logging.root.level)
    quick(MESSAGE, f"json://127.0.0.1:{closed_port()}")
    assert (logging.root.manager.disable, logging.getLogger("apprise").level, logging.root.level) == before
