"""The whole line by the command line with its endpoint in Azure: trained on the cluster, registered and rolled out from here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.azure_jobs import Clock, sent_of
from brookside_mlops.azure_steps import STEPS
from brookside_mlops.endpoints.targets import endpoint_for
from brookside_mlops.pipeline import _registered, promote
from brookside_mlops.registry import RegisterResult, check_version
from brookside_mlops.runs import Run, list_runs
from brookside_mlops.serving import serves
from brookside_mlops.tracking import tracking_client
from tests.azure import jobs
from tests.azure.emulator import Emulator
from tests.commands import call
from tests.registered import write_settings

SMALL = ("-p", "rows=2500", "-p", "bootstrap=100", "-p", "train.trees=300")
QUICK = {"smoke_rate": "20", "smoke_seconds": "1", "endpoint": "{usecase}-{environment}"}
pytestmark = pytest.mark.azure


def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def cloud(azure_store: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Yield an Azure with storage, endpoints that serve and the cluster of dev; we are in a project with quick rollouts."""
    write_settings(azure_project, **QUICK)
    monkeypatch.setenv("BROOKSIDE_TARGET", "")  # put back at the end: --target sets it
    monkeypatch.setattr("brookside_mlops.azure_jobs.LOOK_SECONDS", 0.2)
    compute = {"properties": {"computeType": "AmlCompute"}}
    azure_store.put(f"{azure_store.workspace}/computes/train-dev", compute)
    yield azure_store
    jobs.of(azure_store).held.set()
    jobs.of(azure_store).join()


@pytest.mark.endtoend
def test_run_goes_from_rows_to_an_endpoint_in_azure(
    cloud: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan, an interrupt, a gate that fails on the cluster and is mended, a deployment, and on towards staging."""
    before = sorted(azure_project.rglob("*"))
    plan = call("run", "--target", "azure", "--plan", *SMALL)
    assert "validation -> engineering -> training -> evaluation" in plan.stdout and "train-dev" in plan.stdout
    assert sorted(azure_project.rglob("*")) == before and cloud.writes() == []

    # Somebody presses Ctrl-C while the job waits for a machine: it goes on there, and its name is kept here.
    settings = azure_project / "settings.ini"
    mended = settings.read_text()
    settings.write_text(mended.replace("min_accuracy = 0.75", "min_accuracy = 0.999"))
    jobs.of(cloud).held.clear()
    with monkeypatch.context() as impatient:
        impatient.setattr(
            "brookside_mlops.azure_training.Clock", lambda minutes: Clock(minutes, sleep=interrupt)
        )
        stopped = call("run", "--target", "azure", *SMALL)
    (run,) = list_runs(azure_project)
    assert stopped.exit_code == 130 and f"run --resume {run.id}" in stopped.stderr, stopped.output
    assert "goes on in Azure" in stopped.stdout and [job.name for job in sent_of(run).jobs] == [run.id]
    assert run.record.stages == {} and run.record.target == "azure"
    assert f"{run.id} is waited for" in call("run", "--resume", run.id, "--plan").stdout

    # Going on waits for that job. The gate says no there, so the line stops here, in the words of the gate.
    monkeypatch.setenv("BROOKSIDE_TARGET", "")
    jobs.of(cloud).held.set()
    failed = call("run", "--resume", run.id)
    assert failed.exit_code == 1 and len(cloud.seen("PUT", "/jobs/")) == 1, (
        failed.output,
        jobs.of(cloud).walks,
    )
    assert re.search(r"accuracy .*0\.999.*were not begun: https://", failed.stderr), failed.output
    run = Run(run.folder)
    assert run.record.stages["evaluate"].verdict == "fail" and "register" not in run.record.stages
    assert (run.folder / "04_evaluate.ipynb").exists() and "deploy" not in run.record.stages

    # With the gate mended, a second job begins with the evaluation, and the rest is done from here, in Azure without being told again.
    settings.write_text(mended)
    ended = call("run", "--resume", run.id)
    assert ended.exit_code == 0, (ended.output, jobs.of(cloud).walks)
    assert [job.steps for job in sent_of(run).jobs] == [STEPS, STEPS[3:]]
    assert all(job.settled for job in sent_of(run).jobs)
    run = Run(run.folder)
    assert {one.state for one in run.record.stages.values()} == {"done"} and len(run.record.stages) == 8
    assert not (run.folder / "baseline").exists()
    known = run.read(RegisterResult, "register")
    check_version(run.settings, known.model_name, known.version, known.sha256, run.id)
    assert json.loads((run.folder / "deployment.json").read_text())["version"] == known.version
    endpoint = endpoint_for(run.settings, run.settings.endpoint_name("viability"))
    (serving,) = [one for one in endpoint.show().deployments if one.weight]
    assert (serving.version, serving.sha256) == (known.version, known.sha256) and serves(run)

    # Nothing is left to do, and what was registered here can be taken further.
    again = call("run", "--resume", run.id, "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)[0]["serves"], again.output
    assert len(cloud.seen("PUT", "/jobs/")) == 2
    client = tracking_client(run.settings)
    (training,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert training.data.tags["brookside.run"] == run.id and training.data.metrics["rounds"] > 0
    carried = promote(run, "staging")
    assert carried.record.target == "azure"
    assert _registered(carried)
