"""Back to an earlier version: which one, how fast, from where, and that the traffic really went there."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from brookside_mlops.audit import audit_log
from brookside_mlops.endpoints.protocol import Deployment
from brookside_mlops.errors import GateFailed, InputError, RolloutWaits
from brookside_mlops.registry import fetch_bundle, serving_version
from brookside_mlops.releases import Release, Releases
from brookside_mlops.rollback_run import Return, plan_back, release_back, roll_back, stop_rollout
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_run import context_of, deploy_run
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.stages.rollback import probes, rollback
from tests.drivers import BODIES, ONE, Callers, check_whole, die, state_of, until
from tests.registered import Registered


def deployed(registered: Registered, *versions: int) -> None:
    for version in versions:
        record, _ = deploy_run(registered.run(version))
        assert record is not None and record.state == "finished"


def answers(registered: Registered) -> Any:
    return registered.endpoint.score(BODIES[4]).content


# ---- to which version --------------------------------------------------------------------------------------------------------------------


def known(**versions: tuple[int, int]) -> dict[str, Deployment]:
    return {
        name: Deployment(name=name, model_name="m", version=version, sha256=str(version), weight=weight)
        for name, (version, weight) in versions.items()
    }


def release(version: int) -> Release:
    return Release(endpoint="e", deployment="blue", model_name="m", version=version, sha256=str(version))


def test_release_to_go_back_to() -> None:
    history = [release(1), release(2), release(3)]
    there = known(blue=(3, 100), green=(1, 0))
    assert release_back(history, there, "e").version == 2
    assert release_back(history, there, "e", to="green").version == 1
    for to in ("blue", "red"):
        with pytest.raises(InputError, match=f"--to {to}: another deployment would be right; there is green"):
            release_back(history, there, "e", to=to)
    with pytest.raises(InputError, match="there is none"):
        release_back(history, known(blue=(3, 100)), "e", to="red")
    with pytest.raises(InputError, match="nothing serves"):
        release_back(history, known(blue=(3, 0)), "e")
    with pytest.raises(InputError, match="no earlier deployment"):
        release_back([release(3)], there, "e")


def test_pace_by_cause() -> None:
    assert [plan_back(cause, 60, False).steps for cause in ("smoke", "availability", "asked")] == [(100,)] * 3
    gradual = plan_back("error_rate", 60, True)
    assert (gradual.steps, gradual.bake, gradual.strategy) == ((50, 100), 60, "canary")
    with pytest.raises(InputError, match="cause 'mood' is not one of smoke, error_rate, availability, asked"):
        plan_back("mood", 60, False)  # type: ignore[arg-type]


# ---- on a real endpoint ------------------------------------------------------------------------------------------------------------------


def test_deleted_version_is_rebuilt_from_the_registry_and_serves(registered: Registered) -> None:
    deployed(registered, 1, 2)
    assert registered.known() == {"green": 2} and answers(registered) == [6.0]
    with Callers(registered.endpoint) as callers:
        result = rollback(registered.run(2), reason="answers look odd")
        callers.more()
        assert callers.bad == []
    assert (result.from_version, result.to_version, result.verdict) == (2, 1, "pass")
    assert registered.serving() == {"blue": 1} and registered.known() == {"blue": 1, "green": 2}
    assert answers(registered) == [5.0]
    settings = registered.run(1).settings
    history = Releases(settings.state).history(registered.endpoint.name)
    assert [(one.version, bool(one.rolled_back)) for one in history] == [(1, False), (2, True), (1, False)]
    assert serving_version(settings, "brookside-cost", "dev") == 1
    rows = audit_log(settings.state).rows(registered.endpoint.name)
    (asked,) = [row.details for row in rows if row.event == "rollback"]
    assert (asked["reason"], asked["to_version"]) == ("answers look odd", 1)
    check_whole(registered.endpoint)


def test_second_rollback_in_a_row_is_refused_and_changes_nothing(registered: Registered) -> None:
    deployed(registered, 1, 2)
    roll_back(registered.run(2), Return("first"))
    before = registered.endpoint.show()
    for _ in range(2):
        with pytest.raises(InputError, match="there is no earlier deployment to return to"):
            roll_back(registered.run(2), Return("again"))
    assert registered.endpoint.show() == before


def test_rollback_that_is_refused_leaves_no_row_in_the_audit_trail(registered: Registered) -> None:
    registered.settings(strategy="blue-green", rollout_steps="100")
    deployed(registered, 1, 2)
    registered.endpoint.set_traffic({"blue": 50, "green": 50})
    with pytest.raises(InputError, match="splits its traffic"):
        roll_back(registered.run(2), Return("split by hand"))
    rows = audit_log(registered.run(1).settings.state).rows(registered.endpoint.name)
    assert not [row for row in rows if row.event == "rollback"]


def test_rollbacks_walk_back_through_the_releases(registered: Registered) -> None:
    deployed(registered, 1, 2, 3)
    assert [roll_back(registered.run(3), Return("back")).target.version for _ in range(2)] == [2, 1]
    assert answers(registered) == [5.0]


def test_first_version_has_nothing_to_go_back_to(registered: Registered) -> None:
    with pytest.raises(InputError, match="no endpoint"):
        roll_back(registered.run(1), Return("too early"))
    deployed(registered, 1)
    with pytest.raises(InputError, match="no earlier deployment"):
        rollback(registered.run(1), reason="too early")
    assert registered.serving() == {"blue": 1}


def test_kept_deployment_takes_over_without_being_made_again(registered: Registered) -> None:
    registered.settings(strategy="blue-green", rollout_steps="100")
    deployed(registered, 1, 2)
    blue = registered.endpoint.state.deployments()["blue"]
    record = roll_back(registered.run(2), Return("instant"))
    assert record.live == [{"blue": 100, "green": 0}] and answers(registered) == [5.0]
    assert registered.endpoint.state.deployments()["blue"].created == blue.created
    assert set(RolloutStore(registered.run(1).settings.state).kept(registered.endpoint.name)) >= {"green"}


def test_kept_deployment_whose_bundle_is_damaged_is_rebuilt(registered: Registered) -> None:
    registered.settings(strategy="blue-green", rollout_steps="100")
    deployed(registered, 1, 2)
    registered.endpoint.stop()
    (registered.endpoint.state.bundle("blue") / "model.onnx").write_bytes(b"noise")
    assert roll_back(registered.run(2), Return("damaged")).state == "finished"
    assert answers(registered) == [5.0]


def test_named_deployment_takes_over(registered: Registered) -> None:
    registered.settings(strategy="blue-green", rollout_steps="100")
    deployed(registered, 1, 2)
    result = rollback(registered.run(2), to="blue", delete_failed=True)
    assert (result.to_deployment, result.to_version) == ("blue", 1)
    assert registered.known() == {"blue": 1}
    with pytest.raises(InputError, match="--to red: another deployment would be right; there is none"):
        rollback(registered.run(2), to="red")


def test_error_rate_goes_back_in_two_steps_and_no_caller_notices(registered: Registered) -> None:
    deployed(registered, 1, 2)
    with Callers(registered.endpoint) as callers:
        record = roll_back(registered.run(2), Return("errors", "error_rate"))
        callers.more()
        assert callers.bad == []
    assert record.live == [{"blue": 50, "green": 50}, {"blue": 100, "green": 0}]
    assert (record.kind, record.cause) == ("rollback", "error_rate")


def test_version_that_is_not_in_the_registry_leaves_everything_as_it_was(registered: Registered) -> None:
    deployed(registered, 1)
    state, name = registered.run(1).settings.state, registered.endpoint.name
    releases = Releases(state)
    old = releases.history(name)[0]
    releases.finished(old.model_copy(update={"version": 99, "sha256": "f" * 64}))
    with pytest.raises(InputError, match="has no version 99"):
        roll_back(registered.run(1), Return("gone"))
    assert registered.serving() == {"blue": 1} and answers(registered) == [5.0]
    row = RolloutStore(state).last(name)
    assert row is not None and not row.open


def test_registry_that_gives_another_graph_is_found_out(registered: Registered, tmp_path: Path) -> None:
    deployed(registered, 1, 2)
    settings = registered.run(1).settings
    fetched = fetch_bundle(settings, "brookside-cost", 1, tmp_path / "fetched")
    source = next(
        path.parent
        for path in registered.project.rglob("artifacts/bundle/model.onnx")
        if path.read_bytes() == (fetched / "model.onnx").read_bytes()
    )
    other = scratch_bundle(tmp_path / "other", 77)
    kept = shutil.copytree(source, tmp_path / "kept")
    try:
        shutil.copytree(other, source, dirs_exist_ok=True)
        with pytest.raises(InputError, match="is not version 1: its SHA-256 differs"):
            roll_back(registered.run(2), Return("tampered"))
    finally:
        shutil.copytree(kept, source, dirs_exist_ok=True)
    assert registered.serving() == {"green": 2} and registered.known() == {"green": 2}
    assert roll_back(registered.run(2), Return("mended")).state == "finished"


def test_rollback_that_fails_its_smoke_test_says_what_serves(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed(registered, 1, 2)
    from tests.rollouts import failing

    monkeypatch.setattr("brookside_mlops.rollout_run.smoke", failing)
    with pytest.raises(
        GateFailed, match=r"rollback of version 1: smoke test of blue failed.*green serves as before"
    ):
        rollback(registered.run(2), reason="odd")
    assert registered.serving() == {"green": 2} and registered.known() == {"green": 2}


def test_probes_say_who_answers(registered: Registered) -> None:
    registered.settings(strategy="blue-green", rollout_steps="100")
    deployed(registered, 1, 2)
    right, wrong = probes(registered.endpoint, "green", 3), probes(registered.endpoint, "blue", 3)
    assert [check.verdict for check in right] == ["pass"] * 3
    assert [check.verdict for check in wrong] == ["fail", "pass", "fail"]
    assert wrong[2].measured == "0 of 3 answered by blue"


# ---- while something else is under way ---------------------------------------------------------------------------------------------------


def rolled_out(folder: Path, answers: Any) -> None:
    """Roll the version of a run out, in a process of its own."""
    try:
        record, _ = deploy_run(Run(folder))
        answers.put(record.state if record else "")
    except Exception as error:
        answers.put(f"{type(error).__name__}: {error}")


def under_way(registered: Registered, version: int) -> tuple[Any, Any]:
    """Begin a rollout with long bakes in another process and return that and what it will say."""
    registered.settings(bake_scale="1", rollout_steps="50, 100", endpoint=registered.endpoint.name)
    words = ONE.SimpleQueue()
    process = ONE.Process(target=rolled_out, args=(registered.run(version).folder, words))
    process.start()
    until(lambda: registered.endpoint.show().traffic.get("green") == 50)
    return process, words


def test_rollout_that_is_under_way_is_aborted_first(registered: Registered) -> None:
    deployed(registered, 1)
    process, words = under_way(registered, 2)
    result = rollback(registered.run(1), reason="stop that")
    process.join(60)
    assert words.get() == "GateFailed: rollout of version 2: aborted by rollback. blue serves as before."
    assert (result.from_version, result.to_version) == (2, 1)
    assert registered.serving() == {"blue": 1} and registered.known() == {"blue": 1}


def test_rollout_whose_driver_was_killed_is_aborted_first(registered: Registered) -> None:
    deployed(registered, 1)
    process, _ = under_way(registered, 2)
    process.kill()
    process.join()
    record = roll_back(registered.run(1), Return("stop that"))
    assert (record.state, record.reason) == ("restored", "aborted by rollback")
    assert registered.serving() == {"blue": 1} and registered.known() == {"blue": 1}


def test_rollout_that_does_not_stop_is_named_with_its_holder(registered: Registered) -> None:
    deployed(registered, 1)
    process, _ = under_way(registered, 2)
    with closing(sqlite3.connect(registered.project / ".brookside" / "rollouts.db", timeout=60)) as database:
        database.execute("begin immediate")  # so that it is not stopped while it keeps others from writing
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: state_of(process.pid) == "T")
    try:
        with pytest.raises(InputError, match=rf"held by .*process {process.pid} .* and did not stop"):
            stop_rollout(context_of(registered.run(1)), "rollback", patience=0.3)
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.join(60)
    assert registered.serving() == {"blue": 1}


def test_rollout_that_has_moved_no_traffic_yet_is_removed_and_the_release_before_takes_over(
    registered: Registered,
) -> None:
    deployed(registered, 1, 2)
    registered.settings(approval="yes", endpoint=registered.endpoint.name)
    with pytest.raises(Exception, match="waits for an approval"):
        deploy_run(registered.run(3))
    assert registered.known() == {"green": 2, "blue": 3}
    record = roll_back(registered.run(3), Return("back from 2"))
    assert (record.kind, record.target.version, record.state) == ("rollback", 1, "finished")
    assert registered.serving() == {"blue": 1}


def test_nothing_under_way_has_nothing_to_stop(registered: Registered) -> None:
    deployed(registered, 1)
    assert stop_rollout(context_of(registered.run(1)), "Ada") is None


def back_and_die(folder: Path, state: str) -> None:
    """Begin a gradual rollback and die when it gets into a state."""

    def listen(record: Record) -> None:
        if record.kind == "rollback" and record.state == state:
            die()

    roll_back(Run(folder), Return("killed", "error_rate"), listen)


@pytest.mark.parametrize(
    ("command", "state"),
    [("rollback", "create"), ("rollback", "bake"), ("rollback", "finish"), ("deploy", "bake")],
)
def test_killed_rollback_is_gone_on_with_and_never_undone(
    registered: Registered, state: str, command: str
) -> None:
    deployed(registered, 1, 2)
    process = ONE.Process(target=back_and_die, args=(registered.run(2).folder, state))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with Callers(registered.endpoint) as callers:
        if command == "rollback":
            record = roll_back(registered.run(2), Return("again"))
            assert (record.state, record.reason, record.target.version) == ("finished", "killed", 1)
            assert registered.serving() == {"blue": 1}
        else:
            deployed(registered, 3)
            assert registered.serving() == {"green": 3}
        callers.more()
        assert callers.bad == []
        asked = callers.by_deployment
    assert set(name for name, _ in asked) <= {"blue", "green"}
    rows = audit_log(registered.run(1).settings.state).rows(registered.endpoint.name)
    assert any(row.details.get("text") == f"found in state {state}: resumed" for row in rows)
    check_whole(registered.endpoint)


def test_paused_rollback_waits_and_says_so(registered: Registered) -> None:
    deployed(registered, 1, 2)
    store = RolloutStore(registered.run(1).settings.state)
    name = registered.endpoint.name

    def listen(record: Record) -> None:
        if record.state == "bake":
            store.ask(name, "pause", "Ada")

    record = roll_back(registered.run(2), Return("slowly", "error_rate"), listen)
    assert record.waiting == "paused" and registered.serving() == {"blue": 1, "green": 2}
    store.claim(name)
    with pytest.raises(InputError, match="a rollout is under way"):
        rollback(registered.run(2), reason="again")
    store.release()
    assert roll_back(registered.run(2), Return("go on")).state == "finished"
    assert registered.serving() == {"blue": 1}


def test_paused_rollback_stage_is_a_wait(registered: Registered, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(registered, 1, 2)
    paused = roll_back(registered.run(2), Return("back")).model_copy(update={"waiting": "paused"})
    monkeypatch.setattr("brookside_mlops.stages.rollback.roll_back", lambda run, wanted: paused)
    with pytest.raises(RolloutWaits, match="paused at 100 %"):
        rollback(registered.run(2), reason="back")
