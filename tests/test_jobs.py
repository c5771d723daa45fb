"""What is done when it is due: a real endpoint with requests and labels, looked at as the schedules have it."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from brookside_mlops.alert_store import AlertStore
from brookside_mlops.cost_history import history_file
from brookside_mlops.due import Due
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import InputError
from brookside_mlops.fresh_data import add_labels, fresh_data
from brookside_mlops.jobs import check_costs, check_drift, due_jobs, look_at_metrics
from brookside_mlops.monitoring_config import monitoring_config
from brookside_mlops.retraining import RetrainRequest, request_retraining, requests_of
from brookside_mlops.run_record import STAGES
from brookside_mlops.runs import Run
from brookside_mlops.scratch import _advance
from brookside_mlops.settings import settings_file
from brookside_mlops.stages.validate import validate
from brookside_mlops.watched import Deployed, deployed
from tests.receivers import site
from tests.served import ask

TODAY = date(2026, 11, 25)

CONFIG = """
environment_profiles:
  dev:
    data_drift: {critical_share: 0.1, warning_share: 0.1, min_rows: 10}
    auto_retraining: {enabled: true, min_rows: 100000}
    model_performance: {min_labels: 10}
"""


@pytest.fixture
def asked(project: Path) -> Deployed:
    """Return an endpoint that has answered 300 rows whose labels have come."""
    text = settings_file(Path()).read_text().replace("sample_share = 0.1", "sample_share = 1")
    (project / "settings.ini").write_text(text)
    (project / "azure-ml/monitoring").mkdir(parents=True)
    (project / "azure-ml/monitoring/monitoring-config.yml").write_text(CONFIG)
    run = Run.create(project, "dev", "viability")
    _advance(run, STAGES[:6])
    rows = pd.read_parquet(run.path("test.parquet")).head(300)
    endpoint = LocalEndpoint(run.settings.state, "viability-dev")
    ask(endpoint, rows, [f"request-{number}" for number in range(30)], 10, keys="idea_id")
    endpoint.stop()
    rows[["idea_id", "viable"]].to_csv(project / "truth.csv", index=False)
    assert add_labels(run.settings.state, endpoint.name, project / "truth.csv").new == 300
    (one,) = deployed(project, ["dev"])
    return one


@pytest.mark.endtoend
def test_weekly_look_notes_what_it_found_and_holds_back_a_retraining_on_too_few_rows(
    project: Path, asked: Deployed
) -> None:
    now = datetime.now(UTC)
    files = sorted(project.glob("parameterized/**/*"))
    said = check_drift(project, asked, now)
    assert files == sorted(project.glob("parameterized/**/*"))  # a look is written into no run
    assert "features drifted" in said and "300 rows are fewer than min_rows, 100,000" in said
    store = AlertStore(asked.state_folder)
    share, drop = (
        store.observed(asked.endpoint, name, now.timestamp()) for name in ("drift_share", "accuracy_drop")
    )
    assert share and share >= 0.1 and drop is not None and abs(drop) < 0.2
    assert not list(asked.state_folder.rglob("fresh-*.parquet"))

    wish = RetrainRequest(
        endpoint=asked.endpoint, rule="drift", reason="20 %", at=now.timestamp(), key="drift-1"
    )
    request_retraining(asked.state_folder, wish)
    assert "fewer than min_rows" in look_at_metrics(project, Due("metrics", "dev", now))
    assert wish in requests_of(
        asked.state_folder, asked.endpoint
    )  # beside the one of the alert, if its minute is over

    table = fresh_data(asked.state_folder, asked.endpoint)
    pq.write_table(table, project / "fresh.parquet")
    again = Run.create(project, "dev", "viability")
    result = validate(again, data="fresh.parquet")
    assert [one.name for one in result.checks if one.verdict == "fail"] == [
        "rows"
    ]  # the contract asks for 500
    kept = pd.read_parquet(again.folder / "data.parquet")
    assert len(kept) == 300 and kept["cost"].isna().all() and set(kept["viable"]) == {"yes", "no"}


def test_every_schedule_has_its_job(project: Path) -> None:
    for environment in ("dev", "staging", "prod"):
        assert set(monitoring_config(project).profile(environment).schedules) <= set(due_jobs(project))


def test_budget_is_told_from_the_first_share_that_is_reached(project: Path) -> None:
    staging = check_costs(project, "staging", TODAY, {})
    assert "71.5 %: within the budget; low priority is not sold" in staging
    assert staging.endswith("as sold USD 286.16")
    assert "80 % is reached; told 0" in check_costs(project, "prod", TODAY, {})


def test_costs_that_double_over_night_are_told(project: Path) -> None:
    check_costs(project, "dev", TODAY, {})
    text = settings_file(project).read_text(encoding="utf-8")
    twice = text.replace("instance_count = 1", "instance_count = 2")
    (project / "settings.ini").write_text(twice, encoding="utf-8")
    with site(200) as hook:
        url = f"json://127.0.0.1:{hook.port}"
        said = check_costs(project, "dev", TODAY + timedelta(days=1), {"BROOKSIDE_NOTIFY": url})
    assert "+100% against the day before" in said
    titles = [one.content["title"] for one in hook.requests]
    assert any("a month costs +100% against the day before" in title for title in titles)
    again = check_costs(project, "dev", TODAY + timedelta(days=2), {})
    assert "against the day before" not in again


def test_history_of_costs_that_cannot_be_read_is_an_error_that_names_it(project: Path) -> None:
    path = history_file(project / ".brookside", "dev")
    path.parent.mkdir(parents=True)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(InputError, match=r"dev\.json: not a history of costs"):
        check_costs(project, "dev", TODAY, {})


def test_jobs_of_an_environment_without_endpoints_say_so(project: Path) -> None:
    now = datetime.now(UTC)
    for name in ("metrics", "drift", "retraining"):
        assert due_jobs(project)[name](Due(name, "prod", now)) == "no endpoint in prod"
