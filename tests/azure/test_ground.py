"""The real SDKs find the Azure on loopback, sign in there, and keep its rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

import tests.azure.issuers  # noqa: F401  # its routes
from brookside_mlops.azure_client import Arm, AzureError, current_cloud, manager, ml_client
from brookside_mlops.azure_client import credential as sign_in
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.errors import InputError
from tests.azure.emulator import (
    CLIENT,
    CLOUD,
    GROUP,
    SECRET,
    SUBSCRIPTION,
    TENANT,
    WORKSPACE,
    Emulator,
    Fault,
)

VERSION = "2024-03-01"


def ask(method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
    with Arm() as client:
        return client.ask(method, path, "" if "api-version" in path else VERSION, body, headers)


def test_the_real_client_reads_a_workspace(azure: Emulator, tmp_path: Any) -> None:
    client = ml_client(azure_settings(tmp_path))
    found = client.workspaces.get()
    assert (found.name, found.location, found.resource_group) == (WORKSPACE, "eastus", GROUP)
    assert client.datastores.get_default().account_name == "brooksidestore"
    assert {one.headers.get("authorization", "")[:7] for one in azure.seen("GET", "^/subscriptions/")} == {
        "Bearer "
    }


def test_a_workload_signs_in_with_its_federated_token(azure: Emulator) -> None:
    token = sign_in().get_token(current_cloud().scope)
    assert token.token in azure.tokens
    (asked,) = azure.seen("POST", "oauth2/v2.0/token")
    assert b"client_assertion=federated." in asked.body and b"client_secret" not in asked.body


def test_job_of_github_asks_for_a_new_token_of_its_own_whenever_that_of_azure_is_over(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token that a job begins with is good for some minutes, and prod may take three hours."""
    (azure.folder / "federated-token").write_text("the first of github")
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{azure.address}/github/oidc?api-version=2.0")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "right-of-the-job")
    azure.token_seconds = 0  # over at once
    who = sign_in()
    who.get_token(current_cloud().scope)
    (azure.folder / "federated-token").write_text("the second of github")
    assert who.get_token(current_cloud().scope).token in azure.tokens
    first, second = azure.seen("POST", "oauth2/v2.0/token")
    assert b"first" in first.body and b"second" in second.body
    assert {one.query["audience"] for one in azure.seen("GET", "/github/oidc")} == {
        "api://AzureADTokenExchange"
    }
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "wrong-right-987")
    with pytest.raises(AzureError, match=r"GitHub gives no token .*\(401\).*id-token: write") as caught:
        sign_in().get_token(current_cloud().scope)
    assert "987" not in str(caught.value)


def test_job_of_azure_devops_signs_in_through_its_service_connection(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_FEDERATED_TOKEN_FILE")
    for name, value in {
        "SYSTEM_OIDCREQUESTURI": f"{azure.address}/devops/oidc",
        "SYSTEM_ACCESSTOKEN": "right-of-the-job",
        "AZURESUBSCRIPTION_CLIENT_ID": CLIENT,
        "AZURESUBSCRIPTION_TENANT_ID": TENANT,
        "AZURESUBSCRIPTION_SERVICE_CONNECTION_ID": "connection-7",
    }.items():
        monkeypatch.setenv(name, value)
    assert sign_in().get_token(current_cloud().scope).token in azure.tokens
    (asked,) = azure.seen("POST", "/devops/oidc")
    assert asked.query["serviceConnectionId"] == "connection-7"


def test_a_service_principal_signs_in_with_its_secret(
    azure: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", SECRET)
    assert sign_in().get_token(current_cloud().scope).token in azure.tokens


def test_a_wrong_secret_is_refused_and_not_shown(azure: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "not-the-secret-5678")
    with pytest.raises(ClientAuthenticationError) as refused:
        sign_in().get_token(current_cloud().scope)
    assert "AADSTS7000215" in str(refused.value) and "5678" not in str(refused.value)


def test_the_cloud_says_its_own_addresses(azure: Emulator) -> None:
    assert current_cloud().name == CLOUD
    assert manager() == {"base_url": azure.address, "credential_scopes": [f"{azure.address}/.default"]}


def test_a_request_without_api_version_is_refused(azure: Emulator) -> None:
    with Arm() as client:
        said = client.ask("GET", azure.group, "")
    assert (said.status_code, said.json()["error"]["code"]) == (400, "MissingApiVersionParameter")


def test_a_resource_is_put_read_listed_changed_and_deleted(azure: Emulator) -> None:
    path = f"{azure.group}/providers/Microsoft.Insights/webtests/people"
    assert ask("GET", path).json()["error"]["code"] == "ResourceNotFound"
    made = ask("PUT", path, {"location": "Global", "tags": {"a": "1"}, "properties": {"enabled": True}})
    assert (made.status_code, made.json()["type"]) == (201, "Microsoft.Insights/webtests")
    etag = made.json()["etag"]
    changed = ask("PATCH", path, {"tags": {"b": "2"}, "properties": {"enabled": None}})
    assert changed.status_code == 200 and changed.json()["tags"] == {"a": "1", "b": "2"}
    assert "enabled" not in changed.json()["properties"]
    assert ask("PUT", path, {}, {"If-Match": etag}).status_code == 412
    listed = ask("GET", path.rsplit("/", 1)[0]).json()["value"]
    everywhere = ask("GET", f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Insights/webtests").json()[
        "value"
    ]
    assert [one["name"] for one in listed] == [one["name"] for one in everywhere] == ["people"]
    assert [ask("DELETE", path).status_code for _ in range(2)] == [200, 204]
    assert [one.method for one in azure.writes()] == ["PUT", "PATCH", "PUT", "DELETE", "DELETE"]


def test_a_long_list_comes_in_pages(azure: Emulator) -> None:
    azure.page = 2
    for number in range(5):
        azure.put(f"{azure.group}/providers/Microsoft.Insights/components/ai{number}")
    collection = f"{azure.group}/providers/Microsoft.Insights/components"
    page, names = ask("GET", collection).json(), []
    while True:
        names += [one["name"] for one in page["value"]]
        if "nextLink" not in page:
            break
        page = ask("GET", page["nextLink"]).json()
    assert names == ["ai-brookside", *(f"ai{number}" for number in range(5))]


def test_a_child_without_its_parent_is_refused(azure: Emulator) -> None:
    other = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/other/providers/Microsoft.Insights/components/x"
    assert ask("PUT", other, {}).json()["error"]["code"] == "ResourceGroupNotFound"
    child = f"{azure.group}/providers/Microsoft.MachineLearningServices/workspaces/none/computes/c"
    assert ask("PUT", child, {}).json()["error"]["code"] == "ParentResourceNotFound"


def test_a_long_running_operation_is_watched_to_its_end(azure: Emulator, tmp_path: Any) -> None:
    from azure.ai.ml.entities import AmlCompute

    azure.long_running.add("microsoft.machinelearningservices/workspaces/computes")
    computes = ml_client(azure_settings(tmp_path)).compute
    made = computes.begin_create_or_update(AmlCompute(name="cpu", size="Standard_DS2_v2", max_instances=1))
    assert computes.get("cpu").provisioning_state == "Creating"
    assert made.result().provisioning_state == "Succeeded"
    computes.begin_delete("cpu").result()
    assert list(computes.list()) == []
    assert len(azure.seen("GET", "mfeOperation")) >= 2 * azure.looks


def test_the_sdk_comes_back_when_it_is_asked_to_wait(azure: Emulator, tmp_path: Any) -> None:
    azure.faults.append(
        Fault(429, "TooManyRequests", path="/workspaces/", headers={"x-ms-retry-after-ms": "20"})
    )
    assert ml_client(azure_settings(tmp_path)).workspaces.get().name == WORKSPACE
    assert [one.status for one in azure.seen("GET", f"/workspaces/{WORKSPACE}$")] == [429, 200]


def test_an_error_keeps_the_words_of_the_service(azure: Emulator, tmp_path: Any) -> None:
    azure.faults.append(Fault(403, "AuthorizationFailed", "No action 'read' for you.", path="/workspaces/"))
    with pytest.raises(HttpResponseError, match="AuthorizationFailed"):
        ml_client(azure_settings(tmp_path)).workspaces.get()


def test_a_host_outside_this_cloud_is_refused(azure: Emulator) -> None:
    import requests

    with pytest.raises(requests.RequestException):
        requests.get("https://management.azure.com/", timeout=5)
    assert azure.strangers == ["management.azure.com"]
    azure.strangers.clear()


def test_settings_name_the_key_and_its_variable(
    azure: Emulator, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROOKSIDE_AZURE_WORKSPACE")
    with pytest.raises(InputError, match=r"\[azure\] workspace: is not set; .* BROOKSIDE_AZURE_WORKSPACE"):
        ml_client(azure_settings(tmp_path))
    assert azure.requests == []
