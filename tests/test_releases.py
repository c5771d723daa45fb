"""The history of an endpoint, and where to return to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.releases import Release, Releases, previous_release
from tests.drivers import ONE

NAME = "cost-dev"


def release(version: int, rolled_back: bool = False, endpoint: str = NAME) -> Release:
    return Release(
        endpoint=endpoint,
        deployment="blue",
        model_name="m",
        version=version,
        sha256=f"{version:064x}",
        rolled_back="2026-01-01T00:00:00.000Z" if rolled_back else "",
    )


HISTORIES = st.lists(st.builds(release, st.integers(1, 4), st.booleans()), max_size=8)


@given(HISTORIES, st.integers(1, 4))
def test_previous_release_is_the_last_good_one_of_another_version(history: list[Release], now: int) -> None:
    found = previous_release(history, now, f"{now:064x}")
    good = [one for one in history if one.version != now and not one.rolled_back]
    assert found == (good[-1] if good else None)


def test_version_built_again_under_its_number_is_another_version() -> None:
    history = [release(1), release(2)]
    assert previous_release(history, 2, "another digest") == history[1]


def test_release_that_finishes_twice_in_a_row_is_one(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    for version in (1, 1, 2, 1, 1):
        releases.finished(release(version))
    assert [one.version for one in releases.history(NAME)] == [1, 2, 1]
    numbers = [one.id for one in releases.history(NAME)]
    assert numbers == sorted(set(numbers))
    assert all(datetime.fromisoformat(one.finished).tzinfo for one in releases.history(NAME))


def test_version_that_was_rolled_back_is_returned_to_only_after_it_finished_again(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    for version in (1, 2):
        releases.finished(release(version))
    releases.rolled_back(NAME, 2, release(2).sha256)
    releases.finished(release(1))
    assert previous_release(releases.history(NAME), 1, release(1).sha256) is None
    releases.finished(release(2))
    releases.finished(release(3))
    found = previous_release(releases.history(NAME), 3, release(3).sha256)
    assert found is not None and found.version == 2 and not found.rolled_back


def test_rolled_back_version_that_serves_again_at_once_is_a_release_again(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    releases.finished(release(1))
    releases.rolled_back(NAME, 1, release(1).sha256)
    releases.finished(release(1))
    assert [bool(one.rolled_back) for one in releases.history(NAME)] == [True, False]


def test_endpoints_have_histories_of_their_own(tmp_path: Path) -> None:
    releases = Releases(tmp_path)
    releases.finished(release(1))
    releases.finished(release(2, endpoint="other-dev"))
    releases.rolled_back("other-dev", 1, release(1).sha256)
    assert [one.rolled_back for one in Releases(tmp_path).history(NAME)] == [""]
    assert Releases(tmp_path / "empty").history(NAME) == []


def finish_many(folder: Path, first: int, go: Any) -> None:
    go.wait()
    for version in range(first, first + 20):
        Releases(folder).finished(release(version))


def test_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    go = ONE.Event()
    processes = [ONE.Process(target=finish_many, args=(tmp_path, first, go)) for first in (100, 200, 300)]
    for process in processes:
        process.start()
    go.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    history = Releases(tmp_path).history(NAME)
    assert len(history) == 60
    for first in (100, 200, 300):
        own = [one.version for one in history if first <= one.version < first + 20]
        assert own == list(range(first, first + 20))
