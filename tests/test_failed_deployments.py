"""A deployment that fails in GitHub Actions or Azure DevOps: what served before serves again, and people are told.

The jobs before the one that fails are not walked again (tests/test_workflows.py and tests/test_azure_pipelines.py do): what they leave
is made here by the same verbs, once for both hosts.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import pytest

from brookside_mlops.ci_state import take
from brookside_mlops.endpoints.local import stop_all
from brookside_mlops.runs import Run, list_runs
from brookside_mlops.serving import serving
from tests.azure_walker import AzureWalker, settled
from tests.devops_server import devops
from tests.github_walker import JobEnd, Walker, checkout, shell
from tests.test_azure_pipelines import PIPELINE
from tests.test_workflows import DEPLOYMENT, SMALL, said

pytestmark = pytest.mark.workflows


@dataclass(frozen=True)
class Left:
    """The states that the jobs `dev` and `staging` left of a second version, whose first serves in all environments."""

    dev: Path
    staging: Path
    trained: str
    promoted: str


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Left:
    place = tmp_path_factory.mktemp("left")
    project = place / "project"
    project.mkdir()
    checkout(project, {})

    def verb(*words: str, trees: int = 300, status: int = 0) -> None:
        programs = Path(sys.executable).parent
        command = shlex.join(["brookside-mlops", *words])
        ended = shell(command, project, programs, {"BROOKSIDE_SET": SMALL.format(trees)})
        assert ended.returncode == status, (words, ended.stdout[-3000:])

    def kept(name: str) -> Path:
        verb("ci", "keep", str(place / name))
        return place / name

    try:
        verb("run", "--environment", "dev,staging,prod", status=3)
        first = newest(project, "prod").id
        verb("approve", first, "--as", "somebody")
        verb("run", "--resume", first)
        verb("run", "--environment", "dev", trees=200)
        dev, trained = kept("dev.tar.gz"), newest(project, "dev").id
        verb("promote", trained, "--to", "staging")
        return Left(dev, kept("staging.tar.gz"), trained, newest(project, "staging").id)
    finally:
        stop_all(project / ".brookside")


def newest(project: Path, environment: str) -> Run:
    with chdir(project):
        return next(one for one in list_runs(project) if one.environment == environment)


def artifact(state: Path, walker: Walker | AzureWalker, name: str) -> None:
    """Hand out a state as an earlier job did."""
    target = walker.artifacts / name / "state.tar.gz"
    target.parent.mkdir(parents=True)
    shutil.copy2(state, target)


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def version_in(project: Path, environment: str) -> tuple[int, float]:
    found = serving(newest(project, environment))
    assert found is not None
    return found.version, found.weight


def test_failed_load_test_is_rolled_back_by_the_job_for_rollbacks(left: Left, tmp_path: Path) -> None:
    """The second version takes over in staging; then its load test finds it too slow."""

    def slow(job: str, command: str, folder: Path) -> None:
        if job == "staging" and "--load" in command:
            replaced(folder / "settings.ini", "p50_ms = 800", "p50_ms = 0.001")

    before = ("quality", "unit", "integration", "validate", "dev")
    done = dict.fromkeys(before, JobEnd("success")) | {"train": JobEnd("success", {"run": left.trained})}
    inputs = {"environment": "staging", "usecase": "viability", "parameters": SMALL.format(200)}
    walker = Walker(DEPLOYMENT, tmp_path, "workflow_dispatch", inputs, run_id="8", ended=done, tamper=slow)
    artifact(left.dev, walker, "state-dev")
    try:
        walker.walk()
        ended = {name: end.result for name, end in walker.ended.items() if name not in (*before, "train")}
        assert ended == {
            "staging": "failure",
            "prod": "skipped",
            "post": "skipped",
            "rollback": "success",
        }, said(walker)
        (failed,) = [one.command for one in walker.ran if one.status]
        assert failed.endswith("--load")
        assert version_in(tmp_path / "job-staging", "staging") == (2, 100)
        for environment in ("dev", "staging"):
            assert version_in(tmp_path / f"job-rollback-{environment}", environment) == (1, 100)
        undone = [one.output for one in walker.ran if " ci undo " in one.command]
        assert ["rollback:" in one for one in undone] == [False, True, True], undone
        assert "nothing: no run came to prod" in undone[0]
        (kept,) = [one for one in walker.kept.iterdir() if one.name.endswith("-rollback-dev")]
        after = tmp_path / "after"
        after.mkdir()
        take(after, kept / "state.tar.gz")
        for environment in ("dev", "staging"):  # the next deployment begins with what all of them left
            assert version_in(after, environment) == (1, 100)
        evidence = {
            one.relative_to(walker.artifacts).parts[2]
            for one in walker.artifacts.glob("evidence-rollback-*/**/09_rollback.ipynb")
        }
        assert evidence == {"dev", "staging"}
    finally:
        for folder in tmp_path.glob("*/.brookside"):
            stop_all(folder)


def test_failed_deployment_to_prod_is_taken_back_and_becomes_work(left: Left, tmp_path: Path) -> None:
    """The second version takes over in prod; then the job fails."""

    def tamper(job: str, command: str, folder: Path) -> None:
        if job != "deploy_prod":
            return
        if " promote " in command:  # prod wants a version that is better; this one is as good
            replaced(folder / "settings.ini", "baseline_rule = better", "baseline_rule = none")
        runs = folder / "parameterized"
        if " ci outputs " in command:  # the blue-green has gone through, and what comes after it finds no run
            (runs / "prod").rename(runs / "away")
        elif (runs / "away").exists():
            (runs / "away").rename(runs / "prod")

    with devops(tmp_path) as (service, environ):
        walker = AzureWalker(
            PIPELINE,
            tmp_path,
            {"environment": "prod", "parameters": SMALL.format(200)},
            environ,
            tamper=tamper,
            ended=dict.fromkeys(("build", "dev", "staging"), "Succeeded"),
            outputs={
                "build": {"train": {"run.run": left.trained}},
                "staging": {"deploy_staging": {"deploy_staging.run.run": left.promoted}},
            },
        )
        artifact(left.staging, walker, "state-staging-1-1")
        try:
            walker.walk()
            assert (walker.ended["prod"], walker.ended["post"]) == ("Failed", "Skipped"), settled(walker)
            (undo,) = [one for one in walker.ran if " ci undo " in one.command]
            assert undo.status == 0 and "rollback: run" in undo.output, undo.output
            assert version_in(tmp_path / "deploy_prod" / "s", "prod") == (2, 100)
            assert version_in(tmp_path / "undo_deploy_prod" / "s", "prod") == (1, 100)
            assert (walker.artifacts / "state-undo_deploy_prod-1-1" / "state.tar.gz").is_file()
            (item,) = service.items.values()
            assert item["System.Title"] == "Deployment of viability-prod to prod failed"
        finally:
            for folder in tmp_path.glob("*/s/.brookside"):
                stop_all(folder)
