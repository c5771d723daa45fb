"""Parameters: declared in the notebook, checked before a kernel starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brookside_mlops.errors import InputError
from brookside_mlops.parameters import assignments, check_parameters, declarations, notebook_parameters

CELL = """
environment: str = "dev"  # where it goes {dev, staging, prod}
rows: int = 100  # rows [10, 1000]
rate: float = 0.5  # share [0, 1]
fast: bool = False
"""
DECLARED = declarations(CELL)


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("rows", "20", 20),
        ("rows", 20, 20),
        ("rate", 1, 1.0),
        ("rate", "0.25", 0.25),
        ("fast", "yes", True),
        ("fast", False, False),
    ],
)
def test_right_values_become_the_declared_type(name: str, given_value: Any, value: Any) -> None:
    values, faults = check_parameters(DECLARED, {name: given_value}, "01_validate")
    assert faults == [] and values == {name: value} and type(values[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rows", "many", "rows = 'many' is wrong type: int from 10 to 1000"),
        ("rows", 5, "rows = 5 is out of range: int from 10 to 1000"),
        ("rows", 20.5, "rows = 20.5 is wrong type"),
        ("rows", True, "rows = True is wrong type"),
        ("fast", 1, "fast = 1 is wrong type: bool"),
        ("fast", "maybe", "fast = 'maybe' is wrong type: bool"),
        ("rate", float("nan"), "rate = nan is out of range"),
        ("environment", "qa", "environment = 'qa' is unknown: one of dev, staging, prod"),
        ("row", 5, "unknown parameter 'row'; it has environment, rows, rate, fast"),
    ],
)
def test_wrong_values_say_what_is_allowed(name: str, value: Any, said: str) -> None:
    _, faults = check_parameters(DECLARED, {name: value}, "01_validate")
    assert len(faults) == 1 and faults[0].startswith("01_validate: ") and said in faults[0]


def test_everything_wrong_is_told_at_once() -> None:
    _, faults = check_parameters(DECLARED, {"row": 1, "rows": 5, "fast": "x", "rate": 0.1}, "01_validate")
    assert len(faults) == 3


@settings(suppress_health_check=[HealthCheck.too_slow])  # a noisy machine, not a slow strategy
@given(
    st.dictionaries(
        st.sampled_from([*DECLARED, "other"]),
        st.none() | st.integers() | st.text() | st.floats() | st.booleans(),
    )
)
def test_any_value_is_taken_or_told(values: dict[str, Any]) -> None:
    taken, faults = check_parameters(DECLARED, values, "s")
    right = {name for name in taken if not any(f"s: {name} = " in fault for fault in faults)}
    assert len(right) + len(faults) == len(values)


def test_cell_of_a_notebook_is_found_by_its_tag(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": CELL.splitlines(keepends=True)}
    ]
    (tmp_path / "01_validate.ipynb").write_text(json.dumps({"cells": cells}))
    assert notebook_parameters(tmp_path / "01_validate.ipynb") == DECLARED
    (tmp_path / "02_engineer.ipynb").write_text(json.dumps({"cells": []}))
    with pytest.raises(InputError, match="no cell tagged"):
        notebook_parameters(tmp_path / "02_engineer.ipynb")


def test_untyped_declaration_is_refused() -> None:
    with pytest.raises(InputError, match="a parameter is NAME"):
        declarations("rows: list[int] = [1]", "01_validate")


def test_words_without_equals_sign_are_refused() -> None:
    with pytest.raises(InputError, match="'rows' is not NAME=VALUE"):
        assignments(["rows", "rate=1"])


@pytest.mark.parametrize("second", ["blue=50", " blue =40"])
def test_name_given_twice_is_refused(second: str) -> None:
    with pytest.raises(InputError, match="blue is given more than once"):
        assignments(["blue=50", "green=0", second])


@pytest.mark.parametrize("source", ["rows: int = ", "rows: int = 10 * 3", "rows: int = many"])
def test_declaration_that_cannot_be_read_is_a_sentence(source: str) -> None:
    with pytest.raises(InputError, match="01_validate"):
        declarations(source, "01_validate")
