"""How often a harmless canary is stopped, and how soon a bad one: our comparison beside what people use, on the same traffic.

    python bench/canary.py [--canaries 10000] [--longest 20000] [--seed 1]

The canary gets every tenth request. Everybody looks after every request, the z-test once a minute (100 requests). A canary that is not
stopped is watched for `--longest` of its own requests. Ours is made of `bets` and `log_ratios`, and is first compared with `add_stretch`,
one request at a time.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from brookside_mlops.evidence import Comparison, add_stretch, bets, log_ratios

ALPHA = 0.01
STABLE_RATE = 0.01
WORSE = (0.02, 0.05, 0.10, 0.50)
TARGETS = (1.5, 1.5, 1.7, 3.0)
BLOCK = 10  # requests, the last of them the canary's
MINUTE = 10  # blocks

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Traffic = Iterator[Bools]  # a block at a time: which requests fail, (canaries, BLOCK)


class Watcher(Protocol):
    """Looks at each block, (canary failed, failures of the stable deployment), and says which canaries it stops."""

    def look(self, canary: Bools, stable: Ints) -> Bools:
        """Return which canaries this look stops."""


class Ours:
    """The mixture of `evidence.py` for many canaries: capital per canary and bet, multiplied block by block."""

    def __init__(self, canaries: int, alpha: float) -> None:
        odds, weights = bets()
        sides = [[((1, k), (BLOCK - 1, other)) for other in range(BLOCK)] for k in (0, 1)]
        self.factors = np.exp([[log_ratios(canary, stable, odds) for canary, stable in row] for row in sides])
        self.capital = np.tile(weights, (canaries, 1))
        self.needed = 1 / alpha
        self.stopped = np.zeros(canaries, dtype=bool)

    def look(self, canary: Bools, stable: Ints) -> Bools:
        """Return whose capital reaches 1/alpha; blocks without a failure change nothing."""
        rows = np.flatnonzero((canary | (stable > 0)) & ~self.stopped)
        self.capital[rows] *= self.factors[canary[rows].astype(int), stable[rows]]
        self.stopped[rows] = self.capital[rows].sum(axis=1) >= self.needed
        return self.stopped


class FixedThreshold:
    """Stops above 5 % failures among the canary's last requests, once there are 30."""

    def __init__(self, canaries: int, window: int) -> None:
        self.last = np.zeros((window, canaries), dtype=bool)
        self.failures = np.zeros(canaries, dtype=np.int64)
        self.seen = 0

    def look(self, canary: Bools, stable: Ints) -> Bools:
        """Return where the share is too high."""
        slot = self.seen % len(self.last)
        self.failures += canary.astype(np.int64) - self.last[slot]
        self.last[slot] = canary
        self.seen += 1
        requests = min(self.seen, len(self.last))
        return (self.failures > 0.05 * requests) & (requests >= 30)


class PeekedZ:
    """A one-sided pooled z-test of all requests so far, once a minute, from 30 canary requests on."""

    def __init__(self, canaries: int) -> None:
        self.canary = np.zeros(canaries, dtype=np.int64)
        self.stable = np.zeros(canaries, dtype=np.int64)
        self.blocks = 0

    def look(self, canary: Bools, stable: Ints) -> Bools:
        """Return where z is above its quantile, at the end of a minute."""
        self.canary += canary
        self.stable += stable
        self.blocks += 1
        if self.blocks % MINUTE or self.blocks < 30:
            return np.zeros(len(canary), dtype=bool)
        n_c, n_s = self.blocks, (BLOCK - 1) * self.blocks
        pooled = (self.canary + self.stable) / (n_c + n_s)
        noise = np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_s))
        needed = stats.norm.isf(ALPHA) * np.maximum(noise, 1e-12)
        return np.asarray(self.canary / n_c - self.stable / n_s > needed)


class Wald:
    """Wald's sequential probability ratio test of the canary alone, told both rates beforehand."""

    def __init__(self, canaries: int, rate: float) -> None:
        self.gain = math.log(rate / STABLE_RATE), math.log((1 - rate) / (1 - STABLE_RATE))
        self.log_ratio = np.zeros(canaries)

    def look(self, canary: Bools, stable: Ints) -> Bools:
        """Return where the ratio reaches 1/alpha."""
        self.log_ratio += np.where(canary, *self.gain)
        return self.log_ratio >= math.log(1 / ALPHA)


def steady(
    rng: np.random.Generator, canaries: int, canary: float, stable: float, healthy: int = 0
) -> Traffic:
    """Yield traffic with set failure rates; for the first `healthy` blocks the canary fails as the stable deployment does."""
    rates = np.full(BLOCK, stable)
    while True:
        if healthy == 0:
            rates[-1] = canary
        healthy -= 1
        yield rng.random((canaries, BLOCK)) < rates


def swinging(rng: np.random.Generator, canaries: int) -> Traffic:
    """Yield traffic of one failure rate for both that goes up and down between 0.2 and 5 %."""
    block = 0
    while True:
        block += 1
        yield rng.random((canaries, BLOCK)) < 0.026 + 0.024 * math.sin(block / 300)


def outages(rng: np.random.Generator, canaries: int) -> Traffic:
    """Yield traffic in which 6 of 10 requests fail for a while, whoever is asked: 25 requests on average, every 1,000."""
    left = np.zeros(canaries)
    position = np.arange(BLOCK)
    while True:
        fresh = (left <= 0) & (rng.random(canaries) < 0.01)
        begin = np.where(fresh, rng.integers(0, BLOCK, canaries), 0)
        left = np.where(fresh, rng.geometric(1 / 25, canaries), np.maximum(left, 0))
        out = (position >= begin[:, None]) & (position < (begin + left)[:, None])
        yield rng.random((canaries, BLOCK)) < np.where(out, 0.6, 0.005)
        left -= BLOCK - begin


def round_and_round(rng: np.random.Generator, canaries: int) -> Traffic:
    """Yield traffic of 20 requests sent over and over, one of which always fails, whoever is asked."""
    bad = rng.integers(0, 2 * BLOCK, canaries)
    while True:
        for begin in (0, BLOCK):
            yield bad[:, None] - begin == np.arange(BLOCK)


def watch(watchers: Sequence[Watcher], traffic: Traffic, canaries: int, longest: int) -> Ints:
    """Return after how many of its requests each watcher (row) stopped each canary (column), 0 for never."""
    stops = np.zeros((len(watchers), canaries), dtype=np.int64)
    for block, failed in zip(range(1, longest + 1), traffic, strict=False):
        canary, stable = failed[:, -1], failed[:, :-1].sum(axis=1)
        for row, watcher in zip(stops, watchers, strict=True):
            row[watcher.look(canary, stable) & (row == 0)] = block
        if stops.all():
            break
    return stops


def check_against_add_stretch(canaries: int = 20, blocks: int = 300) -> None:
    """Raise SystemExit where ours is not what `add_stretch` says when it is given one request at a time."""
    traffic = steady(np.random.default_rng(0), canaries, 0.1, 0.02)
    failures = np.array([next(traffic) for _ in range(blocks)])
    ours = Ours(canaries, ALPHA)
    stops = watch([ours], iter(failures), canaries, blocks)[0]
    for one in range(canaries):
        known, stopped = Comparison(), 0
        for block, failed in enumerate(failures[:, one], 1):
            for request in failed[:-1]:
                known = add_stretch(known, (0, 0), (1, int(request)))
            known = add_stretch(known, (1, int(failed[-1])), (0, 0))
            if known.highest >= 1 / ALPHA:
                stopped = block
                break
        if stopped != stops[one] or not math.isclose(known.e_value(), ours.capital[one].sum()):
            raise SystemExit(f"canary {one}: stopped at {stops[one]} here, at {stopped} by add_stretch")


def bound(rate: float) -> float:
    """Return Wald's bound for known rates: the mean number of canary requests that no test with this alpha goes below."""
    information = rate * math.log(rate / STABLE_RATE) + (1 - rate) * math.log((1 - rate) / (1 - STABLE_RATE))
    return math.log(1 / ALPHA) / information


def percent(value: float) -> str:
    """Return a share as people write it."""
    return f"{round(100 * value, 2):g} %"


def share(stops: Ints) -> str:
    """Return the share that was stopped, with its standard error."""
    found = float((stops > 0).mean())
    return f"{percent(found)} ± {percent(math.sqrt(found * (1 - found) / len(stops)))}"


def taken(stops: Ints, longest: int) -> Ints:
    """Return the requests until the stop, all of them where there was none."""
    return np.where(stops > 0, stops, longest)


def ratio(stops: Ints, rate: float, longest: int) -> str:
    """Return the mean over the bound, with its standard error; a canary that was never stopped counts as `longest`."""
    ratios = taken(stops, longest) / bound(rate)
    never = float((stops == 0).mean())
    told = f"{ratios.mean():.2f} ± {ratios.std() / math.sqrt(len(ratios)):.2f}"
    return f"≥ {told}, {percent(never)} never" if never else told


def watchers(canaries: int, rate: float | None) -> dict[str, Watcher]:
    """Return those that watch the same traffic, by name; Wald's test needs the canary's rate."""
    found: dict[str, Watcher] = {
        "this comparison": Ours(canaries, ALPHA),
        "as `decide` uses it, alpha halved": Ours(canaries, ALPHA / 2),
        "over 5 % of the last 50": FixedThreshold(canaries, 50),
        "over 5 % of the last 500": FixedThreshold(canaries, 500),
        "z-test, peeked every minute": PeekedZ(canaries),
    }
    return found | ({"Wald's test, rates known": Wald(canaries, rate)} if rate else {})


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(row)} |")
    print(flush=True)


def side_by_side(canaries: int, longest: int, rng: np.random.Generator) -> bool:
    """Print false aborts and requests to detection of all; return whether ours keeps its targets."""
    cells: dict[str, list[str]] = {}
    kept = True
    for rate in (0.01, 0.05):
        all_of_them = watchers(canaries, None)
        stops = watch(list(all_of_them.values()), steady(rng, canaries, rate, rate), canaries, longest)
        for name, row in zip(all_of_them, stops, strict=True):
            cells.setdefault(name, []).append(share(row))
        kept &= float((stops[0] > 0).mean()) <= ALPHA
    for rate, target in zip(WORSE, TARGETS, strict=True):
        all_of_them = watchers(canaries, rate)
        stops = watch(list(all_of_them.values()), steady(rng, canaries, rate, STABLE_RATE), canaries, longest)
        for name, row in zip(all_of_them, stops, strict=True):
            cells.setdefault(name, ["-", "-"]).append(ratio(row, rate, longest))
        kept &= float(taken(stops[0], longest).mean()) <= target * bound(rate)
    cells["target"] = [
        f"<= {percent(ALPHA)}",
        f"<= {percent(ALPHA)}",
        *(f"<= {target:g}" for target in TARGETS),
    ]
    head = [
        "",
        "false aborts at 1 %",
        "at 5 %",
        *(f"1 % to {percent(rate)} (bound {bound(rate):,.1f})" for rate in WORSE),
    ]
    table(head, [[name, *found] for name, found in cells.items()])
    return kept


def uneven(canaries: int, longest: int, rng: np.random.Generator) -> None:
    """Print false aborts of ours where both fail alike but traffic is not even."""
    kinds: dict[str, Callable[[np.random.Generator, int], Traffic]] = {
        "the rate goes between 0.2 and 5 %": swinging,
        "outages that hit both": outages,
        "20 requests sent round and round, one of them bad": round_and_round,
    }
    rows = []
    for name, traffic in kinds.items():
        stops = watch([Ours(canaries, ALPHA)], traffic(rng, canaries), canaries, longest)[0]
        rows.append([name, share(stops)])
    table(["no difference, but", "false aborts"], rows)


def late(canaries: int, longest: int, rng: np.random.Generator) -> None:
    """Print how many requests ours needs for a fault that begins after some healthy requests."""
    rows = []
    for healthy in (0, 500, 2_000):
        row = [f"{healthy:,}"]
        for rate in WORSE:
            traffic = steady(rng, canaries, rate, STABLE_RATE, healthy)
            stops = watch([Ours(canaries, ALPHA)], traffic, canaries, healthy + longest)[0]
            until = taken(stops, healthy + longest) - healthy
            row.append(f"{until[until > 0].mean():,.0f}")
        rows.append(row)
    table(["healthy canary requests before", *(f"then {percent(rate)}" for rate in WORSE)], rows)


def main() -> None:
    """Simulate and print tables; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--canaries", type=int, default=10_000, help="simulated at each point; few are noisy")
    parser.add_argument(
        "--longest", type=int, default=20_000, help="canary requests after which nobody looks any more"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.perf_counter()
    check_against_add_stretch()
    rng = np.random.default_rng(options.seed)
    print(
        f"{options.canaries:,} canaries a point, up to {options.longest:,} canary requests each, alpha {ALPHA:g}; stable deployment fails "
        f"{percent(STABLE_RATE)}.\nDetection: mean canary requests over Wald's bound log(1/alpha)/KL. ± is one standard error.\n"
    )
    kept = side_by_side(options.canaries, options.longest, rng)
    uneven(options.canaries, options.longest // 4, rng)
    fewer = max(options.canaries // 5, 1)
    print(
        f"Faults that begin late: mean canary requests from the fault to the stop ({fewer:,} canaries a point)\n"
    )
    late(fewer, options.longest, rng)
    print(f"{'Targets kept' if kept else 'A target was missed'}; {time.perf_counter() - begun:.0f} s.")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
