"""The ingestion of Application Insights on loopback: envelopes come in over HTTPS and are kept."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

from tests.azure.emulator import Emulator, Reply, Request, route

KEY = "0c0ffee0-0000-4000-8000-000000000000"


def connection_string(emulator: Emulator) -> str:
    """Return what leads the SDK to this ingestion."""
    return f"InstrumentationKey={KEY};IngestionEndpoint={emulator.address}/;LiveEndpoint={emulator.address}/"


@route("POST", r"/v2(\.1)?/track")
def track(emulator: Emulator, request: Request) -> Reply:
    """Take envelopes in, and say that each was taken."""
    body = (
        gzip.decompress(request.body) if request.headers.get("content-encoding") == "gzip" else request.body
    )
    text = body.decode()
    found = (
        json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line]
    )
    emulator.more.setdefault("envelopes", []).extend(found)
    return Reply(200, {"itemsReceived": len(found), "itemsAccepted": len(found), "errors": []})


def envelopes(emulator: Emulator, kind: str) -> list[dict[str, Any]]:
    """Return the data of the envelopes of a kind: RequestData, MetricData."""
    found = list(emulator.more.get("envelopes", []))
    return [one["data"]["baseData"] for one in found if one["data"]["baseType"] == kind]


def metrics(emulator: Emulator, name: str) -> list[tuple[float, dict[str, str]]]:
    """Return what came of a metric: value and properties."""
    return [
        (point["value"], one.get("properties", {}))
        for one in envelopes(emulator, "MetricData")
        for point in one["metrics"]
        if point["name"] == name
    ]


def until(true: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something holds; AssertionError where it never does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
