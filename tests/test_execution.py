"""Running one notebook: what is injected, kept, told and raised, on real kernels."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import pytest

from brookside_mlops import execution, kernels
from brookside_mlops.errors import ApprovalNeeded, GateFailed, InputError
from brookside_mlops.execution import CellFailed, CellProgress, death, execute, failure
from tests.drivers import state_of

Writer = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    yield
    kernels.cool_down()


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a notebook: a parameters cell `x = 1`, then the cells given as code."""

    def make(*codes: str, name: str = "stage.ipynb") -> Path:
        cells = [nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]})]
        cells += [nbformat.v4.new_code_cell(textwrap.dedent(code)) for code in codes]
        path = tmp_path / name
        nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
        return path

    return make


def text(path: Path) -> str:
    """Everything the cells of an executed notebook printed or showed."""
    said = []
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            said.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "".join(said)


def errors(path: Path) -> list[Any]:
    cells = nbformat.read(path, 4).cells
    return [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]


def test_parameters_are_injected_after_the_parameters_cell(write: Writer, tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.ipynb"
    execute(write("print(x, where)"), output, {"x": 2, "where": tmp_path})
    assert text(output) == f"2 {tmp_path}\n"
    book = nbformat.read(output, 4)
    assert "injected-parameters" in book.cells[1].metadata.tags
    assert book.metadata.papermill.parameters == {"x": 2, "where": str(tmp_path)}
    assert book.metadata.papermill.output_path == str(output)
    assert {cell.metadata.papermill.status for cell in book.cells} == {"completed"}
    assert book.metadata.language_info.name == "python"


def test_folder_and_environment_are_honoured_and_keys_are_not_written(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROOKSIDE_TEST_KEY", "s3cret-value")
    output = tmp_path / "out.ipynb"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    source = write("import os\nprint(os.getcwd())\nassert len(os.environ['BROOKSIDE_TEST_KEY']) == 12")
    execute(source, output, {}, cwd=folder)
    assert text(output) == f"{folder}\n"
    assert "s3cret" not in output.read_text()


def test_each_notebook_gets_a_fresh_process(write: Writer, tmp_path: Path) -> None:
    code = """
    import numpy, os, random, sys
    print(os.getpid(), random.random(), numpy.random.random(), hasattr(numpy, "leak"), "leaked" in globals())
    numpy.leak = leaked = True
    """
    said = []
    for number in range(2):
        output = tmp_path / f"{number}.ipynb"
        execute(write(code), output, {})
        said.append(text(output).split())
    assert all(first != second for first, second in zip(said[0][:3], said[1][:3], strict=True))
    assert [one[3:] for one in said] == [["False", "False"]] * 2


def test_nothing_that_a_cell_says_is_lost(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # ipykernel looks below sys.stdout only outside of pytest
    output = tmp_path / "out.ipynb"
    code = """
    import os, subprocess, sys
    for number in range(20000): print(number)
    subprocess.run(["echo", "from a process"])
    os.write(1, b"from below\\n");
    """
    execute(write(code, "print('after')", "import os\nos.write(1, b'at the end\\n' * 5000);"), output, {})
    said = text(output)
    assert "".join(f"{number}\n" for number in range(20000)) in said
    assert "from a process\n" in said and "from below\n" in said and "after\n" in said
    assert said.count("at the end\n") == 5000


def test_pictures_are_shown(write: Writer, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    execute(write("import matplotlib.pyplot as plt\nplt.plot([1, 2]);"), output, {})
    outputs = nbformat.read(output, 4).cells[-1].outputs
    assert [list(one.data) for one in outputs] == [["image/png", "text/plain"]]


def test_failed_notebook_is_kept_up_to_the_failing_cell_with_its_error(write: Writer, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    with pytest.raises(CellFailed, match=r"^stage\.ipynb, cell 4: KeyError: 'cost'$") as caught:
        execute(write("print('before')", "{}['cost']", "print('never')"), output, {"x": 3})
    assert caught.value.exit_code == 1
    assert text(output) == "before\n"
    assert errors(output)[0].ename == "KeyError" and errors(output)[0].traceback
    book = nbformat.read(output, 4)
    assert "An Exception was encountered" in book.cells[0].source
    assert [cell.metadata.get("papermill", {}).get("status") for cell in book.cells][-2:] == [
        "failed",
        "pending",
    ]


@pytest.mark.parametrize("kind", [InputError, GateFailed, ApprovalNeeded])
def test_our_errors_come_out_as_themselves(kind: type[Exception], write: Writer, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    code = (
        f"from brookside_mlops.errors import {kind.__name__}\nraise {kind.__name__}('accuracy: 0.7 < 0.75')"
    )
    with pytest.raises(kind, match=r"^accuracy: 0\.7 < 0\.75$"):
        execute(write(code), output, {})
    assert errors(output)[0].traceback == [f"{kind.__name__}: accuracy: 0.7 < 0.75"]


def test_progress_names_every_code_cell_and_its_heading(tmp_path: Path) -> None:
    new = nbformat.v4
    cells = [new.new_markdown_cell("# Title\n\ntext"), new.new_code_cell("1"), new.new_markdown_cell("plain")]
    cells += [new.new_markdown_cell("## Part"), new.new_code_cell("2")]
    nbformat.write(new.new_notebook(cells=cells), tmp_path / "stage.ipynb")
    seen: list[CellProgress] = []
    execute(tmp_path / "stage.ipynb", tmp_path / "out.ipynb", {}, seen.append)
    assert [(at.cell, at.cells, at.heading) for at in seen] == [(2, 5, "Title"), (5, 5, "Part")]
    assert 0 <= seen[0].seconds <= seen[1].seconds


def test_killed_kernel_is_noticed_and_said(write: Writer, tmp_path: Path) -> None:
    output = tmp_path / "out.ipynb"
    code = "import os, sys, signal\nprint('last', flush=True)\nos.write(2, b'abort: bad_alloc\\n')\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(CellFailed, match=r"KernelDied: the kernel was ended by SIGKILL.*memory"):
        execute(write("print('before')", code, "print('never')"), output, {})
    assert "before\n" in text(output)
    assert errors(output)[0].ename == "KernelDied"
    assert errors(output)[0].traceback[-1] == "abort: bad_alloc"


def test_end_of_a_kernel_is_told_with_its_last_lines() -> None:
    reason, lines = death(-signal.SIGABRT, "a\nterminate called after throwing\n")
    assert reason == "the kernel was ended by SIGABRT" and lines[-1] == "terminate called after throwing"
    assert "exit code 3" in death(3, "")[0]
    assert str(failure(Path("a.ipynb"), "SystemExit", "", 2)) == "a.ipynb, cell 2: SystemExit"


def test_two_at_once_do_not_disturb_each_other(write: Writer, tmp_path: Path) -> None:
    source = write("import os, time\ntime.sleep(0.5)\nprint(x, os.getcwd())")
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(3) as pool:
        list(
            pool.map(
                lambda folder: execute(source, folder / "o.ipynb", {"x": int(folder.name)}, None, folder),
                folders,
            )
        )
    assert [text(folder / "o.ipynb") for folder in folders] == [
        f"{folder.name} {folder}\n" for folder in folders
    ]


def test_without_forking_an_ordinary_kernel_does_the_same_and_it_is_said(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "can_fork", lambda: "not on this machine")
    notes: list[str] = []
    output = tmp_path / "out.ipynb"
    execute(write("print(x)"), output, {"x": 5}, log=notes.append)
    assert text(output) == "5\n"
    assert notes == ["an ordinary kernel, not a forked one: not on this machine"]
    with pytest.raises(CellFailed, match="KernelDied"):
        execute(write("import os\nos._exit(4)"), output, {})


RUNNER = """
import sys
from pathlib import Path
from brookside_mlops.execution import execute
execute(Path(sys.argv[1]), Path(sys.argv[2]), {})
"""
LONG = """
import os, subprocess
helper = subprocess.Popen(["sleep", "600"])
from pathlib import Path
Path("pids.tmp").write_text(f"{os.getpid()} {os.getppid()} {helper.pid}")
os.rename("pids.tmp", "pids")
print("waiting", flush=True)
import time; time.sleep(600)
"""


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return value


def alive(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


@pytest.fixture
def runner(write: Writer, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """A process in the middle of a long cell: it, the numbers of kernel, zygote and helper, and the output."""
    output = tmp_path / "out.ipynb"
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(write("print('first')", LONG)), str(output)],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "pids").exists)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    wait_for(lambda: "waiting" in text(output))
    yield process, pids, output
    process.kill()
    process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux")
@pytest.mark.parametrize("killer", [signal.SIGKILL, signal.SIGTERM])
def test_killed_runner_takes_kernel_zygote_and_helpers_along_and_leaves_a_readable_notebook(
    runner: tuple[subprocess.Popen[str], list[int], Path], killer: signal.Signals
) -> None:
    process, pids, output = runner
    process.send_signal(killer)
    process.wait(30)
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert text(output) == "first\nwaiting\n"
    assert json.loads(output.read_text())["cells"][-1]["metadata"]["papermill"]["status"] == "running"


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux")
def test_interrupt_ends_the_kernel_keeps_the_notebook_and_stays_an_interrupt(
    runner: tuple[subprocess.Popen[str], list[int], Path],
) -> None:
    process, pids, output = runner
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT and said.rstrip().endswith("KeyboardInterrupt")
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert text(output) == "first\nwaiting\n"
    assert json.loads(output.read_text())["cells"][-1]["metadata"]["papermill"]["status"] == "failed"


@pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux")
def test_killed_zygote_takes_the_kernel_along_and_the_runner_says_so(
    runner: tuple[subprocess.Popen[str], list[int], Path],
) -> None:
    process, (kernel, zygote, _), output = runner
    os.kill(zygote, signal.SIGKILL)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1 and "KernelDied" in said
    wait_for(lambda: not alive(kernel))
    assert errors(output)[0].ename == "KernelDied"


def test_runs_inside_a_running_event_loop(write: Writer, tmp_path: Path) -> None:
    seen: list[str] = []

    async def inside() -> None:
        execute(write("import threading\nprint(x)"), tmp_path / "out.ipynb", {"x": 9})
        seen.append(threading.current_thread().name)

    execution.run_alone(inside())
    assert text(tmp_path / "out.ipynb") == "9\n" and seen == ["MainThread"]
