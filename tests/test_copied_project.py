"""A project that was copied or moved: its commands act on its own runs, state and servers, and on nobody else's."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.endpoints.local import LocalEndpoint, stop_all
from brookside_mlops.errors import InputError
from brookside_mlops.rollback_run import Return, roll_back
from brookside_mlops.rollout_run import deploy_run, run_of_endpoint
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle
from tests.drivers import BODIES
from tests.registered import Registered, make


def call(*words: str) -> Result:
    result = CliRunner().invoke(app, list(words))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """A project in which version 2 has taken over from version 1."""
    found = make(tmp_path_factory.mktemp("original"))
    for version in (1, 2):
        deploy_run(found.run(version))
    yield found
    stop_all(found.project / ".brookside")


@pytest.fixture
def copied(original: Registered, tmp_path: Path) -> Iterator[Registered]:
    """A copy of it, made while the original serves."""
    original.endpoint.start()
    project = Path(shutil.copytree(original.project, tmp_path / "p1bak", symlinks=True))
    folders = [project / folder.relative_to(original.project) for folder in original.folders]
    found = Registered(project, folders)
    yield found
    stop_all(project / ".brookside")


def test_run_of_an_endpoint_is_the_one_in_this_project(original: Registered, copied: Registered) -> None:
    name = original.endpoint.name
    assert run_of_endpoint(copied.project / ".brookside", name).folder == copied.folders[1].resolve()
    assert run_of_endpoint(original.project / ".brookside", name).folder == original.folders[1].resolve()


def test_rollback_in_a_copy_leaves_the_original_alone(original: Registered, copied: Registered) -> None:
    before = original.endpoint.show()
    run = run_of_endpoint(copied.project / ".brookside", original.endpoint.name)
    assert roll_back(run, Return("the copy is odd")).state == "finished"
    assert original.endpoint.show() == before and original.serving() == {"green": 2}
    assert copied.serving() == {"blue": 1}
    answers = [one.endpoint.score(BODIES[4]).content for one in (original, copied)]
    assert answers == [[6.0], [5.0]]


def test_rollback_in_a_moved_project_builds_from_its_own_registry(
    original: Registered, copied: Registered, tmp_path: Path
) -> None:
    moved = Path(shutil.move(copied.project, tmp_path / "p2"))
    there = Registered(moved, [moved / one.relative_to(copied.project) for one in copied.folders])
    artifacts = original.project / ".brookside" / "mlartifacts"
    artifacts.rename(tmp_path / "away")  # nothing may come from where the project once was
    try:
        run = run_of_endpoint(moved / ".brookside", there.endpoint.name)
        assert run.folder == there.folders[1].resolve()
        assert roll_back(run, Return("moved")).state == "finished"
        assert there.serving() == {"blue": 1} and there.endpoint.score(BODIES[4]).content == [5.0]
    finally:
        (tmp_path / "away").rename(artifacts)
        stop_all(moved / ".brookside")


def test_run_of_another_project_is_refused(
    original: Registered, copied: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied.folders[1])
    monkeypatch.chdir(copied.project)
    before, run = original.endpoint.show(), original.run(2)
    for words in (("rollback", "--endpoint"), ("rollout", "resume")):
        if words[0] == "rollout":
            store = RolloutStore(copied.project / ".brookside")
            row = store.last(original.endpoint.name)
            assert row is not None
            store.begin(row.endpoint, row.document)
            store.release()
        result = call(*words, original.endpoint.name)
        assert result.exit_code == 2, result.output
        assert f"its run {run.id} is of another project ({run.folder})" in result.output
    assert original.endpoint.show() == before


def test_run_that_is_nowhere_any_more_is_named(
    original: Registered, copied: Registered, tmp_path: Path
) -> None:
    moved = Path(shutil.copytree(copied.project / ".brookside", tmp_path / "alone" / ".brookside"))
    name = copied.endpoint.name
    store = RolloutStore(moved)
    row = store.last(name)
    assert row is not None
    run = Run(copied.folders[1])
    store.begin(name, row.document.replace(str(original.folders[1].parent), "/nowhere/dev"))
    with pytest.raises(InputError, match=f"its run {run.id} is gone"):
        run_of_endpoint(moved, name)


# ---- whose server it is ------------------------------------------------------------------------------------------------------------------


def test_server_of_a_copy_is_not_the_one_of_the_original(tmp_path: Path) -> None:
    first = LocalEndpoint(tmp_path / "p1", "cost-dev")
    first.start()
    try:
        first.create_deployment("blue", scratch_bundle(tmp_path / "blue", 1), "m", 1)
        first.set_traffic({"blue": 100})
        shutil.copytree(tmp_path / "p1", tmp_path / "p2")
        second = LocalEndpoint(tmp_path / "p2", "cost-dev")
        assert second.state.server() == first.state.server()
        assert not second.show().running and not second.stop()
        assert first.show().running
        second.start()
        try:
            assert second.show_uri() != first.show_uri()
            second.set_traffic({"blue": 0})
            assert first.score(BODIES[4]).content == [5.0] and second.score(BODIES[4]).status == 503
            assert second.stop() and first.show().running
        finally:
            second.stop()
    finally:
        first.stop()


def test_port_that_another_project_took_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    first, second = (LocalEndpoint(tmp_path / one, "cost-dev") for one in ("p1", "p2"))
    first.start()
    port = first.state.server()[1]
    first.stop()
    second.state.create()
    second.state.set_server(0, port)
    second.start()
    try:
        assert second.state.server()[1] == port
        assert not first.show().running and not first.stop()
        first.start()
        assert first.show().running and first.state.server()[1] != port and second.show().running
    finally:
        first.stop()
        second.stop()
