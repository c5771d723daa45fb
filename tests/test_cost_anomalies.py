"""Days that cost too much: found where they were put, seldom where they were not, and as another method finds them."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from statsmodels.tsa.seasonal import STL

from brookside_mlops.cost_anomalies import Rules, anomalies

START = date(2026, 1, 5)
WEEK = (100, 104, 98, 101, 97, 32, 28)


def bill(
    seed: int, days: int, noise: float = 6, wrong: dict[int, float] | None = None
) -> dict[date, Decimal]:
    """A bill with a week in it and normal noise; `wrong` multiplies some days."""
    random = np.random.default_rng(seed)
    amounts = [WEEK[day % 7] + noise * float(random.standard_normal()) for day in range(days)]
    for day, factor in (wrong or {}).items():
        amounts[day] *= factor
    return {START + timedelta(days=day): Decimal(f"{amount:.4f}") for day, amount in enumerate(amounts)}


def day(number: int) -> date:
    return START + timedelta(days=number)


def test_false_alarms_are_at_most_one_in_a_thousand_days_of_normal_noise() -> None:
    judged, told = 0, 0
    for seed in range(40):
        told += len(anomalies(bill(seed, 400), Rules(share=Decimal(0), amount=Decimal(0))))
        judged += 400 - 28
    assert judged == 14_880 and told <= 0.001 * judged


def test_false_alarms_would_be_counted_if_there_were_any() -> None:
    easy = Rules(deviations=Decimal("2.5"), share=Decimal(0), amount=Decimal(0))
    told = sum(len(anomalies(bill(seed, 400), easy)) for seed in range(5))
    assert 0.01 < told / (5 * 372) < 0.1


def test_days_that_were_put_in_are_found_and_nothing_else() -> None:
    wrong = {60: 1.6, 75: 2.0, 90: 0.4, 110: 1.6}
    for seed in range(10):
        found = {one.day for one in anomalies(bill(seed, 150, 5, wrong)) if one.day.weekday() < 5}
        assert found == {day(number) for number in wrong if number % 7 < 5}


def test_same_days_as_a_robust_seasonal_decomposition_finds() -> None:
    wrong = {60: 1.7, 74: 2.0, 91: 0.3, 115: 1.8}
    for seed in range(8):
        costs = bill(seed, 160, 5, wrong)
        series = pd.Series([float(costs[one]) for one in sorted(costs)])
        rest = STL(series, period=7, robust=True).fit().resid
        scale = 1.4826 * float((rest - rest.median()).abs().median())
        other = {day(int(number)) for number in np.flatnonzero(rest.abs() > 7 * scale) if number >= 28}
        ours = {one.day for one in anomalies(costs)}
        assert ours >= {day(number) for number in wrong} and other >= {day(number) for number in wrong}
        assert len(ours ^ other) <= 1


def test_anomaly_of_last_week_neither_hides_todays_nor_is_told_again() -> None:
    costs = bill(1, 120, 4, {100: 3.0, 107: 3.0})
    assert [one.day for one in anomalies(costs)] == [day(100), day(107)]
    assert [one.day for one in anomalies(bill(1, 120, 4, {100: 3.0}))] == [day(100)]


def test_weekend_at_the_price_of_a_weekday_is_an_anomaly() -> None:
    saturday = 12 * 7 + 5
    found = anomalies(bill(2, 100, 4, {saturday: 3.1}))
    assert [one.day for one in found] == [day(saturday)] and found[0].cost < 110


def test_level_that_changed_for_good_is_told_until_it_is_the_median() -> None:
    costs = {one: cost * (Decimal("1.5") if one >= day(84) else 1) for one, cost in bill(3, 160, 3).items()}
    told = [one.day for one in anomalies(costs)]
    assert min(told) <= day(85) and max(told) < day(84 + 7 * 5)


def test_flat_bill_is_never_out_of_line_by_cents() -> None:
    flat = {day(number): Decimal("19.07") for number in range(90)}
    assert anomalies(flat | {day(80): Decimal("19.90")}) == []
    found = anomalies(flat | {day(80): Decimal("30")})
    assert [one.day for one in found] == [day(80)] and found[0].deviations is None


def test_days_that_are_missing_are_not_zero() -> None:
    costs = bill(4, 120, 4)
    for number in (60, 61, 62, 80, 100):
        del costs[day(number)]
    assert anomalies(costs) == []


@pytest.mark.parametrize("unit", [Decimal("0.01"), Decimal(1000)])
def test_verdict_does_not_depend_on_the_currency(unit: Decimal) -> None:
    rules = Rules(amount=Decimal(0))
    costs = bill(5, 120, 5, {90: 2.0})
    other = {one: cost * unit for one, cost in costs.items()}
    assert [one.day for one in anomalies(costs, rules)] == [one.day for one in anomalies(other, rules)]
