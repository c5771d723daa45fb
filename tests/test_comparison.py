"""Comparison with the baseline, against second implementations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.metrics import r2_score
from statsmodels.stats.contingency_tables import mcnemar

from brookside_mlops.bootstrap import Resampling
from brookside_mlops.comparison import (
    Paired,
    compare_classes,
    compare_resampled,
    mean_difference,
    power_of_margin,
    r2_difference,
    score_interval,
    score_statistic,
)


def rights(gained: int, lost: int, both: int) -> tuple[np.ndarray, np.ndarray]:
    new = np.repeat([True, False, True, False], [gained, lost, both, 3])
    old = np.repeat([False, True, True, False], [gained, lost, both, 3])
    return new, old


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200))
def test_exact_mcnemar_agrees_with_statsmodels(gained: int, lost: int, both: int) -> None:
    found = compare_classes(*rights(gained, lost, both), "version 1", 0.01, 0.05)
    peer = mcnemar([[both, lost], [gained, 3]], exact=True).pvalue
    other = binomtest(gained, gained + lost, alternative="less").pvalue if gained + lost else 1.0
    assert min(1.0, 2 * min(found.p_better, other)) == pytest.approx(peer, abs=1e-9)
    assert found.low <= found.difference <= found.high


def test_score_statistic_at_zero_is_mcnemar_without_correction() -> None:
    peer = mcnemar([[50, 12], [25, 3]], exact=False, correction=False).statistic
    assert score_statistic(25, 12, 90, 0.0) ** 2 == pytest.approx(peer)


def test_interval_holds_the_differences_that_are_not_rejected() -> None:
    low, high = score_interval(25, 12, 400)
    reach = norm.ppf(0.975)
    assert score_statistic(25, 12, 400, low) == pytest.approx(reach, abs=1e-6)
    assert score_statistic(25, 12, 400, high) == pytest.approx(-reach, abs=1e-6)


def test_power_is_what_simulation_finds() -> None:
    generator = np.random.default_rng(0)
    rows, discordant, margin = 2_000, 0.10, 0.02
    shares = [(discordant + margin) / 2, (discordant - margin) / 2, 1 - discordant]
    drawn = generator.multinomial(rows, shares, size=4_000)
    z = (drawn[:, 0] - drawn[:, 1]) / np.sqrt(drawn[:, 0] + drawn[:, 1])
    found = float((z > norm.ppf(0.95)).mean())
    assert power_of_margin(margin, discordant, rows, 0.05) == pytest.approx(found, abs=0.03)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_resampled_difference_is_the_difference(seed: int) -> None:
    generator = np.random.default_rng(seed)
    actual = generator.normal(size=80)
    one, other = actual + generator.normal(size=80) * 0.2, actual + generator.normal(size=80) * 0.3
    how = Resampling(resamples=200, seed=seed)
    found = compare_resampled(
        Paired("r2", r2_difference(actual, one, other), 80), "version 1", 0.01, 0.05, how
    )
    assert found.difference == pytest.approx(r2_score(actual, one) - r2_score(actual, other))
    assert 0 < found.p_better <= 1 and "paired bootstrap" in found.sentence()


def test_equal_models_are_not_better_but_not_worse() -> None:
    values = np.random.default_rng(0).normal(size=500)
    found = compare_resampled(Paired("silhouette", mean_difference(values, values), 500), "v", 0.01, 0.05)
    assert found.p_better == 1.0 and found.p_not_worse < 0.01 and found.power == 1.0
