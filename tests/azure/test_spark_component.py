"""The Spark component runs by its own arguments on a small Spark, with folders and with addresses."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.azure.walk import command_of, copy_code, environment

ROOT = Path(__file__).resolve().parent.parent.parent
COMPONENT = yaml.safe_load((ROOT / "azure-ml" / "components" / "spark_drift.yml").read_text())


def run(folder: Path, reference: str, current: str, days: float = 0) -> subprocess.CompletedProcess[str]:
    """Run the entry of the component in a copy of its code, with the arguments that the component gives it."""
    code = folder / "code"
    copy_code(ROOT, code)
    inputs = {"environment": "dev", "reference": reference, "current": current, "days": f"{days:g}"}
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


@pytest.mark.spark
def test_component_reads_what_a_deployment_collected_in_the_last_days(tmp_path: Path) -> None:
    reference, _ = tables(tmp_path, 0.0)
    chance, now = np.random.default_rng(2), datetime.now(UTC)
    for days, moved in ((1, 1.0), (20, 50.0)):
        at = now - timedelta(days=days)
        folder = tmp_path / "collected" / f"{at:%Y/%m/%d/%H}"
        folder.mkdir(parents=True)
        rows = [
            {"size": float(one), "kind": "a" if one > moved else "b"} for one in chance.normal(moved, 1, 600)
        ]
        event = {"specversion": "1.0", "id": str(days), "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
        lines = [json.dumps({**event, "data": rows[begin : begin + 3]}) for begin in range(0, 600, 3)]
        (folder / "events.jsonl").write_text("\n".join(lines))
    ran = run(tmp_path, str(reference), str(tmp_path / "collected"), 7)
    assert ran.returncode == 1, ran.stderr
    assert report(tmp_path)["rows"] == [800, 600], "older rows are not counted"
