"""Whole runs through their notebooks: gates, resume, kill, promotion, approval."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import ApprovalNeeded, GateFailed, InputError
from brookside_mlops.execution import CellFailed, CellProgress, execute
from brookside_mlops.fingerprints import code_of, fingerprint, stage_notebook
from brookside_mlops.pipeline import LINE, Event, advance, promote, run_line, run_stage, stage_parameters
from brookside_mlops.registry import serving_version
from brookside_mlops.reporting import Reporter, headline, show_end, summary
from brookside_mlops.run_diff import diff
from brookside_mlops.runs import Run, find_run
from tests.served import unhurried

SMALL = {"rows": 2_500, "bootstrap": 100, "trees": 1500, "seconds": 1}


def easy(project: Path) -> None:
    """Give a project gates that a small table reaches, and rollouts that bake for a moment."""
    text = (Path(__file__).resolve().parent.parent / "settings.ini").read_text()
    for old, new in (
        ("min_accuracy = 0.90", "min_accuracy = 0.80"),
        ("min_accuracy = 0.85", "min_accuracy = 0.80"),
        ("min_precision = 0.85", "min_precision = 0.70"),
        ("min_precision = 0.80", "min_precision = 0.70"),
        ("min_recall = 0.80", "min_recall = 0.60"),
        ("min_recall = 0.75", "min_recall = 0.60"),
        ("bake_scale = 0.005", "bake_scale = 0.0005"),
        ("canary_margin = 0.05", "canary_margin = 1"),
    ):
        assert old in text
        text = text.replace(old, new)
    (project / "settings.ini").write_text(unhurried(text))


class Log:
    """Remembers events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def stages(self, kind: str) -> list[str]:
        return [event.stage for event in self.events if event.kind == kind]


def test_line_from_rows_to_three_endpoints_and_back(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    easy(project)
    run = Run.create(project, "dev", "viability", SMALL, ("staging", "prod"))
    log = Log()
    with pytest.raises(ApprovalNeeded) as waiting:
        run_line(run, log)
    assert waiting.value.exit_code == 3
    dev = Run(run.folder)
    staging = find_run(project, dev.record.promoted_to)
    prod = find_run(project, staging.record.promoted_to)
    assert [one.environment for one in (dev, staging, prod)] == ["dev", "staging", "prod"]
    assert prod.record.stages["deploy"].state == "waiting" and prod.record.promoted_from == dev.id
    graphs = {one.record.artifacts["bundle/model.onnx"].sha256 for one in (dev, staging, prod)}
    assert len(graphs) == 1
    ready = LocalEndpoint(prod.settings.state, "viability-prod").show()
    assert ready.traffic == {"blue": 0} and ready.deployments[0].state == "ready"

    again = Log()
    run_line(dev, again, lambda one: "Ada")
    prod = Run(prod.folder)
    assert prod.record.approval is not None and prod.record.approval.by == "Ada"
    assert "train" not in again.stages("begin") and set(again.stages("skip")) >= set(LINE[:6])
    assert {
        name: serving_version(prod.settings, "brookside-viability", name) for name in ("prod", "champion")
    } == {"prod": 1, "champion": 1}
    example = LocalEndpoint(prod.settings.state, "viability-prod")
    body = (example.state.bundle("blue") / "input_example.json").read_bytes()
    answer = example.score(body)
    assert answer.status == 200 and set(answer.content[0]) == {"class", "probability", "score"}

    reporter = Reporter()
    for event in (*log.events[:40], *again.events):
        reporter(event)
    show_end(reporter.console, prod)
    said = capsys.readouterr().out
    assert (
        "curl" in said and "mlflow ui" in said and not any(key in said for key in example.state.read_keys())
    )
    assert summary(prod)["endpoint"] == "viability-prod" and headline(dev, "validate")
    changed = diff(dev, prod)
    assert changed["environment"] == ("dev", "prod") and "artifact bundle/model.onnx" not in changed

    with pytest.raises(InputError, match="no earlier deployment"):
        run_stage(dev, "rollback", {}, log)
    second = Run.create(project, "dev", "viability", SMALL | {"depth": 4})
    advance(second, log)
    evaluated = json.loads((second.folder / "evaluate.json").read_text())
    assert evaluated["comparison"]["baseline"] == "version 1"
    run_stage(second, "rollback", {"reason": "test"}, log)
    back = json.loads((second.folder / "rollback.json").read_text())
    assert (back["from_version"], back["to_version"], back["reason"]) == (2, 1, "test")
    assert serving_version(second.settings, "brookside-viability", "dev") == 1


def test_missed_gate_stops_the_line_and_leaves_its_notebook(project: Path) -> None:
    run = Run.create(project, "prod", "viability", SMALL | {"rows": 600})
    with pytest.raises(GateFailed, match=r"accuracy .* required >= 0\.9"):
        advance(run, Log(), lambda one: "Ada")
    record = Run(run.folder).record
    assert record.stages["evaluate"].state == "failed" and "register" not in record.stages
    notebook = nbformat.read(run.folder / "04_evaluate.ipynb", 4)
    errors = [out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "error"]
    assert errors and errors[-1].ename == "GateFailed"


def test_version_that_is_too_slow_gets_no_further_than_its_canary(project: Path) -> None:
    easy(project)
    run = Run.create(project, "dev", "viability", SMALL)
    advance(run, Log())
    text = (project / "settings.ini").read_text()
    (project / "settings.ini").write_text(re.sub("p95_ms = .*", "p95_ms = 0.0001", text))
    second = Run.create(project, "dev", "viability", SMALL | {"depth": 4})
    log = Log()
    with pytest.raises(GateFailed, match="P95 is above"):
        advance(second, log)
    assert log.stages("begin")[-1] == "deploy"
    endpoint = LocalEndpoint(second.settings.state, "viability-dev")
    serving = [one.version for one in endpoint.show().deployments if one.weight == 100]
    assert serving == [1]


def test_killed_run_resumes_where_it_was(project: Path) -> None:
    easy(project)
    code = (
        "import sys; from pathlib import Path; from brookside_mlops.runs import Run; from brookside_mlops.pipeline import advance;"
        "advance(Run(Path(sys.argv[1])), lambda event: print(event.kind, event.stage, flush=True))"
    )
    run = Run.create(project, "dev", "viability", SMALL)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run.folder)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("cell train"):
                os.kill(process.pid, signal.SIGKILL)
                break
    record = Run(run.folder).record
    assert record.stages["engineer"].state == "done" and record.stages["train"].state == "running"
    log = Log()
    advance(Run(run.folder), log)
    assert log.stages("skip")[:2] == ["validate", "engineer"] and log.stages("begin")[0] == "train"
    assert Run(run.folder).record.stages["smoke_test"].state == "done"


def test_changed_input_runs_again_from_there(project: Path) -> None:
    easy(project)
    run = Run.create(project, "dev", "viability", SMALL)
    parameters = stage_parameters(project, LINE, SMALL)
    for stage in LINE[:3]:
        run_stage(run, stage, parameters[stage], Log(), fingerprint(run, stage, parameters[stage]))
    before = fingerprint(run, "train", parameters["train"])
    assert before != fingerprint(run, "train", {"trees": 3})
    (run.folder / "train.parquet").write_bytes(b"damaged")
    log = Log()
    advance(run, log)
    assert log.stages("skip") == ["validate", "train"] and log.stages("begin")[0] == "engineer"


def test_two_runs_at_once_do_not_disturb_each_other(project: Path) -> None:
    easy(project)
    code = (
        "import sys; from pathlib import Path; from brookside_mlops.runs import Run; from brookside_mlops.pipeline import advance;"
        "advance(Run(Path(sys.argv[1])), lambda event: None)"
    )
    runs = [Run.create(project, "dev", usecase, SMALL) for usecase in ("viability", "viability")]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(run.folder)], stderr=subprocess.PIPE, text=True)
        for run in runs
    ]
    for run, process in zip(runs, processes, strict=True):
        said = process.communicate()[1]
        if process.returncode:  # one rollout at a time: who comes second is told so, and goes on later
            assert "a rollout is under way, held by" in said, said
            advance(Run(run.folder), Log())
    first, second = (Run(run.folder).record.artifacts["bundle/model.onnx"].sha256 for run in runs)
    assert first == second


def test_parameters_are_refused_all_at_once_before_anything_runs(project: Path) -> None:
    with pytest.raises(InputError) as error:
        stage_parameters(project, LINE, {"tree": 1, "train.depth": 99, "rows": "many", "evaluate.trees": 3})
    assert len(str(error.value).splitlines()) == 4 and error.value.exit_code == 2
    assert stage_parameters(project, LINE, {"train.trees": "7"})["train"] == {"trees": 7}


def test_run_without_a_registered_version_is_not_promoted(project: Path) -> None:
    with pytest.raises(InputError, match="promote needs validate to be done"):
        promote(Run.create(project, "dev", "viability"), "staging")
    with pytest.raises(InputError, match="is not one of"):
        stage_notebook(project, "bake")


def test_stage_is_made_of_its_modules_and_what_they_import() -> None:
    names = {path.name for path in code_of("evaluate")}
    assert {"evaluate.py", "metrics.py", "bootstrap.py", "errors.py"} <= names and "cli.py" not in names


def notebook(folder: Path, *cells: str) -> Path:
    first = nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    nbformat.write(book, folder / "book.ipynb")
    return folder / "book.ipynb"


def test_unexpected_error_names_notebook_cell_and_error(tmp_path: Path) -> None:
    seen: list[CellProgress] = []
    with pytest.raises(CellFailed, match=r"book\.ipynb, cell 3: ZeroDivisionError"):
        execute(notebook(tmp_path, "number / 0"), tmp_path / "out.ipynb", {"number": 2}, seen.append)
    assert seen[-1].cell == 3


@pytest.mark.parametrize("kind", ["InputError", "GateFailed", "ApprovalNeeded"])
def test_expected_error_comes_back_as_itself(kind: str, tmp_path: Path) -> None:
    code = f"from brookside_mlops.errors import {kind}\nraise {kind}('said so')"
    with pytest.raises((InputError, GateFailed, ApprovalNeeded), match="said so") as error:
        execute(notebook(tmp_path, code), tmp_path / "out.ipynb", {})
    assert type(error.value).__name__ == kind


def test_kernel_that_dies_is_noticed(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)kernel|died"):
        execute(
            notebook(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
            tmp_path / "out.ipynb",
            {},
        )
    assert time.monotonic() > begun
