"""Costs: the figures that come out, what is asked of them, and that money is never a float."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, ValidationError
from typer.testing import CliRunner, Result

from brookside_mlops.cli import app
from brookside_mlops.cost_budgets import read_daily
from brookside_mlops.cost_picture import cost_picture
from brookside_mlops.cost_prices import InstancePrice, PriceList, PriceTerms
from brookside_mlops.cost_scenarios import WEEK, Served, Wish, unit_cost, week_hours, what_if
from brookside_mlops.costs import Instances, deployment_cost, monthly, project_costs
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.errors import InputError
from brookside_mlops.ini_sections import parse_sections
from brookside_mlops.price_file import updated, write_prices
from brookside_mlops.settings import ENVIRONMENTS, read_prices, read_settings
from tests.price_server import PriceServer, machine, price_server

ROOT = Path(__file__).resolve().parent.parent
TODAY = date(2026, 12, 1)
EXACT = ("cost_prices", "costs", "cost_scenarios", "cost_budgets", "cost_anomalies", "price_file")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "settings.ini").write_text((ROOT / "settings.ini").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(project: Path, old: str, new: str) -> None:
    text = (project / "settings.ini").read_text()
    assert old in text
    (project / "settings.ini").write_text(text.replace(old, new, 1))


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["costs", *map(str, words)])


def test_table_of_the_mission_comes_out() -> None:
    report = project_costs(ROOT, "viability", TODAY)
    dev, staging, prod = report.rows
    assert [row.instances.words() for row in report.rows] == [
        "1 x Standard_DS2_v2, low priority",
        "1 x Standard_DS3_v2, low priority",
        "2 x Standard_DS3_v2, pay as you go",
    ]
    assert [row.monthly for row in report.rows] == [Decimal("27.74"), Decimal("57.23"), Decimal("572.32")]
    assert (prod.reserved, prod.saved_percent, prod.saved_year) == (
        Decimal("360.33"),
        Decimal("37.0"),
        Decimal("2543.88"),
    )
    assert (dev.reserved, staging.reserved) == (dev.monthly, staging.monthly)
    assert (report.total, report.total_reserved) == (Decimal("657.29"), Decimal("445.30"))
    assert (report.saved_percent, report.hours_per_month) == (Decimal("32.3"), 730)


def test_table_tells_beside_the_plan_what_is_sold_and_where_the_endpoints_are(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sold, place = call().stdout.splitlines()[-2:]
    assert sold == (
        "low priority is not sold for online endpoints: as sold, paid as you go, dev 143.08, staging 286.16,"
        " in total 1,001.56"
    )
    assert place == "endpoints on this machine cost nothing; this is the plan for Azure"
    monkeypatch.setenv("BROOKSIDE_TARGET", "azure")
    said = call().stdout
    assert "657.29" in said and "445.30" in said and "cost nothing" not in said
    assert "the endpoints of dev, staging, prod are in Azure" in said.splitlines()[-1]
    picture = cost_picture(project_costs(here, "viability", TODAY))
    assert "not sold for online endpoints, as sold dev 143, staging 286" in picture.alt


def test_environment_that_is_without_a_price_is_told_with_what_there_is(here: Path) -> None:
    change(here, "instance_type = Standard_DS2_v2", "instance_type = Standard_DS9_v2")
    result = call()
    assert result.exit_code == 2 and "has no [price.Standard_DS9_v2]; it has Standard_DS2_v2" in result.stderr
    change(here, "instance_type = Standard_DS9_v2", "instance_type = Standard_DS2_v2")
    change(here, "low_priority = 0.038\n", "low_priority =\n")
    assert "low_priority: there is no price; there is one for pay_as_you_go, reserved" in call().stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("pay_as_you_go = 0.196", "pay_as_you_go = 0,196", "[price.Standard_DS2_v2] pay_as_you_go: '0,196'"),
        ("pay_as_you_go = 0.196", "pay_as_you_go = -1", "[price.Standard_DS2_v2] pay_as_you_go: '-1'"),
        ("pay_as_you_go = 0.196", "pay_as_you_go = inf", "[price.Standard_DS2_v2] pay_as_you_go: 'inf'"),
        ("pay_as_you_go = 0.196", "", "[price.Standard_DS2_v2] pay_as_you_go: is missing"),
        ("as_of = 2026-11-25", "as_of = yesterday", "[price.Standard_DS2_v2] as_of: 'yesterday'"),
        ("currency = USD", "currency = dollars", "[prices] currency: 'dollars'"),
        (
            "stale_days = 90",
            "stale_day = 90",
            "stale_day: '90': not a setting; allowed here: currency, hours",
        ),
        ("hours_per_month = 730", "hours_per_month = 0", "[prices] hours_per_month: '0'"),
        ("instance_count = 2", "instance_count = 0", "[prod] instance_count: '0'"),
        (
            "instance_count = 2",
            "instance_tier = spot",
            "[prod] instance_tier: 'spot': Input should be 'pay_as",
        ),
        ("instance_count = 2", "instance_price = 1", "[prod] instance_price: '1': not a setting"),
    ],
)
def test_wrong_value_is_told_with_its_place_and_what_is_allowed(
    here: Path, old: str, new: str, said: str
) -> None:
    change(here, old, new)
    with pytest.raises(InputError, match=re.escape(f"settings.ini {said}" if said[0] == "[" else said)):
        read_settings(here, "prod", "viability")


def test_project_without_prices_takes_those_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[dev]\n[staging]\n[prod]\n")
    assert read_prices(tmp_path) == read_prices(ROOT)
    (tmp_path / "settings.ini").write_text("[dev]\n[prices]\nregion = westeurope\n")
    assert read_prices(tmp_path).instances == {}


def test_stale_price_is_flagged_after_its_days() -> None:
    as_of = read_prices(ROOT).instances["Standard_DS2_v2"].as_of
    assert project_costs(ROOT, "viability", as_of + timedelta(90)).stale == []
    found = project_costs(ROOT, "viability", as_of + timedelta(91)).stale
    assert [line.partition(":")[0] for line in found] == [
        "[price.Standard_DS2_v2] is 91 days old, stale after 90",
        "[price.Standard_DS3_v2] is 91 days old, stale after 90",
    ]


def test_local_endpoint_costs_nothing_and_says_what_azure_would_ask() -> None:
    prod, _ = read_settings(ROOT, "prod", "viability")
    cost = deployment_cost(prod, read_prices(ROOT)).rollout(1, 2, 1)
    assert (cost.here.before, cost.here.during, cost.here.after) == (0, 0, 0)
    assert cost.in_azure is not None and cost.in_azure.during == Decimal("1144.64")
    assert cost.words().startswith("nothing, since it runs on this machine; in Azure, at 2 x Standard_DS3")
    dev, _ = read_settings(ROOT, "dev", "viability")
    said = deployment_cost(dev, read_prices(ROOT)).rollout(0, 1, 1).words()
    assert "pay as you go (low priority is not sold for online endpoints)" in said and "27.74" not in said
    assert said.endswith("USD 0.00 a month before, 143.08 during, 143.08 after")
    paid = deployment_cost(prod, read_prices(ROOT), "azure").rollout(1, 2, 1)
    assert paid.here == paid.in_azure and paid.words().endswith(
        "USD 572.32 a month before, 1,144.64 during, 572.32 after"
    )


# What if

TWO = Instances(type="Standard_DS3_v2", count=2, tier="pay_as_you_go")


def test_hours_that_are_off_are_saved_unless_they_are_reserved() -> None:
    prices = read_prices(ROOT)
    weekdays = what_if("dev", prices, TWO, TWO, Wish(on=week_hours("mon-fri 07-19")))
    assert weekdays.monthly_after == Decimal("204.40") and weekdays.saved_percent == Decimal("64.3")
    reserved = TWO.model_copy(update={"tier": "reserved_1_year"})
    kept = what_if("dev", prices, TWO, reserved, Wish(on=60))
    assert kept.monthly_after == monthly(prices, reserved) and "hours off save nothing" in kept.notes[0]


@given(on=some.integers(1, WEEK), count=some.integers(1, 50))
def test_hours_on_and_off_make_a_whole_month(on: int, count: int) -> None:
    prices = read_prices(ROOT)
    some_on = what_if("dev", prices, TWO, TWO.model_copy(update={"count": count}), Wish(on=on))
    assert some_on.monthly_after <= monthly(prices, TWO.model_copy(update={"count": count}))
    assert some_on.saved_month == some_on.monthly_before - some_on.monthly_after
    assert some_on.saved_year == 12 * some_on.saved_month


def test_what_if_by_command(here: Path) -> None:
    result = call("what-if", "--environment", "prod", "--instances", 3, "--tier", "reserved", "--json")
    found = json.loads(result.stdout)
    assert (found["monthly_after"], found["saved_month"]) == ("540.49", "31.83")
    batch = call("what-if", "-e", "prod", "--tier", "low-priority", "--batch-hours", "1.5")
    assert "USD 7.15 a month, 45.63 hours" in batch.stdout  # 2 x 0.0784 x 45.625
    assert "not sold" not in batch.stdout
    low = call("what-if", "-e", "dev", "--on", "mon-fri 07-19")
    assert "USD 27.74 a month" in low.stdout and low.stdout.splitlines()[-1] == (
        "note: low priority is not sold for online endpoints: as sold, USD a month: now 143.08, what if 51.10"
    )
    for words, said in (
        (("--tier", "cheap"), "--tier cheap: not a tier; pay_as_you_go"),
        (("--instances", -1), "1 to 1000 would be right"),
        (("--on", "nights"), "would be right: days, then whole hours"),
        (("--batch-hours", 25), "at most 24 hours a day"),
        (("--batch-hours", "NaN"), "a number such as 1.5 would be right"),
        (("--batch-hours", 1, "--on", "mon 7-9"), "an endpoint is online or a batch job"),
        (("--instance-type", "Standard_X"), "has no [price.Standard_X]"),
    ):
        result = call("what-if", *words)
        assert result.exit_code == 2 and said in result.stderr


def test_what_if_on_a_tier_without_a_price_says_how_to_get_one(here: Path) -> None:
    for words in (("--tier", "reserved_3_years"), ("--tier", "reserved-3-years", "--instances", 3)):
        result = call("what-if", "-e", "prod", *words)
        assert result.exit_code == 2 and "a month" not in result.output
        said = " ".join(result.output.split())
        assert "[price.Standard_DS3_v2] reserved_3_years: there is no price" in said
        assert "there is one for pay_as_you_go, low_priority, reserved_1_year" in said
        assert "brookside-mlops costs refresh" in said


def test_a_thousand_predictions_cost_what_their_instances_cost(here: Path) -> None:
    prices = read_prices(here)
    assert unit_cost("e", Served(predictions=0, seconds=60), prices, TWO).per_thousand is None
    unit = unit_cost("e", Served(predictions=3000, seconds=7200), prices, TWO, deployments=2)
    assert unit.cost == Decimal("3.14") and unit.per_thousand == Decimal("1.045333")  # 3.136 / 3
    assert call("per-prediction").exit_code == 2
    settings, _ = read_settings(here, "prod", "viability")
    EndpointState(settings.state, "viability-prod").create()
    assert "no prediction in the log of requests" in call("per-prediction").stdout


# Budgets and bills


def bill(path: Path, days: int, wrong: int = -1) -> Path:
    lines = ["date,environment,cost"]
    for number in range(days):
        day = date(2026, 9, 1) + timedelta(days=number)
        cost = Decimal(19 if day.weekday() < 5 else 8) + Decimal(number % 3) / 10
        lines.append(f"{day},prod,{cost * 3 if number == wrong else cost}")
    path.write_text("\n".join(lines) + "\n")
    return path


def budget(here: Path, amount: str) -> None:
    """Give the project a monitoring configuration with a budget for prod, and none for the others."""
    path = here / "azure-ml" / "monitoring" / "monitoring-config.yml"
    path.parent.mkdir(parents=True)
    none = "cost_monitoring: {monthly_budget: 0}"
    path.write_text(
        f"environment_profiles:\n  dev: {{{none}}}\n  staging: {{{none}}}\n"
        f"cost_monitoring: {{monthly_budget: {amount}}}\n"
    )


def test_budget_that_is_exceeded_ends_in_exit_code_1(here: Path) -> None:
    result = call("budget")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "prod: USD 572.32 of 700.00, 81.8 %: 80 % is reached"
    dev = result.stdout.splitlines()[0]
    assert dev.startswith("dev: USD 27.74 of 40.00, 69.4 %: within the budget; low priority is not sold")
    assert dev.endswith("as sold USD 143.08")
    budget(here, "572.31")
    result = call("budget", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)["budgets"][-1]
    assert (found["verdict"], found["threshold"], found["amount"]) == ("fail", 100, "572.32")


def test_endpoint_in_azure_is_held_against_its_budget_as_it_is_sold(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(here, "[dev]\n", "[dev]\ntarget = azure\n")
    result = call("budget")
    assert result.exit_code == 1
    dev, staging, _ = result.stdout.splitlines()
    assert dev.startswith("dev: USD 143.08 of 40.00, 357.7 %: over the budget; low priority is not sold")
    assert staging.startswith("staging: USD 57.23 of 80.00")
    monkeypatch.setenv("BROOKSIDE_TARGET", "azure")
    found = json.loads(call("budget", "--json").stdout)["budgets"]
    assert [one["amount"] for one in found] == ["143.08", "286.16", "572.32"]
    wished = call("what-if", "-e", "dev").stdout
    assert wished.startswith("dev now     1 x Standard_DS2_v2, pay as you go: USD 143.08 a month")


def test_budget_is_held_against_a_bill(here: Path) -> None:
    budget(here, "400")
    path = bill(here / "bill.csv", 61)  # September and October
    first = call("budget", "--daily", path, "--month", "2026-09")
    assert first.exit_code == 1 and "over the budget" in first.stdout
    assert json.loads(call("budget", "--daily", path, "--json").stdout)["month"] == "2026-10"
    nothing = call("budget", "--daily", path, "--month", "2026-01")
    assert nothing.exit_code == 2 and "has no day in 2026-01; it has 2026-09 to 2026-10" in nothing.output
    assert "2026-11 would be right" in call("budget", "--month", "11").stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("day,cost\n", "no column date; it has day, cost"),
        ("", "no column cost and date; it has none"),
        ("date,cost\n2026-13-01,5\n", "line 2 date: '2026-13-01'; 2026-01-31 would be right"),
        ("date,cost\n2026-01-01,5\n2026-01-02,five\n", "line 3 cost: 'five'; a number such as 19.07"),
        ("date,cost\n2026-01-01\n", "line 2 cost: None; a number"),
        ("date,cost\n2026-01-01,inf\n", "line 2 cost: 'inf' is not an amount"),
        ("date,cost\n2026-01-01,1e999\n", "line 2 cost: '1e999' is not an amount"),
        ("date,cost\n01/31/2026,5\n", "line 2 date: '01/31/2026'; 2026-01-31 would be right"),
        ('date,note,cost\n2026-01-01,"two\nlines",5\n2026-01-02,,x\n', "line 4 cost: 'x'; a number"),
    ],
)
def test_bill_that_cannot_be_read_is_told_by_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bill.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        read_daily(tmp_path / "bill.csv")


def test_days_out_of_line_end_in_exit_code_1(here: Path) -> None:
    clean = call("anomalies", bill(here / "clean.csv", 80))
    assert clean.exit_code == 0 and clean.stdout == "no day of 80 is out of line\n"
    path = bill(here / "bill.csv", 80, wrong=70)
    result = call("anomalies", path)
    assert result.exit_code == 1 and result.stdout.startswith("Tue 2026-11-10: USD 57.30, 38.")
    assert call("anomalies", path, "--last", 9).exit_code == 0
    assert json.loads(call("anomalies", path, "--json").stdout)[0]["cost"] == "57.300000"
    few = call("anomalies", bill(here / "few.csv", 28))
    assert few.exit_code == 2 and "28 days of costs: 29 are needed" in few.stderr


# Prices into the file


@pytest.fixture
def server() -> Iterator[PriceServer]:
    rows = machine("Standard_DS2_v2", "0.146", "0.0292", "806", "1560")
    rows += machine("Standard_DS3_v2", "0.293", "0.0586", "1612.5", "3120")
    rows += machine("Standard_DS4_v2", "0.585", "0.117", "3225", "6240")
    with price_server(PriceServer(items=rows)) as found:
        yield found


def comments(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(";")]


def test_refresh_writes_prices_and_keeps_every_comment(here: Path, server: PriceServer) -> None:
    before = (here / "settings.ini").read_text()
    result = call("refresh", "--url", server.url, "--instance-type", "Standard_DS4_v2")
    assert (
        result.exit_code == 0
        and "Standard_DS3_v2      pay_as_you_go          0.293  was 0.392" in result.stdout
    )
    after = (here / "settings.ini").read_text()
    assert comments(after) == comments(before)
    assert "Azure Retail Prices API, eastus" in after and "planning table" not in after
    prices = read_prices(here)
    assert prices.instances["Standard_DS4_v2"].reserved_3_years == Decimal("0.237443")
    old, new = parse_sections(before, "old"), parse_sections(after, "new")
    assert all(new[name] == old[name] for name in old if not name.startswith("price."))
    assert project_costs(here, "viability", TODAY).rows[2].monthly == Decimal("427.78")
    again = call("refresh", "--url", server.url)
    assert again.exit_code == 0 and (here / "settings.ini").read_text() == after


def test_refresh_that_fails_changes_nothing(here: Path, server: PriceServer) -> None:
    before = (here / "settings.ini").read_bytes()
    server.trouble = [(403, {}, "no")]
    assert call("refresh", "--url", server.url).exit_code == 1
    assert call("refresh", "--url", "http://prices.example.com/").exit_code == 2
    assert call("refresh", "--url", server.url, "--instance-type", "Standard_X9").exit_code == 2
    assert call("refresh", "--url", server.url, "--instance-type", "it's").exit_code == 2
    assert (here / "settings.ini").read_bytes() == before
    assert [path.name for path in here.iterdir()] == ["settings.ini"]


def test_tier_that_azure_sells_no_more_is_emptied(here: Path, server: PriceServer) -> None:
    server.items = [one for one in server.items if "Low Priority" not in one["skuName"]]
    result = call("refresh", "--url", server.url)
    assert "low_priority        not sold  was 0.038" in result.stdout
    assert read_prices(here).instances["Standard_DS2_v2"].low_priority is None
    assert "low_priority: there is no price" in call().stderr


def test_project_without_a_file_gets_one_with_the_new_prices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PriceServer
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROOKSIDE_PRICES_API", server.url)
    assert json.loads(call("refresh", "--json").stdout)["prices"][0]["pay_as_you_go"] == "0.146"
    assert comments((tmp_path / "settings.ini").read_text()) == comments((ROOT / "settings.ini").read_text())
    assert [read_settings(tmp_path, name, "cost")[0].name for name in ENVIRONMENTS] == list(ENVIRONMENTS)


AMOUNTS = some.decimals(0, 10_000, places=6)
WORDS = some.text("abc =:;#%", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
LINES = some.one_of(
    some.just(""),
    WORDS.map(lambda text: f"; {text}"),
    WORDS.map(lambda text: f"# {text}"),
    some.tuples(some.sampled_from(["seed", "name", "SOURCE"]), WORDS).map(
        lambda pair: f"x{pair[0]} = {pair[1]}"
    ),
)


@given(
    before=some.lists(LINES, max_size=5),
    inside=some.lists(LINES, max_size=5),
    after=some.lists(LINES, max_size=5),
    amounts=some.tuples(AMOUNTS, some.none() | AMOUNTS),
    end=some.sampled_from(["\n", "\r\n"]),
    last=some.booleans(),
)
def test_any_file_keeps_its_other_lines(
    before: list[str],
    inside: list[str],
    after: list[str],
    amounts: tuple[Decimal, Decimal | None],
    end: str,
    last: bool,
) -> None:
    price = InstancePrice(
        name="A_1", pay_as_you_go=amounts[0], low_priority=amounts[1], as_of=TODAY, source="a server"
    )
    parts = ["[one]", *before, "[price.A_1]", *inside, "pay_as_you_go = 5 ; dear", "[two]", *after]
    text = end.join(parts) + (end if last else "")
    new = updated(text, [price])
    kept = [line for line in text.splitlines() if not line.startswith("pay_as_you_go")]
    rest = iter(new.splitlines())
    assert all(line in rest for line in kept)  # all of them, in their order
    assert " ; dear" in new and new.count(end) == new.count("\n")
    assert updated(new, [price]) == new


def test_value_that_goes_on_in_the_next_line_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "settings.ini").write_text("[price.A]\nsource = one\n    two\n[dev]\n; last")
    price = InstancePrice(name="A", pay_as_you_go=Decimal("0.5"), as_of=TODAY, source="three")
    text = write_prices(tmp_path, [price]).read_text()
    assert (
        "two" not in text and text.endswith("[dev]\n; last") and read_prices(tmp_path).instances["A"] == price
    )


# Money


def models(name: str) -> list[type[BaseModel]]:
    module = import_module(f"brookside_mlops.{name}")
    found = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, BaseModel)]
    return [one for one in found if one.__module__ == module.__name__]


def parts(annotation: Any) -> list[Any]:
    return [annotation, *(part for one in get_args(annotation) for part in parts(one))]


@pytest.mark.parametrize("name", [*EXACT, "retail_prices"])
def test_no_model_of_money_has_a_float(name: str) -> None:
    fields = {
        f"{model.__name__}.{key}": one for model in models(name) for key, one in model.model_fields.items()
    }
    assert fields or name == "price_file"
    assert [key for key, one in fields.items() if float in parts(one.annotation)] == []


@pytest.mark.parametrize("name", EXACT)
def test_no_arithmetic_of_money_makes_a_float(name: str) -> None:
    tree = ast.parse((ROOT / "brookside_mlops" / f"{name}.py").read_text())
    made = [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "float")
    ]
    assert made == []


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (InstancePrice, {"name": "A", "pay_as_you_go": 0.1, "as_of": TODAY, "source": "x"}),
        (PriceTerms, {"hours_per_month": 730.0}),
    ],
)
def test_float_is_refused_at_the_door(model: type[BaseModel], given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="money is never a float"):
        model.model_validate(given)


def numbers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [found for one in value.values() for found in numbers(one)]
    if isinstance(value, list):
        return [found for one in value for found in numbers(one)]
    return [value]


def test_amounts_in_json_are_text(here: Path) -> None:
    for words in ((), ("what-if",), ("budget",)):
        found = json.loads(call(*words, "--json").stdout)
        assert not [one for one in numbers(found) if isinstance(one, float)]
    assert json.loads(call("--json").stdout)["total"] == "657.29"


@given(price=AMOUNTS, count=some.integers(1, 1000))
def test_a_year_is_twelve_months_to_the_cent(price: Decimal, count: int) -> None:
    one = InstancePrice(name="A", pay_as_you_go=price, as_of=TODAY, source="x")
    prices = PriceList(instances={"A": one})
    month = monthly(prices, Instances(type="A", count=count, tier="pay_as_you_go"))
    assert abs(month - price * count * 730) <= Decimal("0.005") and month == round(month, 2)


def test_picture_shows_each_environment(here: Path) -> None:
    result = call("picture", "--out", "costs.png")
    assert "dev 27.74, staging 57.23, prod 572.32" in result.stdout
    assert (here / "costs.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_bill_of_another_environment_or_month_is_no_budget_that_is_kept(tmp_path: Path) -> None:
    bill = tmp_path / "bill.csv"
    bill.write_text("date,cost,environment\n2026-10-01,9000,qa\n2026-10-02,5,prod\n", encoding="utf-8")
    for words, said in (
        (("budget", "--daily", str(bill)), "environment: qa; dev, staging, prod would be right"),
        (("budget", "--month", "2026-10"), "goes with --daily"),
        (("anomalies", str(bill), "-e", "dev"), "has no costs of dev; it has prod, qa"),
    ):
        done = call(*words)
        assert done.exit_code == 2 and said in done.output, done.output
    bill.write_text("date,cost,environment\n2026-10-02,5,prod\n", encoding="utf-8")
    done = call("budget", "--daily", bill, "--month", "2020-01")
    assert done.exit_code == 2 and "has no day in 2020-01; it has 2026-10 to 2026-10" in done.output
