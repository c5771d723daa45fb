"""Time to summarise a log of requests: ours against pandas and against SQL alone, side by side in one run.

    python bench/monitoring.py [--rows 1000000] [--rounds 3]

The log is the one that an endpoint writes, an hour long; all make the same sixty windows with counts, error rate and P50, P95, P99, and
the results are compared. `report` makes versions and predictions besides. pandas reads the same columns with read_sql_query and groups
them; SQL ranks the rows of each window. Medians of the rounds; they take turns. Memory is the peak of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from brookside_mlops.endpoints.request_log import Entry, RequestLog
from brookside_mlops.monitoring import Tenure, by_version, read_rows, windows
from brookside_mlops.monitoring_predictions import read_predictions

START, HOUR, WIDTH = 1_700_000_040.0, 3600.0, 60.0
RANKED = """
with placed as (
    select cast((time - :start) / 60 as int) as place, seconds, status,
        row_number() over (partition by cast((time - :start) / 60 as int) order by seconds) as rank,
        count(*) over (partition by cast((time - :start) / 60 as int)) as n
    from request where time >= :start and time < :end and kind = 'live')
select place, n, sum(status >= 500), max(case when rank = cast(0.5 * (n - 1) as int) + 1 then seconds end),
    max(case when rank = cast(0.95 * (n - 1) as int) + 1 then seconds end),
    max(case when rank = cast(0.99 * (n - 1) as int) + 1 then seconds end)
from placed group by place order by place
"""


def make(path: Path, rows: int) -> None:
    """Write a log of an hour."""
    RequestLog(path, days=1e6).start()
    chance = np.random.default_rng(1)
    times = np.sort(START + HOUR * chance.random(rows)).tolist()
    seconds = chance.lognormal(-4.6, 0.6, rows).tolist()
    status = chance.choice(
        [200, 200, 200, 200, 422, 500, 503], rows, p=[0.24, 0.24, 0.24, 0.24, 0.02, 0.01, 0.01]
    )
    names = chance.choice(["blue", "green"], rows, p=[0.9, 0.1]).tolist()
    classes = ('{"no": 1}', '{"yes": 1}')
    entries = (
        Entry(at, name, "live", code, took, 1, 0.5, 0.25, classes[place % 2])
        for place, (at, name, code, took) in enumerate(
            zip(times, names, status.tolist(), seconds, strict=True)
        )
    )
    fields = ", ".join(Entry._fields)
    with closing(sqlite3.connect(path)) as database, database:
        database.executemany(
            f"insert into request ({fields}) values ({', '.join('?' * len(Entry._fields))})", entries
        )


def ours(path: Path) -> list[list[float]]:
    """Summarise with this package."""
    found = windows(read_rows(path, START, START + HOUR), START, START + HOUR, WIDTH)
    return [
        [one.requests or 0, one.errors, one.p50_ms or 0, one.p95_ms or 0, one.p99_ms or 0] for one in found
    ]


def report(path: Path) -> list[list[float]]:
    """Summarise as a report does: versions and predictions too."""
    rows = read_rows(path, START, START + HOUR)
    by_version(rows, [Tenure(deployment=name, version=1, since=0) for name in ("blue", "green")])
    read_predictions(path, START, START + HOUR)
    found = windows(rows, START, START + HOUR, WIDTH)
    return [
        [one.requests or 0, one.errors, one.p50_ms or 0, one.p95_ms or 0, one.p99_ms or 0] for one in found
    ]


def with_pandas(path: Path) -> list[list[float]]:
    """Summarise with pandas; its import is not counted."""
    import pandas as pd

    with closing(sqlite3.connect(path)) as database:
        query = "select time, seconds, status, deployment from request where time >= ? and time < ? and kind = 'live'"
        table = pd.read_sql_query(query, database, params=(START, START + HOUR))
    groups = table.assign(error=table["status"] >= 500).groupby((table["time"] - START) // WIDTH)
    shares = groups["seconds"].quantile([0.5, 0.95, 0.99]).unstack() * 1000
    counts = groups["error"].agg(["size", "sum"])
    return [[float(one) for one in (*counts.loc[at], *shares.loc[at])] for at in counts.index]


def with_sql(path: Path) -> list[list[float]]:
    """Summarise in the database alone; its percentiles are the rows at or below those of the others."""
    with closing(sqlite3.connect(path)) as database:
        found = database.execute(RANKED, {"start": START, "end": START + HOUR}).fetchall()
    return [[n, errors, *(1000 * one for one in times)] for _, n, errors, *times in found]


WAYS = {"ours": ours, "report": report, "pandas": with_pandas, "sql": with_sql}


def alone(way: str, path: Path) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--log", str(path)]
    return dict(json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout))


def peak() -> float:
    """Return the highest resident memory of this process so far, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def measure(way: str, path: Path) -> None:
    """Print what one way takes, for the process that asked."""
    import pandas as _  # noqa: F401  (for all, so that nobody pays for it)

    before = peak()
    begun, worked = time.perf_counter(), time.process_time()
    found = WAYS[way](path)
    seconds, worked = time.perf_counter() - begun, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "cpu": worked, "mb": peak() - before, "found": found}))


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", default="")
    parser.add_argument("--log", type=Path, default=Path())
    asked = parser.parse_args()
    if asked.way:
        measure(asked.way, asked.log)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requests.db"
        make(path, asked.rows)
        runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
        for _ in range(asked.rounds):
            for way, found in runs.items():
                found.append(alone(way, path))
    first = np.array(runs["ours"][0]["found"])
    for way, found in runs.items():
        other = np.array(found[0]["found"])
        same = bool(
            np.allclose(first[:, :2], other[:, :2])
            and np.allclose(first, other, rtol=2e-2 if way == "sql" else 1e-9)
        )
        seconds, cpu, memory = (
            statistics.median(one[name] for one in found) for name in ("seconds", "cpu", "mb")
        )
        print(
            f"{way:8} {asked.rows:>10,} rows  {seconds:6.2f} s, {cpu:5.2f} s of one core  {memory:6.0f} MB more  same numbers: {same}"
        )


if __name__ == "__main__":
    main()
