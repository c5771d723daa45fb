"""The doctor asks Azure by the real sign-in over HTTPS, only reads, and names what is missing with how to mend it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tests.azure.account  # noqa: F401  # its routes
from brookside_mlops.cli import app
from brookside_mlops.doctor_azure import azure_findings
from brookside_mlops.findings import Finding
from brookside_mlops.telemetry import CONNECTION
from tests.azure.emulator import SECRET, Emulator, Fault
from tests.azure.monitor import CUSTOMER, LOGS, add_logs, send


@pytest.fixture
def here(azure: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", CUSTOMER)
    monkeypatch.setenv(CONNECTION, "InstrumentationKey=hunter2")
    monkeypatch.setenv("NO_PROXY", "*")
    add_logs(azure)
    azure.put(f"{azure.workspace}/computes/train-prod", {"properties": {"computeType": "AmlCompute"}})
    for name in ("viability-prod", "cost-prod", "patterns-prod"):
        send(azure, name)
    return azure_project


def look(project: Path) -> dict[str, Finding]:
    return {
        f"{one.area}/{one.name}": one
        for one in azure_findings(project, "prod")
        if one.name != "api.loganalytics.io"
    }


def faults(project: Path) -> dict[str, Finding]:
    return {name: one for name, one in look(project).items() if one.verdict == "fail"}


def test_all_is_well_and_nothing_was_written(azure: Emulator, here: Path) -> None:
    found = look(here)
    assert {name: one.seen for name, one in found.items() if one.verdict != "pass"} == {}
    assert {"credentials/azure", "permissions/azure", "quota/Standard_DS3_v2", "workspace/workspace"} <= set(
        found
    )
    assert {"workspace/application insights", "workspace/logs", "network/localhost"} <= set(found)
    assert azure.writes() == [] and "hunter2" not in repr(found)


def test_wrong_sign_in_is_one_finding_and_its_secret_not_shown(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", f"{SECRET}-not")
    found = faults(here)
    assert list(found) == ["credentials/azure"]
    assert "az login" in found["credentials/azure"].mend and SECRET not in repr(found)


def test_missing_settings_name_their_variable(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROOKSIDE_AZURE_SUBSCRIPTION")
    found = faults(here)
    assert (
        list(found) == ["settings/azure"] and "BROOKSIDE_AZURE_SUBSCRIPTION" in found["settings/azure"].seen
    )


def test_roles_that_are_missing_are_named(azure: Emulator, here: Path) -> None:
    azure.more["permissions"] = [{"actions": ["*/read"], "notActions": []}]
    found = faults(here)["permissions/azure"]
    assert "AzureML Data Scientist" in found.mend and "Monitoring Contributor" in found.mend
    assert "onlineEndpoints/deployments/write" in found.seen and "Log Analytics" not in found.mend


def test_roles_are_looked_for_where_they_are_given(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = f"{azure.group}/providers/Microsoft.MachineLearningServices/registries/shared"
    azure.put(registry, {"location": "eastus", "properties": {}})
    monkeypatch.setenv("BROOKSIDE_AZURE_REGISTRY", "shared")
    logs = f"{azure.group}/providers/Microsoft.OperationalInsights/workspaces/{LOGS}"
    work = ["Microsoft.MachineLearningServices/workspaces/*", "Microsoft.Insights/diagnosticSettings/*"]
    given = {
        azure.workspace: work,
        azure.group: ["Microsoft.Insights/*"],
        logs: ["Microsoft.OperationalInsights/workspaces/query/read"],
        registry: ["Microsoft.MachineLearningServices/registries/assets/*"],
    }
    azure.more["permissions"] = []
    azure.more["permissions at"] = {
        where.lower(): [{"actions": actions, "notActions": []}] for where, actions in given.items()
    }
    assert "permissions/azure" not in faults(here)
    azure.more["permissions at"] = {azure.group.lower(): [{"actions": ["Microsoft.Insights/*"]}]}
    found = faults(here)["permissions/azure"]
    for action in ("datastores/listSecrets/action", "schedules/write", "codes/versions/write"):
        assert action in found.seen
    assert f"Log Analytics Reader on log workspace {LOGS}" in found.mend
    assert "AzureML Registry User on registry shared" in found.mend and "resource group" not in found.mend
    azure.drop(azure.workspace)
    azure.more["permissions at"] = {azure.group.lower(): [{"actions": ["*"]}]}
    found = faults(here)["permissions/azure"]
    assert "onlineEndpoints/write" not in found.seen and "assets/write" in found.seen


def test_quota_has_to_hold_both_deployments_of_a_rollout(azure: Emulator, here: Path) -> None:
    azure.more["taken"] = 81
    found = faults(here)["quota/Standard_DS3_v2"]
    assert "19 of 100 cores free; a rollout of 2 takes 20" in found.seen and "Quotas" in found.mend
    azure.more["taken"] = 80
    assert not faults(here)


def test_machine_that_the_region_does_not_have(azure: Emulator, here: Path) -> None:
    settings = here / "settings.ini"
    settings.write_text(
        settings.read_text().replace("instance_type = Standard_DS3_v2", "instance_type = Standard_NC6")
    )
    assert "no such machine" in faults(here)["quota/Standard_NC6"].seen


def test_workspace_that_is_gone_or_failed(azure: Emulator, here: Path) -> None:
    azure.set_state(azure.workspace, "Failed")
    assert "is Failed" in faults(here)["workspace/workspace"].seen
    azure.drop(azure.workspace)
    found = faults(here)
    assert "azure bootstrap" in found["workspace/workspace"].mend
    assert "workspace/application insights" in found


def test_registry_and_logs_that_are_not_there(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOKSIDE_AZURE_REGISTRY", "nowhere")
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", "none")
    monkeypatch.delenv(CONNECTION)
    found = look(here)
    assert found["registry/azure"].verdict == "fail"
    assert (found["workspace/logs"].verdict, found["credentials/telemetry"].verdict) == ("fail", "warning")


def test_endpoint_without_logs_and_cluster_that_is_gone(azure: Emulator, here: Path) -> None:
    azure.drop(f"{azure.workspace}/computes/train-prod")
    azure.drop(
        f"{azure.workspace}/onlineEndpoints/cost-prod/providers/Microsoft.Insights/diagnosticSettings/mine"
    )
    azure.drop(f"{azure.workspace}/onlineEndpoints/patterns-prod")
    found = faults(here)
    assert list(found) == ["workspace/cluster", "workspace/logs of cost-prod"]
    assert "next deploy" in found["workspace/logs of cost-prod"].mend


def test_cloud_that_cannot_be_reached(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "https://127.0.0.1:1")
    found = faults(here)
    assert "network/127.0.0.1" in found and "HTTPS_PROXY" in found["network/127.0.0.1"].mend


def test_refusal_is_told_with_its_code(azure: Emulator, here: Path) -> None:
    azure.faults.append(Fault(403, "AuthorizationFailed", "Not for you.", "GET", "Authorization/permissions"))
    assert "403 AuthorizationFailed: Not for you." in faults(here)["permissions/azure"].seen


def test_command_shows_azure_and_ends_in_1_where_something_is_missing(azure: Emulator, here: Path) -> None:
    azure.drop(azure.workspace)
    shown = CliRunner().invoke(app, ["doctor", "--target", "azure", "--json"])
    content = json.loads(shown.stdout)
    assert shown.exit_code == 1 and content["target"] == "azure" and not content["passed"]
    assert any(one["area"] == "permissions" and one["name"] == "azure" for one in content["findings"])
