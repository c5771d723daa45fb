"""An incident is written down and told, and nothing that fails on the way raises or shows a secret."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops import incidents
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.errors import InputError
from brookside_mlops.incidents import GitHub, Incident, NotTold, github, incident_text, open_incident
from brookside_mlops.notifications import VARIABLE
from tests.receivers import mailbox, site

SECRET = "hunter2secret"
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
INCIDENT = Incident(
    endpoint="cost-prod",
    title="cost-prod lost availability; blue serves again",
    reason="availability 93.10 % over 10 min, at least 99.00 % is asked",
    at=AT,
    facts={
        "deployments": "blue: version 6, green: version 7",
        "traffic before": "blue 90 %, green 10 %",
        "traffic after": "blue 100 %",
        "unavailable": "69 of 1000 requests",
    },
    moves=["green 10 %, blue 90 %", "abort: availability", "blue 100 %"],
    next_steps=["read the end of the log", "fix version 7"],
)
ISSUE = "https://github.com/ada/models/issues/7"
OPENED = json.dumps({"html_url": ISSUE, "number": 7}).encode()


@pytest.fixture(autouse=True)
def no_leak(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[None]:
    """Hold every test to it: the secret is in no log at any level, no output and no file."""
    caplog.set_level(1)
    yield
    output = capfd.readouterr()
    assert SECRET not in caplog.text + output.out + output.err
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def environ(port: int, **others: str) -> dict[str, str]:
    """Return the environment of a GitHub on loopback."""
    return {
        "BROOKSIDE_GITHUB_REPOSITORY": "ada/models",
        "BROOKSIDE_GITHUB_TOKEN": SECRET,
        "BROOKSIDE_GITHUB_API": f"http://127.0.0.1:{port}/api/v3/",
        **others,
    }


def opened(state: Path, surroundings: dict[str, str], waits: list[float] | None = None, **more: Any) -> Any:
    """Open the incident without waiting between tries."""
    kept = [] if waits is None else waits
    return open_incident(state, INCIDENT, surroundings, sleep=kept.append, **more)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# Where everything works


def test_incident_is_written_mailed_and_an_issue(tmp_path: Path) -> None:
    EndpointState(tmp_path, "cost-prod").create()
    log = EndpointState(tmp_path, "cost-prod").log
    log.write_text("worker green died\n")
    with mailbox() as box, site(201, answer=OPENED) as hub:
        mail = f"mailto://127.0.0.1:{box.port}?from=mlops@example.com&to=ops@example.com"
        found = opened(tmp_path, environ(hub.port, **{VARIABLE: mail}))
    assert found.path == tmp_path / "incidents" / "20260102T030405Z-cost-prod.md"
    assert found.issue_url == ISSUE and found.problems == [] and found.delivery.sent == ["mailto 127.0.0.1"]

    text = found.path.read_text()
    facts = [f"| {name} | {value} |" for name, value in INCIDENT.facts.items()]
    for said in (
        f"# {INCIDENT.title}",
        INCIDENT.reason,
        "| when | 2026-01-02 03:04:05 UTC |",
        "| endpoint | cost-prod |",
        *facts,
        "1. green 10 %, blue 90 %",
        "2. abort: availability",
        "- [ ] fix version 7",
        f"- `{log}`",
        "- told mailto 127.0.0.1",
        f"- opened {ISSUE}",
    ):
        assert said in text.splitlines(), said

    (received,) = box.mails
    assert received["Subject"] == INCIDENT.title
    body = received.get_content()
    assert all(
        said in body
        for said in (INCIDENT.reason, "traffic before: blue 90 %", "- fix version 7", str(found.path))
    )
    (request,) = hub.requests
    assert request.path == "/api/v3/repos/ada/models/issues"
    assert request.headers["Authorization"] == f"Bearer {SECRET}"
    assert request.content["title"] == INCIDENT.title
    shared = text.partition("## Who was told")[0]
    assert request.content["body"].startswith(shared) and "told mailto" in request.content["body"]


def test_nothing_configured_is_a_file(tmp_path: Path) -> None:
    found = opened(tmp_path, {})
    assert (found.issue_url, found.delivery.sent, found.problems) == ("", [], [])
    assert "- no channel is configured" in found.path.read_text()
    assert [path.name for path in (tmp_path / "incidents").iterdir()] == [found.path.name]


def test_logs_named_are_those_that_are_there(tmp_path: Path) -> None:
    assert incidents.logs(tmp_path, "cost-prod") == []
    (tmp_path / "audit.db").touch()
    assert incidents.logs(tmp_path, "cost-prod") == [str(tmp_path / "audit.db")]
    assert "This machine has none." in opened(tmp_path / "other", {}).path.read_text()


def test_incidents_of_one_second_keep_files_of_their_own(tmp_path: Path) -> None:
    elsewhere = INCIDENT.model_copy(
        update={"at": AT.astimezone(timezone(timedelta(hours=5))), "title": "two"}
    )
    paths = [open_incident(tmp_path, one, {}).path for one in (INCIDENT, elsewhere, INCIDENT)]
    names = [path.name for path in paths if path]
    stem = "20260102T030405Z-cost-prod"
    assert names == [f"{stem}.md", f"{stem}-2.md", f"{stem}-3.md"]
    assert paths[1] and paths[1].read_text().startswith("# two\n")


def test_name_that_no_endpoint_can_have_is_refused_before_anything(tmp_path: Path) -> None:
    outside = INCIDENT.model_copy(update={"endpoint": "../../cost"})
    with pytest.raises(InputError, match="3 to 32 of a-z"):
        open_incident(tmp_path, outside, {})
    assert not list(tmp_path.iterdir())


# GitHub that fails


def test_issue_is_tried_again_after_a_fault_of_the_server(tmp_path: Path) -> None:
    waits: list[float] = []
    with site(500, 502, 201, answer=OPENED) as hub:
        found = opened(tmp_path, environ(hub.port), waits)
    assert found.issue_url == ISSUE and len(hub.requests) == 3 and waits == [1, 2]


@pytest.mark.parametrize(
    ("status", "answer", "tries", "reason"),
    [
        (500, b"{}", 3, "GitHub answered 500 Internal Server Error"),
        (599, b"{}", 3, "GitHub answered 599"),
        (401, SECRET.encode(), 1, "GitHub answered 401 Unauthorized"),
        (404, b"{}", 1, "GitHub answered 404 Not Found"),
        (302, b"{}", 1, "GitHub answered 302 Found"),
        (200, OPENED, 1, "GitHub answered 200 OK"),
        (201, b"<html>", 1, "GitHub answered 201 without the address of an issue"),
        (201, b"[]", 1, "GitHub answered 201 without the address of an issue"),
        (201, b'{"html_url": "x\\ud800"}', 1, "GitHub answered 201 without the address of an issue"),
    ],
)
def test_answer_that_is_no_issue_is_written_into_the_file(
    tmp_path: Path, status: int, answer: bytes, tries: int, reason: str
) -> None:
    location = {"location": "http://127.0.0.1:1/elsewhere"} if status == 302 else {}
    with site(status, answer=answer, headers=location) as hub:
        found = opened(tmp_path, environ(hub.port))
    assert found.issue_url == "" and found.problems == [f"could not tell GitHub: {reason}"]
    assert f"- could not tell GitHub: {reason}" in found.path.read_text().splitlines()
    assert len(hub.requests) == tries


def test_refused_connection_is_tried_again_and_written_into_the_file(tmp_path: Path) -> None:
    waits: list[float] = []
    found = opened(tmp_path, environ(closed_port()), waits)
    assert found.problems == ["could not tell GitHub: no connection to GitHub"] and waits == [1, 2]
    assert "- could not tell GitHub: no connection to GitHub" in found.path.read_text()


def test_github_that_hangs_is_given_up_and_not_asked_twice(tmp_path: Path) -> None:
    waits: list[float] = []
    with site(0) as hub:
        found = opened(tmp_path, environ(hub.port), waits, seconds=0.5)
    assert found.problems == ["could not tell GitHub: no answer of GitHub within 0.5 s"] and waits == []


def test_channel_that_fails_is_written_into_the_file(tmp_path: Path) -> None:
    url = f"json://127.0.0.1:{closed_port()}/{SECRET} ada:{SECRET}@example.com"
    with site(201, answer=OPENED) as hub:
        found = opened(tmp_path, environ(hub.port, **{VARIABLE: url}))
    assert found.issue_url == ISSUE and len(found.problems) == 2
    said = "- could not tell json 127.0.0.1: it did not take the message"
    assert said in found.path.read_text().splitlines()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"BROOKSIDE_GITHUB_TOKEN": ""}, "BROOKSIDE_GITHUB_TOKEN is empty"),
        ({"BROOKSIDE_GITHUB_TOKEN": f"{SECRET}\n"}, "BROOKSIDE_GITHUB_TOKEN is empty or has characters"),
        ({"BROOKSIDE_GITHUB_TOKEN": f"{SECRET}é"}, "BROOKSIDE_GITHUB_TOKEN is empty or has characters"),
        ({"BROOKSIDE_GITHUB_REPOSITORY": ""}, "BROOKSIDE_GITHUB_REPOSITORY is not OWNER/NAME"),
        ({"BROOKSIDE_GITHUB_REPOSITORY": f"a/b/{SECRET}"}, "BROOKSIDE_GITHUB_REPOSITORY is not OWNER/NAME"),
        ({"BROOKSIDE_GITHUB_REPOSITORY": "a/b?x"}, "BROOKSIDE_GITHUB_REPOSITORY is not OWNER/NAME"),
        ({"BROOKSIDE_GITHUB_API": f"http://{SECRET}.example.com"}, "BROOKSIDE_GITHUB_API is not an https"),
        ({"BROOKSIDE_GITHUB_API": f"https://a:{SECRET}@example.com"}, "BROOKSIDE_GITHUB_API is not an https"),
        ({"BROOKSIDE_GITHUB_API": f"https://example.com/{SECRET}\udcff"}, "BROOKSIDE_GITHUB_API is not an"),
        ({"BROOKSIDE_GITHUB_API": f"https://[{SECRET}"}, "BROOKSIDE_GITHUB_API is not an https"),
        ({"BROOKSIDE_GITHUB_API": f"https://localhost:{SECRET}"}, "the request to GitHub failed: InvalidURL"),
    ],
)
def test_wrong_configuration_is_a_reason_that_shows_no_value(
    tmp_path: Path, wrong: dict[str, str], reason: str
) -> None:
    found = opened(tmp_path, environ(1) | wrong)
    (problem,) = found.problems
    assert problem.startswith(f"could not tell GitHub: {reason}") and SECRET not in repr(found)
    assert problem in found.path.read_text()


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f"BROOKSIDE_GITHUB_{name}" for name in ("REPOSITORY", "TOKEN", "API")]),
        st.builds(lambda one, other: f"{one}{SECRET}{other}", st.text(), st.text())
        | st.sampled_from(["ada/models", "https://", f"https://{SECRET}:x", "http://[::1]"]),
    )
)
def test_any_configuration_is_taken_or_refused_without_its_values(values: dict[str, str]) -> None:
    try:
        found = github(values)
    except NotTold as reason:
        assert SECRET not in str(reason)
    else:
        assert found is None or isinstance(found, GitHub)
        assert found is None or "token=SecretStr('**********')" in repr(found)


def test_token_goes_nowhere_but_to_the_configured_address(tmp_path: Path) -> None:
    with site(201, answer=OPENED) as other:
        location = {"location": f"http://127.0.0.1:{other.port}/"}
        with site(307, headers=location) as hub:
            opened(tmp_path, environ(hub.port))
    assert len(hub.requests) == 1 and not other.requests


# The disk


def test_folder_that_cannot_be_made_costs_the_file_and_people_are_still_told(tmp_path: Path) -> None:
    (tmp_path / "incidents").write_text("a file where the folder should be")
    with site(200) as hook, site(201, answer=OPENED) as hub:
        url = f"json://127.0.0.1:{hook.port}/{SECRET}"
        found = opened(tmp_path, environ(hub.port, **{VARIABLE: url}))
    assert found.path is None and found.issue_url == ISSUE
    (problem,) = found.problems
    assert problem.startswith(f"could not write {tmp_path}/incidents/") and problem.endswith(": File exists")
    content = hook.requests[0].content
    assert "could not write" in content["message"] and content["type"] == "failure"


def test_full_disk_costs_the_file_and_leaves_no_part_of_it(tmp_path: Path) -> None:
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom brookside_mlops import incidents\n"
        "incident = incidents.Incident.model_validate_json(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "print(incidents.open_incident(Path(sys.argv[1]), incident, {}).model_dump_json())\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), INCIDENT.model_dump_json()]
    found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    assert found["path"] is None and found["problems"][0].endswith(": File too large")
    assert list((tmp_path / "incidents").iterdir()) == []


def test_incident_is_on_disk_before_anybody_is_told(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom brookside_mlops import incidents\n"
        "incidents.notify = lambda *words, **more: os.kill(os.getpid(), 9)\n"
        "incident = incidents.Incident.model_validate_json(sys.argv[2])\n"
        "incidents.open_incident(Path(sys.argv[1]), incident)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), INCIDENT.model_dump_json()]
    assert subprocess.run(words, check=False).returncode == -9
    (path,) = (tmp_path / "incidents").iterdir()
    assert path.read_text() == incident_text(INCIDENT, [], [])
    assert path.read_text().endswith("## Who was told\n\nNobody yet.\n")


def test_folder_with_a_name_that_is_not_utf8_is_written_to(tmp_path: Path) -> None:
    state = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    EndpointState(state, "cost-prod").create()
    EndpointState(state, "cost-prod").log.touch()
    found = opened(state, {})
    assert found.path.exists() and found.problems == [] and "/?/endpoints" in found.path.read_text()


# The text


def test_long_text_is_cut_to_what_github_takes(tmp_path: Path) -> None:
    long = INCIDENT.model_copy(update={"title": "t" * 1000, "moves": ["m" * 1000] * 100})
    with site(201, answer=OPENED) as hub:
        assert open_incident(tmp_path, long, environ(hub.port)).issue_url == ISSUE
    content = hub.requests[0].content
    assert (len(content["title"]), len(content["body"])) == (256, 65_536)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), st.text()), st.lists(st.text()), st.text())
def test_no_text_breaks_the_table_or_adds_a_section(
    facts: dict[str, str], moves: list[str], title: str
) -> None:
    incident = INCIDENT.model_copy(
        update={"facts": facts, "moves": moves, "title": title, "next_steps": moves}
    )
    lines = incident_text(incident, [], []).split("\n")
    rows = [line for line in lines if line.startswith("| ")]
    assert len(rows) == 2 + len({"when", "endpoint", *facts}) and all(
        len(re.split(r"(?<!\\)(?:\\\\)*\|", row)) == 4 for row in rows
    )
    sections = [line for line in lines if line.startswith("## ")]
    assert len(sections) == 4 and lines[0].startswith("#")
    assert sum(line.startswith("- [ ] ") for line in lines) == len(moves)


def test_incident_is_kept_whole_in_a_folder_of_its_own() -> None:
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "not" / "there" / "yet"
        found = opened(state, {})
        assert found.path is not None and found.path.parent == state / "incidents"
