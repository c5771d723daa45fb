"""The rules of the configuration become alerts of Azure Monitor, once, and nobody else's are touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brookside_mlops.audit import audit_log
from brookside_mlops.azure_client import AzureError
from brookside_mlops.azure_monitor import alert_plans
from brookside_mlops.cli import app
from brookside_mlops.errors import InputError
from brookside_mlops.monitoring_config import FILE
from tests.azure.emulator import Emulator, Fault
from tests.azure.monitor import CUSTOMER, add_logs

ROOT = Path(__file__).resolve().parents[2]
ENDPOINT = "viability-prod"


@pytest.fixture
def here(azure: Emulator, azure_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with a configuration of its own and mail addresses in it; Azure has its logs."""
    (azure_project / FILE).parent.mkdir(parents=True)
    text = (ROOT / FILE).read_text()
    (azure_project / FILE).write_text(
        text.replace("oncall: {description: whoever is on call}", "oncall: {to: [ops@example.com]}")
    )
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", CUSTOMER)
    monkeypatch.setenv("BROOKSIDE_AZURE_ACTION_GROUP", "ag-brookside")
    add_logs(azure)
    return azure_project


def insights(azure: Emulator, kind: str, name: str) -> str:
    return f"{azure.group}/providers/Microsoft.Insights/{kind}/{name}"


def edit(project: Path, old: str, new: str) -> None:
    text = (project / FILE).read_text()
    assert old in text
    (project / FILE).write_text(text.replace(old, new))


def test_plan_only_reads(azure: Emulator, here: Path) -> None:
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=False)
    assert {one.what for one in plan.changes} == {"create"} and len(plan.changes) == 7
    assert azure.writes() == [] and not audit_log(here / ".brookside").exists
    assert any("down: Azure has no number for it" in one for one in plan.notes)
    assert any("rollback is done by brookside-mlops monitor" in one for one in plan.notes)


def test_rules_become_alerts_with_what_they_say(azure: Emulator, here: Path) -> None:
    alert_plans(here, ["prod"], ENDPOINT, apply=True)
    latency = azure.find(insights(azure, "metricAlerts", f"{ENDPOINT}-latency"))
    assert latency is not None
    (criterion,) = latency["properties"]["criteria"]["allOf"]
    assert (criterion["metricName"], criterion["threshold"], criterion["operator"]) == (
        "RequestLatency_P95",
        2000,
        "GreaterThan",
    )
    assert (latency["properties"]["windowSize"], latency["properties"]["severity"]) == ("PT15M", 2)
    errors = azure.find(insights(azure, "scheduledQueryRules", f"{ENDPOINT}-error-rate"))
    assert errors is not None
    (criterion,) = errors["properties"]["criteria"]["allOf"]
    assert criterion["threshold"] == 0.05 and ENDPOINT in criterion["query"]
    assert criterion["failingPeriods"] == {"numberOfEvaluationPeriods": 2, "minFailingPeriodsToAlert": 2}
    group = azure.find(insights(azure, "actionGroups", "ag-brookside"))
    assert group is not None
    assert [one["emailAddress"] for one in group["properties"]["emailReceivers"]] == ["ops@example.com"]
    assert "alert" in {one.event for one in audit_log(here / ".brookside").rows(ENDPOINT)}


def test_endpoint_that_is_not_there_is_left_out_with_a_note(azure: Emulator, here: Path) -> None:
    azure.drop(f"{azure.workspace}/onlineEndpoints/cost-prod")
    for word in ("--plan", "--configure-alerts"):
        ran = CliRunner().invoke(app, ["monitor", word, "--target", "azure", "-e", "prod"])
        assert ran.exit_code == 0, ran.output
        assert "cost-prod: 0 to do" in ran.stdout and "it is not there, so it is left out" in ran.stdout
    assert azure.find(insights(azure, "metricAlerts", f"{ENDPOINT}-latency")) is not None
    assert azure.find(insights(azure, "metricAlerts", "cost-prod-latency")) is None


def test_applying_twice_changes_nothing(azure: Emulator, here: Path) -> None:
    alert_plans(here, ["prod"], ENDPOINT, apply=True)
    count = len(azure.writes())
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert {one.what for one in plan.changes} == {"same"} and len(azure.writes()) == count


def test_change_made_in_the_portal_is_shown_and_undone(azure: Emulator, here: Path) -> None:
    alert_plans(here, ["prod"], ENDPOINT, apply=True)
    path = insights(azure, "metricAlerts", f"{ENDPOINT}-latency")
    found = azure.find(path)
    assert found is not None
    found["properties"]["criteria"]["allOf"][0]["threshold"] = 9000
    found["properties"]["enabled"] = False
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    (change,) = plan.open
    assert change.what == "change" and any("threshold is 9000" in one for one in change.differences)
    assert any("enabled is False" in one for one in change.differences)
    again = azure.find(path)
    assert again is not None and again["properties"]["criteria"]["allOf"][0]["threshold"] == 2000


def test_rule_that_is_gone_is_removed_and_others_stay(azure: Emulator, here: Path) -> None:
    alert_plans(here, ["prod"], "", apply=True)
    azure.put(
        insights(azure, "metricAlerts", "of-another-team"),
        {"location": "global", "tags": {"managed-by": "terraform"}},
    )
    azure.put(insights(azure, "metricAlerts", "untagged"), {"location": "global"})
    edit(here, "      inhibits: [zero-traffic, latency]\n", "      inhibits: [zero-traffic]\n")
    text = (here / FILE).read_text()
    begin, end = text.index("    latency:\n"), text.index("    availability:\n")
    (here / FILE).write_text((text[:begin] + text[end:]).replace("      inhibits: [latency]\n", ""))
    plans = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert [(one.what, one.name) for one in plans[0].open] == [("delete", f"{ENDPOINT}-latency")]
    assert azure.find(insights(azure, "metricAlerts", f"{ENDPOINT}-latency")) is None
    for name in ("cost-prod-latency", "of-another-team", "untagged"):
        assert azure.find(insights(azure, "metricAlerts", name)) is not None


def test_alert_of_somebody_else_under_our_name_is_left_alone(azure: Emulator, here: Path) -> None:
    path = insights(azure, "metricAlerts", f"{ENDPOINT}-latency")
    azure.put(
        path, {"location": "global", "properties": {"description": "theirs", "severity": 3, "enabled": True}}
    )
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert [one.name for one in plan.changes if one.what == "foreign"] == [f"{ENDPOINT}-latency"]
    found = azure.find(path)
    assert found is not None and found["properties"]["description"] == "theirs"


def test_alerts_that_are_off_are_removed(azure: Emulator, here: Path) -> None:
    alert_plans(here, ["prod"], ENDPOINT, apply=True)
    edit(here, "  enabled: true\n  # A channel", "  enabled: false\n  # A channel")
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert {one.what for one in plan.open} == {"delete"} and len(plan.open) == 6
    assert azure.find(insights(azure, "actionGroups", "ag-brookside")) is not None, "others may use it"


def test_refusal_names_the_role_that_is_missing(azure: Emulator, here: Path) -> None:
    azure.faults.append(
        Fault(403, "AuthorizationFailed", "The client may not do that.", "PUT", "metricAlerts")
    )
    with pytest.raises(AzureError, match=r"AuthorizationFailed.*Monitoring Contributor"):
        alert_plans(here, ["prod"], ENDPOINT, apply=True)
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert plan.open, "what was not made is made by the next one"
    (plan,) = alert_plans(here, ["prod"], ENDPOINT, apply=False)
    assert not plan.open


def test_missing_settings_are_named_before_anything_is_asked(
    azure: Emulator, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROOKSIDE_AZURE_ACTION_GROUP")
    with pytest.raises(InputError, match="BROOKSIDE_AZURE_ACTION_GROUP"):
        alert_plans(here, ["prod"], ENDPOINT, apply=True)
    monkeypatch.setenv("BROOKSIDE_AZURE_ACTION_GROUP", "ag-brookside")
    monkeypatch.setenv("BROOKSIDE_AZURE_LOG_WORKSPACE", "another")
    with pytest.raises(InputError, match="no workspace of the id another"):
        alert_plans(here, ["prod"], ENDPOINT, apply=True)
    assert azure.writes() == []


def test_command_shows_the_difference_and_makes_it_so(azure: Emulator, here: Path) -> None:
    shown = CliRunner().invoke(app, ["monitor", "--plan", "--target", "azure", "--endpoint", ENDPOINT])
    assert shown.exit_code == 0 and f"create   metric alert     {ENDPOINT}-latency" in shown.stdout
    made = CliRunner().invoke(
        app, ["monitor", "--configure-alerts", "--target", "azure", "--endpoint", ENDPOINT]
    )
    assert made.exit_code == 0 and "7 made" in made.stdout
    after = CliRunner().invoke(
        app, ["monitor", "--plan", "--target", "azure", "--endpoint", ENDPOINT, "--json"]
    )
    assert {one["what"] for one in json.loads(after.stdout)[0]["changes"]} == {"same"}


def test_plan_without_azure_is_refused(here: Path) -> None:
    refused = CliRunner().invoke(app, ["monitor", "--plan"])
    assert refused.exit_code == 2 and "--target azure" in refused.output


def test_plan_beside_what_writes_is_refused(azure: Emulator, here: Path) -> None:
    for writes in ("--configure-alerts", "--generate-dashboard"):
        words = ["monitor", writes, "--plan", "--target", "azure", "--endpoint", ENDPOINT]
        refused = CliRunner().invoke(app, words)
        assert refused.exit_code == 2 and "--plan" in refused.output and writes in refused.output
    assert azure.writes() == [] and not list(here.glob("dashboard-*"))


def test_refusal_reaches_the_shell_with_what_to_do(azure: Emulator, here: Path) -> None:
    azure.faults.append(
        Fault(403, "AuthorizationFailed", "The client may not do that.", "GET", "metricAlerts")
    )
    ran = CliRunner().invoke(app, ["monitor", "--plan", "--target", "azure", "--endpoint", ENDPOINT])
    assert (
        ran.exit_code == 1 and "AuthorizationFailed" in ran.output and "Monitoring Contributor" in ran.output
    )
