"""Drift against second implementations, and against what must not alarm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp

from brookside_mlops.drift import Thresholds, compare, compare_tables, jensen_shannon, psi
from brookside_mlops.errors import InputError
from brookside_mlops.profiles import profile

COUNTS = st.lists(st.integers(1, 1000), min_size=4, max_size=4).map(
    lambda values: np.array(values, dtype=float)
)


@given(COUNTS, COUNTS)
def test_jensen_shannon_agrees_with_scipy(one: np.ndarray, other: np.ndarray) -> None:
    assert jensen_shannon(one, other) == pytest.approx(jensenshannon(one, other, base=2), abs=1e-7)


@given(COUNTS, COUNTS)
def test_psi_is_symmetric_and_zero_only_for_like_shares(one: np.ndarray, other: np.ndarray) -> None:
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, other) >= 0 and psi(one, one * 3) == pytest.approx(0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1))
def test_ks_agrees_with_scipy(seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=300), generator.normal(shift, 1.2, size=200)
    before = profile(pd.DataFrame({"x": one}))
    (found,) = compare(before, profile(pd.DataFrame({"x": other}), like=before)).features
    peer = ks_2samp(one, other, method="asymp")
    assert found.ks == pytest.approx(peer.statistic, abs=1 / 300)


def test_psi_agrees_with_ten_quantile_bins_by_hand() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=1000), generator.normal(0.4, 1, size=800)
    edges = np.quantile(one, np.arange(1, 10) / 10, method="inverted_cdf")
    counts = [
        np.bincount(np.searchsorted(edges, side, side="left"), minlength=10).astype(float)
        for side in (one, other)
    ]
    before = profile(pd.DataFrame({"x": one}))
    (found,) = compare(before, profile(pd.DataFrame({"x": other}), like=before)).features
    assert found.psi == pytest.approx(psi(*counts))


def report_of(before: pd.DataFrame, now: pd.DataFrame):  # type: ignore[no-untyped-def]
    first = profile(before)
    return {one.feature: one for one in compare(first, profile(now, like=first)).features}


def test_what_vanished_appeared_changed_kind_or_emptied_is_said() -> None:
    rows = 100
    before = pd.DataFrame(
        {"gone": range(rows), "kind": range(rows), "gaps": 1.5, "constant": 3.0, "flag": [True, False] * 50}
    )
    now = pd.DataFrame(
        {
            "fresh": range(rows),
            "kind": ["a"] * rows,
            "gaps": [None] * rows,
            "constant": 3.0,
            "flag": [True] * rows,
        }
    )
    found = report_of(before, now)
    assert found["gone"].reason == "the column vanished" and found["fresh"].reason == "the column is new"
    assert found["kind"].reason == "was number, is category"
    assert "from 0% to 100%" in found["gaps"].reason
    assert not found["constant"].drifted and found["flag"].drifted


def test_new_levels_infinities_and_gaps_are_counted() -> None:
    before = pd.DataFrame({"unit": ["a", "b"] * 50, "x": [1.0, np.inf, -np.inf, 2.0] * 25})
    now = pd.DataFrame({"unit": ["a", "c"] * 50, "x": [1.0, np.nan, 2.0, np.inf] * 25})
    found = report_of(before, now)
    assert found["unit"].new_levels == ("c",) and found["unit"].drifted
    assert found["x"].missing == (0.0, 0.25) and found["x"].psi is not None


@pytest.mark.parametrize(("moved", "verdict"), [(0, "pass"), (2, "warning"), (4, "critical")])
def test_verdict_follows_the_share(moved: int, verdict: str) -> None:
    generator = np.random.default_rng(0)
    before = pd.DataFrame(generator.normal(size=(2_000, 10)), columns=[f"x{i}" for i in range(10)])
    now = pd.DataFrame(generator.normal(size=(2_000, 10)), columns=before.columns)
    now.iloc[:, :moved] += 2
    first = profile(before)
    report = compare(first, profile(now, like=first), Thresholds())
    assert report.verdict == verdict and len(report.drifted()) == moved
    assert verdict in report._repr_html_()


def test_any_two_tables_are_compared(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(200.0), "unit": ["a", "b"] * 100})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "b.parquet")
    assert compare_tables(tmp_path / "a.csv", tmp_path / "b.parquet").verdict == "pass"
    pd.DataFrame({"other": [1, 2]}).to_csv(tmp_path / "c.csv", index=False)
    with pytest.raises(InputError, match="share no column"):
        compare_tables(tmp_path / "a.csv", tmp_path / "c.csv")
    with pytest.raises(InputError, match="no such file"):
        compare_tables(tmp_path / "a.csv", tmp_path / "nothing.csv")
