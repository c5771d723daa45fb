"""The audit trail: complete under load and crashes, and nobody changes it unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from brookside_mlops.audit import AuditLog, audit_log, looks_secret
from brookside_mlops.audit_chain import EVENTS, FIRST, Head, verify_rows
from brookside_mlops.cli import app
from brookside_mlops.errors import InputError
from brookside_mlops.runs import Run

TRIGGERS = ("audit_update", "audit_delete", "audit_insert")
COLUMNS = ("number", "time", "event", "subject", "actor", "details", "previous", "hash")
NAMES = st.text(max_size=8).filter(lambda name: not looks_secret(name))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
DETAILS = st.dictionaries(NAMES, VALUES, max_size=4)


def hash_by_hand(row: dict[str, Any]) -> str:
    """The hash as the notebook describes it: every field but itself, keys sorted, no spaces, UTF-8."""
    rest = {name: value for name, value in row.items() if name != "hash"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def filled(path: Path, rows: int = 6) -> AuditLog:
    log = AuditLog(path)
    for step in range(rows):
        log.append("decision", "cost-prod", {"step": step})
    return log


def tamper(log: AuditLog, *statements: str) -> None:
    """Change the database as someone with a shell would, past the triggers."""
    with closing(sqlite3.connect(log.path)) as database, database:
        for name in TRIGGERS:
            database.execute(f"drop trigger if exists {name}")
        for statement in statements:
            database.execute(statement)


def stored(log: AuditLog) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(log.path)) as database:
        return database.execute(f"select {', '.join(COLUMNS)} from audit order by number").fetchall()


def forge(log: AuditLog, number: int, details: str) -> str:
    """Return SQL that changes a row and gives it the hash of its new content."""
    row = dict(zip(COLUMNS, stored(log)[number - 1], strict=True)) | {"details": json.loads(details)}
    return f"update audit set details = '{details}', hash = '{hash_by_hand(row)}' where number = {number}"


# What a log says


def test_rows_come_back_as_they_were_given(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "state" / "audit.db")
    assert log.rows() == [] and not log.exists
    first = log.append("deploy", "cost-prod", {"version": 7, "weights": (10, 90)})
    second = log.append("approval", "20260102-cost", {"by": "Zoë"}, actor="ci")
    assert log.rows() == [first, second]
    assert first.number == 1 and first.previous == FIRST and second.previous == first.hash
    assert first.details == {"version": 7, "weights": [10, 90]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.time)
    assert first.actor == subprocess.check_output(["id", "-un"], text=True).strip() and second.actor == "ci"


def test_rows_are_chosen_by_subject_number_and_count(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.db")
    for step in range(6):
        log.append("traffic", ("cost-prod", "cost-dev")[step % 2], {"step": step})
    assert [row.number for row in log.rows("cost-dev")] == [2, 4, 6]
    assert [row.number for row in log.rows("cost-dev", after=2)] == [4, 6]
    assert [row.number for row in log.rows(after=3, limit=2)] == [4, 5]
    assert log.rows("cost") == []


def test_the_hash_is_the_one_the_notebook_spells_out() -> None:
    text = (
        '{"actor":"ada","details":{"to":{"blue":90,"green":10},"why":"step 1 of 3"},"event":"traffic","number":1,'
        '"previous":"0000000000000000000000000000000000000000000000000000000000000000",'
        '"subject":"viability-prod","time":"2026-01-02T03:04:05.678+00:00"}'
    )
    tool = subprocess.run(["sha256sum"], input=text, capture_output=True, text=True, check=True)
    digest = tool.stdout.split()[0]
    row = json.loads(text) | {"hash": digest}
    columns = [json.dumps(row[n], separators=(",", ":")) if n == "details" else row[n] for n in COLUMNS]
    assert verify_rows([columns], Head(number=1, hash=digest)).intact


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.text(min_size=1), DETAILS, st.text()), max_size=4))
def test_whatever_is_appended_is_kept_and_hashed_as_described(events: list[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.db")
        made = [log.append(*event) for event in events]
        rows = log.rows()
        assert rows == made and [row.number for row in rows] == list(range(1, len(events) + 1))
        for row, (event, subject, details, actor) in zip(rows, events, strict=True):
            assert (row.event, row.subject, row.details) == (event, subject, details)
            assert row.hash == hash_by_hand(row.model_dump()) and row.actor == (actor or row.actor)
        assert all(after.previous == before.hash for before, after in pairwise(rows))
        assert log.verify().model_dump() == {"rows": len(events), "intact": True, "faults": []}


# What a log refuses


@pytest.mark.parametrize(
    ("event", "subject", "details"),
    [
        ("reboot", "cost-prod", {}),
        ("deploy", "", {}),
        ("deploy", "cost-prod", {"p": float("nan")}),
        ("deploy", "cost-prod", {"why": "\ud800"}),
        ("deploy", "cost-prod", {1: "one"}),
        ("deploy", "cost-prod", {"a": json.loads("[" * 50 + "]" * 50)}),
    ],
)
def test_what_is_no_event_is_refused_and_leaves_no_row(
    tmp_path: Path, event: Any, subject: str, details: Any
) -> None:
    log = filled(tmp_path / "audit.db", 1)
    with pytest.raises(ValueError):
        log.append(event, subject, details)
    assert len(log.rows()) == 1 and log.verify().intact


@given(
    st.sampled_from(
        [
            "key",
            "password",
            "token",
            "secret",
            "connection_string",
            "connectionString",
            "api-key",
            "SAS_TOKEN",
        ]
    ),
    st.sampled_from(["", "primary_", "DB_", "azure."]),
    st.sampled_from([str, str.upper]),
    st.lists(st.booleans(), max_size=4),
)
def test_secrets_by_name_are_refused_at_any_depth_without_being_repeated(
    name: str, prefix: str, case: Callable[[str], str], nesting: list[bool]
) -> None:
    details: Any = {case(prefix + name): "hunter2"}
    for in_list in nesting:
        details = {"inner": [details]} if in_list else {"inner": details}
    with tempfile.TemporaryDirectory() as folder:
        log = AuditLog(Path(folder) / "audit.db")
        with pytest.raises(ValueError, match="looks like a secret") as refused:
            log.append("key", "cost-prod", details)
        assert "hunter2" not in str(refused.value) and not log.exists


@pytest.mark.parametrize(
    "statement",
    [
        "update audit set actor = 'eve' where number = 2",
        "delete from audit where number = 6",
        "insert or replace into audit select number, time, event, subject, 'eve', details, previous, hash from audit where number = 2",
        "insert into audit select 9, time, event, subject, actor, details, hash, hash from audit where number = 6",
        "insert into audit select 7, time, event, subject, actor, details, previous, hash from audit where number = 6",
    ],
)
def test_database_itself_refuses_what_is_not_an_append(tmp_path: Path, statement: str) -> None:
    log = filled(tmp_path / "audit.db")
    before = stored(log)
    with (
        closing(sqlite3.connect(log.path)) as database,
        pytest.raises(sqlite3.IntegrityError, match="append-only"),
    ):
        database.execute(statement)
    assert stored(log) == before and log.verify().intact


def test_file_that_is_no_trail_is_named(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.db")
    log.path.write_text("not a database, but long enough to be one" * 50)
    for act in (log.rows, lambda: log.append("run", "r", {})):
        with pytest.raises(InputError, match=r"audit\.db: file is not a database"):
            act()
    assert not log.verify().intact and "not a database" in log.verify().faults[-1]


# What tampering leaves behind

SHIFT_DOWN = (
    "update audit set number = -number - 1 where number > 2",
    "update audit set number = -number where number < 0",
)
SHIFT_UP = (
    "update audit set number = -number + 1 where number > 3",
    "update audit set number = -number where number < 0",
)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["update audit set actor = 'eve' where number = 3"], ["row 3 was changed"]),
        (
            ["update audit set details = '{\"step\": 2}' where number = 3"],
            ["row 3 was changed: details are not in"],
        ),
        (["update audit set details = '{\"step\":NaN}' where number = 3"], ["row 3 was changed"]),
        (["update audit set details = x'00ff' where number = 3"], ["row 3 was changed"]),
        (["update audit set actor = cast(x'ff' as text) where number = 3"], ["row 3 was changed"]),
        (["update audit set actor = cast(actor as blob) where number = 3"], ["row 3 was changed: actor"]),
        (["update audit set event = 'nothing' where number = 3"], ["row 3 was changed: event"]),
        (["update audit set time = '2020' where number = 3"], ["row 3 was changed: time"]),
        ([f"update audit set hash = '{FIRST}' where number = 3"], ["row 3 was changed"]),
        (["delete from audit where number = 3"], ["row 3 was removed"]),
        (["delete from audit where number in (1, 3, 4)"], ["row 1 was removed", "rows 3 to 4 were removed"]),
        (["delete from audit where number > 4"], ["rows 5 to 6 were removed at the end"]),
        (["delete from audit"], ["rows 1 to 6 were removed at the end"]),
        (["drop table audit"], ["no such table"]),
        (
            [
                "update audit set number = 99 where number = 3",
                "update audit set number = 3 where number = 4",
                "update audit set number = 4 where number = 99",
            ],
            ["row 3 was moved: it was written as row 4", "row 4 was moved: it was written as row 3"],
        ),
        (
            ["delete from audit where number = 3", *SHIFT_UP],
            [
                "row 3 was removed",
                *(f"row {now} was moved: it was written as row {now + 1}" for now in (3, 4, 5)),
            ],
        ),
        (
            [
                *SHIFT_DOWN,
                "insert into audit select 3, time, event, subject, 'eve', details, previous, hash from audit where number = 2",
            ],
            [
                "row 3 was inserted",
                *(f"row {now} was moved: it was written as row {now - 1}" for now in (4, 5, 6, 7)),
            ],
        ),
        (
            [
                "insert into audit select 7, time, event, subject, actor, details, hash, hash from audit where number = 6"
            ],
            ["row 7 was changed"],
        ),
        (
            [
                "insert into audit select -5, time, event, subject, actor, details, hash, hash from audit where number = 6"
            ],
            ["row -5 was changed: number"],
        ),
    ],
)
def test_tampering_is_found_and_the_row_named(tmp_path: Path, statements: list[str], said: list[str]) -> None:
    log = filled(tmp_path / "audit.db")
    tamper(log, *statements)
    found = log.verify()
    assert not found.intact
    for sentence in said:
        assert any(sentence in fault for fault in found.faults), found.faults
    assert len(found.faults) == len(said), found.faults


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "row 1 or row 2 was changed together with its hash: row 2 names another"),
        (3, "row 3 or row 4 was changed together with its hash: row 4 names another"),
        (6, "row 6 was changed together with its hash: the head recorded another"),
    ],
)
def test_row_changed_together_with_its_hash_is_found(tmp_path: Path, number: int, said: str) -> None:
    log = filled(tmp_path / "audit.db")
    tamper(log, forge(log, number, '{"step":99}'))
    (fault,) = log.verify().faults
    assert said in fault


def test_chain_that_begins_elsewhere_is_found(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db", 1)
    row = dict(zip(COLUMNS, stored(log)[0], strict=True)) | {"previous": "1" * 64, "details": {"step": 0}}
    digest = hash_by_hand(row)
    tamper(log, f"update audit set previous = '{'1' * 64}', hash = '{digest}'")
    log.head_file.write_text(Head(number=1, hash=digest).model_dump_json())
    assert log.verify().faults == [
        "row 1 was changed together with its hash: row 1 names another row before it"
    ]


def test_row_forged_onto_the_end_without_a_link_is_found(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    row = dict(zip(COLUMNS, stored(log)[5], strict=True)) | {"number": 7, "details": {"step": 5}}
    values = row | {"details": '{"step":5}', "hash": hash_by_hand(row)}
    quoted = ", ".join(f"'{values[name]}'" for name in COLUMNS)
    tamper(log, f"insert into audit values ({quoted})")
    assert any("row 7 was changed together with its hash" in fault for fault in log.verify().faults)


def test_whole_chain_written_anew_does_not_reach_the_head(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    other = filled(tmp_path / "other" / "audit.db")
    log.path.write_bytes(other.path.read_bytes())
    assert log.verify().faults == ["row 6 was changed together with its hash: the head recorded another"]


@pytest.mark.parametrize("loss", ["head", "head unreadable", "database"])
def test_missing_half_of_a_log_is_a_fault_that_new_events_do_not_heal(tmp_path: Path, loss: str) -> None:
    log = filled(tmp_path / "audit.db")
    if loss == "head":
        log.head_file.unlink()
    elif loss == "head unreadable":
        log.head_file.write_text("7")
    else:
        log.path.unlink()
    said = (
        "rows 1 to 6 were removed at the end"
        if loss == "database"
        else "audit.head is missing or not readable"
    )
    assert said in log.verify().faults[0]
    for step in range(8):
        log.append("decision", "cost-prod", {"after": step})
    (fault,) = log.verify().faults
    assert "audit.head" in fault if "head" in loss else "the head recorded another" in fault


def test_rows_cut_off_stay_missed_when_new_events_take_their_numbers(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    tamper(log, "delete from audit where number > 4")
    log.append("decision", "cost-prod", {"after": 1})
    assert log.verify().faults == ["row 6 was removed at the end: the head recorded row 6"]
    for step in range(3):
        log.append("decision", "cost-prod", {"after": step})
    assert log.verify().faults == ["row 6 was changed together with its hash: the head recorded another"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_changed_column_of_any_row_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = filled(Path(folder) / "audit.db", 4)
        row = data.draw(st.integers(1, 4))
        column = data.draw(st.sampled_from(COLUMNS[1:]))
        old = stored(log)[row - 1][COLUMNS.index(column)]
        new = data.draw(
            (st.text() | st.binary() | st.sampled_from(EVENTS)).filter(lambda value: value != old)
        )
        tamper(log)
        with closing(sqlite3.connect(log.path)) as database, database:
            database.execute(f"update audit set {column} = ? where number = ?", (new, row))
        found = log.verify()
        assert not found.intact and f"row {row} was changed" in found.faults[0]


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_any_other_order_and_any_subset_of_rows_is_found(order: list[int], kept: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = filled(Path(folder) / "audit.db")
        head, rows = log.head(), stored(log)
    assert head is not None
    left = [(place + 1, *rows[old][1:]) for place, old in enumerate(order[:kept])]
    same = order[:kept] == list(range(6))
    assert verify_rows(left, head).intact == same
    gaps = [rows[old] for old in sorted(order[:kept])]
    assert verify_rows(gaps, head).intact == (kept == 6)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("update audit set hash = 'none' where number = 6", "row 6 has no hash to go on from"),
        ("update audit set number = 9223372036854775807 where number = 6", "too large"),
    ],
)
def test_event_after_a_broken_end_is_refused_with_its_reason(
    tmp_path: Path, statement: str, said: str
) -> None:
    log = filled(tmp_path / "audit.db")
    tamper(log, statement)
    with pytest.raises(InputError, match=said):
        log.append("run", "r", {})
    assert len(stored(log)) == 6


# Many at once, and the end of a process

WRITER = """
import sys
from pathlib import Path
from brookside_mlops.audit import AuditLog

log = AuditLog(Path(sys.argv[1]))
for step in range(int(sys.argv[3])):
    print(log.append("decision", sys.argv[2], {"step": step}).number, flush=True)
"""


def writer(path: Path, subject: str, rows: int, before: str = "") -> subprocess.Popen[str]:
    words = [sys.executable, "-c", before + WRITER, str(path), subject, str(rows)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_many_writers_lose_no_row_while_readers_read(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.db")
    writers = {f"endpoint-{one}": writer(log.path, f"endpoint-{one}", 40) for one in range(6)}
    seen = 0
    while any(process.poll() is None for process in writers.values()):
        found = log.verify()
        assert found.intact and found.rows >= seen, found.faults
        seen = len(log.rows())
        assert seen >= found.rows
    told = [int(line) for process in writers.values() for line in process.communicate()[0].split()]
    assert sorted(told) == list(range(1, 241)) and all(one.returncode == 0 for one in writers.values())
    for subject in writers:
        assert [row.details["step"] for row in log.rows(subject)] == list(range(40))
    assert log.verify().model_dump() == {"rows": 240, "intact": True, "faults": []}
    assert log.head() == Head(number=240, hash=log.rows(after=239)[0].hash)


def test_readers_read_while_a_writer_is_in_the_middle_of_its_transaction(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    with closing(sqlite3.connect(log.path, isolation_level=None)) as other:
        other.execute("begin immediate")
        other.execute(
            "insert into audit select 7, time, event, subject, actor, details, hash, hash from audit where number = 6"
        )
        assert len(log.rows()) == 6 and log.verify().intact
        other.execute("rollback")
    assert log.append("run", "r", {}).number == 7


def test_writer_killed_at_any_moment_leaves_a_whole_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.db")
    chance = random.Random(7)
    told = 0
    for life in range(8):
        process = writer(log.path, f"life-{life}", 10_000)
        assert process.stdout is not None
        for _ in range(chance.randrange(1, 12)):
            told = int(process.stdout.readline())
        sum(range(chance.randrange(200_000)))  # so that it is somewhere inside an append
        process.kill()
        told = max(
            [told, *(int(line) for line in process.communicate()[0].splitlines(True) if line.endswith("\n"))]
        )
        assert process.returncode == -signal.SIGKILL
        found = log.verify()
        assert found.intact and found.rows >= told, found.faults
    last = log.append("run", "r", {})
    assert log.head() == Head(number=last.number, hash=last.hash)


DIES = "import os, brookside_mlops.audit as audit\ndef die(*_): os.kill(os.getpid(), 9)\n"


@pytest.mark.parametrize(
    ("moment", "rows", "head"),
    [
        ("audit.AuditLog._create = die", 0, None),
        (
            "old = audit.Path.replace\n"
            "audit.Path.replace = lambda new, to: old(new, to) if to.suffix == '.head' else die()",
            0,
            0,
        ),
        ("audit.row_hash = die", 0, 0),
        ("audit._fits = die", 0, 0),
        (
            "audit._fits = lambda *_: True\nold = audit.AuditLog._write_head\n"
            "audit.AuditLog._write_head = lambda log, head: old(log, head) if head.number == 0 else die()",
            1,
            0,
        ),
    ],
    ids=[
        "before anything",
        "while the database is made",
        "before the row",
        "before commit",
        "before the head",
    ],
)
def test_process_that_dies_inside_an_append_leaves_a_log_that_goes_on(
    tmp_path: Path, moment: str, rows: int, head: int | None
) -> None:
    log = AuditLog(tmp_path / "audit.db")
    process = writer(log.path, "cost-prod", 1, DIES + moment + "\n")
    assert process.communicate()[0] == "" and process.returncode == -signal.SIGKILL
    assert log.verify().model_dump() == {"rows": rows, "intact": True, "faults": []}
    found = log.head()
    assert (found.number if found else None) == head
    row = log.append("run", "r", {})
    assert (
        row.number == rows + 1
        and log.verify().intact
        and log.head() == Head(number=row.number, hash=row.hash)
    )


def test_stale_journal_of_a_deleted_database_is_not_replayed(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db", 2)
    with closing(sqlite3.connect(log.path)) as held:
        held.execute("select * from audit").fetchall()
        log.append("run", "r", {})
        wal = log.path.with_name("audit.db-wal").read_bytes()
    assert wal
    log.path.unlink()
    log.path.with_name("audit.db-wal").write_bytes(wal)
    assert log.append("run", "new", {}).number == 1
    assert [row.subject for row in log.rows()] == ["new"]


# Who writes to it


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["audit", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_approval_of_a_run_is_in_the_trail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    run = Run.create(project, "prod", "viability")
    result = CliRunner().invoke(app, ["approve", run.id, "--as", " Grace "])
    assert result.exit_code == 0
    (row,) = audit_log(run.settings.state).rows(run.id)
    assert row.event == "approval"
    assert row.details == {"by": "Grace", "how": "approve", "environment": "prod"}
    code, output = call("list", "--subject", run.id, "--json")
    assert code == 0 and json.loads(output) == [row.model_dump()]


def test_approval_that_cannot_be_recorded_does_not_count(project: Path) -> None:
    run = Run.create(project, "prod", "viability")
    log = audit_log(run.settings.state)
    log.path.parent.mkdir(parents=True)
    log.path.write_text("not a database" * 100)
    with pytest.raises(InputError, match="not a database"):
        run.approve("Grace", "approve")
    assert Run(run.folder).record.approval is None


def test_verbs_list_verify_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("list") == (0, "no event yet\n")
    assert call("verify")[0] == 2 and call("export")[0] == 2
    log = filled(Path("elsewhere/audit.db"))
    there = ("--state-folder", "elsewhere")
    assert call("verify")[0] == 2
    code, output = call("list", *there)
    assert code == 0 and len(output.splitlines()) == 6 and '{"step":5}' in output.splitlines()[-1]
    code, output = call("verify", *there)
    assert code == 0 and "6 rows, intact" in output and stored(log)[-1][-1] in output
    assert json.loads(call("verify", "--json", *there)[1]) == {"rows": 6, "intact": True, "faults": []}
    assert call("export", "--json", "--output", "copy.json", *there)[0] == 0
    assert call("export", "--output", "copy.json", *there)[0] == 2
    copy = json.loads(Path("copy.json").read_text())
    assert copy == json.loads(call("export", *there)[1])
    assert [row["hash"] for row in copy] == [hash_by_hand(row) for row in copy]


def test_verify_names_the_row_and_exits_with_1(tmp_path: Path) -> None:
    log = filled(tmp_path / "audit.db")
    tamper(log, "update audit set subject = 'cost-dev' where number = 4")
    code, output = call("verify", "--state-folder", str(tmp_path))
    assert code == 1 and output.startswith("row 4 was changed")
    code, output = call("verify", "--json", "--state-folder", str(tmp_path))
    assert code == 1 and json.loads(output)["faults"][0].startswith("row 4 was changed")


def test_actor_without_a_name_is_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = max(one.pw_uid for one in pwd.getpwall() if one.pw_uid < 60_000) + 1
    monkeypatch.setattr(os, "getuid", lambda: free)
    assert AuditLog(tmp_path / "audit.db").append("run", "r", {}).actor == f"uid {free}"
