"""One holder per rollout, whoever dies, and whatever the clock says."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from brookside_mlops.errors import InputError, MachineError
from brookside_mlops.rollout_store import LEASE, LeaseLost, RolloutStore, alive, process_born, this_holder
from tests.drivers import ONE, full_disk, until

NAME = "cost-dev"


def begin_and_wait(folder: Path, ready: Any, go: Any, answers: Any) -> None:
    """Begin a rollout when told, say how that went, and stay alive."""
    store = RolloutStore(folder)
    ready.release()
    go.wait()
    try:
        answers.put(("began", os.getpid(), str(store.begin(NAME, json.dumps(os.getpid())))))
    except InputError as error:
        answers.put(("refused", os.getpid(), str(error)))
    signal.pause()


@dataclass
class Operators:
    """Processes that begin a rollout of one endpoint."""

    folder: Path
    running: list[Any] = field(default_factory=list)

    def begin(self, number: int) -> list[tuple[str, int, str]]:
        """Let so many processes begin at the same moment and return what they say."""
        ready, go, answers = ONE.Semaphore(0), ONE.Event(), ONE.SimpleQueue()
        for _ in range(number):
            process = ONE.Process(target=begin_and_wait, args=(self.folder, ready, go, answers))
            process.start()
            self.running.append(process)
        for _ in range(number):
            assert ready.acquire(timeout=60)
        go.set()
        return [answers.get() for _ in range(number)]

    def kill(self) -> None:
        for process in self.running:
            process.kill()
            process.join()


@pytest.fixture
def operators(tmp_path: Path) -> Iterator[Operators]:
    found = Operators(tmp_path)
    yield found
    found.kill()


def elsewhere(store: RolloutStore) -> None:
    """Let the holder of the open rollout be on another machine."""
    with closing(sqlite3.connect(store.path)) as database, database:
        database.execute("update rollout set holder = json_set(holder, '$.host', 'elsewhere') where open = 1")


@dataclass
class Hand:
    """A clock that is set by hand."""

    at: float = 1_000_000.0

    def __call__(self) -> float:
        return self.at


# ---- processes of this machine -----------------------------------------------------------------------------------------------------------


def test_of_many_that_begin_at_once_one_does_and_the_others_are_told_who(operators: Operators) -> None:
    answers = operators.begin(6)
    ((_, pid, number),) = [one for one in answers if one[0] == "began"]
    refused = [text for kind, _, text in answers if kind == "refused"]
    assert len(refused) == 5
    for text in refused:
        assert f"(process {pid} on {socket.gethostname()}), since 20" in text
        assert f"rollout show {NAME}" in text
    row = RolloutStore(operators.folder).last(NAME)
    assert row is not None and (row.id, row.document, row.open) == (int(number), str(pid), True)


def test_holder_killed_with_minus_9_is_let_go_at_once(operators: Operators) -> None:
    operators.begin(1)
    store = RolloutStore(operators.folder)
    with pytest.raises(InputError, match="held by"):
        store.claim(NAME)
    os.kill(operators.running[0].pid, signal.SIGKILL)
    operators.running[0].join()
    row = store.claim(NAME)
    assert row is not None and row.holder is not None and row.holder.pid == os.getpid()


def test_killed_holder_that_nobody_has_buried_is_dead(tmp_path: Path) -> None:
    """Its parent has not asked for its exit code: the process is a zombie."""
    code = (
        "import signal, sys; from pathlib import Path; from brookside_mlops.rollout_store import RolloutStore\n"
        "RolloutStore(Path(sys.argv[1])).begin('cost-dev', '{}'); print('began', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"began\n"
        store = RolloutStore(tmp_path)
        with pytest.raises(InputError, match=f"process {process.pid} "):
            store.begin(NAME, "{}")
        process.kill()
        until(lambda: not process_born(process.pid))
        assert Path(f"/proc/{process.pid}").exists()
        assert store.claim(NAME) is not None


def test_number_of_a_process_that_is_used_again_holds_nothing() -> None:
    me = this_holder(0)
    assert alive(me, 0, 1e9)
    assert not alive(me.model_copy(update={"born": "12345"}), 1e9, 1e9)
    assert process_born(2**22 + 1) == ""


def test_holder_without_a_name_in_the_user_list_is_shown_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("brookside_mlops.rollout_store.getpass.getuser", nameless)
    assert this_holder(0).name == str(os.getuid())


# ---- other machines, and clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passed", "held"), [(0.0, True), (LEASE - 1, True), (LEASE + 1, False), (-5.0, True), (-86_400.0, False)]
)
def test_holder_elsewhere_is_given_up_when_it_last_wrote_far_from_now(
    tmp_path: Path, passed: float, held: bool
) -> None:
    clock = Hand()
    there, here = RolloutStore(tmp_path, clock), RolloutStore(tmp_path, clock)
    number = there.begin(NAME, '"there"')
    elsewhere(there)
    clock.at += passed
    if held:
        with pytest.raises(InputError, match=r"held by .* on elsewhere"):
            here.claim(NAME)
        there.save(number, '"still there"')
    else:
        assert here.claim(NAME) is not None
        with pytest.raises(LeaseLost):
            there.save(number, '"still there"')


def test_holder_elsewhere_stays_as_long_as_it_writes(tmp_path: Path) -> None:
    clock = Hand()
    there, here = RolloutStore(tmp_path, clock), RolloutStore(tmp_path, clock)
    number = there.begin(NAME, "0")
    elsewhere(there)
    for step in range(5):
        clock.at += 0.9 * LEASE
        there.save(number, str(step))
        with pytest.raises(InputError, match="elsewhere"):
            here.begin(NAME, "{}")


@pytest.mark.parametrize("jump", [-1e9, -3_600.0, 3_600.0, 1e9])
def test_clock_that_jumps_takes_no_lease_from_a_process_of_this_machine(tmp_path: Path, jump: float) -> None:
    clock = Hand()
    mine, other = RolloutStore(tmp_path, clock), RolloutStore(tmp_path, clock)
    number = mine.begin(NAME, "{}")
    clock.at += jump
    with pytest.raises(InputError, match="held by"):
        other.claim(NAME)
    mine.save(number, '"on"')
    assert mine.take_wish(number) == ("", "")


def test_who_was_given_up_by_mistake_can_do_nothing_more(tmp_path: Path) -> None:
    clock = Hand()
    there, here = RolloutStore(tmp_path, clock), RolloutStore(tmp_path, clock)
    number = there.begin(NAME, "{}")
    elsewhere(there)
    clock.at += 2 * LEASE
    here.claim(NAME)
    here.ask(NAME, "pause", "Ada")
    with pytest.raises(LeaseLost, match="nothing more is moved from here"):
        there.save(number, '"late"')
    with pytest.raises(LeaseLost):
        there.take_wish(number)
    there.release()
    row = here.last(NAME)
    assert row is not None and row.holder is not None and row.document == "{}"
    assert here.take_wish(number) == ("pause", "Ada")
    here.save(number, '"here"')


# ---- what is kept ------------------------------------------------------------------------------------------------------------------------


def test_wish_is_taken_once_and_forgotten_by_who_takes_over(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    assert store.ask(NAME, "pause", "Ada") is None and store.last(NAME) is None
    number = store.begin(NAME, "{}")
    row = store.ask(NAME, "pause", "Ada")
    assert row is not None and (row.wish, row.wisher) == ("pause", "Ada")
    assert store.take_wish(number) == ("pause", "Ada") and store.take_wish(number)[0] == ""
    store.ask(NAME, "abort", "Ada")
    store.release()
    assert RolloutStore(tmp_path).claim(NAME).wish == ""  # type: ignore[union-attr]
    with pytest.raises(InputError, match="'stop' is not one of pause, resume, promote, abort, leave"):
        store.ask(NAME, "stop", "Ada")  # type: ignore[arg-type]


def test_ended_rollout_is_history_and_the_newest_is_shown(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    assert store.last(NAME) is None and store.claim(NAME) is None
    for text in ("1", "2"):
        store.save(store.begin(NAME, "{}"), text, open_=False)
    row = store.last(NAME)
    assert row is not None and (row.document, row.open, row.id) == ("2", False, 2)
    assert store.claim(NAME) is None
    other = store.begin("viability-dev", "3")
    assert store.last(NAME).document == "2" and other == 3  # type: ignore[union-attr]


def test_kept_deployments_are_named_with_their_time(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    store.keep(NAME, "blue", 5.0)
    store.keep(NAME, "blue", 7.0)
    store.keep("other-dev", "green", 9.0)
    assert store.kept(NAME) == {"blue": 7.0}
    store.forget(NAME, "blue")
    store.forget(NAME, "blue")
    assert store.kept(NAME) == {} and store.kept("other-dev") == {"green": 9.0}


class Drivers(RuleBasedStateMachine):
    """Any order of what two drivers on two machines do: who holds the rollout alone writes, and what it wrote is there."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.clock = Hand()
        self.stores = [RolloutStore(Path(self.folder.name), self.clock) for _ in range(2)]
        self.holds: int | None = None
        self.number: int | None = None
        self.seen = self.clock.at
        self.text = ""

    def held(self) -> bool:
        return self.holds is not None and abs(self.clock.at - self.seen) < LEASE

    def took(self, who: int) -> None:
        self.holds, self.seen = who, self.clock.at
        elsewhere(self.stores[who])

    @rule(who=st.integers(0, 1))
    def begin(self, who: int) -> None:
        try:
            self.number = self.stores[who].begin(NAME, "new")
        except InputError:
            assert self.held()
            return
        assert not self.held()
        self.text = "new"
        self.took(who)

    @rule(who=st.integers(0, 1))
    def claim(self, who: int) -> None:
        try:
            row = self.stores[who].claim(NAME)
        except InputError:
            assert self.held()
            return
        assert not self.held() and (row is None) == (self.number is None)
        if row is not None:
            self.took(who)

    @precondition(lambda self: self.number is not None)
    @rule(who=st.integers(0, 1), text=st.text(max_size=5), last=st.booleans())
    def save(self, who: int, text: str, last: bool) -> None:
        try:
            self.stores[who].save(self.number or 0, text, not last)
        except LeaseLost:
            assert self.holds != who
            return
        assert self.holds == who
        self.text, self.seen = text, self.clock.at
        if last:
            self.number = self.holds = None

    @rule(who=st.integers(0, 1))
    def release(self, who: int) -> None:
        self.stores[who].release()
        if self.holds == who:
            self.holds = None

    @rule(seconds=st.sampled_from([1.0, LEASE + 1, -1.0, -2 * LEASE]))
    def time_passes(self, seconds: float) -> None:
        self.clock.at += seconds

    @invariant()
    def last_is_what_was_written(self) -> None:
        row = self.stores[0].last(NAME)
        assert row is None or (row.document == self.text and row.open == (self.number is not None))

    def teardown(self) -> None:
        self.folder.cleanup()


Drivers.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDrivers = Drivers.TestCase


# ---- disks -------------------------------------------------------------------------------------------------------------------------------


def write_on_and_on(folder: Path, begun: Any) -> None:
    """Write one document after the other."""
    store = RolloutStore(folder)
    number = store.begin(NAME, json.dumps([0] * 500))
    begun.set()
    step = 0
    while True:
        step += 1
        store.save(number, json.dumps([step] * 500))


def test_document_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    for time_left in (0.0, 0.003, 0.01, 0.03, 0.05):
        begun = ONE.Event()
        process = ONE.Process(target=write_on_and_on, args=(tmp_path, begun))
        process.start()
        assert begun.wait(60)
        time.sleep(time_left)  # a moment in the middle of its work, not one that is waited for
        process.kill()
        process.join()
        store = RolloutStore(tmp_path)
        row = store.claim(NAME)
        store.release()
        assert row is not None
        numbers = json.loads(row.document)
        assert len(numbers) == 500 and len(set(numbers)) == 1
    with closing(sqlite3.connect(tmp_path / "rollouts.db")) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)


def save_on_a_full_disk(folder: Path, answers: Any) -> None:
    store = RolloutStore(folder)
    number = store.begin(NAME, '"room"')
    full_disk()
    try:
        store.save(number, json.dumps("x" * 100_000))
    except MachineError as error:
        answers.put(str(error))
    try:
        store.release()
    except MachineError as error:
        answers.put(str(error))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # what measures coverage writes at the end


def test_full_disk_is_an_error_that_names_the_file_and_leaves_it_whole(tmp_path: Path) -> None:
    answers = ONE.SimpleQueue()
    process = ONE.Process(target=save_on_a_full_disk, args=(tmp_path, answers))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert "rollouts.db" in answers.get() and "a disk with room, would be right" in answers.get()
    row = RolloutStore(tmp_path).claim(NAME)
    assert row is not None and row.document == '"room"'


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollouts.db").write_text("noise " * 1_000)
    with pytest.raises(MachineError, match=r"rollouts\.db: file is not a database"):
        RolloutStore(tmp_path).last(NAME)


def test_state_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(MachineError, match="state"):
        RolloutStore(tmp_path / "state").begin(NAME, "{}")


def test_look_neither_waits_for_a_change_nor_holds_one_up(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    number = store.begin(NAME, "{}")
    with closing(sqlite3.connect(store.path, timeout=0, isolation_level=None)) as other:
        other.execute("begin immediate")
        row = store.last(NAME)
        assert row is not None and row.id == number
        assert [one.id for one in store.rows(NAME)] == [number] and store.kept(NAME) == {}
        other.execute("rollback")
        with store._look() as looked:
            assert looked.execute("select count(*) from rollout").fetchone() == (1,)
            other.execute("begin immediate")
            other.execute("rollback")
