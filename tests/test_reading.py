"""CSV and Parquet: damaged files in words, and the same values as pandas reads."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brookside_mlops.datasets import columns_of, kinds_of, read_batches, read_table, schema_of, write_parquet
from brookside_mlops.errors import InputError
from tests.tables import AMES, CELLS, CHURN


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"  \n", "the file is empty"),
        (b"a,b\n", "row"),
        (b"a,a\n1,2\n", "'a' names columns 1 and 2"),
        (b"a;b\n1;2\n", "separated by semicolons"),
        (b"1,2\n3,4\n", "are numbers, not names"),
        (b"a,b\n1,2\n3\n", "line 3: 1 value where the header names 2"),
        (b"a,b\n1,2,3\n", "line 2: 3 values"),
        ("a,b\ncaf\u00e9,2\n".encode("latin-1"), "not UTF-8"),
        (b"\xff\xfea\x00,\x00", "UTF-16"),
        (b"PK\x03\x04rest", "not CSV"),
        (b"a\n1\n2\nthree\n4\n5\n", "row 3 is 'three'"),
    ],
)
def test_damaged_csv_is_a_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_table(path)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "ideas.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match=r"Was ideas\.csv meant"):
        read_table(tmp_path / "idea.csv")
    with pytest.raises(InputError, match="is a folder"):
        read_table(tmp_path)
    (tmp_path / "t.xlsx").write_text("")
    with pytest.raises(InputError, match="a table ends in"):
        read_table(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 noise")
    with pytest.raises(InputError):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no column 'b'"):
        read_table(tmp_path / "ideas.csv", ["b"])


@pytest.mark.parametrize("table", [CHURN, AMES, CELLS])
def test_real_table_is_what_pandas_reads(table, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    frame = table.frame()
    frame.to_csv(tmp_path / "t.csv", index=False)
    found, peer = read_table(tmp_path / "t.csv"), pd.read_csv(tmp_path / "t.csv")
    assert list(found) == list(peer) and len(found) == len(peer)
    for name in found:
        if pd.api.types.is_numeric_dtype(peer[name]):
            np.testing.assert_allclose(found[name].astype(float), peer[name].astype(float), rtol=1e-12)
        else:
            assert (
                found[name].astype(object).where(found[name].notna(), None).tolist()
                == peer[name].astype(object).where(peer[name].notna(), None).tolist()
            )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-(10**9), 10**9), st.floats(-1e9, 1e9), st.booleans(), st.sampled_from(["a", "b,c", 'q"q', "é"])),
        min_size=2, max_size=30,
    )
)  # fmt: skip
def test_csv_and_parquet_agree(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, float, bool, str]]
) -> None:
    folder = tmp_path_factory.mktemp("t")
    frame = pd.DataFrame(rows, columns=["whole", "real", "flag", "word"])
    frame["real"] += 0.5
    frame.to_csv(folder / "t.csv", index=False)
    write_parquet(folder / "t.parquet", pa.Table.from_pandas(frame, preserve_index=False).to_batches())
    first, second = read_table(folder / "t.csv"), read_table(folder / "t.parquet")
    assert (
        first["real"].tolist() == second["real"].tolist()
        and first["word"].tolist() == second["word"].tolist()
    )
    assert first["whole"].astype(int).tolist() == second["whole"].tolist()


def test_gzip_header_and_kinds(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("\ufeffn,when,flag,word\n1,2025-01-01,true,x\n2,2025-01-02,false,y\n")
    assert columns_of(tmp_path / "t.csv.gz") == ["n", "when", "flag", "word"]
    kinds = kinds_of(tmp_path / "t.csv.gz", {"n": "number"})
    assert (kinds["n"], kinds["when"], kinds["flag"]) == ("number", "datetime", "boolean")
    assert schema_of(tmp_path / "t.csv.gz").field("when").type == pa.timestamp("us")


def test_memory_does_not_grow_with_the_table(tmp_path: Path) -> None:
    peaks = []
    for rows in (300_000, 3_000_000):
        path = tmp_path / f"{rows}.parquet"
        pd.DataFrame({"x": np.arange(float(rows))}).to_parquet(path, row_group_size=65_536)
        pool = pa.system_memory_pool()
        pa.set_memory_pool(pool)
        before, seen = pool.bytes_allocated(), 0
        peak = 0
        for batch in read_batches(path, pa.schema([("x", pa.float64())])):
            seen += batch.rows.num_rows
            peak = max(peak, pool.bytes_allocated() - before)
        assert seen == rows
        peaks.append(peak)
    assert peaks[1] <= 2 * peaks[0] + (8 << 20)


def test_value_that_does_not_fit_a_schema_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\nx\n")
    with pytest.raises(InputError, match="row 2 is 'x'"):
        list(read_batches(tmp_path / "t.csv", pa.schema([("a", pa.float64())])))
    with pytest.raises(InputError, match="no rows to write"):
        write_parquet(tmp_path / "e.parquet", [])
