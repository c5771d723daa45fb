"""The command line as a person uses it: messages, exit codes, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle as adding
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
    pytest.importorskip("re").search(said, output) or pytest.fail(output)
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
    assert json.loads(call("runs", "diff", run, run, "--json")[1]) == {}
    code, output = call("run", "--resume", run, "--json")
    assert code == 0 and json.loads(output)[0]["run"] == run
    assert call("smoke-test", "-u", "churn")[0] == 0
    assert call("stage", "evaluate", "-u", "churn", "-p", "bootstrap=100", "--json")[0] == 0
    assert call("deploy", "-u", "churn", "--json")[0] == 0
    assert call("rollback", "-u", "churn")[0] == 2
    assert call("drift", "-u", "churn", "--current", "churn.csv")[0] == 0
    assert call("promote", run, "--to", "dev")[0] == 2
    assert "approved by Ada" in call("approve", run, "--as", "Ada")[1]
    code, output = call("promote", run, "--to", "staging")
    assert code in (0, 1) and "staging" in output


@pytest.mark.endtoend
def test_clusters_of_an_own_table(here: Path) -> None:
    CELLS.frame().drop(columns="class").to_csv("cells.csv", index=False)
    code, output = call("run", "-u", "cells", "--data", "cells.csv", "-p", "bootstrap=100", "--json")
    report = json.loads(output[output.index("[\n") :])
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


def test_approval_is_recorded(here: Path) -> None:
    run = Run.create(here, "prod", "viability")
    code, output = call("deploy", "--run", run.id)
    assert code == 3 and "waits for an approval" in output
    assert "approved by Grace" in call("approve", run.id, "--as", "Grace")[1]
