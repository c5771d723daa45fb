"""The pipeline of Azure DevOps: valid as it is expanded, and each of its commands run here in order."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.exceptions import TyperException

from brookside_mlops.ci_host import STATE_TAG, tell_state
from brookside_mlops.endpoints.local import stop_all
from tests.azure_walker import COMPARE, AzureWalker, as_written, pipeline, settled
from tests.devops_server import DevOps, devops
from tests.test_guide import parse
from tests.test_workflows import DEPLOYMENT, ROOT, SMALL, load, narrowed
from tests.workflow_expressions import Expression

PIPELINE = ROOT / "azure-pipelines" / "azure-pipelines-ml.yml"
TEMPLATES = sorted((ROOT / "azure-pipelines" / "templates").glob("*.yml"))
CHOICES = [
    {"environment": environment, "connection": connection}
    for environment in ("dev", "prod")
    for connection in ("none", "brookside-azure")
]


def steps_of(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each step with its job, those of a deployment too."""
    for stage in content["stages"]:
        for job in stage["jobs"]:
            once = job.get("strategy", {}).get("runOnce", {})
            for step in once["deploy"]["steps"] if once else job["steps"]:
                yield job.get("job") or job["deployment"], step


@pytest.mark.parametrize("given", CHOICES, ids=lambda one: "-".join(one.values()))
def test_expanded_pipeline_follows_the_published_schema(given: dict[str, str], tmp_path: Path) -> None:
    expanded = tmp_path / "azure-pipelines.yml"
    expanded.write_text(yaml.safe_dump(as_written(pipeline(PIPELINE, given))), encoding="utf-8")
    tool = Path(sys.executable).with_name("check-jsonschema")
    for path in (PIPELINE, expanded):
        words = [tool, "--regex-variant", "python", "--builtin-schema", "vendor.azure-pipelines", path]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout[-2000:]


def test_five_stages_with_approval_by_environment_and_variable_groups() -> None:
    content = pipeline(PIPELINE, {})
    assert [one["stage"] for one in content["stages"]] == ["build", "dev", "staging", "prod", "post"]
    for stage in content["stages"][1:4]:
        job = stage["jobs"][0]
        assert job["environment"] == f"brookside-{stage['stage']}"
        assert {"group": f"brookside-{stage['stage']}"} in stage["variables"]
    assert [stage["jobs"][0]["timeoutInMinutes"] for stage in content["stages"][1:]] == [60, 60, 180, "10"]


@pytest.mark.parametrize("given", CHOICES, ids=lambda one: "-".join(one.values()))
def test_commands_are_verbs_and_no_logic(given: dict[str, str]) -> None:
    count = 0
    for name, step in steps_of(pipeline(PIPELINE, given)):
        command = step.get("script") or step.get("inputs", {}).get("inlineScript")
        if command is None or command.startswith("python -m pip install"):
            continue
        count += 1
        macros = set(re.findall(r"\$\(([\w.]+)\)", command))  # are put into the text before bash reads it
        assert macros <= {"Build.ArtifactStagingDirectory", "Pipeline.Workspace"}, (name, command)
        assert "\n" not in command and not re.search(r"[|;<>`]|&&", command), (name, command)
        try:
            parse(re.sub(r"\$\([\w.]+\)", "x", command))
        except TyperException as error:
            pytest.fail(f"{name}: {command}: {error}")
    assert count > 25


def test_templates_are_all_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (PIPELINE, *TEMPLATES))
    for path in TEMPLATES:
        assert f"/azure-pipelines/templates/{path.name}" in text


def test_azure_is_asked_through_a_service_connection_and_no_secret_is_named() -> None:
    content = pipeline(PIPELINE, {"connection": "brookside-azure"})
    tasks = [step for _, step in steps_of(content) if step.get("task") == "AzureCLI@2"]
    assert len(tasks) >= 8 and {one["inputs"]["azureSubscription"] for one in tasks} == {
        f"brookside-azure-{name}" for name in ("dev", "staging", "prod")
    }
    text = "".join(path.read_text(encoding="utf-8") for path in (PIPELINE, *TEMPLATES))
    assert not re.search(r"(?i)password|clientsecret|servicePrincipalKey|\$\(.*key\)", text)


def test_job_that_is_tried_again_leaves_artifacts_under_other_names() -> None:
    published = [step["artifact"] for _, step in steps_of(pipeline(PIPELINE, {})) if "publish" in step]
    assert len(set(published)) == len(published) > 10
    for name in published:
        assert name.endswith("-$(System.StageAttempt)-$(System.JobAttempt)")


def test_deployment_begins_with_the_state_of_the_last_run_that_left_one_wherever_it_ended() -> None:
    content = pipeline(PIPELINE, {})
    (before,) = [step for _, step in steps_of(content) if step.get("task") == "DownloadPipelineArtifact@2"]
    inputs = before["inputs"]
    assert (
        inputs["tags"] == STATE_TAG and inputs["allowFailedBuilds"] is True and "artifactName" not in inputs
    )
    assert content["trigger"]["batch"] == "true"
    assert f"##vso[build.addbuildtag]{STATE_TAG}\n" == tell_state({"TF_BUILD": "True"})
    assert tell_state({"GITHUB_ACTIONS": "true"}) == tell_state({}) == ""


@pytest.mark.parametrize(("ended", "undone"), [("Succeeded", False), ("Failed", True), ("Canceled", True)])
@pytest.mark.parametrize("stage", ["dev", "staging", "prod", "post"])
def test_deployment_that_does_not_end_well_is_taken_back_and_that_of_prod_becomes_work(
    stage: str, ended: str, undone: bool
) -> None:
    (last,) = [one for one in pipeline(PIPELINE, {})["stages"] if one["stage"] == stage]
    job, undo = last["jobs"]
    name, environment = job.get("job") or job["deployment"], {"post": "prod"}.get(stage, stage)
    holds = re.sub(r"always\(\)", "eq('a', 'a')", undo["condition"])
    assert Expression(holds, {"dependencies": {name: {"result": ended}}}, COMPARE).value() is undone
    commands = " ".join(step.get("script", "") for step in undo["steps"])
    for verb in ("ci take", f'ci undo "$TRAINED" --environment {environment}', "ci keep"):
        assert verb in commands
    assert ("ci work-item" in commands) is (environment == "prod")
    assert undo["dependsOn"] == name and "TRAINED" in [one.get("name") for one in last["variables"]]


def test_both_hosts_call_the_same_verbs() -> None:
    def verbs(commands: list[str]) -> set[tuple[str, ...]]:
        found = [re.findall(r"^brookside-mlops (\S+)(?: ([a-z-]+))?", one) for one in commands]
        return {tuple(filter(None, one[0])) for one in found if one}

    github = [
        step["run"] for job in load(DEPLOYMENT)["jobs"].values() for step in job["steps"] if "run" in step
    ]
    azure = [step["script"] for _, step in steps_of(pipeline(PIPELINE, {})) if "script" in step]
    assert verbs(azure) - verbs(github) == {("ci", "work-item"), ("ci", "retain")}
    assert not verbs(github) - verbs(azure)


# ---- the whole way -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DevOps, dict[str, str]]]:
    with devops(tmp_path_factory.mktemp("devops")) as found:
        yield found


@pytest.fixture(scope="module")
def way(
    tmp_path_factory: pytest.TempPathFactory, service: tuple[DevOps, dict[str, str]]
) -> Iterator[AzureWalker]:
    """A run of the pipeline as far as prod, on a small portfolio."""
    place = tmp_path_factory.mktemp("azure")
    given = {"environment": "prod", "parameters": SMALL.format(300)}
    walker = AzureWalker(PIPELINE, place, given, service[1], narrowed(), skip=frozenset({"quality"}))
    walker.walk()
    yield walker
    for folder in place.glob("*/s/.brookside"):
        stop_all(folder)


@pytest.mark.workflows
def test_every_command_of_the_pipeline_runs_here_in_order(
    way: AzureWalker, service: tuple[DevOps, Any]
) -> None:
    assert way.ended == dict.fromkeys(("build", "dev", "staging", "prod", "post"), "Succeeded"), settled(way)
    assert not [one for one in way.ran if one.status], settled(way)
    assert len([one for one in way.ran if "brookside-mlops" in one.command]) > 30
    assert service[0].leases and not service[0].items


@pytest.mark.workflows
def test_results_and_pages_are_there(way: AzureWalker) -> None:
    for job in ("build", "dev", "staging", "prod", "post"):
        assert (way.artifacts / f"state-{job}-1-1" / "state.tar.gz").is_file()
    for job in ("dev", "staging", "prod"):
        assert list((way.artifacts / f"evidence-{job}-1-1").rglob("smoke_test_results.json"))
        assert list((way.artifacts / f"evidence-{job}-1-1").rglob("06_deploy.ipynb"))
    assert way.tags == {STATE_TAG}
    page = "\n".join(way.pages)
    assert "## viability in prod" in page and "| evaluate | accuracy |" in page
    assert "Approved by approvers of environment brookside-prod, pipeline run 20260101.1" in page
