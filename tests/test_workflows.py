"""The workflows of GitHub Actions: valid, pinned, of few rights, and each of their commands run here in order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.exceptions import TyperException

from brookside_mlops.endpoints.local import stop_all
from tests.github_walker import ROOT, JobEnd, Walker, all_runs, load, needed
from tests.test_guide import parse
from tests.workflow_expressions import condition, filled

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github" / "actions").glob("*/action.yml"))
DEPLOYMENT = ROOT / ".github" / "workflows" / "ml-deployment.yml"
BIN = Path(sys.executable).parent
LIMITS = {
    "quality": 10,
    "unit": 20,
    "integration": 30,
    "train": 120,
    "validate": 30,
    "dev": 60,
    "staging": 60,
    "prod": 180,
    "post": 10,
}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tool(*words: str | Path) -> None:
    ended = subprocess.run(
        [BIN / words[0], *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_workflows_follow_the_published_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)
    tool("check-jsonschema", "--builtin-schema", "vendor.github-actions", *ACTIONS)


def test_zizmor_finds_nothing() -> None:
    tool("zizmor", "--offline", "--quiet", "--no-progress", ".github")


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=name_of)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    for line in re.findall(r"uses: (.*)", path.read_text(encoding="utf-8")):
        pinned = re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
        assert pinned or line.startswith("./.github/actions/"), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_jobs_have_a_limit_and_no_more_rights_than_they_need(path: Path) -> None:
    content = load(path)
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        assert job["timeout-minutes"] <= 180, name
        allowed = {"contents": "read", "id-token": "write", "pages": "write"}
        assert job["permissions"].items() <= allowed.items(), name
        if any("azure/login" in step.get("uses", "") for step in job["steps"]):
            assert job["permissions"]["id-token"] == "write" and job["environment"], name
        elif "pages" not in job["permissions"]:
            assert "id-token" not in job["permissions"], name


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_commands_are_verbs_and_no_logic(path: Path) -> None:
    for name, command in all_runs(load(path)["jobs"]):
        assert "\n" not in command.strip() and not re.search(r"[|;<>`]|&&|\$\(", command), (name, command)
        if command == "python -m pip install .":
            continue
        assert command.startswith("brookside-mlops "), (name, command)
        try:
            parse(command)
        except TyperException as error:
            pytest.fail(f"{name}: {command}: {error}")


def test_nine_jobs_with_their_time_limits_in_order_and_a_rollback() -> None:
    jobs = load(DEPLOYMENT)["jobs"]
    assert {name: job["timeout-minutes"] for name, job in jobs.items() if name != "rollback"} == LIMITS
    assert list(jobs)[:9] == list(LIMITS)
    for before, after in (
        ("integration", "train"),
        ("train", "validate"),
        ("dev", "staging"),
        ("staging", "prod"),
    ):
        assert before in needed(jobs[after])


def test_workflow_begins_with_a_push_that_matters_a_pull_request_or_by_hand() -> None:
    on = load(DEPLOYMENT)["on"]
    assert set(on) == {"push", "pull_request", "workflow_dispatch"}
    assert on["push"]["branches"] == ["main"] and on["push"]["paths"] == on["pull_request"]["paths"]
    for one in on["push"]["paths"]:
        assert list(ROOT.glob(one)), one
    assert on["workflow_dispatch"]["inputs"]["environment"]["options"] == ["dev", "staging", "prod"]


def test_environments_are_changed_one_at_a_time_and_a_deployment_is_never_ended_by_another() -> None:
    content = load(DEPLOYMENT)
    for name in ("dev", "staging", "prod"):
        job = content["jobs"][name]
        assert job["environment"] == name and job["concurrency"]["group"] == f"brookside-{name}"
        assert not job["concurrency"].get("cancel-in-progress")
    assert content["jobs"]["rollback"]["concurrency"]["group"] == "brookside-${{ matrix.environment }}"
    group = content["concurrency"]["group"]
    names: dict[str, Any] = {"github": {"run_id": "7", "event": {"pull_request": {"number": 3}}}}
    assert filled(group, names, {}).endswith("-3")
    queues = {filled(group, {"github": {"run_id": one, "event": {}}}, {}) for one in ("7", "8")}
    assert (
        len(queues) == 1
    ), "jobs of two deployments would wait in one group, where the newest ends the others"


def test_state_is_kept_wherever_a_deployment_ends_and_after_it_was_taken_back() -> None:
    jobs = load(DEPLOYMENT)["jobs"]
    kept = {}
    for name, job in jobs.items():
        (save,) = [one for one in job["steps"] if "cache/save" in one.get("uses", "")] or [None]
        if save:
            kept[name] = (save["with"]["key"], save.get("if", ""))
            before = job["steps"][: job["steps"].index(save)]
            assert [one for one in before if one.get("id") == "secrets"], name
    assert set(kept) == {"dev", "staging", "post", "rollback"}
    assert len({key for key, _ in kept.values()}) == 4
    for key, _ in kept.values():
        assert key.startswith("brookside-state-${{ github.run_id }}-${{ github.run_attempt }}-")
    assert kept["rollback"][1].startswith("always()") and not kept["dev"][1]
    assert jobs["rollback"]["strategy"]["max-parallel"] == 1


@pytest.mark.parametrize(
    ("ends", "run", "holds"),
    [
        ({"dev": "success", "post": "success"}, "r", False),
        ({"dev": "failure", "post": "skipped"}, "r", True),
        ({"dev": "cancelled", "post": "skipped"}, "r", True),  # by a person, or since its time was over
        ({"train": "failure"}, "", False),
    ],
)
def test_deployment_that_does_not_end_well_is_taken_back(ends: dict[str, str], run: str, holds: bool) -> None:
    jobs = load(DEPLOYMENT)["jobs"]
    needs: dict[str, Any] = {name: {"result": end} for name, end in ends.items()}
    needs["train"] = {"outputs": {"run": run}, "result": ends.get("train", "success")}
    assert condition(jobs["rollback"]["if"], {"needs": needs}, Walker.functions(False)) is holds
    (told,) = [one for one in jobs["train"]["steps"] if one.get("id") == "run"]
    assert "if" not in told, "a training that fails before it begins would name the run that is deployed"


def test_no_long_lived_secret_is_named() -> None:
    for path in [*WORKFLOWS, *ACTIONS]:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"(?<!steps\.)\bsecrets\.(\w+)", text))
        assert not {one for one in named if not one.startswith("BROOKSIDE_NOTIFY")}, path
        assert "creds:" not in text and "client-secret" not in text


@pytest.mark.parametrize("path", WORKFLOWS, ids=name_of)
def test_jobs_that_sign_in_are_told_where_azure_is_by_variables_of_the_repository(path: Path) -> None:
    """Variables of an environment of GitHub are known to `env` of a job, not to that of a workflow."""
    from brookside_mlops.azure_client import GITHUB_ASKS
    from brookside_mlops.azure_settings import PREFIX, azure_settings
    from brookside_mlops.telemetry import CONNECTION

    places = {
        f"{PREFIX}{key}": f"its-{key.lower()}"
        for key in ("RESOURCE_GROUP", "WORKSPACE", "LOCATION", "REGISTRY")
    }
    given = places | {
        CONNECTION: "InstrumentationKey=k",
        "AZURE_CLIENT_ID": "c",
        "AZURE_TENANT_ID": "t",
        "AZURE_SUBSCRIPTION_ID": "s",
    }
    for name, job in load(path)["jobs"].items():
        if not any("azure/login" in step.get("uses", "") for step in job["steps"]):
            continue
        for variables, target in ((given, "azure"), ({}, "local")):
            env = {key: filled(value, {"vars": variables}, {}) for key, value in job["env"].items()}
            assert env["BROOKSIDE_TARGET"] == target, name
            found = azure_settings(ROOT, env)
            assert (found.subscription, found.workspace) == (
                ("s", "its-workspace") if variables else ("", "")
            ), name
            assert all(env[key] for key in GITHUB_ASKS[2:]) is bool(variables), name
            assert env[CONNECTION] == variables.get(CONNECTION, ""), name


def test_what_is_waited_for_in_azure_ends_before_the_job_that_waits() -> None:
    """Else the job is ended, and nobody is told at what."""
    from brookside_mlops.azure_settings import azure_settings

    for name, job in load(DEPLOYMENT)["jobs"].items():
        if "env" not in job:
            continue
        minutes = {key: value for key, value in job["env"].items() if key.endswith("_MINUTES")}
        found = azure_settings(ROOT, minutes)
        longest = {"train": found.train_minutes, "validate": found.train_minutes, "post": found.wait_minutes}
        waited = longest.get(name, found.deploy_minutes + found.wait_minutes)
        assert waited + 5 <= job["timeout-minutes"], name


def test_workflow_of_the_schedules_is_the_one_that_the_verb_writes() -> None:
    from brookside_mlops.monitoring_config import monitoring_config
    from brookside_mlops.schedule_install import WORKFLOW, github_workflow
    from brookside_mlops.settings import ENVIRONMENTS

    written = (ROOT / WORKFLOW).read_text(encoding="utf-8")
    assert written == github_workflow(ROOT, monitoring_config(ROOT), ENVIRONMENTS)


def test_pull_request_deploys_nothing(tmp_path: Path) -> None:
    done = {name: JobEnd("success") for name in ("quality", "unit", "integration")}
    walker = Walker(DEPLOYMENT, tmp_path, "pull_request", ended=done)
    walker.walk()
    assert not walker.ran and {walker.ended[one].result for one in ("train", "dev", "prod", "rollback")} == {
        "skipped"
    }


@pytest.mark.parametrize(
    ("text", "failed", "holds"),
    [
        ("", False, True),
        ("", True, False),
        ("always()", True, True),
        ("github.event_name == 'push' || inputs.environment != 'dev'", False, False),
        ("(failure() || cancelled()) && needs.train.outputs.run", True, True),
        ("always() && contains(needs.*.result, 'failure')", False, True),
        ("always() && contains(needs.*.result, 'cancelled')", False, False),
        ("${{ vars.AZURE_CLIENT_ID != '' }}", False, False),
    ],
)
def test_conditions_are_read_as_github_reads_them(text: str, failed: bool, holds: bool) -> None:
    names = {
        "github": {"event_name": "workflow_dispatch"},
        "inputs": {"environment": "dev"},
        "needs": {"train": {"outputs": {"run": "r"}, "result": "success"}, "dev": {"result": "failure"}},
    }
    assert condition(text, names, Walker.functions(failed)) is holds


# ---- the whole way -----------------------------------------------------------------------------------------------------------------------

ASKING = frozenset({"brookside-mlops ci advisories"})
UNIT = "'not browser and not spark and not azure and not workflows and not endtoend'"
WHOLE = "'endtoend and not browser and not spark and not azure and not workflows'"
SMALL = "rows=4000 bootstrap=100 trees={}"


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walker]:
    """A run of the workflow by hand as far as prod, on a small portfolio."""
    place = tmp_path_factory.mktemp("github")
    inputs = {"environment": "prod", "usecase": "viability", "parameters": SMALL.format(300)}
    walker = Walker(
        DEPLOYMENT, place, "workflow_dispatch", inputs=inputs, change=narrowed(), tolerated=ASKING
    )
    walker.walk()
    yield walker
    for folder in place.glob("*/.brookside"):
        stop_all(folder)


def narrowed() -> dict[str, str]:
    """Return what makes `[tool.brookside-mlops.checks]` and the measure of coverage short in a job's checkout.

    The commands of the workflow are as they are written, and so are the tools that they call; this is all that is narrowed: tools
    look at some files in place of all, 80 % are to be covered of one module, the bill of materials is not held against its schema
    (tests/test_security.py does that), pip installs this project without looking for its packages (`PIP_NO_DEPS`), and the portfolio
    is small (`SMALL`, by the `parameters` of a run by hand). `.ci/run` has the whole of each.
    """
    every = "brookside_mlops nbs tests tools bench setup.py"
    return {
        "python tools/export.py --check": "python tools/export.py --check nbs/parts/errors.ipynb",
        f"black --check --quiet {every}": "black --check --quiet tools nbs/parts/errors.ipynb",
        f"ruff check --quiet {every}": "ruff check --quiet tools nbs/parts/errors.ipynb",
        '"mypy --strict"': '"mypy --strict brookside_mlops/errors.py"',
        "--recursive brookside_mlops": "--recursive brookside_mlops/endpoints",
        '"brookside-mlops ci secrets"': '"brookside-mlops ci secrets nbs/guide"',
        "--output-format JSON": "--output-format JSON --no-validate",
        '"nbdev-test --n-workers 2"': '"nbdev-test nbs/parts/errors.ipynb"',
        f'"pytest -m {WHOLE}': '"pytest tests/test_settings.py',
        f'"pytest -m {UNIT}': '"pytest tests/test_gates.py',
        'source = ["brookside_mlops"]': 'source = ["brookside_mlops.gates"]',
    }


def said(walker: Walker) -> str:
    return "\n\n".join(
        f"{one.job}: {one.command} -> {one.status}\n{one.output[-3000:]}" for one in walker.ran if one.status
    )


@pytest.mark.workflows
def test_every_command_of_the_workflow_runs_here_in_order(way: Walker) -> None:
    unreachable = [one for one in way.ran if one.command == "brookside-mlops ci advisories" and one.status]
    for one in unreachable:
        # No service of vulnerabilities may be known here: the verb has to say so, and not that all is well.
        assert "is it reachable from here?" in one.output
    failed = [one for one in way.ran if one.status and one not in unreachable]
    assert not failed, said(way)
    ended = {name: end.result for name, end in way.ended.items()}
    assert ended == dict.fromkeys(
        ["quality", "unit", "integration", "train", "validate", "dev", "staging", "prod", "post"], "success"
    ) | {"rollback": "skipped"}
    wanted = {(name, command) for name, command in all_runs(way.content["jobs"]) if name != "rollback"}
    assert wanted <= {(one.job, one.command) for one in way.ran}


@pytest.mark.workflows
def test_notebooks_and_results_are_handed_out_without_keys(way: Walker) -> None:
    handed = {str(one.relative_to(way.artifacts)) for one in way.artifacts.rglob("*") if one.is_file()}
    for job, notebook in (("train", "03_train"), ("validate", "04_evaluate"), ("prod", "06_deploy")):
        assert any(
            one.startswith(f"evidence-{job}/") and one.endswith(f"{notebook}.ipynb") for one in handed
        ), job
    results = [one for one in handed if one.endswith("smoke_test_results.json")]
    assert {one.partition("/")[0] for one in results} >= {"evidence-dev", "evidence-staging", "evidence-prod"}
    sbom = json.loads((way.artifacts / "sbom" / "sbom.cdx.json").read_text())
    assert sbom["bomFormat"] == "CycloneDX" and "onnxruntime" in {one["name"] for one in sbom["components"]}
    assert not [one for one in handed if one.endswith("/keys")]


@pytest.mark.workflows
def test_page_of_the_run_has_the_gates(way: Walker) -> None:
    text = way.summary.read_text(encoding="utf-8")
    for wanted in ("## viability in dev", "## viability in prod", "| evaluate | accuracy |", "## quality"):
        assert wanted in text
    assert "Approved by environment prod of GitHub, run 7" in text
