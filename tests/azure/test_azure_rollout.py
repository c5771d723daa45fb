"""Whole rollouts in Azure by the verbs of the command line: a first version, a canary that takes over, one that is stopped, a rollback."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops.alert_effects import Means
from brookside_mlops.alert_rules import DEFAULT_RULES
from brookside_mlops.cli import app
from brookside_mlops.due import Due
from brookside_mlops.endpoints.azure import AzureEndpoint
from brookside_mlops.endpoints.azure_errors import AzureEndpointError
from brookside_mlops.endpoints.request_log import INSERT, Entry
from brookside_mlops.endpoints.targets import endpoint_for
from brookside_mlops.errors import GateFailed, RolloutWaits
from brookside_mlops.jobs import check_costs, due_jobs, planned_cost
from brookside_mlops.monitor import Watched, look
from brookside_mlops.registry import serving_version
from brookside_mlops.rollout_run import continue_rollout, deploy_run, plan_view
from brookside_mlops.runs import Run
from tests.azure.emulator import GROUP, WORKSPACE, Emulator
from tests.azure.endpoints import log_requests, of
from tests.bundles import failing
from tests.drivers import BODIES
from tests.registered import Registered, asking, registered_run

pytestmark = pytest.mark.azure


@pytest.fixture
def project(registry_project: Registered, azure_store: Emulator) -> Iterator[Registered]:
    """Three registered versions, and an endpoint of their own in Azure."""
    registry_project.settings(target="azure")
    yield registry_project


def endpoint_of(project: Registered) -> AzureEndpoint:
    settings = project.run(1).settings
    found = endpoint_for(settings, settings.endpoint_name("cost"))
    assert isinstance(found, AzureEndpoint)
    return found


def test_plan_reads_and_changes_nothing(project: Registered, azure_store: Emulator) -> None:
    lines = plan_view(project.run(1)).lines()
    assert lines and azure_store.writes() == []
    said = "\n".join(lines)
    assert "pay as you go (low priority is not sold for online endpoints)" in said and "143.08" in said
    assert "warning: a bake lasts" in said and "bake_scale = 1 would be right" in said
    deploy_run(project.run(1))
    before = len(azure_store.writes())
    assert plan_view(project.run(2)).lines() and len(azure_store.writes()) == before


def test_costs_of_an_endpoint_that_serves_are_those_of_what_is_sold(
    project: Registered, azure_store: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.project)
    ask = ["costs", "per-prediction", "-e", "dev", "-u", "cost", "--json"]
    nothing = CliRunner().invoke(app, ask)
    assert nothing.exit_code == 2 and "does not exist" in nothing.output
    deploy_run(project.run(1))
    amount, note = planned_cost(project.project, "dev")
    assert (amount, note) == (Decimal("143.08"), "low priority is not sold for online endpoints")
    assert "dev: USD 143.08 of 40.00, 357.7 %: over the budget" in check_costs(
        project.project, "dev", date(2026, 12, 1), {}
    )
    server = of(azure_store).local(endpoint_of(project).name)
    server.stop()  # it writes what it holds, and then no more
    log, fetched = server.state.requests, endpoint_of(project)._state.requests
    fetched.unlink(missing_ok=True)
    with closing(sqlite3.connect(log, timeout=30)) as database, database:
        database.execute("delete from request")
        database.executemany(INSERT, [Entry(time.time() - 3600, "blue", "live", 200, 0.01, rows=500)] * 4)
    found = json.loads(CliRunner().invoke(app, ask).stdout)
    assert found["predictions"] == 2000 and found["cost"] == "0.20"  # an hour of pay as you go


def test_endpoint_that_was_deleted_is_made_again_by_a_deployment_alone(
    project: Registered, azure_store: Emulator
) -> None:
    from brookside_mlops.rollback_run import Return, roll_back

    deploy_run(project.run(1))
    with pytest.raises(RolloutWaits):
        deploy_run(project.run(2), asking(project, "bake", "pause"))
    azure_store.drop(azure_store.seen("PUT", "onlineEndpoints/[^/]+$")[0].path)
    before = len(azure_store.writes())
    for act in (
        endpoint_of(project).wake,
        lambda: roll_back(project.run(1), Return("asked for", "asked", "", False)),
        lambda: continue_rollout(project.run(2)),
    ):
        with pytest.raises(AzureEndpointError, match=r"it is not there any more(.|\n)*deploy makes it again"):
            act()
    assert len(azure_store.writes()) == before
    with pytest.raises(RolloutWaits):  # a rollout that somebody paused stays so
        deploy_run(project.run(2))
    ended = continue_rollout(project.run(2))
    assert ended and ended.state == "restored" and "green is gone" in ended.reason
    record, _ = deploy_run(project.run(2))
    assert record and record.state == "finished"
    assert endpoint_of(project).show().traffic == {record.new: 100}


def test_deleted_endpoint_is_down_and_pages(
    project: Registered, azure_store: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy_run(project.run(1))
    deploy_run(project.run(2))
    monkeypatch.chdir(project.project)
    endpoint, run, now = endpoint_of(project), project.run(2), time.time()
    cli = partial(CliRunner().invoke, app)
    ran = cli(["endpoint", "keys", endpoint.name, "--target", "azure"])
    assert f"--name {endpoint.name} --workspace-name {WORKSPACE} --resource-group {GROUP}" in ran.output
    azure_store.drop(f"{azure_store.workspace}/onlineEndpoints/{endpoint.name}")
    for words in (["rollback", "--run", run.id], ["ci", "undo", run.id]):
        ran = cli(words)
        assert ran.exit_code == 1 and "not there any more" in ran.output, ran.output
        assert "deploy makes it again" in ran.output, ran.output
    for words in ([], ["-e", "dev"], ["--endpoint", endpoint.name]):
        ran = cli(["monitor", *words])
        assert ran.exit_code == 1 and f"{endpoint.name}  down" in ran.output, ran.output
        assert "it is not there any more" in ran.output, ran.output
    jobs, due = due_jobs(project.project), Due("metrics", "dev", datetime.now(UTC))
    assert f"{endpoint.name}: it is not there any more" in jobs["metrics"](due)
    assert f"{endpoint.name}: it is not there any more" in jobs["drift"](due)
    state = run.settings.state
    report = look(Watched(state, endpoint.name, DEFAULT_RULES, Means(state, {})), now + 900)
    assert [one.rule for one in report.alerts if one.open and one.severity == "critical"] == ["down"]
    assert [one.action for one in report.effects if one.event.rule == "down"] == ["page"], report.effects


def test_versions_take_over_and_go_back(project: Registered, azure_store: Emulator) -> None:
    from brookside_mlops.rollback_run import Return, roll_back

    record, _ = deploy_run(project.run(1))
    endpoint = endpoint_of(project)
    assert record and record.state == "finished" and endpoint.show().traffic == {"blue": 100}
    record, _ = deploy_run(project.run(2))
    assert record and record.state == "finished"
    serving = {one.version: one.weight for one in endpoint.show().deployments if one.weight}
    assert serving == {2: 100}
    splits = [one.json["properties"]["traffic"] for one in azure_store.seen("PUT", "onlineEndpoints/[^/]+$")]
    assert {"blue": 50, "green": 50} in splits and splits[-1] == {"green": 100}
    back = roll_back(project.run(2), Return("asked for", "asked", "", False))
    assert back.state == "finished"
    assert {one.version: one.weight for one in endpoint.show().deployments if one.weight} == {1: 100}


def test_alert_gives_the_traffic_back_to_the_version_before(
    project: Registered, azure_store: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.project)
    deploy_run(project.run(1))
    deploy_run(project.run(2))
    endpoint, state, now = endpoint_of(project), project.run(2).settings.state, time.time()
    log_requests(azure_store, endpoint.name, "green", now, 30, 503)
    rule = next(one for one in DEFAULT_RULES if "rollback" in one.actions)
    report = look(Watched(state, endpoint.name, [rule], Means(state, {})), now + 1800)
    assert {one.action: one.status for one in report.effects}["rollback"] == "done", report.effects
    assert {one.version for one in report.versions} >= {1, 2} and "not looked at" in report.unseen
    assert {one.version: one.weight for one in endpoint.show().deployments if one.weight} == {1: 100}


def test_failure_of_the_model_counts_as_an_error_and_what_it_refuses_as_refused(
    project: Registered, azure_store: Emulator
) -> None:
    deploy_run(project.run(1))
    endpoint = endpoint_of(project)
    _, cursor = endpoint.counts("", (5, 50, 500))
    for minutes, status in ((4, 500), (2, 400), (1, 200)):
        log_requests(azure_store, endpoint.name, "blue", time.time(), minutes, status)
    counts, _ = endpoint.counts(cursor, (5, 50, 500))
    found = counts["blue"]
    assert (found.requests, found.errors, found.refused) == (21, 12, 6)
    assert endpoint.score(b"not JSON").status == 400


def test_canary_that_fails_its_callers_goes_back_and_leaves_traffic_as_it_was(
    project: Registered, azure_store: Emulator
) -> None:
    deploy_run(project.run(1))
    endpoint = endpoint_of(project)
    before = endpoint.show()
    bad = registered_run(project.project, 40, lambda folder, below: failing(folder, int(below)))
    try:
        with pytest.raises(GateFailed, match=r"the canary fails .* blue serves as before"):
            deploy_run(Run(bad.folder))
        after = endpoint.show()
        assert (after.traffic, after.mirror, after.deployments) == (
            before.traffic,
            before.mirror,
            before.deployments,
        )
        splits = [
            one.json["properties"]["traffic"] for one in azure_store.seen("PUT", "onlineEndpoints/[^/]+$")
        ]
        assert {"blue": 50, "green": 50} in splits and splits[-1] == {"blue": 100}
        assert len(azure_store.seen("DELETE", "deployments/green$")) == 1
        assert serving_version(project.run(1).settings, "brookside-cost", "dev") == 1
        assert endpoint.score(BODIES[4]).status == 200
    finally:
        shutil.rmtree(bad.folder)  # the project is shared, and its newest run is looked for


def test_version_that_cannot_be_made_leaves_the_old_one(
    project: Registered, azure_store: Emulator, tmp_path: Path
) -> None:
    from brookside_mlops.errors import BrooksideError

    deploy_run(project.run(1))
    of(azure_store).fates["green"] = "failed"
    with pytest.raises(BrooksideError):
        deploy_run(project.run(2))
    assert endpoint_of(project).show().traffic == {"blue": 100}
