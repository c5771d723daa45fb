"""Metrics against a second computation of the same rows."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brookside_mlops.endpoints.request_log import Entry, RequestLog
from brookside_mlops.monitoring import Rows, Tenure, by_version, read_rows, summarise, windows
from brookside_mlops.monitoring_predictions import read_predictions

START = 1_700_000_040.0
ENTRIES = st.lists(
    st.builds(
        Entry,
        time=st.integers(0, 3_599).map(lambda second: START + second),
        deployment=st.sampled_from(["blue", "green", ""]),
        kind=st.sampled_from(["live", "live", "pinned", "mirror", "failover"]),
        status=st.sampled_from([200, 200, 400, 401, 422, 429, 500, 501, 502, 503, 504, 507]),
        seconds=st.floats(0.0001, 20),
        rows=st.integers(1, 3),
        total=st.floats(-5, 5),
        squares=st.just(1.0),
        classes=st.sampled_from(["", '{"yes": 2}', '{"no": 1, "yes": 1}']),
        agreed=st.just(0),
    ),
    max_size=80,
)


def written(entries: list[Entry], folder: str) -> Path:
    log = RequestLog(Path(folder) / "requests.db", days=1e6)
    log.start()
    for entry in entries:
        log.add(entry)
    log.stop()
    return log.path


def read(entries: list[Entry]) -> Rows:
    with tempfile.TemporaryDirectory() as folder:
        return read_rows(written(entries, folder), START, START + 3_600)


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
@example([Entry(START + 1, "blue", "live", 503, 0.1), Entry(START + 1, "green", "failover", 200, 0.1)])
def test_windows_are_those_of_the_rows_counted_one_by_one(entries: list[Entry]) -> None:
    rows = read(entries)
    for found in windows(rows, START, START + 3_600, 600):
        own = [one for one in entries if found.start <= one.time < found.end]
        live = [one for one in own if one.kind == "live"]
        saved = sum(one.kind == "failover" and one.status < 500 for one in own)
        if not entries or min(one.time for one in entries if one.kind) >= found.end:
            assert found.requests is None and found.error_rate is None
            continue
        assert found.requests == len(live)
        if not live:
            assert (found.error_rate, found.availability, found.p95_ms) == (None, None, None)
            continue
        errors = max(0, sum(one.status >= 500 for one in live) - saved)
        missing = max(0, sum(502 <= one.status <= 504 for one in live) - saved)
        assert (found.errors, found.error_rate) == (errors, errors / len(live))
        assert found.availability == 1 - missing / len(live)
        assert found.refused_rate == sum(400 <= one.status < 500 for one in live) / len(live)
        assert sum(found.categories.values()) == sum(one.status >= 400 for one in live)


@settings(max_examples=60, deadline=None)
@given(ENTRIES)
def test_percentiles_are_those_of_numpy_and_of_the_standard_library(entries: list[Entry]) -> None:
    found = summarise(read(entries), START, START + 3_600)
    times = [one.seconds for one in entries if one.kind == "live" and one.deployment]
    if not times:
        assert (found.p50_ms, found.p95_ms, found.p99_ms) == (None, None, None)
        return
    ours = (found.p50_ms, found.p95_ms, found.p99_ms)
    assert ours == pytest.approx([1_000 * np.percentile(times, share) for share in (50, 95, 99)], rel=1e-12)
    if len(times) > 1:
        cuts = statistics.quantiles(times, n=100, method="inclusive")
        assert ours == pytest.approx([1_000 * cuts[share - 1] for share in (50, 95, 99)])


@settings(max_examples=40, deadline=None)
@given(ENTRIES, st.integers(0, 3_600), st.integers(0, 3_600))
def test_versions_share_out_all_requests(entries: list[Entry], first: int, second: int) -> None:
    tenures = [
        Tenure(deployment="blue", version=1, since=START),
        Tenure(deployment="green", version=2, since=START + first),
        Tenure(deployment="blue", version=3, since=START + second),
    ]
    found = by_version(read(entries), tenures)
    asked = [one for one in entries if one.deployment and one.kind != "mirror"]
    assert sum(one.requests for one in found) == len(asked)
    for one in found:
        since = {1: START, 2: START + first, 3: START + second}.get(one.version, 0)
        until = START + second if one.version == 1 else START + first if one.version == 0 else START + 3_600
        name = {1: "blue", 2: "green", 3: "blue", 0: "green"}[one.version]
        own = [one for one in asked if one.deployment == name and since <= one.time < until]
        assert (one.requests, one.errors) == (len(own), sum(entry.status >= 500 for entry in own))
        right = [entry.seconds for entry in own if entry.status == 200]
        assert one.p50_ms == (pytest.approx(1_000 * statistics.median(right)) if right else None)


@settings(max_examples=40, deadline=None)
@given(ENTRIES)
def test_predictions_are_those_of_the_rows(entries: list[Entry]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = read_predictions(written(entries, folder), START, START + 3_600)
    own = [one for one in entries if one.status == 200 and one.kind != "mirror"]
    assert {one.deployment for one in found} == {one.deployment for one in own}
    for one in found:
        mine = [entry for entry in own if entry.deployment == one.deployment]
        rows = sum(entry.rows for entry in mine)
        assert one.rows == rows and one.mean == pytest.approx(sum(entry.total for entry in mine) / rows)
        assert one.classes.get("yes", 0) == sum(
            {"": 0, '{"yes": 2}': 2}.get(entry.classes, 1) for entry in mine
        )


def test_rows_come_in_the_order_of_their_times_whatever_the_clock_did() -> None:
    rows = read([Entry(START + second, "blue", "live", 200, 1.0) for second in (50, 10, 30)])
    assert rows.time.tolist() == [START + 10, START + 30, START + 50]


def test_before_the_first_row_nothing_is_known_and_after_the_last_one_nobody_asked() -> None:
    rows = read([Entry(START + 600, "blue", "live", 200, 1.0)])
    before, during, after = (summarise(rows, START + at, START + at + 60) for at in (540, 600, 660))
    assert (before.requests, before.rate) == (None, None)
    assert (during.requests, during.error_rate, during.availability) == (1, 0.0, 1.0)
    assert (after.requests, after.rate, after.error_rate, after.availability) == (0, 0.0, None, None)
