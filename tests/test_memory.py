"""What reads a whole table needs no more memory for a longer one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROWS = (400_000, 2_400_000)
# VmHWM begins anew with the program; the ru_maxrss of a child begins at that of the process that started it.
PROGRAM = """
import sys
from pathlib import Path
from brookside_mlops.contract_inference import infer_contract
from brookside_mlops.profiles import profile_file
{"infer": infer_contract, "profile": profile_file}[sys.argv[1]](sys.argv[2])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) // 1024)
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Write two tables of numbers, six times as long the second, four of its columns different in each row."""
    folder, generator, paths = tmp_path_factory.mktemp("long"), np.random.default_rng(0), []
    for rows in ROWS:
        frame = pd.DataFrame({f"id_{place}": generator.permutation(rows) for place in range(4)})
        for place in range(4):
            frame[f"x{place}"] = generator.normal(size=rows)
        paths.append(folder / f"{rows}.parquet")
        frame.to_parquet(paths[-1], row_group_size=65_536)
    return paths


@pytest.mark.parametrize("work", ["infer", "profile"])
def test_a_table_six_times_as_long_takes_no_more_memory(work: str, tables: list[Path]) -> None:
    peaks = []
    for path in tables:
        words = [sys.executable, "-c", PROGRAM, work, str(path)]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 60, f"peaks of {peaks} MB for {ROWS} rows"
