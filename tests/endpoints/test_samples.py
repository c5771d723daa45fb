"""Samples of traffic: whatever a request may say is kept, and what cannot be kept is counted."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from httpx import AsyncClient
from hypothesis import example, given
from hypothesis import strategies as st

from brookside_mlops.bundle import BundleColumn, BundleInfo
from brookside_mlops.endpoints.protocol import Limits
from brookside_mlops.endpoints.samples import ENOUGH, Kept, Sampler, sample_table
from brookside_mlops.payload import parse_payload
from tests.endpoints.states import ROW, gateway_of, state_with

INFO = BundleInfo(
    usecase="cost",
    task="regression",
    columns=(
        BundleColumn(name="weeks", kind="number"),
        BundleColumn(name="unit", kind="category"),
        BundleColumn(name="sponsor", kind="boolean"),
    ),
    sha256="0" * 64,
)
LARGEST = int(3.4e38)
VALUES = st.fixed_dictionaries(
    {
        "weeks": st.none() | st.integers(-LARGEST, LARGEST) | st.floats(-3.4e38, 3.4e38),
        "unit": st.none() | st.text(),
        "sponsor": st.none() | st.booleans() | st.sampled_from([0, 1, 0.0, 1.0]),
    }
)


@given(st.lists(VALUES, min_size=1, max_size=5))
@example([{"weeks": 2**53 + 1, "unit": "a", "sponsor": True}, {"weeks": 0.5, "unit": None, "sponsor": 1}])
@example([{"weeks": LARGEST, "unit": None, "sponsor": None}])
def test_all_that_a_request_may_say_is_kept(rows: list[dict[str, object]]) -> None:
    columns = parse_payload(json.dumps(rows).encode(), INFO.columns)
    kept = sample_table(INFO, [Kept(0.0, columns, [1.0] * len(rows))]).to_pylist()
    for row, one in zip(rows, kept, strict=True):
        assert one["unit"] == row["unit"]
        assert one["weeks"] == (None if row["weeks"] is None else float(row["weeks"]))  # type: ignore[arg-type]
        assert one["sponsor"] is (None if row["sponsor"] is None else bool(row["sponsor"]))


def test_odd_number_costs_none_of_the_samples_beside_it(tmp_path: Path) -> None:
    with Sampler(INFO, tmp_path) as sampler:
        for weeks in (4, 2**53 + 1, 10**30, 0.5):
            sampler.add(Kept(0.0, {"weeks": [weeks], "unit": ["a"], "sponsor": [True]}, [1.0]))
    (file,) = tmp_path.glob("*.parquet")
    assert pq.read_table(file)["weeks"].to_pylist() == [4.0, 2.0**53, 1e30, 0.5] and not sampler.lost


@pytest.mark.parametrize("answer", [10**30, object()])
def test_samples_that_cannot_be_written_are_counted_and_said_without_their_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: object
) -> None:
    columns = {"weeks": [4], "unit": ["secret"], "sponsor": [None]}
    with Sampler(INFO, tmp_path) as sampler:
        sampler.add(Kept(0.0, columns, [answer]))
    assert sampler.lost == 1
    said = capsys.readouterr().err
    assert re.match(r"\d{4}-\d\d-\d\d \S+ WARNING: samples of 1 requests could not be written: \w+\n$", said)
    assert "secret" not in said


def test_lost_samples_are_in_the_metrics(tmp_path: Path) -> None:
    limits = Limits(sample_share=1)
    state = state_with(tmp_path, "blue", limits=limits)
    state.weigh({"blue": 100})
    state.samples.mkdir()
    (state.samples / "blue").write_text("not a folder")
    line = 'brookside_samples_lost_total{deployment="blue",endpoint="cost-dev"} '

    async def lost(client: AsyncClient) -> float:
        return float((await client.get("/metrics")).text.split(line)[1].split()[0])

    async def steps() -> None:
        async with gateway_of(state) as (_, client):
            assert await lost(client) == 0
            for _ in range(ENOUGH):
                assert (await client.post("/score", json=ROW)).status_code == 200
            async with asyncio.timeout(60):
                while await lost(client) < ENOUGH:  # how many a file takes is a matter of timing
                    await client.post("/score", json=ROW)

    asyncio.run(steps())
