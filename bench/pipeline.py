"""What notebooks cost a whole pipeline: `brookside-mlops run` against the same stage functions in one script, side by side.

    python bench/pipeline.py [--runs 5] [--rows 20000]

Each run is a process and a project of its own, from the start of Python to the endpoint that answers. Runs alternate, so that whatever
else the machine does meets both, and both have OpenMP's threads sleep while they wait, as the notebooks' kernels do by themselves: on a
busy machine a script without that takes many times as long. The promise: the notebooks, with their pictures, take at most 1.25 times as
long as the script.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from brookside_mlops.endpoints.local import stop_all
from brookside_mlops.pipeline import LINE

PROMISE = 1.25
MADE = (
    "data.parquet",
    "train.parquet",
    "valid.parquet",
    "test.parquet",
    "features.json",
    "bundle/model.onnx",
)
PATIENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
NOTEBOOKS = "from brookside_mlops.cli import main; main()"
SCRIPT = """
import importlib, json, sys, time
from pathlib import Path
from brookside_mlops.runs import Run

run, spent = Run.create(Path.cwd(), "dev", "viability"), {}
for stage in json.loads(sys.argv[1]):
    begun = time.perf_counter()
    work = getattr(importlib.import_module(f"brookside_mlops.stages.{stage}"), stage)
    run.finish(work(run, rows=int(sys.argv[2])) if stage == "validate" else work(run))
    spent[stage] = time.perf_counter() - begun
Path("spent.json").write_text(json.dumps(spent))
"""


def seconds(words: list[str], project: Path) -> float:
    """Run a process in a project and return how long it took; its endpoints are stopped afterwards, outside the time."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], cwd=project, env=PATIENT, capture_output=True, text=True, check=False
    )
    taken = time.perf_counter() - begun
    stop_all(project / ".brookside")
    if done.returncode:
        raise SystemExit(f"a run failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return taken


def made_by(project: Path) -> tuple[dict[str, str], dict[str, float]]:
    """Return the digests of what a project's run made up to the model, and the seconds of its stages as its record has them."""
    (path,) = project.glob("parameterized/dev/*/run.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    spent = {stage: one["seconds"] for stage, one in record["stages"].items()}
    return {name: record["artifacts"][name]["sha256"] for name in MADE}, spent


def pair(rows: int) -> tuple[float, float, dict[str, float], dict[str, float]]:
    """Run both once and return the seconds of each, whole and by stage. Both must make the same model."""
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        notebooks = seconds(["-c", NOTEBOOKS, "run", "-p", f"rows={rows}"], Path(first))
        script = seconds(["-c", SCRIPT, json.dumps(LINE), str(rows)], Path(second))
        (ours, stages), (theirs, _) = made_by(Path(first)), made_by(Path(second))
        if apart := [name for name in MADE if ours[name] != theirs[name]]:
            raise SystemExit(f"the two made different files: {', '.join(apart)}")
        return (
            notebooks,
            script,
            stages,
            json.loads((Path(second) / "spent.json").read_text(encoding="utf-8")),
        )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    options = parser.parse_args()
    pairs = [pair(options.rows) for _ in range(options.runs)]
    print(
        f"{options.runs} pairs of runs, {options.rows:,} rows, load {os.getloadavg()[0]:.1f}; medians, seconds"
    )
    print(f"{'stage':12} {'notebooks':>10} {'script':>8}")
    for stage in LINE:
        ours, theirs = (statistics.median(one[place][stage] for one in pairs) for place in (2, 3))
        print(f"{stage:12} {ours:10.2f} {theirs:8.2f}")
    ours, theirs = (statistics.median(one[place] for one in pairs) for place in (0, 1))
    ratio = statistics.median(one[0] / one[1] for one in pairs)
    low, high = min(one[0] / one[1] for one in pairs), max(one[0] / one[1] for one in pairs)
    print(
        f"{'whole':12} {ours:10.2f} {theirs:8.2f}   {ratio:.2f} times ({low:.2f} to {high:.2f}); promised {PROMISE}"
    )


if __name__ == "__main__":
    main()
