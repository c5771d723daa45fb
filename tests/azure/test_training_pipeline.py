"""The training pipeline: Azure's own SDK takes its files, and its steps run by their own command lines."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from brookside_mlops.azure_steps import STEPS, Prepared
from brookside_mlops.fingerprints import fingerprint
from brookside_mlops.pipeline import LINE, stage_parameters
from brookside_mlops.runs import Run
from tests.azure.walk import Walk, command_of, needs, nodes_of, walk
from tools.lock import applies, plain, wanted

ROOT = Path(__file__).resolve().parent.parent.parent
PIPELINE = ROOT / "azure-ml" / "pipelines" / "ml-training-pipeline.yml"
CONDA = ROOT / "azure-ml" / "environments" / "training-conda.yml"
COMPONENTS = sorted((ROOT / "azure-ml" / "components").glob("*.yml"))
JOBS = ["validation", "engineering", "training", "evaluation", "registration", "deployment_preparation"]
SMALL = "rows=2500 bootstrap=100 train.trees=300"


def test_sdk_loads_and_validates_the_pipeline() -> None:
    from azure.ai.ml import load_job

    job = load_job(PIPELINE)
    result = job._validate()
    assert result.passed, result.error_messages
    assert list(job.jobs) == JOBS
    assert not job.settings.continue_on_step_failure


def test_each_step_runs_its_verb_and_takes_the_run_of_the_one_before() -> None:
    nodes = nodes_of(PIPELINE)
    verbs = [re.search(r"cli step (\w+)", node.command) for node in nodes]
    assert [found and found[1] for found in verbs] == list(STEPS)
    assert [needs(node) for node in nodes] == [set(), *({name} for name in JOBS[:-1])]


def test_optional_part_of_a_command_is_left_out_without_its_input() -> None:
    text = "run $[[--data ${{inputs.data}}]] --out ${{outputs.out}}"
    assert command_of(text, {}, {"out": Path("o")}) == "run  --out o"
    assert command_of(text, {"data": "d"}, {"out": Path("o")}) == "run --data d --out o"


def pins() -> dict[str, Version]:
    listed = yaml.safe_load(CONDA.read_text())["dependencies"][-1]["pip"]
    found = [one.split("==") for one in listed]
    assert all(len(one) == 2 for one in found), "a package without its version"
    return {name: Version(version) for name, version in found}


def test_pins_lie_in_the_ranges_of_the_package() -> None:
    found = pins()
    for one in wanted(ROOT / "pyproject.toml"):
        if applies(one, frozenset()):
            assert plain(one.name) in found, f"{one.name} is not pinned: python tools/lock.py"
            assert found[plain(one.name)] in one.specifier, f"{one}: pinned is {found[plain(one.name)]}"
    python = next(one for one in yaml.safe_load(CONDA.read_text())["dependencies"] if "python=" in one)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Version(python.removeprefix("python=")) in Requirement(f"x{project['requires-python']}").specifier


def test_pins_hold_all_that_a_pinned_package_needs() -> None:
    found, checked = pins(), 0
    for name, version in found.items():
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if Version(installed.version) != version:
            continue  # a newer one is installed here, which may need others
        for text in installed.requires or ():
            one = Requirement(text)
            if applies(one, frozenset()):
                assert found.get(plain(one.name), Version("0")) in one.specifier, f"{name} needs {one}"
                checked += 1
    assert checked > 100


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Return what came of the pipeline, begun as a schedule begins it."""
    folder = tmp_path_factory.mktemp("walk")
    nodes = nodes_of(PIPELINE)
    nodes[0] = type(nodes[0])(**{**vars(nodes[0]), "inputs": nodes[0].inputs | {"parameters": SMALL}})
    return walk(nodes, {"environment": "dev", "usecase": "viability"}, folder)


@pytest.mark.endtoend
def test_steps_run_one_after_the_other_from_folder_to_folder(walked: Walk) -> None:
    assert walked.codes == dict.fromkeys(JOBS, 0), walked.said
    run = walked.outputs["run"]
    record = Run(run).record
    assert [one.state for one in record.stages.values()] == ["done"] * 5
    assert all((run / stage.notebook).exists() for stage in record.stages.values())
    prepared = Prepared.model_validate_json((run / "deployment.json").read_text())
    assert prepared.endpoint == "viability-dev" and prepared.answered == 3
    info = json.loads((walked.outputs["model"] / "bundle.json").read_text())
    assert info["sha256"] == prepared.sha256


@pytest.mark.endtoend
def test_run_that_comes_back_needs_none_of_its_stages_again(walked: Walk, tmp_path: Path) -> None:
    from brookside_mlops.azure_steps import receive

    run = receive(tmp_path, walked.outputs["run"])
    values = stage_parameters(tmp_path, LINE, run.record.parameters)
    for stage in STEPS[:5]:
        assert run.record.stages[stage].fingerprint == fingerprint(run, stage, values[stage]), stage


@pytest.mark.endtoend
def test_gate_that_fails_stops_what_follows_and_gives_its_numbers_on(walked: Walk, tmp_path: Path) -> None:
    code = tmp_path / "code"
    shutil.copytree(ROOT / "azure-ml", code / "azure-ml")
    shutil.copytree(ROOT / "brookside_mlops", code / "brookside_mlops")
    shutil.copytree(ROOT / "nbs", code / "nbs")
    shutil.copytree(ROOT / "contracts", code / "contracts")
    settings = (ROOT / "settings.ini").read_text().replace("min_accuracy = 0.75", "min_accuracy = 0.999")
    (code / "settings.ini").write_text(settings)
    nodes = nodes_of(code / "azure-ml" / "pipelines" / "ml-training-pipeline.yml")[3:]
    before = walked.outputs["run"].parent.parent / "training" / "run_out"
    nodes[0] = type(nodes[0])(**{**vars(nodes[0]), "inputs": {"run_in": str(before)}})
    found = walk(nodes, {}, tmp_path / "walk")
    assert found.codes == {"evaluation": 1, "registration": None, "deployment_preparation": None}
    assert "accuracy" in found.said["evaluation"] and "0.999" in found.said["evaluation"]
    assert Run(tmp_path / "walk" / "evaluation" / "run_out").record.stages["evaluate"].verdict == "fail"


def test_spark_component_loads_with_its_pins() -> None:
    from azure.ai.ml import load_component

    component = load_component(ROOT / "azure-ml" / "components" / "spark_drift.yml")
    assert component.type == "spark" and component.entry.entry == "azure-ml/spark/drift.py"
    listed = yaml.safe_load((CONDA.parent / "spark-conda.yml").read_text())["dependencies"][-1]["pip"]
    known = pins()
    assert listed and all(
        known[name] == Version(version) for name, version in (one.split("==") for one in listed)
    )
    assert not any(one.startswith("pyspark") for one in listed), "the cluster brings its own"
