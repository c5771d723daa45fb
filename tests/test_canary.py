"""What a rollout does next: every rule at its boundary, and what holds for any traffic."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from brookside_mlops.canary import (
    CHANCE,
    DRAWN,
    WINDOWS,
    Decision,
    Evidence,
    Look,
    Rules,
    Step,
    above,
    decide,
    guardrails,
    observe,
    prediction_drift,
    window,
)
from brookside_mlops.endpoints.protocol import Counts
from brookside_mlops.evidence import Comparison, difference_interval

RULES = Rules(error_seconds=300, availability_seconds=600, latency_seconds=200)
LONG = 600.0  # covers every window
BAKED, BAKING = Step(weight=10, baked=600, bake=600), Step(weight=10, baked=599.9, bake=600)


def did(requests: int = 0, errors: int = 0, **more: Any) -> Counts:
    return Counts(requests=requests, errors=errors, **more)


def seen(*looks: tuple[float, Counts, Counts], rules: Rules = RULES) -> Evidence:
    """Return the evidence of looks: (end, canary, stable)."""
    evidence, start = Evidence(), 0.0
    for end, canary, stable in looks:
        evidence = observe(evidence, Look(start=start, end=end, canary=canary, stable=stable), rules)
        start = end
    return evidence


def alone(canary: Counts, end: float = LONG, rules: Rules = RULES) -> Evidence:
    """Return one look at a canary beside which the stable deployment has no traffic, so that nothing is compared."""
    return seen((end, canary, Counts()), rules=rules)


# Guardrails


@pytest.mark.parametrize(
    ("canary", "cause"),
    [
        (did(100, 11), ""),
        (did(100, 12), "error_rate"),
        (did(10_000, 551), ""),
        (did(10_000, 552), "error_rate"),
        (did(30, 5), ""),
        (did(30, 6), "error_rate"),
        (did(29, 29), ""),
        (did(), ""),
        (did(100, refused=100), ""),
        (did(100, 11, refused=89), ""),
        (did(30, 2, unavailable=2), ""),
        (did(30, 3, unavailable=3), "availability"),
        (did(100, 4, unavailable=4), ""),
        (did(100, 5, unavailable=5), "availability"),
        (did(29, 29, unavailable=29), ""),
        (did(100, 100, unavailable=100), "availability"),
        (did(100, slow=(62, 0, 0)), ""),
        (did(100, slow=(63, 0, 0)), "latency"),
        (did(100, slow=(62, 11, 0)), ""),
        (did(100, slow=(62, 12, 0)), "latency"),
        (did(100, slow=(62, 11, 4)), ""),
        (did(100, slow=(62, 11, 5)), "latency"),
        (did(1_000, slow=(537, 67, 18)), ""),
        (did(1_000, slow=(538, 67, 18)), "latency"),
        (did(1_000, slow=(537, 68, 18)), "latency"),
        (did(1_000, slow=(537, 67, 19)), "latency"),
        (did(29, slow=(29, 29, 29)), ""),
    ],
)
def test_guardrail_breaks_where_chance_no_longer_explains_it(canary: Counts, cause: str) -> None:
    found, reason = guardrails(alone(canary), RULES)
    assert found == cause and bool(reason) == bool(cause)
    decision = decide(alone(canary), RULES, BAKING)
    assert (decision.action, decision.cause) == (("abort", cause) if cause else ("continue", ""))


@pytest.mark.parametrize(
    ("canary", "seconds"),
    [
        (did(100, 50), 300),
        (did(100, 50, unavailable=50), 600),
        (did(100, slow=(100, 100, 100)), 200),
    ],
    ids=["error rate", "availability", "latency"],
)
def test_guardrail_waits_until_its_window_is_covered(canary: Counts, seconds: float) -> None:
    quiet = Rules(
        error_seconds=seconds, availability_seconds=seconds, latency_seconds=seconds, max_error_rate=0.05
    )
    for end, broken in ((seconds - 0.001, False), (seconds, True), (seconds + 0.001, True)):
        evidence = alone(canary, end, quiet)
        assert (window(evidence, seconds) is not None) is broken
        assert bool(guardrails(evidence, quiet)[0]) is broken


def test_each_guardrail_has_a_window_of_its_own() -> None:
    bad = did(100, 50, unavailable=50, slow=(100, 100, 100))
    found = {end: guardrails(alone(bad, end), RULES)[0] for end in (199, 200, 299, 300, 599, 600)}
    assert found == {
        199: "",
        200: "latency",
        299: "latency",
        300: "error_rate",
        599: "error_rate",
        600: "availability",
    }


def test_what_left_the_window_is_forgotten() -> None:
    failing, quiet = (300.0, did(100, 50), Counts()), (599.0, did(500), Counts())
    assert (
        guardrails(seen(failing, quiet), RULES)[0] == "error_rate"
    )  # one second of `failing` is in the window
    assert guardrails(seen(failing, quiet, (600.0, Counts(), Counts())), RULES)[0] == ""


def test_reasons_say_what_was_seen_and_what_is_allowed() -> None:
    said = {
        cause: guardrails(alone(canary), RULES)[1]
        for cause, canary in {
            "availability": did(200, 7, unavailable=7),
            "error_rate": did(100, 12),
            "latency": did(100, slow=(50, 12, 0)),
        }.items()
    }
    assert said["availability"] == "availability 96.50% over 10 min, at least 99.00% is asked"
    assert said["error_rate"] == "error rate 12.00% over 5 min (12 of 100), at most 5.00% is allowed"
    assert said["latency"] == "P95 is above 2000 ms over 3.33 min: 12 of 100 requests took longer"


def allowed(requests: int, limit: float) -> int:
    """Return how many bad requests chance explains at a limit: the most whose binomial tail is not under 1 %."""
    return int(binom.isf(CHANCE, requests, limit))


@pytest.mark.parametrize("limit", [0.5, 0.05, 0.01, 1 - 0.99, 1 - 0.999])
def test_limit_is_passed_at_the_quantile_of_the_binomial_law(limit: float) -> None:
    for requests in (30, 31, 99, 100, 1_000, 12_345):
        most = allowed(requests, limit)
        assert most >= limit * requests
        assert not above(most, requests, limit, RULES) and above(most + 1, requests, limit, RULES)


@settings(deadline=None)
@given(st.integers(30, 3_000), st.integers(1, 99))
def test_tail_is_that_of_an_exact_sum(requests: int, percent: int) -> None:
    """Whole numbers: the tail times 100 ** requests, summed from the top."""
    total, tail, ways = 100**requests, 0, percent**requests
    for bad in range(
        requests, -1, -1
    ):  # ways: comb(requests, bad) * percent ** bad * (100 - percent) ** rest
        if 100 * (tail + ways) >= total:
            break
        tail += ways
        ways = ways * bad * (100 - percent) // ((requests - bad + 1) * percent)
    assert bad == allowed(requests, percent / 100)


@settings(deadline=None)
@given(st.integers(30, 3_000), st.integers(1, 99))
def test_availability_below_the_limit_by_chance_is_enough(requests: int, percent: int) -> None:
    rules = RULES.model_copy(update={"min_availability": percent / 100, "max_error_rate": 1.0})
    down = allowed(requests, 1 - percent / 100)
    assert guardrails(alone(did(requests, down, unavailable=down)), rules)[0] == ""
    if down < requests:
        worse = did(requests, down + 1, unavailable=down + 1)
        assert guardrails(alone(worse), rules)[0] == "availability"


@pytest.mark.parametrize("least", [1, 30, 200])
def test_guardrail_asks_for_its_requests(least: int) -> None:
    rules = RULES.model_copy(update={"guardrail_requests": least})
    assert guardrails(alone(did(least, least), rules=rules), rules)[0] == ("error_rate" if least > 1 else "")
    assert guardrails(alone(did(least - 1, least - 1), rules=rules), rules) == ("", "")


# Decisions


def healthy(requests: int, rules: Rules = RULES) -> Evidence:
    return seen((LONG, did(requests), did(9 * requests, 9 * requests // 100)), rules=rules)


@pytest.mark.parametrize(
    ("evidence", "step", "action"),
    [
        (healthy(400), Step(weight=10, baked=599.999, bake=600), "continue"),
        (healthy(400), Step(weight=10, baked=600, bake=600), "promote"),
        (healthy(400), Step(weight=10, baked=600.001, bake=600), "promote"),
        (healthy(400), Step(weight=10, baked=0, bake=0), "promote"),
        (healthy(400), Step(weight=10, baked=601, bake=600, unanswered=1.1), "continue"),
        (healthy(400), Step(weight=10, baked=601, bake=600, unanswered=0.9), "promote"),
        (healthy(400), Step(weight=100, baked=601, bake=600, unanswered=float("inf")), "continue"),
        (healthy(400), Step(weight=10, baked=0, bake=0, unanswered=9), "promote"),
        (healthy(10), BAKED, "inconclusive"),
        (healthy(10), BAKING, "continue"),
        (healthy(10), Step(weight=99, baked=600, bake=600), "inconclusive"),
        (healthy(10), Step(weight=100, baked=600, bake=600), "promote"),
        (healthy(10), Step(weight=100, baked=599, bake=600), "continue"),
        (Evidence(), BAKED, "inconclusive"),
        (Evidence(), BAKING, "continue"),
        (Evidence(), Step(weight=100, baked=600, bake=600), "promote"),
        (seen((LONG, Counts(), did(9_000, 90))), BAKED, "inconclusive"),
        (seen((LONG, did(1_000, 10), Counts())), BAKED, "promote"),
        (seen((LONG, did(40, 0), Counts())), BAKED, "inconclusive"),
    ],
    ids=[
        "just before the bake is over",
        "just when it is over",
        "just after",
        "no bake",
        "a request from before the end of the bake without an answer",
        "a later request without an answer",
        "no server that could say",
        "no bake, and a request without an answer",
        "too few requests",
        "too few, and baking",
        "too few at 99 %",
        "too few at 100 %",
        "baking at 100 %",
        "no look yet, bake over",
        "no look yet, baking",
        "no traffic at all at 100 %",
        "no canary traffic",
        "no stable traffic, the canary's own rate is low",
        "no stable traffic, few requests",
    ],
)
def test_decision(evidence: Evidence, step: Step, action: str) -> None:
    decision = decide(evidence, RULES, step)
    assert decision.action == action and decision.cause == "" and decision.reason


@pytest.mark.parametrize("requests", [50, 130, 400, 5_000])
def test_canary_goes_on_where_its_whole_interval_is_within_the_margin(requests: int) -> None:
    evidence = seen((LONG, did(requests, requests // 50), did(9 * requests, 9 * requests // 50)))
    _, high = difference_interval(evidence.errors.canary, evidence.errors.stable, RULES.alpha)
    for margin, action in ((high, "promote"), (math.nextafter(high, 0), "inconclusive")):
        decision = decide(evidence, RULES.model_copy(update={"margin": margin}), BAKED)
        assert decision.action == action
        assert decision.numbers["difference_high"] == high


@pytest.mark.parametrize("which", ["errors", "slow"])
def test_comparison_stops_from_twice_one_over_alpha_on(which: str) -> None:
    evidence, cause = healthy(400), {"errors": "worse_errors", "slow": "worse_latency"}[which]
    for highest, stops in ((math.nextafter(200, 0), False), (200.0, True), (200.1, True)):
        compared = getattr(evidence, which).model_copy(update={"highest": highest})
        for step in (BAKING, BAKED, Step(weight=100, baked=0, bake=600)):
            decision = decide(evidence.model_copy(update={which: compared}), RULES, step)
            assert (decision.cause == cause) is stops and (decision.action == "abort") is stops


def test_worse_canary_is_stopped_in_words_and_numbers() -> None:
    evidence = seen((LONG, did(400, 17), did(3_600, 18)))
    decision = decide(evidence, RULES, BAKING)
    assert (decision.action, decision.cause) == ("abort", "worse_errors")
    assert decision.reason.startswith(
        "the canary fails 17 of 400 requests, the stable deployment 18 of 3600: evidence "
    )
    assert decision.reason.endswith(", 200 is enough")
    numbers = decision.numbers
    assert (numbers["canary_requests"], numbers["canary_errors"]) == (400, 17)
    assert (numbers["stable_requests"], numbers["stable_errors"]) == (3_600, 18)
    assert numbers["e_errors"] == evidence.errors.e_value() > 200 > numbers["e_latency"]
    assert Decision.model_validate_json(decision.model_dump_json()) == decision


def test_canary_that_refuses_more_is_stopped_by_the_comparison_alone() -> None:
    canary, stable = did(400, 5, refused=12), did(3_600, 9, refused=9)
    evidence = seen((LONG, canary, stable))
    assert (evidence.errors.canary, evidence.errors.stable) == ((400, 17), (3_600, 18))
    assert evidence.errors == seen((LONG, did(400, 17), did(3_600, 18))).errors
    assert guardrails(evidence, RULES) == ("", "")
    decision = decide(evidence, RULES, BAKING)
    assert (decision.action, decision.cause) == ("abort", "worse_errors")


def test_callers_who_are_refused_by_both_stop_nothing() -> None:
    decision = decide(seen((LONG, did(4_000, refused=3_600), did(36_000, refused=32_400))), RULES, BAKED)
    assert (decision.action, decision.cause) == ("promote", "")
    assert decision.numbers["e_errors"] < 1


def test_slower_canary_is_stopped_though_it_keeps_its_limits() -> None:
    canary, stable = did(1_000, slow=(300, 45, 5)), did(9_000, slow=(1_000, 90, 40))
    decision = decide(seen((LONG, canary, stable)), RULES, BAKING)
    assert (decision.action, decision.cause) == ("abort", "worse_latency")
    assert "takes more than 2000 ms for 45 of 1000 requests" in decision.reason


def test_worse_once_is_worse_for_good() -> None:
    evidence = seen((LONG, did(400, 17), did(3_600, 18)))
    better = Look(start=LONG, end=2 * LONG, canary=did(40_000), stable=did(40_000, 2_000))
    evidence = observe(evidence, better, RULES)
    assert evidence.errors.e_value() < 1
    assert decide(evidence, RULES, BAKED).cause == "worse_errors"


def test_guardrails_come_first_and_availability_before_the_others() -> None:
    broken = did(1_000, 600, unavailable=500, slow=(900, 900, 900))
    parts = {
        "availability": broken,
        "error_rate": broken.model_copy(update={"unavailable": 0}),
        "latency": broken.model_copy(update={"unavailable": 0, "errors": 0}),
        "worse_errors": did(1_000, 45),
        "worse_latency": did(1_000, slow=(45, 45, 10)),
    }
    for cause, canary in parts.items():
        assert decide(seen((LONG, canary, did(9_000, 90))), RULES, BAKED).cause == cause


def test_scaled_rules_change_durations_alone() -> None:
    small = Rules().scaled(0.01)
    assert (small.error_seconds, small.availability_seconds, small.latency_seconds) == (3, 6, 3)
    back = small.model_copy(
        update={name: getattr(Rules(), name) for name in Rules.model_fields if name.endswith("_seconds")}
    )
    assert back == Rules()


# Any traffic


class Call(NamedTuple):
    """One request, as a log would have it."""

    canary: bool
    failed: bool
    down: bool
    refused: bool
    slowness: int
    value: int
    name: str


CALLS = st.lists(
    st.builds(
        Call,
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.integers(0, 3),
        st.integers(-50, 50),
        st.sampled_from(["yes", "no", "perhaps"]),
    ),
    max_size=40,
)


def counted(calls: Sequence[Call]) -> Counts:
    """Count a log by hand."""
    names = [call.name for call in calls]
    return Counts(
        requests=len(calls),
        errors=sum(call.failed for call in calls),
        unavailable=sum(call.failed and call.down for call in calls),
        refused=sum(call.refused and not call.failed for call in calls),
        slow=(
            sum(call.slowness >= 1 for call in calls),
            sum(call.slowness >= 2 for call in calls),
            sum(call.slowness >= 3 for call in calls),
        ),
        rows=len(calls),
        total=sum(call.value for call in calls),
        squares=sum(call.value**2 for call in calls),
        classes={name: names.count(name) for name in set(names)},
    )


def looks_at(calls: Sequence[Call], cuts: Sequence[int], length: float) -> Iterator[Look]:
    """Yield the looks that cut a log at these places."""
    edges = [0, *sorted(min(cut, len(calls)) for cut in cuts), len(calls)]
    for number, (begin, end) in enumerate(itertools.pairwise(edges)):
        part = calls[begin:end]
        sides = [counted([call for call in part if call.canary is side]) for side in (True, False)]
        yield Look(start=number * length, end=(number + 1) * length, canary=sides[0], stable=sides[1])


def evidence_of(looks: Sequence[Look], rules: Rules) -> Evidence:
    evidence = Evidence()
    for look in looks:
        evidence = observe(evidence, look, rules)
    return evidence


@settings(max_examples=60, deadline=None)
@given(CALLS, st.lists(st.integers(0, 40), max_size=8), st.sampled_from([0.5, 7.0, 100.0]))
def test_totals_are_the_same_for_any_partition_into_looks(
    calls: list[Call], cuts: list[int], length: float
) -> None:
    evidence = evidence_of(list(looks_at(calls, cuts, length)), RULES)
    canary = counted([call for call in calls if call.canary])
    stable = counted([call for call in calls if not call.canary])
    assert (evidence.canary, evidence.stable) == (canary, stable)
    assert (evidence.errors.canary, evidence.errors.stable) == (
        (canary.requests, canary.errors + canary.refused),
        (stable.requests, stable.errors + stable.refused),
    )
    assert (evidence.slow.canary, evidence.slow.stable) == (
        (canary.requests, canary.slow[1]),
        (stable.requests, stable.slow[1]),
    )
    assert evidence.points[-1].e_value == evidence.errors.e_value()
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence
    short = length * (len(cuts) + 1) <= RULES.availability_seconds
    if short:  # nothing has left the longest window
        assert sum((look.canary for look in evidence.recent), Counts()) == canary
        assert sum((look.stable for look in evidence.recent), Counts()) == stable


SIDES = st.integers(0, 400).flatmap(
    lambda requests: st.builds(
        lambda errors, down, refused, slow: Counts(
            requests=requests,
            errors=errors,
            unavailable=min(down, errors),
            refused=min(refused, requests - errors),
            slow=tuple(sorted(slow, reverse=True)),
        ),
        st.integers(0, requests),
        st.integers(0, requests),
        st.integers(0, requests),
        st.tuples(*[st.integers(0, requests)] * 3),
    )
)
MILD = st.integers(0, 400).flatmap(
    lambda requests: st.builds(
        lambda errors, slow: Counts(requests=requests, errors=errors, slow=(slow, slow, 0)),
        st.integers(0, requests // 15),
        st.integers(0, requests // 15),
    )
)


def broken(looks: Sequence[Look], rules: Rules) -> bool:
    """Return whether a guardrail is broken, from a list of all looks and the quantiles of the binomial law."""

    def last(seconds: float) -> Counts | None:
        now = looks[-1].end
        recent = [look.canary for look in looks if look.end > now - seconds]
        return sum(recent, Counts()) if now >= seconds else None

    def over(counts: Counts | None, bad: int, limit: float) -> bool:
        return counts is not None and counts.requests >= 30 and bad > allowed(counts.requests, limit)

    errors, down, slow = (
        last(each) for each in (rules.error_seconds, rules.availability_seconds, rules.latency_seconds)
    )
    return (
        over(errors, errors.errors if errors else 0, 0.05)
        or over(down, down.unavailable if down else 0, 0.01)
        or any(over(slow, slow.slow[at] if slow else 0, limit) for at, limit in enumerate((0.5, 0.05, 0.01)))
    )


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(10, 250), st.one_of(SIDES, MILD), st.one_of(SIDES, MILD)), min_size=1, max_size=6
    ),
    st.builds(
        Step,
        weight=st.sampled_from([10, 50, 100]),
        baked=st.sampled_from([0.0, 599.0, 600.0, 900.0]),
        bake=st.just(600.0),
    ),
)
@example([(600.0, did(100, 12), did(900, 108))], Step(weight=100, baked=600, bake=600))
def test_no_canary_goes_on_while_something_is_wrong(
    parts: list[tuple[float, Counts, Counts]], step: Step
) -> None:
    """Looks are longer than those that are merged, so a list of all of them must say the same."""
    looks, now = [], 0.0
    for seconds, canary, stable in parts:
        looks.append(Look(start=now, end=now + seconds, canary=canary, stable=stable))
        now += seconds
    evidence = evidence_of(looks, RULES)
    decision = decide(evidence, RULES, step)
    stopped = bool(guardrails(evidence, RULES)[0])
    worse = max(evidence.errors.highest, evidence.slow.highest) >= 200
    assert stopped == broken(looks, RULES)
    if stopped or worse:
        assert decision.action == "abort" and decision.cause
    elif step.baked < step.bake:
        assert decision.action == "continue"
    elif step.weight == 100:
        assert decision.action == "promote"
    else:
        assert decision.action in ("promote", "inconclusive")
        assert (decision.action == "promote") is (decision.numbers["difference_high"] <= RULES.margin)
    assert set(decision.numbers) >= {"canary_requests", "difference_low", "difference_high", "e_errors"}
    assert all(math.isfinite(number) for number in decision.numbers.values())


# Windows and drawing


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.lists(st.floats(0.05, 40), min_size=1, max_size=60),
        st.lists(st.sampled_from([0.25, 1.0]), min_size=100, max_size=400),
        st.lists(st.floats(0.2, 90), min_size=100, max_size=200),
    )
)
@example([0.25] * 400)
def test_windows_are_those_of_all_looks_but_for_one_merged_look(lengths: list[float]) -> None:
    rules = Rules(error_seconds=30, availability_seconds=60, latency_seconds=7)
    evidence, looks, now = Evidence(), [], 0.0
    for number, seconds in enumerate(lengths, 1):
        look = Look(start=now, end=now + seconds, canary=did(number), stable=did(1))
        evidence, now = observe(evidence, look, rules), look.end
        looks.append(look)
    assert len(evidence.recent) <= 2 * WINDOWS + 2
    assert evidence.recent[-1].end == now
    assert all(one.end == two.start for one, two in itertools.pairwise(evidence.recent))
    for seconds in (rules.error_seconds, rules.availability_seconds, rules.latency_seconds):
        found = window(evidence, seconds)
        assert (found is None) is (now < seconds)
        if found is not None:
            least = sum(look.canary.requests for look in looks if look.end > now - seconds)
            reach = now - seconds - rules.availability_seconds / WINDOWS
            assert least <= found.requests <= sum(one.canary.requests for one in looks if one.end > reach)


def test_points_for_drawing_stay_few_and_end_now() -> None:
    evidence = Evidence()
    for second in range(3 * DRAWN):
        look = Look(start=second, end=second + 1, canary=did(1), stable=did(9))
        evidence = observe(evidence, look, RULES)
        assert len(evidence.points) <= DRAWN
        assert evidence.points[-1].at == second + 1
    times = [point.at for point in evidence.points]
    assert times == sorted(set(times)) and times[0] == 1
    widths = [point.high - point.low for point in evidence.points]
    assert widths == sorted(widths, reverse=True)


# Predictions


def classes(requests: int, **shares: float) -> Counts:
    return did(requests, classes={name: round(share * requests) for name, share in shares.items()})


def scores(rows: int, mean: float, deviation: float) -> Counts:
    return did(rows, rows=rows, total=rows * mean, squares=rows * (mean**2 + deviation**2))


@pytest.mark.parametrize(
    ("canary", "stable", "said"),
    [
        (classes(1_000, yes=0.5, no=0.5), classes(9_000, yes=0.5, no=0.5), []),
        (
            classes(1_000, yes=0.6, no=0.4),
            classes(9_000, yes=0.5, no=0.5),
            ["10.0% of the answers against the stable deployment"],
        ),
        (classes(10_000, yes=0.54, no=0.46), classes(90_000, yes=0.5, no=0.5), []),
        (classes(40, yes=0.6, no=0.4), classes(360, yes=0.5, no=0.5), []),
        (classes(29, yes=1), classes(360, no=1), []),
        (classes(30, yes=1), classes(360, no=1), ["class"]),
        (classes(100, yes=1, no=0, never=0), classes(900, yes=1, never=0), []),
        (classes(100, yes=0.2, no=0.8, never=0), classes(900, yes=0.8, no=0.2, never=0), ["class"]),
        (scores(1_000, 5.0, 1), scores(9_000, 5.05, 1), []),
        (scores(1_000, 5.5, 1), scores(9_000, 5.0, 1), ["mean prediction 5.5 against 5"]),
        (scores(10_000, 5.1, 1), scores(90_000, 5.0, 1), []),
        (scores(40, 5.4, 1), scores(360, 5.0, 1), []),
        (scores(29, 9, 1), scores(900, 5, 1), []),
        (scores(30, 9, 1), scores(900, 5, 1), ["mean prediction 9 against 5"]),
        (scores(100, 5, 0), scores(900, 5, 0), []),
        (scores(100, 6, 0), scores(900, 5, 0), ["mean prediction 6 against 5"]),
        (Counts(), Counts(), []),
    ],
    ids=[
        "same shares",
        "ten points more",
        "four points are too little to mention",
        "forty answers are too few for ten points",
        "29 answers",
        "30 answers",
        "one class, others never given",
        "a class never given",
        "same mean",
        "half a deviation more",
        "a tenth of a deviation is too little to mention",
        "forty rows are too few for less than half a deviation",
        "29 rows",
        "30 rows",
        "same constant",
        "another constant",
        "nothing",
    ],
)
def test_prediction_drift(canary: Counts, stable: Counts, said: list[str]) -> None:
    found = prediction_drift(canary, stable)
    assert len(found) == len(said)
    assert all(part in text for part, text in zip(said, found, strict=True))


def test_prediction_drift_warns_and_stops_nothing() -> None:
    canary = classes(400, yes=0.9, no=0.1)
    stable = classes(3_600, yes=0.5, no=0.5)
    decision = decide(seen((LONG, canary, stable)), RULES, BAKED)
    assert decision.action == "promote" and len(decision.warnings) == 1


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 500)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 500)),
    st.integers(0, 500),
    st.floats(-1e300, 1e300),
    st.floats(0, 1e300),
)
def test_prediction_drift_takes_any_counts(
    one: dict[str, int], other: dict[str, int], rows: int, total: float, squares: float
) -> None:
    canary = did(500, rows=rows, total=total, squares=squares, classes=one)
    stable = did(500, rows=rows, total=total, squares=squares, classes=other)
    assert len(prediction_drift(canary, stable)) <= 1  # the means are the same
    assert prediction_drift(canary, canary) == []


def test_nothing_seen_is_no_evidence() -> None:
    assert Evidence().errors == Comparison() and window(Evidence(), 0) is None
    assert guardrails(Evidence(), RULES) == ("", "")
