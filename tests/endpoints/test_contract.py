"""What every endpoint does, asked of the one on this machine and of the one in Azure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from brookside_mlops.endpoints.azure import AzureEndpoint
from brookside_mlops.endpoints.azure_deployments import Hosting
from brookside_mlops.endpoints.local import EndpointError, LocalEndpoint
from brookside_mlops.endpoints.protocol import Counts, Endpoint, Limits
from brookside_mlops.errors import InputError
from brookside_mlops.scratch import scratch_bundle
from tests.azure.conftest import azure, azure_store  # noqa: F401
from tests.bundles import failing
from tests.endpoints.test_local import eventually

BODY = json.dumps([{"weeks": 4}]).encode()
LIMITS_MS = (500.0, 2000.0, 3000.0)


@pytest.fixture(params=["local", pytest.param("azure", marks=pytest.mark.azure)])
def endpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """An endpoint that answers `weeks` + 0.5 by `blue`, with all the traffic."""
    one: Any
    if request.param == "local":
        one = LocalEndpoint(tmp_path / "state", "cost-dev", Limits(request_seconds=5))
    else:
        from brookside_mlops.azure_settings import azure_settings

        request.getfixturevalue("azure_store")
        one = AzureEndpoint(
            azure_settings(tmp_path), "cost-dev", tmp_path / "state", Hosting(), lambda _: None
        )
    one.start()
    one.create_deployment("blue", scratch_bundle(tmp_path / "blue", 0.5), "brookside-cost", 1)
    one.set_traffic({"blue": 100})
    yield one
    if request.param == "local":
        one.stop()


def test_life_of_a_second_version(endpoint: Endpoint, tmp_path: Path) -> None:
    made = endpoint.create_deployment("green", scratch_bundle(tmp_path / "green", 0.25), "brookside-cost", 2)
    assert (made.name, made.version, made.weight, made.state) == ("green", 2, 0, "ready")
    assert endpoint.show().traffic == {"blue": 100, "green": 0}
    assert endpoint.score(BODY, "green").content == [4.25]
    endpoint.set_traffic({"blue": 50, "green": 50})
    assert {endpoint.score(BODY).deployment for _ in range(10)} == {"blue", "green"}
    with pytest.raises(InputError, match="50 % of the traffic"):
        endpoint.delete_deployment("green")
    endpoint.set_traffic({"green": 100})
    assert endpoint.show().traffic == {"blue": 0, "green": 100}
    endpoint.delete_deployment("blue")
    endpoint.delete_deployment("blue")
    assert [one.name for one in endpoint.show().deployments] == ["green"]
    assert endpoint.score(BODY).content == [4.25]


def test_endpoint_shows_what_it_serves(endpoint: Endpoint) -> None:
    found = endpoint.show()
    (blue,) = found.deployments
    assert found.name == "cost-dev" and found.running and not found.down and found.mirror == {}
    assert (blue.model_name, blue.version, blue.weight, len(blue.sha256)) == ("brookside-cost", 1, 100, 64)
    assert found.scoring_uri == endpoint.show_uri() and found.scoring_uri.startswith("http")
    assert list(endpoint.deployments()) == ["blue"] and endpoint.exists
    assert (endpoint.bundle("blue") / "input_example.json").exists()
    assert endpoint.curl_line().startswith("curl -s http")
    assert endpoint.keys()[0] not in endpoint.curl_line()


def test_starting_it_again_changes_nothing(endpoint: Endpoint) -> None:
    before = endpoint.show()
    endpoint.start()
    assert endpoint.show() == before


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"blue": 60}, "sum to 60"),
        ({"blue": 110}, "not a weight"),
        ({"red": 100}, "no deployment red"),
    ],
)
def test_wrong_split_is_refused_and_the_old_one_stays(
    endpoint: Endpoint, weights: dict[str, int], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        endpoint.set_traffic(weights)
    assert endpoint.show().traffic == {"blue": 100}


def test_all_traffic_can_be_stopped(endpoint: Endpoint) -> None:
    endpoint.set_traffic({"blue": 0})
    assert endpoint.show().traffic == {"blue": 0}
    assert endpoint.score(BODY).status == 503
    endpoint.set_traffic({"blue": 100})
    assert endpoint.score(BODY).status == 200


def test_copies_go_to_a_mirror_and_end(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", scratch_bundle(tmp_path / "green", 0.25), "brookside-cost", 2)
    endpoint.set_mirror({"green": 30})
    assert endpoint.show().mirror == {"green": 30} and endpoint.show().traffic == {"blue": 100, "green": 0}
    assert {endpoint.score(BODY).deployment for _ in range(5)} == {"blue"}
    with pytest.raises(InputError, match="0 to 50"):
        endpoint.set_mirror({"green": 60})
    with pytest.raises(InputError, match="takes all the traffic itself"):
        endpoint.set_mirror({"blue": 10})
    endpoint.set_mirror({})
    assert endpoint.show().mirror == {}
    endpoint.set_mirror({"green": 10})
    endpoint.set_traffic({"blue": 90, "green": 10})
    assert endpoint.show().traffic == {"blue": 90, "green": 10}


def test_requests_are_counted_by_deployment_since_a_moment(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", scratch_bundle(tmp_path / "green", 0.25), "brookside-cost", 2)
    endpoint.score(BODY)
    eventually(1, lambda: endpoint.counts("", LIMITS_MS)[0].get("blue", Counts()).requests)
    _, cursor = endpoint.counts("", LIMITS_MS)
    endpoint.set_traffic({"blue": 50, "green": 50})
    for _ in range(6):
        endpoint.score(BODY)
    endpoint.score(BODY, "green")  # a pinned one does not count
    seen = Counts()

    def six() -> int:
        nonlocal seen
        seen = sum(endpoint.counts(cursor, LIMITS_MS)[0].values(), Counts())
        return seen.requests

    eventually(6, six)
    assert (seen.errors, seen.refused, seen.rows, seen.total) == (0, 0, 6, 3 * 4.5 + 3 * 4.25)
    found, later = endpoint.counts(cursor, LIMITS_MS)
    assert set(found) == {"blue", "green"} and endpoint.counts(later, LIMITS_MS)[0] == {}


def test_errors_are_counted(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.create_deployment("green", failing(tmp_path / "green", 3), "brookside-cost", 2)
    _, cursor = endpoint.counts("", LIMITS_MS)
    endpoint.set_traffic({"green": 100})
    assert endpoint.score(BODY).status in (200, 500)
    eventually(1, lambda: endpoint.counts(cursor, LIMITS_MS)[0].get("green", Counts()).errors)


def test_wrong_key_and_unknown_deployment_are_refused(endpoint: Any) -> None:
    assert endpoint.score(BODY, key="wrong").status == 401
    assert endpoint.score(BODY, "red").status == 404
    assert endpoint.score(b"weeks=4").status == 400


def test_new_key_replaces_one_of_the_two(endpoint: Any) -> None:
    first, second = endpoint.keys()
    endpoint.regenerate_key("primary")
    assert endpoint.keys()[0] != first and endpoint.keys()[1] == second
    assert [endpoint.score(BODY, key=one).status for one in (first, second, endpoint.keys()[0])] == [
        401,
        200,
        200,
    ]
    assert endpoint.score(BODY).status == 200


def test_name_in_use_and_damaged_bundle_are_refused(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="already has a deployment blue"):
        endpoint.create_deployment("blue", scratch_bundle(tmp_path / "again", 0.5), "brookside-cost", 2)
    broken = scratch_bundle(tmp_path / "broken", 0.5)
    (broken / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"sha256|damaged|hash"):
        endpoint.create_deployment("green", broken, "brookside-cost", 2)
    assert list(endpoint.deployments()) == ["blue"]


def test_version_that_cannot_start_is_removed(endpoint: Endpoint, tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="deployment green"):
        endpoint.create_deployment("green", unstartable(tmp_path / "green"), "brookside-cost", 2)
    assert list(endpoint.deployments()) == ["blue"] and endpoint.score(BODY).content == [4.5]


def unstartable(folder: Path) -> Path:
    """A bundle without the example by which its worker tries it."""
    made = scratch_bundle(folder, 0.5)
    (made / "input_example.json").unlink()
    return made


def test_logs_and_waiting_requests_can_be_asked_for(endpoint: Endpoint) -> None:
    assert endpoint.score(BODY).status == 200
    assert all(isinstance(line, str) for line in endpoint.logs(5))
    assert endpoint.unanswered("blue") == 0


def test_endpoint_that_is_not_there_is_named(endpoint: Any, tmp_path: Path) -> None:
    other: Any
    if isinstance(endpoint, LocalEndpoint):
        other = LocalEndpoint(tmp_path / "state", "cost-prod")
    else:
        other = AzureEndpoint(endpoint.found, "cost-prod", tmp_path / "state")
    assert not other.exists
    with pytest.raises(InputError, match="no endpoint 'cost-prod'"):
        other.show()
