"""Splits: every row once, no future in the past, no group torn apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.contracts import Column, Contract
from brookside_mlops.errors import InputError
from brookside_mlops.splits import Shares, SplitInputs, split_at_random, split_by_time, split_rows
from brookside_mlops.stages.engineer import split_checks, split_table
from brookside_mlops.usecases import UseCase


@given(st.lists(st.integers(0, 40), min_size=60, max_size=200))
def test_time_is_never_torn(times: list[int]) -> None:
    moments = np.array(times)
    split = split_by_time(moments, Shares())
    assert sorted([*split.train, *split.valid, *split.test]) == list(range(len(times)))
    for early, late in ((split.train, split.valid), (split.valid, split.test), (split.train, split.test)):
        if len(early) and len(late):
            assert moments[early].max() < moments[late].min()


@given(st.integers(0, 1000), st.booleans(), st.booleans())
def test_groups_stay_together(seed: int, timed: bool, labelled: bool) -> None:
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 40, size=400)
    labels = generator.choice(["a", "b"], size=400) if labelled else None
    if timed:
        split = split_by_time(generator.integers(0, 300, size=400), Shares(), groups)
    else:
        split = split_at_random(400, Shares(), seed, labels, groups)
    parts = [set(groups[part]) for part in (split.train, split.valid, split.test)]
    assert not (parts[0] & parts[1] or parts[1] & parts[2] or parts[0] & parts[2])
    assert "groups kept together" in split.how


def test_classes_keep_their_shares() -> None:
    labels = np.repeat(["a", "b", "c"], [100, 300, 600])
    split = split_at_random(1000, Shares(0.2, 0.2), 1, labels)
    for part in (split.train, split.valid, split.test):
        assert (labels[part] == "a").mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (SplitInputs(rows=10), "60 is the least"),
        (SplitInputs(rows=100, labels=["a"] * 98 + ["b"] * 2), "class 'b' has 2 rows"),
        (SplitInputs(rows=100, times=np.zeros(100)), "too few different times"),
    ],
)
def test_what_cannot_be_split_is_said(inputs: SplitInputs, said: str) -> None:
    with pytest.raises(InputError, match=said):
        split_rows(inputs, Shares(), 0)


@given(st.integers(0, 10_000), st.floats(0.01, 0.6), st.booleans())
def test_rows_without_a_time_teach_and_the_newest_still_judge(seed: int, share: float, grouped: bool) -> None:
    generator = np.random.default_rng(seed)
    times = np.datetime64("2025-01-01", "us") + generator.permutation(400).astype("timedelta64[D]")
    undated = generator.random(400) < share
    times[undated] = np.datetime64("NaT")
    groups = np.arange(400) // 2 if grouped else None
    split = split_rows(SplitInputs(rows=400, times=times, groups=groups), Shares(), seed=0)
    later = np.concatenate([split.valid, split.test])
    alone = undated if groups is None else undated.reshape(-1, 2).all(axis=1).repeat(2)
    assert not alone[later].any() and sorted([*split.train, *later]) == list(range(400))
    if not grouped:
        dated = split.train[~undated[split.train]]
        assert times[dated].max() < times[split.valid].min() < times[split.test].min()


def test_a_time_column_without_any_time_is_refused() -> None:
    times = np.full(100, np.datetime64("NaT"))
    with pytest.raises(InputError, match="no row has a time"):
        split_rows(SplitInputs(rows=100, times=times), Shares(), seed=0)


def test_a_target_of_many_values_is_said_to_be_that() -> None:
    labels = [f"t{row}" for row in range(600)]
    with pytest.raises(InputError, match="600 different values: a target of a classification has few"):
        split_rows(SplitInputs(rows=600, labels=labels), Shares(), seed=0)


def test_engineering_warns_of_classes_and_times_that_the_split_leaves_alone() -> None:
    rows = 200
    frame = pd.DataFrame({"when": pd.date_range("2025-01-01", periods=rows), "y": ["a", "b"] * (rows // 2)})
    frame.loc[190:, "y"] = "new"
    frame.loc[[3, 5], "when"] = pd.NaT
    contract = Contract(
        columns={
            "when": Column(kind="datetime", role="time", nullable=True),
            "y": Column(kind="category", role="target"),
        }
    )
    usecase = UseCase(name="late", task="classification", target="y")
    split = split_table(frame, contract, usecase, Shares(), seed=0)
    warnings = {
        one.name: one for one in split_checks(frame, split, contract, usecase) if one.verdict == "warning"
    }
    assert set(warnings) == {"rows without a time", "classes of test that train has not"}
    assert warnings["rows without a time"].measured == "2"
    assert warnings["classes of test that train has not"].measured == "'new' in 10 rows"
    assert "never answers" in warnings["classes of test that train has not"].next_step
