"""Training, the model file and the graph: repeatable, honest, and equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from brookside_mlops.bundle import Bundle
from brookside_mlops.datasets import read_table
from brookside_mlops.errors import InputError
from brookside_mlops.explain import contributions, importance
from brookside_mlops.features import Features, class_names, model_inputs, read_features
from brookside_mlops.modelling import load_model
from brookside_mlops.onnx_export import Parity, compare_bundle, request_of, to_onnx, write_bundle
from brookside_mlops.payload import parse_payload
from brookside_mlops.runs import Run
from brookside_mlops.smoke import same_answers
from brookside_mlops.stages.register import parity_check
from brookside_mlops.training import (
    Machine,
    Recipe,
    TrainingData,
    class_codes,
    fit,
    regression_target,
    search,
)

USECASES = ["viability", "cost", "patterns"]


def data_of(run: Run) -> TrainingData:
    parts = [read_table(run.path(f"{name}.parquet")) for name in ("train", "valid")]
    return TrainingData(read_features(run.path("features.json")), *parts)


@pytest.mark.parametrize("usecase", USECASES)
def test_graph_answers_as_the_model_on_rows_with_gaps_and_unseen_words(
    trained: Callable[[str], Run], usecase: str, tmp_path: Path
) -> None:
    run = trained(usecase)
    model, test = load_model(run.path("model.skops")), read_table(run.path("test.parquet"))
    for name in model.features.names("category"):
        test.loc[::7, name] = "never seen"
    for name in model.features.names("number"):
        test[name] = test[name].astype(float)
        test.loc[::5, name] = np.nan
    bundle = Bundle.open(run.folder / "bundle")
    assert compare_bundle(model, bundle, test).differing == ()
    through_json = parse_payload(
        __import__("json").dumps(request_of(test, model.features)).encode(), bundle.info.columns
    )
    inputs = model_inputs(test, model.features)
    direct = bundle.predict({name: inputs[name].to_numpy() for name in model.features.names()})
    assert same_answers(bundle.predict(through_json), direct)


@pytest.mark.parametrize("usecase", USECASES)
def test_same_rows_and_seed_give_the_same_bytes(
    trained: Callable[[str], Run], usecase: str, tmp_path: Path
) -> None:
    run = trained(usecase)
    data = data_of(run)
    machine = Machine(run.settings.seed, run.settings.threads)
    model = fit(data, Recipe(clusters=run.usecase.clusters), machine).model
    info = write_bundle(tmp_path, model, run.usecase, data.train.head(3))
    assert info.sha256 == Bundle.open(run.folder / "bundle").info.sha256


def test_operator_sets_of_a_graph_are_in_alphabetical_order(trained: Callable[[str], Run]) -> None:
    """The converter keeps them in a set, whose order is another one in another process: the bytes would be others, too."""
    graph = to_onnx(load_model(trained("viability").path("model.skops")))
    domains = [one.domain for one in graph.opset_import]
    assert len(domains) > 1 and domains == sorted(domains)


def test_calibration_agrees_with_scikit_learn(trained: Callable[[str], Run]) -> None:
    run = trained("viability")
    data, model = data_of(run), load_model(run.path("model.skops"))
    inputs = model_inputs(data.valid, model.features)
    target = class_codes(data.valid, model.features)
    peer = CalibratedClassifierCV(FrozenEstimator(model.pipeline), method="temperature").fit(inputs, target)
    assert model.predict(data.valid).probabilities == pytest.approx(peer.predict_proba(inputs), abs=1e-6)


def test_search_is_seeded_and_never_worse(trained: Callable[[str], Run]) -> None:
    data = data_of(trained("cost"))
    first, losses = search(data, Recipe(trees=60), Machine(1), trials=3)
    assert (first, losses) == search(data, Recipe(trees=60), Machine(1), trials=3)
    assert fit(data, first, Machine(1)).loss == min(losses)


def test_too_few_trees_have_not_converged(trained: Callable[[str], Run]) -> None:
    found = fit(data_of(trained("cost")), Recipe(trees=5), Machine())
    assert not found.converged and "5 trees ran out" in found.reason


def test_contributions_add_up_to_the_answer(trained: Callable[[str], Run]) -> None:
    run = trained("viability")
    model, test = load_model(run.path("model.skops")), read_table(run.path("test.parquet"))
    parts = contributions(model, test)
    margin = model.pipeline["model"].predict(
        model.pipeline["columns"].transform(model_inputs(test, model.features)), output_margin=True
    )
    rest = margin - parts.sum(axis=1)
    assert np.ptp(rest) < 1e-4
    assert list(importance(model, test).values()) == sorted(importance(model, test).values(), reverse=True)


def test_model_file_with_other_types_is_refused(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer

    skops.io.dump({"pipeline": FunctionTransformer(np.linalg.det)}, tmp_path / "model.skops")
    with pytest.raises(InputError, match="not trusted"):
        load_model(tmp_path / "model.skops")


def test_missing_columns_unseen_classes_and_logs_of_nothing_are_named() -> None:
    features = Features.model_validate(
        {
            "task": "classification",
            "columns": [{"name": "a", "kind": "number"}],
            "target": "t",
            "classes": ["no", "yes"],
        }
    )
    with pytest.raises(InputError, match="columns missing: a"):
        model_inputs(pd.DataFrame({"b": [1]}), features)
    with pytest.raises(InputError, match="column 'a' is a number"):
        model_inputs(pd.DataFrame({"a": ["x"]}), features)
    with pytest.raises(InputError, match="'maybe' is not among the classes"):
        class_codes(pd.DataFrame({"t": ["yes", "maybe"]}), features)
    with pytest.raises(InputError, match="log_target needs values above 0"):
        regression_target(pd.DataFrame({"t": [1.0, 0.0]}), features.model_copy(update={"log_target": True}))


def test_class_names_are_words() -> None:
    assert class_names(pd.Series([True, False])).tolist() == ["true", "false"]
    assert class_names(pd.Series([1.0, 2.0])).tolist() == ["1", "2"]


def test_parity_says_that_large_numbers_are_compared_by_their_size() -> None:
    check = parity_check(Parity(rows=3, largest=2e-6, differing=()))
    assert check.required == "classes identical, numbers within 1e-05 (relative for numbers above 1)"
