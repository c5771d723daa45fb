"""Ctrl-C while a rollout is under way: the question, the wish, and when there is nothing to ask."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from brookside_mlops.rollout_interrupt import ask_terminal, asking
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.runs import Run


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
