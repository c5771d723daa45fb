"""The Spark component runs by its own arguments on a small Spark, with folders and with addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.azure.walk import command_of, copy_code, environment

ROOT = Path(__file__).resolve().parent.parent.parent
COMPONENT = yaml.safe_load((ROOT / "azure-ml" / "components" / "spark_drift.yml").read_text())


def run(folder: Path, reference: str, current: str) -> subprocess.CompletedProcess[str]:
    """Run the entry of the component in a copy of its code, with the arguments that the component gives it."""
    code = folder / "code"
    copy_code(ROOT, code)
    inputs = {"environment": "dev", "reference": reference, "current": current}
    words = command_of(COMPONENT["args"], inputs, {"report": folder / "report"})
    return subprocess.run(
        f"{sys.executable} {COMPONENT['entry']['file']} {words}",
        shell=True,
        cwd=code,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def tables(folder: Path, shift: float) -> tuple[Path, Path]:
    """Write two tables of a number and a word, the second one moved."""
    chance = np.random.default_rng(1)
    for name, moved in (("reference", 0.0), ("current", shift)):
        (folder / name).mkdir()
        for part in range(2):
            frame = pd.DataFrame(
                {"size": chance.normal(moved, 1, 400), "kind": chance.choice(["a", "b"], 400)}
            )
            frame.to_parquet(folder / name / f"part-{part}.parquet")
    return folder / "reference", folder / "current"


def report(folder: Path) -> dict[str, object]:
    (part,) = (folder / "report").glob("part-*")
    found: dict[str, object] = json.loads(part.read_text())
    return found


@pytest.mark.spark
def test_component_finds_what_one_machine_finds(tmp_path: Path) -> None:
    reference, current = tables(tmp_path, 1.0)
    ran = run(tmp_path, str(reference), str(current))
    assert ran.returncode == 1, ran.stderr
    found = report(tmp_path)
    assert found["verdict"] == "critical" and found["rows"] == [800, 800]
    assert "1 of 2 features drifted (50%): size" in ran.stdout


@pytest.mark.spark
def test_component_takes_addresses_and_passes_where_nothing_moved(tmp_path: Path) -> None:
    reference, current = tables(tmp_path, 0.0)
    pd.concat(pd.read_parquet(one) for one in sorted(current.iterdir())).to_csv(
        tmp_path / "now.csv", index=False
    )
    ran = run(tmp_path, reference.as_uri(), (tmp_path / "now.csv").as_uri())
    assert ran.returncode == 0, ran.stderr
    assert report(tmp_path)["verdict"] in ("pass", "none")
