"""Ctrl-C while a rollout is under way: the question, the wish, and when there is nothing to ask."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pexpect
import pytest

from brookside_mlops.rollout import Record
from brookside_mlops.rollout_interrupt import QUESTION, ask_terminal, asking
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.runs import Run
from brookside_mlops.terminal import draw, still
from tests.rollouts import plan, target


def press() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass


@pytest.mark.parametrize(
    ("answer", "wish"), [("a", "abort"), ("p\n", "pause"), ("Leave", "leave"), ("\n", "")]
)
def test_answer_reaches_the_driver(project: Path, answer: str, wish: str) -> None:
    run = Run.create(project, "dev", "viability")
    store = RolloutStore(run.settings.state)
    number = store.begin("viability-dev", "{}")
    with asking(lambda: run, lambda: answer):
        press()
    assert store.take_wish(number)[0] == wish


def test_interrupt_without_a_rollout_is_an_interrupt(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    with pytest.raises(KeyboardInterrupt), asking(lambda: run, lambda: pytest.fail("nothing to ask")):
        press()
    store = RolloutStore(run.settings.state)
    number = store.begin("viability-dev", "{}")
    store.save(number, "{}", open_=False)
    with pytest.raises(KeyboardInterrupt), asking(lambda: run, lambda: pytest.fail("nothing to ask")):
        press()


def test_handler_of_before_comes_back(project: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with asking(lambda: Run.create(project, "dev", "viability"), lambda: ""):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_nobody_at_the_terminal_means_abort(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        assert ask_terminal() == "abort"


AT_A_TERMINAL = """
import sys, threading
from pathlib import Path
from brookside_mlops.pipeline import Event
from brookside_mlops.reporting import Reporter
from brookside_mlops.rollout_interrupt import asking
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.rollout_watch import watch_rollout
from brookside_mlops.runs import Run

run, looked = Run(Path(sys.argv[1])), threading.Event()
store = RolloutStore(run.settings.state)
reporter = Reporter()
reporter(Event("begin", run, "deploy"))
watch = lambda: watch_rollout(run.settings.state, "viability-dev", lambda seconds: looked.wait(0.001))
threading.Thread(target=watch, daemon=True).start()
with asking(lambda: run):
    sys.__stdout__.write("READY\\n")  # not by print: it holds no reference to sys.stdout, which displays exchange meanwhile
    sys.__stdout__.flush()
    while not (row := store.last("viability-dev")).wish:
        pass
reporter.stop()
sys.__stdout__.write(f"WISH {row.wish}\\n")
"""


def test_question_keeps_its_letters_and_nothing_is_drawn_over_it(project: Path) -> None:
    run = Run.create(project, "dev", "viability")
    record = Record(
        endpoint="viability-dev", plan=plan(), target=target(2), new="green", old="blue", before={"blue": 100}
    )
    RolloutStore(run.settings.state).begin("viability-dev", record.model_dump_json())
    root = str(Path(__file__).resolve().parent.parent)
    child = pexpect.spawn(
        sys.executable,
        ["-c", AT_A_TERMINAL, str(run.folder)],
        env=os.environ | {"PYTHONPATH": root, "TERM": "xterm"},
        encoding="utf-8",
        timeout=60,
        dimensions=(40, 140),
    )
    child.expect("READY")
    child.expect("green 10 %")
    child.sendintr()
    child.expect_exact(QUESTION.strip())
    assert child.expect([r"[^ ]", pexpect.TIMEOUT], timeout=1) == 1, child.before
    child.sendline("p")
    child.expect("WISH pause")
    child.expect(pexpect.EOF)
    child.close()


def test_what_is_drawn_waits_for_the_answer() -> None:
    drawn: list[str] = []
    with still():
        other = threading.Thread(target=draw, args=(lambda: drawn.append("a table"),))
        other.start()
        other.join(0.2)
        assert drawn == []
    other.join()
    assert drawn == ["a table"]
