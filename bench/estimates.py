"""Measure what is said of rows without labels: `python bench/estimates.py [--models 5] [--windows 20] [--rows 1000]`.

Models of the generated portfolio, accepted before its shift, are shown windows of rows that they have never seen: from before the shift,
where nothing may alarm, and from after it, where the labels say how good the estimate was. Every window has a seed of its own.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from brookside_mlops.bundle import Bundle
from brookside_mlops.explain import importance
from brookside_mlops.features import FeatureColumn, Features
from brookside_mlops.onnx_export import write_bundle
from brookside_mlops.portfolio import FEATURES, portfolio
from brookside_mlops.reference import Columns, drawn_rows, reference_of, write_reference
from brookside_mlops.training import Machine, Recipe, TrainingData, fit
from brookside_mlops.usecases import Task, UseCase
from brookside_mlops.version_drift import HEADLINES, Version, consequence_checks, inspect

SHIFT = pd.Timestamp("2025-10-01")
TEXTS = {"business_unit", "channel", "latency_need"}
CASES: dict[str, tuple[Task, str]] = {
    "viability": ("classification", "viable"),
    "cost": ("regression", "cost"),
}


def features_of(name: str, frame: pd.DataFrame) -> Features:
    """Return the features of a use case of the portfolio."""
    task, target = CASES[name]
    kinds = {
        column: "category" if column in TEXTS else "boolean" if frame[column].dtype == bool else "number"
        for column in FEATURES[name]
    }
    columns = tuple(FeatureColumn(name=column, kind=kind) for column, kind in kinds.items())  # type: ignore[arg-type]
    if task == "regression":
        return Features(task=task, columns=columns, target=target, log_target=True)
    return Features(task=task, columns=columns, target=target, classes=("no", "yes"), positive="yes")


def version_of(name: str, seed: int) -> Version:
    """Return a version trained on rows before the shift."""
    frame = portfolio(9_000, seed=seed)
    early = frame[frame["submitted_at"] < SHIFT].sample(frac=1, random_state=seed)
    train, valid, test = early[:4_500], early[4_500:6_000], early[6_000:]
    features = features_of(name, frame)
    model = fit(TrainingData(features, train, valid), Recipe(), Machine(seed=seed)).model
    task, target = CASES[name]
    case = UseCase(
        name=name, task=task, target=target, positive=features.positive, log_target=features.log_target
    )
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(Path(folder), model, case, test.head(2))
        bundle = Bundle.open(Path(folder))
        made = reference_of(bundle, train, test, Columns(target=target), importance(model, test))
        write_reference(Path(folder), made, drawn_rows(train, features.names(), 2_000))
        version = Version.open(Path(folder))
    assert version is not None
    return version


def windows(rows: int, seed: int) -> dict[str, pd.DataFrame]:
    """Return rows from before and from after the shift."""
    frame = portfolio(rows * 10, seed=10_000 + seed)
    late = frame["submitted_at"] >= SHIFT
    return {"before": frame[~late].sample(rows, random_state=seed), "after": frame[late].head(rows)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("models", 5), ("windows", 20), ("rows", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    for name, (task, _) in CASES.items():
        metric = HEADLINES[task]
        errors: dict[str, list[float]] = {"before": [], "after": []}
        unmoved: list[float] = []
        inside: Counter[str] = Counter()
        alarms: dict[str, Counter[str]] = {"before": Counter(), "after": Counter()}
        for model in range(options.models):
            version = version_of(name, model)
            for window in range(options.windows):
                for when, frame in windows(options.rows, 1_000 * model + window).items():
                    found = inspect(version, frame)
                    guess, real = found.expected[metric], found.real[metric]
                    errors[when].append(guess.value - real.value)
                    inside[when] += guess.low <= real.value <= guess.high
                    if when == "after":
                        unmoved.append(found.accepted[metric].value - real.value)
                    checks = consequence_checks(task, found)
                    alarms[when].update(check.name for check in checks if check.verdict != "pass")
                    alarms[when]["any feature"] += bool(found.features.drifted())
        total = options.models * options.windows
        print(f"\n{name}: {options.models} models, {total} windows of {options.rows:,} rows each, {metric}")
        for when, values in errors.items():
            found_errors = np.array(values)
            print(
                f"{when:6} the shift: estimate - real: mean {found_errors.mean():+.4f}, "
                f"mean absolute {np.abs(found_errors).mean():.4f}, largest {np.abs(found_errors).max():.4f}; real within the "
                f"interval of 95 %: {inside[when] / total:.0%}; alarms "
                + (
                    ", ".join(f"{said} {count}" for said, count in alarms[when].most_common() if count)
                    or "none"
                )
            )
        print(
            f"after  the shift: accepted - real, with no estimate: mean absolute {np.abs(np.array(unmoved)).mean():.4f}"
        )


if __name__ == "__main__":
    main()
