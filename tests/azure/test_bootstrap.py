"""What a workspace needs is made once, in an order in which it can be, and what others made stays theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops.azure_bootstrap import apply_bootstrap, plan_bootstrap
from brookside_mlops.azure_client import Arm, AzureError
from brookside_mlops.cli import app
from brookside_mlops.errors import InputError
from tests.azure.emulator import SUBSCRIPTION as SUB
from tests.azure.emulator import TENANT, Emulator, Fault, Reply, Request, route
from tests.azure.monitor import CUSTOMER, LOGS, add_logs

REGISTRY = (
    "/subscriptions/[^/]+/resourceGroups/rg-new/providers/Microsoft.MachineLearningServices/registries/taken"
)


@route("PUT", r".*/providers/Microsoft.OperationalInsights/workspaces/[^/]+")
def put_logs(emulator: Emulator, request: Request) -> Reply | None:
    """A log workspace gets the number by which it is queried."""
    body = request.json
    body["properties"] = {**body["properties"], "customerId": "9f3c0de0-0000-4000-8000-000000000001"}
    return emulator.write(request.path, request, body)


@route("PUT", REGISTRY)
def put_taken(emulator: Emulator, request: Request) -> Reply | None:
    """A registry whose name is somebody else's: it is taken on, and then it fails."""
    said = {"code": "RegistryNameTaken", "message": "Another registry has this name."}
    return emulator.accepted(Reply(202), lambda: said, "")


@pytest.fixture
def here(azure: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project whose settings name a group and a workspace that are not there yet."""
    for key, value in {
        "RESOURCE_GROUP": "rg-new",
        "WORKSPACE": "mlw-new",
        "REGISTRY": "reg-new",
        "ACTION_GROUP": "ag-new",
    }.items():
        monkeypatch.setenv(f"BROOKSIDE_AZURE_{key}", value)
    azure.put(f"/subscriptions/{SUB}", {"subscriptionId": SUB, "tenantId": TENANT, "state": "Enabled"})
    return azure_project


def whats(project: Path) -> list[tuple[str, str]]:
    with Arm() as arm:
        return [(one.what, one.resource.what) for one in plan_bootstrap(project, arm)]


def apply(project: Path) -> list[str]:
    with Arm() as arm:
        return apply_bootstrap(project, arm, lambda step: None, lambda seconds: None)


def test_plan_shows_all_that_is_missing_and_makes_nothing(azure: Emulator, here: Path) -> None:
    found = whats(here)
    assert {what for what, _ in found} == {"create"}
    assert [kind for _, kind in found] == [
        "resource group",
        "log workspace",
        "application insights",
        "storage account",
        "key vault",
        "workspace",
        *["compute cluster"] * 3,
        "registry",
        "action group",
    ]
    assert azure.writes() == []


def test_applied_once_there_is_nothing_left_to_do(azure: Emulator, here: Path) -> None:
    azure.long_running |= {
        "microsoft.machinelearningservices/workspaces",
        "microsoft.machinelearningservices/registries",
    }
    lines = apply(here)
    assert lines == ["log_workspace = 9f3c0de0-0000-4000-8000-000000000001"]
    assert {what for what, _ in whats(here)} == {"same"}
    count = len(azure.writes())
    apply(here)
    assert len(azure.writes()) == count
    group = f"/subscriptions/{SUB}/resourceGroups/rg-new"
    workspace = azure.find(f"{group}/providers/Microsoft.MachineLearningServices/workspaces/mlw-new")
    assert workspace is not None
    for name in ("storageAccount", "keyVault", "applicationInsights"):
        assert azure.find(workspace["properties"][name]) is not None
    clusters = azure.below(f"{workspace['id']}/computes")
    assert {one["name"]: one["properties"]["properties"]["vmPriority"] for one in clusters} == {
        "train-dev": "LowPriority",
        "train-staging": "LowPriority",
        "train-prod": "Dedicated",
    }


def test_what_was_changed_is_shown_and_put_back_with_the_rest_as_it_is(azure: Emulator, here: Path) -> None:
    apply(here)
    path = f"/subscriptions/{SUB}/resourceGroups/rg-new/providers/Microsoft.Storage/storageAccounts"
    (storage,) = azure.below(path)
    storage["properties"] |= {"allowBlobPublicAccess": True, "accessTier": "Cool"}
    with Arm() as arm:
        (step,) = [one for one in plan_bootstrap(here, arm) if one.what != "same"]
    assert step.what == "change" and "allowBlobPublicAccess is True, not False" in step.differences[0]
    apply(here)
    (storage,) = azure.below(path)
    assert (
        storage["properties"]["allowBlobPublicAccess"] is False
        and storage["properties"]["accessTier"] == "Cool"
    )


def test_workspace_of_somebody_else_is_used_and_left_alone(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOKSIDE_AZURE_RESOURCE_GROUP", "rg-brookside")
    monkeypatch.setenv("BROOKSIDE_AZURE_WORKSPACE", "mlw-brookside")
    before = json.dumps(azure.find(azure.workspace))
    apply(here)
    assert json.dumps(azure.find(azure.workspace)) == before
    kept = {kind for what, kind in whats(here) if what == "keep"}
    assert kept == {"resource group", "workspace", "storage account", "key vault", "application insights"}
    assert not azure.seen("PUT", "Microsoft.(Storage|KeyVault)")


def test_logs_of_an_endpoint_are_sent_once_it_is_there(azure: Emulator, here: Path) -> None:
    apply(here)
    workspace = f"/subscriptions/{SUB}/resourceGroups/rg-new/providers/Microsoft.MachineLearningServices/workspaces/mlw-new"
    azure.put(f"{workspace}/onlineEndpoints/viability-prod", {"location": "eastus"})
    assert [one for one in whats(here) if one[0] != "same"] == [("create", "endpoint logs")]
    apply(here)
    assert {what for what, _ in whats(here)} == {"same"}


def test_apply_that_was_refused_goes_on_the_next_time(azure: Emulator, here: Path) -> None:
    azure.faults.append(Fault(403, "AuthorizationFailed", "You may not.", "PUT", "KeyVault"))
    with pytest.raises(AzureError, match=r"key vault kv-.*AuthorizationFailed"):
        apply(here)
    done = {kind for what, kind in whats(here) if what == "same"}
    assert done == {"resource group", "log workspace", "application insights", "storage account"}
    apply(here)
    assert {what for what, _ in whats(here)} == {"same"}


def test_operation_that_failed_says_why(azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROOKSIDE_AZURE_REGISTRY", "taken")
    with pytest.raises(AzureError, match=r"registry taken was not made: RegistryNameTaken: Another registry"):
        apply(here)


def test_log_workspace_that_is_set_is_used(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_logs(azure)
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", CUSTOMER)
    monkeypatch.setenv("BROOKSIDE_AZURE_LOCATION", "East US")
    assert ("keep", "log workspace") in whats(here)
    assert apply(here) == [] and not azure.seen("PUT", "OperationalInsights")
    group = f"/subscriptions/{SUB}/resourceGroups/rg-new/providers"
    insights = azure.find(f"{group}/Microsoft.Insights/components/ai-mlw-new")
    assert insights and insights["properties"]["WorkspaceResourceId"].endswith(f"/workspaces/{LOGS}")
    workspace = azure.find(f"{group}/Microsoft.MachineLearningServices/workspaces/mlw-new")
    assert workspace and workspace["location"] == "eastus"
    workspace["location"] = "East US"
    for one in azure.below(f"{workspace['id']}/computes"):
        one["properties"]["properties"]["scaleSettings"]["nodeIdleTimeBeforeScaleDown"] = "PT5M"
    assert {what for what, _ in whats(here)} == {"same", "keep"}


def test_command_wants_one_of_two_words(azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = CliRunner().invoke(app, ["azure", "bootstrap"])
    assert refused.exit_code == 2 and "--plan and --apply" in refused.output
    shown = CliRunner().invoke(app, ["azure", "bootstrap", "--plan"])
    assert shown.exit_code == 0 and "create resource group       rg-new" in shown.stdout
    assert "11 to do" in shown.stdout
    monkeypatch.delenv("BROOKSIDE_AZURE_LOCATION")
    missing = CliRunner().invoke(app, ["azure", "bootstrap", "--plan"])
    assert missing.exit_code == 2 and "BROOKSIDE_AZURE_LOCATION" in missing.output


def test_settings_are_needed_before_azure_is_asked(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROOKSIDE_AZURE_WORKSPACE")
    with pytest.raises(InputError, match="BROOKSIDE_AZURE_WORKSPACE"):
        whats(here)
