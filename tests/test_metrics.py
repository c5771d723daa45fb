"""Metrics and intervals, against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from sklearn import metrics as peer
from sklearn.cluster import KMeans

from brookside_mlops.bootstrap import Resampling, estimate, ratio
from brookside_mlops.errors import InputError
from brookside_mlops.metrics import (
    Classified,
    classification_metrics,
    clustering_metrics,
    regression_metrics,
    stability,
)

QUICK = Resampling(resamples=200)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_binary_metrics_agree_with_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    score = generator.random(200).round(2)
    actual = np.where(generator.random(200) < score, "yes", "no").astype(object)
    said = np.where(score > 0.5, "yes", "no").astype(object)
    case = Classified(actual, said, np.column_stack([1 - score, score]), ("no", "yes"), "yes")
    found = {name: one.value for name, one in classification_metrics(case, QUICK).items()}
    true = actual == "yes"
    assert found["accuracy"] == pytest.approx(peer.accuracy_score(actual, said))
    assert found["precision"] == pytest.approx(peer.precision_score(actual, said, pos_label="yes"))
    assert found["recall"] == pytest.approx(peer.recall_score(actual, said, pos_label="yes"))
    assert found["f1"] == pytest.approx(peer.f1_score(actual, said, pos_label="yes"))
    assert found["roc_auc"] == pytest.approx(peer.roc_auc_score(true, score))
    assert found["average_precision"] == pytest.approx(peer.average_precision_score(true, score))
    assert found["brier"] == pytest.approx(peer.brier_score_loss(true, score))


def test_several_classes_are_averaged() -> None:
    generator = np.random.default_rng(0)
    chances = generator.dirichlet([1, 1, 1], 300)
    actual = np.array(["a", "b", "c"], dtype=object)[generator.integers(0, 3, 300)]
    said = np.array(["a", "b", "c"], dtype=object)[chances.argmax(axis=1)]
    found = classification_metrics(Classified(actual, said, chances, ("a", "b", "c")), QUICK)
    assert found["precision"].value == pytest.approx(peer.precision_score(actual, said, average="macro"))
    assert found["roc_auc"].value == pytest.approx(peer.roc_auc_score(actual, chances, multi_class="ovr"))
    assert found["log_loss"].value == pytest.approx(peer.log_loss(actual, chances))
    assert all(one.low <= one.value <= one.high for name, one in found.items() if name != "ece")


def test_regression_metrics_agree_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    actual = np.exp(generator.normal(10, 1, 300))
    said = actual * np.exp(generator.normal(0, 0.3, 300))
    found = regression_metrics(actual, said, QUICK)
    assert found["r2"].value == pytest.approx(peer.r2_score(actual, said))
    assert found["mape"].value == pytest.approx(peer.mean_absolute_percentage_error(actual, said))
    assert found["rmse"].value == pytest.approx(peer.root_mean_squared_error(actual, said))
    assert found["pred25"].value == np.mean(np.abs(said / actual - 1) <= 0.25)
    assert np.isnan(regression_metrics(np.ones(20), np.ones(20), QUICK)["r2"].value)
    with pytest.raises(InputError, match="2 predictions for 3 rows"):
        regression_metrics([1, 2, 3], [1, 2])


def test_clusters_are_measured_as_scikit_learn_does() -> None:
    generator = np.random.default_rng(0)
    points = np.concatenate([generator.normal(place, 0.5, size=(100, 2)) for place in (0, 4, 8)])
    truth = np.repeat(["a", "b", "c"], 100)
    model = KMeans(3, n_init=3, random_state=0).fit(points)
    found = clustering_metrics(points, model.labels_, truth, QUICK)
    assert found["silhouette"].value == pytest.approx(peer.silhouette_score(points, model.labels_))
    assert found["adjusted_rand"].value == pytest.approx(peer.adjusted_rand_score(truth, model.labels_))
    assert stability(model, points, points, refits=5, how=QUICK).value > 0.95
    assert np.isnan(clustering_metrics(points, np.zeros(300, dtype=int), None, QUICK)["silhouette"].value)


def test_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).exponential(size=150)
    found = estimate({"mean": ratio(values)}, 150, Resampling(resamples=4000))["mean"]
    other = bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    assert found.low == pytest.approx(other.low, abs=0.02) and found.high == pytest.approx(
        other.high, abs=0.02
    )


def test_shares_of_none_and_all_have_an_interval() -> None:
    found = estimate(
        {"all": ratio(np.ones(50, bool), share=True), "none": ratio(np.zeros(50, bool), share=True)},
        50,
        QUICK,
    )
    assert found["all"].high == 1 and 0.9 < found["all"].low < 1
    assert found["none"].low == 0 and 0 < found["none"].high < 0.1


def test_shapes_and_classes_that_do_not_fit_are_refused() -> None:
    words = np.array(["a", "b"], dtype=object)
    with pytest.raises(InputError, match="would be right"):
        Classified(words, words, np.ones((2, 3)), ("a", "b"))
    with pytest.raises(InputError, match="positive class 'z'"):
        Classified(words, words, np.ones((2, 2)), ("a", "b"), "z")


def test_mape_leaves_targets_of_zero_out_and_says_how_many() -> None:
    generator = np.random.default_rng(0)
    actual = np.where(np.arange(300) % 10 == 0, 0.0, np.exp(generator.normal(2, 1, 300)))
    said = actual + generator.normal(size=300)
    found = regression_metrics(actual, said, QUICK)["mape"]
    there = actual != 0
    assert found.value == pytest.approx(peer.mean_absolute_percentage_error(actual[there], said[there]))
    assert found.low < found.value < found.high
    assert found.note == "without 30 rows whose target is 0" and found.note in str(found)
    assert regression_metrics(actual[there], said[there], QUICK)["mape"].note == ""


def test_mape_of_zeros_alone_is_undefined() -> None:
    found = regression_metrics(np.zeros(50), np.ones(50), QUICK)["mape"]
    assert np.isnan(found.value) and found.note == "every target is 0"
