"""Features put back to where they were, and what that does to answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops.attribution import attribute, put_back
from brookside_mlops.bundle import Bundle
from brookside_mlops.drift import compare
from brookside_mlops.explain import contributions
from brookside_mlops.modelling import load_model
from brookside_mlops.portfolio import MOVED, portfolio
from brookside_mlops.profiles import profile
from brookside_mlops.reference import read_reference
from brookside_mlops.runs import Run


def column_of(kind: str, rows: int, seed: int, shift: float) -> pd.Series:
    """Return a column of a kind whose distribution depends on `shift`, with gaps."""
    generator = np.random.default_rng(seed)
    gaps = generator.random(rows) < 0.05 + abs(shift) / 5
    if kind == "number":
        values = pd.Series(generator.normal(shift, 1, rows), name="x", dtype=object)
    elif kind == "count":
        values = pd.Series(generator.poisson(3 + abs(shift), rows).astype(float), name="x", dtype=object)
    elif kind == "flag":
        values = pd.Series(generator.random(rows) < 0.3 + abs(shift) / 5, name="x", dtype=object)
    else:
        chances = np.array([4.0, 2, 1, abs(shift)])
        values = pd.Series(
            generator.choice(list("abcd"), rows, p=chances / chances.sum()), name="x", dtype=object
        )
    return values.mask(gaps, None)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["number", "count", "flag", "category"]),
    st.integers(0, 10_000),
    st.floats(-1.5, 1.5),
)
def test_a_column_put_back_is_distributed_as_before(kind: str, seed: int, shift: float) -> None:
    old, new = column_of(kind, 2_000, seed, 0.0), column_of(kind, 1_500, seed + 1, shift)
    before = profile(pd.DataFrame({"x": old}))
    back = put_back(new, before.features["x"], np.random.default_rng(seed))
    report = compare(before, profile(pd.DataFrame({"x": back}), like=before))
    assert not report.drifted() and (report.features[0].psi or 0) < 0.05
    assert report.features[0].missing[1] == pytest.approx(report.features[0].missing[0], abs=0.001)


@pytest.mark.parametrize("kind", ["number", "count", "flag", "category"])
def test_a_column_that_has_not_moved_stays_as_it_is(kind: str) -> None:
    old = column_of(kind, 2_000, 3, 0.0)
    back = put_back(old, profile(pd.DataFrame({"x": old})).features["x"], np.random.default_rng(0))
    assert back.isna().equals(old.isna())
    assert (back.dropna().astype(str) == old.dropna().astype(str)).all() or np.allclose(
        back.dropna().astype(float), old.dropna().astype(float)
    )


def test_order_is_kept_and_what_never_was_is_replaced() -> None:
    before = profile(pd.DataFrame({"x": np.arange(100.0), "unit": ["a", "b"] * 50}))
    generator = np.random.default_rng(0)
    back = put_back(pd.Series([900.0, 500.0, 700.0]), before.features["x"], generator).astype(float)
    assert back.rank().tolist() == [3, 1, 2] and back.max() <= 99
    units = put_back(pd.Series(["z"] * 40), before.features["unit"], generator)
    assert set(units) == {"a", "b"}
    empty = put_back(pd.Series([None] * 5, dtype=object), before.features["x"], generator)
    assert empty.notna().all() and empty.astype(float).between(0, 99).all()


def test_effects_agree_with_shap_on_the_portfolio(trained: Callable[[str], Run]) -> None:
    run = trained("cost")
    folder = run.folder / "bundle"
    bundle, reference, model = (
        Bundle.open(folder),
        read_reference(folder),
        load_model(run.path("model.skops")),
    )
    assert reference is not None
    frame = portfolio(8_000, seed=21)
    late = frame["submitted_at"] >= "2025-10-01"
    names = bundle.session_inputs()
    now = frame[late].reset_index(drop=True)
    report = compare(reference.features, profile(now, like=reference.features, columns=names))
    found = attribute(bundle, reference, now, report)
    assert {one.feature for one in found.features if one.drifted} == set(MOVED) & set(names)
    shap = contributions(model, now).mean(axis=0) - contributions(model, frame[~late]).mean(axis=0)
    strongest = names[int(np.abs(shap).argmax())]
    effects = {one.feature: one.effect or 0.0 for one in found.features}
    assert found.features[0].feature == strongest
    assert np.sign(effects[strongest]) == np.sign(shap[names.index(strongest)])
    still = [abs(effects[name]) for name in names if name not in MOVED]
    assert max(still) < abs(effects[strongest]) / 3
    assert 0 < (found.weighted_share or 0) < 1
