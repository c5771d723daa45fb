"""Splits: every row once, no future in the past, no group torn apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.errors import InputError
from brookside_mlops.splits import Shares, SplitInputs, split_at_random, split_by_time, split_rows


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
