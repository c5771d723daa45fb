"""What the comments in tables.py say about the public tables holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.tables import AMES, CELLS, CHURN, TABLES, Table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_written_table_reads_back_as_it_was(table: Table, suffix: str, tmp_path):
    path = table.write(tmp_path / "data" / f"{table.name}{suffix}")
    back = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert len(back) == table.rows and table.target in back and set(table.excluded) <= set(back)
    pd.testing.assert_frame_equal(back, table.frame())


def test_a_smaller_table_is_the_same_each_time():
    assert len(CHURN.frame(300)) == 300
    pd.testing.assert_frame_equal(CHURN.frame(300), CHURN.frame(300))


def test_charges_of_churn_repeat_its_minutes():
    frame = CHURN.frame()
    for part in ("day", "eve", "night", "intl"):
        assert np.corrcoef(frame[f"total_{part}_minutes"], frame[f"total_{part}_charge"])[0, 1] > 0.9999
    assert 0.13 < (frame["churn"] == CHURN.positive).mean() < 0.15


def test_missing_values_of_ames_are_in_two_columns():
    frame = AMES.frame()
    missing = frame.isna().mean()
    assert set(missing[missing > 0].index) == {"Mas_Vnr_Type", "Misc_Feature"}
    assert "WD " in set(frame["Sale_Type"]) and set(frame["BsmtFin_SF_1"]) <= set(range(8))


def test_texts_of_cells_are_not_measurements():
    texts = CELLS.frame().select_dtypes("str").columns
    assert set(texts) == {CELLS.target, *CELLS.excluded}
