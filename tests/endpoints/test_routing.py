"""Weights, shares, and who steps in."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from brookside_mlops.endpoints.protocol import mirror_fault, traffic_fault
from brookside_mlops.endpoints.routing import Rotation, Share, successor
from brookside_mlops.endpoints.stats import bucket, bucket_seconds
from brookside_mlops.evidence import Comparison, add_stretch

WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 100), max_size=5)


@pytest.fixture
def _dealt() -> Iterator[None]:
    """Deal the same random orders every time."""
    before = random.getstate()
    random.seed(5)
    yield
    random.setstate(before)


@given(WEIGHTS, st.integers(1, 5))
def test_each_round_has_exactly_its_weights(weights: dict[str, int], rounds: int) -> None:
    rotation, common = Rotation(weights), gcd(*weights.values())
    expected = Counter({name: weight // common for name, weight in weights.items() if weight})
    for _ in range(rounds):
        assert Counter(rotation.choose() for _ in range(expected.total())) == expected


@given(st.sampled_from("abcde"), st.integers(1, 100))
def test_rotation_with_one_name_or_none_has_no_choice(name: str, weight: int) -> None:
    assert {Rotation({name: weight, "idle": 0}).choose() for _ in range(3)} == {name}
    assert Rotation({}).choose() == Rotation({name: 0}).choose() == ""


@pytest.mark.usefixtures("_dealt")
def test_every_place_in_a_round_is_as_likely_whatever_the_round_before_was() -> None:
    rotation = Rotation({"blue": 90, "green": 10})
    places = [[rotation.choose() for _ in range(10)].index("green") for _ in range(10_001)]
    pairs = Counter(itertools.pairwise(places))
    assert len(pairs) == 100 and chisquare(list(pairs.values())).pvalue > 0.001


ALPHA, CANARIES = 0.05, 400


def stopped(choose: Callable[[], str], bad: int) -> bool:
    """Return whether two identical deployments are told apart by 20 bodies sent round and round, of which one is always refused."""
    known, look = Comparison(), [0, 0, 0, 0]
    for number in range(1_500):
        side = 0 if choose() == "green" else 2
        look[side] += 1
        look[side + 1] += number % 20 == bad
        if number % 37 == 36:  # in the middle of rounds
            known, look = add_stretch(known, (look[0], look[1]), (look[2], look[3])), [0, 0, 0, 0]
    return known.highest >= 1 / ALPHA


@pytest.mark.usefixtures("_dealt")
@pytest.mark.parametrize("weights", [{"blue": 90, "green": 10}, {"blue": 50, "green": 50}], ids=["10", "50"])
def test_bodies_that_come_round_and_round_stop_no_more_than_alpha(weights: dict[str, int]) -> None:
    fooled = sum(stopped(Rotation(weights).choose, number % 20) for number in range(CANARIES))
    assert 0 < fooled <= ALPHA * CANARIES


def test_bodies_that_come_round_and_round_fool_a_fixed_order() -> None:
    fooled = [bad for bad in range(20) if stopped(itertools.cycle(["green", *["blue"] * 9]).__next__, bad)]
    assert fooled == [0, 10]  # half of the canary's requests, and none of the others


@given(st.integers(0, 100), st.integers(1, 500))
def test_share_is_never_off_by_more_than_one(percent: int, requests: int) -> None:
    share = Share(percent / 100)
    taken = sum(share.take() for _ in range(requests))
    assert abs(taken - requests * percent / 100) <= 1


@given(WEIGHTS, st.sets(st.sampled_from("abcde")), st.sampled_from("abcde"))
def test_successor_is_ready_has_traffic_and_is_another(
    weights: dict[str, int], ready: set[str], failed: str
) -> None:
    found = successor(weights, ready, failed)
    left = {name for name in ready if name != failed and weights.get(name, 0) > 0}
    assert (found in left and weights[found] == max(weights[one] for one in left)) if left else found == ""


@given(st.floats(1e-6, 100))
def test_bucket_is_within_five_percent(seconds: float) -> None:
    assert abs(bucket_seconds(bucket(seconds)) / seconds - 1) < 0.05


@given(WEIGHTS)
def test_split_is_right_exactly_when_it_sums_to_0_or_100(weights: dict[str, int]) -> None:
    assert (traffic_fault(weights, list("abcde")) == "") == (sum(weights.values()) in (0, 100))


def test_mirror_takes_one_deployment_and_up_to_half() -> None:
    assert mirror_fault({}, ["blue"]) == "" and mirror_fault({"blue": 50}, ["blue"]) == ""
    assert "0 to 50" in mirror_fault({"blue": 51}, ["blue"])
    assert "to one deployment" in mirror_fault({"blue": 10, "green": 10}, ["blue", "green"])
    assert "no deployment red" in mirror_fault({"red": 10}, ["blue"])
