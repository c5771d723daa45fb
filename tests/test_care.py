"""Deployments that are kept for an instant return, and when they go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.audit import audit_log
from brookside_mlops.endpoints.care import prune
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import InputError
from brookside_mlops.rollout_driver import roll_out
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.scratch import scratch_bundle
from tests.drivers import BODIES, LIMITS, NAME, context_of, short_plan, target

NOW = 1_000_000.0


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[LocalEndpoint]:
    """An endpoint on which version 2 has followed version 1, which is kept for an hour."""
    one = LocalEndpoint(tmp_path / "state", NAME, LIMITS)
    one.start()
    context = context_of(one.state_folder, now=lambda: NOW)
    try:
        for version in (1, 2):
            bundle = scratch_bundle(tmp_path / str(version), version)
            plan = short_plan("blue-green", (100,), bake=0.0, keep_hours=1)
            roll_out(context, plan, target(bundle, version))
        yield one
    finally:
        one.stop()


def names(endpoint: LocalEndpoint) -> set[str]:
    return set(endpoint.state.deployments())


def test_kept_deployment_goes_when_its_time_is_over_and_not_before(endpoint: LocalEndpoint) -> None:
    gone, left = prune(endpoint, endpoint.state_folder, clock=lambda: NOW + 3_599)
    assert (gone, left) == ([], {"blue": "1970-01-12T14:46:40+00:00"}) and names(endpoint) == {
        "blue",
        "green",
    }
    gone, left = prune(endpoint, endpoint.state_folder, clock=lambda: NOW + 3_600)
    assert (gone, left) == (["blue"], {}) and names(endpoint) == {"green"}
    row = audit_log(endpoint.state_folder).rows(NAME)[-1]
    assert (row.event, row.details) == ("prune", {"deployment": "blue", "version": 1})
    assert prune(endpoint, endpoint.state_folder) == ([], {})
    assert endpoint.score(BODIES[4]).content == [6.0]


def test_kept_deployment_goes_at_once_when_asked_even_from_a_stopped_endpoint(
    endpoint: LocalEndpoint,
) -> None:
    endpoint.stop()
    assert prune(endpoint, endpoint.state_folder, at_once=True, clock=lambda: NOW)[0] == ["blue"]
    assert names(endpoint) == {"green"} and endpoint.score(BODIES[4]).content == [6.0]


def test_nothing_is_pruned_while_a_rollout_is_open(endpoint: LocalEndpoint) -> None:
    store = RolloutStore(endpoint.state_folder)
    number = store.begin(NAME, "{}")
    with pytest.raises(InputError, match="a rollout is open: prune when it has ended"):
        prune(endpoint, endpoint.state_folder, at_once=True)
    assert names(endpoint) == {"blue", "green"}
    store.save(number, "{}", open_=False)
    assert prune(endpoint, endpoint.state_folder, at_once=True)[0] == ["blue"]


def test_deployment_that_serves_again_or_is_gone_is_forgotten(endpoint: LocalEndpoint) -> None:
    store = RolloutStore(endpoint.state_folder)
    store.keep(NAME, "red", 0.0)
    endpoint.set_traffic({"blue": 100})
    assert prune(endpoint, endpoint.state_folder, at_once=True) == ([], {})
    assert store.kept(NAME) == {} and names(endpoint) == {"blue", "green"}
    assert endpoint.score(BODIES[4]).content == [5.0]
