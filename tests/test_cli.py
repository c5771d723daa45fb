"""The command line as a person uses it: messages, exit codes, JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.cli_options import chosen_run
from brookside_mlops.features import FeatureColumn, Features, write_features
from brookside_mlops.onboarding import Onboarding, known_usecases, onboard
from brookside_mlops.results import StageResult
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle as adding
from brookside_mlops.stages.register import origin
from tests.tables import CELLS, CHURN

RUNNER = CliRunner()


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def call(*words: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "-e", "production"), "environment 'production' is not one of"),
        (("run", "-u", "sales"), "has no \\[usecase.sales\\]"),
        (("run", "-e", "prod,dev"), "come once and in order"),
        (("run", "-p", "trees"), "'trees' is not NAME=VALUE"),
        (("run", "-p", "tree=3", "-p", "depth=99"), "unknown parameter 'tree'"),
        (("run", "--resume", "nothing"), "no run 'nothing'"),
        (("run", "-u", "churn", "--data", "none.csv", "--target", "churn"), "no such file"),
        (("deploy",), "no run of viability in dev yet"),
        (("stage", "bake"), "no run of viability"),
        (("approve", "nothing"), "no run 'nothing'"),
        (("drift", "--reference", "a.csv"), "--current is missing"),
        (("contract", "infer", "none.csv"), "no such file"),
        (("contract", "infer", "none.csv", "--kind", "a=number2"), "kinds are number"),
        (("endpoint", "show", "cost-dev"), "no endpoint 'cost-dev'"),
        (("endpoint", "stop", "../x"), "3 to 32"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(here: Path, words: tuple[str, ...], said: str) -> None:
    code, output = call(*words)
    assert code == 2
    assert re.search(said, output), output
    assert "Traceback" not in output and not list(here.glob("parameterized/*/*/0*.ipynb"))


def test_drift_of_any_two_tables(here: Path) -> None:
    frame = pd.DataFrame({"x": [row / 7 for row in range(500)], "y": [row / 9 for row in range(500)]})
    frame.to_csv("a.csv", index=False)
    frame.assign(y=frame["y"] + 40).to_parquet("b.parquet")
    code, output = call("drift", "--reference", "a.csv", "--current", "b.parquet", "--json")
    assert code == 1 and json.loads(output)["verdict"] == "critical"
    code, output = call("drift", "--reference", "a.csv", "--current", "a.csv")
    assert code == 0 and "pass: 0 of 2 features drifted" in output


def test_contract_is_drafted_and_never_overwritten(here: Path) -> None:
    CHURN.frame().to_csv("churn.csv", index=False)
    assert "role: target" in call("contract", "infer", "churn.csv", "--target", "churn")[1]
    assert call("contract", "infer", "churn.csv", "--output", "c.yaml")[0] == 0
    code, output = call("contract", "infer", "churn.csv", "--output", "c.yaml")
    assert code == 2 and "exists" in output


def test_endpoints_are_shown_moved_and_stopped(here: Path) -> None:
    from brookside_mlops.endpoints.local import LocalEndpoint

    assert "no endpoint yet" in call("endpoint", "list")[1]
    endpoint = LocalEndpoint(here / ".brookside", "cost-dev")
    endpoint.start()
    endpoint.create_deployment("blue", adding(here / "b", 1), "brookside-cost", 1)
    assert call("endpoint", "traffic", "cost-dev", "--set", "blue=100")[1].strip() == "blue 100 %"
    assert call("endpoint", "traffic", "cost-dev", "--set", "blue=ten")[0] == 2
    assert call("endpoint", "traffic", "cost-dev", "--set", "blue=10")[0] == 2
    (found,) = json.loads(call("endpoint", "list", "--json")[1])
    assert {"name", "scoring_uri", "key_file", "traffic"} <= set(found)
    assert "blue" in call("endpoint", "show", "cost-dev")[1]
    assert json.loads(call("endpoint", "show", "cost-dev", "--json")[1])["running"]
    assert "stopped" in call("endpoint", "stop", "cost-dev")[1]
    assert "answers at" in call("endpoint", "start", "cost-dev")[1]
    assert "cost-dev" in call("endpoint", "list")[1]


@pytest.mark.endtoend
def test_own_table_becomes_a_use_case_and_an_endpoint(here: Path) -> None:
    CHURN.frame().to_csv("churn.csv", index=False)
    words = ("run", "-u", "churn", "--data", "churn.csv", "--target", "churn", "-p", "bootstrap=100")
    code, output = call(*words)
    assert code == 0, output
    assert "wrote contracts/churn.yaml" in output and "[usecase.churn]" in Path("settings.ini").read_text()
    assert "curl" in output and "churn-dev" in output
    (listed,) = json.loads(call("runs", "list", "--json")[1])
    run = listed["run"]
    assert listed["stages"]["smoke_test"]["verdict"] == "pass"
    assert "churn" in call("runs", "list")[1] and "smoke_test" in call("runs", "show", run)[1]
    assert json.loads(call("runs", "show", run, "--json")[1])["usecase"] == "churn"
    assert "do not differ" in call("runs", "diff", run, run)[1]
    assert json.loads(call("runs", "diff", run, run, "--json")[1]) == {"facts": {}, "cells": []}
    code, output = call("run", "--resume", run, "--json")
    assert code == 0 and json.loads(output)[0]["run"] == run
    assert call("smoke-test", "-u", "churn")[0] == 0
    assert call("stage", "evaluate", "-u", "churn", "-p", "bootstrap=100", "--json")[0] == 0
    assert call("deploy", "-u", "churn", "--json")[0] == 0
    assert call("rollback", "-u", "churn")[0] == 2
    assert call("drift", "-u", "churn", "--current", "churn.csv")[0] == 0
    assert call("promote", run, "--to", "dev")[0] == 2
    code, output = call("approve", run, "--as", "Ada")
    assert code == 2 and "dev asks for no approval" in output
    code, output = call("promote", run, "--to", "staging")
    assert code == 2 and "smoke_test" in output  # it was deployed again, and not tested since
    assert call("smoke-test", "-u", "churn")[0] == 0
    code, output = call("promote", run, "--to", "staging")
    assert code in (0, 1) and "staging" in output


@pytest.mark.endtoend
def test_clusters_of_an_own_table(here: Path) -> None:
    CELLS.frame().drop(columns="class").to_csv("cells.csv", index=False)
    code, output = call("run", "-u", "cells", "--data", "cells.csv", "-p", "bootstrap=100", "--json")
    report = json.loads(
        output[output.index("[\n") if code == 0 else output.index("{\n") :].partition("\nevaluate:")[0]
    )
    report = report if code == 0 else report["runs"]
    assert code in (0, 1) and report[0]["stages"]["evaluate"]["verdict"] in ("pass", "fail")


def test_help_is_there_without_heavy_imports() -> None:
    code = (
        "import sys; sys.argv = ['brookside-mlops', '--help']\n"
        "from brookside_mlops.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'pandas', 'numpy', 'mlflow', 'pydantic'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "rollback" in found and found.strip().endswith("[]")


@pytest.mark.parametrize(
    "verb", ["deploy", "smoke-test", "rollback", "drift --reference a.csv --current a.csv"]
)
def test_run_of_another_environment_than_the_one_named_is_refused(here: Path, verb: str) -> None:
    run = Run.create(here, "staging", "viability")
    code, output = call(*verb.split(), "--run", run.id, "-e", "prod")
    assert code == 2 and f"--environment prod: run {run.id} is of staging" in output
    code, output = call(*verb.split(), "--run", run.id, "-e", "staging")
    assert "is of staging" not in output


def test_approval_is_recorded(here: Path) -> None:
    run = Run.create(here, "prod", "viability")
    code, output = call("deploy", "--run", run.id)
    assert code == 2 and "deploy needs validate to be done" in output
    assert "approved by Grace" in call("approve", run.id, "--as", "Grace")[1]


def test_a_target_that_the_section_does_not_predict_is_refused(here: Path) -> None:
    CHURN.frame(300).to_csv("churn.csv", index=False)
    onboard(here, Onboarding("churn", here / "churn.csv", "churn"))
    before = Path("settings.ini").read_text()
    for words in (("--target", "state"), ("--target", "state", "--data", "churn.csv")):
        code, output = call("run", "-u", "churn", *words)
        assert code == 2 and "predicts 'churn'" in output and "--usecase" in output
    code, output = call("run", "--target", "cost")
    assert code == 2 and "[usecase.viability]" in output and "predicts 'viable'" in output
    assert Path("settings.ini").read_text() == before and not list(here.glob("parameterized/*/*"))


def test_a_missing_table_of_a_known_use_case_is_named(here: Path) -> None:
    CHURN.frame(300).to_csv("churn.csv", index=False)
    onboard(here, Onboarding("churn", here / "churn.csv", "churn"))
    code, output = call("run", "-u", "churn", "--data", "churns.csv", "--target", "churn")
    assert code == 2 and "no such file. Was churn.csv meant?" in output
    Path("churn.csv").unlink()
    code, output = call("run", "-u", "churn")
    assert code == 2 and "no such file" in output


ROWS = 120
UNUSABLE = {
    "600 different values: a target of a classification has few": {"y": [f"t{row}" for row in range(600)]},
    "class 'rare' has 2 rows": {"y": ["rare", "rare", *["a", "b"] * 59]},
    "is 'a' in every row": {"y": ["a"] * ROWS},
    "1 rows have no target": {"y": [None, *["a"] * 60, *["b"] * 59]},
    "60 is the least": {"y": ["a", "b"] * 20},
    "no column is a feature": {"y": ["a", "b"] * 60, "x": [1.0] * ROWS},
    "no column 'y'": {"z": ["a", "b"] * 60},
    "row 8 is 'oops'": {"y": ["a", "b"] * 60, "x": [*map(str, range(7)), "oops", *map(str, range(112))]},
}


@pytest.mark.parametrize("said", list(UNUSABLE))
def test_a_first_attempt_that_fails_leaves_no_section_and_no_contract(here: Path, said: str) -> None:
    content = UNUSABLE[said]
    rows = len(next(iter(content.values())))
    pd.DataFrame({"x": [row / 7 for row in range(rows)]} | content).to_csv("own.csv", index=False)
    code, output = call("run", "-u", "own", "--data", "own.csv", "--target", "y")
    assert code == 2 and said in output, output
    assert "own" not in known_usecases(here) and sorted(path.name for path in here.iterdir()) == ["own.csv"]


def test_an_unknown_environment_or_parameter_leaves_no_section(here: Path) -> None:
    CHURN.frame(300).to_csv("churn.csv", index=False)
    for words in (("-e", "production"), ("-p", "trees=many")):
        assert call("run", "-u", "churn", "--data", "churn.csv", "--target", "churn", *words)[0] == 2
    assert sorted(path.name for path in here.iterdir()) == ["churn.csv"]


def test_columns_that_are_no_features_are_said_with_the_reason(here: Path) -> None:
    frame = CHURN.frame(300)
    frame.insert(0, "rownames", range(1, 301))
    frame["note"] = [f"note {row}" for row in range(300)]
    frame.to_csv("churn.csv", index=False)
    said = onboard(here, Onboarding("churn", here / "churn.csv", "churn"))
    assert "no feature: rownames (key): a value of its own in each row" in said
    assert any(line.startswith("no feature: note (ignore): a value of its own") for line in said)


def test_drift_takes_the_newest_run_that_has_training_rows(here: Path) -> None:
    frame = pd.DataFrame({"x": [row / 7 for row in range(300)]})
    frame.to_parquet("new.parquet")
    good = Run.create(here, "dev", "viability")
    features = Features(task="classification", columns=(FeatureColumn(name="x", kind="number"),))
    write_features(good.new("features.json"), features)
    for name in ("train", "test"):
        frame.to_parquet(good.new(f"{name}.parquet"))
    files = {name: name for name in ("features.json", "train.parquet", "test.parquet")}
    good.finish(StageResult(stage="engineer", verdict="pass", checks=[], artifacts=files))
    failed = Run.create(here, "dev", "viability")
    assert chosen_run(None, "dev", "viability").id == failed.id
    code, output = call("drift", "--current", "new.parquet")
    assert code == 0 and good.id in output, output
    code, output = call("drift", "--run", failed.id, "--current", "new.parquet")
    assert code == 2 and "run the stage that makes it first" in output


def test_smoke_test_takes_the_newest_run_that_was_deployed(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr("brookside_mlops.cli.stage_verb", lambda name, run, *rest: taken.append(run.id))
    runs = [Run.create(here, "dev", "viability") for _ in range(3)]
    for run, stages in zip(runs, (("register", "deploy"), ("register",), ()), strict=True):
        for stage in stages:
            files = {"graph": "bundle/model.onnx"} if stage == "register" else {}
            for name in files.values():
                run.new(name).write_text("x")
            run.finish(StageResult(stage=stage, verdict="pass", artifacts=files))
    for words in (
        ("smoke-test",),
        ("smoke-test", "--url", "http://127.0.0.1:9/score"),
        ("stage", "validate"),
    ):
        assert call(*words)[0] == 0
    assert taken == [run.id for run in runs]


def test_promoted_version_is_said_to_be_from_where_it_was_registered(here: Path) -> None:
    source, promoted = Run.create(here, "staging", "viability"), Run.create(here, "prod", "viability")
    for known, said in ((source.id, "staging"), ("20200101-000000-gone", "run 20200101-000000-gone")):
        with promoted.change() as record:
            record.promoted_from = known
        assert origin(promoted) == said


def test_drift_without_any_training_rows_says_which_run_to_resume(here: Path) -> None:
    pd.DataFrame({"x": [1.5, 2.5]}).to_csv("new.csv", index=False)
    failed = Run.create(here, "dev", "viability")
    code, output = call("drift", "--current", "new.csv")
    assert code == 2 and "has train.parquet yet" in output and f"run --resume {failed.id}" in output
