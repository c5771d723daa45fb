"""What goes wrong in Azure ends in words that help, with the traffic as it was and nothing half made left behind unnamed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brookside_mlops.azure_client import AzureError
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.ci_undo import undo_of
from brookside_mlops.endpoints.azure import AzureEndpoint
from brookside_mlops.endpoints.azure_errors import AzureEndpointError
from brookside_mlops.errors import InputError
from brookside_mlops.scratch import scratch_bundle
from tests.azure.emulator import Emulator, Fault
from tests.azure.endpoints import of
from tests.commands import call

pytestmark = pytest.mark.azure
BODY = json.dumps([{"weeks": 4}]).encode()


def endpoint_at(tmp_path: Path, **more: Any) -> AzureEndpoint:
    found = azure_settings(tmp_path).model_copy(update=more)
    return AzureEndpoint(found, "cost-dev", tmp_path / "state", sleep=lambda _: None)


@pytest.fixture
def endpoint(azure_store: Emulator, tmp_path: Path) -> Iterator[AzureEndpoint]:
    """An endpoint on which `blue` serves; deployments and other changes may take two seconds."""
    one = endpoint_at(tmp_path)
    one.start()
    one.create_deployment("blue", scratch_bundle(tmp_path / "blue", 0.5), "brookside-cost", 1)
    one.set_traffic({"blue": 100})
    yield endpoint_at(tmp_path, deploy_minutes=2 / 60, wait_minutes=2 / 60)


def create_green(endpoint: AzureEndpoint, tmp_path: Path) -> str:
    """Try to make `green`, and return what was said; `blue` serves alone as before."""
    bundle = scratch_bundle(tmp_path / "green", 0.25)
    with pytest.raises(AzureEndpointError) as failed:
        endpoint.create_deployment("green", bundle, "brookside-cost", 2)
    patient = endpoint_at(tmp_path)
    assert patient.show().traffic["blue"] == 100 and patient.score(BODY).content == [4.5]
    said = str(failed.value)
    assert "deployment green (brookside-cost version 2) was not made" in said and "next: " in said
    return said


@pytest.mark.parametrize(
    ("fate", "code", "state", "step"),
    [
        ("failed", "ResourceNotReady", "Failed", "read the lines above"),
        ("quota", "OutOfQuota", "Failed", "ask for more in the portal"),
        ("stuck", "NotEnded", "Creating", "it is deleted again: read its log above"),
    ],
)
def test_deployment_that_is_not_made_is_explained_and_removed(
    endpoint: AzureEndpoint,
    azure_store: Emulator,
    tmp_path: Path,
    fate: str,
    code: str,
    state: str,
    step: str,
) -> None:
    of(azure_store).fates["green"] = fate
    said = create_green(endpoint, tmp_path)
    assert code in said and f"state: {state}" in said and step in said
    assert f"log: ModuleNotFoundError: No module named 'of-{fate}'" in said and "left behind" not in said
    assert list(endpoint_at(tmp_path).deployments()) == ["blue"]


def test_what_cannot_be_removed_is_named_with_the_command_that_does(
    endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path
) -> None:
    of(azure_store).fates["green"] = "failed"
    azure_store.faults.append(
        Fault(403, "AuthorizationFailed", method="DELETE", path="deployments/green", times=9)
    )
    said = create_green(endpoint, tmp_path)
    assert "left behind: deployment green, Failed: az ml online-deployment delete --name green" in said


def test_traffic_that_no_state_explains_is_left_to_a_person(
    endpoint: AzureEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine of a deployment was lost before it could hand out its state; the one that is to take it back has none."""
    monkeypatch.chdir(tmp_path)
    lost = ("ci", "undo", "20260101-000000-cost-0a0b", "--environment", "dev", "--usecase", "cost")
    monkeypatch.setenv("BROOKSIDE_TARGET", "azure")
    said = call(*lost)
    assert said.exit_code == 1 and endpoint.show().traffic == {"blue": 100}
    for wanted in ("not known: blue (version 1) 100 %", "endpoint show cost-dev --target azure"):
        assert wanted in said.stderr
    for name, usecase in (("staging", "cost"), ("dev", "viability")):
        assert undo_of(tmp_path, lost[2], name, usecase)[0].act == "nothing", "there is no endpoint"


def test_conflict_is_waited_out(endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path) -> None:
    of(azure_store).busy = 2
    endpoint_at(tmp_path).set_traffic({"blue": 0})
    puts = [one.status for one in azure_store.seen("PUT", "onlineEndpoints/cost-dev$")]
    assert puts[-3:] == [409, 409, 200]


def test_conflict_that_does_not_end_is_explained(endpoint: AzureEndpoint, azure_store: Emulator) -> None:
    of(azure_store).busy = 10**6
    with pytest.raises(AzureEndpointError) as failed:
        endpoint.set_traffic({"blue": 0})
    of(azure_store).busy = 0
    said = str(failed.value)
    assert "the traffic was not changed: Conflict" in said and "the traffic is blue 100 %" in said
    assert "somebody else is changing this endpoint" in said
    assert endpoint.show().traffic == {"blue": 100}


def test_throttling_is_waited_out_as_azure_asks(
    endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path
) -> None:
    later = {"Retry-After": "1"}
    azure_store.faults.append(
        Fault(429, "TooManyRequests", method="PUT", path="cost-dev$", times=1, headers=later)
    )
    endpoint_at(tmp_path).set_traffic({"blue": 0})
    assert [one.status for one in azure_store.seen("PUT", "onlineEndpoints/cost-dev$")][-2:] == [429, 200]


def test_token_that_ends_is_replaced(endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path) -> None:
    patient = endpoint_at(tmp_path)
    patient.show()
    azure_store.expire_tokens()
    patient.set_traffic({"blue": 0})
    assert patient.show().traffic == {"blue": 0}


def test_token_that_ends_while_an_operation_is_watched_is_replaced(
    endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path
) -> None:
    gone = Fault(
        401, "ExpiredAuthenticationToken", "The token is over.", "GET", "mfeOperationsStatus", times=1
    )
    azure_store.faults.append(gone)
    azure_store.looks = 0
    patient = endpoint_at(tmp_path)
    real_existing = azure_store.existing

    def existing(path: str) -> dict[str, Any]:
        """The service goes on with what it has begun, whether it is watched or not."""
        for one in list(azure_store.operations.values()):
            one.look()
        return real_existing(path)

    azure_store.existing = existing  # type: ignore[method-assign]
    patient.set_traffic({"blue": 0})
    assert gone.times == 0 and patient.show().traffic == {"blue": 0}


def test_change_that_is_seen_late_is_read_until_it_is_seen(
    endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path
) -> None:
    patient = endpoint_at(tmp_path)
    patient.create_deployment("green", scratch_bundle(tmp_path / "green", 0.25), "brookside-cost", 2)
    of(azure_store).stale = 3
    patient.set_traffic({"green": 100})
    assert of(azure_store).stale == 0 and patient.show().traffic == {"blue": 0, "green": 100}


def test_change_that_is_never_seen_is_explained(endpoint: AzureEndpoint, azure_store: Emulator) -> None:
    of(azure_store).stale = 10**6
    with pytest.raises(
        AzureEndpointError, match=r"taken and is not seen: NotSeen: traffic reads {'blue': 100}"
    ):
        endpoint.set_traffic({"blue": 0})


def test_endpoint_that_somebody_deleted_is_not_made_again(
    endpoint: AzureEndpoint, azure_store: Emulator
) -> None:
    path = azure_store.seen("PUT", "onlineEndpoints/cost-dev$")[0].path
    azure_store.drop(path)
    with pytest.raises(AzureEndpointError, match="ResourceNotFound: there is no such endpoint"):
        endpoint.set_traffic({"blue": 0})
    with pytest.raises(AzureEndpointError, match="somebody has deleted it"):
        endpoint.delete_deployment("blue")
    assert azure_store.find(path) is None


def test_network_that_is_gone_is_explained(azure_store: Emulator, tmp_path: Path, monkeypatch: Any) -> None:
    one = endpoint_at(tmp_path, wait_minutes=0.01)
    azure_store.faults.append(
        Fault(403, "AuthorizationFailed", "No action 'read' for you.", path="onlineEndpoints")
    )
    with pytest.raises(AzureEndpointError, match="AzureML Data Scientist"):
        one.show()


def test_without_a_log_workspace_nothing_is_begun(azure_store: Emulator, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="log_workspace: is not set"):
        endpoint_at(tmp_path, log_workspace="").start()
    assert azure_store.writes() == []


def test_log_workspace_that_is_not_there_stops_it_before_anything_is_made(
    azure_store: Emulator, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"log_workspace: .* no workspace of the id none: .*azure bootstrap"):
        endpoint_at(tmp_path, log_workspace="none").start()
    assert azure_store.writes() == []


def test_logs_are_sent_from_the_first_deployment_on(azure_store: Emulator, tmp_path: Path) -> None:
    one = endpoint_at(tmp_path)
    azure_store.faults.append(
        Fault(403, "AuthorizationFailed", "Not for you.", "PUT", "diagnosticSettings/brookside-mlops")
    )
    with pytest.raises(AzureError, match=r"diagnosticSettings/write.*\n  the endpoint is deleted again"):
        one.start()
    assert not one.exists
    one.start()
    one.start()
    sent = azure_store.seen("PUT", "diagnosticSettings/brookside-mlops")
    assert [request.status for request in sent] == [403, 201]
    assert sent[-1].json["properties"]["workspaceId"].endswith("/workspaces/log-endpoints")

    of(azure_store).fates["blue"] = "quota"
    bundle = scratch_bundle(tmp_path / "blue", 0.5)
    with pytest.raises(
        AzureEndpointError, match=r"OutOfQuota(.|\n)*left behind: endpoint cost-dev, without a"
    ):
        one.create_deployment("blue", bundle, "brookside-cost", 1)


def test_workspace_that_is_not_there_is_named(azure_store: Emulator, tmp_path: Path) -> None:
    for name in ("nowhere", "bad name!"):
        with pytest.raises(
            AzureEndpointError, match=rf"has no workspace {name}(.|\n)*azure bootstrap --plan"
        ):
            endpoint_at(tmp_path, workspace=name).start()
    assert azure_store.writes() == []


def test_who_is_not_signed_in_is_told_so_in_short(
    azure_store: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(AzureEndpointError, match=r"NotSignedIn\n  next: not signed in: az login") as failed:
        endpoint_at(tmp_path).show()
    assert len(str(failed.value)) < 300
    monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "AzureMoon")
    with pytest.raises(InputError, match="AZUREML_CURRENT_CLOUD: AzureMoon is none of AzureCloud"):
        endpoint_at(tmp_path).show()


def test_no_secret_stands_in_an_error(endpoint: AzureEndpoint, azure_store: Emulator, tmp_path: Path) -> None:
    of(azure_store).fates["green"] = "failed"
    said = create_green(endpoint, tmp_path)
    keys = endpoint.keys()
    assert not any(one in said for one in (*keys, *azure_store.tokens, "Bearer", "federated"))
