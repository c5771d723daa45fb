"""Retraining: when it begins, that only one does, and that a worse model changes nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.audit import audit_log
from brookside_mlops.due import run_due
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import InputError
from brookside_mlops.monitoring_config import FILE
from brookside_mlops.monitoring_sections import Profile
from brookside_mlops.pipeline import run_line, stage_parameters
from brookside_mlops.portfolio import portfolio
from brookside_mlops.results import Verdict
from brookside_mlops.retraining import (
    Facts,
    RetrainRequest,
    decide_retraining,
    request_retraining,
    requests_of,
)
from brookside_mlops.retraining_run import Retraining, last_retraining, retrain, retraining_job
from brookside_mlops.runs import Run, find_run
from brookside_mlops.settings import Gates
from tests.receivers import Site, site
from tests.test_pipeline import SMALL, Log, easy
from tests.test_schedules import brookside

NOW = datetime(2026, 12, 7, 2, 4, tzinfo=UTC)
CASE = ("dev", "viability")
PROFILE = Profile()

FACTS = st.builds(
    Facts,
    now=st.just(NOW),
    drift_share=st.none() | st.floats(0, 1),
    accuracy=st.none() | st.floats(0, 1),
    labels=st.integers(0, 500),
    alert=st.sampled_from(["", "drift: 4 of 19 features"]),
    scheduled=st.booleans(),
    asked=st.sampled_from(["", "new prices"]),
    rows=st.none() | st.integers(0, 3000),
    last=st.none() | st.timedeltas(timedelta(0), timedelta(days=20)).map(lambda ago: NOW - ago),
    running=st.sampled_from(["", "run-1"]),
)


@given(FACTS)
def test_retraining_needs_a_trigger_and_nothing_that_speaks_against_it(facts: Facts) -> None:
    found = decide_retraining(facts, PROFILE)
    drifted = facts.drift_share is not None and facts.drift_share >= 0.30
    poor = facts.accuracy is not None and facts.accuracy < 0.85 and facts.labels >= 200
    asked = any((drifted, poor, facts.alert, facts.scheduled, facts.asked))
    early = facts.last is not None and NOW - facts.last < timedelta(days=7) and not facts.asked
    few = facts.rows is not None and facts.rows < 1000
    assert found.retrain == (asked and not early and not few and not facts.running)
    assert bool(found.cause) == bool(asked) == (found.trigger is not None)
    assert bool(found.held_by) == bool(asked and (early or few or facts.running))


@given(FACTS)
def test_where_it_is_off_only_a_person_can_ask(facts: Facts) -> None:
    off = Profile.model_validate({"auto_retraining": {"enabled": False}})
    assert decide_retraining(facts, off).trigger == ("asked" if facts.asked else None)


def test_damaged_request_does_not_hide_the_others(tmp_path: Path) -> None:
    wish = RetrainRequest(endpoint="viability-dev", rule="drift", reason="9 of 19", at=2.0, key="a.2")
    request_retraining(tmp_path, wish)
    request_retraining(tmp_path, wish.model_copy(update={"at": 1.0, "key": "a.1"}))
    (tmp_path / "retrain" / "broken.json").write_text("{")
    assert [one.key for one in requests_of(tmp_path, "viability-dev")] == ["a.1", "a.2"]
    with pytest.raises(ValueError, match="key"):
        RetrainRequest(endpoint="x", rule="drift", reason="", at=0, key="../../etc/passwd")


@pytest.mark.parametrize(
    ("settings_say", "asked", "rule"),
    [
        ("none", "", "none"),
        ("none", "not_worse", "not_worse"),
        ("better", "not_worse", "better"),
        ("not_worse", "better", "better"),
    ],
)
def test_rule_of_a_run_makes_gates_stricter_and_never_looser(
    settings_say: str, asked: str, rule: str, tmp_path: Path
) -> None:
    from brookside_mlops.stages.evaluate import gates_of

    (tmp_path / "settings.ini").write_text(
        f"[dev]\nbaseline_rule = {settings_say}\n[staging]\n[prod]\n"
        "[usecase.viability]\ntask = classification\ntarget = viable\n"
    )
    run = Run.create(tmp_path, *CASE)
    assert gates_of(run, asked) == Gates(baseline_rule=rule)  # type: ignore[arg-type]


def test_rule_none_cannot_be_asked_for() -> None:
    with pytest.raises(InputError, match="baseline_rule"):
        stage_parameters(
            Path(__file__).resolve().parent.parent, ["evaluate"], {"evaluate.baseline_rule": "none"}
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A webhook that retrainings tell their end to."""
    with site(200) as found:
        monkeypatch.setenv("BROOKSIDE_NOTIFY", f"json://127.0.0.1:{found.port}/hook")
        yield found


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def ended(project: Path, usecase: str = "viability") -> Retraining:
    """Wait for the end of a retraining and return it."""
    state = project / ".brookside"

    def over() -> bool:
        one = last_retraining(state, usecase)
        return one is not None and one.outcome != "running"

    until(over)
    found = last_retraining(state, usecase)
    assert found is not None
    return found


def broken_table(project: Path) -> Path:
    """Write a table that breaks its contract."""
    path = project / "broken.parquet"
    portfolio(2_000).assign(viable="perhaps").to_parquet(path)
    return path


def test_callers_at_the_same_moment_begin_one_run(project: Path, told: Site) -> None:
    table, began = broken_table(project), []
    gate = threading.Barrier(4)

    def call() -> None:
        gate.wait()
        began.append(retrain(project, CASE, table, Facts(NOW, asked="new prices")))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    (run,) = [found for _, found in began if found]
    assert sorted(bool(decision.held_by) for decision, _ in began) == [False, True, True, True]
    assert all(f"run {run.id} is under way" == one.held_by for one, found in began if not found)
    last = ended(project)
    assert (last.outcome, last.run) == ("not promoted", run.id) and "validate" in last.said
    until(lambda: bool(told.requests))
    assert told.requests[0].content["title"] == "viability in dev: retraining not promoted"


def test_killed_retraining_is_told_and_frees_the_use_case(project: Path, told: Site) -> None:
    table = project / "rows.parquet"
    portfolio(2_000).to_parquet(table)
    _, run = retrain(project, CASE, table, Facts(NOW, asked="new prices"))
    assert run is not None
    last = last_retraining(project / ".brookside", "viability")
    assert last is not None and last.works
    os.killpg(last.pid, signal.SIGKILL)
    until(lambda: not last.works)
    _, second = retrain(project, CASE, broken_table(project), Facts(NOW, asked="again"))
    assert second is not None
    until(lambda: bool(told.requests))
    assert told.requests[0].content["title"] == "viability in dev: retraining broke off"
    assert f"run --resume {run.id}" in told.requests[0].content["message"]
    assert ended(project).run == second.id


def test_alert_is_answered_once_and_the_next_one_waits_for_the_cool_down(project: Path, told: Site) -> None:
    (project / FILE).parent.mkdir(parents=True)
    (project / FILE).write_text("auto_retraining: {min_rows: 10}\n")
    state, table = project / ".brookside", broken_table(project)
    assert retrain(project, CASE, table, Facts(NOW))[0].trigger is None
    wish = RetrainRequest(
        endpoint="viability-dev", rule="drift", reason="4 of 19 features", at=1.0, key="one"
    )
    request_retraining(state, wish)
    decision, run = retrain(project, CASE, table, Facts(NOW))
    assert run is not None and decision.cause == "an alert asked for it: drift: 4 of 19 features"
    assert requests_of(state, "viability-dev") == []
    ended(project)
    request_retraining(state, wish.model_copy(update={"key": "two"}))
    decision, run = retrain(project, CASE, table, Facts(NOW + timedelta(days=6)))
    assert run is None and "cooldown_days is 7" in decision.held_by
    assert [one.key for one in requests_of(state, "viability-dev")] == ["two"]


def test_month_that_is_over_begins_a_retraining_once(project: Path, told: Site) -> None:
    table = broken_table(project)
    job = retraining_job(project, {"viability": lambda: table, "cost": lambda: None}, lambda: NOW)
    (ran,) = run_due(project, "staging", NOW, {"retraining": job})
    assert ran.said.startswith("viability: began run ") and ran.said.endswith("cost: no new rows")
    assert run_due(project, "staging", NOW + timedelta(minutes=5), {"retraining": job}) == []
    run = find_run(project, ended(project).run)
    assert run.record.cause == "it was due: monthly first monday 02:00"


def test_command_line_says_what_keeps_a_retraining_from_beginning(project: Path) -> None:
    few = project / "few.parquet"
    portfolio(2_000).head(10).to_parquet(few)
    strange = project / "strange.csv"
    pd.DataFrame({"a": range(2_000)}).to_csv(strange, index=False)
    refused = brookside("retrain", "--data", str(strange), cwd=project)
    assert refused.returncode == 2 and "strange.csv has no idea_id, submitted_at" in refused.stderr
    done = brookside("retrain", "--data", str(few), "--reason", "new prices", cwd=project)
    assert done.returncode == 3 and "10 rows are fewer than min_rows, 1,000" in done.stderr
    missing = brookside("retrain", "--data", "gone.csv", "--reason", "x", cwd=project)
    assert missing.returncode == 2 and "gone.csv" in missing.stderr
    assert "was not retrained yet" in brookside("retrain", cwd=project).stdout


def verdict_of(run: Run, stage: str) -> Verdict | str:
    return run.record.stages[stage].verdict


@pytest.mark.endtoend
def test_worse_model_is_not_promoted_and_says_so_and_one_as_good_is(project: Path, told: Site) -> None:
    """The first model learns from good rows, the second from rows with answers at random, the third from other good rows."""
    easy(project)
    settings = (project / "settings.ini").read_text()
    for line in ("min_accuracy = 0.75", "margin = 0.01"):
        assert line in settings
    settings = settings.replace("min_accuracy = 0.75", "min_accuracy = 0.3").replace(
        "\nmargin = 0.01", "\nmargin = 0.15"
    )
    (project / "settings.ini").write_text(settings)
    run_line(Run.create(project, *CASE, SMALL), Log())
    endpoint = LocalEndpoint(project / ".brookside", "viability-dev")

    def served() -> list[int]:
        return [one.version for one in endpoint.state.deployments().values() if one.weight == 100]

    assert served() == [1]
    given = {name: value for name, value in SMALL.items() if name != "rows"}
    rows = portfolio(2_500, seed=7)
    good, bad = project / "good.parquet", project / "bad.parquet"
    rows.to_parquet(good)
    learnt = len(rows) * 7 // 10  # the last rows, by which both are judged, stay as they are
    answers = rows["viable"].to_numpy(copy=True)
    answers[:learnt] = np.random.default_rng(7).permutation(answers[:learnt])
    rows.assign(viable=answers).to_parquet(bad)

    _, worse = retrain(project, CASE, bad, Facts(NOW, drift_share=0.42, asked="a try"), given)
    last = ended(project)
    assert worse is not None and last.outcome == "not promoted", last.said
    assert "not worse than the baseline" in last.said and served() == [1]
    worse.refresh()
    assert verdict_of(worse, "evaluate") == "fail" and "register" not in worse.record.stages
    until(lambda: len(told.requests) == 1)
    assert "what served before serves on" in told.requests[0].content["message"]
    assert "somebody asked for it: a try" in (worse.folder / "01_validate.ipynb").read_text()
    rows_of_trail = [
        row.details for row in audit_log(project / ".brookside").rows(worse.id) if row.event == "run"
    ]
    assert (
        rows_of_trail[0]["cause"] == "somebody asked for it: a try"
        and rows_of_trail[-1]["outcome"] == "not promoted"
    )

    _, better = retrain(project, CASE, good, Facts(NOW, asked="another try"), given)
    last = ended(project)
    assert better is not None and last.outcome == "promoted", last.said
    assert served() == [2]
    until(lambda: len(told.requests) == 2)
    assert told.requests[1].content["title"] == "viability in dev: retraining promoted"
