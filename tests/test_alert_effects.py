"""What is done about an alert: people hear of it over real SMTP, and a killed monitor neither loses nor repeats."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from brookside_mlops import alert_effects
from brookside_mlops.alert_effects import (
    TRIES,
    Means,
    carry_out_all,
    effects_of,
    roll_back_endpoint,
)
from brookside_mlops.alert_rules import AlertRule
from brookside_mlops.alert_store import AlertStore, Effect
from brookside_mlops.alerts import AlertEvent, AlertState, RuleState
from brookside_mlops.audit import AuditLog, audit_log
from brookside_mlops.notifications import VARIABLE
from brookside_mlops.retraining import request_retraining
from brookside_mlops.rollout_run import deploy_run
from tests.receivers import mailbox, site
from tests.registered import Registered

NAME = "cost-dev"


class Killed(BaseException):
    """The process is gone: nothing catches this."""


def rule(*actions: str, **changes: Any) -> AlertRule:
    known = {"metric": "availability", "comparison": "below", "threshold": 0.99, "severity": "critical"}
    return AlertRule.model_validate({"name": "availability", "actions": actions, **known, **changes})


def event(kind: str = "tell", at: float = 900.0) -> AlertEvent:
    return AlertEvent.model_validate(
        {"kind": kind, "rule": "availability", "at": at, "opened": 900.0, "severity": "critical"}
        | {"text": "availability 91 % (alert: below 99 %)", "told": True}
    )


def plan(folder: Path, one: AlertRule, *events: AlertEvent, endpoint: str = NAME) -> list[Effect]:
    """Write down what is due for an alert that is open."""
    store = AlertStore(folder)
    before = store.state(endpoint)
    state = AlertState(before.at + 60, {"availability": RuleState("open", opened=900.0)})
    due = effects_of(endpoint, [one], events, state)
    assert store.advance(endpoint, before, state, events, due)
    return due


def mail_url(port: int) -> str:
    return f"mailto://127.0.0.1:{port}?from=mlops@example.com&to=ops@example.com"


# ---- who is told ------------------------------------------------------------------------------------------------------------------------


def test_beginning_and_end_of_an_alert_come_by_mail(tmp_path: Path) -> None:
    plan(tmp_path, rule("notify"), event(), event("resolve", 1_800.0))
    with mailbox() as box:
        carry_out_all(NAME, Means(tmp_path, {VARIABLE: mail_url(box.port)}), AlertStore(tmp_path))
        assert not carry_out_all(NAME, Means(tmp_path, {VARIABLE: mail_url(box.port)}), AlertStore(tmp_path))
    first, last = box.mails
    assert first["subject"] == "cost-dev: critical alert availability"
    assert "availability 91 %" in first.get_content() and "--silence availability" in first.get_content()
    assert last["subject"] == "cost-dev: alert availability is over"


def test_escalation_goes_to_its_own_channels(tmp_path: Path) -> None:
    one = rule("notify", channels=("team",), escalate_after_minutes=30, escalate_to=("boss",))
    plan(tmp_path, one, event(), event("escalate", 2_700.0))
    with site() as team, site() as boss:
        ports = {"BROOKSIDE_NOTIFY_TEAM": team.port, "BROOKSIDE_NOTIFY_BOSS": boss.port}
        environ = {name: f"json://127.0.0.1:{port}/hook" for name, port in ports.items()}
        ended = carry_out_all(NAME, Means(tmp_path, environ), AlertStore(tmp_path))
    assert [one.status for one in ended] == ["done", "done"]
    assert [len(team.requests), len(boss.requests)] == [1, 1]
    assert "still open" in boss.requests[0].content["title"]


def test_channel_that_fails_is_tried_at_the_next_look_and_only_that_one(tmp_path: Path) -> None:
    plan(tmp_path, rule("notify"), event())
    with site() as good, site(*[500] * 3, 200) as bad:
        urls = f"json://127.0.0.1:{good.port}/a json://127.0.0.1:{bad.port}/b"
        means = Means(tmp_path, {VARIABLE: urls})
        (first,) = carry_out_all(NAME, means, AlertStore(tmp_path))
        assert first.status == "due" and "number 2" in first.outcome
        (second,) = carry_out_all(NAME, means, AlertStore(tmp_path))
    assert second.status == "done" and len(good.requests) == 1 and len(bad.requests) == 4


def test_channel_that_never_answers_is_given_up_and_written_down(tmp_path: Path) -> None:
    plan(tmp_path, rule("notify"), event())
    means = Means(tmp_path, {VARIABLE: "json://127.0.0.1:1/hook"}, limit=0.5)
    ended = [carry_out_all(NAME, means, AlertStore(tmp_path))[0].status for _ in range(TRIES)]
    assert ended == ["due"] * (TRIES - 1) + ["failed"] and not carry_out_all(
        NAME, means, AlertStore(tmp_path)
    )
    assert [row.details["state"] for row in audit_log(tmp_path).rows()] == ["begins", "failed"]


def test_secret_of_a_channel_is_nowhere_on_disk(tmp_path: Path) -> None:
    plan(tmp_path, rule("notify"), event())
    with site(400) as place:
        means = Means(tmp_path, {VARIABLE: f"json://user:hunter2@127.0.0.1:{place.port}/hunter2"}, limit=2)
        carry_out_all(NAME, means, AlertStore(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


# ---- once -------------------------------------------------------------------------------------------------------------------------------


class Deadly:
    """Counts what is written and done, and kills the process before or after the one of a number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        self.number, self.seen = number, 0
        for place, name in ((AlertStore, "keep"), (AuditLog, "append")):
            monkeypatch.setattr(place, name, self.counted(getattr(place, name)))
        monkeypatch.setattr(alert_effects, "open_incident", self.counted(alert_effects.open_incident))

    def counted(self, work: Any) -> Any:
        def counting(*given: Any, **named: Any) -> Any:
            self.hit()
            found = work(*given, **named)
            self.hit()
            return found

        return counting

    def hit(self) -> None:
        self.seen += 1
        if self.seen == self.number:
            raise Killed


def test_monitor_killed_at_any_write_loses_and_repeats_nothing(tmp_path: Path) -> None:
    number, died = 0, True
    while died:
        number += 1
        folder = tmp_path / str(number)
        plan(folder, rule("page", "retrain"), event())
        means = Means(folder, {})
        with pytest.MonkeyPatch.context() as monkeypatch:
            deadly = Deadly(monkeypatch, number)
            try:
                risky = Means(folder, {}, retrain=deadly.counted(request_retraining))
                carry_out_all(NAME, risky, AlertStore(folder))
                died = False
            except Killed:
                pass
        carry_out_all(NAME, means, AlertStore(folder))
        assert [one.status for one in AlertStore(folder).effects(NAME)] == ["done"] * 2
        assert not AlertStore(folder).effects(NAME, unfinished=True)
        assert len(list((folder / "incidents").glob("*.md"))) == 1
        (request,) = (folder / "retrain").glob("*.json")
        assert json.loads(request.read_text())["rule"] == "availability"
        trail = [(row.details["action"], row.details["state"]) for row in audit_log(folder).rows()]
        assert sorted(trail) == sorted(
            (action, state) for action in ("page", "retrain") for state in ("begins", "done")
        )
    assert number > 15  # there were so many places to die at


def test_message_that_was_under_way_says_that_it_may_be_the_second(tmp_path: Path) -> None:
    plan(tmp_path, rule("notify"), event())
    with site() as place:
        means = Means(tmp_path, {VARIABLE: f"json://127.0.0.1:{place.port}/hook"})
        with pytest.MonkeyPatch.context() as monkeypatch:
            notify = alert_effects.notify

            def dying(*given: Any, **named: Any) -> Any:
                notify(*given, **named)
                raise Killed

            monkeypatch.setattr(alert_effects, "notify", dying)
            with pytest.raises(Killed):
                carry_out_all(NAME, means, AlertStore(tmp_path))
        (ended,) = carry_out_all(NAME, means, AlertStore(tmp_path))
    assert ended.status == "done" and len(place.requests) == 2
    assert "you may have it already" not in place.requests[0].content["message"]
    assert "you may have it already" in place.requests[1].content["message"]


def test_two_monitors_do_it_once(tmp_path: Path) -> None:
    plan(tmp_path, rule("rollback"), event())
    entered, leave, calls = threading.Event(), threading.Event(), []

    def slow(*given: Any) -> str:
        calls.append(given)
        entered.set()
        leave.wait(30)
        return "version 1 serves as blue"

    means = Means(tmp_path, {}, rollback=slow)
    thread = threading.Thread(target=carry_out_all, args=(NAME, means, AlertStore(tmp_path)))
    thread.start()
    assert entered.wait(30)
    assert carry_out_all(NAME, means, AlertStore(tmp_path)) == []
    leave.set()
    thread.join()
    assert len(calls) == 1 and [one.status for one in AlertStore(tmp_path).effects(NAME)] == ["done"]


# ---- rollback ---------------------------------------------------------------------------------------------------------------------------


def test_rollback_is_real_and_a_monitor_killed_after_it_does_not_go_back_twice(
    registered: Registered,
) -> None:
    for version in (1, 2, 3):
        deploy_run(registered.run(version))
    name, state = registered.endpoint.name, registered.run(1).settings.state
    plan(state, rule("rollback"), event(), endpoint=name)

    def dying(*given: Any) -> str:
        roll_back_endpoint(*given)
        raise Killed

    with pytest.raises(Killed):
        carry_out_all(name, Means(state, {}, rollback=dying), AlertStore(state))
    assert list(registered.serving().values()) == [2]
    (ended,) = carry_out_all(name, Means(state, {}), AlertStore(state))
    assert ended.status == "done" and "was done already" in ended.outcome
    assert list(registered.serving().values()) == [2]

    # an hour later it is down again: the version was not the cause, and no third one is taken
    again = event().model_copy(update={"opened": 4_500.0, "at": 4_500.0})
    store = AlertStore(state)
    before = store.state(name)
    after = AlertState(before.at + 60, {"availability": RuleState("open", opened=4_500.0)})
    store.advance(name, before, after, [again], effects_of(name, [rule("rollback")], [again], after))
    (left,) = carry_out_all(name, Means(state, {}), store)
    assert left.status == "skipped" and "once in 24 h" in left.outcome
    assert list(registered.serving().values()) == [2]


def test_rollback_that_is_not_possible_is_told(tmp_path: Path) -> None:
    plan(tmp_path, rule("rollback"), event())
    with site() as place:
        means = Means(tmp_path, {VARIABLE: f"json://127.0.0.1:{place.port}/hook"})
        (ended,) = carry_out_all(NAME, means, AlertStore(tmp_path))
    assert ended.status == "failed" and "has no rollout of a run" in ended.outcome
    assert "rollback after alert availability failed" in place.requests[0].content["title"]


def test_nothing_is_moved_for_an_alert_that_was_over_when_the_monitor_came_back(tmp_path: Path) -> None:
    over = AlertState(4_500.0, {"availability": RuleState()})
    due = effects_of(NAME, [rule("page", "rollback")], [event(), event("resolve", 1_800.0)], over)
    assert [(one.action, one.status) for one in due] == [
        ("notify", "due"),
        ("rollback", "skipped"),
        ("notify", "due"),
    ]
