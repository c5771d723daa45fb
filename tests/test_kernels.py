"""Forking kernels: what is refused, what a kernel is given, how its end is told, on real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.manager import AsyncKernelManager

from brookside_mlops import kernels
from brookside_mlops.kernels import (
    ForkProvisioner,
    NotForkedError,
    WarmProcess,
    can_fork,
    early,
    kernel_manager,
    order_for,
    warm_up,
)
from brookside_mlops.zygote import LIBRARIES, Order, blas_threads, threads, zygote_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux")
IPYKERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{file}"]


@pytest.fixture(scope="module", autouse=True)
def _cool() -> Iterator[None]:
    yield
    kernels.cool_down()


async def ask(manager: AsyncKernelManager, code: str) -> Any:
    """Evaluate an expression in the kernel and return its value."""
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=60)
        reply = await client.execute("", user_expressions={"v": code}, reply=True, timeout=60)
        return eval(reply["content"]["user_expressions"]["v"]["data"]["text/plain"])
    finally:
        client.stop_channels()


def in_kernel(code: str, **options: Any) -> Any:
    """Start a kernel, evaluate an expression in it, end it, which it must do well."""

    async def work() -> Any:
        with kernel_manager() as manager:
            await manager.start_kernel(**options)
            provisioner = manager.provisioner
            assert provisioner.forked, provisioner.note
            value = await ask(manager, code)
            await manager.shutdown_kernel()
            assert provisioner.status == 0 and not provisioner.has_process
            return value

    return asyncio.run(work())


def test_warm_process_has_everything_loaded_and_one_thread() -> None:
    warm = WarmProcess()
    try:
        state = warm.wait_warm()
        assert state["warm"] and state["missing"] == [] and len(state["threads"]) == 1, state
    finally:
        warm.close()
    assert warm.process.returncode == 0


def test_kernel_has_its_own_session_and_nothing_to_read() -> None:
    code = (
        "__import__('os').getsid(0), __import__('os').getpid(), __import__('os').readlink('/proc/self/fd/0')"
    )
    session, pid, stdin = in_kernel(code)
    assert session == pid != os.getpid() and stdin == os.devnull


def test_kernel_gets_the_folder_and_environment_it_was_asked_for(tmp_path: Path) -> None:
    environment = dict(os.environ) | {"BROOKSIDE_TEST": "ü"}
    del environment["HOME"]
    code = "__import__('os').getcwd(), dict(__import__('os').environ)"
    folder, seen = in_kernel(code, cwd=str(tmp_path), env=environment)
    assert folder == str(tmp_path) and seen["BROOKSIDE_TEST"] == "ü" and "HOME" not in seen
    assert not {"OPENBLAS_NUM_THREADS", "JE_ARROW_MALLOC_CONF"} & seen.keys()


def test_kernel_has_the_blas_threads_of_an_ordinary_one() -> None:
    pools = "(__import__('numpy'), __import__('threadpoolctl').threadpool_info())[1]"
    code = f"[pool['num_threads'] for pool in {pools} if pool['user_api'] == 'blas']"
    counts = in_kernel(code)
    assert counts and set(counts) == {blas_threads(dict(os.environ))}


def test_interrupt_reaches_the_running_cell_and_kill_is_told() -> None:
    async def work() -> None:
        with kernel_manager() as manager:
            await manager.start_kernel()
            client = manager.client()
            client.start_channels()
            await client.wait_for_ready(timeout=60)
            sent = client.execute("import time\ntime.sleep(600)")
            while (await client.get_iopub_msg(timeout=30))["msg_type"] != "execute_input":
                pass
            await asyncio.sleep(0.2)
            await manager.interrupt_kernel()
            reply = await client._async_recv_reply(sent, timeout=30)
            assert reply["content"]["ename"] == "KeyboardInterrupt"
            assert await manager.is_alive() and await manager.provisioner.poll() is None
            process = manager.provisioner.process
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            process.terminate()
            await asyncio.sleep(0)
            process.kill()
            both = await asyncio.gather(manager.provisioner.wait(), manager.provisioner.wait())
            assert set(both) <= {-signal.SIGKILL, -signal.SIGTERM} and not await manager.is_alive()
            process.kill()  # a process that has ended takes no signal
            assert process.wait(1) == both[0]
            client.stop_channels()
            await manager.cleanup_resources()

    asyncio.run(work())


def test_kernel_can_be_restarted() -> None:
    async def work() -> None:
        with kernel_manager() as manager:
            await manager.start_kernel()
            first = manager.provisioner.pid
            await manager.restart_kernel(now=True)
            assert manager.provisioner.forked and manager.provisioner.pid != first
            assert await ask(manager, "__import__('os').getpid()") == manager.provisioner.pid
            await manager.shutdown_kernel(now=True)

    asyncio.run(work())


def test_zygote_with_a_second_thread_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starts_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    warm = WarmProcess(("ipykernel.kernelapp", "starts_thread", "no_such_module"))
    try:
        state = warm.wait_warm()
        assert len(state["threads"]) == 2 and state["missing"] == ["no_such_module"]
        order = Order([], str(tmp_path), dict(os.environ))
        with pytest.raises(NotForkedError, match="the warm process has 2 threads"):
            asyncio.run(warm.fork(order, 30))
    finally:
        warm.close()


def test_failures_of_a_start_are_told(tmp_path: Path) -> None:
    warm = WarmProcess(("ipykernel.kernelapp",))
    order = Order([], str(tmp_path / "nowhere"), dict(os.environ))
    with pytest.raises(NotForkedError, match="FileNotFoundError"):
        asyncio.run(warm.fork(order, 30))
    with pytest.raises(NotForkedError, match=r"did not answer in 0 s"):
        asyncio.run(warm.fork(Order(["-f", str(tmp_path / "k.json")], str(tmp_path), dict(os.environ)), 0))
    warm.process.kill()
    warm.process.wait()
    assert not warm.alive()
    with pytest.raises(NotForkedError, match="the warm process"):
        asyncio.run(warm.fork(order, 30))
    warm.close()


def test_dead_zygote_is_replaced() -> None:
    first = warm_up()
    assert warm_up() is first
    first.process.kill()
    first.process.wait()
    assert in_kernel("1 + 1") == 2 and kernels._warm is not first


def test_what_cannot_be_forked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotForkedError, match="not an IPython kernel of"):
        order_for(["/usr/bin/R", "--slave"], {})
    with pytest.raises(NotForkedError, match="asks for preexec_fn"):
        order_for(IPYKERNEL, {"preexec_fn": print, "stdin": None})
    with pytest.raises(NotForkedError, match="a pipe"):
        kernels.descriptor(subprocess.PIPE, 1)
    order = order_for(IPYKERNEL, {"env": {"A": "b"}, "cwd": "/tmp"})
    assert order == Order(["-f", "{file}"], "/tmp", {"A": "b"})
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "Linux only" in can_fork()


def test_other_values_of_variables_read_at_import_mean_an_ordinary_kernel() -> None:
    async def work() -> None:
        with kernel_manager() as manager:
            await manager.start_kernel(env=dict(os.environ) | {"OMP_NUM_THREADS": "1"})
            assert "other values of OMP_NUM_THREADS" in manager.provisioner.note
            assert await ask(manager, "__import__('os').environ['OMP_NUM_THREADS']") == "1"
            await manager.shutdown_kernel(now=True)

    asyncio.run(work())
    assert early(zygote_environment({"MPLBACKEND": "agg"}))["MPLBACKEND"] == "agg"
    assert len(set(LIBRARIES)) == len(LIBRARIES) and len(threads()) >= 1


def test_entry_point_names_the_provisioner() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    line = 'brookside-fork = "brookside_mlops.kernels:ForkProvisioner"'
    assert line in text.split('[project.entry-points."jupyter_client.kernel_provisioners"]')[1]
    assert (
        EntryPoint("brookside-fork", "brookside_mlops.kernels:ForkProvisioner", "").load() is ForkProvisioner
    )


def test_threads_of_xgboost_sleep_while_they_wait_unless_told_otherwise() -> None:
    for given, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = zygote_environment({**os.environ, "OMP_DISPLAY_ENV": "TRUE", **given})
        code = "import xgboost; xgboost.DMatrix([[1.0]])"
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        assert f"OMP_WAIT_POLICY = '{expected}'" in found.stderr
