"""The profile of two batches together is the sum of their profiles, exactly, whatever the columns hold."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops import profiles
from brookside_mlops.errors import InputError
from brookside_mlops.feature_profiles import counts_at, edges_of, feature_profile, merged
from brookside_mlops.moments import deviation, length, mean, moments, scale_of
from brookside_mlops.profiles import Profile, merge, profile, profile_file

FLOATS = st.one_of(
    st.none(),
    st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 5e-324]),
    st.floats(),
    st.floats(-10, 10),
)
COLUMNS = {
    "number": (FLOATS, pa.float64()),
    "small": (st.one_of(st.none(), st.floats(-1, 1, width=32)), pa.float64()),
    "whole": (st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), pa.int64()),
    "constant": (st.just(7.25), pa.float64()),
    "gone": (st.none(), pa.float64()),
    "flag": (st.one_of(st.none(), st.booleans()), pa.bool_()),
    "time": (st.one_of(st.none(), st.integers(-(2**60), 2**60)), pa.timestamp("us")),
    "word": (st.one_of(st.none(), st.text("abé ", max_size=2)), pa.string()),
}


def tables(least: int) -> st.SearchStrategy[pa.Table]:
    """Return tables with a column of each kind."""

    def columns(rows: int) -> st.SearchStrategy[pa.Table]:
        lists = {
            name: st.lists(values, min_size=rows, max_size=rows).map(lambda found, to=to: pa.array(found, to))
            for name, (values, to) in COLUMNS.items()
        }
        return st.fixed_dictionaries(lists).map(
            lambda found: pa.table({name: found[name] for name in COLUMNS})
        )

    return st.integers(least, 12).flatmap(columns)


@settings(max_examples=60, deadline=None)
@given(tables(1), tables(0), tables(0))
def test_profile_of_batches_together_is_the_sum_of_their_profiles(
    reference: pa.Table, one: pa.Table, other: pa.Table
) -> None:
    like = profile(reference)
    together = profile(pa.concat_tables([one, other]), like=like)
    parts = profile(one, like=like), profile(other, like=like)
    assert merge(*parts) == together
    assert merge(*reversed(parts)) == together
    assert profile(reference, like=like) == like, "a reference counted on its own edges is itself"
    assert Profile.model_validate_json(together.model_dump_json()) == together


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30), st.integers(0, 30)
)
def test_moments_do_not_depend_on_how_rows_are_split(values: list[float], at: int) -> None:
    edges = np.unique(values[: at + 1])
    parts = [np.sort(np.array(part)) for part in (values[:at], values[at:])]
    assert moments(parts[0], edges) + moments(parts[1], edges) == moments(np.sort(values), edges)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6).filter(lambda value: not 0 < abs(value) < 1e-200), min_size=2, max_size=50)
)
def test_mean_and_deviation_are_those_of_numpy_within_half_a_step(values: list[float]) -> None:
    ordered = np.sort(values)
    scale = scale_of(ordered[0], ordered[-1])
    found = moments(ordered, edges_of(ordered))
    step = length(1, scale)
    half = (ordered[-1] - ordered[0]) / 2 or abs(ordered[0]) or 1.0
    assert step <= 2**-19 * half, "half a step is at most a millionth of half the range"
    assert mean(found, len(values), scale) == pytest.approx(np.mean(values), rel=1e-12, abs=step / 2)
    assert deviation(found, len(values), scale) == pytest.approx(
        np.std(values), rel=1e-12, abs=step / 2 + 1e-9
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-5, 5) | st.integers(-3, 3), max_size=60),
    st.lists(st.integers(-3, 3) | st.floats(-5, 5), min_size=1),
)
def test_counts_are_those_of_a_look_at_each_value(values: list[float], edges: list[float]) -> None:
    at, ordered = np.unique(np.array(edges, dtype=float)), np.sort(np.array(values, dtype=float))
    bounds = [-math.inf, *at, math.inf]
    expected = []
    for low, high in itertools.pairwise(bounds):
        expected.append(sum(low < value < high for value in values))
        expected.append(sum(value == high for value in values))
    assert counts_at(ordered, at).tolist() == expected[:-1]


def test_many_levels_stay_many_however_rows_are_split() -> None:
    words = pa.array([f"word {place}" for place in range(10_002)])
    like = feature_profile(pa.array(["word 1"]))
    whole = feature_profile(words, like)
    parts = [feature_profile(words.slice(start, 2_000), like) for start in range(0, 10_002, 2_000)]
    assert whole.many and not parts[0].many and merged("word", parts) == whole
    assert merged("word", parts[::-1]) == whole


def test_profiles_of_other_edges_or_columns_do_not_add_up() -> None:
    one, other = (profile(pd.DataFrame({"x": [low, 1.0, 2.0]})) for low in (0.0, 0.5))
    with pytest.raises(InputError, match="Make both like one reference"):
        merge(one, other)
    with pytest.raises(InputError, match="only one of them has 'y'"):
        merge(one, profile(pd.DataFrame({"x": [1.0], "y": [2.0]}), like=one))


@pytest.mark.parametrize("group", [1_000, 7_777, 100_000])
def test_row_groups_and_encodings_do_not_change_a_profile(
    group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    rows = 20_000
    table = pa.table(
        {
            "a.b": generator.normal(size=rows),
            "a": pa.array(generator.normal(size=rows), mask=generator.random(rows) < 0.1),
            "small": pa.array(generator.integers(0, 9, rows).astype(np.int8)),
            "half": generator.normal(size=rows).astype(np.float32),
            "infinite": np.where(generator.random(rows) < 0.1, -np.inf, generator.normal(size=rows)),
            "word": pa.array(generator.choice(list("abcd"), rows)).dictionary_encode(),
            "long": pa.array(generator.choice(list("abcd"), rows), pa.large_string()),
            "day": pa.array(generator.integers(0, 9_999, rows).astype(np.int32), pa.date32()),
            "zoned": pa.array(generator.integers(0, 10**9, rows), pa.timestamp("s", "Europe/Rome")),
            "nothing": pa.nulls(rows),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=group)
    reference = profile_file(tmp_path / "t.parquet")
    assert reference == profile(table) and list(reference.features) == table.column_names
    monkeypatch.setattr(profiles, "BATCH", 3_000)
    assert profile_file(tmp_path / "t.parquet", like=reference) == reference
    kinds = {name: one.kind for name, one in reference.features.items()}
    assert {kinds[name] for name in ("word", "long")} == {"category"} and kinds["nothing"] == "empty"
    assert (
        kinds["day"] == kinds["zoned"] == "datetime" and reference.features["infinite"].infinite_low > 1_000
    )


def test_a_csv_file_has_the_profile_of_its_rows(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": generator.normal(size=3_000),
            "word": generator.choice(list("abc"), 3_000),
            "flag": [True, False] * 1_500,
        }
    )
    frame.loc[::7, "x"] = np.nan
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert profile_file(tmp_path / "t.csv") == profile(pd.read_csv(tmp_path / "t.csv"))


@settings(max_examples=5, deadline=None)
@given(st.sampled_from(["normal", "lognormal", "whole", "zeros"]))
def test_no_more_than_a_4096th_of_a_long_reference_lies_between_two_edges(shape: str) -> None:
    generator = np.random.default_rng(1)
    rows = 600_000
    values = {
        "normal": generator.normal(size=rows),
        "lognormal": generator.lognormal(sigma=2, size=rows),
        "whole": generator.integers(0, 9_000, rows).astype(float),
        "zeros": np.where(generator.random(rows) < 0.7, 0.0, generator.normal(size=rows)),
    }[shape]
    chunks = [pa.array(part) for part in np.array_split(values, 7)]
    outline = profiles.sampled_edges(chunks, rows)
    found = profiles.thinned(merged("x", (feature_profile(part, outline) for part in chunks)))
    assert found.counts[::2].max() <= rows / 4_096 and found.counts.sum() == rows
    assert len(found.edges) <= 2 * 4_096
