"""The rollout of a run: its plan, its replayed traffic, and the process that goes on alone."""

from __future__ import annotations

import json
import os
import signal
from decimal import Decimal
from pathlib import Path

import pytest

from brookside_mlops.audit import audit_log
from brookside_mlops.costs import Amounts
from brookside_mlops.endpoints.local import EndpointError
from brookside_mlops.endpoints.protocol import Counts
from brookside_mlops.endpoints.request_log import read_counts
from brookside_mlops.errors import ApprovalNeeded, InputError, RolloutWaits
from brookside_mlops.registry import serving_version
from brookside_mlops.releases import Releases
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_run import (
    continue_rollout,
    deploy_run,
    endpoint_of,
    main,
    plan_view,
    replaying,
    run_of_endpoint,
    target_of_run,
)
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.stages.deploy import deploy
from tests.drivers import BODIES, check_whole, until
from tests.registered import Registered, asking


def test_version_comes_to_its_traffic_and_is_written_down_everywhere(registered: Registered) -> None:
    for version in (1, 2):
        record, _ = deploy_run(registered.run(version))
        assert record is not None and record.state == "finished"
        assert record.run_folder == str(registered.run(version).folder)
    settings = registered.run(2).settings
    name = registered.endpoint.name
    assert registered.serving() == {"green": 2} and registered.endpoint.score(BODIES[4]).content == [6.0]
    assert [one.version for one in Releases(settings.state).history(name)] == [1, 2]
    assert serving_version(settings, "brookside-cost", "dev") == 2
    events = [row.event for row in audit_log(settings.state).rows(name)]
    assert events.count("plan") == 2 and events.count("promote") == 2
    assert run_of_endpoint(settings.state, name).id == registered.run(2).id
    check_whole(registered.endpoint)


def test_version_that_serves_already_is_left_alone(registered: Registered) -> None:
    deploy_run(registered.run(1))
    before = registered.endpoint.show()
    assert deploy_run(registered.run(1)) == (None, 0)
    assert registered.endpoint.show() == before
    assert deploy(registered.run(1)).verdict == "pass"


def test_held_out_rows_are_the_traffic_of_an_endpoint_without_callers(registered: Registered) -> None:
    first = deploy(registered.run(1))
    assert first.replayed == 0 and "traffic was replayed" not in [check.name for check in first.checks]
    result = deploy(registered.run(2))
    assert result.replayed > 0
    costs = [one.cost.in_azure for one in (first, result) if one.cost]
    month = Decimal("143.08")  # as sold: [dev] is planned with low priority, 27.74
    assert costs == [
        Amounts(before=Decimal(0), during=month, after=month),
        Amounts(before=month, during=2 * month, after=month),
    ]
    (said,) = [check for check in result.checks if check.name == "traffic was replayed"]
    assert said.measured == f"{result.replayed} held-out rows sent as traffic"
    log = registered.endpoint.state.requests
    until(lambda: sum(one.requests for one in read_counts(log, 0, (1, 1, 1))[0].values()) >= result.replayed)
    counted, _ = read_counts(log, 0, (1, 1, 1))
    assert counted["green"].requests > 0 and all(one.errors == 0 for one in counted.values())
    record = Record.model_validate_json((registered.run(2).folder / "rollout.json").read_text())
    assert 0 < record.evidence.canary.requests <= result.replayed
    assert not list(registered.endpoint.state.samples.rglob("*.parquet"))


def test_no_row_is_replayed_where_that_is_not_asked_for(registered: Registered) -> None:
    registered.settings(replay_traffic="no", bake_extend="1", canary_margin="0.05")
    deploy_run(registered.run(1))
    with pytest.raises(RolloutWaits, match="held at 50 %: 0 canary requests are too few"):
        deploy_run(registered.run(2))
    with replaying(registered.run(2), 0) as replay:
        assert replay.sent() == 0


def test_replay_begins_when_the_smoke_test_is_over(registered: Registered) -> None:
    deploy_run(registered.run(1))
    sent: dict[str, int] = {}

    def listen(record: Record) -> None:
        log = registered.endpoint.state.requests
        registered.endpoint._reload()  # it writes the log
        sent.setdefault(record.state, read_counts(log, 0, (1, 1, 1))[0].get("blue", Counts()).requests)

    record, replayed = deploy_run(registered.run(2), listen)
    assert record is not None and replayed > 0
    assert sent["create"] == sent["smoke"] == 0 and sent["finish"] > 0


def test_plan_is_shown_and_changes_nothing(registered: Registered) -> None:
    shown = plan_view(registered.run(1))
    assert (shown.new, shown.old) == ("blue", "") and not registered.endpoint.state.exists
    deploy_run(registered.run(1))
    registered.settings(endpoint=registered.endpoint.name, instance_count="3", strategy="blue-green")
    before, row = registered.endpoint.show(), RolloutStore(registered.run(1).settings.state).last
    number = row(registered.endpoint.name)
    shown = plan_view(registered.run(2))
    azure = shown.cost.in_azure  # three as sold, paid as they go: 3 x 0.196 x 730
    assert azure is not None and azure.before == Decimal("429.24")
    assert azure.during == azure.after == 2 * azure.before
    assert shown.cost.here == Amounts(before=Decimal(0), during=Decimal(0), after=Decimal(0))
    assert (
        "costs: nothing, since it runs on this machine; in Azure, at 3 x Standard_DS2_v2" in shown.lines()[-1]
    )
    assert (shown.new, shown.old, shown.deletes) == ("green", "blue", [])
    assert registered.endpoint.show() == before and row(registered.endpoint.name) == number


def test_approval_is_asked_for_when_the_new_deployment_stands_ready(registered: Registered) -> None:
    registered.settings(approval="yes")
    run = registered.run(1)
    with pytest.raises(ApprovalNeeded, match=f"approve {run.id} --as NAME"):
        deploy_run(run)
    assert registered.known() == {"blue": 1} and registered.serving() == {}
    run.approve("Ada", "test")
    record, _ = deploy_run(registered.run(1))
    assert record is not None and registered.serving() == {"blue": 1}
    assert "approved by Ada" in [move.text for move in record.moves]


def test_run_whose_bundle_is_not_the_registered_version_is_refused(registered: Registered) -> None:
    run = registered.run(3)
    result = json.loads((run.folder / "register.json").read_text())
    original = (run.folder / "register.json").read_bytes()
    try:
        (run.folder / "register.json").write_text(json.dumps(result | {"version": 2}))
        with pytest.raises(InputError, match=r"register\.json is not the file that stage register wrote"):
            target_of_run(registered.run(3))
    finally:
        (run.folder / "register.json").write_bytes(original)
    assert target_of_run(registered.run(3)).version == 3


def test_rollout_that_is_left_goes_on_in_a_process_of_its_own(registered: Registered) -> None:
    deploy_run(registered.run(1))
    with pytest.raises(RolloutWaits, match="goes on in the background"):
        deploy_run(registered.run(2), asking(registered, "bake", "leave"))
    store, name = RolloutStore(registered.run(1).settings.state), registered.endpoint.name
    row = until(lambda: (found := store.last(name)) and not found.open and found, 120)
    record = Record.model_validate_json(row.document)
    assert record.state == "finished" and registered.serving() == {"green": 2}
    log = registered.endpoint.state.folder / "rollout.log"
    until(lambda: "finished 100" in log.read_text())
    assert [move.text for move in record.moves if move.event == "resume"] == ["found in state bake: resumed"]


def test_process_that_goes_on_alone_says_where_nothing_is_open(
    registered: Registered, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rollout_run", str(registered.run(1).folder)])
    main()
    assert capsys.readouterr().out == "no rollout is open\n"


def test_command_starts_a_killed_server_and_goes_on(registered: Registered) -> None:
    deploy_run(registered.run(1))
    with pytest.raises(RolloutWaits, match="is paused at 50 %"):
        deploy_run(registered.run(2), asking(registered, "bake", "pause"))
    os.kill(registered.endpoint.state.server()[0], signal.SIGKILL)
    until(lambda: registered.endpoint.health() is None)
    with pytest.raises(EndpointError):
        registered.endpoint.score(BODIES[0])
    record = continue_rollout(registered.run(2))
    assert record is not None and record.state == "finished" and registered.serving() == {"green": 2}


def test_endpoint_without_a_rollout_of_a_run(registered: Registered, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'cost-dev' has no rollout of a run"):
        run_of_endpoint(tmp_path, "cost-dev")
    assert endpoint_of(registered.run(1)).name == registered.endpoint.name
    assert continue_rollout(registered.run(1)) is None
