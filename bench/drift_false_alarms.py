"""How often features drift where nothing has moved, from a hundred to ten million rows, by each method.

    python bench/drift_false_alarms.py [--features 300] [--sizes 100 1000 ...] [--tables 10]

Both tables are drawn from the same distributions: normal, lognormal, counts, mostly zeros, a category and a boolean, with missing
values. `features` are the pairs of columns for each size, compared in reports of `--tables` features each. Beside our verdict stands what a
verdict on one number alone would have said: PSI >= 0.2 (size alone) and p of KS or chi-square < 0.05 (p alone, as is common). The
last column shows what our verdict finds where every column has moved by about 0.8 standard deviations (in up to a million rows):
what a small table cannot show is missed.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from typing import get_args

import numpy as np
import pyarrow as pa

from brookside_mlops.drift import Thresholds, compare
from brookside_mlops.drift_verdicts import NumberMethod
from brookside_mlops.profiles import profile

LETTERS = np.array(list("abcdefgh"))


def column(kind: int, rows: int, shift: float, generator: np.random.Generator) -> pa.Array:
    """Return a column of one of six shapes; `shift` moves it by so many standard deviations, or most of its levels."""
    if kind == 0:
        values = generator.normal(shift, 1, rows)
    elif kind == 1:
        values = generator.lognormal(shift, 1, rows)
    elif kind == 2:
        values = generator.poisson(4 + 2 * shift, rows).astype(float)
    elif kind == 3:
        values = np.where(generator.random(rows) < 0.7 - 0.4 * shift, 0.0, generator.normal(3, 1, rows))
    elif kind == 4:
        return pa.array(generator.integers(0, 8 if not shift else 4, rows).astype(np.int32)).cast(pa.string())
    else:
        return pa.array(generator.random(rows) < 0.3 + 0.4 * shift)
    return pa.array(values, mask=generator.random(rows) < 0.05)


def report(job: tuple[int, int, int, float]) -> dict[str, int]:
    """Return how many features drifted by each method in one pair of tables of some rows and features, by a seed."""
    rows, features, seed, shift = job
    generator = np.random.default_rng([rows, seed, int(10 * shift)])
    first, second = {}, {}
    for place in range(features):
        before = profile(pa.table({"x": column(place % 6, rows, 0.0, generator)}))
        now = profile(pa.table({"x": column(place % 6, rows, shift, generator)}), like=before)
        first[f"x{place}"], second[f"x{place}"] = before.features["x"], now.features["x"]
    sides = [type(before)(rows=rows, features=one) for one in (first, second)]
    found = {}
    for method in get_args(NumberMethod):
        limits = Thresholds(numbers=method, categories="jsd" if method == "jsd" else "psi")
        found[method] = len(compare(*sides, limits).drifted())
    singly = [
        compare(*(type(before)(rows=rows, features={name: side.features[name]}) for side in sides)).features[
            0
        ]
        for name in first
    ]
    found["size alone"] = sum((one.psi or 0) >= 0.2 for one in singly)
    found["p alone"] = sum((one.p or 1) < 0.05 for one in singly)
    return found


def main() -> None:
    """Print the share of features that drifted, for each number of rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", type=int, default=300)
    parser.add_argument("--tables", type=int, default=10)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000]
    )
    chosen = parser.parse_args()
    names = [*get_args(NumberMethod), "size alone", "p alone"]
    print(
        f"{'rows':>12} {'features':>9} "
        + " ".join(f"{name:>12}" for name in names)
        + f" {'moved: found':>14}"
    )
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for rows in chosen.sizes:
            count = chosen.features * (10 if rows <= 10_000 else 1)
            jobs = [(rows, chosen.tables, seed, 0.0) for seed in range(count // chosen.tables)]
            totals = dict.fromkeys(names, 0)
            for found in pool.map(report, jobs):
                totals = {name: totals[name] + found[name] for name in names}
            moved = list(pool.map(report, [(min(rows, 1_000_000), 6, seed, 0.8) for seed in range(5)]))
            share = sum(one["psi"] for one in moved) / 30
            print(
                f"{rows:12,} {count:9,} "
                + " ".join(f"{totals[name] / count:12.2%}" for name in names)
                + f" {share:14.0%}",
                flush=True,
            )
            worst = max(totals[method] for method in get_args(NumberMethod))
            if worst > 0.01 * count:
                raise SystemExit(f"{worst} of {count} features alarmed at {rows} rows: more than 1 %")


if __name__ == "__main__":
    main()
