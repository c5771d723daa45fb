"""Schedules: their times against another implementation, jobs that run once, what calls them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import yaml
from dateutil.rrule import DAILY, MINUTELY, MONTHLY, WEEKLY, rrule, weekday
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops.ci_state import keep, take
from brookside_mlops.due import Due, DueStore, run_due
from brookside_mlops.errors import InputError
from brookside_mlops.monitoring_config import FILE, MonitoringConfig
from brookside_mlops.schedule_install import cron_block, github_cron, with_block
from brookside_mlops.schedules import INTERVALS, Schedule, cron_fields, last_due, next_due, parse_schedule

ROOT = Path(__file__).resolve().parent.parent
MONDAY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)

CLOCKS = {"hour": st.integers(0, 23), "minute": st.integers(0, 59)}
SCHEDULES = st.one_of(
    st.builds(Schedule, kind=st.just("minutes"), minutes=st.sampled_from(INTERVALS)),
    st.builds(Schedule, kind=st.just("daily"), **CLOCKS),
    st.builds(Schedule, kind=st.just("weekly"), weekday=st.integers(0, 6), **CLOCKS),
    st.builds(Schedule, kind=st.just("monthly"), week=st.integers(0, 4), weekday=st.integers(0, 6), **CLOCKS),
)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(lambda at: at.replace(tzinfo=UTC))


def rule(one: Schedule, start: datetime) -> rrule:
    begin = start.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) - timedelta(days=70)
    clock = {"byhour": one.hour, "byminute": one.minute, "bysecond": 0}
    if one.kind == "minutes":
        return rrule(MINUTELY, interval=one.minutes, dtstart=begin + timedelta(days=69))
    if one.kind == "daily":
        return rrule(DAILY, dtstart=begin, **clock)
    if one.kind == "weekly":
        return rrule(WEEKLY, dtstart=begin, byweekday=one.weekday, **clock)
    nth = weekday(one.weekday)(one.week + 1 if one.week < 4 else -1)
    return rrule(MONTHLY, dtstart=begin.replace(day=1), byweekday=nth, **clock)


@given(SCHEDULES, MOMENTS)
@settings(deadline=None, max_examples=300)
def test_times_are_those_of_dateutil(one: Schedule, at: datetime) -> None:
    theirs = rule(one, at)
    plain = at.replace(tzinfo=None)
    assert last_due(one, at).replace(tzinfo=None) == theirs.before(plain, inc=True)
    assert next_due(one, at).replace(tzinfo=None) == theirs.after(plain)


@given(SCHEDULES, MOMENTS)
def test_a_time_is_the_last_at_itself_and_the_one_after_follows(one: Schedule, at: datetime) -> None:
    time = next_due(one, at)
    assert last_due(one, time) == time and next_due(one, time) > time
    assert last_due(one, time - timedelta(microseconds=1)) <= at
    assert parse_schedule(str(one)) == one


@given(SCHEDULES, MOMENTS, st.integers(-14, 14))
def test_zone_of_the_moment_does_not_matter(one: Schedule, at: datetime, hours: int) -> None:
    assert last_due(one, at.astimezone(timezone(timedelta(hours=hours)))) == last_due(one, at)


def matches(field: str, value: int) -> bool:
    if field.startswith("*/"):
        return value % int(field[2:]) == 0
    return field == "*" or int(field) == value


@given(SCHEDULES, MOMENTS)
def test_cron_fields_include_every_time(one: Schedule, at: datetime) -> None:
    minute, hour, day, month, dow = cron_fields(one).split()
    time = next_due(one, at)
    assert matches(minute, time.minute) and matches(hour, time.hour) and (day, month) == ("*", "*")
    assert matches(dow, time.isoweekday() % 7)


@pytest.mark.parametrize(
    "text", ["", "every 7 minutes", "weekly 02:00", "daily 24:00", "monthly fifth monday 02:00", "0 2 * * 1"]
)
def test_words_that_are_no_schedule_are_told_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        parse_schedule(text)


def counted(calls: list[datetime], project: Path, job: str = "drift") -> list[datetime]:
    """Return the times for which a job ran when it was called at some moments."""
    ran: list[datetime] = []
    for now in calls:
        run_due(project, "prod", now, {job: lambda due: ran.append(due.at) or "looked"})
    return ran


@given(st.lists(st.integers(0, 60 * 24 * 40), min_size=1, max_size=25))
@settings(deadline=None, max_examples=15)
def test_every_time_runs_at_most_once_and_missed_ones_are_caught_up_once(minutes: list[int]) -> None:
    import tempfile

    calls = sorted(MONDAY + timedelta(minutes=one) for one in minutes)
    weekly = parse_schedule("weekly monday 02:00")
    with tempfile.TemporaryDirectory() as folder:
        ran = counted(calls, Path(folder))
    times = list(dict.fromkeys(last_due(weekly, now) for now in calls))
    first_is_fresh = calls[0] - times[0] < timedelta(minutes=5)
    assert ran == times[0 if first_is_fresh else 1 :]


@pytest.mark.parametrize(
    ("job", "every", "metrics"), [("drift", 5, 1), ("drift", 5, 5), ("costs", 15, 15), ("metrics", 5, 5)]
)
def test_without_state_a_time_runs_once_however_often_it_is_called(
    tmp_path: Path, job: str, every: int, metrics: int
) -> None:
    (tmp_path / FILE).parent.mkdir(parents=True)
    one = f"{{performance_metrics: {{schedule: every {metrics} minutes}}}}"
    profiles = "".join(f"  {name}: {one}\n" for name in ("dev", "staging", "prod"))
    (tmp_path / FILE).write_text(f"environment_profiles:\n{profiles}")
    ran: list[datetime] = []
    for minute in range(2, 8 * 60, every):
        shutil.rmtree(tmp_path / ".brookside", ignore_errors=True)
        ran += counted([MONDAY + timedelta(minutes=minute)], tmp_path, job)
    assert ran and len(ran) == len(set(ran))


def test_clock_that_goes_back_repeats_nothing(tmp_path: Path) -> None:
    week = timedelta(days=7)
    assert counted([MONDAY, MONDAY + week, MONDAY, MONDAY + week], tmp_path) == [MONDAY, MONDAY + week]


def test_job_that_fails_is_tried_three_times_and_does_not_stop_the_others(tmp_path: Path) -> None:
    seen: list[str] = []

    def fails(due: Due) -> str:
        seen.append("drift")
        raise InputError("no rows")

    def works(due: Due) -> str:
        seen.append("metrics")
        return "looked"

    for minute in range(5):
        ran = run_due(
            tmp_path, "prod", MONDAY + timedelta(minutes=minute), {"drift": fails, "metrics": works}
        )
        assert [one.error for one in ran if one.job.name == "drift"] == (["no rows"] if minute < 3 else [])
    assert seen.count("drift") == 3 and seen.count("metrics") == 1
    assert DueStore(tmp_path / ".brookside").last("prod")["drift"] == (MONDAY, "failed", "no rows")
    assert counted([MONDAY + timedelta(days=7)], tmp_path) == [MONDAY + timedelta(days=7)]


def test_environments_do_not_take_jobs_from_each_other(tmp_path: Path) -> None:
    for environment in ("staging", "prod"):
        (ran,) = run_due(tmp_path, environment, MONDAY, {"drift": lambda due: due.environment})
        assert ran.said == environment


def test_job_without_a_schedule_is_an_error_and_one_that_is_off_does_not_run(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="job 'drit' has no schedule; there is metrics, drift, costs, retraining"
    ):
        run_due(tmp_path, "prod", MONDAY, {"drit": lambda due: ""})
    first_monday = datetime(2026, 12, 7, 2, tzinfo=UTC)
    assert run_due(tmp_path, "dev", first_monday, {"retraining": lambda due: "started"}) == []
    assert len(run_due(tmp_path, "prod", first_monday, {"retraining": lambda due: "started"})) == 1


CALLER = """
import sys, time
from datetime import datetime
from pathlib import Path
from brookside_mlops.ci_state import keep, take
from brookside_mlops.due import run_due

def look(due):
    with open("ran", "a") as file:
        file.write("x")
    if sys.argv[2] == "hang":
        print("running", flush=True)
        sys.stdin.read()
    return "looked"

print("ready", flush=True)
sys.stdin.readline()
run_due(Path.cwd(), "prod", datetime.fromisoformat(sys.argv[1]), {"drift": look})
"""


@contextmanager
def callers(
    project: Path, how: str, count: int, now: datetime = MONDAY
) -> Iterator[list[subprocess.Popen[str]]]:
    """Yield processes that wait for a line before they run what is due."""
    words = [sys.executable, "-c", CALLER, now.isoformat(), how]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = [
        subprocess.Popen(
            words, cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        for _ in range(count)
    ]
    try:
        for one in found:
            assert one.stdout and one.stdout.readline() == "ready\n"
        yield found
    finally:
        for one in found:
            one.kill()
            one.communicate()


def start(one: subprocess.Popen[str]) -> None:
    assert one.stdin
    one.stdin.write("go\n")
    one.stdin.flush()


def test_callers_at_the_same_moment_run_a_job_once(tmp_path: Path) -> None:
    with callers(tmp_path, "once", 4) as found:
        for one in found:
            start(one)
        for one in found:
            one.communicate()
            assert one.returncode == 0
    assert (tmp_path / "ran").read_text() == "x"


def test_job_of_a_process_that_lives_is_left_to_it_and_of_one_that_was_killed_is_run_again(
    tmp_path: Path,
) -> None:
    with callers(tmp_path, "hang", 1) as (one,):
        start(one)
        assert one.stdout and one.stdout.readline() == "running\n"
        assert counted([MONDAY + timedelta(hours=5)], tmp_path) == []
        one.kill()
        one.wait()
        assert counted([MONDAY + timedelta(hours=5)], tmp_path) == [MONDAY]
    assert counted([MONDAY + timedelta(hours=6)], tmp_path) == []


def test_claim_of_another_machine_holds_for_an_hour_and_cannot_be_finished_after_it(tmp_path: Path) -> None:
    import sqlite3

    store, job = DueStore(tmp_path), Due("drift", "prod", MONDAY)
    token = store.claim(job, MONDAY)
    with sqlite3.connect(store.path) as database:
        database.execute("""update due set holder = json_set(holder, '$.host', 'elsewhere')""")
    assert store.claim(job, MONDAY + timedelta(minutes=59)) == ""
    successor = store.claim(job, MONDAY + timedelta(minutes=61))
    assert successor
    store.finish(job, token, "failed", "too late")
    store.finish(job, successor, "done", "looked")
    assert store.last("prod") == {"drift": (MONDAY, "done", "looked")}


def test_threads_of_one_process_run_a_job_once(tmp_path: Path) -> None:
    ran: list[str] = []
    gate = threading.Barrier(6)

    def call() -> None:
        gate.wait()
        run_due(tmp_path, "prod", MONDAY, {"drift": lambda due: ran.append("x") or ""})

    threads = [threading.Thread(target=call) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ran == ["x"]


def brookside(*words: str, cwd: Path, path: str = "") -> subprocess.CompletedProcess[str]:
    code = "from brookside_mlops.cli import main; main()"
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path or os.environ["PATH"]}
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


CRONTAB = """#!/bin/sh
# Keeps a crontab as cron's own program does: -l shows it, - takes a new one.
file="$(dirname "$0")/table"
case "$1" in
-l) [ -f "$file" ] || { echo "no crontab for $USER" >&2; exit 1; }; cat "$file" ;;
-) cat > "$file.new" && mv "$file.new" "$file" ;;
esac
"""


def test_crontab_gets_the_lines_once_and_keeps_its_own(tmp_path: Path) -> None:
    tools, project = tmp_path / "bin", tmp_path / "50% off"
    tools.mkdir()
    project.mkdir()
    (tools / "crontab").write_text(CRONTAB)
    (tools / "crontab").chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    planned = brookside("schedule", "--install", "cron", "--plan", "-e", "prod", cwd=project, path=path)
    assert planned.returncode == 0 and "*/5 * * * * cd" in planned.stdout and not (tools / "table").exists()
    (tools / "table").write_text("0 1 * * * backup\n")
    for _ in range(2):
        done = brookside("schedule", "--install", "cron", "-e", "prod", cwd=project, path=path)
        assert done.returncode == 0, done.stderr
    assert "is in the crontab" in done.stdout
    table = (tools / "table").read_text()
    assert table.startswith("0 1 * * * backup\n") and table.count("monitor --due --environment prod") == 1
    (line,) = [one for one in table.splitlines() if "monitor --due" in one]
    command = line.split(" ", 5)[5].replace("\\%", "%").split(" && ")[0]  # what cron hands to the shell
    shown = subprocess.run(["sh", "-c", f"{command} && pwd"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(project)


def test_machine_without_crontab_says_what_to_do(tmp_path: Path) -> None:
    done = brookside("schedule", "--install", "cron", cwd=tmp_path, path=str(tmp_path))
    assert done.returncode == 2 and "--install cron --plan" in done.stderr


@given(
    st.lists(st.sampled_from(["0 1 * * * backup", "# note", "", "MAILTO=ada"])),
    st.integers(0, 3),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_block_of_one_project_replaces_itself_alone(lines: list[str], first: int, second: int) -> None:
    names = ["dev", "staging", "prod"]
    here, there = Path("/srv/one"), Path("/srv/two")
    config = MonitoringConfig()
    before = "".join(f"{line}\n" for line in lines)
    other = with_block(before, there, cron_block(there, config, names))
    both = with_block(other, here, cron_block(here, config, names[:first]))
    again = with_block(both, here, cron_block(here, config, names[:second]))
    assert again.startswith(other) and again.count("cd /srv/one ") == second
    assert with_block(again, here, cron_block(here, config, names[:second])) == again


def test_workflow_starts_whenever_something_is_due(tmp_path: Path) -> None:
    done = brookside("schedule", "--install", "github", "-e", "staging,prod", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / ".github/workflows/brookside-schedule.yml").read_text()
    workflow = yaml.load(text, yaml.BaseLoader)
    assert workflow["on"]["schedule"] == [{"cron": "*/15 * * * *"}]
    job = workflow["jobs"]["due"]
    assert job["strategy"]["matrix"]["environment"] == ["staging", "prod"]
    (look,) = [one for one in job["steps"] if " monitor " in one.get("run", "")]
    assert look["env"]["BROOKSIDE_NOTIFY_ONCALL"] == "${{ secrets.BROOKSIDE_NOTIFY_ONCALL }}"
    assert look["run"] == 'brookside-mlops monitor --due --environment "$ENVIRONMENT"'
    assert job["env"]["ENVIRONMENT"] == "${{ matrix.environment }}"
    assert "is in" in brookside("schedule", "--install", "github", "-e", "staging,prod", cwd=tmp_path).stdout


@pytest.mark.parametrize(("every", "cron"), [(1, "*/15 * * * *"), (20, "*/20 * * * *"), (240, "0 * * * *")])
def test_github_is_asked_once_for_all_schedules_and_not_more_often_than_pays(every: int, cron: str) -> None:
    config = MonitoringConfig.model_validate({"performance_metrics": {"schedule": f"every {every} minutes"}})
    assert github_cron(config, ["prod"]) == cron


def test_what_was_done_is_known_to_the_next_look_on_another_machine(tmp_path: Path) -> None:
    """The runner of the first look is gone; the next one begins with the state of a deployment, which knows less."""
    archive = tmp_path / "watch.tar.gz"
    done: list[datetime] = []
    jobs = {"drift": lambda due: done.append(due.at) or "2 of 19 features"}
    machines = [tmp_path / name for name in ("first", "second")]
    for machine, minutes in zip(machines, (0, 15), strict=True):
        DueStore(machine / ".brookside").claim(Due("costs", "prod", MONDAY), MONDAY)
        if archive.exists():
            take(machine, archive, watched=True)
        run_due(machine, "prod", MONDAY + timedelta(minutes=minutes), jobs)
        keep(machine, archive, watched=True)
    assert done == [MONDAY]


def test_schedule_shows_every_job_with_its_next_time(tmp_path: Path) -> None:
    run_due(tmp_path, "prod", MONDAY, {"drift": lambda due: "2 of 19 features"})
    shown = brookside("schedule", "-e", "prod", "--json", cwd=tmp_path)
    rows = {row["job"]: row for row in json.loads(shown.stdout)}
    assert list(rows) == ["metrics", "drift", "costs", "retraining"]
    assert (rows["drift"]["last"], rows["drift"]["state"]) == (MONDAY.isoformat(), "done")
    assert all(
        datetime.fromisoformat(row["next"]) > datetime.now(UTC) - timedelta(minutes=5)
        for row in rows.values()
    )
    assert datetime.fromisoformat(rows["retraining"]["next"]).weekday() == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--install", "azure"), "settings.ini [azure] workspace: is not set"),
        (("--install", "systemd"), "one of cron, github, azure would be right"),
        (("-e", "production"), "environment 'production' is not one of dev, staging, prod"),
    ],
)
def test_words_that_schedule_does_not_know_end_in_2(
    words: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = brookside("schedule", *words, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr


def test_wrong_configuration_ends_in_2_with_all_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir(parents=True)
    path.write_text("data_drift: {warning_share: 2, schedule: weekly}\n")
    done = brookside("schedule", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("monitoring-config.yml line 1") == 2
