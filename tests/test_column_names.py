"""Any header makes a model that is registered, served, and asked under the names of the table."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow.pyfunc
import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brookside_mlops.bundle import Bundle
from brookside_mlops.features import FeatureColumn, Features, model_inputs
from brookside_mlops.onnx_export import compare_bundle, request_of, write_bundle
from brookside_mlops.payload import parse_payload
from brookside_mlops.registry import _signature
from brookside_mlops.training import Machine, Recipe, TrainingData, fit
from brookside_mlops.usecases import Task, UseCase

ROWS = 160
TARGET = "the target of this table"
NAMES = st.lists(
    # numpy drops a NUL at the end of a name, so scikit-learn does not find the column
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=12),
    min_size=3,
    max_size=3,
    unique=True,
)


def table(names: list[str]) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({names[0]: generator.normal(size=ROWS), names[1]: generator.normal(size=ROWS)})
    frame[names[2]] = generator.choice(["a", "b"], ROWS)
    total = frame[names[0]] + frame[names[1]]
    return frame.assign(**{TARGET: total, "a class": np.where(total > 0, "yes", "no")})


def bundle_of(frame: pd.DataFrame, names: list[str], task: Task, folder: Path) -> Bundle:
    """Fit, write and compare a model of the columns, and return its bundle."""
    kinds = ("number", "number", "category")
    columns = tuple(FeatureColumn(name=name, kind=kind) for name, kind in zip(names, kinds, strict=True))
    target = {"classification": "a class", "regression": TARGET, "clustering": ""}[task]
    classes = {"classes": ("no", "yes"), "positive": "yes"} if task == "classification" else {}
    features = Features(task=task, columns=columns, target=target, **classes)
    data = TrainingData(features, frame[:120], frame[120:])
    model = fit(data, Recipe(trees=3, clusters=2), Machine()).model
    write_bundle(folder, model, UseCase(name="odd", task=task, target=target), frame[:2])
    bundle = Bundle.open(folder)
    assert compare_bundle(model, bundle, frame).differing == ()
    asked = parse_payload(json.dumps(request_of(frame[:5], features)).encode(), bundle.info.columns)
    inputs = model_inputs(frame[:5], features)
    assert bundle.predict(asked) == bundle.predict({name: inputs[name].to_numpy() for name in names})
    return bundle


@settings(max_examples=20, deadline=None)
@given(NAMES)
@example(["my feature", "a.b", "x[0]"])
@example(["1st", "%", "a-b"])
@example(["c1", "c0", "label"])
@example(["temperature", "tiny", "logits"])
@example(["model_c0", "probabilities", "model_probabilities"])
def test_any_header_makes_a_graph_that_answers_as_the_model(names: list[str]) -> None:
    with TemporaryDirectory() as folder:
        bundle = bundle_of(table(names), names, "classification", Path(folder))
    assert [one.name for one in bundle.info.columns] == names
    assert len({one.input_name for one in bundle.info.columns}) == len(names)


@pytest.mark.parametrize("task", ["classification", "regression", "clustering"])
def test_columns_called_like_a_part_of_the_graph_keep_their_names_for_callers(
    task: Task, tmp_path: Path
) -> None:
    plain = ["first", "second", "third"]
    bundle_of(table(plain), plain, task, tmp_path / "plain")
    graph = onnx.load(tmp_path / "plain" / "model.onnx").graph
    inner = {name for node in graph.node for name in (*node.input, *node.output)} - set(plain)
    inner = sorted({one.removeprefix("model_") for one in inner} | inner)
    for at in range(0, len(inner) - 2, 3):
        names = inner[at : at + 3]
        bundle = bundle_of(table(names), names, task, tmp_path / str(at))
        assert [one.name for one in bundle.info.columns] == names


def test_mlflow_serves_the_model_under_the_names_of_its_signature(tmp_path: Path) -> None:
    names = ["my feature", "label", "x[0]"]
    frame = table(names)
    bundle = bundle_of(frame, names, "classification", tmp_path / "bundle")
    graph = onnx.load(tmp_path / "bundle" / "model.onnx")
    mlflow.onnx.save_model(
        graph,
        tmp_path / "model",
        signature=_signature(bundle.info),
        pip_requirements=[],
        save_as_external_data=False,
    )
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert served.metadata.get_input_schema().input_names() == ["my feature", "c1", "x[0]"]
    fed = bundle.feed({name: frame[name].to_numpy() for name in names})
    found = served.predict(
        {name: array.astype(str) if array.dtype == object else array for name, array in fed.items()}
    )
    assert found["label"].tolist() == [
        one["class"] for one in bundle.predict({name: frame[name] for name in names})
    ]


def test_a_probability_is_that_of_the_class_it_stands_beside(tmp_path: Path) -> None:
    names = ["first", "second", "third"]
    frame = table(names)
    bundle = bundle_of(frame, names, "classification", tmp_path)
    scored = Bundle(bundle.info.model_copy(update={"score": True}), (tmp_path / "model.onnx").read_bytes())
    columns = {name: frame[name].to_numpy() for name in names}
    raw = scored.run(columns)
    for answer, label, chances in zip(
        scored.predict(columns), raw["label"], raw["probabilities"], strict=True
    ):
        by_class = dict(zip(scored.info.classes, chances.tolist(), strict=True))
        assert (
            answer["probability"] == pytest.approx(by_class[label], abs=1e-6) and answer["probability"] >= 0.5
        )
        assert answer["score"] == pytest.approx(100 * by_class["yes"], abs=0.051)
    assert {answer["class"] for answer in scored.predict(columns)} == {"no", "yes"}
