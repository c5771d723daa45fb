"""Accuracy without labels: against second implementations, and against the labels of a portfolio that has moved."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, precision_score, recall_score

from brookside_mlops.bundle import Bundle, BundleInfo
from brookside_mlops.estimated_accuracy import HeldOut, confidence_bins, estimated, held_out, measured
from brookside_mlops.portfolio import portfolio
from brookside_mlops.prediction_drift import answer_columns, answers_of
from brookside_mlops.reference import read_reference
from brookside_mlops.runs import Run

BINARY = BundleInfo(
    usecase="viability",
    task="classification",
    columns=(),
    classes=("no", "yes"),
    positive="yes",
    sha256="0" * 64,
)
NUMBER = BundleInfo(usecase="cost", task="regression", columns=(), sha256="0" * 64)


def said(chances: np.ndarray) -> pd.DataFrame:
    """Return the answers of a classifier that gives `yes` these probabilities."""
    rows = [{"class": "yes" if one > 0.5 else "no", "probability": max(one, 1 - one)} for one in chances]
    return answer_columns(BINARY, rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 2_000))
def test_bins_are_those_of_scikit_learn_and_lose_no_row(seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    sure = generator.uniform(0.5, 1, rows)
    right = generator.random(rows) < sure
    found = confidence_bins(sure, right)
    assert sum(one.rows for one in found) == rows and sum(one.right for one in found) == right.sum()
    if rows >= 300:
        shares, said = calibration_curve(right, sure, n_bins=10, strategy="quantile")
        assert [one.right / one.rows for one in found] == pytest.approx(shares.tolist(), abs=0.04)
        assert [one.said for one in found] == pytest.approx(said.tolist(), abs=0.01)


def test_measured_metrics_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    chances = generator.random(400)
    actual = pd.Series(np.where(generator.random(400) < chances, "yes", "no"))
    found = measured(BINARY, said(chances), actual)
    guess = said(chances)["class"].astype(str)
    assert found["accuracy"].value == pytest.approx(accuracy_score(actual, guess))
    for name, peer in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name].value == pytest.approx(peer(actual, guess, pos_label="yes"))
    half = actual.where(np.arange(400) < 200, None)
    assert measured(BINARY, said(chances), half)["accuracy"].value == pytest.approx(
        accuracy_score(actual[:200], guess[:200])
    )


def test_interval_holds_the_real_accuracy_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(120):
        generator = np.random.default_rng(seed)
        chances = generator.beta(2, 2, 1_000)
        true = np.where(generator.random(1_000) < chances, "yes", "no")
        first = said(chances[:600])
        right, sure = first["class"].to_numpy() == true[:600], first["probability"].to_numpy()
        bins = []
        for name in BINARY.classes:
            chosen = (first["class"] == name).to_numpy()
            bins += confidence_bins(sure[chosen], right[chosen], name)
        known = HeldOut(rows=600, metrics={}, calibration=tuple(bins))
        guess = estimated(BINARY, said(chances[600:]), known)["accuracy"]
        real = float((said(chances[600:])["class"].to_numpy() == true[600:]).mean())
        inside += guess.low <= real <= guess.high
    assert 0.90 <= inside / 120 <= 0.99


def test_estimate_of_the_held_out_rows_is_what_was_measured_on_them() -> None:
    generator = np.random.default_rng(0)
    chances = generator.random(6_000)
    flipped = generator.random(6_000) < 0.05  # a noise that no confidence removes
    true = pd.Series(np.where((generator.random(6_000) < chances) ^ flipped, "yes", "no"))
    known = held_out(BINARY, said(chances), true)
    assert known is not None
    for name, one in estimated(BINARY, said(chances), known).items():
        assert one.value == pytest.approx(known.metrics[name].value, abs=0.004), name


def test_without_held_out_rows_of_a_class_its_confidence_is_all_there_is() -> None:
    chances = np.random.default_rng(0).random(20_000)
    found = estimated(BINARY, said(chances), HeldOut(rows=0, metrics={}))
    assert found["accuracy"].value == pytest.approx(np.maximum(chances, 1 - chances).mean(), abs=0.02)
    assert found["accuracy"].high - found["accuracy"].low > 0.3, "two rows' worth of evidence are not much"


def test_probabilities_that_were_too_sure_on_held_out_rows_are_believed_less() -> None:
    generator = np.random.default_rng(0)
    proud = generator.uniform(0.8, 0.99, 3_000)
    true = np.where(generator.random(3_000) < proud - 0.2, "yes", "no")
    known = held_out(BINARY, said(proud), pd.Series(true))
    found = estimated(BINARY, said(proud[:1_000]), known)["accuracy"]
    assert found.value == pytest.approx((true == "yes").mean(), abs=0.02) and found.high < proud.mean()


def test_harder_rows_lower_the_estimate_as_far_as_they_are_harder() -> None:
    generator = np.random.default_rng(0)
    chances = generator.beta(0.5, 0.5, 4_000)
    true = np.where(generator.random(4_000) < chances, "yes", "no")
    known = held_out(BINARY, said(chances), pd.Series(true))
    hard = generator.uniform(0.3, 0.7, 3_000)
    found = estimated(BINARY, said(hard), known)["accuracy"]
    assert found.low <= np.maximum(hard, 1 - hard).mean() <= found.high
    assert known is not None and found.high < known.metrics["accuracy"].low


def test_expected_errors_of_a_regression_are_those_of_its_tenths() -> None:
    generator = np.random.default_rng(0)
    predicted = generator.uniform(1, 10, 4_000)
    actual = predicted + generator.normal(size=4_000) * predicted / 5  # the larger, the less sure
    answers = answer_columns(NUMBER, predicted.tolist())
    known = held_out(NUMBER, answers, pd.Series(actual))
    same = estimated(NUMBER, answers, known)
    assert same["mae"].value == pytest.approx(mean_absolute_error(actual, predicted))
    large = predicted > 7
    found = estimated(NUMBER, answers[large], known)["mae"]
    assert found.low <= mean_absolute_error(actual[large], predicted[large]) <= found.high
    assert found.value > same["mae"].high and "held-out" in found.note


def test_nothing_is_estimated_where_nothing_is_known() -> None:
    clusters = BundleInfo(usecase="patterns", task="clustering", columns=(), sha256="0" * 64)
    answers = answer_columns(clusters, [{"cluster": 1}])
    assert held_out(clusters, answers, pd.Series(["a"])) is None and estimated(clusters, answers, None) == {}
    assert held_out(BINARY, said(np.array([0.7])), pd.Series([None], dtype=object)) is None
    assert estimated(BINARY, said(np.array([0.7])), None) == {}


def test_estimate_tracks_the_labels_of_the_months_that_moved(trained: Callable[[str], Run]) -> None:
    folder = trained("viability").folder / "bundle"
    bundle, reference = Bundle.open(folder), read_reference(folder)
    assert reference is not None
    for seed in (11, 12, 13):
        frame = portfolio(8_000, seed=seed)
        late = frame[frame["submitted_at"] >= "2025-10-01"]
        answers = answers_of(bundle, late)
        guess, real = estimated(bundle.info, answers, reference.held_out), measured(
            bundle.info, answers, late["viable"]
        )
        for name in ("accuracy", "precision", "recall", "f1"):
            assert guess[name].low - 0.005 <= real[name].value <= guess[name].high + 0.005, (seed, name)
        assert abs(guess["accuracy"].value - real["accuracy"].value) < 0.03
