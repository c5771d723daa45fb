"""The tracker says what is deployed: over HTTP, against a server that keeps Notion's rules, whatever happens in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from typer.testing import CliRunner

from brookside_mlops.audit import audit_log
from brookside_mlops.bundle import Bundle
from brookside_mlops.cli import app
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import Deployment
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.errors import InputError
from brookside_mlops.notion import SCHEMA, Plan, TrackerPage, TrackerRow, from_notion, plan, to_notion
from brookside_mlops.notion_api import NOTION_VERSION, NotionError, open_tracker
from brookside_mlops.notion_sync import NotionSettings, Seen, carry_out, difference, seen_endpoints
from brookside_mlops.registry import RegisterResult
from brookside_mlops.results import StageResult
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_plan import Target, plan_of
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle
from tests.notion_server import TOKEN, Fault, Notion, notion_site
from tests.registered import write_settings

SERVICE = NotionSettings().service
RUNNER = CliRunner()


@pytest.fixture
def notion() -> Iterator[Notion]:
    with notion_site() as site:
        yield site


@pytest.fixture(autouse=True)
def no_leak(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[None]:
    """Hold every test to it: the token is in no log at any level, no output and no file."""
    caplog.set_level(1)
    yield
    output = capfd.readouterr()
    assert TOKEN not in caplog.text + output.out + output.err
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]


def row(name: str, cost: str | None = "57.30", **values: Any) -> TrackerRow:
    known = {"category": "Machine learning", "status": "Active", "service": SERVICE, "run": "https://ci/1"}
    money = None if cost is None else Decimal(cost)
    return TrackerRow.model_validate({"name": name, "monthly_cost": money, **known, **values})


def opened(notion: Notion, waits: list[float] | None = None) -> Any:
    kept = [] if waits is None else waits
    return open_tracker(notion.database, SecretStr(TOKEN), notion.address, kept.append)


def sync(
    notion: Notion, state: Path, *rows: TrackerRow, unreadable: tuple[str, ...] = (), **more: Any
) -> Plan:
    """Make the tracker say these rows, and return what was planned; the waits go to `waits`."""
    waits = more.pop("waits", None)
    with opened(notion, waits) as tracker:
        made = difference(tracker, Seen(rows, unreadable, ()), NotionSettings(), **more)
        carry_out(tracker, made, audit_log(state))
    return made


def sizes(made: Plan) -> tuple[int, int, int, int]:
    return len(made.creates), len(made.updates), len(made.archives), len(made.unchanged)


# What the tracker says


def test_each_endpoint_is_a_page_with_its_properties(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev", "28.00"), row("viability-prod", None, status="Inactive", run=""))
    said = notion.said()
    assert said["cost-dev"] == {
        "Name": "cost-dev",
        "Category": "Machine learning",
        "Monthly cost": 28.0,
        "Status": "Active",
        "Licenses": 1.0,
        "Service": SERVICE,
        "Run": "https://ci/1",
        "Notes": "",
    }
    assert said["viability-prod"]["Monthly cost"] is None and said["viability-prod"]["Run"] is None
    assert notion.versions == {NOTION_VERSION}


def test_second_sync_writes_nothing(notion: Notion, tmp_path: Path) -> None:
    rows = [row(f"model-{number}", f"{number}.1{number}") for number in range(5)]
    sync(notion, tmp_path, *rows)
    before = len(notion.writes())
    assert sizes(sync(notion, tmp_path, *rows)) == (0, 0, 0, 5)
    assert len(notion.writes()) == before


def test_only_properties_that_changed_are_sent(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("cost-prod"))
    notion.requests.clear()
    sync(notion, tmp_path, row("cost-dev", "57.31", status="Inactive"), row("cost-prod"))
    ((method, path, body),) = notion.writes()
    assert (method, path.partition("/")[0]) == ("PATCH", "pages")
    assert body == {
        "properties": {"Monthly cost": {"number": 57.31}, "Status": {"status": {"name": "Inactive"}}}
    }


def test_gone_endpoint_is_archived_and_comes_back_as_a_new_page(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("churn-dev"))
    assert sizes(sync(notion, tmp_path, row("cost-dev"))) == (0, 0, 1, 1)
    assert set(notion.said()) == {"cost-dev"} and len(notion.pages) == 2
    assert sizes(sync(notion, tmp_path, row("cost-dev"), row("churn-dev"))) == (1, 0, 0, 1)
    assert set(notion.said()) == {"cost-dev", "churn-dev"}


def test_pages_of_other_software_are_left_alone(notion: Notion, tmp_path: Path) -> None:
    figma = notion.add(Name="Figma", Service="Design", Monthly_cost=45, Notes=[])
    draft = notion.add(Name="", Service=SERVICE)
    before = json.dumps([notion.pages[figma], notion.pages[draft]])
    sync(notion, tmp_path, row("cost-dev"))
    sync(notion, tmp_path, row("churn-dev"))
    assert json.dumps([notion.pages[figma], notion.pages[draft]]) == before


def test_page_made_by_hand_is_taken_over(notion: Notion, tmp_path: Path) -> None:
    page = notion.add(Name="cost-dev", Licenses=3)
    assert sizes(sync(notion, tmp_path, row("cost-dev"))) == (0, 1, 0, 0)
    assert notion.said()["cost-dev"]["Service"] == SERVICE and list(notion.pages) == [page]


def test_tracker_of_more_than_a_hundred_pages_is_read_whole(notion: Notion, tmp_path: Path) -> None:
    rows = [row(f"model-{number:03}") for number in range(205)]
    for one in rows[:-1]:
        notion.add(Name=one.name, Category="Design", Service=SERVICE)
    made = sync(notion, tmp_path, *rows[5:])
    assert sizes(made) == (1, 199, 5, 0) and set(notion.said()) == {one.name for one in rows[5:]}
    queries = [body for _, path, body in notion.requests if path.endswith("query")]
    assert [one["page_size"] for one in queries] == [100] * 3


def test_endpoint_that_cannot_be_read_keeps_its_page(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("churn-dev"))
    made = sync(notion, tmp_path, row("cost-dev"), unreadable=("churn-dev",))
    assert made.size == 0 and set(notion.said()) == {"cost-dev", "churn-dev"}


def test_status_may_be_a_select(notion: Notion, tmp_path: Path) -> None:
    notion.schema["Status"] = {"select": {"options": []}}
    sync(notion, tmp_path, row("cost-dev"))
    assert notion.said()["cost-dev"]["Status"] == "Active"
    assert sync(notion, tmp_path, row("cost-dev")).size == 0


# What stops it


def test_wrong_schema_is_told_whole_before_anything_is_read(notion: Notion, tmp_path: Path) -> None:
    for name in ("Run", "Monthly cost"):
        del notion.schema[name]
    notion.schema["Licenses"] = {"rich_text": {}}
    notion.schema["Status"]["status"] = {"options": [{"name": "Active"}]}
    with pytest.raises(InputError) as told:
        sync(notion, tmp_path, row("cost-dev"))
    lines = str(told.value).splitlines()
    assert [line.strip() for line in lines[1:]] == [
        "'Monthly cost' is missing: it should be of type number",
        "'Status' has no option Inactive: add it to Active",
        "'Licenses' is of type rich_text: it should be of type number",
        "'Run' is missing: it should be of type url",
    ]
    assert [method for method, _, _ in notion.requests] == ["GET", "GET"]


def test_names_that_come_twice_are_named_and_nothing_is_written(notion: Notion, tmp_path: Path) -> None:
    pages = [notion.add(Name="cost-dev", Service=SERVICE) for _ in range(2)]
    notion.add(Name="cost-prod", Service="Azure")
    with pytest.raises(InputError) as told:
        sync(notion, tmp_path, row("cost-dev"), row("cost-prod"), row("churn-dev"), row("churn-dev"))
    said = str(told.value)
    assert "two endpoints are named 'churn-dev'" in said and "2 pages named 'cost-dev'" in said
    assert all(page.replace("-", "") in said for page in pages) and "'cost-prod' with Service 'Azure'" in said
    assert not notion.writes() and not audit_log(tmp_path).exists


def test_nothing_at_all_is_taken_for_a_mistake(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("churn-dev"))
    with pytest.raises(InputError, match=r"churn-dev, cost-dev.*--archive-all"):
        sync(notion, tmp_path)
    assert len(notion.said()) == 2
    assert sizes(sync(notion, tmp_path, archive_all=True)) == (0, 0, 2, 0) and not notion.said()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda notion: setattr(notion, "sources", ["1" * 32, "2" * 32]),
            "has 2 data sources: name one of them",
        ),
        (lambda notion: setattr(notion, "database", "0" * 32), "Notion shows the integration no such thing"),
        (lambda notion: notion.faults.append(Fault(403, "restricted_resource")), "capabilities to read"),
        (lambda notion: setattr(notion, "incomplete", True), "no more than 10,000"),
    ],
)
def test_database_that_cannot_be_used_is_explained(
    notion: Notion, tmp_path: Path, change: Callable[[Notion], None], said: str
) -> None:
    database = notion.database
    change(notion)
    with (
        pytest.raises((InputError, NotionError), match=said),
        open_tracker(database, SecretStr(TOKEN), notion.address) as tracker,
    ):
        difference(tracker, Seen((row("cost-dev"),), (), ()), NotionSettings())
    assert not notion.writes()


def test_data_source_may_be_named_instead_of_its_database(notion: Notion) -> None:
    notion.sources.append("2" * 32)
    with open_tracker(notion.sources[0], SecretStr(TOKEN), notion.address) as tracker:
        assert tracker.source == notion.sources[0].replace("-", "") and tracker.pages() == []


def test_wrong_token_is_said_without_it(notion: Notion) -> None:
    with (
        pytest.raises(InputError, match="does not know the token in BROOKSIDE_NOTION_TOKEN") as told,
        open_tracker(notion.database, SecretStr("ntn_wrong"), notion.address),
    ):
        pass
    assert "ntn_wrong" not in str(told.value)


def test_token_that_notion_repeats_is_masked(notion: Notion, tmp_path: Path) -> None:
    notion.faults = [Fault(400, "validation_error", "POST", "pages", message=f"what is {TOKEN}?")]
    with pytest.raises(NotionError, match=r"what is \*\*\*\?"):
        sync(notion, tmp_path, row("cost-dev"))


# What passes


def test_rate_limit_is_waited_out_as_long_as_notion_says(notion: Notion, tmp_path: Path) -> None:
    notion.faults = [
        Fault(429, "rate_limited", "POST", "pages", retry_after="7"),
        Fault(429, "rate_limited", "POST", "pages", retry_after="3"),
        Fault(429, "rate_limited", "GET", "databases", retry_after="2"),
    ]
    waits: list[float] = []
    sync(notion, tmp_path, row("cost-dev"), row("cost-prod"), waits=waits)
    assert waits == [2.0, 7.0, 3.0] and set(notion.said()) == {"cost-dev", "cost-prod"}


def test_rate_limit_that_lasts_ends_the_sync_and_the_next_goes_on(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("old-dev"))
    rows = [row("cost-dev"), row("cost-prod"), row("viability-dev")]
    waits: list[float] = []
    notion.faults = [Fault(429, "rate_limited", "PATCH", "pages", retry_after="3600")]
    with pytest.raises(NotionError, match=r"run it again in 3600 s, it goes on \(2 of 3 pages are written\)"):
        sync(notion, tmp_path, *rows, waits=waits)
    assert waits == []
    notion.requests.clear()
    assert sizes(sync(notion, tmp_path, *rows)) == (0, 0, 1, 3)
    assert set(notion.said()) == {one.name for one in rows} and len(notion.writes()) == 1


@pytest.mark.parametrize("status", [409, 500, 502, 503, 504])
@pytest.mark.parametrize("done", [True, False])
def test_page_is_made_once_when_its_answer_is_an_error(
    notion: Notion, tmp_path: Path, status: int, done: bool
) -> None:
    code = {409: "conflict_error", 500: "internal_server_error", 502: "bad_gateway"}.get(
        status, "service_unavailable"
    )
    notion.faults = [Fault(status, code, "POST", "pages", done=done) for _ in range(2)]
    waits: list[float] = []
    sync(notion, tmp_path, row("cost-dev"), waits=waits)
    assert set(notion.said()) == {"cost-dev"} and len(notion.pages) == 1
    assert waits == ([1.0] if done else [1.0, 2.0])


@pytest.mark.parametrize("change", [{"status": "Inactive"}, None])
@pytest.mark.parametrize("done", [True, False])
def test_change_and_archive_may_be_repeated(
    notion: Notion, tmp_path: Path, change: dict[str, str] | None, done: bool
) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("cost-prod"))
    after = [row("cost-dev")] + ([row("cost-prod", **change)] if change else [])
    notion.faults = [Fault(503, "service_unavailable", "PATCH", "pages", done=done)]
    sync(notion, tmp_path, *after)
    assert {name: one["Status"] for name, one in notion.said().items()} == {
        one.name: one.status for one in after
    }


def test_page_that_somebody_archives_meanwhile_is_made_again_by_the_next_sync(
    notion: Notion, tmp_path: Path
) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("churn-dev"))
    rows = (row("cost-dev", "99.99"),)
    with opened(notion) as tracker:
        made = difference(tracker, Seen(rows, (), ()), NotionSettings())
        for page in notion.pages.values():
            page["in_trash"] = True
        carry_out(tracker, made, audit_log(tmp_path))
    assert sizes(made) == (0, 1, 1, 0) and not notion.said()
    sync(notion, tmp_path, *rows)
    assert notion.said()["cost-dev"]["Monthly cost"] == 99.99


def test_error_that_does_not_pass_says_how_far_it_came(notion: Notion, tmp_path: Path) -> None:
    with pytest.raises(NotionError, match=r"page zeta: Notion says: 400 validation_error.*1 of 2 pages"):
        sync(notion, tmp_path, row("alpha"), row("zeta", run="x" * 2001))
    rows = audit_log(tmp_path).rows("notion")
    assert [one.details["state"] for one in rows] == ["begun", "stopped"]
    assert rows[1].details["pages"] == 1 and "zeta" in rows[1].details["reason"]


# The audit trail


def test_each_sync_is_in_the_audit_trail_before_and_after_it_writes(notion: Notion, tmp_path: Path) -> None:
    sync(notion, tmp_path, row("cost-dev"), row("token-dev"))
    sync(notion, tmp_path, row("cost-dev"), row("token-dev"))
    log = audit_log(tmp_path)
    begun, done, again = log.rows("notion")
    assert [one["name"] for one in begun.details["created"]] == ["cost-dev", "token-dev"]
    assert begun.details["created"][0]["properties"]["Monthly cost"] == "57.30"
    assert done.details == {"state": "done", "pages": 2, "of": 2}
    assert (again.details["state"], again.details["unchanged"]) == ("done", ["cost-dev", "token-dev"])
    assert log.verify().intact


# The plan

NAMES = st.sampled_from(["cost-dev", "cost-prod", "churn-dev", "viability-prod", "patterns-dev"])
ROWS = st.builds(
    row,
    NAMES,
    st.none() | st.decimals(0, 10**7, places=2).map(str),
    status=st.sampled_from(["Active", "Inactive"]),
    run=st.sampled_from(["", "https://ci/1", "https://ci/2"]),
)


def through_json(one: TrackerRow) -> TrackerPage:
    """Return the page that Notion would show after it was sent a row."""
    values = {}
    for name, value in one.values().items():
        kind = SCHEMA[name][0]
        sent = json.loads(json.dumps(to_notion(kind, value)))
        if kind == "title":
            sent = {"title": [{"plain_text": part["text"]["content"]} for part in sent["title"]]}
        values[name] = from_notion({"type": kind, **sent})
    return TrackerPage(one.name, "", values)


@given(
    st.lists(ROWS, unique_by=lambda one: one.name),
    st.lists(ROWS, unique_by=lambda one: one.name),
    st.lists(NAMES),
)
def test_plan_ends_at_the_rows_and_then_is_empty(
    rows: list[TrackerRow], before: list[TrackerRow], unreadable: list[str]
) -> None:
    pages = {one.name: through_json(one) for one in before}
    made = plan(rows, pages.values(), SERVICE, unreadable)
    for page in made.archives:
        del pages[page.name]
    for update in made.updates:
        pages[update.page.name] = TrackerPage("", "", {**update.page.values, **update.values})
    for one in made.creates:
        assert one.name not in pages
        pages[one.name] = through_json(one)
    wanted = {one.name: one.values() for one in rows}
    kept = {one.name for one in before} & set(unreadable) - wanted.keys()
    assert {name: dict(page.values) for name, page in pages.items() if name not in kept} == wanted
    assert kept <= pages.keys()
    assert plan(rows, pages.values(), SERVICE, unreadable).size == 0
    changed = {update.page.name: set(update.values) for update in made.updates}
    olds = {one.name: one.values() for one in before}
    for name, properties in changed.items():
        assert properties == {key for key, new in wanted[name].items() if olds[name][key] != new}


# The command


def deployed(state: Path, *names: str) -> None:
    """Make endpoints with a deployment each, which nobody has started."""
    for name in names:
        endpoint = EndpointState(state, name)
        endpoint.create()
        bundle = state / "bundle"
        bundle.mkdir(exist_ok=True)
        endpoint.add(Deployment(name="blue", model_name="m", version=1, sha256="0"), bundle)


def environment(notion: Notion) -> dict[str, str]:
    return {
        "BROOKSIDE_NOTION_TOKEN": TOKEN,
        "BROOKSIDE_NOTION_DATABASE": f"https://www.notion.so/acme/Tracker-{notion.database.replace('-', '')}?v=1",
        "BROOKSIDE_NOTION_URL": notion.address,
    }


@pytest.fixture
def here(notion: Notion, project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three endpoints, whose environment names the tracker."""
    monkeypatch.chdir(project)
    for name, value in environment(notion).items():
        monkeypatch.setenv(name, value)
    deployed(project / ".brookside", "churn-dev", "cost-dev", "viability-dev")
    return project


def call(*words: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["notion", "sync", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout + ("" if "--json" in words else result.stderr)


def test_dry_run_shows_what_the_sync_then_does(notion: Notion, here: Path) -> None:
    notion.add(Name="old-dev", Service=SERVICE)
    notion.add(Name="cost-dev", Service=SERVICE, Status="Active")
    code, shown = call("--dry-run")
    assert code == 0 and not notion.writes() and not audit_log(here / ".brookside").exists
    assert "create   churn-dev" in shown and "archive  old-dev" in shown
    assert "Status Active -> Inactive" in shown and "2 created, 1 updated, 1 archived, 0 unchanged" in shown
    planned = json.loads(call("--dry-run", "--json")[1])
    done = json.loads(call("--json")[1])
    assert (planned.pop("dry_run"), done.pop("dry_run")) == (True, False) and planned == done
    assert set(notion.said()) == {"churn-dev", "cost-dev", "viability-dev"}
    code, shown = call()
    assert code == 0 and "0 created, 0 updated, 0 archived, 3 unchanged" in shown


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BROOKSIDE_NOTION_TOKEN", "", "BROOKSIDE_NOTION_TOKEN is not set"),
        ("BROOKSIDE_NOTION_TOKEN", "two words", "characters that a token cannot have"),
        ("BROOKSIDE_NOTION_DATABASE", "", "no database is named"),
        ("BROOKSIDE_NOTION_DATABASE", "tracker", "'tracker' is not a database of Notion"),
    ],
)
def test_what_is_not_set_is_a_message_and_exit_code_2(
    notion: Notion, here: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    code, shown = call()
    assert code == 2 and said in shown and not notion.requests


def test_database_and_service_come_from_settings(
    notion: Notion, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROOKSIDE_NOTION_DATABASE")
    (here / "settings.ini").write_text(
        f"[dev]\n[notion]\ndatabase = {notion.database}\nservice = Azure ML\ncategory = Models\n"
    )
    assert call()[0] == 0
    assert {(one["Service"], one["Category"]) for one in notion.said().values()} == {("Azure ML", "Models")}
    (here / "settings.ini").write_text("[dev]\n[notion]\nservice = a, b\nrun_link = https://ci/{build}\n")
    code, shown = call()
    assert code == 2 and "settings.ini [notion] service: 'a, b'" in shown and "[notion] run_link" in shown


def test_rate_limit_that_lasts_is_exit_code_1(notion: Notion, here: Path) -> None:
    notion.faults = [Fault(429, "rate_limited", "POST", "data_sources", retry_after="900")]
    code, shown = call()
    assert code == 1 and "run it again in 900 s" in shown


@pytest.mark.parametrize("answered", [0, 1, 2])
@pytest.mark.parametrize("done", [True, False])
def test_killed_sync_leaves_no_page_twice(notion: Notion, here: Path, answered: int, done: bool) -> None:
    """Kill it with SIGKILL while it waits for the answer to a page, which is made by then or is not."""
    rows = ["churn-dev", "cost-dev", "viability-dev"]
    for name in rows[:answered]:
        notion.add(Name=name, Service=SERVICE, Category="Machine learning", Status="Inactive", Licenses=1)
    notion.faults = [Fault(0, method="POST", path="pages", done=done)]
    command = [sys.executable, "-c", "from brookside_mlops.cli import main; main()", "notion", "sync"]
    process = subprocess.Popen(
        command,
        cwd=here,
        env=os.environ | environment(notion),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert notion.held.wait(60), "it made no page"
        rival = call()
    finally:
        os.kill(process.pid, signal.SIGKILL)
        output = process.communicate()
    assert TOKEN.encode() not in b"".join(output)
    assert rival[0] == 1 and "another notion sync is at work" in rival[1]
    assert len(notion.said()) == answered + done
    code, shown = call()
    assert code == 0 and f"{3 - answered - done} created, 0 updated, 0 archived" in shown
    assert set(notion.said()) == set(rows)
    states = [one.details["state"] for one in audit_log(here / ".brookside").rows("notion")]
    assert states[0] == "begun" and states[-1] == "done" and "stopped" not in states


def test_help_needs_no_client() -> None:
    code = (
        "import sys; from brookside_mlops import cli, cli_notion; "
        "assert not {'notion_client', 'httpx', 'brookside_mlops.notion_api'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Real endpoints


def finished_run(project: Path, constant: float) -> Run:
    """Return a run that was deployed as far as its files tell."""
    run = Run.create(project, "dev", "cost")
    scratch_bundle(run.folder / "bundle", constant)
    digest = Bundle.open(run.folder / "bundle").info.sha256
    run.finish(
        RegisterResult(stage="register", verdict="pass", model_name="m", version=int(constant), sha256=digest)
    )
    run.finish(StageResult(stage="deploy", verdict="pass"))
    return run


def rolled_out(endpoint: LocalEndpoint, run: Run, deployment: str) -> None:
    """Put the version of a run on an endpoint, and write down a rollout that has ended."""
    register = run.read(RegisterResult, "register")
    target = Target(
        bundle=run.folder / "bundle", model_name="m", version=register.version, sha256=register.sha256
    )
    endpoint.create_deployment(deployment, run.folder / "bundle", "m", register.version)
    endpoint.set_traffic(
        {deployment: 100} | {one: 0 for one in endpoint.state.deployments() if one != deployment}
    )
    record = Record(
        endpoint=endpoint.name,
        plan=plan_of(run.settings),
        target=target,
        new=deployment,
        old="",
        before={},
        run_folder=str(run.folder),
    )
    store = RolloutStore(endpoint.state_folder)
    store.save(store.begin(endpoint.name, record.model_dump_json()), record.model_dump_json(), open_=False)


def test_row_follows_a_real_endpoint_and_the_run_that_serves(project: Path) -> None:
    write_settings(project)
    runs = [finished_run(project, number) for number in (1, 2)]
    own = runs[0].settings
    endpoint = LocalEndpoint(own.state, own.endpoint_name("cost"))
    settings = NotionSettings(run_link="https://ci.example.com/{environment}/{run}?e={endpoint}&u={usecase}")

    def now() -> TrackerRow:
        def monthly_cost(environment: str) -> Decimal:
            assert environment == "dev"
            return Decimal("571.593")

        seen = seen_endpoints([own.state], settings, monthly_cost)
        assert not seen.unreadable and not seen.remarks
        return seen.rows[0]

    endpoint.start()
    rolled_out(endpoint, runs[0], "blue")
    link = f"https://ci.example.com/dev/{runs[0].id}?e={endpoint.name}&u=cost"
    assert now() == row(endpoint.name, "571.593", run=link)
    assert now().values()["Monthly cost"] == Decimal("571.59")
    rolled_out(endpoint, runs[1], "green")
    assert runs[1].id in now().run
    endpoint.set_traffic({"blue": 100, "green": 0})
    assert now().run == link
    endpoint.set_traffic({"blue": 0, "green": 0})
    assert now().status == "Inactive"
    endpoint.set_traffic({"blue": 100, "green": 0})
    assert now().status == "Active"
    endpoint.stop()
    assert now().status == "Inactive"
