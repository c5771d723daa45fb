"""A rollout ends in the new version, or in everything as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.errors import GateFailed, InputError
from brookside_mlops.results import Check
from brookside_mlops.rollout import Release, roll_back, roll_out, splits
from brookside_mlops.scratch import scratch_bundle as adding
from brookside_mlops.smoke import latencies, smoke

BODY = json.dumps([{"weeks": 4}]).encode()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[LocalEndpoint]:
    one = LocalEndpoint(tmp_path / "state", "cost-dev")
    one.start()
    yield one
    one.stop()


def release(folder: Path, version: int) -> Release:
    bundle = adding(folder / f"v{version}", version)
    return Release(bundle, "brookside-cost", version, Bundle.open(bundle).info.sha256)


def failing(endpoint: LocalEndpoint, deployment: str) -> list[Check]:
    return [Check(name="answers", measured="wrong", verdict="fail")]


def test_versions_take_turns_and_return(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    first = roll_out(endpoint, release(tmp_path, 1), (10, 50, 100), smoke)
    assert (first.deployment, first.previous, first.splits) == ("blue", "", [{"blue": 100}])
    with pytest.raises(InputError, match="no earlier deployment"):
        roll_back(endpoint)
    second = roll_out(endpoint, release(tmp_path, 2), (10, 50), smoke)
    assert second.splits[0] == {"green": 10, "blue": 90} and second.splits[-1] == {"green": 100, "blue": 0}
    assert endpoint.score(BODY).content == [6.0]
    now, target = roll_back(endpoint)
    assert (now.version, target.version, target.weight) == (2, 1, 100)
    assert endpoint.score(BODY).content == [5.0]
    third = roll_out(endpoint, release(tmp_path, 3), (100,), smoke)
    assert third.deployment == "green" and endpoint.score(BODY).content == [7.0]
    assert [step for _, step, _ in endpoint.state.moves()].count("create") == 3


def test_version_that_serves_already_is_left_alone(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    one = release(tmp_path, 1)
    roll_out(endpoint, one, (100,), smoke)
    moves = len(endpoint.state.moves())
    again = roll_out(endpoint, one, (100,), smoke)
    assert again.deployment == "blue" and len(endpoint.state.moves()) == moves


def test_failed_smoke_test_leaves_the_old_version_serving(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    roll_out(endpoint, release(tmp_path, 1), (100,), smoke)
    with pytest.raises(GateFailed, match="blue serves as before"):
        roll_out(endpoint, release(tmp_path, 2), (10, 100), failing)
    assert endpoint.show().traffic == {"blue": 100}
    assert endpoint.score(BODY).content == [5.0]


def test_interrupted_rollout_restores_traffic(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    roll_out(endpoint, release(tmp_path, 1), (100,), smoke)

    def interrupted(endpoint: LocalEndpoint, deployment: str) -> list[Check]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roll_out(endpoint, release(tmp_path, 2), (100,), interrupted)
    assert endpoint.show().traffic == {"blue": 100}


def test_smoke_test_notices_another_model_behind_the_name(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    roll_out(endpoint, release(tmp_path, 1), (100,), smoke)
    other = adding(tmp_path / "other", 9)
    found = {check.name: check.verdict for check in smoke(endpoint, "", other)}
    assert found["a table"] == "fail" and found["what is not JSON is refused"] == "pass"
    assert len(latencies(endpoint, BODY, 3)) == 3


@pytest.mark.parametrize("steps", [(10, 50, 100), (100,), (5,)])
def test_every_split_is_whole(steps: tuple[int, ...]) -> None:
    assert all(sum(split.values()) == 100 for split in splits("green", "blue", steps))
    assert splits("green", "blue", steps)[-1]["green"] == 100
