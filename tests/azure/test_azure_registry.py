"""A version goes from workspace to workspace through the registry: the same bytes on both sides, once, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from brookside_mlops.azure_client import AzureError, ml_client
from brookside_mlops.azure_settings import azure_settings
from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.azure_registry import share_bundle, shared_model
from brookside_mlops.endpoints.targets import azure_endpoints, endpoint_for
from brookside_mlops.errors import InputError
from brookside_mlops.pipeline import promote
from brookside_mlops.results import StageResult
from brookside_mlops.rollout_run import deploy_run
from brookside_mlops.run_record import STAGES, StageRecord
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle
from tests.azure.blobs import container_of
from tests.azure.emulator import Emulator, Fault
from tests.azure.registry import REGISTRY, add_registry, add_workspace, registry_id
from tests.registered import Registered

pytestmark = pytest.mark.azure


@pytest.fixture
def registry(azure_store: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Return an Azure with a registry and a workspace for each environment, and name both in the settings."""
    add_registry(azure_store)
    monkeypatch.setenv("BROOKSIDE_AZURE_REGISTRY", REGISTRY)
    monkeypatch.setenv("BROOKSIDE_AZURE_WORKSPACE", "mlw-{environment}")
    for name in ("dev", "staging"):
        add_workspace(azure_store, f"mlw-{name}")
    return azure_store


@pytest.fixture
def project(registry_project: Registered, registry: Emulator) -> Registered:
    """Return three registered versions whose endpoints are in Azure."""
    registry_project.settings(target="azure")
    return registry_project


def ready(run: Run) -> Run:
    """Return a run whose stages before a promotion are done."""
    for stage in STAGES[:7]:
        if not (run.folder / f"{stage}.json").exists():
            run.finish(StageResult(stage=stage, verdict="pass"))
    with run.change() as record:
        for stage in STAGES[:7]:
            record.stages[stage] = StageRecord(state="done", verdict="pass")
    return run


def uploads(emulator: Emulator) -> int:
    return len(emulator.seen("PUT", "/models/[^/]+/versions/"))


def test_version_arrives_with_its_bytes_and_once(registry: Emulator, tmp_path: Path) -> None:
    client = ml_client(azure_settings(tmp_path), registry=True)
    bundle = scratch_bundle(tmp_path / "bundle", 0.5)
    assert share_bundle(client, bundle, "cost", 3) and not share_bundle(client, bundle, "cost", 3)
    assert uploads(registry) == 1
    digest = Bundle.open(bundle).info.sha256
    found = shared_model(client, "cost", 3, digest)
    assert found is not None and (found.tags or {})["sha256"] == digest
    with pytest.raises(InputError, match=r"cost version 3 in the registry is another one"):
        share_bundle(client, scratch_bundle(tmp_path / "other", 0.7), "cost", 3)
    kept = registry.existing(f"{registry_id()}/models/cost/versions/3")["properties"]["modelUri"]
    blobs = container_of(kept)
    (graph,) = [one.name for one in blobs.list_blobs() if one.name.endswith("model.onnx")]
    blobs.upload_blob(graph, b"something else", overwrite=True)
    with pytest.raises(InputError, match="SHA-256 differs"):
        share_bundle(client, bundle, "cost", 3)


def test_promoted_version_serves_in_the_next_workspace_from_the_registry(
    project: Registered, registry: Emulator
) -> None:
    deploy_run(project.run(1))
    assert uploads(registry) == 1, "dev has its model in its own workspace"
    target = promote(ready(project.run(1)), "staging")
    assert promote(project.run(1), "staging").id == target.id and uploads(registry) == 2
    target.finish(StageResult(stage="evaluate", verdict="pass"))
    with target.change() as record:
        record.stages["evaluate"] = StageRecord(state="done", verdict="pass")
    deploy_run(target)
    endpoint = endpoint_for(target.settings, target.settings.endpoint_name("cost"))
    serving = endpoint.deployments()["blue"]
    assert (serving.weight, serving.version) == (100, 1)
    (made,) = registry.seen("PUT", "workspaces/mlw-staging/.*/deployments/blue$")
    wanted = made.json["properties"]
    assert wanted["model"] == f"azureml://registries/{REGISTRY}/models/brookside-cost/versions/1"
    assert wanted["environmentId"].startswith(f"azureml://registries/{REGISTRY}/environments/")
    assert uploads(registry) == 2, "nothing is uploaded to the second workspace"
    kept = target.settings.state / "bundles" / serving.sha256
    for file in kept.iterdir():
        file.unlink()
    kept.rmdir()
    assert Bundle.open(endpoint.bundle("blue")).info.sha256 == serving.sha256
    assert [one.name for one in azure_endpoints(project.project, "azure")] == sorted(
        [endpoint.name, project.run(1).settings.endpoint_name("cost")]
    )


def test_registry_that_refuses_leaves_no_promoted_run(project: Registered, registry: Emulator) -> None:
    run = ready(project.run(2))
    registry.faults.append(
        Fault(403, "AuthorizationFailed", "No right to write.", "PUT", "/registries/.*/models/", times=9)
    )
    with pytest.raises(AzureError, match=r"version 2 in registry .*AuthorizationFailed.*Registry User"):
        promote(run, "staging")
    run.refresh()
    assert run.record.promoted_to == ""
    registry.faults.clear()
    assert promote(run, "staging").record.promoted_from == run.id


def test_registry_that_is_not_there_is_named(
    project: Registered, registry: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOKSIDE_AZURE_REGISTRY", "elsewhere")
    with pytest.raises(AzureError, match=r"in registry elsewhere: .*azure bootstrap --plan"):
        promote(ready(project.run(1)), "staging")
