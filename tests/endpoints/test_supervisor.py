"""A worker that writes nonsense, and a channel that is read in pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.endpoints.supervisor import Channel, WorkerDown
from brookside_mlops.endpoints.worker import Reply


class Wire:
    """The transport of a channel, as far as it is used."""

    def __init__(self) -> None:
        self.sent, self.open = b"", True

    def write(self, data: bytes) -> None:
        self.sent += data

    def abort(self) -> None:
        self.open = False


def connected() -> tuple[Channel, Wire]:
    channel, wire = Channel(lambda: 0.0), Wire()
    channel.connection_made(wire)  # type: ignore[arg-type]
    return channel, wire


REPLIES = st.lists(
    st.builds(
        Reply,
        status=st.sampled_from([200, 422, 500]),
        body=st.binary(max_size=50),
        rows=st.integers(0, 100),
        total=st.floats(-1e6, 1e6),
        squares=st.floats(0, 1e6),
        classes=st.dictionaries(st.text(max_size=5), st.integers(1, 9), max_size=3),
    ),
    min_size=1,
    max_size=6,
)


@given(REPLIES, st.integers(1, 40))
def test_answers_are_told_apart_however_the_bytes_are_cut(replies: list[Reply], size: int) -> None:
    async def work() -> list[Reply]:
        channel, _ = connected()
        futures = [channel.ask(b"x", b"") for _ in replies]
        data = b"".join(one.pack() for one in replies)
        for start in range(0, len(data), size):
            channel.data_received(data[start : start + size])
        return [future.result() for future in futures]

    assert asyncio.run(work()) == replies


@pytest.mark.parametrize("noise", [b"x" * 64, Reply(200, b"[]").pack().replace(b"BKS1", b"BKS2")])
def test_nonsense_closes_the_channel_and_tells_who_waits(noise: bytes) -> None:
    async def work() -> Any:
        channel, wire = connected()
        future = channel.ask(b"x", b"")
        channel.data_received(noise)
        assert not wire.open and not channel.open
        later = channel.ask(b"x", b"")
        return await asyncio.gather(future, later, return_exceptions=True)

    first, later = asyncio.run(work())
    assert isinstance(first, WorkerDown) and "not an answer" in str(first) and isinstance(later, WorkerDown)


def test_answer_that_nobody_asked_for_is_nonsense() -> None:
    async def work() -> bool:
        channel, _ = connected()
        channel.data_received(Reply(200, b"[]").pack())
        return channel.open

    assert asyncio.run(work()) is False


def test_abandoned_request_does_not_shift_the_answers() -> None:
    async def work() -> bytes:
        channel, _ = connected()
        first, second = channel.ask(b"a", b""), channel.ask(b"b", b"")
        first.cancel()
        channel.data_received(Reply(200, b"for a").pack() + Reply(200, b"for b").pack())
        return second.result().body

    assert asyncio.run(work()) == b"for b"
