"""The monitor: what it sees, how it catches up, what the command says, and a rollback on a real endpoint."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops import cli_monitor
from brookside_mlops.alert_effects import Means
from brookside_mlops.alert_rules import DEFAULT_RULES, AlertRule
from brookside_mlops.alert_store import AlertStore
from brookside_mlops.audit import audit_log
from brookside_mlops.cli import app
from brookside_mlops.endpoints.request_log import Entry, RequestLog
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.monitor import Watched, look, tenures_of
from brookside_mlops.monitor_dashboard import write_dashboard
from brookside_mlops.monitor_history import read_dashboard
from brookside_mlops.notifications import VARIABLE
from brookside_mlops.rollout_run import deploy_run
from brookside_mlops.watched import watched as watched_of
from tests.drivers import until
from tests.receivers import mailbox
from tests.registered import Registered

NAME = "viability-prod"
HOUR = 1_700_002_800.0  # a whole hour


def endpoint(project: Path, start: float, statuses: list[int], every: float = 10.0) -> EndpointState:
    """Return an endpoint whose log has a request every ten seconds, minute after minute with the statuses given."""
    state = EndpointState(project / ".brookside", NAME)
    state.create()
    log = RequestLog(state.requests, days=1e6)
    log.start()
    for minute, status in enumerate(statuses):
        for second in range(0, 60, int(every)):
            if status:
                log.add(Entry(start + 60 * minute + second, "blue", "live", status, 0.01, 1, 1.0, 1.0))
    log.stop()
    return state


def watched(project: Path, *rules: AlertRule, **environ: str) -> Watched:
    state = project / ".brookside"
    means = Means(state, environ, rollback=lambda *given: "version 1 serves as blue")
    return Watched(state, NAME, rules or DEFAULT_RULES, means)


# ---- time -------------------------------------------------------------------------------------------------------------------------------


def test_missed_hours_are_caught_up_and_nothing_is_repeated(tmp_path: Path) -> None:
    statuses = [200] * 10 + [500] * 15 + [200] * 10 + [0] * 20 + [503] * 20
    found = []
    for name, looks in (
        ("each", range(11, 76)),
        ("late", (11, 12, 75)),
        ("twice", (11, 50, 50, 51, 75, 74)),
    ):
        project = tmp_path / name
        endpoint(project, HOUR, statuses)
        for minute in looks:
            look(watched(project), HOUR + 60 * minute + 2)
        store = AlertStore(project / ".brookside")
        found.append([(event.name, event.text) for event in store.events(NAME)])
        assert store.state(NAME).open() == ["error-rate", "availability"]
    assert found[0] == found[1] == found[2]
    assert [name.partition("@")[0] for name, _ in found[0] if name.endswith(":open")] == [
        "error-rate",
        "zero-traffic",
        "error-rate",
        "availability",
    ]


def test_clock_that_is_set_back_changes_nothing(tmp_path: Path) -> None:
    endpoint(tmp_path, HOUR, [500] * 60)
    first = look(watched(tmp_path), HOUR + 3_602)
    again = look(watched(tmp_path), HOUR + 1_800)
    assert again.events == [] and again.alerts == first.alerts and again.at == first.at


def test_endpoint_without_a_log_is_no_data(tmp_path: Path) -> None:
    EndpointState(tmp_path / ".brookside", NAME).create()
    report = look(watched(tmp_path), HOUR)
    assert report.hour.requests is None and not report.alerts and not report.running


def test_alert_on_drift_asks_for_retraining_once(tmp_path: Path) -> None:
    endpoint(tmp_path, HOUR, [200] * 60)
    AlertStore(tmp_path / ".brookside").observe(NAME, "drift_share", 0.2, HOUR + 1_000)
    for minute in (30, 31, 59):
        look(watched(tmp_path), HOUR + 60 * minute + 2)
    (path,) = (tmp_path / ".brookside" / "retrain").glob("*.json")
    request = json.loads(path.read_text(encoding="utf-8"))
    assert (request["endpoint"], request["rule"]) == (NAME, "drift") and "20 %" in request["reason"]


def test_monitor_that_is_killed_while_it_catches_up_goes_on(tmp_path: Path) -> None:
    """A real process, killed with SIGKILL while its rollback is under way; the next look finishes what was begun."""
    endpoint(tmp_path, HOUR, [503] * 60)
    script = f"""
import sys, time
from pathlib import Path
from brookside_mlops.alert_effects import Means
from brookside_mlops.alert_rules import DEFAULT_RULES
from brookside_mlops.monitor import Watched, look
def stuck(*given):
    print("rolling back", flush=True)
    time.sleep(600)
state = Path({str(tmp_path)!r}) / ".brookside"
look(Watched(state, {NAME!r}, DEFAULT_RULES, Means(state, {{}}, rollback=stuck)), {HOUR + 3_002})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "rolling back\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    report = look(watched(tmp_path), HOUR + 3_062)
    assert [(one.action, one.status) for one in report.effects] == [("rollback", "done")]
    trail = [
        (row.details["action"], row.details["state"]) for row in audit_log(tmp_path / ".brookside").rows()
    ]
    assert sorted(trail) == sorted(
        (one, end) for one in ("notify", "page", "rollback") for end in ("begins", "done")
    )


# ---- a real endpoint --------------------------------------------------------------------------------------------------------------------


def test_lost_availability_is_paged_by_mail_and_rolled_back(registered: Registered) -> None:
    for version in (1, 2):
        deploy_run(registered.run(version))
    name, state = registered.endpoint.name, registered.run(1).settings.state
    assert [one.version for one in tenures_of(state, name)][-1] == 2
    now = time.time()
    with closing(sqlite3.connect(registered.endpoint.state.requests)) as database, database:
        down = [(now - 1_500 + 5 * at, name, "live", 503, 0.01, 0, 0.0, 0.0, "", 0) for at in range(300)]
        marks = ", ".join("?" * len(Entry._fields))
        database.executemany(f"insert into request ({', '.join(Entry._fields)}) values ({marks})", down)
        database.execute("delete from request where status = 200")  # the traffic of the two rollouts
    with mailbox() as box:
        url = f"mailto://127.0.0.1:{box.port}?from=mlops@example.com&to=ops@example.com"
        means = Means(state, {VARIABLE: url})
        rules = [one for one in DEFAULT_RULES if one.name == "availability"]
        report = look(Watched(state, name, rules, means), now)
    assert [(one.action, one.status) for one in report.effects] == [("page", "done"), ("rollback", "done")]
    assert list(registered.serving().values()) == [1] and report.critical
    assert f"{name}: critical alert availability" in [mail["subject"] for mail in box.mails]
    events = [row.event for row in audit_log(state).rows(name)]
    assert events.index("alert") < events.index("rollback")


def test_server_that_is_gone_is_paged_after_its_time_and_one_that_was_stopped_is_not(
    registered: Registered,
) -> None:
    deploy_run(registered.run(1))
    name, state = registered.endpoint.name, registered.run(1).settings.state
    rules = [one for one in DEFAULT_RULES if one.name in ("down", "zero-traffic")]
    now = time.time() // 60 * 60 + 2

    def open_after(minutes: int) -> list[str]:
        report = look(Watched(state, name, rules, Means(state, {})), now + 60 * minutes)
        return [one.rule for one in report.alerts if one.open and not one.held]

    assert open_after(0) == []
    os.kill(registered.endpoint.state.server()[0], signal.SIGKILL)
    until(lambda: registered.endpoint.health() is None)
    assert open_after(3) == [] and open_after(8) == ["down"]
    assert open_after(20) == ["down"]  # nobody hears of zero traffic besides
    registered.endpoint.start()
    assert open_after(21) == ["zero-traffic"]
    registered.endpoint.stop()
    assert "down" not in open_after(60)


def test_one_lost_probe_between_two_looks_is_no_outage(tmp_path: Path) -> None:
    store = AlertStore(tmp_path)
    for at, value in ((0.0, 1.0), (300.0, 0.0), (600.0, 1.0), (900.0, 0.0), (1_200.0, 0.0)):
        store.observe(NAME, "health", value, HOUR + at)
    seen = [store.observed(NAME, "health", HOUR + at) for at in range(0, 1_260, 60)]
    assert [60 * minute for minute, one in enumerate(seen) if one == 0] == [
        300,
        900,
        960,
        1_020,
        1_080,
        1_140,
        1_200,
    ]
    assert store.observed(NAME, "health", HOUR + 1_260) is None  # nobody has looked since


def test_what_is_old_is_forgotten_and_what_is_unfinished_is_kept(tmp_path: Path) -> None:
    endpoint(tmp_path, HOUR, [500] * 60)
    store = AlertStore(tmp_path / ".brookside")
    for at in (0.0, 60.0):
        store.observe(NAME, "drift_share", 0.1, HOUR + at)
    look(watched(tmp_path), HOUR + 3_602)
    assert store.events(NAME) and store.effects(NAME)
    store.prune(HOUR + 86_400)
    assert store.events(NAME) == [] and store.effects(NAME) == []
    assert (
        store.observed(NAME, "drift_share", HOUR + 90) == 0.1
        and store.observed(NAME, "drift_share", HOUR) is None
    )
    assert store.state(NAME).open() == ["error-rate"]


def test_log_of_the_monitor_has_what_happened(tmp_path: Path) -> None:
    endpoint(tmp_path, HOUR, [500] * 60)
    look(watched(tmp_path), HOUR + 3_602)
    (path,) = (tmp_path / ".brookside" / "logs").iterdir()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(f"ERROR   {NAME} open error-rate: error rate 100 %" in line for line in lines)
    assert not any("DEBUG" in line for line in lines)


# ---- what is shown ----------------------------------------------------------------------------------------------------------------------


def test_dashboard_has_its_pictures_and_the_numbers(tmp_path: Path) -> None:
    endpoint(tmp_path, HOUR, [200] * 40 + [500] * 20 + [200] * 60)
    for minute in (60, 120):
        look(watched(tmp_path), HOUR + 60 * minute + 2)
    data = read_dashboard(tmp_path / ".brookside", NAME, DEFAULT_RULES, 2.0, HOUR + 7_202)
    path = write_dashboard(data, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert path.name == f"dashboard-{NAME}.md" and "| requests | 720 |" in text and "No alert is open" in text
    assert "| error rate | 16.67 % |" in text
    pictures = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", text)
    assert len(pictures) == 3 and "1 alert." in pictures[-1][0]
    assert "| 14 min | error-rate | error rate 100 %" in text
    for words, name in pictures:
        assert NAME in words and (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_dashboard_of_an_endpoint_that_nobody_asked_has_no_pictures(tmp_path: Path) -> None:
    EndpointState(tmp_path / ".brookside", NAME).create()
    path = write_dashboard(read_dashboard(tmp_path / ".brookside", NAME, DEFAULT_RULES, 1.0, HOUR), tmp_path)
    assert "no data" in path.read_text(encoding="utf-8") and not list(tmp_path.glob("*.png"))


# ---- the command ------------------------------------------------------------------------------------------------------------------------


def command(*words: str) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["monitor", *words])
    return found.exit_code, found.output


@pytest.fixture
def failing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose endpoint has failed in every fifth minute and in the last half hour; nobody is told."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("BROOKSIDE_")]:
        monkeypatch.delenv(name)
    endpoint(tmp_path, time.time() // 60 * 60 - 1_800, [500] * 31)
    return tmp_path


def test_command_says_what_is_open_and_exits_with_one(failing: Path) -> None:
    code, said = command("--environment", "prod")
    assert code == 1 and "critical error-rate since" in said and "error rate 100 %" in said
    code, said = command("--endpoint", NAME, "--json")
    (report,) = json.loads(said)
    assert code == 1 and [one["rule"] for one in report["alerts"] if one["open"]] == ["error-rate"]
    assert report["events"] == [] and report["hour"]["availability"] == 1.0


def test_command_silences_by_name_and_keeps_it_in_the_trail(failing: Path) -> None:
    code, said = command("--silence", "error-rate", "--minutes", "30", "--as", "ada")
    assert code == 0 and "error-rate is silenced until" in said
    (row,) = audit_log(failing / ".brookside").rows()
    assert (row.event, row.subject, row.actor) == ("alert", NAME, "ada")
    code, said = command("--silence", "moon")
    assert code == 2 and "has the rules down, error-rate, latency" in said


def test_command_writes_the_dashboard_here(failing: Path) -> None:
    code, said = command("--generate-dashboard", "--hours", "1")
    assert code == 0 and f"dashboard-{NAME}.md" in said and (failing / f"dashboard-{NAME}.md").exists()


def test_command_says_what_is_wrong_with_its_words(failing: Path) -> None:
    assert command("--environment", "moon")[0] == 2
    code, said = command("--endpoint", "cost-moon")
    assert code == 2 and "no endpoint 'cost-moon'" in said
    code, said = command("--watch", "--due")
    assert code == 2 and "--watch and --due at once" in said
    code, said = command("--environment", "staging")
    assert code == 2 and "no endpoint in staging yet" in said


def test_command_writes_the_configuration(failing: Path) -> None:
    code, said = command(
        "--configure-alerts", "--alert-email", "ops@example.com", "--data-drift-threshold", "0.2"
    )
    assert code == 0, said
    text = (failing / "azure-ml/monitoring/monitoring-config.yml").read_text(encoding="utf-8")
    assert "ops@example.com" in text and "0.2" in text


def test_due_runs_the_metrics_once(failing: Path) -> None:
    code, said = command("--due", "--environment", "prod")
    assert code == 0 and f"looked at {NAME}; open: {NAME}: error-rate" in said
    assert (
        "nothing is due" in command("--due", "--environment", "prod")[1] or datetime.now(UTC).minute % 5 == 0
    )


def test_watch_goes_on_where_an_endpoint_cannot_be_read(
    failing: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = watched_of(failing, environment="prod")
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    (failing / ".brookside/monitor.db").write_bytes(
        b"this is no database, and long enough to be read as one" * 20
    )
    cli_monitor.watch(found, 60, rounds=2)
    said = capsys.readouterr().out
    assert "file is not a database" in said and slept == [60]
    (failing / ".brookside/monitor.db").unlink()
    cli_monitor.watch(found, 60, rounds=1)
    assert "critical error-rate" in capsys.readouterr().out


def test_due_looks_at_every_environment_and_refuses_what_it_would_not_use(failing: Path) -> None:
    path = failing / "azure-ml/monitoring/monitoring-config.yml"
    path.parent.mkdir(parents=True)
    often = "{performance_metrics: {schedule: every 5 minutes}}"
    path.write_text(f"environment_profiles: {{dev: {often}, staging: {often}}}\n", encoding="utf-8")
    status, said = command("--due", "--json")
    assert {one["environment"] for one in json.loads(said)} == {"dev", "staging", "prod"}, status
    for words, wrong in (
        (("--due", "--endpoint", NAME), "jobs are of an environment"),
        (("--alert-email", "ops@example.com"), "goes with --configure-alerts"),
    ):
        status, said = command(*words)
        assert status == 2 and wrong in said
