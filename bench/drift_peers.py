"""One comparison of two Parquet tables by a peer, run in the peer's own environment: the numbers as JSON.

    python bench/drift_peers.py {evidently,nannyml} METHOD REFERENCE CURRENT

Imports neither this project nor anything that is not in that environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd


def evidently(method: str, before: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """Return the score of Evidently's drift preset for each column: a distance, or for ks and chisquare a p."""
    from evidently import Report
    from evidently.presets import DataDriftPreset

    categories = {"ks": "chisquare", "wasserstein": "jensenshannon"}.get(method, method)
    preset = DataDriftPreset(num_method=method, cat_method=categories)
    found: dict[str, Any] = Report([preset]).run(now, before).dict()
    return {
        one["config"]["column"]: float(one["value"]) for one in found["metrics"] if "column" in one["config"]
    }


def nannyml(method: str, before: pd.DataFrame, now: pd.DataFrame) -> dict[str, float]:
    """Return a distance of NannyML's univariate calculator for each column; all methods in `method`, the last is returned."""
    from nannyml import UnivariateDriftCalculator

    methods = method.split("+")
    calculator = UnivariateDriftCalculator(
        column_names=list(before.columns),
        continuous_methods=methods,
        categorical_methods=["jensen_shannon"],
        chunk_number=1,
    )
    calculator.fit(before)
    table = calculator.calculate(now).filter(period="analysis").to_df()
    kinds = {
        column: methods[-1] if (column, methods[-1], "value") in table.columns else "jensen_shannon"
        for column in before.columns
    }
    return {column: float(table[(column, kind, "value")].iloc[0]) for column, kind in kinds.items()}


def main() -> None:
    """Read both tables, compare them, and print seconds, peak memory in MB and the numbers."""
    warnings.simplefilter("ignore")
    # Both report their use over the network: a measurement must neither do that nor wait for it.
    os.environ |= {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1"}
    peer, method, reference, current = sys.argv[1:]
    work = {"evidently": evidently, "nannyml": nannyml}[peer]
    small = pd.DataFrame({"x": [0.1 * row for row in range(100)], "c": ["a", "b"] * 50})
    work(method, small, small)  # imports, and what is made once
    began, cpu = time.perf_counter(), time.process_time()
    before, now = pd.read_parquet(reference), pd.read_parquet(current)
    read = time.perf_counter()
    values = work(method, before, now)
    ended, ended_cpu = time.perf_counter(), time.process_time()
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))
    print(
        json.dumps(
            {
                "seconds": ended - began,
                "read": read - began,
                "cpu": ended_cpu - cpu,
                "peak": peak,
                "values": values,
            }
        )
    )


if __name__ == "__main__":
    main()
