"""The log of requests against a second count, and when the disk is full."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from brookside_mlops.endpoints.request_log import Entry, RequestLog, read_counts

STATUSES = [200, 399, 400, 422, 499, 500, 502, 503, 504]
ENTRIES = st.lists(
    st.builds(
        Entry,
        time=st.just(0.0),
        deployment=st.sampled_from(["blue", "green"]),
        kind=st.sampled_from(["live", "pinned", "mirror", "failover"]),
        status=st.sampled_from(STATUSES),
        seconds=st.sampled_from([0.001, 0.01, 0.1, 1.0]),
        rows=st.integers(0, 5),
        total=st.just(1.0),
        squares=st.just(1.0),
        agreed=st.just(0),
        classes=st.sampled_from(["", '{"yes": 2}', '{"no": 1, "yes": 1}']),
    ),
    max_size=30,
)


@settings(max_examples=25, deadline=None)
@given(ENTRIES, st.integers(0, 30))
@example([Entry(0.0, "blue", "live", status, 0.01) for status in STATUSES], 0)
def test_counts_are_those_of_the_rows(entries: list[Entry], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        log = RequestLog(Path(folder) / "requests.db", days=1e6)
        log.start()
        for entry in entries[:cut]:
            log.add(entry)
        log.flush()
        _, cursor = read_counts(log.path, 0, (5, 50, 500))
        for entry in entries[cut:]:
            log.add(entry)
        log.stop()
        found, _ = read_counts(log.path, cursor, (5, 50, 500))
    for name in ("blue", "green"):
        own = [one for one in entries[cut:] if one.deployment == name and one.kind == "live"]
        if not own:
            assert name not in found
            continue
        counts = found[name]
        assert counts.requests == len(own) and counts.errors == sum(one.status >= 500 for one in own)
        assert counts.refused == sum(400 <= one.status < 500 for one in own)
        assert counts.unavailable == sum(one.status in (502, 503, 504) for one in own)
        assert counts.slow == tuple(sum(one.seconds > limit for one in own) for limit in (0.005, 0.05, 0.5))
        yes = sum(json.loads(one.classes or "{}").get("yes", 0) for one in own)
        assert counts.classes.get("yes", 0) == yes and counts.rows == sum(one.rows for one in own)


def test_old_rows_are_forgotten_at_the_start(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests.db", days=2)
    log.start()
    log.add(Entry(time.time() - 3 * 86_400, "blue", "live", 200, 0.1))
    log.add(Entry(time.time(), "green", "live", 200, 0.1))
    log.stop()
    again = RequestLog(tmp_path / "requests.db", days=2)
    again.start()
    again.stop()
    assert list(read_counts(again.path, 0, (1, 1, 1))[0]) == ["green"]


def test_full_disk_keeps_rows_until_there_is_room(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from brookside_mlops.endpoints.request_log import Entry, RequestLog, read_counts\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log = RequestLog(Path(sys.argv[1])); log.start(); log._over.set(); log._thread.join()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))\n"
        "for _ in range(5000): log.add(Entry(1e12, 'blue', 'live', 200, 0.1))\n"
        "log.flush(); print(len(log._entries), log.lost)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "log.flush(); print(read_counts(log.path, 0, (1, 1, 1))[0]['blue'].requests)\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    command = [sys.executable, "-c", code, str(tmp_path / "requests.db")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert ended.stdout.split() == ["5000", "0", "5000"]
