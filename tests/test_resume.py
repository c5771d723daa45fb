"""Runs that are stopped, overtaken, moved or rolled back, and what going on does then."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.endpoints.local import LocalEndpoint, stop_all
from brookside_mlops.errors import GateFailed, InputError
from brookside_mlops.fingerprints import fingerprint
from brookside_mlops.holds import hold, holder
from brookside_mlops.pipeline import LINE, advance, promote, run_line, run_stage, stage_parameters
from brookside_mlops.readiness import need_ready
from brookside_mlops.reporting import Reporter, progress_of, show_end, state_of, summary
from brookside_mlops.run_record import StageRecord
from brookside_mlops.runs import Run
from brookside_mlops.serving import serves, successor
from tests.test_pipeline import SMALL, Log, easy

ADVANCE = (
    "import sys; from pathlib import Path; from brookside_mlops.runs import Run; from brookside_mlops.pipeline import advance;"
    "advance(Run(Path(sys.argv[1])), lambda event: print(event.kind, event.stage, flush=True))"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a project with one dev run whose version serves."""
    project = tmp_path_factory.mktemp("served")
    easy(project)
    advance(Run.create(project, "dev", "viability", SMALL), Log())
    yield project
    stop_all(project / ".brookside")


@pytest.fixture
def copied(served: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a copy of the project with the run; the original's server is not the copy's."""
    stop_all(served / ".brookside")
    project = tmp_path / "copy"
    shutil.copytree(served, project)
    yield project
    stop_all(project / ".brookside")


def only_run(project: Path) -> Run:
    (path,) = (project / "parameterized" / "dev").glob("*/run.json")
    return Run(path.parent)


def raise_gate(project: Path, gate: str) -> None:
    text = (project / "settings.ini").read_text()
    assert "min_accuracy = 0.75" in text
    (project / "settings.ini").write_text(text.replace("min_accuracy = 0.75", gate))


def break_smoke_test(project: Path, code: str) -> Path:
    """Give a project a smoke test of its own that ends in some code before its verdict; return its path."""
    source = Path(__file__).resolve().parent.parent / "nbs" / "stages" / "07_smoke_test.ipynb"
    book = json.loads(source.read_text())
    book["cells"].insert(-1, {**book["cells"][-1], "id": "broken", "source": code})
    own = project / "nbs" / "stages" / source.name
    own.parent.mkdir(parents=True)
    own.write_text(json.dumps(book))
    return own


def test_failed_gate_keeps_a_run_from_registration_deployment_and_promotion(copied: Path) -> None:
    raise_gate(copied, "min_accuracy = 0.9999")
    run = only_run(copied)
    with pytest.raises(GateFailed, match="accuracy"):
        run_stage(run, "evaluate", {"bootstrap": 100}, Log())
    for stage in ("register", "deploy"):
        before = run.record.model_dump()
        with pytest.raises(
            GateFailed, match=f"{stage} needs evaluate to be done and passed, but evaluate failed"
        ):
            run_stage(run, stage, {}, Log())
        assert run.record.model_dump() == before
    with pytest.raises(GateFailed, match="promote needs evaluate"):
        promote(run, "staging")
    assert not list((copied / "parameterized").glob("staging/*"))


def test_retrained_model_has_to_be_evaluated_before_it_is_deployed(copied: Path) -> None:
    run = only_run(copied)
    run_stage(run, "train", {"trees": 3}, Log())
    states = {stage: one.state for stage, one in run.record.stages.items()}
    assert states["train"] == "done" and states["validate"] == "done"
    assert {states[stage] for stage in ("evaluate", "register", "deploy", "smoke_test", "drift")} == {
        "pending"
    }
    for stage in ("register", "deploy"):
        with pytest.raises(InputError, match=r"evaluate is pending \(train has made something else since"):
            run_stage(run, stage, {}, Log())
    with pytest.raises(InputError, match="promote needs evaluate"):
        promote(run, "staging")


def test_stage_run_again_to_the_same_result_leaves_the_rest_as_it_is(copied: Path) -> None:
    run = only_run(copied)
    parameters = stage_parameters(copied, LINE, SMALL)["engineer"]
    run_stage(run, "engineer", parameters, Log(), fingerprint(run, "engineer", parameters))
    assert {run.record.stages[stage].state for stage in LINE} == {"done"}
    need_ready(run, "promote")


def test_gates_that_were_raised_since_ask_for_another_evaluation(copied: Path) -> None:
    raise_gate(copied, "min_accuracy = 0.76")
    run = only_run(copied)
    with pytest.raises(InputError, match=r"min_accuracy was 0\.75, is 0\.76"):
        run_stage(run, "deploy", {}, Log())
    log = Log()
    advance(Run(run.folder), log)
    assert log.stages("begin")[0] == "evaluate" and "train" in log.stages("skip")


def test_damaged_artifact_keeps_a_run_from_deployment(copied: Path) -> None:
    run = only_run(copied)
    (run.folder / "evaluate.json").write_text("{}")
    with pytest.raises(InputError, match="evaluate is done, but its files are not those that it wrote"):
        run_stage(run, "deploy", {}, Log())


def test_approval_falls_with_the_model_it_was_given_for(project: Path) -> None:
    from tests.test_runs import finish

    run = Run.create(project, "prod", "viability")
    finish(run, "train", "model.skops", "one")
    run.approve("Ada", "test")
    finish(run, "engineer", "features.json", "{}")
    finish(run, "train", "model.skops", "one")
    assert run.record.approval is not None
    finish(run, "train", "model.skops", "another")
    assert run.record.approval is None


def test_rolled_back_run_is_pending_again_and_can_be_resumed(copied: Path) -> None:
    first = only_run(copied)
    own = break_smoke_test(
        copied, "from brookside_mlops.errors import GateFailed\n\nraise GateFailed('P95 9 s, required 3 s')"
    )
    second = Run.create(copied, "dev", "viability", SMALL | {"depth": 4}, ("staging",))
    with pytest.raises(GateFailed, match="P95"):
        advance(second, Log())
    stages = Run(second.folder).record.stages
    assert {stages[stage].state for stage in ("deploy", "smoke_test")} == {"pending"}
    assert stages["deploy"].error.startswith("rolled back to version 1: ") and "P95" in stages["deploy"].error
    assert not serves(second) and serves(first)
    assert progress_of(Run(second.folder)) == "pending at deploy"
    with pytest.raises(
        InputError, match=r"promote needs deploy to be done and passed, but deploy is pending \(rolled back"
    ):
        promote(second, "staging")
    own.unlink()
    log = Log()
    advance(Run(second.folder), log)
    assert log.stages("begin")[:2] == ["deploy", "smoke_test"] and serves(second)


def test_run_that_was_overtaken_says_so_and_ends_well(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = only_run(copied)
    second = Run.create(copied, "dev", "viability", SMALL | {"depth": 4})
    advance(second, Log())
    log = Log()
    run_line(first, log)
    assert log.stages("begin") == [] and log.stages("superseded") == ["deploy"]
    assert successor(first) == f"version 2 of run {second.id} serves now"
    reporter = Reporter()
    reporter(log.events[-1])
    show_end(reporter.console, first)
    said = capsys.readouterr().out
    assert said.count(f"version 2 of run {second.id} serves now") == 2 and "curl" not in said
    found = summary(first)
    assert found["serves"] is False and "scoring_uri" not in found and "key_file" not in found
    assert summary(second)["serves"] is True and summary(second)["scoring_uri"].startswith("http")
    run_stage(
        first, "rollback", {"reason": "asked for"}, Log()
    )  # asked of one run, it is the other's version that goes
    assert Run(second.folder).record.stages["deploy"].state == "pending" and serves(first)
    assert Run(first.folder).record.stages["deploy"].state == "done"


def test_project_that_was_moved_works_where_it_is_now_and_deploys_again(copied: Path) -> None:
    shutil.rmtree(copied / ".brookside" / "endpoints")
    run = only_run(copied)
    assert run.project == copied.resolve() and run.settings.state == copied / ".brookside"
    endpoint = LocalEndpoint(run.settings.state, "viability-dev")
    endpoint.state.create()
    assert endpoint.curl_line() == ""
    assert "serves" in summary(run) and not summary(run)["serves"]
    log = Log()
    advance(run, log)
    assert log.stages("begin")[0] == "deploy" and set(log.stages("skip")) >= set(LINE[:5])
    assert serves(run) and "curl" in endpoint.curl_line()


def test_lost_registry_registers_and_deploys_again_without_training(copied: Path) -> None:
    for path in (copied / ".brookside").glob("mlflow.db*"):
        path.unlink()
    log = Log()
    advance(only_run(copied), log)
    assert log.stages("begin")[0] == "register" and set(log.stages("skip")) >= set(LINE[:4])
    assert serves(only_run(copied))


def test_smoke_test_that_breaks_off_rolls_back(copied: Path) -> None:
    second = Run.create(copied, "dev", "viability", SMALL | {"depth": 4})
    break_smoke_test(copied, "raise ZeroDivisionError")
    log = Log()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        advance(second, log)
    assert log.stages("begin")[-2:] == ["smoke_test", "rollback"] and serves(only_run_of(copied, second))


def only_run_of(project: Path, other: Run) -> Run:
    paths = (project / "parameterized" / "dev").glob("*/run.json")
    (found,) = (path.parent for path in paths if path.parent != other.folder)
    return Run(found)


def test_second_process_on_a_run_is_refused_and_told_who_holds_it(project: Path) -> None:
    run = Run.create(project, "dev", "viability", SMALL)
    code = (
        "import sys; from pathlib import Path; from brookside_mlops.holds import hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        for work in (lambda: advance(run, Log()), lambda: run_stage(run, "validate", {}, Log())):
            with pytest.raises(
                InputError, match=rf"being worked on by process {process.pid} on \S+ since 20"
            ):
                work()
        assert f"process {process.pid}" in holder(run.folder)
        process.kill()
    assert holder(run.folder) == ""
    with hold(run.folder):
        pass
    assert Run(run.folder).record.stages == {}


def test_interrupted_stage_says_so_and_runs_again(project: Path) -> None:
    run = Run.create(project, "dev", "viability", SMALL)
    with subprocess.Popen(
        [sys.executable, "-c", ADVANCE, str(run.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("cell engineer"):
                os.kill(process.pid, signal.SIGINT)
                break
        assert process.wait() != 0
    record = Run(run.folder).record.stages["engineer"]
    assert (record.state, record.error) == ("interrupted", "interrupted by Ctrl-C")
    assert progress_of(Run(run.folder)) == "interrupted at engineer"


def test_stage_of_a_process_that_is_gone_is_interrupted(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    with run.change() as record:
        record.stages["validate"] = StageRecord(state="running")
    with hold(run.folder):
        assert state_of(run, "validate") == "running"
    assert (
        state_of(run, "validate") == "interrupted"
        and summary(run)["stages"]["validate"]["state"] == "interrupted"
    )


def test_missing_table_is_refused_before_a_stage_starts(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    with pytest.raises(InputError, match=r"drift\.current: no such file: .*missing\.csv"):
        run_stage(run, "drift", {"current": "missing.csv"}, Log())
    assert Run(run.folder).record.stages == {}


def test_stage_that_comes_to_no_result_is_told_by_its_error_not_by_its_old_result(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = only_run(copied)
    (run.folder / "features.json").write_text("[]")
    log = Log()
    reporter = Reporter()
    with pytest.raises(InputError, match="features"):
        run_stage(run, "drift", {}, lambda event: (log(event), reporter(event))[0])
    said = capsys.readouterr().out
    assert "features.json is not the file" in said and "required" not in said
