"""The portfolio is what its table of columns and its truth say."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.metrics import accuracy_score, adjusted_rand_score, r2_score, roc_auc_score
from sklearn.preprocessing import StandardScaler
from xgboost import XGBClassifier

from brookside_mlops.errors import InputError
from brookside_mlops.portfolio import (
    ARCHITECTURE,
    COLUMNS,
    FEATURES,
    MOVED,
    PATTERNS,
    best_possible,
    portfolio,
    truth,
)

SEEDS = (20260101, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def ideas() -> pd.DataFrame:
    return portfolio()


def digest(frame: pd.DataFrame) -> str:
    return hashlib.sha256(frame.to_csv(index=False).encode()).hexdigest()


def test_same_seed_gives_the_same_bytes_in_another_process(ideas):
    code = (
        "import hashlib; from brookside_mlops.portfolio import portfolio;"
        "print(hashlib.sha256(portfolio().to_csv(index=False).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert digest(ideas) == digest(portfolio()) == other.stdout.strip()
    assert digest(ideas) != digest(portfolio(seed=1))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 400),
    seed=st.integers(0, 2**63),
    end=st.dates(date(2000, 1, 1), date(2100, 1, 1)),
)
def test_every_row_keeps_to_the_table_of_columns(rows: int, seed: int, end: date):
    frame = portfolio(rows, seed, end)
    assert list(frame) == [column.name for column in COLUMNS] and len(frame) == rows
    assert frame["idea_id"].is_unique
    assert frame["submitted_at"].is_monotonic_increasing
    oldest = pd.Timestamp(end) + pd.Timedelta(days=1) - pd.DateOffset(months=24)
    assert (
        frame["submitted_at"]
        .between(oldest, pd.Timestamp(end) + pd.Timedelta(days=1), inclusive="left")
        .all()
    )
    for column in COLUMNS:
        values = frame[column.name].dropna()
        assert column.missing or len(values) == rows, column.name
        if column.kind == "number":
            assert values.between(column.low, column.high).all(), column.name
        if column.kind == "category":
            assert set(values) <= set(column.allowed), column.name
        if column.kind == "boolean":
            assert values.dtype == bool


@pytest.mark.parametrize(
    ("rows", "seed", "named"), [(0, 1, "rows: 0"), (-5, 1, "rows: -5"), (10, -1, "seed: -1")]
)
def test_impossible_arguments_are_refused_by_name(rows: int, seed: int, named: str):
    with pytest.raises(InputError, match=named):
        portfolio(rows, seed)


def test_no_use_case_sees_a_target_key_or_time():
    features = {column.name for column in COLUMNS if column.role == "feature"}
    assert set(FEATURES) == {"viability", "cost", "patterns"}
    assert all(set(names) <= features for names in FEATURES.values())


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_truth_can_be_worked_out_from_a_file(ideas, suffix: str, tmp_path):
    path = tmp_path / f"ideas.{suffix}"
    if suffix == "csv":
        ideas.to_csv(path, index=False)
        back = pd.read_csv(path)
    else:
        ideas.to_parquet(path)
        back = pd.read_parquet(path)
    pd.testing.assert_frame_equal(truth(back), truth(ideas))


def test_decisions_come_as_often_as_their_chance_says(ideas):
    chance = truth(ideas)["viable_chance"]
    yes = ideas["viable"] == "yes"
    for _, rows in ideas.groupby(pd.cut(chance, [0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1])):
        expected = chance[rows.index]
        spread = np.sqrt((expected * (1 - expected)).sum())
        assert abs(yes[rows.index].sum() - expected.sum()) < 4 * spread


def test_logarithm_of_cost_is_normal_around_its_median(ideas):
    known = truth(ideas)
    error = np.log(ideas["cost"] / known["cost_median"]) / known["cost_spread"]
    assert stats.kstest(error, "norm").pvalue > 0.01


def test_missing_values_follow_their_stated_mechanisms(ideas):
    missing = ideas.isna()
    assert abs(missing["business_unit"].mean() - 0.02) < 0.005
    assert abs(missing["expected_benefit"].mean() - 0.05) < 0.007
    hackathon = ideas["channel"] == "hackathon"
    assert abs(missing.loc[hackathon, "strategic_fit"].mean() - 0.5) < 0.03
    assert not missing.loc[~hackathon, "strategic_fit"].any()
    poor = stats.norm.cdf(44.5, 58, 19)
    assert abs(missing["data_readiness"].mean() - (0.38 * poor + 0.03 * (1 - poor))) < 0.01


def test_best_possible_is_what_the_best_rules_score_on_redrawn_answers(ideas):
    generator = np.random.default_rng(0)
    chance, median, spread = truth(ideas).to_numpy().T
    best = best_possible(ideas)
    scores = []
    for _ in range(40):
        yes = generator.random(len(ideas)) < chance
        cost = median * np.exp(spread * generator.normal(size=len(ideas)))
        said = chance >= 0.5
        scores.append(
            [
                (said == yes).mean(),
                yes[said].mean(),
                said[yes].mean(),
                r2_score(cost, median * np.exp(spread**2 / 2)),
                np.abs(median * np.exp(-(spread**2)) / cost - 1).mean(),
                (np.abs(median * np.sqrt(1.25 * 0.75) / cost - 1) <= 0.25).mean(),
            ]
        )
    assert np.mean(scores, axis=0) == pytest.approx(list(vars(best).values()), abs=0.002)


def test_no_other_scaling_of_the_median_beats_the_best_possible(ideas):
    _, median, spread = truth(ideas).to_numpy().T
    best = best_possible(ideas)
    cost = median * np.exp(spread * np.random.default_rng(1).normal(size=len(ideas)))
    errors = [np.abs(scale * median / cost - 1) for scale in np.linspace(0.85, 1.15, 31)]
    assert min(error.mean() for error in errors) > best.mape - 0.002
    assert max((error <= 0.25).mean() for error in errors) < best.pred25 + 0.004


def test_best_possible_of_a_row_nobody_would_accept_has_no_precision(ideas):
    hopeless = ideas[truth(ideas)["viable_chance"] < 0.1].head(1)
    assert np.isnan(best_possible(hopeless).precision)


def stability(reference: pd.Series, current: pd.Series) -> float:
    """Population stability index from crosstabs of the two samples: a second way to the same number."""
    both = pd.concat([reference, current], keys=["before", "now"]).rename("value").reset_index(level=0)
    values = both["value"]
    if values.dtype.kind in "if":
        values = pd.cut(values, np.unique([-np.inf, *reference.quantile(np.linspace(0.1, 0.9, 9)), np.inf]))
    table = pd.crosstab(values.astype("str").fillna("missing"), both["level_0"], normalize="columns").clip(
        lower=1e-4
    )
    return float(((table["now"] - table["before"]) * np.log(table["now"] / table["before"])).sum())


@pytest.mark.parametrize("seed", SEEDS)
def test_exactly_the_stated_columns_move_in_the_last_three_months(seed: int):
    ideas = portfolio(seed=seed)
    late = ideas["submitted_at"] >= "2025-10-01"
    for name in FEATURES["viability"]:
        index = stability(ideas.loc[~late, name], ideas.loc[late, name])
        assert index > 0.3 if name in MOVED else index < 0.1, name


def test_the_answer_does_not_move_with_the_forms(ideas):
    late = ideas["submitted_at"] >= "2025-10-01"
    best = [best_possible(ideas[late]), best_possible(ideas[~late])]
    assert best[0].accuracy == pytest.approx(best[1].accuracy, abs=0.01)
    assert best[0].pred25 == pytest.approx(best[1].pred25, abs=0.01)


def test_no_column_alone_tells_the_answer(ideas):
    yes = ideas["viable"] == "yes"
    for name in FEATURES["viability"]:
        column = ideas[name]
        ranks = (
            column.rank()
            if column.dtype.kind in "if"
            else yes.groupby(column.astype("str")).transform("mean")
        )
        area = roc_auc_score(yes, ranks.fillna(-1))
        assert max(area, 1 - area) < 0.85, name


@pytest.mark.parametrize(("rows", "least"), [(20_000, 0.91), (6_000, 0.87)])
def test_a_model_comes_near_the_best_possible_and_not_to_it(rows: int, least: float):
    ideas = portfolio(rows)
    learn, stop = int(0.7 * rows), int(0.85 * rows)
    table = pd.get_dummies(ideas[list(FEATURES["viability"])]).astype("float32")
    yes = (ideas["viable"] == "yes").astype(int)
    model = XGBClassifier(
        n_estimators=300, max_depth=5, learning_rate=0.1, early_stopping_rounds=20, n_jobs=2
    )
    model.fit(table[:learn], yes[:learn], eval_set=[(table[learn:stop], yes[learn:stop])], verbose=False)
    reached = accuracy_score(yes[stop:], model.predict(table[stop:]))
    assert least <= reached < best_possible(ideas[stop:]).accuracy


def test_patterns_are_found_without_being_told(ideas):
    scaled = StandardScaler().fit_transform(ideas[list(ARCHITECTURE[:4])])
    points = np.hstack([scaled, pd.get_dummies(ideas["latency_need"]).to_numpy(float)])
    groups = KMeans(len(PATTERNS), n_init=10, random_state=0).fit_predict(points)
    assert 0.9 < adjusted_rand_score(ideas["pattern"], groups) < 1


def test_chances_of_every_pattern_sum_to_one():
    assert sum(pattern.share for pattern in PATTERNS) == pytest.approx(1)
    assert all(sum(pattern.latency) == pytest.approx(1) for pattern in PATTERNS)
