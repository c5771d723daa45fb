"""The comparison of two deployments stays valid at every look, and its bounds hold."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from brookside_mlops.evidence import (
    Comparison,
    add_stretch,
    bets,
    difference_interval,
    log_ratios,
    rate_interval,
)

Side = tuple[int, int]
Floats = NDArray[np.float64]
ODDS = np.array([0.05, 0.8, 1.0, 1.4, 4.0, 30.0, 200.0])


@st.composite
def stretches(draw: st.DrawFn, most: int = 40) -> tuple[Side, Side]:
    n_c, n_s = draw(st.integers(1, most)), draw(st.integers(1, most))
    return (n_c, draw(st.integers(0, n_c))), (n_s, draw(st.integers(0, n_s)))


def possible(n_c: int, n_s: int, failures: int) -> range:
    return range(max(0, failures - n_s), min(failures, n_c) + 1)


def after(parts: Sequence[tuple[Side, Side]]) -> Comparison:
    known = Comparison()
    for canary, stable in parts:
        known = add_stretch(known, canary, stable)
    return known


# One stretch against scipy's laws


@settings(deadline=None)
@given(stretches())
def test_ratio_is_that_of_fishers_law_and_the_hypergeometric_one(stretch: tuple[Side, Side]) -> None:
    (n_c, k), (n_s, other) = stretch
    drawn = (n_c + n_s, k + other, n_c)
    found = log_ratios(*stretch, ODDS)
    for log_ratio, odds in zip(found, ODDS, strict=True):
        law = stats.nchypergeom_fisher(*drawn, odds).logpmf(k) - stats.hypergeom(*drawn).logpmf(k)
        assert log_ratio == pytest.approx(law, rel=1e-6, abs=1e-8)


@settings(deadline=None)
@given(stretches())
def test_mean_is_one_where_both_fail_alike(stretch: tuple[Side, Side]) -> None:
    (n_c, k), (n_s, other) = stretch
    failures = k + other
    law = stats.hypergeom(n_c + n_s, failures, n_c)
    mean = sum(
        law.pmf(ways) * np.exp(log_ratios((n_c, ways), (n_s, failures - ways), ODDS))
        for ways in possible(n_c, n_s, failures)
    )
    assert mean == pytest.approx(np.ones(len(ODDS)), rel=1e-7)


@settings(deadline=None)
@given(stretches(25), st.floats(0.02, 50))
def test_mean_is_at_most_one_for_a_better_canary_and_at_least_one_for_a_worse(
    stretch: tuple[Side, Side], truth: float
) -> None:
    (n_c, k), (n_s, other) = stretch
    failures = k + other
    odds, weights = bets()
    law = stats.nchypergeom_fisher(n_c + n_s, failures, n_c, truth)
    mean = sum(
        law.pmf(ways) * (weights * np.exp(log_ratios((n_c, ways), (n_s, failures - ways), odds))).sum()
        for ways in possible(n_c, n_s, failures)
    )
    assert mean <= 1 + 1e-9 if truth <= 1 else mean >= 1 - 1e-9


@pytest.mark.parametrize(
    ("canary", "stable"),
    [((0, 0), (50, 3)), ((50, 3), (0, 0)), ((10, 0), (90, 0)), ((7, 7), (13, 13)), ((0, 0), (0, 0))],
    ids=["no canary traffic", "no stable traffic", "no failure", "all fail", "nothing"],
)
def test_nothing_to_compare_is_no_evidence(canary: Side, stable: Side) -> None:
    assert log_ratios(canary, stable, ODDS) == pytest.approx(np.zeros(len(ODDS)), abs=1e-12)
    known = add_stretch(Comparison(), canary, stable)
    assert known.e_value() == pytest.approx(1) and known.highest == pytest.approx(1)
    assert (known.canary, known.stable) == (canary, stable)


@pytest.mark.parametrize("size", [1_000, 1_000_000])
def test_long_stretches_keep_their_precision(size: int) -> None:
    worse = add_stretch(Comparison(), (size, size // 50), (9 * size, 9 * size // 100))
    alike = add_stretch(Comparison(), (size, size // 100), (9 * size, 9 * size // 100))
    assert alike.e_value() < 1 < worse.e_value() < math.inf
    assert worse.highest == worse.e_value()


def test_bets_are_on_a_worse_canary_and_add_up() -> None:
    odds, weights = bets()
    assert (odds > 1).all() and (np.diff(odds) > 0).all()
    assert (weights > 0).all() and weights.sum() == pytest.approx(1)
    assert Comparison().e_value() == 1


# Many stretches: what a look may depend on, and what not


def outcomes(sizes: Sequence[int], failures: int) -> Iterator[tuple[float, tuple[int, ...]]]:
    """Yield how failures may fall on groups of requests that all fail alike, each with its probability."""
    total = math.comb(sum(sizes), failures)
    for found in itertools.product(*(range(size + 1) for size in sizes)):
        if sum(found) == failures:
            yield math.prod(map(math.comb, sizes, found)) / total, found


def in_groups(groups: Sequence[int], sides: Sequence[tuple[Side, Side]]) -> list[tuple[Side, Side]]:
    """Return looks merged: those with the same number of `groups` become one stretch."""
    merged = []
    for _, members in itertools.groupby(zip(groups, sides, strict=True), key=lambda pair: pair[0]):
        parts = [side for _, side in members]
        merged.append(
            (
                (sum(one[0][0] for one in parts), sum(one[0][1] for one in parts)),
                (sum(one[1][0] for one in parts), sum(one[1][1] for one in parts)),
            )
        )
    return merged


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=3, max_size=3),
    st.sampled_from([(0, 1, 2), (0, 0, 1), (0, 1, 1), (0, 0, 0)]),
    st.integers(0, 6),
)
@example([(1, 3), (2, 2), (1, 3)], (0, 0, 0), 3)
@example([(0, 3), (2, 0), (2, 2)], (0, 1, 2), 4)
def test_mean_is_one_however_looks_are_merged(
    sizes: list[tuple[int, int]], groups: tuple[int, ...], failures: int
) -> None:
    flat = [size for pair in sizes for size in pair]
    mean = 0.0
    for chance, found in outcomes(flat, min(failures, sum(flat))):
        sides = [((n_c, found[2 * at]), (n_s, found[2 * at + 1])) for at, (n_c, n_s) in enumerate(sizes)]
        mean += chance * after(in_groups(groups, sides)).e_value()
    assert mean == pytest.approx(1, rel=1e-9)


def stops_at_any_gain(parts: list[tuple[Side, Side]]) -> float:
    """Stop at the first look with any evidence, and keep it."""
    known = Comparison()
    for canary, stable in parts:
        if known.e_value() > 1:
            break
        known = add_stretch(known, canary, stable)
    return known.e_value()


def merges_after_a_loss(parts: list[tuple[Side, Side]]) -> float:
    """Look at the next two at once where evidence is below 1: decided by the past, as anybody may."""
    known = add_stretch(Comparison(), *parts[0])
    rest = parts[1:] if known.e_value() >= 1 else in_groups([0] * len(parts[1:]), parts[1:])
    for canary, stable in rest:
        known = add_stretch(known, canary, stable)
    return known.e_value()


@pytest.mark.parametrize("rule", [stops_at_any_gain, merges_after_a_loss])
@pytest.mark.parametrize("failures", [1, 3, 5])
def test_mean_stays_one_when_looks_depend_on_the_past(
    rule: Callable[[list[tuple[Side, Side]]], float], failures: int
) -> None:
    sizes = [(1, 3), (2, 2), (1, 3)]  # the weight changes in between
    flat = [size for pair in sizes for size in pair]
    mean = sum(
        chance
        * rule([((n_c, found[2 * at]), (n_s, found[2 * at + 1])) for at, (n_c, n_s) in enumerate(sizes)])
        for chance, found in outcomes(flat, failures)
    )
    assert mean == pytest.approx(1, rel=1e-9)


@settings(deadline=None)
@given(st.lists(stretches(20), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_evidence_depends_on_counts_and_not_on_their_order(
    parts: list[tuple[Side, Side]], random: object
) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = after(parts), after(shuffled)
    assert one.e_value() == pytest.approx(other.e_value(), rel=1e-9)
    assert (one.canary, one.stable, one.pending) == (other.canary, other.stable, other.pending)


@settings(deadline=None)
@given(stretches(12), st.booleans(), st.data())
def test_a_stretch_waits_for_both_sides(
    stretch: tuple[Side, Side], canary_first: bool, data: st.DataObject
) -> None:
    """Requests of one side alone, one look each, change nothing until the other side comes."""
    canary, stable = stretch
    requests, failures = canary if canary_first else stable
    known = Comparison()
    for failed in data.draw(st.permutations([1] * failures + [0] * (requests - failures))):
        one = (1, failed)
        known = add_stretch(known, *((one, (0, 0)) if canary_first else ((0, 0), one)))
        assert known.e_value() == known.highest == 1 and known.logs == ()
    assert known.pending == ((*canary, 0, 0) if canary_first else (0, 0, *stable))
    closed = add_stretch(known, *(((0, 0), stable) if canary_first else (canary, (0, 0))))
    assert closed == add_stretch(Comparison(), canary, stable)


@settings(deadline=None)
@given(st.lists(stretches(20), min_size=1, max_size=6))
def test_highest_remembers_and_survives_being_written_down(parts: list[tuple[Side, Side]]) -> None:
    known, seen = Comparison(), [1.0]
    for canary, stable in parts:
        known = add_stretch(Comparison.model_validate_json(known.model_dump_json()), canary, stable)
        seen.append(known.e_value())
        assert known.highest == max(seen)
    assert known == after(parts)


# False aborts


def factors(n_c: int, n_s: int) -> Floats:
    """Return e per bet for every outcome of a stretch: (failures of the canary, of the stable one, bets)."""
    odds, _ = bets()
    return np.exp(
        [[log_ratios((n_c, k), (n_s, other), odds) for other in range(n_s + 1)] for k in range(n_c + 1)]
    )


def highest_of(
    canary: NDArray[np.int64], stable: NDArray[np.int64], sizes: Sequence[tuple[int, int]]
) -> Floats:
    """Return the highest e there ever was, for failures (stretches, canaries), without `add_stretch`."""
    known = {size: factors(*size) for size in set(sizes)}
    capital = np.tile(bets()[1], (canary.shape[1], 1))
    highest = np.ones(canary.shape[1])
    for k, other, size in zip(canary, stable, sizes, strict=True):
        capital *= known[size][k, other]
        highest = np.maximum(highest, capital.sum(axis=1))
    return highest


def peeked_z(
    canary: NDArray[np.int64], stable: NDArray[np.int64], sizes: Sequence[tuple[int, int]]
) -> Floats:
    """Return the lowest p-value of a pooled z-test at all looks from the thirtieth on."""
    n_c, n_s = np.array(sizes).cumsum(axis=0)[29:].T[:, :, None]
    bad_c, bad_s = canary.cumsum(axis=0)[29:], stable.cumsum(axis=0)[29:]
    pooled = (bad_c + bad_s) / (n_c + n_s)
    noise = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / n_c + 1 / n_s))
    return np.asarray(stats.norm.sf((bad_c / n_c - bad_s / n_s) / noise).min(axis=0))


CANARIES = 2_000


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_harmless_canaries_are_hardly_ever_stopped_at_a_look_after_every_request(rate: float) -> None:
    rng = np.random.default_rng(11)
    sizes = [(1, 9)] * 3_000
    canary = (rng.random((len(sizes), CANARIES)) < rate).astype(np.int64)
    stable = rng.binomial(9, rate, (len(sizes), CANARIES))
    highest = highest_of(canary, stable, sizes)
    for alpha in (0.01, 0.1):
        assert (highest >= 1 / alpha).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / CANARIES)
    assert (peeked_z(canary, stable, sizes) < 0.01).mean() > 0.1
    known = Comparison()
    for k, other in zip(canary[:, 0], stable[:, 0], strict=True):
        for request in range(9):
            known = add_stretch(known, (0, 0), (1, int(request < other)))
        known = add_stretch(known, (1, int(k)), (0, 0))
    assert known.highest == pytest.approx(highest[0], rel=1e-9)


def test_weights_and_rates_may_change_between_looks() -> None:
    """Canary weight 10, 50, 90 %; failures of both between 0.2 and 20 %, highest where the canary is asked most."""
    rng = np.random.default_rng(12)
    sizes = [(1, 9)] * 300 + [(5, 5)] * 200 + [(9, 1)] * 200
    rates = np.repeat([0.002, 0.05, 0.2], [300, 200, 200])[:, None]
    n_c, n_s = np.array(sizes).T[:, :, None]
    canary, stable = (rng.binomial(size, rates, (len(sizes), CANARIES)) for size in (n_c, n_s))
    highest = highest_of(canary, stable, sizes)
    for alpha in (0.01, 0.1):
        assert (highest >= 1 / alpha).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / CANARIES)
    assert (peeked_z(canary, stable, sizes) < 0.01).mean() > 0.9


def test_a_bad_canary_is_stopped_soon() -> None:
    rng = np.random.default_rng(13)
    sizes = [(1, 9)] * 500
    canary = (rng.random((len(sizes), CANARIES)) < 0.1).astype(np.int64)
    stable = rng.binomial(9, 0.01, (len(sizes), CANARIES))
    assert (highest_of(canary, stable, sizes) >= 100).all()
    assert (highest_of(canary[:100], stable[:100], sizes[:100]) >= 100).mean() > 0.9


# Bounds of one rate


def by_grid(failures: int, requests: int, alpha: float) -> tuple[float, float, float]:
    """Return the least and the largest rate that a beta-binomial mixture has not bet down, and the step between rates."""
    grid = np.linspace(0, 1, 200_001)[1:-1]
    mixture = stats.betabinom.logpmf(failures, requests, 0.5, 10)
    kept = grid[mixture - stats.binom.logpmf(failures, requests, grid) < math.log(1 / alpha)]
    return float(kept.min()), float(kept.max()), float(grid[1] - grid[0])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3_000), st.floats(0, 1), st.sampled_from([0.001, 0.005, 0.05, 0.3]))
@example(1, 0.0, 0.01)
@example(1, 1.0, 0.01)
@example(3_000, 0.0, 0.01)
@example(3_000, 1.0, 0.01)
def test_bounds_are_those_of_a_search_over_all_rates(requests: int, share: float, alpha: float) -> None:
    failures = round(share * requests)
    low, high = rate_interval(failures, requests, alpha)
    kept_low, kept_high, step = by_grid(failures, requests, alpha)
    assert kept_low - step - 1e-9 <= low <= kept_low + 1e-9
    assert kept_high - 1e-9 <= high <= kept_high + step + 1e-9


@settings(deadline=None)
@given(st.integers(1, 10**9), st.floats(0, 1), st.floats(1e-6, 0.4))
@example(10**9, 0.0, 0.01)
@example(10**9, 1.0, 0.01)
@example(10**9, 1e-9, 0.01)
def test_bounds_hold_the_rate_that_was_seen(requests: int, share: float, alpha: float) -> None:
    failures = round(share * requests)
    low, high = rate_interval(failures, requests, alpha)
    assert 0 <= low <= failures / requests <= high <= 1 and low < high
    wider_low, wider_high = rate_interval(failures, requests, alpha / 2)
    assert wider_low <= low and high <= wider_high


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 1.0])
def test_bounds_narrow_with_more_requests(share: float) -> None:
    widths = []
    for requests in (100, 400, 1_600, 6_400, 25_600, 1_000_000):
        low, high = rate_interval(round(share * requests), requests, 0.01)
        widths.append(high - low)
    assert all(later < before for before, later in itertools.pairwise(widths))
    assert widths[-1] < 0.006


def test_no_requests_say_nothing() -> None:
    assert rate_interval(0, 0, 0.01) == (0, 1)
    assert difference_interval((0, 0), (0, 0), 0.01) == (-1, 1)


RATES = {
    "rare": np.full(3_000, 0.005),
    "some": np.full(3_000, 0.05),
    "half": np.full(3_000, 0.5),
    "day and night": 0.02 + 0.018 * np.sin(np.arange(3_000) / 200),
    "outage": np.where(np.arange(3_000) < 300, 0.3, 0.01),
}


@pytest.mark.parametrize("rates", RATES.values(), ids=RATES.keys())
def test_bounds_hold_at_all_looks_together(rates: Floats) -> None:
    """The rate, or the mean of the rates so far where they change, is within the bounds after every single request."""
    alpha, streams = 0.1, 1_000
    rng = np.random.default_rng(14)
    requests = np.arange(1, len(rates) + 1)
    mean = rates.cumsum() / requests
    failures = (rng.random((streams, len(rates))) < rates).cumsum(axis=1)
    mixture = stats.betabinom.logpmf(failures, requests, 0.5, 10)
    outside = mixture - stats.binom.logpmf(failures, requests, mean) >= math.log(1 / alpha)
    assert outside.any(axis=1).mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / streams)
    assert outside.any()
    shown = np.argwhere(outside)[:5].tolist() + [[one, 99 + 100 * one] for one in range(20)]
    for stream, look in shown:
        low, high = rate_interval(int(failures[stream, look]), int(requests[look]), alpha)
        assert (low <= mean[look] <= high) is not bool(outside[stream, look])


# Bounds of the difference


@settings(deadline=None)
@given(stretches(500))
def test_difference_lies_between_its_bounds_and_turns_round_with_the_sides(
    stretch: tuple[Side, Side],
) -> None:
    canary, stable = stretch
    low, high = difference_interval(canary, stable, 0.01)
    assert -1 <= low <= canary[1] / canary[0] - stable[1] / stable[0] <= high <= 1
    assert difference_interval(stable, canary, 0.01) == pytest.approx((-high, -low))


def test_difference_is_covered_at_all_looks() -> None:
    rng = np.random.default_rng(15)
    alpha, pairs = 0.2, 200
    looks = np.unique(np.geomspace(5, 2_000, 20).astype(int))
    canary = (rng.random((pairs, 2_000)) < 0.06).cumsum(axis=1)
    stable = (rng.random((pairs, 18_000)) < 0.01).cumsum(axis=1)
    missed = 0
    for one in range(pairs):
        bounds = [
            difference_interval(
                (int(n), int(canary[one, n - 1])), (int(9 * n), int(stable[one, 9 * n - 1])), alpha
            )
            for n in looks
        ]
        missed += not all(low <= 0.05 <= high for low, high in bounds)
    assert missed / pairs <= alpha
