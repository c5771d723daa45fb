"""Weights, shares, and who steps in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.endpoints.protocol import mirror_fault, traffic_fault
from brookside_mlops.endpoints.routing import Rotation, Share, successor
from brookside_mlops.endpoints.stats import bucket, bucket_seconds

WEIGHTS = st.dictionaries(st.sampled_from("abcde"), st.integers(0, 100), max_size=5)


@given(WEIGHTS)
def test_rotation_keeps_weights_exactly_over_a_round(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    rotation = Rotation(weights)
    chosen = [rotation.choose() for _ in range(total or 1)]
    expected = weights if total else dict.fromkeys(weights, 0)
    only = [name for name, weight in weights.items() if weight]
    assert {name: chosen.count(name) for name in weights} == expected
    assert len(only) != 1 or set(chosen) == set(only)


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
