"""What drift does to a version: from registration to the requests of an endpoint, with labels that come later."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score
from typer.testing import CliRunner

from brookside_mlops.bootstrap import Estimate
from brookside_mlops.bundle import Bundle
from brookside_mlops.cli import app
from brookside_mlops.drift import Thresholds, compare_tables
from brookside_mlops.errors import InputError
from brookside_mlops.files import sha256
from brookside_mlops.fresh_data import add_labels, fresh_data
from brookside_mlops.monitoring_config import drift_limits
from brookside_mlops.portfolio import MOVED, portfolio
from brookside_mlops.prediction_drift import answers_of
from brookside_mlops.profiles import profile
from brookside_mlops.reference import PROFILE, ROWS, read_reference, reference_rows
from brookside_mlops.registry import RegisterResult, fetch_bundle
from brookside_mlops.runs import Run
from brookside_mlops.stages.drift import drift, source_of
from brookside_mlops.version_drift import (
    Version,
    VersionDrift,
    accuracy_check,
    consequence_checks,
    draw_rows,
    inspect,
    relation_check,
)
from tests.served import ask, served

Trained = Callable[[str], Run]


def late_rows(seed: int, rows: int) -> pd.DataFrame:
    """Return ideas of the months that have moved, with keys that no other seed has."""
    frame = portfolio(10 * rows, seed=seed)
    late = frame[frame["submitted_at"] >= "2025-10-01"].head(rows).reset_index(drop=True)
    return late.assign(idea_id=[f"s{seed}-{row}" for row in range(len(late))])


def version_of(run: Run) -> Version:
    version = Version.open(run.folder / "bundle")
    assert version is not None
    return version


@pytest.mark.parametrize("usecase", ["viability", "cost", "patterns"])
def test_profile_travels_with_the_version_and_leaves_its_digest_alone(
    trained: Trained, usecase: str, tmp_path: Path
) -> None:
    run = trained(usecase)
    known = run.read(RegisterResult, "register")
    fetched = fetch_bundle(run.settings, known.model_name, known.version, tmp_path)
    reference, rows = read_reference(fetched), reference_rows(fetched)
    assert reference is not None and rows is not None
    assert (
        known.sha256 == sha256(fetched / "model.onnx") == Bundle.open(fetched).info.sha256 == reference.sha256
    )
    train = pd.read_parquet(run.path("train.parquet"))
    names = Bundle.open(fetched).session_inputs()
    assert reference.features == profile(train, columns=names) and list(rows) == names
    assert reference.target == ("" if usecase == "patterns" else run.usecase.target)
    assert (reference.keys, reference.time) == (("idea_id",), "submitted_at")
    assert reference.answers.rows == len(pd.read_parquet(run.path("test.parquet")))
    assert set(reference.importance) == set(names)
    assert {f"bundle/{name}" for name in (PROFILE, ROWS)} <= set(run.record.artifacts)


def test_new_rows_alone_are_read_and_give_the_report_of_both_tables(trained: Trained, tmp_path: Path) -> None:
    run = trained("viability")
    late_rows(3, 600).to_parquet(tmp_path / "late.parquet")
    names = Bundle.open(run.folder / "bundle").session_inputs()
    expected = compare_tables(
        run.path("train.parquet"), tmp_path / "late.parquet", names, drift_limits(run.project, "dev")
    )
    hidden = run.folder / "train.parquet"
    os.rename(hidden, tmp_path / "train.parquet")
    try:
        found = drift(run, current=str(tmp_path / "late.parquet"))
    finally:
        os.rename(tmp_path / "train.parquet", hidden)
    assert found.report == expected and {one.feature for one in found.report.drifted()} == set(MOVED)
    assert found.found is not None and found.found.labelled == 600
    assert found.found.domain is not None and found.found.domain.verdict != "pass"


def test_bundle_from_before_profiles_serves_and_its_features_are_compared(
    trained: Trained, tmp_path: Path
) -> None:
    run = trained("cost")
    folder = tmp_path / "bundle"
    shutil.copytree(run.folder / "bundle", folder)
    (folder / PROFILE).unlink()
    (folder / ROWS).unlink()
    assert Version.open(folder) is None and Bundle.open(folder).info.usecase == "cost"
    copied = tmp_path / run.environment / run.id
    shutil.copytree(run.folder, copied)
    old = Run(copied)
    with old.change() as record:
        for name in (PROFILE, ROWS):
            del record.artifacts[f"bundle/{name}"]
    found = drift(old)
    assert found.found is None and found.reference == "train.parquet"
    assert found.checks[0].name == "drifted features"


def test_profile_that_is_damaged_or_of_another_graph_is_refused(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(trained("cost").folder / "bundle", folder)
    content = json.loads((folder / PROFILE).read_text())
    (folder / PROFILE).write_text(json.dumps(content | {"sha256": "0" * 64}))
    with pytest.raises(InputError, match="speaks of another graph"):
        Version.open(folder)
    (folder / PROFILE).write_text(json.dumps(content | {"features": 7}))
    with pytest.raises(InputError, match=r"profile\.json: features"):
        Version.open(folder)


def test_requests_of_an_endpoint_are_judged_without_labels_and_with_them(
    trained: Trained, tmp_path: Path
) -> None:
    run, late = trained("viability"), late_rows(5, 300)
    ids = [f"{number:03}" for number in range(30)]
    with served(run, "judged-dev") as endpoint:
        ask(endpoint, late, ids, 10, keys="idea_id")
    before = drift(run, endpoint="judged-dev").found
    assert before is not None and before.expected and not before.real and before.target is None
    assert "No label has come yet" in before.notes[0]
    assert {one.feature for one in before.features.drifted()} == set(MOVED)
    first = pd.DataFrame(
        {"request": np.repeat(ids, 10), "row": list(range(10)) * 30, "viable": late["viable"]}
    )
    first[:100].to_csv(tmp_path / "first.csv", index=False)
    late[["idea_id", "viable"]][100:].to_parquet(tmp_path / "rest.parquet")
    state = run.settings.state
    assert add_labels(state, "judged-dev", tmp_path / "first.csv").new == 100
    assert add_labels(state, "judged-dev", tmp_path / "rest.parquet").new == 200
    after = drift(run, endpoint="judged-dev").found
    answers = answers_of(Bundle.open(run.folder / "bundle"), late)["class"]
    assert after is not None and after.labelled == 300
    assert after.real["accuracy"].value == pytest.approx(accuracy_score(late["viable"], answers.astype(str)))
    assert after.target is not None and after.expected_of_labelled
    table = fresh_data(state, "judged-dev").to_pandas()
    joined = table.merge(late, on="idea_id", suffixes=("", "_sent"))
    assert len(joined) == 300 and (joined["viable"] == joined["viable_sent"]).all()
    assert np.allclose(joined["team_size"], joined["team_size_sent"])


def test_endpoint_without_requests_and_an_endpoint_beside_a_table_are_refused(trained: Trained) -> None:
    run = trained("cost")
    with served(run, "silent-dev"):
        pass
    with pytest.raises(InputError, match="silent-dev has kept no request of the last 2 days"):
        source_of(run, endpoint="silent-dev", days=2)
    with pytest.raises(InputError, match="a table, or the requests of an endpoint"):
        source_of(run, endpoint="silent-dev", current="x.csv")


def test_rows_like_those_of_training_do_not_alarm(trained: Trained) -> None:
    version, alarms = version_of(trained("viability")), 0
    for seed in range(8):
        frame = portfolio(3_000, seed=100 + seed)
        early = frame[frame["submitted_at"] < "2025-10-01"].sample(400, random_state=seed)
        checks = consequence_checks("classification", inspect(version, early))
        alarms += sum(check.verdict != "pass" for check in checks)
    assert alarms <= 1


def test_a_changed_relation_shows_when_labels_come(trained: Trained) -> None:
    version, late = version_of(trained("viability")), late_rows(7, 800)
    turned = np.random.default_rng(0).random(len(late)) < 0.2
    late["viable"] = late["viable"].mask(turned, late["viable"].map({"yes": "no", "no": "yes"}))
    found = inspect(version, late)
    dropped, agrees = accuracy_check("accuracy", found, stop=True), relation_check("accuracy", found)
    assert dropped is not None and dropped.verdict == "fail" and "retrain" in dropped.next_step
    assert agrees is not None and agrees.verdict == "warning"
    blind = accuracy_check("accuracy", inspect(version, late.drop(columns="viable")), stop=True)
    assert blind is not None and blind.verdict == "pass", "without labels nothing can show it"
    more = Thresholds(min_labels=len(late) + 1)
    early = accuracy_check("accuracy", found, stop=True, limits=more)
    assert early is not None and "estimated without labels" in early.measured
    assert relation_check("accuracy", found, more) is None


def test_harder_rows_lower_the_estimate(trained: Trained) -> None:
    version = version_of(trained("viability"))
    frame = portfolio(6_000, seed=9)
    sure = answers_of(version.bundle, frame)["probability"].to_numpy()
    hard = frame[sure < 0.8]
    found = inspect(version, hard.drop(columns="viable"))
    real = inspect(version, hard).real["accuracy"].value
    check = accuracy_check("accuracy", found, stop=True)
    assert check is not None and check.verdict == "warning" and "labels add" in check.next_step
    low, high = found.expected["accuracy"].low, found.expected["accuracy"].high
    assert low - 0.02 <= real <= high + 0.02, "450 held-out rows leave much open, and the interval says so"


@pytest.mark.parametrize(
    ("now", "rows", "verdict"),
    [
        (0.90, 5_000, "pass"),
        (0.87, 50_000, "pass"),
        (0.84, 100, "pass"),
        (0.84, 2_000, "warning"),
        (0.75, 2_000, "fail"),
    ],
)
def test_drop_needs_size_and_evidence(now: float, rows: int, verdict: str) -> None:
    def measured(value: float, count: int) -> Estimate:
        reach = 1.96 * (value * (1 - value) / count) ** 0.5
        return Estimate(value=value, low=value - reach, high=value + reach)

    report = compare_report()
    found = VersionDrift(
        features=report,
        accepted={"accuracy": measured(0.90, 3_000)},
        real={"accuracy": measured(now, rows)},
        labelled=rows,
    )
    check = accuracy_check("accuracy", found, stop=True)
    assert check is not None and check.verdict == verdict
    lenient = accuracy_check("accuracy", found, stop=False)
    assert lenient is not None and lenient.verdict != "fail"


def compare_report():  # type: ignore[no-untyped-def]
    from brookside_mlops.drift import compare

    one = profile(pd.DataFrame({"x": range(100)}))
    return compare(one, one)


def test_table_without_a_column_is_compared_as_far_as_it_goes(trained: Trained, tmp_path: Path) -> None:
    late_rows(2, 200).drop(columns=["sponsor"]).to_csv(tmp_path / "part.csv", index=False)
    found = drift(trained("viability"), current=str(tmp_path / "part.csv"))
    assert (
        found.found is not None and found.found.predictions is None and "no sponsor" in found.found.notes[0]
    )
    assert "sponsor" in {one.feature for one in found.report.drifted()}


def test_drawn_rows_are_of_the_whole_table(tmp_path: Path) -> None:
    pd.DataFrame({"x": np.arange(50_000), "y": 0}).to_parquet(tmp_path / "t.parquet")
    found = draw_rows(tmp_path / "t.parquet", ["x", "z"], most=1_000)
    assert list(found) == ["x"] and len(found) == 1_000 and found["x"].is_unique
    assert found["x"].mean() == pytest.approx(25_000, rel=0.1)


def files_of(run: Run) -> dict[str, str]:
    return {str(path): sha256(path) for path in run.folder.rglob("*") if path.is_file()}


def test_look_at_an_endpoint_leaves_every_run_as_it_is(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, moved = trained("cost"), late_rows(4, 200)
    moved = moved.assign(duration_weeks=50 + moved["duration_weeks"], model_share=1.0)
    monkeypatch.chdir(run.project)
    before = files_of(run)
    for rows, code, said in ((None, 2, "has kept no request"), (moved, 1, "critical: 4 of 9 features")):
        name = f"looked-{code}-dev"
        with served(run, name) as endpoint:
            if rows is not None:
                ask(endpoint, rows, ["one"], 200)
        result = CliRunner().invoke(app, ["drift", "--endpoint", name])
        assert result.exit_code == code and said in result.output, result.output
        assert files_of(run) == before
    refused = CliRunner().invoke(app, ["drift", "--endpoint", name, "--run", run.id])
    assert refused.exit_code == 2 and "stage drift --run" in refused.output


def test_stage_judges_an_endpoint_and_leaves_the_notebook(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained("cost")
    with served(run, "told-dev") as endpoint:
        ask(endpoint, late_rows(4, 200), [str(number) for number in range(4)], 50)
    monkeypatch.chdir(run.project)
    looked = CliRunner().invoke(app, ["drift", "--endpoint", "told-dev", "--json"])
    assert looked.exit_code == 0 and json.loads(looked.output)["current"] == "200 requests to told-dev"
    words = ["stage", "drift", "--run", run.id, "--set", "endpoint=told-dev", "--json"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    content = json.loads((run.folder / "drift.json").read_text())
    assert content["current"] == "200 requests to told-dev"
    assert content["found"]["expected"]["mape"]["note"] and "regression" in " ".join(
        content["found"]["notes"]
    )
    notebook = json.loads(
        (
            run.folder / run.record.stages.get("drift", Run(run.folder).record.stages["drift"]).notebook
        ).read_text()
    )
    pictures = [
        output
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5 and all(one["metadata"]["image/png"]["alt"] for one in pictures)
    other = CliRunner().invoke(app, ["drift", "--endpoint", "told-dev", "--current", "x.csv"])
    assert other.exit_code == 2
