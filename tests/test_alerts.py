"""Alerts over a time line: what may be told when, whatever the numbers do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from brookside_mlops.alert_rules import DEFAULT_RULES, AlertRule
from brookside_mlops.alerts import (
    FLAP_CALM,
    STEP,
    AlertEvent,
    AlertState,
    Silence,
    evaluate,
    replay,
)

START = 1_000_000 * STEP
STORED = TypeAdapter(AlertState)
Moments = list[tuple[float, dict[str, float | None]]]
Told = tuple[AlertState, list[AlertEvent]]


def rule(name: str = "errors", **changes: object) -> AlertRule:
    known = {"metric": "error_rate", "comparison": "above", "threshold": 0.5, "severity": "critical"}
    return AlertRule.model_validate({"name": name, **known, **changes})


RULES = st.builds(
    lambda minutes, back, below, after: rule(
        comparison="below" if below else "above",
        for_minutes=minutes,
        resolve_threshold=0.5 + back if below else 0.5 - back,
        **({"escalate_after_minutes": after, "escalate_to": ("boss",)} if after else {}),
    ),
    st.integers(0, 6),
    st.sampled_from([0.0, 0.2]),
    st.booleans(),
    st.sampled_from([0, 3]),
)
VALUES = st.lists(st.sampled_from([None, 0.1, 0.4, 0.5, 0.6, 0.9]) | st.floats(0, 1), max_size=120)


def time_line(values: list[float | None]) -> Moments:
    return [(START + STEP * minute, {"error_rate": value}) for minute, value in enumerate(values)]


def follow(rules: list[AlertRule], moments: Moments, silences: tuple[Silence, ...] = ()) -> list[AlertEvent]:
    return replay(rules, AlertState(), moments, silences)[1]


def minutes(events: list[AlertEvent], kind: str, name: str = "") -> list[int]:
    return [round((one.at - START) / STEP) for one in events if one.kind == kind and name in ("", one.rule)]


# ---- what holds for all numbers ---------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(RULES, VALUES)
def test_no_alert_opens_without_its_duration(one: AlertRule, values: list[float | None]) -> None:
    """Minutes with a wrong number, back to the last number that was not wrong, make up the duration; those without data do not count."""
    for at in minutes(follow([one], time_line(values)), "open"):
        assert values[at] is not None
        behind, known = at, 0
        while behind >= 0 and (values[behind] is None or one.is_wrong(values[behind])):
            known += values[behind] is not None
            behind -= 1
        assert known - 1 >= one.for_minutes


@settings(max_examples=300, deadline=None)
@given(RULES, VALUES)
def test_there_is_one_open_alert_and_it_ends_where_its_number_is_right(
    one: AlertRule, values: list[float | None]
) -> None:
    state, open_, told = AlertState(), False, False
    for now, samples in time_line(values):
        state, events = evaluate([one], state, samples, now)
        for event in events:
            if event.kind == "open":
                assert not open_
                open_, told = True, False
            elif event.kind == "tell":
                assert open_ and not told
                told = True
            elif event.kind == "escalate":
                assert open_ and told
            else:
                assert event.kind == "resolve" and open_
                assert samples["error_rate"] is not None and one.is_right(samples["error_rate"])
                open_ = False
        assert state.open() == (["errors"] if open_ else [])
    assert len({event.name for event in follow([one], time_line(values))}) == len(
        follow([one], time_line(values))
    )


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(*[st.sampled_from([None, 0.1, 0.45, 0.9])] * 2), max_size=90),
    st.lists(st.integers(0, 90), max_size=5),
    st.booleans(),
)
def test_restarts_and_late_looks_change_nothing(
    values: list[tuple[float | None, float | None]], cuts: list[int], silent: bool
) -> None:
    """Once a minute, or in pieces with the state written down between, or all at once: the same state, and the same events once each."""
    rules = [
        rule("errors", for_minutes=2, resolve_threshold=0.3, inhibits=("late",)),
        rule("late", metric="p95_ms", for_minutes=1, escalate_after_minutes=4, escalate_to=("boss",)),
    ]
    silences = (Silence(rule="errors", start=START + 5 * STEP, end=START + 20 * STEP, by="ada"),) * silent
    moments = [
        (START + STEP * minute, {"error_rate": one, "p95_ms": two})
        for minute, (one, two) in enumerate(values)
    ]
    whole = replay(rules, AlertState(), moments, silences)
    state, events = AlertState(), []
    for first, last in pairwise(sorted({0, *cuts, len(moments)})):
        # the restarted process reads the state and begins too early: what was seen before is passed over
        state, more = replay(
            rules, STORED.validate_json(STORED.dump_json(state)), moments[max(0, first - 3) : last], silences
        )
        events += more
    assert (state, events) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.9]), max_size=400))
def test_swinging_number_opens_few_alerts(values: list[float]) -> None:
    """Three times an hour at most and a half, however it swings."""
    opened = minutes(follow([rule()], time_line(values)), "open")
    for first, *_, fourth in zip(opened, opened[1:], opened[2:], opened[3:], strict=False):
        assert fourth - first >= FLAP_CALM / STEP


# ---- the rules of the start -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "name", "minute"),
    [
        ({"error_rate": 0.051}, "error-rate", 10),
        ({"p95_ms": 2_001}, "latency", 15),
        ({"availability": 0.989}, "availability", 15),
        ({"requests": 0}, "zero-traffic", 15),
        ({"drift_share": 0.16}, "drift", 0),
        ({"accuracy_drop": 0.051}, "accuracy", 0),
    ],
)
def test_rules_of_the_start_open_after_their_duration(
    numbers: dict[str, float], name: str, minute: int
) -> None:
    moments = [(START + STEP * at, numbers) for at in range(40)]
    events = follow(list(DEFAULT_RULES), moments)  # type: ignore[arg-type]
    assert minutes(events, "tell") == minutes(events, "open", name) == [minute]
    assert {event.rule for event in events} == {name}


@pytest.mark.parametrize(
    "numbers",
    [
        {},
        {"error_rate": 0.05, "p95_ms": 2_000, "availability": 0.99, "requests": 1, "drift_share": 0.15},
        {"error_rate": None, "p95_ms": None, "availability": None, "requests": None},
    ],
)
def test_limits_themselves_and_no_data_are_no_alert(numbers: dict[str, float | None]) -> None:
    assert not follow(list(DEFAULT_RULES), [(START + STEP * at, numbers) for at in range(60)])


def test_no_data_neither_ends_an_alert_nor_counts_for_one() -> None:
    one = rule(for_minutes=3)
    events = follow([one], time_line([0.9, 0.9, None, None, 0.9, 0.9, *[None] * 30, 0.9, 0.1]))
    assert minutes(events, "open") == [5] and minutes(events, "resolve") == [37]
    assert not follow(
        [one], time_line([0.9, 0.9, *[None] * 7, 0.9, 0.9, 0.1])
    )  # too long without: it begins anew


def test_moment_is_evaluated_once() -> None:
    state, _ = evaluate([rule()], AlertState(), {"error_rate": 0.9}, START)
    for now in (START, START - STEP):
        assert evaluate([rule()], state, {"error_rate": 0.1}, now) == (state, [])


def test_time_that_nobody_looked_at_is_no_data() -> None:
    moments: Moments = [(START, {"error_rate": 0.9}), (START + 60 * STEP, {"error_rate": 0.9})]
    assert not follow([rule(for_minutes=10)], moments)


def test_flapping_number_is_one_long_alert() -> None:
    swing = [0.9, 0.1] * 3
    events = follow([rule()], time_line([*swing[:-1], *[0.1, 0.9] * 20, *[0.1] * 40]))
    assert minutes(events, "open") == [0, 2, 4]
    assert minutes(events, "resolve") == [1, 3, 45 + FLAP_CALM / STEP]


# ---- what is held back ------------------------------------------------------------------------------------------------------------------


def test_endpoint_that_is_down_does_not_also_page_for_latency() -> None:
    down = {"availability": 0.0, "p95_ms": 9_000.0}
    for late in range(3):  # whichever of the two begins first
        moments = [(START + STEP * at, down if at >= late else {"p95_ms": 9_000.0}) for at in range(60)]
        told = [event.rule for event in follow(list(DEFAULT_RULES), moments) if event.kind == "tell"]
        assert told == ["availability"]


def test_inhibited_alert_is_told_when_the_worse_one_is_over() -> None:
    back = {"availability": 1.0, "p95_ms": 9_000.0}
    moments = [
        (START + STEP * at, {"availability": 0.0, "p95_ms": 9_000.0} if at < 30 else back) for at in range(60)
    ]
    events = follow(list(DEFAULT_RULES), moments)
    assert minutes(events, "tell", "latency") == minutes(events, "resolve", "availability") == [30]


def test_of_rules_that_hold_back_each_other_one_is_told() -> None:
    names = ("one", "two", "three")
    rules = [rule(name, inhibits=(names[(place + 1) % 3],)) for place, name in enumerate(names)]
    assert len([event for event in follow(rules, time_line([0.9] * 5)) if event.kind == "tell"]) >= 1


def test_silence_holds_back_until_its_end_and_escalation_waits_for_it() -> None:
    one = rule(escalate_after_minutes=10, escalate_to=("boss",))
    quiet = Silence(rule="errors", start=START, end=START + 20 * STEP, by="ada")
    events = follow([one], time_line([0.9] * 60), (quiet,))
    assert [minutes(events, kind) for kind in ("open", "tell", "escalate")] == [[0], [20], [30]]
    assert "silenced by ada" in events[0].text
    later = quiet.model_copy(update={"start": START + 5 * STEP})
    events = follow([one], time_line([0.9] * 60), (later,))
    assert [minutes(events, kind) for kind in ("tell", "escalate")] == [[0], [20]]


def test_silenced_alert_that_ends_was_never_told() -> None:
    quiet = Silence(rule="errors", start=START, end=START + 20 * STEP, by="ada")
    events = follow([rule()], time_line([0.9, 0.9, 0.1]), (quiet,))
    assert [(event.kind, event.told) for event in events] == [("open", False), ("resolve", False)]


def test_alert_of_a_rule_that_is_gone_is_withdrawn() -> None:
    state, _ = replay([rule()], AlertState(), time_line([0.9]))
    state, (event,) = evaluate([], state, {}, START + STEP)
    assert (event.kind, event.rule, event.told) == ("withdraw", "errors", True) and not state.rules
