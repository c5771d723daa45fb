"""A failed deployment makes one work item in Azure Boards: over HTTPS, against a service on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.errors import InputError
from brookside_mlops.work_items import Boards, BoardsError, Failure, board_of, link_of
from tests.devops_server import DevOps, devops

FAILURE = Failure("viability-prod", "prod", "smoke_test: P95 2,400 ms, required <= 2000 ms")


@dataclass
class Job:
    """A job of Azure Pipelines: the service, its variables, and how long was waited."""

    service: DevOps
    environ: dict[str, str]
    waits: list[float]

    def boards(self) -> Boards:
        return Boards(board_of(self.environ), self.waits.append)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    with devops(tmp_path) as (service, environ):
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield Job(service, environ, [])


def test_failure_opens_an_item_that_says_what_failed(job: Job) -> None:
    number, new = job.boards().report(FAILURE)
    assert new and list(job.service.items) == [number]
    item = job.service.items[number]
    assert item["System.Title"] == "Deployment of viability-prod to prod failed"
    assert "required &lt;= 2000 ms" in item["System.Description"]
    assert item["System.Tags"] == "brookside-mlops; failed viability-prod"


def test_open_item_is_added_to_and_none_is_made(job: Job) -> None:
    first, _ = job.boards().report(FAILURE)
    job.service.items[first]["System.Title"] = "renamed by a person"
    second, new = job.boards().report(FAILURE)
    assert (second, new) == (first, False) and len(job.service.items) == 1
    assert "It failed again" in job.service.items[first]["System.History"]


def test_closed_item_and_one_of_another_endpoint_are_left_alone(job: Job) -> None:
    first, _ = job.boards().report(FAILURE)
    job.service.items[first]["System.State"] = "Done"
    other, _ = job.boards().report(Failure("o'clock-prod", "prod", "late"))
    again, new = job.boards().report(FAILURE)
    assert new and len({first, other, again}) == 3
    assert job.boards().report(Failure("o'clock-prod", "prod", "late")) == (other, False)


def test_refused_token_is_said_and_not_shown(job: Job) -> None:
    job.environ["SYSTEM_ACCESSTOKEN"] = "wrong-token-987"
    with pytest.raises(InputError, match=r"does not take the token in SYSTEM_ACCESSTOKEN \(203\)") as caught:
        job.boards().report(FAILURE)
    assert "wrong-token-987" not in str(caught.value) and not job.service.items and not job.waits


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "does not take the token"), (302, "does not take the token"), (403, "Boards, Areas")],
)
def test_other_refusals_say_what_to_do(job: Job, status: int, said: str) -> None:
    job.service.first = [(status, {"Location": "https://login.example"}, False)]
    with pytest.raises(InputError, match=said):
        job.boards().report(FAILURE)


def test_unknown_type_of_item_is_named(job: Job) -> None:
    with pytest.raises(InputError, match="--type Issue in the Basic process"):
        job.boards().report(FAILURE, "Defect")


def test_busy_service_is_asked_again_after_as_long_as_it_says(job: Job) -> None:
    job.service.first = [(429, {"Retry-After": "7"}, False), (503, {}, False)]
    assert job.boards().report(FAILURE)[1]
    assert job.waits == [7.0, 4.0]


def test_item_whose_answer_was_lost_is_not_made_twice(job: Job) -> None:
    boards = job.boards()
    ask = boards.ask

    def lose(doing: str, request: object) -> dict[str, object]:
        if doing.startswith("new"):
            job.service.first = [(502, {}, True)]  # the service made it; who asked was told nothing
        return ask(doing, request)  # type: ignore[arg-type]

    boards.ask = lose  # type: ignore[method-assign]
    number, _ = boards.report(FAILURE)
    assert list(job.service.items) == [number]


def test_service_that_stays_broken_is_an_error_of_the_service(job: Job) -> None:
    job.service.first = [(500, {}, False)] * 9
    with pytest.raises(BoardsError, match="Azure DevOps says 500: not now"):
        job.boards().report(FAILURE)
    assert len(job.service.asked) == 5


def test_certificate_that_nobody_vouches_for_is_not_trusted(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(BoardsError, match=r"CERTIFICATE_VERIFY_FAILED|certificate"):
        job.boards().report(FAILURE)
    assert not job.service.asked


def test_verbs_report_and_retain(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for said in ("work item 100: opened", "work item 100: was open"):
        ended = CliRunner().invoke(app, ["ci", "work-item"])
        assert ended.exit_code == 0 and said in ended.output, ended.output
    assert "before there was a run in prod" in job.service.items[100]["System.Description"]
    assert "_build/results?buildId=41" in link_of(job.environ)
    ended = CliRunner().invoke(app, ["ci", "retain", "--days", "90"])
    assert ended.exit_code == 0 and "kept until 2027-11-28" in ended.output
    assert job.service.leases[0]["daysValid"] == 90 and job.service.leases[0]["runId"] == 41
    ended = CliRunner().invoke(app, ["ci", "retain", "--days", "0"])
    assert ended.exit_code == 2
