"""What is sent to Azure Monitor is Kusto, by Microsoft's own parser, about columns that its tables have."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from brookside_mlops.alert_rules import Metric
from brookside_mlops.azure_queries import (
    alert_query,
    classes_query,
    counts_query,
    deployments_query,
    literal,
    parts_query,
    predictions_query,
    watched_query,
    whole_query,
)
from brookside_mlops.endpoints.azure_metrics import traffic_query

# The columns that are asked about, as Azure Monitor's reference of tables lists them.
TABLES = {
    "AmlOnlineEndpointTrafficLog": "(TimeGenerated: datetime, EndpointName: string, DeploymentName: string, ResponseCode: int, "
    "ModelStatusCode: int, TotalDurationMs: int, XRequestId: string)",
    "AmlOnlineEndpointConsoleLog": "(TimeGenerated: datetime, EndpointName: string, DeploymentName: string, Message: string)",
    "AppMetrics": "(TimeGenerated: datetime, Name: string, Sum: real, Min: real, Max: real, ItemCount: int, Properties: dynamic)",
}
NAMES = ("viability-prod", "it's \\ a \n name'; drop")
NODE = shutil.which("node")
PARSER = (
    Path(os.environ.get("BROOKSIDE_NODE_PACKAGES", "")) / "node_modules" / "@kusto" / "language-service-next"
)


def queries(endpoint: str) -> dict[str, str]:
    found = {
        "counts": counts_query(endpoint, (500, 2000, 3000.5)),
        "counts since": counts_query(
            endpoint, (500, 2000, 3000), datetime(2026, 11, 28, 2, 3, 4, 5, tzinfo=UTC)
        ),
        "each request": traffic_query(endpoint, datetime(2026, 11, 28, 2, 3, 4, 5, tzinfo=UTC)),
        "whole": whole_query(endpoint),
        "parts": parts_query(endpoint, 300),
        "deployments": deployments_query(endpoint),
        "predictions": predictions_query(endpoint),
        "classes": classes_query(endpoint),
    }
    for metric in get_args(Metric):
        found |= {
            f"alert {metric}": alert_query(endpoint, metric),
            f"watched {metric}": watched_query(endpoint, metric),
        }
    return found


def faults(texts: list[str]) -> list[list[str]]:
    said = subprocess.run(
        [str(NODE), str(Path(__file__).with_name("kusto.js"))],
        input=json.dumps({"tables": TABLES, "queries": texts}),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[list[str]] = json.loads(said.stdout)
    return found


@pytest.mark.skipif(
    not NODE or not PARSER.is_dir(),
    reason="needs Node, and BROOKSIDE_NODE_PACKAGES with @kusto/language-service-next",
)
def test_every_query_is_kusto_about_columns_that_there_are() -> None:
    asked = {(name, endpoint): text for endpoint in NAMES for name, text in queries(endpoint).items()}
    wrong = ["AmlOnlineEndpointTrafficLog | where Colour == 1", "AppMetrics | summarise count()"]
    found = faults([*asked.values(), *wrong])
    assert all(found[-2:]), "a parser that finds nothing proves nothing"
    assert {key: said for key, said in zip(asked, found, strict=False) if said} == {}


def test_name_stays_a_literal() -> None:
    assert literal("a'; drop") == "'a\\'; drop'"
    assert "\n | where" not in literal("\n | where")
