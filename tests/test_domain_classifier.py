"""Old and new rows told apart: against scikit-learn and the bootstrap, and against rows that are alike."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from brookside_mlops.bootstrap import Resampling, estimate
from brookside_mlops.bundle import BundleColumn
from brookside_mlops.domain_classifier import delong, domain_drift, interval_of
from brookside_mlops.drift import compare
from brookside_mlops.metrics import roc_auc
from brookside_mlops.profiles import profile

COLUMNS = (
    BundleColumn(name="team", kind="number"),
    BundleColumn(name="channel", kind="category"),
    BundleColumn(name="regulated", kind="boolean"),
)


def rows_of(rows: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Return rows with a number with gaps, a category and a flag; `shift` moves the number."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "team": generator.normal(shift, 1, rows),
            "channel": generator.choice(["a", "b", "c"], rows),
            "regulated": generator.random(rows) < 0.3,
        }
    )
    frame.loc[generator.random(rows) < 0.1, "team"] = np.nan
    frame.loc[generator.random(rows) < 0.1, "channel"] = None
    return frame


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1), st.integers(0, 2))
def test_area_agrees_with_scikit_learn_and_variance_with_its_definition(
    seed: int, shift: float, digits: int
) -> None:
    generator = np.random.default_rng(seed)
    old, new = (
        generator.normal(size=40).round(digits),
        generator.normal(shift, 1.5, 25).round(digits),
    )
    auc, variance = delong(old, new)
    assert auc == pytest.approx(roc_auc_score(np.repeat([0, 1], [40, 25]), np.append(old, new)))
    beats = (new[:, None] > old).astype(float) + 0.5 * (new[:, None] == old)
    assert variance == pytest.approx(beats.mean(1).var(ddof=1) / 25 + beats.mean(0).var(ddof=1) / 40)


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.5])
def test_interval_agrees_with_the_bootstrap(shift: float) -> None:
    generator = np.random.default_rng(1)
    old, new = generator.normal(size=400), generator.normal(shift, 1, 300)
    auc, variance = delong(old, new)
    low, high = interval_of(auc, variance, 300, 0.95)
    true = np.repeat([False, True], [400, 300])
    peer = estimate({"auc": roc_auc(true, np.append(old, new))}, 700, Resampling(resamples=4000))["auc"]
    assert (low, high) == pytest.approx((peer.low, peer.high), abs=0.006)


def test_interval_holds_the_true_area_as_often_as_it_says() -> None:
    truth, inside = 0.6381631950841185, 0  # of two normal distributions half a standard deviation apart
    for seed in range(400):
        generator = np.random.default_rng(seed)
        auc, variance = delong(generator.normal(size=60), generator.normal(0.5, 1, 60))
        low, high = interval_of(auc, variance, 60, 0.95)
        inside += low <= truth <= high
    assert 0.92 <= inside / 400 <= 0.98


def test_perfect_separation_is_not_certain() -> None:
    low, high = interval_of(1.0, 0.0, 60, 0.99)
    assert (0.9 < low < 0.95, high) == (True, 1.0)
    assert interval_of(0.0, 0.0, 60, 0.99) == pytest.approx((0.0, 1 - low))


@pytest.mark.parametrize("rows", [(50, 50), (800, 60), (800, 400)])
def test_rows_of_one_distribution_do_not_alarm(rows: tuple[int, int]) -> None:
    for seed in range(8):
        found = domain_drift(rows_of(rows[0], seed), rows_of(rows[1], 1_000 + seed), COLUMNS, seed=seed)
        assert found is not None and found.verdict == "pass", found


def test_what_moved_is_named_and_a_new_level_is_seen() -> None:
    moved = domain_drift(rows_of(600, 0), rows_of(300, 1, shift=1.5), COLUMNS)
    assert moved is not None and moved.verdict == "critical" and next(iter(moved.features)) == "team"
    assert sum(moved.features.values()) == pytest.approx(1) and "team" in moved.sentence()
    new = rows_of(300, 1)
    new["channel"] = "z"
    level = domain_drift(rows_of(600, 0), new, COLUMNS)
    assert level is not None and level.verdict == "critical" and next(iter(level.features)) == "channel"


def test_a_joint_move_is_seen_where_no_feature_has_moved() -> None:
    generator = np.random.default_rng(0)
    columns = [BundleColumn(name=name, kind="number") for name in ("team", "weeks")]

    def drawn(rows: int, correlation: float) -> pd.DataFrame:
        values = generator.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], rows)
        return pd.DataFrame(values, columns=["team", "weeks"])

    before, now = drawn(1_000, 0.8), drawn(500, -0.8)
    reference = profile(before)
    assert not compare(reference, profile(now, like=reference)).drifted()
    found = domain_drift(before, now, columns)
    assert found is not None and found.verdict == "critical"


def test_few_rows_are_no_evidence() -> None:
    assert domain_drift(rows_of(49, 0), rows_of(400, 1, shift=3), COLUMNS) is None


def test_columns_that_are_empty_or_named_strangely_are_taken() -> None:
    columns = [BundleColumn(name="a[0]<b>", kind="number"), BundleColumn(name="none", kind="category")]
    generator = np.random.default_rng(0)
    parts = [pd.DataFrame({"a[0]<b>": generator.normal(size=80), "none": [None] * 80}) for _ in range(2)]
    found = domain_drift(parts[0], parts[1], columns)
    assert found is not None and set(found.features) == {"a[0]<b>", "none"}
