"""Requests: what is taken, and that nothing else gets through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brookside_mlops.bundle import BundleColumn
from brookside_mlops.payload import PayloadError, parse_payload

COLUMNS = (
    BundleColumn(name="weeks", kind="number"),
    BundleColumn(name="unit", kind="category"),
    BundleColumn(name="sponsor", kind="boolean"),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "weeks": st.none() | st.integers(-(10**6), 10**6) | st.floats(-1e6, 1e6),
            "unit": st.none() | st.text(),
            "sponsor": st.none() | st.booleans(),
        }
    ),
    min_size=1,
    max_size=20,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner)
    | st.dictionaries(st.sampled_from(["input_data", "columns", "data", "weeks"]), inner),
    max_leaves=20,
)


@given(ROWS)
def test_both_shapes_say_the_same(rows: list[dict[str, Any]]) -> None:
    names = ["sponsor", "weeks", "unit"]
    table = {
        "columns": names,
        "index": list(range(len(rows))),
        "data": [[row[name] for name in names] for row in rows],
    }
    first = parse_payload(json.dumps({"input_data": table}).encode(), COLUMNS)
    assert first == parse_payload(json.dumps(rows).encode(), COLUMNS)
    assert list(first["weeks"]) == [row["weeks"] for row in rows]


@given(JSON)
def test_whatever_is_sent_ends_in_columns_or_in_a_named_error(content: Any) -> None:
    try:
        found = parse_payload(json.dumps(content).encode(), COLUMNS)
    except PayloadError as error:
        assert error.status in (400, 413, 422) and json.loads(error.body())["error"]["message"]
    else:
        assert set(found) == {"weeks", "unit", "sponsor"}


@given(st.binary())
def test_bytes_that_are_no_json_are_refused(body: bytes) -> None:
    try:
        json.loads(body)
    except ValueError:
        with pytest.raises(PayloadError) as error:
            parse_payload(body, COLUMNS)
        assert error.value.status == 400


ROW = {"weeks": 1, "unit": "a", "sponsor": True}


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        ([], 400, "no_rows"),
        ([ROW, {"weeks": 1}], 400, "ragged"),
        ([1], 400, "not_a_record"),
        ({"data": []}, 400, "no_input_data"),
        ({"input_data": {"data": [[1]]}}, 400, "no_columns"),
        ({"input_data": {"columns": ["weeks", "weeks"], "data": []}}, 400, "columns_repeat"),
        ({"input_data": {"columns": ["weeks"], "data": [[1, 2]]}}, 400, "ragged"),
        ({"input_data": {"columns": ["weeks"], "data": 3}}, 400, "no_data"),
        ({"input_data": {"columns": ["weeks"], "data": [[1]], "index": [1, 2]}}, 400, "index"),
        ({"input_data": {"columns": list(ROW), "data": []}}, 400, "no_rows"),
        ([{**ROW, "more": 1}], 422, "columns_unknown"),
        ([{**ROW, "weeks": True}], 422, "wrong_type"),
        ([{**ROW, "weeks": 1e39}], 422, "wrong_type"),
        ([{**ROW, "weeks": 10**400}], 422, "wrong_type"),
        ([{**ROW, "sponsor": 2}], 422, "wrong_type"),
        ([{**ROW, "unit": 3}], 422, "wrong_type"),
        ([ROW] * 11, 413, "too_many_rows"),
    ],
)
def test_each_mistake_has_its_status_and_code(content: Any, status: int, code: str) -> None:
    with pytest.raises(PayloadError) as error:
        parse_payload(json.dumps(content).encode(), COLUMNS, max_rows=10)
    assert (error.value.status, error.value.code) == (status, code)


DIGITS = "9" * 5000
CONSTANTS = [
    (text, f"{text} is not JSON: send null for a missing value") for text in ("NaN", "Infinity", "-Infinity")
]


@pytest.mark.parametrize(
    ("written", "status", "fault"),
    [
        *((text.encode(), 400, fault) for text, fault in CONSTANTS),
        (b'"caf\xe9"', 400, "the text is not UTF-8"),
        (DIGITS.encode(), 422, "a number of 5,000 digits is not a number or null"),
        (b"-" + DIGITS.encode(), 422, "a number of 5,000 digits is not a number or null"),
    ],
    ids=["NaN", "Infinity", "-Infinity", "text", "digits", "negative digits"],
)
@pytest.mark.parametrize("shape", ["records", "wrapped records", "split"])
def test_value_that_cannot_be_read_is_named_by_row_and_column(
    written: bytes, status: int, fault: str, shape: str
) -> None:
    rows = [ROW, {**ROW, "weeks": "HERE"}]
    content: Any = rows if shape == "records" else {"input_data": rows}
    if shape == "split":
        content = {"input_data": {"columns": list(ROW), "data": [list(row.values()) for row in rows]}}
    body = json.dumps(content).encode().replace(b'"HERE"', written)
    with pytest.raises(PayloadError) as refused:
        parse_payload(body, COLUMNS)
    error = refused.value
    assert (error.status, error.field) == (status, "weeks")
    assert error.message == f"row 1, column 'weeks': {fault}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"input_data": NaN}', "the body is not JSON: NaN is not JSON: send null for a missing value"),
        (b"[" + DIGITS.encode() + b"]", "the body is not JSON: a number has too many digits"),
        (b'[{"caf\xe9": 1}]', "the body is not UTF-8 at byte 6"),
        (b'[{"weeks": NaN}', "the body is not JSON: NaN is not JSON: send null for a missing value"),
        (b"[" * 100_000, "the body is nested too deeply"),
    ],
    ids=["no table", "no record", "name of a column", "cut off", "deep"],
)
def test_what_has_no_row_and_column_is_still_said_in_plain_words(body: bytes, message: str) -> None:
    with pytest.raises(PayloadError) as refused:
        parse_payload(body, COLUMNS)
    assert (refused.value.status, refused.value.message) == (400, message)


@given(JSON, st.sampled_from(["NaN", "Infinity", DIGITS]))
def test_no_unreadable_value_ends_in_anything_but_a_refusal(content: Any, odd: str) -> None:
    body = json.dumps([content, "HERE"]).replace('"HERE"', odd).encode()
    with pytest.raises(PayloadError) as refused:
        parse_payload(body, COLUMNS)
    assert "set_int_max_str_digits" not in refused.value.message
