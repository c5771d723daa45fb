"""Drift against second implementations, and against what must not alarm."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from brookside_mlops import profiles
from brookside_mlops.distances import binned, cuts, jensen_shannon, psi
from brookside_mlops.drift import Thresholds, compare, compare_tables
from brookside_mlops.errors import InputError
from brookside_mlops.feature_profiles import counts_at
from brookside_mlops.profiles import profile, profile_file

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
    shown = report._repr_html_()
    assert verdict in shown
    numbers = {one.feature: one.numbers()[-1] for one in report.drifted()}
    assert set(numbers.values()) <= {"< 0.0001"} and ("&lt; 0.0001" in shown) == bool(moved)
    assert not re.search(r"\de-\d", shown)


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


def mixed(rows: int, seed: int) -> pd.DataFrame:
    """Return a table with numbers, a category, identifiers and a time, the same distributions for every seed."""
    generator = np.random.default_rng(seed)
    frame = pd.DataFrame(generator.normal(size=(rows, 8)), columns=[f"x{i}" for i in range(8)])
    frame["unit"] = generator.choice(["a", "b", "c", "d", "e", "f"], rows)
    frame["flag"] = generator.random(rows) < 0.3
    frame["amount"] = np.where(generator.random(rows) < 0.2, np.nan, generator.lognormal(size=rows))
    return frame


@pytest.mark.parametrize("rows", [(40, 40), (100, 100), (1_000, 50), (50, 1_000), (2_000, 10)])
def test_tables_of_one_distribution_do_not_alarm_however_small(rows: tuple[int, int]) -> None:
    alarms = 0
    for seed in range(60):
        before = profile(mixed(rows[0], seed))
        alarms += bool(compare(before, profile(mixed(rows[1], 1_000 + seed), like=before)).drifted())
    assert alarms <= 3


@pytest.mark.parametrize("rows", [(100, 100), (1_000, 50)])
def test_large_shifts_are_found_in_small_tables(rows: tuple[int, int]) -> None:
    found = 0
    for seed in range(20):
        before, now = profile(mixed(rows[0], seed)), mixed(rows[1], 1_000 + seed)
        now["x0"] += 1.5
        now["unit"] = now["unit"].where(now["x1"] < 0.2, "new")
        now["amount"] = now["amount"].where(now["x1"] > 0.2)
        report = compare(before, profile(now, like=before))
        found += {one.feature for one in report.drifted()} == {"x0", "unit", "amount"}
    assert found >= 16


def test_a_psi_that_chance_explains_is_said_to_be_one() -> None:
    before = profile(mixed(40, 0))
    (found,) = [
        one for one in compare(before, profile(mixed(40, 1), like=before)).features if one.feature == "x0"
    ]
    assert found.psi is not None and found.psi > 0.2 and not found.drifted
    assert "which chance explains (p " in found.reason


def test_adjusted_p_agrees_with_benjamini_and_hochberg_by_hand() -> None:
    before, now = mixed(300, 0), mixed(300, 1)
    now["x0"] += 0.4
    first = profile(before)
    report = {one.feature: one for one in compare(first, profile(now, like=first)).features}
    numbers = [f"x{i}" for i in range(8)] + ["amount"]
    raw = {name: report[name].ks_p for name in numbers}
    for name in ("unit", "flag"):
        counts = [side[name].value_counts() for side in (before, now)]
        table = pd.DataFrame(counts).fillna(0)
        raw[name] = (
            chi2_contingency(table, correction=False).pvalue if name == "unit" else fisher_exact(table)[1]
        )
    gaps = [[side["amount"].isna().sum(), side["amount"].notna().sum()] for side in (before, now)]
    raw["gaps"] = fisher_exact(gaps)[1]
    order = sorted(raw, key=raw.__getitem__)
    adjusted, least = {}, 1.0
    for rank in range(len(order), 0, -1):
        least = min(least, raw[order[rank - 1]] * len(order) / rank)
        adjusted[order[rank - 1]] = least
    assert {name: report[name].p for name in (*numbers, "unit", "flag")} == pytest.approx(
        {name: adjusted[name] for name in (*numbers, "unit", "flag")}
    )
    assert report["amount"].missing_p == pytest.approx(adjusted["gaps"])


def test_identifiers_and_times_are_reported_and_not_counted(tmp_path: Path) -> None:
    for name, first, seed in (("a", 0, 0), ("b", 500, 1)):
        frame = mixed(300, seed)
        frame["rownum"] = np.arange(first, first + 300)
        frame["customerId"] = np.random.default_rng(seed).permutation(10_000_000)[:300] + 10_000_000 * seed
        frame["token"] = [f"t{first + row}" for row in range(300)]
        frame["sent"] = pd.date_range("2025-01-01", periods=300) + pd.Timedelta(days=first)
        frame.to_parquet(tmp_path / f"{name}.parquet")
    report = compare_tables(tmp_path / "a.parquet", tmp_path / "b.parquet")
    aside = {one.feature: one.reason for one in report.features if not one.counted}
    assert set(aside) == {"rownum", "customerId", "token", "sent"} and all(aside.values())
    assert report.verdict == "pass" and report.share == 0 and len(report.features) == 15
    assert "Not counted: " in report.sentence()
    named = compare_tables(tmp_path / "a.parquet", tmp_path / "b.parquet", columns=["rownum", "x0"])
    assert named.share == 0.5, "a column that is named is a feature"
    with pytest.raises(InputError, match="none: sent: a time"):
        compare_tables(*(write_only(tmp_path / f"{name}.parquet", ["sent"]) for name in ("a", "b")))


def write_only(path: Path, columns: list[str]) -> Path:
    """Write some columns of a table beside it, and return the path."""
    other = path.with_name(f"only_{path.name}")
    pd.read_parquet(path, columns=columns).to_parquet(other)
    return other


def test_profile_of_a_file_is_that_of_its_rows_in_memory(tmp_path: Path) -> None:
    frame = mixed(100_000, 0)
    frame["late"] = np.where(np.arange(100_000) < 70_000, np.nan, frame["x0"])
    frame["none"] = np.full(100_000, np.nan)
    frame["sent"] = pd.date_range("2025-01-01", periods=100_000, freq="min")
    frame.to_parquet(tmp_path / "t.parquet")
    assert profile_file(tmp_path / "t.parquet") == profile(frame)


def test_longer_tables_have_edges_of_a_sample_and_exact_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "WHOLE", 100_000)
    monkeypatch.setattr(profiles, "KEPT", 80_000)
    frame = mixed(200_000, 0)
    frame["age"] = np.random.default_rng(1).integers(18, 4_000, 200_000)
    frame.to_parquet(tmp_path / "t.parquet")
    found = profile_file(tmp_path / "t.parquet")
    assert found.features["age"] == profile(frame[["age"]]).features["age"], "few different values stay exact"
    x0 = found.features["x0"]
    values = np.sort(frame["x0"].to_numpy())
    assert np.array_equal(x0.counts, counts_at(values, x0.edges)) and x0.rows == 200_000
    assert x0.counts[2:-1:2].max() <= 200_000 / 4_096, "no more than that lies between two edges"
    tenths = binned(x0, cuts(x0)) / 200_000
    assert tenths == pytest.approx(np.full(10, 0.1), abs=0.003)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.5, 0.5))
def test_true_ks_lies_within_the_stated_error(seed: int, shift: float) -> None:
    generator = np.random.default_rng(seed)
    one, other = generator.normal(size=9_000), generator.normal(shift, 1.2, size=5_000)
    before = profile(pd.DataFrame({"x": one}))
    (found,) = compare(before, profile(pd.DataFrame({"x": other}), like=before)).features
    exact = ks_2samp(one, other, method="asymp").statistic
    assert found.ks is not None and found.ks_error is not None
    assert found.ks - 1e-12 <= exact <= found.ks + found.ks_error + 1e-12
    few = profile(pd.DataFrame({"x": one[:500]}))
    (exact_one,) = compare(few, profile(pd.DataFrame({"x": other}), like=few)).features
    assert exact_one.ks_error == 0
    assert exact_one.ks == pytest.approx(ks_2samp(one[:500], other, method="asymp").statistic)


def test_infinities_are_read_from_csv_as_from_parquet(tmp_path: Path) -> None:
    frame = mixed(400, 3)
    frame["x"] = np.random.default_rng(3).normal(size=400)
    frame.loc[:9, "x"], frame.loc[10:12, "x"] = np.inf, -np.inf
    frame = frame[["x"]]
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    of_csv, of_parquet = profile_file(tmp_path / "a.csv"), profile_file(tmp_path / "a.parquet")
    assert of_csv.features["x"].infinite == of_parquet.features["x"].infinite == 13
    report = compare_tables(tmp_path / "a.csv", tmp_path / "a.parquet")
    assert report.verdict == "pass" and not report.drifted()


def test_under_so_few_rows_there_is_no_verdict() -> None:
    before = pd.DataFrame({"x": np.random.default_rng(0).normal(size=1_000)})
    now = profile(before.iloc[:99] + 9, like=profile(before))
    few, enough = (compare(profile(before), now, Thresholds(min_rows=rows)) for rows in (100, 99))
    assert few.verdict == "none" and few.share == enough.share == 1 and enough.verdict == "critical"
    assert few.sentence() == "No verdict: 99 rows are fewer than min_rows, 100"


@pytest.mark.parametrize("broken", ["emptied", "text", "number"])
def test_time_that_breaks_is_drift_and_one_that_moves_is_not(broken: str) -> None:
    times = pd.date_range("2026-01-01", periods=2_000, freq="h")
    before = profile(pd.DataFrame({"at": times, "x": np.arange(2_000.0)}))
    later = times + pd.Timedelta(days=90)
    moved = compare(
        before,
        profile(pd.DataFrame({"at": later, "x": np.arange(2_000.0)}), like=before),
        aside={"at": "a time"},
    )
    assert moved.verdict == "pass"
    columns = {
        "emptied": pd.Series([pd.NaT] * 2_000),
        "text": [f"day {one % 7}" for one in range(2_000)],
        "number": np.arange(2_000),
    }
    now = pd.DataFrame({"at": columns[broken], "x": np.arange(2_000.0)})
    found = compare(before, profile(now, like=before), aside={"at": "a time"})
    assert [one.feature for one in found.drifted()] == ["at"] and found.verdict == "critical"
