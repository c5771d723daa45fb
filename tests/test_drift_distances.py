"""Distances and intervals against scipy, and against Evidently and NannyML where the bench has made their environments."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, ks_2samp, wasserstein_distance

from brookside_mlops.drift import DriftReport, Thresholds, compare, compare_tables
from brookside_mlops.drift_intervals import chi_square
from brookside_mlops.drift_verdicts import FeatureDrift
from brookside_mlops.errors import InputError
from brookside_mlops.profiles import profile

ROOT = Path(__file__).resolve().parent.parent
PEERS = [name for name in ("evidently", "nannyml") if (ROOT / ".bench" / name / "complete").exists()]


def one(before: Any, now: Any, limits: Thresholds | None = None) -> FeatureDrift:
    """Return the only feature of two columns compared."""
    first = profile(pd.DataFrame({"x": before}))
    (found,) = compare(first, profile(pd.DataFrame({"x": now}), like=first), limits).features
    return found


def drawn(seed: int, shift: float, rows: tuple[int, int], shape: str) -> list[np.ndarray]:
    """Return two samples, the second one moved."""
    generator = np.random.default_rng(seed)
    draw = {
        "normal": lambda rows: generator.normal(size=rows),
        "lognormal": lambda rows: generator.lognormal(size=rows),
        "whole": lambda rows: generator.poisson(4, rows).astype(float),
        "constant": lambda rows: np.full(rows, 2.5),
    }[shape]
    return [draw(rows[0]), draw(rows[1]) + shift]


SHAPES = st.sampled_from(["normal", "lognormal", "whole", "constant"])
SIZES = st.sampled_from([(50, 30), (500, 900), (9_000, 5_000)])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3), SIZES, SHAPES)
def test_wasserstein_agrees_with_scipy_within_the_stated_error(
    seed: int, shift: float, rows: tuple[int, int], shape: str
) -> None:
    before, now = drawn(seed, shift, rows, shape)
    found = one(before, now)
    exact = wasserstein_distance(before, now) / before.std() if before.std() else float(now[0] != before[0])
    assert found.wasserstein is not None and found.wasserstein_error is not None
    assert abs(found.wasserstein - exact) <= found.wasserstein_error + 2e-5 * max(1.0, exact)
    assert rows[0] < 9_000 or shape == "whole" or abs(shift) > 0.5 or found.wasserstein_error < 0.05


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1, 1), SIZES, SHAPES)
def test_ks_agrees_with_scipy_within_a_4096th(
    seed: int, shift: float, rows: tuple[int, int], shape: str
) -> None:
    before, now = drawn(seed, shift, rows, shape)
    found, exact = one(before, now), ks_2samp(before, now, method="asymp").statistic
    assert found.ks is not None and found.ks_error is not None
    assert found.ks - 1e-12 <= exact <= found.ks + found.ks_error + 1e-12
    assert found.ks_error <= 1 / 4_096


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(50, 900), st.integers(50, 900)), min_size=2, max_size=9))
def test_chi_square_of_frequent_levels_agrees_with_scipy(counts: list[tuple[int, int]]) -> None:
    table = np.array(counts, dtype=float).T
    peer = chi2_contingency(table, correction=False)
    statistic, chance = chi_square(*table)
    assert statistic == pytest.approx(peer.statistic, abs=1e-9)
    assert len(counts) == 2 or chance == pytest.approx(peer.pvalue, abs=1e-12)


def test_exact_distances_are_those_of_scipy(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sides = [
        pd.DataFrame(
            {
                "x": generator.normal(shift, 1, 30_000),
                "gaps": np.where(
                    generator.random(30_000) < 0.2, np.nan, generator.lognormal(shift, 1, 30_000)
                ),
                "infinite": np.where(generator.random(30_000) < 0.01, np.inf, generator.normal(size=30_000)),
                "word": generator.choice(list("ab"), 30_000),
            }
        )
        for shift in (0.0, 0.1)
    ]
    for side, name in zip(sides, ("a", "b"), strict=True):
        side.to_parquet(tmp_path / f"{name}.parquet")
    report = compare_tables(tmp_path / "a.parquet", tmp_path / "b.parquet", exact=True)
    close = compare_tables(tmp_path / "a.parquet", tmp_path / "b.parquet")
    by_name = {found.feature: found for found in close.features}
    for found in report.features:
        if found.kind != "number":
            assert found == by_name[found.feature]
            continue
        before, now = (side[found.feature].dropna().to_numpy() for side in sides)
        assert found.ks == pytest.approx(ks_2samp(before, now, method="asymp").statistic, abs=1e-12)
        assert found.ks_error == 0 and found.wasserstein_error == 0
        finite = [side[np.isfinite(side)] for side in (before, now)]
        assert found.wasserstein == pytest.approx(wasserstein_distance(*finite) / finite[0].std(), rel=1e-5)
        assert 0 < by_name[found.feature].ks_error <= 1 / 4_096


@pytest.mark.parametrize("method", ["psi", "ks", "jsd", "wasserstein"])
def test_any_method_decides_alike(method: Any) -> None:
    generator = np.random.default_rng(0)
    before, limits = generator.normal(size=20_000), Thresholds(numbers=method)
    small, large = one(before, before + 0.3, limits), one(before, before + 0.7, limits)
    assert not small.drifted and small.reason == "" and small.p is not None and small.p < 1e-50
    assert large.drifted and large.method == method and large.interval is not None
    assert large.interval[0] <= large.distance <= large.interval[1]


def test_a_method_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="'kl' is not a method; allowed: psi, ks, jsd, wasserstein"):
        Thresholds(numbers="kl")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'ks' is not a method; allowed: psi, jsd"):
        Thresholds(categories="ks")  # type: ignore[arg-type]


@pytest.mark.parametrize("now", [2.0, 4.0])
def test_a_constant_that_changed_has_drifted_and_the_same_one_has_not(now: float) -> None:
    for method in ("psi", "ks", "jsd", "wasserstein"):
        limits = Thresholds(numbers=method)  # type: ignore[arg-type]
        assert one([3.0] * 100, [now] * 100, limits).drifted
        assert not one([3.0] * 100, [3.0] * 100, limits).drifted


def test_columns_that_are_all_infinite_or_all_missing_are_compared() -> None:
    infinite = one([np.inf] * 50, [np.inf] * 50)
    assert infinite.wasserstein is None and infinite.ks == 0 and not infinite.drifted
    assert one([1.0] * 50, [np.inf] * 50).drifted
    assert one([np.nan] * 50, [1.0] * 50).drifted, "the missing values went"
    assert not one([np.nan] * 50, [np.nan] * 50).drifted


def test_times_and_booleans_are_compared() -> None:
    days = pd.date_range("2025-01-01", periods=400)
    assert not one(days, days).drifted
    later = one(days, days + pd.Timedelta(days=200))
    assert later.drifted and later.kind == "datetime" and later.ks == pytest.approx(0.5)
    flags = one([True, False] * 200, [True] * 300 + [False] * 100)
    assert flags.kind == "boolean" and flags.chi2 is not None and flags.drifted


def test_new_categories_come_with_their_share_of_the_rows() -> None:
    found = one(["a", "b"] * 100, ["a", "b", "c", "d"] * 50)
    assert (
        found.new_levels == ("c", "d")
        and found.new_share == 0.5
        and "new: c, d (50% of the rows)" in found.reason
    )


def test_a_report_is_json_and_comes_back_whole() -> None:
    generator = np.random.default_rng(0)
    first = profile(pd.DataFrame({"x": generator.normal(size=200), "c": list("ab") * 100}))
    report = compare(first, first)
    assert DriftReport.model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_interval_holds_the_true_distance(shift: float) -> None:
    generator = np.random.default_rng(int(shift * 10))
    line = np.random.default_rng(1).normal(size=(2, 400_000))
    first = profile(pd.DataFrame({"x": line[0]}))
    truths = compare(first, profile(pd.DataFrame({"x": line[1] + shift}), like=first)).features[0]
    for method in ("psi", "ks", "jsd", "wasserstein"):
        inside = 0
        for _ in range(60):
            found = one(
                generator.normal(size=600),
                generator.normal(shift, 1, size=400),
                Thresholds(numbers=method),  # type: ignore[arg-type]
            )
            assert found.interval is not None
            inside += found.interval[0] - 0.005 <= getattr(truths, method) <= found.interval[1] + 0.005
        assert inside >= 55, f"{method}: {inside} of 60"


@pytest.mark.parametrize("peer", ["scipy", *PEERS])
def test_peers_find_the_same_distances(peer: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    sides = [
        pd.DataFrame({"x": generator.normal(shift, 1, 3_000), "c": generator.choice(list("abc"), 3_000)})
        for shift in (0.0, 0.06)
    ]
    first = profile(sides[0])
    ours = {found.feature: found for found in compare(first, profile(sides[1], like=first)).features}
    for side, name in zip(sides, ("a", "b"), strict=True):
        side.to_parquet(tmp_path / f"{name}.parquet")

    def theirs(method: str) -> dict[str, float]:
        script = [ROOT / ".bench" / peer / "bin" / "python", ROOT / "bench" / "drift_peers.py", peer, method]
        said = subprocess.run(
            [*script, tmp_path / "a.parquet", tmp_path / "b.parquet"],
            capture_output=True,
            text=True,
            check=True,
        )
        found: dict[str, float] = json.loads(said.stdout.splitlines()[-1])["values"]
        return found

    if peer == "evidently":
        assert ours["x"].ks_p == pytest.approx(theirs("ks")["x"], rel=0.05)
        assert ours["x"].wasserstein == pytest.approx(theirs("wasserstein")["x"], rel=0.01)
    elif peer == "nannyml":
        assert ours["x"].ks == pytest.approx(theirs("jensen_shannon+kolmogorov_smirnov")["x"], abs=1 / 1_000)
        assert ours["c"].jsd == pytest.approx(theirs("jensen_shannon")["c"], abs=1e-6)
    else:
        assert ours["x"].ks == pytest.approx(ks_2samp(sides[0]["x"], sides[1]["x"]).statistic, abs=1e-12)
        assert ours["x"].wasserstein == pytest.approx(
            wasserstein_distance(sides[0]["x"], sides[1]["x"]) / sides[0]["x"].std(ddof=0),
            abs=ours["x"].wasserstein_error,
        )
