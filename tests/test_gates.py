"""Gates: a table of cases, and that a better model never fares worse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.bootstrap import Estimate
from brookside_mlops.comparison import Comparison
from brookside_mlops.gates import THRESHOLDS, judge
from brookside_mlops.settings import Gates

DONE = (True, "stopped in time")


def estimate(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "baseline": "version 1", "metric": "accuracy", "method": "exact", "rows": 100, "difference": 0.02, "low": 0.0,
        "high": 0.04, "p_better": 0.03, "p_not_worse": 0.001, "margin": 0.01, "significance": 0.05, "power": 0.4,
    }  # fmt: skip
    return Comparison(**(values | changes))


@pytest.mark.parametrize(
    ("rule", "changes", "verdict"),
    [
        ("better", {}, "pass"),
        ("better", {"p_better": 0.2}, "fail"),
        ("better", {"difference": -0.02, "p_better": 0.04}, "fail"),
        ("not_worse", {"p_better": 0.6, "difference": -0.001, "p_not_worse": 0.01}, "pass"),
        ("not_worse", {"p_not_worse": 0.4}, "fail"),
    ],
)
def test_baseline_rule(rule: Any, changes: dict[str, Any], verdict: str) -> None:
    (check,) = judge(
        Gates(converged=False, baseline_rule=rule), "classification", {}, DONE, comparison(**changes)
    )
    assert check.verdict == verdict
    assert ("power of 40%" in check.next_step) == (verdict == "fail")


def test_first_model_has_no_baseline_and_passes_saying_so() -> None:
    (check,) = judge(Gates(converged=False, baseline_rule="better"), "regression", {}, DONE, None)
    assert (check.verdict, check.measured) == ("pass", "no baseline yet")


def test_model_that_did_not_converge_fails_with_the_reason() -> None:
    (check,) = judge(Gates(), "clustering", {}, (False, "the centres still moved"))
    assert check.verdict == "fail" and check.measured == "the centres still moved" and check.next_step


def test_undefined_metric_is_no_pass() -> None:
    checks = judge(
        Gates(converged=False, min_recall=0.1, min_precision=0.1),
        "classification",
        {"recall": estimate(float("nan"))},
        DONE,
    )
    assert [check.verdict for check in checks] == ["fail", "fail"]


def test_failure_says_by_how_much() -> None:
    (check,) = judge(Gates(converged=False, max_mape=0.25), "regression", {"mape": estimate(0.30)}, DONE)
    assert check.required == "<= 0.25" and check.next_step.startswith("0.05 over")


CASES = [(task, metric, key) for task, found in THRESHOLDS.items() for metric, key in found.items()]


@given(st.sampled_from(CASES), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1))
def test_better_model_never_turns_a_pass_into_a_failure(
    case: Any, limit: float, one: float, other: float
) -> None:
    task, metric, key = case
    gates = Gates(converged=False, **{key: limit})
    worse, better = sorted((one, other), reverse=key.startswith("max_"))
    first, second = (
        judge(gates, task, {metric: estimate(value)}, DONE)[0].verdict for value in (worse, better)
    )
    assert (first, second) != ("pass", "fail")


def test_gates_of_another_task_are_not_asked() -> None:
    gates = Gates(converged=False, min_accuracy=0.9, min_r2=0.9, min_silhouette=0.9)
    assert [check.name for check in judge(gates, "regression", {"r2": estimate(0.95)}, DONE)] == ["r2"]


def test_gate_on_mape_says_what_was_left_out_and_gives_advice_that_applies() -> None:
    gates = Gates(converged=False, max_mape=0.25)
    some = Estimate(value=0.4, low=0.3, high=0.5, note="without 30 rows whose target is 0")
    (check,) = judge(gates, "regression", {"mape": some}, DONE)
    assert check.verdict == "fail" and "without 30 rows" in str(check.measured)
    assert "Where every target is above 0, log_target" in check.next_step
    none = Estimate(value=float("nan"), low=float("nan"), high=float("nan"), note="every target is 0")
    (check,) = judge(gates, "regression", {"mape": none}, DONE)
    assert check.verdict == "fail" and "every target is 0" in check.next_step
    assert "log_target" not in check.next_step and "max_mape" in check.next_step
