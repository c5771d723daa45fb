"""Spark against one machine: the same numbers, models as good, a quiet session, and a run from rows to an endpoint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brookside_mlops import spark_profiles, spark_session, spark_training
from brookside_mlops.bundle import Bundle
from brookside_mlops.cli import app
from brookside_mlops.contract_checks import check_table
from brookside_mlops.contracts import Column, Contract, Freshness, RowCount
from brookside_mlops.datasets import columns_of, read_table
from brookside_mlops.drift import DriftReport, compare_tables
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import InputError
from brookside_mlops.features import make_columns, model_inputs, read_features
from brookside_mlops.modelling import load_model
from brookside_mlops.monitoring_config import drift_limits
from brookside_mlops.onnx_export import compare_bundle
from brookside_mlops.pipeline import advance, run_stage
from brookside_mlops.profiles import profile, profile_file
from brookside_mlops.runs import Run
from brookside_mlops.spark_checks import numbered_rows, spark_check_table
from brookside_mlops.spark_splits import spark_rows
from brookside_mlops.stages.drift import DriftResult
from brookside_mlops.stages.engineer import engineer
from brookside_mlops.stages.train import TrainResult
from brookside_mlops.stages.validate import validate
from brookside_mlops.training import Machine, Recipe, Trained, TrainingData, fit, search
from tests.drivers import state_of

pytestmark = pytest.mark.spark
ON_SPARK = ("01_validate.ipynb", "02_engineer.ipynb", "03_train.ipynb", "08_drift.ipynb")
RECIPE = Recipe(trees=300, patience=20)


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    with spark_session.spark_session() as session:
        yield session


def mixed(rows: int, seed: int) -> pd.DataFrame:
    """Return a table with columns of every kind, with gaps, infinities and names that SQL does not like."""
    generator = np.random.default_rng(seed)
    amount = generator.lognormal(8, 2, rows)
    amount[::11], amount[5], amount[7] = np.nan, np.inf, -np.inf
    return pd.DataFrame(
        {
            "amount": amount,
            "Amount": generator.normal(size=rows).astype("float32"),
            "a.b `c`": generator.integers(0, 30, rows),
            "word or two": pd.Series(generator.choice(["a", "b", "c"], rows)).where(
                generator.random(rows) < 0.9
            ),
            "flag": pd.array(generator.choice([True, False, None], rows), dtype="boolean"),  # type: ignore[call-overload]
            "seen": pd.Timestamp("2025-01-01")
            + pd.to_timedelta(generator.integers(0, 10**9, rows), unit="ms"),
            "seen there": pd.Timestamp("2025-01-01", tz="Europe/Berlin")
            + pd.to_timedelta(generator.integers(0, 10**6, rows), unit="s"),
            "nothing": pd.Series([None] * rows, dtype="float64"),
            "id": [f"row {row}" for row in range(rows)],
        }
    ).astype({"seen": "datetime64[us]", "seen there": "datetime64[us, Europe/Berlin]"})


@pytest.mark.parametrize("parts", [1, 3, 10])
def test_profile_is_that_of_one_machine_however_the_table_is_cut(
    spark: Any, tmp_path: Path, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_profiles, "FEW", 4)
    table, path = mixed(8_000, 1), tmp_path / "now.parquet"
    table.to_parquet(path)
    reference = profile(mixed(9_000, 2))
    frame = spark.read.parquet(str(path)).repartition(parts)
    assert spark_profiles.spark_profile(frame, reference) == profile(table, like=reference)
    assert spark_profiles.spark_profile(frame) == profile(table)
    some = ["flag", "a.b `c`", "not there"]
    found = spark_profiles.spark_profile(frame, reference, some)
    assert found == profile_file(path, reference, some) and set(found.features) == {"flag", "a.b `c`"}


def test_files_are_profiled_as_on_one_machine(spark: Any, tmp_path: Path) -> None:
    table = mixed(3_000, 3).drop(columns=["amount", "nothing"])
    table.to_csv(tmp_path / "table.csv.gz", index=False)
    reference = profile_file(tmp_path / "table.csv.gz")
    assert spark_profiles.spark_profile_file(spark, tmp_path / "table.csv.gz") == reference
    (tmp_path / "folder").mkdir()
    for part in range(3):
        table.iloc[part * 1_000 : (part + 1) * 1_000].to_parquet(tmp_path / "folder" / f"{part}.parquet")
    table.to_parquet(tmp_path / "whole.parquet")
    there = spark_profiles.spark_profile_file(spark, tmp_path / "folder", like=reference)
    assert there == profile_file(tmp_path / "whole.parquet", like=reference)
    assert spark_profiles.spark_profile_file(spark, tmp_path / "folder", columns=["none"]).rows == 3_000


def test_edges_of_a_long_table_come_from_a_sample_and_counts_from_all_rows(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spark_profiles, "SAMPLE", 2_000)
    path = tmp_path / "long.parquet"
    mixed(30_000, 4).replace({"amount": [np.inf, -np.inf]}, 0.0).to_parquet(path)
    whole = profile_file(path)
    found = spark_profiles.spark_profile_file(spark, path)
    values = np.sort(read_table(path, ["Amount"])["Amount"].to_numpy())
    for name, one in found.features.items():
        exact = whole.features[name]
        assert (one.rows, one.missing, one.infinite, one.low, one.high, one.levels, one.many) == (
            (exact.rows, exact.missing, exact.infinite, exact.low, exact.high, exact.levels, exact.many)
        )
        assert sum(one.counts) == (one.rows - one.missing if len(one.counts) else 0)
    edges = np.array(found.features["Amount"].edges)
    assert 1_500 < len(edges) < 2_500
    shares = np.searchsorted(values, edges, side="right") / len(values)
    assert np.abs(shares - np.arange(1, len(edges) + 1) / len(edges)).max() < 0.05
    assert found.features["a.b `c`"] == whole.features["a.b `c`"]


def test_what_is_no_table_is_said(spark: Any, tmp_path: Path) -> None:
    def refused(path: Path | str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            spark_profiles.spark_profile_file(spark, path)

    refused(tmp_path / "none.parquet", "no such file")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 no")
    refused(tmp_path / "damaged.parquet", "not readable as Parquet")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"no file that ends in \.parquet")
    refused(f"file://{tmp_path}/nowhere", "Spark cannot read it")
    pd.DataFrame({"lists": [[1], [2]]}).to_parquet(tmp_path / "lists.parquet")
    refused(tmp_path / "lists.parquet", "'lists' holds list")
    frame = spark.range(10).where("id > 10")
    with pytest.raises(InputError, match="no rows"):
        spark_profiles.spark_profile(frame)


def test_missing_pyspark_or_java_is_said_before_anything_starts(
    project: Path, monkeypatch: pytest.MonkeyPatch, trained: Callable[[str], Run]
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setenv("JAVA_HOME", "/nowhere")
    monkeypatch.delenv("PYSPARK_GATEWAY_PORT", raising=False)
    result = CliRunner().invoke(app, ["run", "--set", "engine=spark"])
    assert result.exit_code == 2 and "there is no Java in JAVA_HOME" in result.output
    assert "pip install 'brookside-mlops[spark]'" in result.output and not list(
        project.glob("parameterized/*")
    )
    java = project / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(project / "java"))
    with pytest.raises(InputError, match="the Java of JAVA_HOME is 11"):
        run_stage(trained("viability"), "drift", {"engine": "spark"}, print)
    monkeypatch.setattr(spark_session, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pyspark is not installed"):
        spark_session.need_spark()
    result = CliRunner().invoke(app, ["run", "--set", "engine=dask"])
    assert result.exit_code == 2 and "one of local, spark" in result.output


FAULTY = Contract(
    rows=RowCount(min=10_000),
    unique=(("id",), ("number", "word or two")),
    freshness=Freshness(max_age_days=10),
    columns={
        "amount": Column(kind="number", min=0.5, max=1e6),
        "a.b `c`": Column(kind="integer", min=2),
        "word or two": Column(kind="category", allowed=("a", "b"), max_missing=0.05, nullable=True),
        "flag": Column(kind="boolean"),
        "seen": Column(kind="datetime", role="time", max="2025-01-10"),
        "seen there": Column(kind="datetime", role="ignore"),
        "nothing": Column(kind="number", role="target"),
        "id": Column(kind="text", role="key"),
        "number": Column(kind="integer", nullable=True),
        "absent": Column(kind="number"),
    },
)
AS_OF = datetime(2026, 1, 1)


def faulty(rows: int) -> pd.DataFrame:
    """Return a table that breaks every rule of that contract, with keys that repeat within and across its parts."""
    table = mixed(rows, 5).assign(number=np.arange(rows) % (rows - 400), surplus=1)
    table.loc[::13, "number"] = None
    table.loc[[40, 41, rows // 2, rows - 1], "id"] = "row 3"
    return table.drop(columns="Amount")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("size", ["2g", "20k"])
def test_contract_is_counted_as_on_one_machine_however_the_table_is_cut(
    spark: Any, tmp_path: Path, ending: str, size: str
) -> None:
    path = tmp_path / f"table.{ending}"
    table = faulty(9_000)
    if ending == "csv":
        table.loc[[8, 8_000], "a.b `c`"] = -1
        table.astype({"flag": object}).assign(flag=table["flag"].astype(str)).to_csv(path, index=False)
    else:
        table.to_parquet(path, row_group_size=500)
    usual = spark.conf.get("spark.sql.files.maxPartitionBytes")
    spark.conf.set("spark.sql.files.maxPartitionBytes", size)
    try:
        with numbered_rows(spark, path, columns_of(path)) as rows:
            parts = rows.rdd.getNumPartitions()
        there = spark_check_table(spark, path, FAULTY, AS_OF)
    finally:
        spark.conf.set("spark.sql.files.maxPartitionBytes", usual)
    assert (parts > 3) == (size == "20k" and ending == "parquet") or ending == "csv"
    assert there == check_table(path, FAULTY, as_of=AS_OF)
    broken = {rule.rule for rule in there.broken()}
    assert {"present", "kind", "missing", "range", "allowed", "rows", "freshness", "unique"} <= broken
    again = next(rule for rule in there.rules if rule.column == "id" and rule.rule == "unique")
    assert [one.row for one in again.offences] == [41, 42, 4_501, 9_000]


def test_rows_are_found_by_their_places_in_any_order(spark: Any, tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    mixed(2_000, 6).drop(columns="amount").to_parquet(path, row_group_size=200)
    table, places = read_table(path), np.random.default_rng(0).permutation(2_000)[:150]
    with numbered_rows(spark, path, columns_of(path)) as rows:
        found = spark_rows(rows.repartition(5), columns_of(path), places)
    pd.testing.assert_frame_equal(found, table.iloc[places].reset_index(drop=True), check_dtype=False)


@pytest.mark.parametrize("usecase", ["viability", "cost", "patterns"])
def test_validation_and_engineering_on_spark_give_the_results_of_one_machine(
    spark: Any, project: Path, usecase: str
) -> None:
    runs = [Run.create(project, "dev", usecase) for _ in range(2)]
    found = []
    for run, engine in zip(runs, ("local", "spark"), strict=True):
        first = validate(run, rows=2_000, engine=engine)
        path = run.folder / "data.parquet"
        table = read_table(path)
        table.loc[:60, "submitted_at"] = pd.NaT  # rows without a time, and a class that only the newest have
        table.loc[table["submitted_at"].nlargest(9).index, "viable"] = "perhaps"
        table["data_volume"] = table["data_volume"].where(table["submitted_at"].rank() > 1_900)
        table.to_parquet(path)
        run.finish(first)
        found.append((first, engineer(run, engine=engine)))
        run.finish(found[-1][1])
    (first, second), (third, fourth) = found
    assert first.report == third.report and first.checks == third.checks
    assert second == fourth
    for name in (
        "data.parquet",
        "train.parquet",
        "valid.parquet",
        "test.parquet",
        "features.json",
        "contract.yaml",
    ):
        if name.endswith(".parquet"):
            assert read_table(runs[0].path(name)).equals(read_table(runs[1].path(name)))
        else:
            assert runs[0].path(name).read_bytes() == runs[1].path(name).read_bytes()


OPEN = """
import sys
from brookside_mlops.spark_session import spark_session
with spark_session() as spark:
    assert spark.range(1000).count() == 1000
    print(spark.sparkContext._gateway.proc.pid, spark.conf.get("spark.local.dir"), flush=True)
    sys.stdin.readline()
"""


def listening(pid: int) -> set[str]:
    """Return the addresses, as the kernel writes them, on which a process listens."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(os.readlink(entry))
        except FileNotFoundError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                found.add(words[1].split(":")[0])
    return found


def ended(pid: int) -> bool:
    """Say whether a process has ended; one that nobody has waited for has."""
    return state_of(pid) in ("", "Z")


@pytest.mark.parametrize("end", ["well", "killed"])
def test_session_is_quiet_on_loopback_and_leaves_no_java(end: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout
    pid, folder = process.stdout.readline().split()
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert listening(int(pid)) and listening(int(pid)) <= loopback
    if end == "killed":
        process.kill()
    output, errors = process.communicate("\n")
    assert (output, errors) == ("", "")
    limit = time.monotonic() + 60
    while not ended(int(pid)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert ended(int(pid))
    assert Path(folder).exists() == (end == "killed")
    shutil.rmtree(folder, ignore_errors=True)


def on_spark(spark: Any, run: Run, recipe: Recipe = RECIPE) -> Trained:
    """Return the model that Spark fits on the rows of a run."""
    features = read_features(run.path("features.json"))
    tables = run.path("train.parquet"), run.path("valid.parquet")
    with spark_training.spark_training_data(spark, features, *tables) as data:
        return spark_training.spark_fit(data, recipe, Machine(run.settings.seed))


def on_one_machine(run: Run) -> Trained:
    """Return the model that this process fits on the rows of a run."""
    parts = [read_table(run.path(f"{name}.parquet")) for name in ("train", "valid")]
    data = TrainingData(read_features(run.path("features.json")), *parts)
    return fit(data, RECIPE, Machine(run.settings.seed))


@pytest.mark.parametrize("usecase", ["viability", "cost"])
def test_one_worker_grows_the_trees_of_one_machine(
    spark: Any, trained: Callable[[str], Run], usecase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(usecase)
    monkeypatch.setattr(spark_training, "workers_of", lambda session: 1)
    there, here = on_spark(spark, run), on_one_machine(run)
    assert (there.rounds, there.converged, there.metric) == (here.rounds, here.converged, here.metric)
    for part in ("train", "valid"):
        assert there.curves[part] == pytest.approx(here.curves[part], rel=1e-4)
    assert there.model.temperature == pytest.approx(here.model.temperature, rel=1e-3)
    assert there.model.offset == pytest.approx(here.model.offset, rel=1e-12)
    test = read_table(run.path("test.parquet"))
    answers = [one.model.predict(test) for one in (there, here)]
    first, second = (one.probabilities if usecase == "viability" else np.log(one.values) for one in answers)
    assert np.abs(first - second).max() < 1e-2


@pytest.mark.parametrize("usecase", ["viability", "cost"])
def test_workers_grow_a_model_as_good_and_the_same_each_time(
    spark: Any, trained: Callable[[str], Run], usecase: str, tmp_path: Path
) -> None:
    run = trained(usecase)
    usual = spark.conf.get("spark.sql.execution.arrow.maxRecordsPerBatch")
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", "100")  # some without a validation row
    there, again, here = on_spark(spark, run), on_spark(spark, run), on_one_machine(run)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", usual)
    assert spark_training.workers_of(spark) == 2
    assert there.loss == pytest.approx(here.loss, rel=0.05)
    there.model.save(tmp_path / "model.skops")
    test = read_table(run.path("test.parquet"))
    kept = load_model(tmp_path / "model.skops").predict(test)
    for name in ("probabilities", "values"):
        first, second = getattr(kept, name), getattr(again.model.predict(test), name)
        assert (first is None and second is None) or np.array_equal(first, second)


def test_transformation_is_the_one_that_all_rows_would_fit(spark: Any, trained: Callable[[str], Run]) -> None:
    run = trained("viability")
    features, rows = read_features(run.path("features.json")), read_table(run.path("train.parquet"))
    rows.loc[::9, features.names("category")[0]] = None
    there = spark_training.fitted_columns(
        spark.createDataFrame(rows[features.names()].astype(object)), features
    )
    here = make_columns(features).fit(model_inputs(rows, features))
    assert there.get_feature_names_out().tolist() == here.get_feature_names_out().tolist()
    inputs = model_inputs(rows, features)
    assert np.array_equal(there.transform(inputs), here.transform(inputs), equal_nan=True)


def test_search_on_spark_begins_with_the_recipe_and_is_no_worse(
    spark: Any, trained: Callable[[str], Run]
) -> None:
    run = trained("viability")
    features = read_features(run.path("features.json"))
    tables = run.path("train.parquet"), run.path("valid.parquet")
    few = Recipe(trees=10)
    with spark_training.spark_training_data(spark, features, *tables) as data:
        best, losses = search(data, few, Machine(), 2, spark_training.spark_fit)
        assert losses[0] == spark_training.spark_fit(data, few, Machine()).loss
        assert min(losses) == spark_training.spark_fit(data, best, Machine()).loss


def test_what_cannot_be_trained_on_spark_is_said(
    spark: Any, trained: Callable[[str], Run], tmp_path: Path
) -> None:
    run = trained("viability")
    features, valid = read_features(run.path("features.json")), read_table(run.path("valid.parquet"))
    strange = tmp_path / "valid.parquet"
    valid.assign(viable="perhaps").to_parquet(strange)
    with (
        pytest.raises(InputError, match="'perhaps' is not among the classes"),
        spark_training.spark_training_data(spark, features, run.path("train.parquet"), strange),
    ):
        pass
    costs = trained("cost")
    features = read_features(costs.path("features.json"))
    read_table(costs.path("valid.parquet")).assign(cost=-1.0).to_parquet(strange)
    with (
        pytest.raises(InputError, match="log_target needs values above 0"),
        spark_training.spark_training_data(spark, features, costs.path("train.parquet"), strange),
    ):
        pass
    patterns = trained("patterns")
    with pytest.raises(InputError, match="clusters are found on one machine"):
        on_spark(spark, patterns)


def test_run_on_spark_ends_in_an_endpoint_that_answers(project: Path) -> None:
    small = {"rows": 2_500, "bootstrap": 100, "trees": 1500, "seconds": 1}
    run = Run.create(project, "dev", "viability", small | {"engine": "spark"})
    advance(run, lambda event: None)
    assert all('engine = "spark"' in (run.folder / name).read_text().replace("\\", "") for name in ON_SPARK)
    result = run.read(TrainResult, "train")
    assert result.engine == "spark" and result.converged
    said = (run.folder / "03_train.ipynb").read_text()
    assert "2 workers" in said and '"name": "stderr"' not in said
    model, test = load_model(run.path("model.skops")), read_table(run.path("test.parquet"))
    assert compare_bundle(model, Bundle.open(run.folder / "bundle"), test).differing == ()
    endpoint = LocalEndpoint(run.settings.state, "viability-dev")
    answer = endpoint.score((endpoint.state.bundle("blue") / "input_example.json").read_bytes())
    assert answer.status == 200 and set(answer.content[0]) == {"class", "probability", "score"}
    found: DriftReport = run.read(DriftResult, "drift").report
    tables = run.path("train.parquet"), run.path("test.parquet")
    limits = drift_limits(run.project, "dev")
    assert found == compare_tables(*tables, read_features(run.path("features.json")).names(), limits)
