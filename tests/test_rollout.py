"""A rollout ends in the new version, or in everything as it was, wherever it is interrupted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.costs import Amounts, DeploymentCost, Instances
from brookside_mlops.endpoints.local import EndpointError
from brookside_mlops.errors import ApprovalNeeded, GateFailed, InputError, RolloutWaits
from brookside_mlops.rollout import ENDED, STATES, Context, Record, State, abort, home, restore, told
from brookside_mlops.rollout_driver import begin, drive, found, go_on, roll_out, rule
from brookside_mlops.rollout_plan import COLOURS, free_name, serving, splits, stops, view_plan, way_back
from brookside_mlops.rollout_run import outcome
from brookside_mlops.rollout_store import LeaseLost, RolloutStore, TooLate, Wish
from tests.rollouts import Fuse, Health, Killed, World, bury, failing, mortal, passing, plan, target

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None


@pytest.fixture
def folder() -> Iterator[Path]:
    """A state folder in memory: these tests write thousands of small transactions, and none of them is about the disk."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture
def world(folder: Path) -> World:
    return World(folder)


def begun(world: World, state: State = "create", **changes: object) -> Record:
    """Return a rollout of version 2 that has been written down in a state."""
    record = begin(world.context(), plan(), target(2))
    record = record.model_copy(update={"state": state, **changes})
    world.store.save(record.number, record.model_dump_json())
    return record


# ---- each state --------------------------------------------------------------------------------------------------------------------------


def test_create_puts_the_version_beside_the_old_one_without_traffic(world: World) -> None:
    record = STATES["create"](world.context(), begun(world))
    assert record.state == "smoke"
    assert world.endpoint.versions() == {"blue": 1, "green": 2} and world.endpoint.traffic() == {"blue": 100}


def test_create_uses_what_a_killed_process_has_made(world: World) -> None:
    record = begun(world)
    STATES["create"](world.context(), record)
    calls = len(world.endpoint.calls)
    assert STATES["create"](world.context(), record).state == "smoke"
    assert len(world.endpoint.calls) == calls


def test_create_replaces_another_version_of_the_free_colour(world: World) -> None:
    three = target(3)
    world.endpoint.create_deployment("green", three.bundle, "m", 3)
    world.store.keep(world.endpoint.name, "green", 5_000)
    record = begun(world)
    assert "green" not in record.before
    STATES["create"](world.context(), record)
    assert world.endpoint.versions()["green"] == 2
    assert world.store.kept(world.endpoint.name) == {}


def test_create_refuses_a_bundle_that_is_not_the_registered_one(world: World) -> None:
    wrong = target(2).model_copy(update={"bundle": target(9).bundle})
    with pytest.raises(InputError, match="SHA-256 differs"):
        roll_out(world.context(), plan(), wrong)
    assert world.endpoint.versions() == {"blue": 1} and world.endpoint.traffic() == {"blue": 100}


def test_create_leaves_a_deployment_with_traffic_alone(world: World) -> None:
    record = begun(world)
    world.endpoint.create_deployment("green", target(3).bundle, "m", 3)
    world.endpoint.set_traffic({"green": 100})
    with pytest.raises(InputError, match="green has 100 % of the traffic"):
        drive(world.context(), record)
    assert world.endpoint.traffic() == {"green": 100} and set(world.endpoint.known) == {"blue", "green"}


def test_failed_smoke_test_never_gives_traffic(world: World) -> None:
    world.smoke = failing
    record = roll_out(world.context(), plan(), target(2))
    assert (record.state, record.cause, record.live) == ("restored", "smoke", [])
    assert "smoke test of green failed: a table: 200, another answer" in record.reason
    assert world.endpoint.versions() == {"blue": 1}
    assert not [call for call in world.endpoint.calls if call[0] == "traffic"]
    with pytest.raises(GateFailed, match="blue serves as before"):
        outcome(record)


def test_approval_is_waited_for_and_then_named(world: World) -> None:
    asked = plan("blue-green", approval=True)
    record = roll_out(world.context(), asked, target(2))
    assert (record.state, record.waiting) == ("approve", "approval")
    assert world.endpoint.traffic() == {"blue": 100} and set(world.endpoint.known) == {"blue", "green"}
    with pytest.raises(ApprovalNeeded, match="approve RUN"):
        outcome(record)
    world.approver = "Ada"
    record = roll_out(world.context(), asked, target(2))
    assert record.state == "finished" and world.said("approval") == ["approved by Ada"]
    assert world.endpoint.traffic() == {"green": 100}


def test_shift_sets_the_split_of_its_step_and_reads_it_back(world: World) -> None:
    record = STATES["create"](world.context(), begun(world))
    record = STATES["shift"](world.context(), record.model_copy(update={"state": "shift", "step": 1}))
    assert (record.state, record.live[-1]) == ("bake", {"green": 50, "blue": 50})
    assert world.endpoint.show().traffic == {"green": 50, "blue": 50}
    again = STATES["shift"](world.context(), record.model_copy(update={"state": "shift"}))
    assert again.live == record.live


@pytest.mark.parametrize("begun_with", ["", "blue=5000.0,green=0.0"], ids=["first shift", "later shift"])
def test_requests_from_before_a_shift_are_not_looked_at_after_it(world: World, begun_with: str) -> None:
    """Both fail more as the weights move; a look at both halves would blame the canary."""
    record = STATES["create"](world.context(), begun(world, cursor=begun_with))
    world.clock.sleep(100)
    record = STATES["shift"](world.context(), record.model_copy(update={"state": "shift", "step": 1}))
    seen, _ = world.endpoint.counts(record.cursor, record.plan.rules.limits_ms)
    assert {name: one.requests for name, one in seen.items()} == {"blue": 0, "green": 0}
    record = STATES["bake"](world.context(), record)
    each = world.endpoint.rate * record.plan.look / 2
    assert record.evidence.canary.requests == pytest.approx(each, abs=1)
    assert record.evidence.stable.requests == pytest.approx(each, abs=1)


def test_split_that_does_not_stick_is_a_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    real = world.endpoint.set_traffic

    def forgetful(weights: dict[str, int], standby: str = "") -> None:
        if "green" not in weights:
            real(weights, standby)

    monkeypatch.setattr(world.endpoint, "set_traffic", forgetful)
    with pytest.raises(InputError, match=r"traffic is \{'blue': 100\}; the rollout had set \{'green': 10"):
        roll_out(world.context(), plan(), target(2))
    assert world.endpoint.versions() == {"blue": 1} and world.record().state == "restored"


def test_first_deployment_gets_all_traffic_at_once(folder: Path) -> None:
    world = World(folder, serving=0)
    record = roll_out(world.context(), plan(), target(1))
    assert (record.state, record.live, record.old) == ("finished", [{"blue": 100}], "")
    assert world.endpoint.traffic() == {"blue": 100}


def test_canary_deletes_the_old_deployment_after_the_last_bake(world: World) -> None:
    record = roll_out(world.context(), plan(), target(2))
    assert [split["green"] for split in record.live] == [10, 50, 100]
    assert record.total >= 30 and world.endpoint.versions() == {"green": 2}
    assert [one.target.version for one in world.ended] == [2]
    assert world.endpoint.calls[-1] == ("delete", "blue")


def test_blue_green_keeps_the_old_deployment_for_its_hours(world: World) -> None:
    roll_out(world.context(), plan("blue-green", (100,), keep_hours=2), target(2))
    assert world.endpoint.show().traffic == {"blue": 0, "green": 100}
    (until,) = world.store.kept(world.endpoint.name).values()
    assert until == pytest.approx(world.clock.at + 7_200)


@pytest.mark.parametrize(("kind", "stands_by"), [("rollout", "blue"), ("rollback", "")])
@pytest.mark.parametrize("strategy", ["canary", "blue-green"])
def test_old_deployment_stands_by_until_a_rollout_has_finished(
    world: World, kind: str, stands_by: str, strategy: str
) -> None:
    seen = []
    world.on_state["bake"] = lambda: seen.append(world.endpoint.standby)
    record = roll_out(world.context(), plan(strategy, (100,)), target(2), kind=kind)
    assert record.state == "finished" and seen == [stands_by] and world.endpoint.standby == ""


def test_colours_take_turns(world: World) -> None:
    for version in (2, 3, 4):
        record = roll_out(world.context(), plan(), target(version))
        assert record.new == COLOURS[version % 2 == 0]
    assert world.endpoint.versions() == {"green": 4}


# ---- what it decides by ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sick", "strategy", "cause", "splits_seen"),
    [
        (Health(errors=0.2), "canary", "worse_errors", [{"green": 10, "blue": 90}, {"blue": 100}]),
        (Health(slow=0.9), "canary", "worse_latency", [{"green": 10, "blue": 90}, {"blue": 100}]),
        (Health(unavailable=0.5), "blue-green", "availability", [{"green": 100, "blue": 0}, {"blue": 100}]),
        (
            Health(errors=0.2),
            "blue-green",
            "error_rate",
            [{"green": 100, "blue": 0}, {"green": 50, "blue": 50}, {"blue": 100}],
        ),
    ],
)
def test_bad_version_goes_back_at_the_pace_of_its_fault(
    world: World, sick: Health, strategy: str, cause: str, splits_seen: list[dict[str, int]]
) -> None:
    world.endpoint.health[2] = sick
    steps = (10, 50, 100) if strategy == "canary" else (100,)
    rules = {"error_seconds": 2, "availability_seconds": 2, "latency_seconds": 1e9}
    record = roll_out(world.context(), plan(strategy, steps, rules=rules), target(2))
    assert (record.state, record.cause, record.live) == ("restored", cause, splits_seen)
    assert world.endpoint.versions() == {"blue": 1} and world.said("abort") == [record.reason]
    with pytest.raises(GateFailed, match="blue serves as before"):
        outcome(record)


def test_too_little_traffic_extends_the_bake_then_holds_for_a_person(world: World) -> None:
    world.endpoint.rate = 2
    record = roll_out(world.context(), plan(extend=3), target(2))
    assert (record.state, record.waiting, record.step) == ("bake", "held", 0)
    assert record.baked >= 30 and world.endpoint.traffic() == {"blue": 90, "green": 10}
    assert len([text for text in world.said("decision") if text.startswith("inconclusive")]) == 1
    assert "held for a person after 3 bakes" in world.said("pause")[-1]
    with pytest.raises(RolloutWaits, match="held at 10 %"):
        outcome(record)
    before = record.evidence.canary.requests
    record = roll_out(world.context(), plan(extend=3), target(2))
    assert record.waiting == "held" and 30 <= record.baked < 33
    assert record.evidence.canary.requests > before
    world.endpoint.rate = 10_000
    assert roll_out(world.context(), plan(), target(2)).state == "finished"


def test_bake_counts_a_clock_that_does_not_jump_and_no_sleep_of_the_machine(world: World) -> None:
    record = STATES["shift"](world.context(), STATES["create"](world.context(), begun(world)))
    world.clock.jump = -86_400
    slept = STATES["bake"](world.context(sleep=lambda seconds: world.clock.sleep(3_600)), record)
    assert slept.baked == 5 * record.plan.look + 1
    assert STATES["bake"](world.context(), record).baked == pytest.approx(record.plan.look)


def test_canary_that_hangs_is_not_promoted_before_its_requests_are_answered(world: World) -> None:
    """A step bakes 10 s; what came in it is answered when 25 s are over, much of it as failures of the canary."""
    world.endpoint.hangs_until = world.clock.at + 25
    seen: list[tuple[float, int]] = []

    def listen(record: Record) -> None:
        seen.append((world.clock.at, record.weight()))
        if world.clock.at >= world.endpoint.hangs_until - 2:
            world.endpoint.health[2] = Health(unavailable=0.5)

    record = roll_out(world.context(listen=listen), plan(), target(2))
    assert {weight for at, weight in seen if at < world.endpoint.hangs_until} == {0, 10}
    assert (record.state, [split.get("green", 0) for split in record.live]) == ("restored", [10, 0])


def test_promote_now_waits_for_no_answer(world: World) -> None:
    world.endpoint.hangs_until = float("inf")
    wishing(world, "bake", "promote")
    assert roll_out(world.context(), plan(), target(2)).state == "finished"


def test_server_that_is_gone_is_started_again_while_it_bakes(world: World) -> None:
    def kill() -> None:
        world.endpoint.running = False

    world.on_state["bake"] = kill
    assert roll_out(world.context(), plan(), target(2)).state == "finished"
    assert "the server of cost-dev was gone: started again" in world.said("alert")


def test_traffic_changed_by_hand_while_it_bakes_is_a_fault(world: World) -> None:
    world.on_state["bake"] = lambda: world.endpoint.set_traffic({"blue": 100})
    with pytest.raises(InputError, match=r"traffic is \{'blue': 100\}; the rollout had set"):
        roll_out(world.context(), plan(), target(2))
    assert world.endpoint.traffic() == {"blue": 100} and world.endpoint.versions() == {"blue": 1}


# ---- beginning ---------------------------------------------------------------------------------------------------------------------------


def test_split_traffic_is_refused(world: World) -> None:
    world.endpoint.create_deployment("green", target(2).bundle, "m", 2)
    world.endpoint.set_traffic({"blue": 60, "green": 40})
    with pytest.raises(InputError, match=r"splits its traffic \(blue 60 %, green 40 %\).*--set NAME=100"):
        roll_out(world.context(), plan(), target(3))
    assert world.store.last(world.endpoint.name) is None and world.endpoint.traffic() == {
        "blue": 60,
        "green": 40,
    }


def test_second_rollout_is_refused_with_who_holds_it_and_since_when(world: World) -> None:
    record = begun(world)
    with pytest.raises(InputError, match=r"held by .* \(process \d+ on .*\), since 1970-01-01 00:16:40 UTC"):
        roll_out(world.context(store=RolloutStore(world.folder, world.clock.wall)), plan(), target(3))
    assert drive(world.context(), record).state == "finished"


def test_rollout_that_ended_between_looking_and_beginning_is_noticed(world: World) -> None:
    """The other operator's rollout is begun and finished after this one has looked at the deployments."""
    context = world.context()
    seen = context.deployments()
    other = World(world.folder, world.clock, serving=0)
    other.endpoint = world.endpoint
    looks = iter([seen])

    class Late(type(context)):  # type: ignore[misc]
        def deployments(self) -> dict[str, object]:
            first = next(looks, None)
            if first is not None:
                roll_out(other.context(), plan(), target(2))
                return dict(first)
            return super().deployments()  # type: ignore[no-any-return]

    with pytest.raises(InputError, match="changed by somebody else just now"):
        begin(Late(**vars(context)), plan(), target(3))
    assert world.endpoint.traffic() == {"green": 100} and world.endpoint.versions() == {"green": 2}
    assert roll_out(world.context(), plan(), target(3)).state == "finished"


def test_rollout_whose_plan_cannot_be_audited_never_begins(world: World) -> None:
    def full(event: str, details: object) -> None:
        raise InputError("audit.db: database or disk is full")

    with pytest.raises(InputError, match="disk is full"):
        roll_out(world.context(audit=full), plan(), target(2))
    assert world.endpoint.calls == []
    assert roll_out(world.context(), plan(), target(2)).state == "finished"


# ---- found -------------------------------------------------------------------------------------------------------------------------------

FOUND = ("create", "smoke", "approve", "shift", "bake", "finish")


@pytest.mark.parametrize("state", [*FOUND, "restore"])
@pytest.mark.parametrize("kind", ["rollout", "rollback"])
def test_rule_is_to_resume_the_same_version_and_to_restore_for_another(
    world: World, state: State, kind: str
) -> None:
    record = begun(world, state, kind=kind)
    always = state == "finish" or kind == "rollback"
    wanted = "restore" if state == "restore" else "resume"
    assert rule(record, target(2)) == rule(record, None) == wanted
    assert rule(record, target(3)) == ("resume" if always and state != "restore" else "restore")


@pytest.mark.parametrize("state", FOUND)
def test_found_says_that_it_resumes(world: World, state: State) -> None:
    world.endpoint.create_deployment("green", target(2).bundle, "m", 2)
    begun(world, state, evidence=begun_evidence(world), baked=4.0)
    bury(world)
    row = world.store.claim(world.endpoint.name)
    assert row is not None
    record = found(world.context(), row, target(2))
    assert (record.state, record.baked, record.waiting) == (state, 4.0, "")
    assert record.evidence.canary.requests == 1_000
    assert world.said("resume") == [f"found in state {state}: resumed"]


def begun_evidence(world: World) -> object:
    """Return the evidence of a look at 1,000 requests each."""
    from brookside_mlops.canary import Evidence, Look, observe
    from brookside_mlops.endpoints.protocol import Counts

    look = Look(start=0, end=1, canary=Counts(requests=1_000), stable=Counts(requests=1_000))
    return observe(Evidence(), look, plan().rules)


@pytest.mark.parametrize("state", FOUND[:-1])
def test_found_says_that_it_restores_for_another_version(world: World, state: State) -> None:
    world.endpoint.create_deployment("green", target(2).bundle, "m", 2)
    begun(world, state)
    bury(world)
    record = roll_out(world.context(), plan(), target(3))
    assert world.said("abort") == [f"found in state {state}: restored"]
    assert record.state == "finished" and world.endpoint.versions() == {"green": 3}


@pytest.mark.parametrize("state", ["smoke", "approve", "shift", "bake", "finish"])
def test_found_without_its_deployment_restores_and_begins_anew(world: World, state: State) -> None:
    begun(world, state)
    bury(world)
    record = roll_out(world.context(), plan(), target(2))
    assert world.said("abort") == [f"found in state {state}, and green is gone: restored"]
    assert record.state == "finished" and world.endpoint.versions() == {"green": 2}


def test_found_on_its_way_back_goes_on_back(world: World) -> None:
    record = STATES["shift"](world.context(), STATES["create"](world.context(), begun(world)))
    record = abort(world.context(), record, "error_rate", "error rate 9 %")
    world.store.save(record.number, record.model_dump_json())
    bury(world)
    found_ = go_on(world.context())
    assert found_ is not None and (found_.state, found_.reason) == ("restored", "error rate 9 %")
    assert world.said("resume") == ["found in state restore: goes on to restore"]
    assert world.endpoint.versions() == {"blue": 1} and world.endpoint.traffic() == {"blue": 100}


def test_resumed_rollout_keeps_its_bake_and_its_evidence(world: World) -> None:
    fuse = Fuse(at=30, after=True)
    with pytest.raises(Killed):
        roll_out(mortal(world, fuse), plan(), target(2))
    killed = world.record()
    assert killed.state == "bake" and killed.baked > 0 and killed.evidence.canary.requests > 0
    bury(world)
    row = world.store.claim(world.endpoint.name)
    assert row is not None
    record = found(world.context(), row, target(2))
    assert (record.baked, record.total, record.evidence) == (killed.baked, killed.total, killed.evidence)
    assert drive(world.context(), record).state == "finished"
    assert world.said("resume") == ["found in state bake: resumed"]


def test_go_on_where_nothing_is_open(world: World) -> None:
    assert go_on(world.context()) is None


# ---- wishes ------------------------------------------------------------------------------------------------------------------------------


def wishing(world: World, state: str, wish: Wish) -> None:
    """Let somebody ask for something when the rollout gets into a state."""
    other = RolloutStore(world.folder, world.clock.wall)
    world.on_state[state] = lambda: other.ask(world.endpoint.name, wish, "Ada") and None


@pytest.mark.parametrize("state", ["create", "smoke", "approve", "shift", "bake"])
def test_pause_waits_before_the_next_move_and_goes_on_when_asked(world: World, state: str) -> None:
    world.approver = "Grace"
    wishing(world, state, "pause")
    record = roll_out(world.context(), plan(approval=True), target(2))
    assert (record.state, record.waiting) == (state, "paused") and world.said("pause") == ["paused by Ada"]
    moved = {"green": 10, "blue": 90} if state == "bake" else {"blue": 100}
    assert world.endpoint.traffic() == moved
    with pytest.raises(RolloutWaits, match=f"paused at {moved.get('green', 0)} %"):
        outcome(record)
    went = go_on(world.context())
    assert went is not None and went.state == "finished"


@pytest.mark.parametrize("state", ["create", "smoke", "approve", "shift", "bake"])
def test_promote_now_skips_the_bakes_but_neither_smoke_test_nor_approval(world: World, state: str) -> None:
    world.approver = "Grace"
    wishing(world, state, "promote")
    record = roll_out(world.context(), plan(approval=True), target(2))
    assert record.state == "finished" and record.checks and world.said("approval") == ["approved by Grace"]
    assert [split["green"] for split in record.live] == ([10, 100] if state == "bake" else [100])
    assert "Ada sends all traffic now, without further bakes" in world.said("promote")
    assert record.total <= 2 * record.plan.look + 1e-6


@pytest.mark.parametrize("state", ["create", "smoke", "approve", "shift", "bake"])
def test_abort_restores_from_every_state(world: World, state: str) -> None:
    world.approver = "Grace"
    wishing(world, state, "abort")
    record = roll_out(world.context(), plan(approval=True), target(2))
    assert (record.state, record.cause, record.reason) == ("restored", "asked", "aborted by Ada")
    assert world.endpoint.versions() == {"blue": 1} and world.endpoint.traffic() == {"blue": 100}


@pytest.mark.parametrize("wish", ["pause", "promote", "abort"])
@pytest.mark.parametrize("state", ["finish", "restore"])
def test_wish_that_comes_too_late_changes_nothing(world: World, state: str, wish: Wish) -> None:
    """And who asks is told so."""
    if state == "restore":
        world.smoke = failing
    refused: list[str] = []

    def ask() -> None:
        with pytest.raises(TooLate, match=f"too late to {wish} it") as error:
            RolloutStore(world.folder, world.clock.wall).ask(world.endpoint.name, wish, "Ada")
        refused.append(str(error.value))

    world.on_state[state] = ask
    record = roll_out(world.context(), plan(), target(2))
    assert len(refused) == 1
    assert record.state == ("restored" if state == "restore" else "finished")
    assert sum(world.endpoint.traffic().values()) == 100


def test_left_rollout_goes_on_in_another_process(world: World) -> None:
    wishing(world, "bake", "leave")
    record = roll_out(world.context(), plan(), target(2))
    assert record.waiting == "left" and world.endpoint.traffic() == {"green": 10, "blue": 90}
    with pytest.raises(RolloutWaits, match="goes on in the background"):
        outcome(record)
    went = go_on(world.context(store=RolloutStore(world.folder, world.clock.wall)))
    assert went is not None and went.state == "finished"


@pytest.mark.parametrize(("wish", "end"), [("abort", "restored"), ("promote", "finished"), ("", "finished")])
def test_rollout_that_nobody_drives_is_taken_over_with_a_wish(world: World, wish: Wish, end: str) -> None:
    wishing(world, "bake", "pause")
    roll_out(world.context(), plan(), target(2))
    record = go_on(world.context(), wish, "Ada")
    assert record is not None and record.state == end


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["rollout", "rollback"])
def test_rollout_that_a_person_has_paused_is_left_to_people(world: World, version: int, kind: str) -> None:
    wishing(world, "bake", "pause")
    paused = roll_out(world.context(), plan(), target(2), kind=kind)
    calls = len(world.endpoint.calls)
    record = roll_out(world.context(), plan(), target(version))
    assert record == paused and record == world.record().model_copy(update={"number": record.number})
    assert len(world.endpoint.calls) == calls and world.said("resume") == []
    said = r"version 2 is paused at 10 % by Ada since 1970-01-01 00:16:\d\d UTC: .* resume cost-dev, promote cost-dev --now or abort"
    with pytest.raises(RolloutWaits, match=said):
        outcome(record)


# ---- faults ------------------------------------------------------------------------------------------------------------------------------

FAULTS = {
    "create": "create_deployment",
    "shift": "set_traffic",
    "bake": "counts",
}


@pytest.mark.parametrize("error", [EndpointError("no answer"), ValueError("a defect"), KeyboardInterrupt()])
@pytest.mark.parametrize("state", ["create", "smoke", "approve", "shift", "bake"])
def test_fault_in_a_state_restores_and_is_raised(
    world: World, monkeypatch: pytest.MonkeyPatch, state: State, error: BaseException
) -> None:
    real = STATES[state]

    def work(context: object, record: Record) -> Record:
        real(context, record)  # type: ignore[arg-type]
        raise error

    monkeypatch.setitem(STATES, state, work)
    world.approver = "Grace"
    with pytest.raises(type(error)):
        roll_out(world.context(), plan(approval=True), target(2))
    assert (world.record().state, world.record().cause) == ("restored", "fault")
    assert world.endpoint.versions() == {"blue": 1} and world.endpoint.traffic() == {"blue": 100}
    monkeypatch.setitem(STATES, state, real)
    assert roll_out(world.context(), plan(approval=True), target(2)).state == "finished"


@pytest.mark.parametrize("step", ["deleted", "finished"])
def test_fault_at_the_end_takes_nothing_away_and_is_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The registry does not answer when the old deployment is gone already."""

    def down(record: Record) -> None:
        raise ConnectionError("the registry does not answer")

    with pytest.raises(ConnectionError, match="registry"):
        roll_out(world.context(finished=down), plan(), target(2))
    assert world.record().state == "finish"
    assert world.endpoint.traffic() == {"green": 100} and world.endpoint.versions() == {"green": 2}
    wanted = target(2) if step == "finished" else target(3)
    assert roll_out(world.context(), plan(), wanted).state == "finished"
    assert world.said("resume") == ["found in state finish: resumed"]
    assert world.endpoint.versions() == ({"green": 2} if step == "finished" else {"blue": 3})


def test_abort_of_a_rollout_that_is_ending_finishes_it(world: World) -> None:
    def down(record: Record) -> None:
        raise ConnectionError("the registry does not answer")

    with pytest.raises(ConnectionError):
        roll_out(world.context(finished=down), plan(), target(2))
    record = go_on(world.context(), "abort", "Ada")
    assert record is not None and record.state == "finished" and world.endpoint.traffic() == {"green": 100}


@pytest.mark.parametrize(("wish", "end"), [("abort", "restored"), ("pause", "bake"), ("promote", "finished")])
@pytest.mark.parametrize("first", [True, False], ids=["first deployment", "another one"])
def test_wish_in_the_last_look_is_obeyed_before_the_old_deployment_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wish: Wish, end: str, first: bool
) -> None:
    """Somebody asks when the decision to finish is made, but not yet written down."""
    world = World(folder, serving=0 if first else 1)
    last = "shift" if first else "bake"
    real, asked = STATES[last], []

    def work(context: Context, record: Record) -> Record:
        moved = real(context, record)
        if moved.state == "finish" and not asked:
            asked.append(RolloutStore(world.folder, world.clock.wall).ask(record.endpoint, wish, "Ada"))
        return moved

    monkeypatch.setitem(STATES, last, work)
    record = roll_out(world.context(), plan(), target(2))
    assert len(asked) == 1 and record.state == (end.replace("bake", last))
    assert world.said(wish)[-1 if wish == "abort" else 0].endswith(("by Ada", "without further bakes"))
    if wish == "abort":
        assert world.endpoint.versions() == ({} if first else {"blue": 1})
    elif wish == "pause":
        assert record.waiting == "paused" and ("blue" in world.endpoint.versions())


def test_fault_on_the_way_back_is_raised_and_the_next_command_goes_on(world: World) -> None:
    world.endpoint.health[2] = Health(errors=0.5)
    real = world.endpoint.wake

    def dead() -> None:
        raise EndpointError("endpoint cost-dev did not start")

    world.endpoint.wake = dead  # type: ignore[method-assign]
    with pytest.raises(EndpointError, match="did not start"):
        roll_out(world.context(), plan(), target(2))
    assert world.record().state == "restore"
    world.endpoint.wake = real  # type: ignore[method-assign]
    record = go_on(world.context())
    assert record is not None and record.state == "restored" and world.endpoint.traffic() == {"blue": 100}


def test_old_deployment_that_is_gone_leaves_the_new_one_its_traffic(world: World) -> None:
    record = STATES["shift"](world.context(), STATES["create"](world.context(), begun(world)))
    del world.endpoint.known["blue"]
    back = abort(world.context(), record, "asked", "aborted by Ada")
    assert home(back, world.context().deployments()) == {"green": 100}
    ended = restore(world.context(), back)
    assert ended.state == "restored" and world.endpoint.traffic() == {"green": 100}
    assert world.said("rollback") == ["blue is gone, green keeps the traffic"]
    with pytest.raises(GateFailed, match=r"aborted by Ada\. green serves\."):
        outcome(ended)


def test_lost_lease_moves_nothing(world: World) -> None:
    """This process slept, and another one on another machine has taken the rollout over and restored it."""
    record = begun(world)
    record = STATES["create"](world.context(), record).model_copy(update={"state": "shift"})
    world.store.save(record.number, record.model_dump_json())
    mine = world.context()
    bury(world)
    assert go_on(world.context(), "abort", "Ada") is not None
    calls = list(world.endpoint.calls)
    with pytest.raises(LeaseLost, match="nothing more is moved from here"):
        drive(mine, record)
    assert world.endpoint.calls == calls and world.endpoint.traffic() == {"blue": 100}


def test_lost_lease_while_it_moves_writes_nothing(world: World) -> None:
    record = begun(world)
    other = RolloutStore(world.folder, world.clock.wall)

    def taken(endpoint: object, deployment: str) -> list[object]:
        bury(world)
        other.claim(world.endpoint.name)
        return []

    before = world.store
    with pytest.raises(LeaseLost):
        drive(world.context(smoke=taken, store=before), record)
    assert world.record().state == "smoke"
    row = other.last(world.endpoint.name)
    assert row is not None and row.holder is not None


def test_full_disk_stops_it_before_the_next_move_and_the_next_command_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = world.store.save
    then: list[dict[str, int]] = []

    def full() -> None:
        def save(number: int, document: str, open_: bool = True) -> None:
            raise InputError("rollouts.db: database or disk is full")

        monkeypatch.setattr(world.store, "save", save)
        then.append(world.endpoint.traffic())

    for state in ("create", "smoke", "shift", "bake", "finish"):
        world.on_state[state] = full
        with pytest.raises(InputError, match="disk is full"):
            roll_out(world.context(), plan(bake=2), target(2))
        monkeypatch.setattr(world.store, "save", real)
        assert world.record().state == state
        moved = {"green": 10, "blue": 90} if state == "shift" else then[-1]
        assert world.endpoint.traffic() == moved
    assert roll_out(world.context(), plan(bake=2), target(2)).state == "finished"


# ---- killed anywhere ---------------------------------------------------------------------------------------------------------------------


def same_again(world: World) -> Record | None:
    return roll_out(world.context(), plan("canary", (10, 100), bake=1), target(2))


def another(world: World) -> Record | None:
    return roll_out(world.context(), plan("canary", (10, 100), bake=1), target(3))


def as_it_was(world: World) -> Record | None:
    return go_on(world.context())


def aborted(world: World) -> Record | None:
    return go_on(world.context(), "abort", "Ada")


COMMANDS = {"same version": same_again, "another version": another, "resume": as_it_was, "abort": aborted}


def effects(strategy: str, folder: Path, sick: bool) -> int:
    """Return how many effects a rollout has on the world."""
    world, fuse = World(folder), Fuse(at=-1, after=False)
    world.endpoint.health[2] = Health(errors=0.5 if sick else 0)
    roll_out(mortal(world, fuse), plan(strategy, (10, 100), bake=1), target(2))
    return fuse.passed


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("strategy", "sick"), [("canary", False), ("blue-green", False), ("canary", True)])
def test_rollout_killed_at_any_effect_leaves_a_whole_state_and_a_next_command_that_knows(
    folder: Path, strategy: str, sick: bool, command: str
) -> None:
    """Every place between two effects, and every state that a command may find."""
    number = effects(strategy, folder / "count", sick)
    assert number > 25
    for place in range(number):
        for after in (False, True):
            world = World(folder / f"{place}{after}")
            world.endpoint.health[2] = Health(errors=0.5 if sick else 0)
            fuse = Fuse(place, after)
            with pytest.raises(Killed):
                roll_out(mortal(world, fuse), plan(strategy, (10, 100), bake=1), target(2))
            assert fuse.dead and sum(world.endpoint.traffic().values()) == 100
            row = world.store.last(world.endpoint.name)
            was = world.record().state if row else "create"
            was_open = bool(row and row.open)
            bury(world)
            world.endpoint.health.clear()
            told_before = len(world.events)
            record = COMMANDS[command](world)
            check_end(world, command, strategy, was, was_open, record)
            said = [event for event, _ in world.events[told_before:]]
            assert not was_open or said[0] in ("resume", "abort"), (place, after, said)


def check_end(
    world: World, command: str, strategy: str, was: str, was_open: bool, record: Record | None
) -> None:
    """Check that the deployments are what the rule says."""
    traffic, versions = world.endpoint.traffic(), world.endpoint.versions()
    assert list(traffic.values()) == [100]
    serves = versions[next(iter(traffic))]
    last = world.record() if world.store.last(world.endpoint.name) else None
    assert last is None or last.state in ENDED
    if command == "same version":
        assert serves == 2
    elif command == "another version":
        assert serves == 3
    elif not was_open:
        assert record is None and serves == (2 if was == "finished" else 1)
    elif command == "resume":
        assert serves == (1 if was == "restore" else 2)
    else:
        assert serves == (2 if was == "finish" else 1)
    if last and last.state == "restored":
        assert versions == {"blue": 1}
    elif strategy == "canary" and command != "another version":
        assert len(versions) == 1


@given(first=st.integers(0, 45), second=st.integers(0, 20), after=st.booleans(), other=st.booleans())
def test_rollout_killed_twice_still_ends_whole(first: int, second: int, after: bool, other: bool) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        world = World(Path(name))
        wanted = (target(2), target(3) if other else target(2))
        for version, place in zip(wanted, (first, second), strict=True):
            try:
                roll_out(mortal(world, Fuse(place, after)), plan("canary", (10, 100), bake=1), version)
            except Killed:
                bury(world)
            assert sum(world.endpoint.traffic().values()) == 100
        record = go_on(world.context())
        assert record is None or record.state in ENDED
        (name_,) = world.endpoint.traffic()
        assert world.endpoint.traffic() == {name_: 100} and len(world.endpoint.known) == 1


# ---- plans -------------------------------------------------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.integers(1, 100), min_size=1, max_size=5, unique=True).map(lambda x: tuple(sorted(x)))


@given(WEIGHTS)
def test_every_split_is_whole(steps: tuple[int, ...]) -> None:
    found_ = splits("green", "blue", steps)
    assert all(sum(split.values()) == 100 for split in found_)
    assert [split["green"] for split in found_] == list(steps)
    assert splits("blue", "", steps) == [{"blue": 100}]


def test_plan_says_of_an_approval_what_happens_without_one(world: World) -> None:
    asking = plan("blue-green", (100,), approval=True)
    shown = view_plan(asking, world.endpoint.show(), "cost-dev", target(2), PRICE)
    assert shown.steps[0].startswith("create green at 0 %") and shown.steps[1] == "wait for an approval"
    assert shown.gates[:2] == [
        "a failed smoke test",
        "the want of an approval: it waits at 0 %, created and smoke-tested",
    ]
    assert stops(plan("blue-green", (100,)))[1].startswith("error rate")


@given(st.integers(0, 100), st.booleans())
def test_way_back_falls_to_nothing(weight: int, gradual: bool) -> None:
    found_ = way_back("green", "blue", weight, gradual)
    shares = [split["green"] for split in found_]
    assert shares[-1] == 0 and shares == sorted(shares, reverse=True) and shares[0] <= weight
    assert all(sum(split.values()) == 100 for split in found_) and way_back("green", "", weight, gradual) == [
        {}
    ]


PRICE = DeploymentCost(
    place="local",
    instances=Instances(type="Standard_DS2_v2", count=1, tier="pay_as_you_go"),
    currency="USD",
    monthly=Decimal(100),
)


def test_plan_shows_what_is_made_what_is_deleted_and_what_it_costs(world: World) -> None:
    info = world.endpoint.show()
    shown = view_plan(plan(), info, "cost-dev", target(2), PRICE)
    assert (shown.new, shown.old) == ("green", "blue") and shown.deletes == [
        "blue (version 1), after the last bake"
    ]
    assert shown.cost.in_azure == Amounts(before=Decimal(100), during=Decimal(200), after=Decimal(100))
    text = "\n".join(shown.lines())
    assert "traffic green 10 %, blue 90 %; bake 10 s" in text and "stops it: error rate over 5.0%" in text
    assert "<table" in shown._repr_html_()
    kept = view_plan(plan("blue-green", (100,), approval=True), info, "cost-dev", target(2), PRICE)
    assert (
        kept.cost.in_azure
        and kept.cost.in_azure.after == 200
        and any("wait for an approval" in step for step in kept.steps)
    )
    assert any("keep blue at 0 % for 24 h" in step for step in kept.steps)
    again = view_plan(plan(), info, "cost-dev", target(1), PRICE)
    assert again.lines()[0] == "version 1 serves on cost-dev already, as blue: there is nothing to do"
    assert (
        "beside" not in again._repr_html_()
        and again.steps == []
        and again.cost.in_azure == Amounts(before=Decimal(100), during=Decimal(100), after=Decimal(100))
    )
    first = view_plan(plan(), None, "cost-dev", target(1), PRICE)
    assert (first.new, first.old) == ("blue", "")
    assert first.cost.in_azure == Amounts(before=Decimal(0), during=Decimal(100), after=Decimal(100))
    assert any("no bake: nothing else could serve" in step for step in first.steps)
    assert world.endpoint.calls == []


def test_names_of_the_serving_and_the_free_deployment(world: World) -> None:
    known = world.context().deployments()
    assert (serving(known), free_name(known), serving({}), free_name({})) == ("blue", "green", "", "blue")


def test_moves_are_told_to_the_audit_trail_and_kept_in_the_record(world: World) -> None:
    record = told(world.context(), begun(world), "traffic", "green 10 %")
    assert record.moves[-1].event == "traffic" and record.moves[-1].at == "1970-01-01T00:16:40.000+00:00"
    assert world.events[-1] == ("traffic", "green 10 %")


def test_passing_checks_are_kept(world: World) -> None:
    listened: list[Callable[[], object]] = []
    record = roll_out(world.context(smoke=passing), plan(), target(2))
    assert [check.verdict for check in record.checks] == ["pass"] and not listened
    assert [one.state for one in world.heard][-1] == "finished"
