"""Azure watches the deployment that serves: a monitor and a weekly job, made once, and again when another version takes over."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from brookside_mlops.azure_client import ml_client
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.azure_watched import (
    Watched,
    drift_document,
    monitor_of,
    reference_folder,
    register_reference,
)
from brookside_mlops.bundle import Bundle
from brookside_mlops.cli import app
from brookside_mlops.endpoints.azure import AzureEndpoint
from brookside_mlops.endpoints.targets import endpoint_for
from brookside_mlops.errors import InputError
from brookside_mlops.monitoring_config import monitoring_config
from brookside_mlops.places import VARIABLE
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.settings import read_settings
from tests.azure.emulator import Emulator, Fault

ROOT = Path(__file__).resolve().parents[2]
WEEKS = [1.0, 2.0, None]


def bundle_of(folder: Path, constant: float) -> Path:
    """Return a bundle with the rows that its version learnt from."""
    made = scratch_bundle(folder / f"bundle-{constant}", constant)
    pd.DataFrame({"weeks": WEEKS}).to_parquet(made / "reference.parquet")
    return made


@pytest.fixture
def endpoint(azure_store: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> AzureEndpoint:
    """Return an endpoint in Azure with a version that serves, and whose requests are kept."""
    monkeypatch.setenv(VARIABLE, "azure")
    monkeypatch.setenv("BROOKSIDE_AZURE_COLLECT_DATA", "yes")
    settings, _ = read_settings(azure_project, "dev", "cost")
    found = endpoint_for(settings, settings.endpoint_name("cost"))
    assert isinstance(found, AzureEndpoint)
    found.start()
    found.create_deployment("blue", bundle_of(azure_project, 0.5), "brookside-cost", 1)
    found.set_traffic({"blue": 100})
    return found


def schedules(*more: str) -> dict[str, str]:
    """Return what the command says is to be done, or was done, about each schedule of cost in dev."""
    ran = CliRunner().invoke(app, ["schedule", "--install", "azure", "-e", "dev", "--json", *more])
    assert ran.exit_code == 0, ran.output
    return {one["name"]: one["what"] for one in json.loads(ran.stdout) if "cost" in one["name"]}


def test_monitor_has_three_signals_with_the_thresholds_of_the_configuration() -> None:
    profile = monitoring_config(ROOT).profile("prod")
    watched = Watched("viability-prod", "v3", "classification", "azureml:reference:3", "prod")
    sent = monitor_of(profile, watched)._to_rest_object().as_dict()["properties"]
    signals = sent["action"]["monitorDefinition"]["signals"]
    how = profile.data_drift.methods
    assert set(signals) == {"data_drift", "prediction_drift", "data_quality"}
    for name, limit in (
        ("data_drift", how.psi),
        ("prediction_drift", how.psi),
        ("data_quality", how.missing),
    ):
        assert [one["threshold"]["value"] for one in signals[name]["metricThresholds"]] == [limit, limit]
    assert sent["trigger"]["frequency"] == "week"
    groups = replace(watched, task="clustering")
    sent = (
        monitor_of(profile, groups)._to_rest_object().as_dict()["properties"]["action"]["monitorDefinition"]
    )
    assert sent["monitoringTarget"]["taskType"] == "classification"  # what the SDK writes for none
    assert set(sent["signals"]) == {"data_drift", "data_quality"}


def test_sdk_takes_the_drift_pipeline_with_the_deployment_in_it(tmp_path: Path) -> None:
    from azure.ai.ml import load_job

    path = ROOT / "azure-ml" / "pipelines" / "drift-pipeline.yml"
    assert load_job(path)._validate().passed
    watched = Watched("cost-dev", "green", "regression", "azureml:brookside-cost-reference:2", "dev")
    made = drift_document(yaml.safe_load(path.read_text()), watched, "azureml://somewhere/rows/")
    assert made["inputs"]["current"]["path"].endswith("/modelDataCollector/cost-dev/green/model_inputs/")
    assert (made["inputs"]["reference"]["path"], made["inputs"]["days"]) == ("azureml://somewhere/rows/", 7)


def test_reference_has_the_answers_of_the_version(tmp_path: Path) -> None:
    rows = pd.read_parquet(reference_folder(bundle_of(tmp_path, 0.5), tmp_path) / "rows")
    assert list(rows.columns) == ["weeks", "prediction"] and list(rows["prediction"])[:2] == [1.5, 2.5]
    with pytest.raises(InputError, match="no rows of its training"):
        reference_folder(scratch_bundle(tmp_path / "bare", 0.5), tmp_path)


@pytest.mark.azure
def test_plan_reads_and_installing_is_done_once_for_a_version(
    endpoint: AzureEndpoint, azure_store: Emulator, azure_project: Path
) -> None:
    names = ["brookside-monitor-cost-dev", "brookside-drift-cost-dev"]
    before = len(azure_store.writes())
    assert schedules("--plan") == dict.fromkeys(names, "create") and len(azure_store.writes()) == before
    assert schedules() == dict.fromkeys(names, "create")
    after = len(azure_store.writes())
    assert schedules() == dict.fromkeys(names, "same") and len(azure_store.writes()) == after
    plan = ["schedule", "--install", "azure", "--target", "azure", "--plan", "-e", "dev"]
    lacks = "its job needs a user-assigned identity of the workspace"
    assert lacks in CliRunner().invoke(app, plan).stdout
    identity = azure_store.existing(azure_store.workspace)["identity"]
    identity |= {
        "type": "SystemAssigned,UserAssigned",
        "userAssignedIdentities": {f"{azure_store.group}/providers/Microsoft.ManagedIdentity/mine": {}},
    }
    assert lacks not in CliRunner().invoke(app, plan).stdout
    monitor = azure_store.existing(f"{azure_store.workspace}/schedules/{names[0]}")["properties"]
    signals = monitor["action"]["monitorDefinition"]["signals"]
    assert signals["data_drift"]["productionData"]["uri"].endswith(
        "/data/cost-dev-blue-model_inputs/versions/1"
    )
    assert signals["data_drift"]["referenceData"]["uri"].endswith("/data/brookside-cost-reference/versions/1")
    assert signals["prediction_drift"]["productionData"]["uri"].endswith(
        "cost-dev-blue-model_outputs/versions/1"
    )
    job = azure_store.existing(f"{azure_store.workspace}/schedules/{names[1]}")["properties"]["action"]
    inputs = job["jobDefinition"]["inputs"]
    assert (
        inputs["reference"]["uri"].endswith("/rows/")
        and "cost-dev/blue/model_inputs" in inputs["current"]["uri"]
    )
    endpoint.create_deployment("green", bundle_of(azure_project, 0.7), "brookside-cost", 2)
    endpoint.set_traffic({"green": 100})
    assert schedules("--plan") == dict.fromkeys(names, "change")
    assert schedules() == dict.fromkeys(names, "change")
    profile, table = monitoring_config(azure_project).profile("dev"), "azureml:brookside-cost-reference:2"
    groups = monitor_of(profile, Watched("cost-dev", "green", "clustering", table, "dev"))
    ml_client(azure_settings(azure_project)).schedules.begin_create_or_update(groups).result()


@pytest.mark.azure
def test_deployment_keeps_rows_only_where_that_is_asked_for(
    endpoint: AzureEndpoint, azure_store: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = azure_store.existing(f"{azure_store.workspace}/onlineEndpoints/cost-dev/deployments/blue")
    collections = kept["properties"]["dataCollector"]["collections"]
    assert {one["dataCollectionMode"] for one in collections.values()} == {"Enabled"}
    assert {one["samplingRate"] for one in collections.values()} == {0.1}
    monkeypatch.delenv("BROOKSIDE_AZURE_COLLECT_DATA")
    settings, _ = read_settings(azure_project, "dev", "cost")
    plain = endpoint_for(settings, "cost-dev")
    plain.create_deployment("green", bundle_of(azure_project, 0.7), "brookside-cost", 2)
    made = azure_store.existing(f"{azure_store.workspace}/onlineEndpoints/cost-dev/deployments/green")
    assert not made["properties"].get("dataCollector")
    assert "BROOKSIDE_COLLECT" not in made["properties"]["environmentVariables"]
    assert schedules("--plan") == {"brookside-monitor-cost-dev": "none"}
    plain.set_traffic({"green": 100})
    monkeypatch.setenv("BROOKSIDE_AZURE_COLLECT_DATA", "yes")
    monkeypatch.delenv(VARIABLE)
    words = ["schedule", "--install", "azure", "-e", "dev"]
    assert "--target azure asks about those in Azure" in CliRunner().invoke(app, words).output
    before = len(azure_store.writes())
    for more in (["--plan"], []):
        ran = CliRunner().invoke(app, [*words, "--target", "azure", *more])
        assert ran.exit_code == 0, ran.output
        assert "green was made without the collector: deploy again with [azure] collect_data" in ran.output
    assert len(azure_store.writes()) == before


@pytest.mark.azure
def test_table_of_another_model_is_refused(
    endpoint: AzureEndpoint, azure_store: Emulator, azure_project: Path
) -> None:
    watched = Watched("cost-dev", "blue", "regression", "azureml:brookside-cost-reference:1", "dev")
    assert register_reference(
        ml_client(azure_settings(azure_project)), watched, endpoint.bundle("blue")
    ).endswith("/rows/")
    other = bundle_of(azure_project, 0.9)
    assert Bundle.open(other).info.sha256 != endpoint.deployments()["blue"].sha256
    with pytest.raises(InputError, match="is that of another model"):
        register_reference(ml_client(azure_settings(azure_project)), watched, other)


@pytest.mark.azure
def test_refusal_names_the_schedule(endpoint: AzureEndpoint, azure_store: Emulator) -> None:
    azure_store.faults.append(Fault(403, "AuthorizationFailed", "No right.", "PUT", "/schedules/", times=9))
    ran = CliRunner().invoke(app, ["schedule", "--install", "azure", "-e", "dev"])
    assert ran.exit_code == 1 and "schedule brookside-monitor-cost-dev: AuthorizationFailed" in ran.output
