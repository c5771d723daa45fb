"""The smoke test: questions, golden rows, the service level of each environment, the knee, and the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from brookside_mlops.bundle import Bundle, BundleInfo
from brookside_mlops.cli import app
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import Answer
from brookside_mlops.errors import InputError
from brookside_mlops.golden import GOLDEN, golden_of, golden_rows, signature_of_table
from brookside_mlops.load import Category, Outcome, Summary, summarise
from brookside_mlops.payload import PayloadError, parse_payload
from brookside_mlops.results import worst
from brookside_mlops.runs import Run
from brookside_mlops.service_level import (
    MOST_RATE,
    ServiceLevel,
    find_knee,
    held_rate,
    judge,
    load_check,
    next_rate,
    service_level,
    step_of,
)
from brookside_mlops.settings import ENVIRONMENTS, read_settings
from brookside_mlops.smoke import NO_ANSWER, TRIES, ask, ask_all, format_fault, questions
from brookside_mlops.stages.smoke_test import (
    RESULTS,
    Plan,
    SmokeReport,
    Subject,
    examine,
    knee_picture,
    latency_picture,
    plan_of,
    superseded,
)
from brookside_mlops.target import KEY_VARIABLE, Target, target_of
from tests.servers import http, serving

ROOT = Path(__file__).resolve().parent.parent
RUNNER = CliRunner()
Trained = Callable[[str], Run]
LEVEL = ServiceLevel(p50_ms=500, p95_ms=2000, p99_ms=3000, min_success=0.95)
CATEGORIES: tuple[Category, ...] = ("ok", "connect", "timeout", "4xx", "5xx", "format", "mismatch")


def opened(run: Run) -> Bundle:
    return Bundle.open(run.folder / "bundle")


# The form of answers


@pytest.mark.parametrize("usecase", ["viability", "cost", "patterns"])
def test_answers_of_every_bundle_fit_its_signature(usecase: str, trained: Trained) -> None:
    run = trained(usecase)
    bundle = opened(run)
    rows = golden_rows(run.path("test.parquet"), bundle.info, bundle)
    answers = [answer for one in rows.requests for answer in one.expected or ()]
    assert len(answers) == len(rows.requests) > 50
    assert format_fault(bundle.info, answers, len(answers)) == ""
    assert "answers for" in format_fault(bundle.info, answers, len(answers) + 1)
    assert "answer 1" in format_fault(bundle.info, [answers[0], "a word"], 2)


CLASSES = BundleInfo(
    usecase="v", task="classification", columns=(), classes=("no", "yes"), score=True, sha256=""
)
PLAIN = CLASSES.model_copy(update={"score": False})
CLUSTERS = BundleInfo(usecase="p", task="clustering", columns=(), sha256="")
COST = BundleInfo(usecase="c", task="regression", columns=(), sha256="")
GOOD = {"class": "yes", "probability": 0.5, "score": 50.0}


@pytest.mark.parametrize(
    ("signature", "answer", "said"),
    [
        (CLASSES, GOOD, ""),
        (CLASSES, GOOD | {"probability": 1, "score": 100}, ""),
        (CLASSES, GOOD | {"score": 100.1}, "score"),
        (CLASSES, GOOD | {"probability": -0.1}, "probability"),
        (CLASSES, GOOD | {"probability": True}, "probability"),
        (CLASSES, GOOD | {"probability": float("nan")}, "probability"),
        (CLASSES, GOOD | {"class": "maybe"}, "'maybe' is not one"),
        (CLASSES, GOOD | {"class": ["yes"]}, "is not one"),
        (CLASSES, {"class": "yes", "probability": 0.5}, "class, probability, score"),
        (PLAIN, GOOD, "not an object with class, probability"),
        (CLASSES.model_copy(update={"classes": ()}), GOOD | {"class": "anything"}, ""),
        (CLASSES.model_copy(update={"classes": ()}), GOOD | {"class": 1}, "is not one"),
        (COST, 4.5, ""),
        (COST, None, ""),
        (COST, float("inf"), "not a number"),
        (COST, True, "not a number"),
        (CLUSTERS, {"cluster": 3}, ""),
        (CLUSTERS, {"cluster": -1}, "cluster"),
        (CLUSTERS, {"cluster": 1.0}, "cluster"),
        (CLUSTERS, {"cluster": True}, "cluster"),
    ],
)
def test_what_is_wrong_with_the_form_of_an_answer_is_said(
    signature: BundleInfo, answer: Any, said: str
) -> None:
    found = format_fault(signature, [answer], 1)
    assert said in found and bool(found) == bool(said)


# The rows


def test_golden_rows_know_the_answers_of_the_bundle(trained: Trained) -> None:
    run = trained("viability")
    bundle = opened(run)
    rows = golden_rows(run.path("test.parquet"), bundle.info, bundle)
    table = pd.read_parquet(run.path("test.parquet")).head(GOLDEN)
    columns = {
        column.name: [None if pd.isna(value) else value for value in table[column.name]]
        for column in bundle.info.columns
    }
    assert [one.expected for one in rows.requests] == [[answer] for answer in bundle.predict(columns)]
    assert all(one.rows == 1 for one in rows.requests)


def test_text_of_a_csv_is_read_as_the_bundle_names_it(tmp_path: Path) -> None:
    (tmp_path / "churn.csv").write_text(
        "branch,new,months,when,churn\n0042,1,3,2025-01-01,yes\n,0,,2025-01-02,no\n"
    )
    content = {"columns": [{"name": "branch", "kind": "category"}, {"name": "new", "kind": "boolean"}]}
    info = BundleInfo(usecase="churn", task="classification", sha256="", **content)
    rows = golden_rows(tmp_path / "churn.csv", info)
    data = [json.loads(one.body)["input_data"]["data"] for one in rows.requests]
    assert data == [[["0042", True]], [[None, False]]]
    with pytest.raises(InputError, match="no column 'region'"):
        missing = {"columns": [{"name": "region", "kind": "category"}]}
        golden_rows(tmp_path / "churn.csv", BundleInfo(usecase="c", task="clustering", sha256="", **missing))
    (tmp_path / "none.csv").write_text("branch,new\n")
    with pytest.raises(InputError, match=r"none\.csv"):
        golden_rows(tmp_path / "none.csv", info)


def test_signature_of_a_table_is_that_of_the_use_case(trained: Trained, tmp_path: Path) -> None:
    run = trained("cost")
    found = signature_of_table(run.path("test.parquet"), run.project, run.usecase)
    known = opened(run).info
    assert {one.name: one.kind for one in found.columns} == {one.name: one.kind for one in known.columns}
    assert (found.task, found.classes, found.score) == (known.task, (), known.score)
    pd.DataFrame({"cost": [1.0]}).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(InputError, match="regulated"):
        signature_of_table(tmp_path / "other.csv", run.project, run.usecase)


# The service level


def summary_of(kinds: list[Category], seconds: float = 0.01, rate: float = 50) -> Summary:
    return summarise([Outcome(n / rate, seconds, kind) for n, kind in enumerate(kinds)], rate)


def failed(summary: Summary) -> set[str]:
    return {check.name for check in judge(summary, LEVEL) if check.verdict == "fail"}


def test_environments_promise_what_the_mission_says() -> None:
    found = {name: service_level(read_settings(ROOT, name, "viability")[0]) for name in ENVIRONMENTS}
    assert {name: tuple(one.model_dump().values()) for name, one in found.items()} == {
        "dev": (500, 3000, 5000, 0.90),
        "staging": (800, 2500, 4000, 0.95),
        "prod": (500, 2000, 3000, 0.95),
    }
    settings = read_settings(ROOT, "prod", "viability")[0]
    assert (settings.smoke_rate, settings.smoke_seconds) == (50, 4)


@pytest.mark.parametrize("category", CATEGORIES[1:])
def test_few_errors_are_within_the_level_but_no_wrong_answer_is(category: Category) -> None:
    one = failed(summary_of([category] + ["ok"] * 99, seconds=0.01))
    many = failed(summary_of([category] * 6 + ["ok"] * 94, seconds=0.01))
    assert one == {"format": {"response format"}, "mismatch": {"predictions"}}.get(category, set())
    assert "success rate" in many
    assert ("availability" in many) == (category in ("connect", "timeout", "5xx"))
    (said,) = (check for check in judge(summary_of([category] * 6), LEVEL) if check.name == "success rate")
    assert f"6 {category}" in said.measured_text() and said.next_step


@pytest.mark.parametrize(("seconds", "percentiles"), [(0.5, 0), (0.51, 1), (2.1, 2), (3.1, 3)])
def test_each_percentile_has_its_limit(seconds: float, percentiles: int) -> None:
    assert len(failed(summary_of(["ok"] * 100, seconds))) == percentiles


def test_nothing_answered_is_no_latency() -> None:
    found = {check.name: check.measured for check in judge(summary_of(["connect"] * 9), LEVEL)}
    assert found["P95 of one row"] == "no answer"
    assert failed(summary_of(["connect"] * 9)) == {
        *("availability", "success rate", "P50 of one row", "P95 of one row", "P99 of one row")
    }


# The knee


def service(
    capacity: float, stumbles: frozenset[int] = frozenset()
) -> tuple[Callable[[float], Summary], list[float]]:
    """Return steps of a service that makes so many answers a second and stumbles at some steps, and the rates it saw."""
    rates: list[float] = []

    def run_step(rate: float) -> Summary:
        rates.append(rate)
        extra = 5.0 if len(rates) in stumbles else 0.005
        ends = [max(n / rate, n / capacity) + extra for n in range(200)]
        return summarise([Outcome(n / rate, end - n / rate, "ok") for n, end in enumerate(ends)], rate)

    return run_step, rates


@given(st.floats(60, 4_000))
def test_rate_that_is_held_is_just_below_the_knee(capacity: float) -> None:
    run_step, rates = service(capacity)
    held = held_rate(find_knee(run_step, LEVEL, first=50))
    assert held <= capacity * 1.06 and held * 1.5 >= capacity * 0.99
    assert rates == sorted(rates) and rates[-1] == rates[-2]


@given(st.sets(st.integers(1, 9)).map(frozenset))
def test_one_stumble_does_not_end_a_load_test_and_two_do(stumbles: frozenset[int]) -> None:
    run_step, rates = service(1e9, stumbles)
    steps = find_knee(run_step, LEVEL, first=50)
    ended = next((n for n in range(1, len(rates)) if {n, n + 1} <= stumbles and rates[n - 1] == rates[n]), 0)
    assert bool(ended) == bool(steps[-1].broke)
    assert len(steps) == ended + 1 if ended else held_rate(steps) == MOST_RATE
    assert all(step.broke == "" for n, step in enumerate(steps, 1) if n not in stumbles)


def test_load_test_says_what_broke_and_whether_the_client_was_late() -> None:
    run_step, _ = service(120)
    steps = find_knee(run_step, LEVEL, first=50)
    check = load_check(steps, 50)
    assert (
        check.verdict == "pass"
        and "112/s; at 169/s: answers come at 71 % of" in check.measured_text().replace("%", " %")
    )
    assert load_check(steps, 200).verdict == "fail"
    late = steps[-1].summary.model_copy(update={"late_ms": steps[-1].summary.p99_ms})
    assert "client itself was late" in load_check([*steps[:-1], step_of(late, LEVEL)], 50).measured_text()
    nothing = find_knee(service(10)[0], LEVEL, first=50)
    assert held_rate(nothing) == 0 and load_check(nothing, 50).verdict == "fail"
    assert next_rate([], 50) == 50


# A server that can be asked


def answered(bundle: Bundle, body: bytes, refusal: int = 0) -> bytes:
    """Return the answer of an endpoint with a bundle; `refusal` is the status of every refused request, 0 for our own."""
    try:
        return http(200, json.dumps(bundle.predict(parse_payload(body, bundle.info.columns))).encode())
    except PayloadError as error:
        return http(refusal or error.status, error.body())


def test_failures_from_some_rate_on_end_the_load_test(trained: Trained) -> None:
    run = trained("cost")
    bundle = opened(run)
    example = json.dumps(bundle.example(run.folder / "bundle")).encode()
    rows = golden_of(example, bundle.info, bundle)
    # a second of 50 to warm up and 10 that count: 9 questions before, 69 after the smoke test, 129 after the first step
    with serving(lambda number, body: http(500) if number > 210 else answered(bundle, body)) as server:
        subject = Subject(Target(server.url, "key"), "here", run.folder / "bundle")
        report = examine(subject, rows, Plan(50, 0.2, True, LEVEL, step_seconds=0.2), "dev")
    assert report.summary.categories == {"ok": 10} and report.compared
    assert [step.summary.rate for step in report.steps] == [50, 75, 75]
    assert [bool(step.broke) for step in report.steps] == [False, True, True] and report.held_rate == 50
    assert "success rate" in report.steps[1].broke and "5xx" in report.steps[1].broke
    assert SmokeReport.model_validate_json(report.model_dump_json()) == report
    picture = knee_picture(report)
    assert picture is not None and "at 75 it breaks" in picture.alt and picture.png()


def test_every_category_is_drawn_and_no_load_test_is_no_picture(trained: Trained) -> None:
    outcomes = [Outcome(n / 10, 0.01, kind) for n, kind in enumerate(CATEGORIES)]
    shown = [(one.intended, 1000 * one.seconds, one.category) for one in outcomes]
    values = dict.fromkeys(("target", "environment", "at"), "") | {"golden_rows": 1, "compared": True}
    values |= {"seconds": 1.0, "level": LEVEL, "summary": summarise(outcomes, 10), "checks": [], "notes": {}}
    report = SmokeReport(**values, steps=[], held_rate=None, latencies=shown)  # type: ignore[arg-type]
    picture = latency_picture(report)
    assert "P95" in picture.alt and picture.png()
    legend = picture.axes[0].get_legend()
    assert legend and [text.get_text() for text in legend.get_texts()] == list(CATEGORIES)
    assert knee_picture(report) is None
    lost = report.model_copy(
        update={"summary": summary_of(["connect"] * 3), "latencies": [(0.0, 1.0, "connect")]}
    )
    assert "No answer came" in latency_picture(lost).alt and latency_picture(lost).png()


def test_endpoint_that_does_not_answer_is_not_asked_everything(trained: Trained) -> None:
    run = trained("cost")
    bundle = opened(run)
    with serving(lambda number, body: b"") as server:
        asked = questions(bundle, bundle.example(run.folder / "bundle"))
        checks = ask_all(Target(server.url, "key"), bundle, asked)
    assert len(checks) == 1 and checks[0].measured_text().startswith(NO_ANSWER) and worst(checks) == "fail"


def test_other_refusals_than_ours_are_a_warning(trained: Trained) -> None:
    run = trained("viability")
    bundle = opened(run)

    with serving(lambda number, body: answered(bundle, body, refusal=424)) as server:
        asked = questions(bundle, bundle.example(run.folder / "bundle"))
        checks = {one.name: one.verdict for one in ask_all(Target(server.url, "key"), bundle, asked)}
    assert checks.pop("a missing column is refused") == checks.pop("what is not JSON is refused") == "warning"
    assert checks.pop("a wrong key is refused") == "fail"  # this server takes any key
    assert set(checks.values()) == {"pass"}


@dataclass
class Busy:
    """An endpoint that is too busy for the first requests to a deployment, and says when to come back."""

    bundle: Bundle
    refuses: int
    status: int = 429
    retry_after: float | None = 0.0
    asked: int = 0

    def score(self, body: bytes, deployment: str = "", key: str | None = None) -> Answer:
        self.asked += 1
        content: Any = {"error": {"code": "too_many_requests"}}
        if self.asked <= self.refuses:
            return Answer(
                status=self.status, content=content, deployment="", seconds=0, retry_after=self.retry_after
            )
        content = self.bundle.predict(parse_payload(body, self.bundle.info.columns))
        return Answer(status=200, content=content, deployment=deployment, seconds=0)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("refuses", "verdict", "asked"), [(TRIES - 1, "pass", TRIES), (99, "fail", TRIES)])
def test_busy_endpoint_is_asked_again_a_few_times(
    trained: Trained, status: int, refuses: int, verdict: str, asked: int
) -> None:
    bundle = opened(trained("cost"))
    question = questions(bundle, bundle.example(trained("cost").folder / "bundle"))[0]
    endpoint = Busy(bundle, refuses, status)
    check = ask(endpoint, bundle, question, "green")
    assert (check.verdict, endpoint.asked) == (verdict, asked)
    if verdict == "fail":
        assert check.measured_text() == f"{status} too_many_requests"


def test_refusal_that_does_not_say_when_to_come_back_counts_at_once(trained: Trained) -> None:
    bundle = opened(trained("cost"))
    question = questions(bundle, bundle.example(trained("cost").folder / "bundle"))[0]
    endpoint = Busy(bundle, 1, retry_after=None)
    assert ask(endpoint, bundle, question, "green").verdict == "fail" and endpoint.asked == 1


def test_answer_of_another_deployment_is_named_with_its_status(trained: Trained) -> None:
    bundle = opened(trained("cost"))
    question = questions(bundle, bundle.example(trained("cost").folder / "bundle"))[0]

    class Elsewhere(Busy):
        def score(self, body: bytes, deployment: str = "", key: str | None = None) -> Answer:
            return super().score(body, "blue", key)

    check = ask(Elsewhere(bundle, 0), bundle, question, "green")
    assert (check.verdict, check.measured_text()) == ("fail", "200, the same answer, answered by blue")


def test_time_to_come_back_is_read_from_the_answer(trained: Trained) -> None:
    with serving(lambda number, body: http(429, b"{}", b"Retry-After: 7")) as server:
        assert Target(server.url, "key").score(b"[]").retry_after == 7
    with serving(
        lambda number, body: http(429, b"{}", b"Retry-After: Fri, 31 Dec 1999 23:59:59 GMT")
    ) as server:
        assert Target(server.url, "key").score(b"[]").retry_after is None


@pytest.mark.parametrize(("rate", "seconds"), [(5000, 600), (0.1, 1), (-1, 4), (50, -1)])
def test_plan_that_is_none_is_refused(rate: float, seconds: float) -> None:
    settings = read_settings(ROOT, "dev", "viability")[0]
    with pytest.raises(InputError, match="requests would be right"):
        plan_of(settings, rate, seconds)
    assert plan_of(settings, rate=7).seconds == settings.smoke_seconds


# The command


@pytest.fixture
def endpoint(trained: Trained, tmp_path: Path) -> Iterator[LocalEndpoint]:
    """Yield an endpoint that no run knows of, with the bundle of a trained run."""
    endpoint = LocalEndpoint(tmp_path / "elsewhere", "viability-far")
    endpoint.start()
    try:
        endpoint.create_deployment("blue", trained("viability").folder / "bundle", "brookside-viability", 1)
        endpoint.set_traffic({"blue": 100})
        yield endpoint
    finally:
        endpoint.stop()


@pytest.fixture
def elsewhere(endpoint: LocalEndpoint) -> Target:
    return target_of(endpoint)


def test_version_that_another_run_deployed_is_tested_as_that_version(endpoint: LocalEndpoint) -> None:
    assert superseded(endpoint, version=1) is None
    found = superseded(endpoint, version=7)
    assert found is not None
    check, folder = found
    assert check.verdict == "warning" and "version 1 of another run" in check.measured_text()
    subject = Subject(target_of(endpoint), "viability-far", folder, checks=(check,))
    report = examine(subject, subject.golden(), Plan(50, 0.2, False, LEVEL), "dev")
    assert worst(report.checks) == "warning" and report.summary.success == 1 and report.compared


def call(*words: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["smoke-test", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_url_and_a_table_are_enough(
    elsewhere: Target, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, elsewhere.key)
    table = str(trained("viability").path("test.parquet"))
    words = ("--url", elsewhere.url, "--data", table, "--rate", "40", "--seconds", "0.5")
    code, output = call(*words)
    assert code == 0, output
    report = SmokeReport.model_validate_json((tmp_path / RESULTS).read_text())
    assert (report.summary.categories, report.compared, report.golden_rows) == ({"ok": 20}, False, GOLDEN)
    assert "predictions" in output and "not compared" in output and RESULTS in output
    code, output = call(*words, "--json")
    assert code == 0 and json.loads(output)["summary"]["success"] == 1
    assert elsewhere.key not in output + (tmp_path / RESULTS).read_text()
    (tmp_path / "key").write_text("a wrong key")
    code, output = call(*words, "--key-file", "key")
    assert code == 1 and "20 4xx" in output
    monkeypatch.delenv(KEY_VARIABLE)
    code, output = call(*words)
    assert code == 2 and KEY_VARIABLE in output


def test_url_is_compared_with_the_bundle_of_a_run(
    elsewhere: Target, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Path(shutil.copytree(trained("viability").folder, tmp_path / "run")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, elsewhere.key)
    words = ("--run", "run", "--url", elsewhere.url, "--rate", "40", "--seconds", "0.5")
    code, output = call(*words)
    assert code == 0, output
    report = SmokeReport.model_validate_json((run.folder / RESULTS).read_text())
    assert report.compared and report.summary.categories == {"ok": 20} and report.target == elsewhere.url
    assert Run(run.folder).record.artifacts[RESULTS].stage == "smoke_test"
    assert elsewhere.key not in (run.folder / "07_smoke_test.ipynb").read_text()
    other = http(200, json.dumps([{"class": "yes", "probability": 0.5, "score": 50.0}]).encode())
    with serving(lambda number, body: other) as server:
        code, output = call(*words[:3], server.url, *words[4:])
    assert code == 1 and "predictions" in output and "20 of 20 differ" in output
