"""Contracts: inferred, written, read, kept, broken."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brookside_mlops.contract_checks import check_table
from brookside_mlops.contract_files import contract_text, read_contract, write_contract
from brookside_mlops.contract_inference import infer_contract
from brookside_mlops.contracts import Column, Contract, Freshness, RowCount, for_usecase
from brookside_mlops.errors import InputError
from brookside_mlops.portfolio import COLUMNS, portfolio
from tests.tables import AMES, CELLS, CHURN

ROOT = Path(__file__).resolve().parent.parent


def broken(path: Path, contract: Contract, **options: datetime) -> dict[str, int]:
    report = check_table(path, contract, **options)
    return {f"{rule.rule} {rule.column}".strip(): rule.violations for rule in report.rules if rule.violations}


def test_portfolio_keeps_the_contract_that_comes_with_it(tmp_path: Path) -> None:
    contract = read_contract(ROOT / "contracts" / "portfolio.yaml")
    assert list(contract.columns) == [column.name for column in COLUMNS]
    assert {name: one.unit for name, one in contract.columns.items()} == {
        one.name: one.unit for one in COLUMNS
    }
    portfolio(3_000).to_parquet(tmp_path / "p.parquet")
    assert broken(tmp_path / "p.parquet", contract) == {}


def test_contract_shows_its_bounds_as_people_write_them() -> None:
    bounds = {"budget": (0.0, 9e6), "share": (-0.5, 1.0), "year": (1990, 2030), "tiny": (1e-9, 12_345.5)}
    columns = {name: Column(kind="number", min=low, max=high) for name, (low, high) in bounds.items()}
    columns["at"] = Column(kind="datetime", role="time", min=datetime(2025, 1, 1))
    shown = Contract(columns=columns)._repr_html_()
    for text in ("9,000,000", "-0.5", "1990", "2030", "1e-09", "12,345.5", "2025-01-01"):
        assert f">{text}<" in shown
    assert ".0<" not in shown and "overflow-x:auto" in shown


@pytest.mark.parametrize(("table", "target"), [(CHURN, "churn"), (AMES, "Sale_Price"), (CELLS, "class")])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_real_table_keeps_the_contract_inferred_from_it(table, target: str, ending: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"t.{ending}"
    frame = table.frame()
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    contract, notes = infer_contract(path, target=target)
    assert contract.target == target and len(contract.features) > 10
    assert broken(path, contract) == {}
    write_contract(tmp_path / "c.yaml", contract, notes)
    assert read_contract(tmp_path / "c.yaml") == contract


CONTRACT = Contract(
    name="ideas",
    rows=RowCount(min=2, max=5),
    unique=(("idea",),),
    freshness=Freshness(max_age_days=10),
    columns={
        "idea": Column(kind="text", role="key"),
        "sent": Column(kind="datetime", role="time"),
        "weeks": Column(kind="number", nullable=True, max_missing=0.4, min=1.0, max=50.0),
        "unit": Column(kind="category", allowed=("sales", "legal")),
        "viable": Column(kind="category", role="target"),
    },
)
HEAD = "idea,sent,weeks,unit,viable\n"
NOW = datetime(2026, 1, 5)


@pytest.mark.parametrize(
    ("rows", "rule", "count"),
    [
        ("a,2026-01-01,2,sales,yes\nb,2026-01-02,3,legal,no\n", "", 0),
        ("a,2026-01-01,2,sales,yes\na,2026-01-02,3,legal,no\n", "unique idea", 1),
        ("a,2026-01-01,99,sales,yes\nb,2026-01-02,3,legal,no\n", "range weeks", 1),
        ("a,2026-01-01,2,sales,yes\nb,2026-01-02,3,shop,no\n", "allowed unit", 1),
        ("a,2026-01-01,,sales,yes\nb,2026-01-02,3,legal,no\n", "missing weeks", 1),
        ("a,2026-01-01,2,,yes\nb,2026-01-02,3,legal,no\n", "missing unit", 1),
        ("a,2026-01-01,two,sales,yes\nb,2026-01-02,3,legal,no\n", "kind weeks", 1),
        ("a,2026-01-01,2,sales,yes\nb,2026-01-02,3,legal,yes\n", "varies viable", 1),
        ("a,2026-01-01,2,sales,yes\n", "rows", 1),
        ("a,2025-01-01,2,sales,yes\nb,2025-01-02,3,legal,no\n", "freshness sent", 1),
    ],
)
def test_each_rule_counts_its_violations(rows: str, rule: str, count: int, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(HEAD + rows)
    found = broken(tmp_path / "t.csv", CONTRACT, as_of=NOW)
    assert found.get(rule, 0) == count and (rule or not found)


def test_missing_and_unexpected_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "idea,sent,weeks,viable,more\na,2026-01-01,2,yes,1\nb,2026-01-02,3,no,2\n"
    )
    found = broken(tmp_path / "t.csv", CONTRACT, as_of=NOW)
    assert found == {"present unit": 1, "unexpected": 1}


def test_at_most_a_hundred_offending_rows_are_kept_with_their_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": np.arange(1, 501), "key": ["same"] * 500})
    frame.to_csv(tmp_path / "t.csv", index=False)
    contract = Contract(
        unique=(("key",),),
        columns={"x": Column(kind="integer", min=101.0), "key": Column(kind="text", role="key")},
    )
    rules = {rule.rule: rule for rule in check_table(tmp_path / "t.csv", contract).rules}
    assert rules["range"].violations == 100 and [one.row for one in rules["range"].offences] == list(
        range(1, 101)
    )
    assert rules["unique"].violations == 499 and len(rules["unique"].offences) == 100


def test_contract_of_a_use_case_has_its_target_and_no_other() -> None:
    contract = read_contract(ROOT / "contracts" / "portfolio.yaml")
    mine = for_usecase(contract, "cost")
    assert mine.target == "cost" and mine.columns["viable"].role == "ignore"
    assert for_usecase(contract, "cost", ("team_size",)).features == ["team_size"]
    for target, features, said in (
        ("costs", (), "Was 'cost' meant"),
        ("cost", ("cost",), "is the target"),
        ("cost", ("idea_id",), "text is no feature"),
    ):
        with pytest.raises(InputError, match=said):
            for_usecase(contract, target, features)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("columns:\n  a: {kind: numbr}\n", "line 2"),
        ("columns:\n  a: {kind: number, minn: 3}\n", "was 'min' meant"),
        ("columns:\n  a: {kind: number, min: 5, max: 3}\n", "is above max"),
        ("columns:\n  a: {kind: category, min: 5}\n", "has no range"),
        ("columns: {}\n", "columns"),
        ("columns:\n  a: {kind: number, role: target, nullable: true}\n", "teaches nothing"),
        ("unique: [b]\ncolumns:\n  a: {kind: number}\n", "no column 'b'"),
    ],
)
def test_mistakes_in_a_contract_name_line_and_key(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_contract(tmp_path / "c.yaml")


def test_target_with_gaps_or_one_value_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"a": range(5), "t": ["x", None, "y", "x", "y"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(InputError, match="1 rows have no target"):
        infer_contract(tmp_path / "t.csv", target="t")
    pd.DataFrame({"a": range(5), "t": ["x"] * 5}).to_csv(tmp_path / "u.csv", index=False)
    with pytest.raises(InputError, match="'x' in every row"):
        infer_contract(tmp_path / "u.csv", target="t")


def test_text_of_a_contract_reads_back(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(contract_text(CONTRACT, {"idea": "a note\nof two lines"}))
    assert read_contract(tmp_path / "c.yaml") == CONTRACT


def test_keys_whose_names_begin_alike_are_checked_apart(tmp_path: Path) -> None:
    names = [f"customer_relationship_management_system_identifier_of_the_account_{end}" for end in "ab"]
    frame = pd.DataFrame({name: [f"k{row}" for row in range(50)] for name in names})
    frame.to_csv(tmp_path / "t.csv", index=False)
    contract = Contract(
        unique=tuple((name,) for name in names),
        columns={name: Column(kind="text", role="key") for name in names},
    )
    assert broken(tmp_path / "t.csv", contract) == {}


def test_rows_without_a_key_do_not_repeat_each_other(tmp_path: Path) -> None:
    frame = pd.DataFrame({"key": ["a", None, None, "b", "a"], "part": [1, 1, 1, 1, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    columns = {"key": Column(kind="text", role="key", nullable=True), "part": Column(kind="integer")}
    for key in (("key",), ("key", "part")):
        report = check_table(tmp_path / "t.csv", Contract(unique=(key,), columns=columns))
        (rule,) = report.broken()
        assert (rule.violations, [one.row for one in rule.offences]) == (1, [5])


@pytest.mark.parametrize("rows", [70_000, 140_000])
def test_key_is_found_where_it_repeats_only_across_batches(rows: int, tmp_path: Path) -> None:
    numbers = np.arange(rows)
    pd.DataFrame({"user_id": numbers, "again_id": np.where(numbers < rows - 1, numbers, 3)}).to_parquet(
        tmp_path / "t.parquet"
    )
    contract, _ = infer_contract(tmp_path / "t.parquet")
    assert contract.unique == (("user_id",),) and contract.columns["again_id"].role != "key"


def inferred(frame: pd.DataFrame, path: Path) -> tuple[Contract, dict[str, str]]:
    """Return the draft for a frame written as CSV, which must be the same for Parquet."""
    frame.to_csv(path / "t.csv", index=False)
    frame.to_parquet(path / "t.parquet", index=False)
    found = infer_contract(path / "t.csv")
    assert infer_contract(path / "t.parquet") == found
    return found


def test_columns_that_identify_rows_are_keys_or_ignored_never_features(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = 400
    frame = pd.DataFrame(
        {
            "rownames": np.arange(1, rows + 1),
            "customerId": np.arange(1, rows + 1),
            "OrderID": generator.permutation(10**6)[:rows],
            "position": np.arange(5, rows + 5),
            "accountNumber": np.append(generator.permutation(10**6)[: rows - 1], 7),
            "userid": [f"u{row // 2}" for row in range(rows)],
            "cents": generator.permutation(10**6)[:rows],
            "weight": generator.normal(size=rows),
        }
    )
    frame.loc[0, "accountNumber"] = frame.loc[1, "accountNumber"]
    contract, notes = inferred(frame, tmp_path)
    assert {name: column.role for name, column in contract.columns.items()} == {
        "rownames": "key",
        "customerId": "key",
        "OrderID": "key",
        "position": "ignore",
        "accountNumber": "ignore",
        "userid": "ignore",
        "cents": "feature",
        "weight": "feature",
    }
    assert "counts the rows" in notes["position"] and "by its name" in notes["accountNumber"]
    assert contract.severity_of("unique") == "error"


def test_text_that_happens_to_be_unique_warns_at_most(tmp_path: Path) -> None:
    frame = pd.DataFrame({"title": [f"title {row}" for row in range(100)], "x": np.arange(100) / 7})
    contract, notes = inferred(frame, tmp_path)
    assert contract.columns["title"].role == "ignore" and "role key" in notes["title"]
    assert contract.unique == (("title",),) and contract.severity_of("unique") == "warning"
    frame.loc[7, "title"] = "title 8"
    frame.to_csv(tmp_path / "later.csv", index=False)
    report = check_table(tmp_path / "later.csv", contract)
    assert not report.broken("error") and [rule.violations for rule in report.broken("warning")] == [1]
    named, _ = inferred(frame.assign(idea_id=[f"i{row}" for row in range(100)]), tmp_path)
    assert named.unique == (("idea_id",),) and named.severity_of("unique") == "error"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("${:,.2f}", "amounts of money"),
        ("{:.2f} EUR", "amounts of money"),
        ("{:.1f}%", "percentages"),
        ("{:,.1f}", "commas between thousands"),
    ],
)
def test_draft_says_what_text_seems_to_be(written: str, said: str, tmp_path: Path) -> None:
    values = [written.format(1_000 + row * 37.25) for row in range(300)]
    contract, notes = inferred(pd.DataFrame({"price": values, "x": np.arange(300) / 7}), tmp_path)
    assert contract.columns["price"].role == "ignore" and not contract.unique
    assert said in notes["price"] and repr(values[0]) in notes["price"]
    assert said in contract_text(contract, notes)


def test_draft_says_that_decimal_commas_and_other_dates_are_text(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=300)
    frame = pd.DataFrame(
        {
            "width": [f"{row / 4:.2f}".replace(".", ",") for row in range(300)],
            "sent": days.strftime("%d.%m.%Y"),
            "month": [f"{row % 12},5" for row in range(300)],
        }
    )
    contract, notes = inferred(frame, tmp_path)
    assert "decimal comma" in notes["width"] and "dates" in notes["sent"] and not contract.unique
    assert contract.columns["month"].role == "feature" and "decimal comma" in notes["month"]


@pytest.mark.parametrize(
    ("levels", "rows", "role"),
    [(50, 200, "feature"), (51, 200, "ignore"), (51, 2_000, "feature"), (199, 2_000, "ignore")],
)
def test_a_text_is_a_category_by_its_rows_per_level(
    levels: int, rows: int, role: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"state": [f"s{row % levels}" for row in range(rows)], "x": np.arange(rows) / 7})
    contract, _ = inferred(frame, tmp_path)
    assert contract.columns["state"].role == role
    if role == "feature":
        assert (
            contract.columns["state"].kind == "category" and len(contract.columns["state"].allowed) == levels
        )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_infinities_among_numbers_are_named_by_row_in_either_format(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.5, 2.5, np.inf, 3.5, -np.inf], "y": [1.25, 2, 3, 4, 5]})
    path = tmp_path / f"t.{ending}"
    frame.to_csv(path, index=False) if ending == "csv" else frame.to_parquet(path)
    with pytest.raises(InputError, match=r"'x': row 3 is .*inf.*, not a finite number"):
        infer_contract(path)
    contract = Contract(columns={name: Column(kind="number") for name in "xy"})
    (rule,) = check_table(path, contract).broken()
    assert (rule.rule, rule.violations, [one.row for one in rule.offences]) == ("kind", 2, [3, 5])
    assert rule.required == "a finite number, as in 12.5"


def test_repeated_keys_are_found_where_only_some_batches_have_gaps(tmp_path: Path) -> None:
    rows = 70_000  # more than one batch, and only the first has a gap
    number = pd.Series(np.arange(rows), dtype="Int64")
    number[3], number[rows - 1] = None, 5
    pd.DataFrame({"number": number}).to_parquet(tmp_path / "table.parquet")
    contract = Contract(unique=(("number",),), columns={"number": Column(kind="integer", nullable=True)})
    (unique,) = [
        one for one in check_table(tmp_path / "table.parquet", contract).rules if one.rule == "unique"
    ]
    assert [one.row for one in unique.offences] == [rows]
