"""Runs that several tests look at, made once."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
from hypothesis import settings

import tests.drivers  # noqa: F401  # says what is preloaded
from brookside_mlops.places import VARIABLE
from brookside_mlops.run_record import STAGES
from brookside_mlops.runs import Run
from brookside_mlops.scratch import _advance
from tests.registered import Registered, make

# Where pytest runs in the background of a shell, what it starts would ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# onnxruntime tells Microsoft of its sessions unless this is set before it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A busy machine is no fault of an example.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# The server that forks the processes of `tests.drivers` imports `tests` from the folder it begins in; a test may have left that of
# the repository by then, and site-packages has another `tests`.
with contextlib.chdir(Path(__file__).resolve().parent.parent):
    forkserver.ensure_running()  # with what drivers.py preloads

UNTIL_REGISTER = STAGES[:5]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Return a function that gives a dev run of a use case, done up to registration on a small portfolio."""
    made: dict[str, Run] = {}

    def run_of(usecase: str) -> Run:
        if usecase not in made:
            run = Run.create(tmp_path_factory.mktemp(usecase), "dev", usecase)
            _advance(run, UNTIL_REGISTER)
            made[usecase] = run
        return made[usecase]

    return run_of


@pytest.fixture(autouse=True)
def no_place_is_asked_for() -> Iterator[None]:
    """Forget what `--target` of a command in this process has set, as the process of a command does when it ends."""
    os.environ.pop(VARIABLE, None)
    yield
    os.environ.pop(VARIABLE, None)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """Yield an empty project; its endpoints are stopped at the end."""
    from brookside_mlops.endpoints.local import stop_all

    yield tmp_path
    stop_all(tmp_path / ".brookside")


@pytest.fixture(scope="session")
def registry_project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registered]:
    """Return a project with three registered versions, made once."""
    from brookside_mlops.endpoints.local import stop_all

    found = make(tmp_path_factory.mktemp("registered"))
    yield found
    stop_all(found.project / ".brookside")


@pytest.fixture
def registered(registry_project: Registered) -> Iterator[Registered]:
    """Return that project with an endpoint of its own for each test, which is stopped at the end."""
    registry_project.settings()
    yield registry_project
    registry_project.endpoint.stop()
