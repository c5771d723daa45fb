"""The doctor finds what is missing or broken, and says how to mend it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops.audit import audit_log
from brookside_mlops.cli import app
from brookside_mlops.doctor import local_checks
from brookside_mlops.doctor_project import (
    check_channels,
    check_monitoring,
    check_notebooks,
    check_notion,
    check_prices,
    check_project,
    check_settings,
    check_tracking,
)
from brookside_mlops.doctor_state import (
    check_audit,
    check_databases,
    check_keys,
    check_space,
    check_state,
    check_writing,
)
from brookside_mlops.doctor_tools import (
    check_git,
    check_java,
    check_loopback,
    check_machine,
    check_node,
    check_packages,
    check_python,
    check_quarto,
)
from brookside_mlops.findings import Finding, examine

ROOT = Path(__file__).resolve().parent.parent


def verdicts(found: object) -> list[str]:
    return [one.verdict for one in found]  # type: ignore[attr-defined]


def program(folder: Path, name: str, says: str) -> dict[str, str]:
    """Put a program that prints something on a path of its own, and return that path."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return {"PATH": str(folder)}


def edited(project: Path, old: str, new: str) -> Path:
    """Give a project settings of its own, with one thing changed."""
    text = (ROOT / "settings.ini").read_text()
    assert old in text
    (project / "settings.ini").write_text(text.replace(old, new, 1))
    return project


def test_tools_are_found_and_missed(tmp_path: Path) -> None:
    assert verdicts(check_python((3, 11))) == ["pass"] and verdicts(check_python((3, 10))) == ["fail"]
    assert verdicts(check_git({"PATH": ""})) == ["fail"]
    assert verdicts(check_git(program(tmp_path, "git", "git version 2"))) == ["pass"]
    assert verdicts(check_quarto({"PATH": ""})) == ["warning"]
    assert verdicts(check_quarto(program(tmp_path, "quarto", "1.5.57"))) == ["warning"]
    assert verdicts(check_quarto(program(tmp_path, "quarto", "1.8.24"))) == ["pass"]
    assert verdicts(check_java({"PATH": ""}, spark=False)) == ["pass"]
    assert verdicts(check_java({"PATH": ""}, spark=True)) == ["warning"]


def test_node_is_asked_about_only_where_its_packages_are(tmp_path: Path) -> None:
    assert verdicts(check_node({"PATH": ""})) == ["pass"]
    there = {"BROOKSIDE_NODE_PACKAGES": str(tmp_path)}
    assert verdicts(check_node({"PATH": "", **there})) == ["warning"]
    environ = {**program(tmp_path, "node", "v22"), **there}
    (found,) = check_node(environ)
    assert "node_modules/azurite" in found.seen
    (tmp_path / "node_modules" / "azurite").mkdir(parents=True)
    assert verdicts(check_node(environ)) == ["pass"]


def test_packages_of_other_versions_are_named() -> None:
    assert verdicts(check_packages()) == ["pass"]
    (found,) = check_packages(["numpy<1", "no-such-package", "pandas; extra == 'spark'", "typer"])
    assert "numpy is" in found.seen and "no-such-package is missing" in found.seen
    assert "pandas" not in found.seen and "typer" not in found.seen


def test_each_wrong_setting_is_a_finding_once(project: Path) -> None:
    assert verdicts(check_settings(project)) == ["pass"]
    edited(project, "test_share = 0.15", "test_share = 3\nthread = 2")
    found = list(check_settings(project))
    assert verdicts(found) == ["fail", "fail"]
    assert {one.seen.split(":")[0] for one in found} == {
        "settings.ini [DEFAULT] test_share",
        "settings.ini [DEFAULT] thread",
    }


def test_wrong_monitoring_is_found(project: Path) -> None:
    assert verdicts(check_monitoring(project)) == ["pass"]
    path = project / "azure-ml" / "monitoring" / "monitoring-config.yml"
    path.parent.mkdir(parents=True)
    path.write_text("performance_metrics: {max_error_rate: 5}\n")
    (found,) = check_monitoring(project)
    assert found.verdict == "fail" and "max_error_rate" in found.seen


def test_old_prices_are_a_warning(project: Path) -> None:
    edited(project, "as_of = 2026-11-25", "as_of = 2025-01-01")
    assert verdicts(check_prices(project, date(2025, 1, 2))) == ["pass"]
    (found,) = check_prices(project, date(2026, 11, 28))
    assert (found.verdict, found.mend) == ("warning", "brookside-mlops costs refresh")


def test_channels_that_lead_nowhere_are_found_and_their_secrets_not_shown(project: Path) -> None:
    (found,) = check_channels(project, {})
    assert found.verdict == "warning" and "BROOKSIDE_NOTIFY_ONCALL" in found.seen
    (found,) = check_channels(project, {"BROOKSIDE_NOTIFY": "mailto://user:hunter2@example.com"})
    assert found.verdict == "pass" and "hunter2" not in repr(found)


def test_tracker_without_a_token_is_found(project: Path) -> None:
    assert verdicts(check_notion(project, {})) == ["pass"]
    edited(project, "database =\n", "database = 0123456789abcdef0123456789abcdef\n")
    assert verdicts(check_notion(project, {})) == ["warning"]
    assert verdicts(check_notion(project, {"BROOKSIDE_NOTION_TOKEN": "secret"})) == ["pass"]


def test_folder_that_is_no_folder_cannot_be_written(tmp_path: Path) -> None:
    assert verdicts(check_state(tmp_path / "new")) == ["pass"]
    (tmp_path / "taken").write_text("a file")
    assert verdicts(check_state(tmp_path / "taken")) == ["fail"]
    assert verdicts(check_writing(tmp_path)) == ["pass"]
    (tmp_path / "parameterized").write_text("a file")
    assert verdicts(check_writing(tmp_path)) == ["fail"]


def test_keys_that_others_may_read_are_found(tmp_path: Path) -> None:
    keys = tmp_path / "endpoints" / "viability-dev" / "keys"
    keys.parent.mkdir(parents=True)
    keys.write_text("a\nb\nc\n")
    keys.chmod(0o644)
    (found,) = check_keys(tmp_path)
    assert (found.verdict, found.mend) == ("fail", f"chmod 600 {keys}")
    keys.chmod(0o600)
    assert verdicts(check_keys(tmp_path)) == ["pass"]


def test_machine_with_less_than_settings_give_away(project: Path) -> None:
    assert verdicts(check_machine(project, cores=8, memory_mb=64_000)) == ["pass", "pass"]
    assert verdicts(check_machine(project, cores=1, memory_mb=1000)) == ["warning", "warning"]


def test_full_disk_fails_and_a_nearly_full_one_warns(tmp_path: Path) -> None:
    assert [verdicts(check_space(tmp_path, free)) for free in (50, 1, 0.1)] == [
        ["pass"],
        ["warning"],
        ["fail"],
    ]


def test_broken_database_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "good.db")) as database, database:
        database.execute("create table one (a integer)")
    assert verdicts(check_databases(tmp_path)) == ["pass"]
    whole = (tmp_path / "good.db").read_bytes()
    broken = tmp_path / "endpoints" / "bad.db"
    broken.parent.mkdir()
    broken.write_bytes(whole[:100] + bytes([255] * (len(whole) - 100)))
    before = broken.read_bytes()
    (found,) = check_databases(tmp_path)
    assert found.verdict == "fail" and str(broken) in found.seen and "recover" in found.mend
    assert broken.read_bytes() == before


def test_audit_trail_that_was_changed_is_found(tmp_path: Path) -> None:
    assert verdicts(check_audit(tmp_path)) == ["pass"]
    log = audit_log(tmp_path)
    log.append("deploy", "viability-dev", {"version": 1})
    assert verdicts(check_audit(tmp_path)) == ["pass"]
    with closing(sqlite3.connect(log.path)) as database, database:
        for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            database.execute(f"drop trigger {name}")
        database.execute("update audit set details = '{}'")
    assert verdicts(check_audit(tmp_path)) == ["fail"]


def test_folder_without_settings_is_told(project: Path) -> None:
    assert verdicts(check_project(project)) == ["warning"]
    assert verdicts(check_project(edited(project, "seed", "seed"))) == ["pass"]


def test_tracking_server_that_does_not_answer_is_told_without_its_password(project: Path) -> None:
    assert verdicts(check_tracking(project)) == ["pass"] * len(verdicts(check_tracking(project)))
    edited(project, "tracking_uri =", "tracking_uri = http://ada:hunter2@127.0.0.1:9/mlflow")
    (found,) = check_tracking(project)
    assert found.verdict == "fail" and "127.0.0.1:9" in found.seen and "hunter2" not in repr(found)


def test_loopback_answers() -> None:
    assert verdicts(check_loopback()) == ["pass"]


def test_edit_on_one_side_alone_is_found(tmp_path: Path) -> None:
    for name in ("nbs/parts", "brookside_mlops"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "nbs/parts/files.ipynb", tmp_path / "nbs/parts")
    assert verdicts(check_notebooks(tmp_path)) == ["fail"]
    module = shutil.copy(ROOT / "brookside_mlops/files.py", tmp_path / "brookside_mlops")
    assert verdicts(check_notebooks(tmp_path)) == ["pass"]
    Path(module).write_text(Path(module).read_text().replace("indent=2", "indent=4"))
    (found,) = check_notebooks(tmp_path)
    assert "files.ipynb" in found.seen and "tools/export.py" in found.mend


def test_this_clone_is_in_step() -> None:
    assert verdicts(check_notebooks(ROOT)) == ["pass"]


def test_error_of_one_check_does_not_end_the_others() -> None:
    def broken() -> list[Finding]:
        raise OSError(28, "No space left on device")

    found = examine([("quota", "a", broken), ("network", "b", check_loopback)])
    assert verdicts(found) == ["fail", "pass"]


def test_everything_that_is_wrong_says_how_to_mend_it(project: Path) -> None:
    assert all(one.mend for one in examine(local_checks(project, {"PATH": ""})) if one.verdict != "pass")


def test_settings_that_cannot_be_read_are_a_finding(project: Path) -> None:
    (project / "settings.ini").write_text("[DEFAULT\n")
    found = examine(local_checks(project))
    assert ("settings", "fail") in {(one.area, one.verdict) for one in found}


def test_command_ends_in_0_or_1(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    good = CliRunner().invoke(app, ["doctor", "--json"])
    shown = json.loads(good.stdout)
    assert good.exit_code == 0 and shown["passed"] and shown["target"] == "local"
    (project / ".brookside").write_text("a file")
    bad = CliRunner().invoke(app, ["doctor"])
    assert bad.exit_code == 1 and "state folder" in bad.stdout and "→ let" in bad.stdout


def test_help_needs_none_of_what_it_examines() -> None:
    code = "import sys, brookside_mlops.cli; print([m for m in ('mlflow', 'azure', 'pandas') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"
