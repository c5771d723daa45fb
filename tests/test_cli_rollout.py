"""The verbs around a rollout, as an operator uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from brookside_mlops.audit import audit_log
from brookside_mlops.cli import app
from brookside_mlops.cli_rollout import rollout_lines
from brookside_mlops.errors import GateFailed, InputError, RolloutWaits
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_interrupt import QUESTION, ask_terminal, asking, wish_of
from brookside_mlops.rollout_run import deploy_run
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.rollout_watch import watch_rollout, watch_table, watching
from brookside_mlops.runs import Run
from tests.drivers import ONE, Driver, Order, short_plan, target, until
from tests.registered import Registered
from tests.rollouts import plan
from tests.rollouts import target as memory_target

RUNNER = CliRunner()


def call(*words: str) -> Result:
    result = RUNNER.invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def open_rollout(folder: Path, pause: bool) -> None:
    """Roll the version of a run out; with `pause`, wait in the first bake."""
    run = Run(folder)
    store = RolloutStore(run.settings.state)
    asked: list[int] = []

    def listen(record: Record) -> None:
        if pause and record.state == "bake" and not asked:
            asked.append(1)
            store.ask(record.endpoint, "pause", "Ada")

    try:
        deploy_run(run, listen)
    except (RolloutWaits, GateFailed):
        return


@pytest.fixture
def paused(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Registered:
    """A project in which version 2 is paused at half of the traffic, and nobody drives it."""
    monkeypatch.chdir(registered.project)
    deploy_run(registered.run(1))
    open_rollout(registered.run(2).folder, pause=True)
    return registered


@pytest.fixture
def driven(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Registered, Any]]:
    """A project in which another process bakes version 2 for a long time."""
    monkeypatch.chdir(registered.project)
    deploy_run(registered.run(1))
    registered.settings(bake_scale="1", endpoint=registered.endpoint.name)
    process = ONE.Process(target=open_rollout, args=(registered.run(2).folder, False))
    process.start()
    until(lambda: registered.endpoint.show().traffic.get("green") == 50)
    yield registered, process
    process.kill()
    process.join()


# ---- show --------------------------------------------------------------------------------------------------------------------------------


def test_rollout_is_shown_with_step_evidence_and_moves(paused: Registered) -> None:
    name = paused.endpoint.name
    said = call("rollout", "show", name).output
    assert f"{name}: rollout of version 2 as green, bake, paused" in said
    assert "steps      [50 %] -> 100 %, canary" in said and "held by    nobody" in said
    assert "traffic   green 50 %, blue 50 %" in said and "pause     paused by Ada" in said
    found = json.loads(call("rollout", "show", name, "--json").output)
    assert found["open"] and found["holder"] is None and found["waiting"] == "paused"
    assert (found["new"], found["old"], found["target"]["version"]) == ("green", "blue", 2)


def test_lines_have_the_decision_and_its_warnings() -> None:
    from brookside_mlops.canary import Decision

    decision = Decision(action="continue", reason="baking at 10 %", warnings=["mean prediction 5 against 4"])
    record = Record(
        endpoint="cost-dev",
        plan=plan(),
        target=memory_target(2),
        new="green",
        old="blue",
        before={"blue": 100},
        state="bake",
        baked=4,
        decision=decision,
    )
    text = "\n".join(rollout_lines(record, "Ada (process 1 on here), since now"))
    assert "bake       4.0 of 10.0 s" in text and "decision   continue: baking at 10 %" in text
    assert "warning    mean prediction 5 against 4" in text and "held by    Ada (process 1" in text


def test_holder_that_was_killed_is_shown_as_gone(driven: tuple[Registered, Any]) -> None:
    registered, process = driven
    name = registered.endpoint.name
    shown = call("rollout", "show", name).output
    assert f"(process {process.pid} on" in shown and "is gone" not in shown
    process.kill()
    process.join()
    shown = call("rollout", "show", name).output
    assert "held by    nobody: " in shown and f"(process {process.pid} on" in shown
    assert f"is gone; brookside-mlops rollout resume {name} goes on" in shown


@pytest.mark.parametrize(
    ("old", "state", "said"),
    [
        ("", "finished", "steps      100 %,"),
        ("blue", "finished", "steps      10 % -> 50 % -> 100 %,"),
        ("blue", "bake", "steps      [10 %] -> 50 % -> 100 %,"),
    ],
)
def test_step_of_now_is_marked_as_long_as_there_is_one(old: str, state: Any, said: str) -> None:
    record = Record(
        endpoint="cost-dev",
        plan=plan(),
        target=memory_target(2),
        new="green",
        old=old,
        before={},
        state=state,
    )
    assert said in "\n".join(rollout_lines(record, ""))


def test_endpoint_without_a_rollout_is_named(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(registered.project)
    for words in (("show",), ("pause",), ("resume",), ("abort",), ("promote", "--now")):
        result = call("rollout", words[0], "nothing-dev", *words[1:])
        assert result.exit_code == 2 and "endpoint 'nothing-dev' has no rollout" in result.output


# ---- wishes ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "serves"),
    [(("resume",), 0, 2), (("abort",), 0, 1), (("promote", "--now"), 0, 2)],
)
def test_rollout_that_nobody_drives_is_taken_over(
    paused: Registered, words: tuple[str, ...], code: int, serves: int
) -> None:
    name = paused.endpoint.name
    result = call("rollout", words[0], name, *words[1:])
    assert result.exit_code == code, result.output
    assert "found in state bake: resumed" in result.output and "paused by Ada" not in result.output
    assert list(paused.serving().values()) == [serves]
    again = call("rollout", words[0], name, *words[1:])
    ended = "restored" if words[0] == "abort" else "finished"
    assert again.exit_code == 2 and f"no rollout is open; the last one is {ended}" in again.output


@pytest.mark.parametrize("version", [2, 3])
def test_deploy_over_a_paused_rollout_says_who_paused_it_and_changes_nothing(
    paused: Registered, version: int
) -> None:
    name = paused.endpoint.name
    before = RolloutStore(paused.run(1).settings.state).last(name)
    said = rf"version 2 is paused at 50 % by Ada since \d{{4}}-.* UTC: brookside-mlops rollout resume {name}, promote {name} --now"
    with pytest.raises(RolloutWaits, match=said):
        deploy_run(paused.run(version))
    result = call("rollout", "pause", name)
    assert result.exit_code == 3 and "is paused at 50 % by Ada since" in result.output
    after = RolloutStore(paused.run(1).settings.state).last(name)
    assert before is not None and after is not None and before.document == after.document
    assert paused.serving() == {"blue": 1, "green": 2}


def test_abort_that_comes_too_late_is_refused(paused: Registered) -> None:
    name, store = paused.endpoint.name, RolloutStore(paused.run(1).settings.state)
    row = store.claim(name)
    assert row is not None
    record = Record.model_validate_json(row.document).model_copy(update={"state": "finish", "waiting": ""})
    store.save(row.id, record.model_dump_json())
    events = len(audit_log(store.path.parent).rows(name))
    result = call("rollout", "abort", name)  # of this very process, which holds it
    assert (
        result.exit_code == 2
        and "past its last step and finishes: too late to abort"
        in result.output.replace("has passed", "past")
    )
    assert len(audit_log(store.path.parent).rows(name)) == events
    store.release()
    result = call("rollout", "abort", name)
    assert result.exit_code == 2 and "too late to abort: the rollout was past its last step" in result.output
    assert paused.serving() == {"green": 2}


def test_taking_over_with_json_prints_the_record_alone(paused: Registered) -> None:
    result = call("rollout", "resume", paused.endpoint.name, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["state"] == "finished"


def test_driver_is_asked_and_does_it(driven: tuple[Registered, Any]) -> None:
    registered, process = driven
    name = registered.endpoint.name
    refused = call("rollout", "resume", name)
    assert refused.exit_code == 2 and f"held by root (process {process.pid}" in refused.output.replace(
        os.environ.get("USER", "root"), "root"
    )
    result = call("rollout", "abort", name, "--json")
    found = json.loads(result.stdout)
    assert (found["asked"], found["holder"]["pid"]) == ("abort", process.pid)
    rows = audit_log(registered.run(1).settings.state).rows(name)
    assert any(row.event == "abort" and row.details["text"].endswith("asked to abort") for row in rows)
    process.join(60)
    assert registered.serving() == {"blue": 1} and registered.known() == {"blue": 1}
    shown = call("rollout", "show", name).output
    assert "restored" in shown and "aborted by" in shown


def test_promote_must_say_now(paused: Registered) -> None:
    result = call("rollout", "promote", paused.endpoint.name)
    assert result.exit_code == 2 and "say --now" in result.output
    assert paused.serving() == {"blue": 1, "green": 2}


def test_second_deploy_is_refused_with_who_holds_the_first(driven: tuple[Registered, Any]) -> None:
    registered, process = driven
    with pytest.raises(InputError, match=rf"held by .+ \(process {process.pid} on .+\), since \d{{4}}"):
        deploy_run(registered.run(3))
    assert registered.serving() == {"blue": 1, "green": 2}


def test_rollout_that_belongs_to_no_run_is_driven_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = RolloutStore(tmp_path / ".brookside")
    record = Record(endpoint="cost-dev", plan=plan(), target=memory_target(2), new="blue", old="", before={})
    store.begin("cost-dev", record.model_dump_json())
    store.release()
    result = call("rollout", "resume", "cost-dev")
    assert result.exit_code == 2 and "belongs to no run" in result.output


def test_traffic_by_hand_is_refused_while_a_rollout_is_open_and_audited_after(paused: Registered) -> None:
    name = paused.endpoint.name
    result = call("endpoint", "traffic", name, "--set", "blue=100")
    assert result.exit_code == 2 and f"rollout abort {name}" in result.output
    assert paused.serving() == {"blue": 1, "green": 2}
    call("rollout", "resume", name)
    assert call("endpoint", "traffic", name, "--set", "green=0").exit_code == 0
    row = audit_log(paused.run(1).settings.state).rows(name)[-1]
    assert (row.event, row.details) == ("traffic", {"set": {"green": "0"}})


def test_rollback_to_what_is_not_there_is_refused_before_a_notebook_starts(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(registered.project)
    deploy_run(registered.run(1))
    name, run = registered.endpoint.name, registered.run(1)
    for words, said in ((("--to", "nope"), "--to nope: another deployment"), ((), "no earlier deployment")):
        result = call("rollback", "--endpoint", name, *words)
        assert result.exit_code == 2 and said in result.output
    assert (
        "rollback" not in registered.run(1).record.stages and not (run.folder / "09_rollback.ipynb").exists()
    )


# ---- watch -------------------------------------------------------------------------------------------------------------------------------


def test_watch_follows_to_the_end(driven: tuple[Registered, Any]) -> None:
    registered, _ = driven
    code = "from brookside_mlops.cli import main; main()"
    words = ["rollout", "show", registered.endpoint.name, "--watch"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.PIPE,
        text=True,
        cwd=registered.project,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if "traffic   green 50 %, blue 50 %" in line:
                break
        call("rollout", "abort", registered.endpoint.name)
        rest = process.stdout.read()
        assert process.wait(60) == 0
    assert "aborted by" in rest and "blue 100 %, as before" in rest


def test_watch_ends_when_nobody_drives_any_more(driven: tuple[Registered, Any]) -> None:
    registered, process = driven
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    record = watch_rollout(registered.run(1).settings.state, registered.endpoint.name, lambda seconds: None)
    assert record is not None and record.state in ("shift", "bake")
    assert watch_rollout(registered.run(1).settings.state, "nothing-dev") is None


def test_watch_on_a_terminal_draws_the_steps(
    paused: Registered, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    assert watch_rollout(paused.run(1).settings.state, paused.endpoint.name) is not None
    text = screen.getvalue()
    assert "version 2 as green" in text and "green 50 %" in text and "baking" in text


@pytest.mark.parametrize(
    ("state", "step", "words"),
    [
        ("smoke", 0, ["smoke", "", ""]),
        ("bake", 1, ["done", "baking", ""]),
        ("finished", 2, ["done", "done", "done"]),
    ],
)
def test_table_says_where_the_rollout_is(state: Any, step: int, words: list[str]) -> None:
    record = Record(
        endpoint="cost-dev",
        plan=plan(),
        target=memory_target(2),
        new="green",
        old="blue",
        before={"blue": 100},
        state=state,
        step=step,
    )
    *_, states = [list(column.cells) for column in watch_table(record).columns]
    assert states == words


def test_watching_shows_a_rollout_that_begins_in_the_block(
    registered: Registered, capfd: pytest.CaptureFixture[str]
) -> None:
    with watching(registered.run(1)):
        deploy_run(registered.run(1))
        until(lambda: "serves" in capfd.readouterr().out)


# ---- Ctrl-C ------------------------------------------------------------------------------------------------------------------------------


def test_answers_to_the_question() -> None:
    assert [wish_of(text) for text in ("a\n", "Pause", " l ", "", "x")] == ["abort", "pause", "leave", "", ""]


def test_without_a_terminal_an_interrupt_aborts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("p\n"))
    assert ask_terminal() == "abort"
    person = StringIO("p\n")
    person.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", person)
    assert ask_terminal() == "p\n" and capsys.readouterr().err == QUESTION


def test_interrupt_asks_while_a_rollout_is_under_way_and_is_one_otherwise(
    driven: tuple[Registered, Any],
) -> None:
    registered, process = driven
    run = registered.run(2)
    assert threading.current_thread() is threading.main_thread()
    with asking(lambda: run, lambda: ""):
        os.kill(os.getpid(), signal.SIGINT)
    assert process.is_alive()
    with asking(lambda: run, lambda: "abort"):
        os.kill(os.getpid(), signal.SIGINT)
    process.join(60)
    assert registered.serving() == {"blue": 1}
    with asking(lambda: run, lambda: "leave"), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_short_plans_are_those_of_the_fault_tests(tmp_path: Path) -> None:
    """The drivers of tests roll out what they are told, without a run."""
    from brookside_mlops.scratch import scratch_bundle

    bundle = scratch_bundle(tmp_path / "b", 1)
    driver = Driver(Order(tmp_path / "state", target(bundle, 1), short_plan()))
    try:
        assert driver.record().state == "finished"
    finally:
        from brookside_mlops.endpoints.local import stop_all

        stop_all(tmp_path / "state")
