"""Azure Monitor of the Azure on loopback: what its alerts and action groups must be, as the service checks them."""

from __future__ import annotations

import re
from typing import Any

from tests.azure.emulator import Emulator, Refused, Reply, Request, route

LOGS, CUSTOMER = "log-brookside", "0a1b2c3d-0000-4000-8000-00000000abcd"
MINUTES = {
    "PT1M": 1,
    "PT5M": 5,
    "PT10M": 10,
    "PT15M": 15,
    "PT30M": 30,
    "PT45M": 45,
    "PT1H": 60,
    "PT2H": 120,
    "PT6H": 360,
    "PT12H": 720,
    "P1D": 1440,
}


def add_logs(emulator: Emulator) -> None:
    """Put a Log Analytics workspace and the endpoints whose alerts are tested."""
    emulator.put(
        f"{emulator.group}/providers/Microsoft.OperationalInsights/workspaces/{LOGS}",
        {"location": "eastus", "properties": {"customerId": CUSTOMER}},
    )
    for name in ("viability-prod", "cost-prod", "patterns-prod"):
        properties = {"authMode": "Key", "properties": {}}
        body = {"location": "eastus", "properties": properties}
        emulator.put(f"{emulator.workspace}/onlineEndpoints/{name}", body)


def send(emulator: Emulator, endpoint: str) -> None:
    """Put the diagnostic setting that sends the logs of an endpoint to that workspace."""
    logs = f"{emulator.group}/providers/Microsoft.OperationalInsights/workspaces/{LOGS}"
    sent = [{"categoryGroup": "allLogs", "enabled": True}]
    emulator.put(
        f"{emulator.workspace}/onlineEndpoints/{endpoint}/providers/Microsoft.Insights/diagnosticSettings/mine",
        {"properties": {"workspaceId": logs, "logs": sent}},
    )


def bad(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def need(emulator: Emulator, ids: list[str]) -> None:
    for one in ids:
        if emulator.find(one) is None:
            raise bad(f"The resource {one} does not exist.")


def minutes(properties: dict[str, Any], key: str, allowed: tuple[int, ...]) -> int:
    found = MINUTES.get(properties.get(key, ""), 0)
    if found not in allowed:
        raise bad(f"{key} {properties.get(key)} is not supported.")
    return found


@route("PUT", r".*/providers/Microsoft.Insights/metricAlerts/(?P<name>[^/]+)")
def metric_alert(emulator: Emulator, request: Request) -> Reply:
    """Check a metric alert as the service does."""
    body = request.json
    if body.get("location") != "global":
        raise bad("location must be global")
    properties = body["properties"]
    every = minutes(properties, "evaluationFrequency", (1, 5, 15, 30, 60))
    window = minutes(properties, "windowSize", (1, 5, 15, 30, 60, 360, 720, 1440))
    if every > window or not 0 <= properties["severity"] <= 4:
        raise bad("evaluationFrequency must not be longer than windowSize, severity is 0 to 4")
    need(emulator, [*properties["scopes"], *(one["actionGroupId"] for one in properties["actions"])])
    criteria = properties["criteria"]
    if criteria["odata.type"] != "Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria":
        raise bad("criteria is not known")
    for one in criteria["allOf"]:
        if one["criterionType"] != "StaticThresholdCriterion" or not re.fullmatch(
            r"RequestLatency_P(50|90|95|99)", one["metricName"]
        ):
            raise bad(f"metric {one['metricName']} is not of {one['metricNamespace']}")
    reply = emulator.generic(request)
    reply.status = 200  # this one never says 201
    return reply


@route("PUT", r".*/providers/Microsoft.Insights/scheduledQueryRules/(?P<name>[^/]+)")
def scheduled_query(emulator: Emulator, request: Request) -> Reply | None:
    """Check a scheduled query as the service does."""
    properties = request.json["properties"]
    allowed = (1, 5, 10, 15, 30, 45, 60, 120, 360, 720, 1440)
    every, window = minutes(properties, "evaluationFrequency", allowed), minutes(
        properties, "windowSize", allowed[1:]
    )
    need(emulator, [*properties["scopes"], *properties["actions"]["actionGroups"]])
    for one in properties["criteria"]["allOf"]:
        failing = one["failingPeriods"]
        if not 1 <= failing["minFailingPeriodsToAlert"] <= failing["numberOfEvaluationPeriods"] <= 6:
            raise bad("failingPeriods are 1 to 6")
        if failing["numberOfEvaluationPeriods"] > 1 and window != every:
            raise bad("more than one period wants a window as long as the frequency")
        if (one["timeAggregation"] == "Count") == bool(one.get("metricMeasureColumn")):
            raise bad("metricMeasureColumn goes with another aggregation than Count")
    return None


@route("PUT", r".*/providers/Microsoft.Insights/actionGroups/(?P<name>[^/]+)")
def action_group(emulator: Emulator, request: Request) -> Reply | None:
    """Check an action group as the service does."""
    body = request.json
    if not 1 <= len(body["properties"]["groupShortName"]) <= 12 or body["location"].lower() not in (
        "global",
        "eastus",
    ):
        raise bad("groupShortName has 1 to 12 characters")
    return None
