"""Prices from Azure: all pages, patience with a busy server, and which rows count."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

import pytest

from brookside_mlops.errors import InputError, MachineError
from brookside_mlops.retail_prices import (
    LONGEST_WAIT,
    TRIES,
    checked_address,
    fetch,
    instance_prices,
    retry_after,
)
from tests.price_server import PriceServer, item, machine, price_server

NAMES = ["Standard_DS2_v2", "Standard_DS3_v2"]
NOW = datetime(2026, 11, 25, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[PriceServer]:
    rows = machine("Standard_DS2_v2", "0.146", "0.0292", "806", "1560")
    rows += machine("Standard_DS3_v2", "0.293", "0.0586", "1612.5", "3120")
    rows += machine("Standard_DS4_v2", "0.585", "0.117", "3225", "6240")
    with price_server(PriceServer(items=rows)) as found:
        yield found


def test_all_pages_are_read_and_only_the_machines_asked_for(server: PriceServer) -> None:
    items = fetch(NAMES, "eastus", address=server.url)
    assert len(items) == 16 and {one.arm_sku_name for one in items} == set(NAMES)
    assert len(server.asked) == 4
    assert "currencyCode=" in server.asked[0] and "%24filter=serviceName" in server.asked[0]


def test_prices_are_those_of_linux_by_the_hour_of_today(server: PriceServer) -> None:
    small, large = instance_prices(fetch(NAMES, "eastus", address=server.url), NAMES, "eastus", NOW)
    assert (small.pay_as_you_go, small.low_priority) == (Decimal("0.146"), Decimal("0.0292"))
    assert (large.pay_as_you_go, large.low_priority) == (Decimal("0.293"), Decimal("0.0586"))
    assert large.reserved_1_year == Decimal("0.184075")  # 1612.5 / 8760
    assert large.reserved_3_years == Decimal("0.118721")  # 3120 / 26280
    assert (large.as_of, large.source) == (NOW.date(), "Azure Retail Prices API, eastus")


def test_price_is_the_number_that_was_written_not_the_nearest_float(server: PriceServer) -> None:
    server.items = [item("Standard_DS3_v2", "123456789.123457")]
    found = instance_prices(fetch(NAMES[1:], "eastus", address=server.url), NAMES[1:], "eastus", NOW)
    assert found[0].pay_as_you_go == Decimal("123456789.123457")


def test_busy_server_is_asked_again_after_the_time_it_names(server: PriceServer) -> None:
    server.trouble = [(429, {"Retry-After": "7"}, ""), (503, {}, ""), (429, {"Retry-After": "2"}, "")]
    slept: list[float] = []
    assert len(fetch(NAMES, "eastus", address=server.url, sleep=slept.append)) == 16
    assert slept[0] == 7 and slept[2] == 2 and 0 < slept[1] <= 10


def test_busy_page_in_the_middle_is_asked_again_and_no_row_comes_twice(server: PriceServer) -> None:
    slept: list[float] = []

    class Middle(PriceServer):
        def answer(self, path: str) -> tuple[int, dict[str, str], str]:
            if "skip=8" in path and not slept:
                return 429, {"Retry-After": "1"}, ""
            return super().answer(path)

    with price_server(Middle(items=server.items)) as found:
        assert len(fetch(NAMES, "eastus", address=found.url, sleep=slept.append)) == 16
    assert slept == [1]


def test_server_that_stays_busy_is_left_after_some_tries(server: PriceServer) -> None:
    server.trouble = [(429, {"Retry-After": "3"}, "")] * 20
    with pytest.raises(MachineError, match="status 429, and asks to wait 3 s; what is written stays"):
        fetch(NAMES, "eastus", address=server.url, sleep=lambda _: None)
    assert len(server.asked) == TRIES


def test_wait_that_is_too_long_is_told_and_not_made(server: PriceServer) -> None:
    server.trouble = [(429, {"Retry-After": str(LONGEST_WAIT + 1)}, "")]
    slept: list[float] = []
    with pytest.raises(MachineError, match=f"asks to wait {LONGEST_WAIT + 1} s"):
        fetch(NAMES, "eastus", address=server.url, sleep=slept.append)
    assert slept == [] and len(server.asked) == 1


def test_retry_after_is_read_as_a_number_and_as_a_date() -> None:
    assert retry_after("12", NOW) == 12
    assert retry_after(format_datetime(NOW + timedelta(seconds=90), usegmt=True), NOW) == 90
    assert retry_after(format_datetime(NOW - timedelta(seconds=90), usegmt=True), NOW) == 0
    assert retry_after("soon", NOW) is None and retry_after("", NOW) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, {}, "nothing here"), "status 404: nothing here"),
        ((302, {"Location": "http://127.0.0.1:9/"}, ""), "status 302"),
        ((200, {}, "<html>"), "did not answer with prices"),
        ((200, {}, '{"Items": 5}'), "did not answer with prices"),
        ((200, {}, '{"Items": [{"retailPrice": -1}]}'), "has a price that cannot be read: retailPrice"),
        ((200, {}, '{"Items": [{"retailPrice": NaN}]}'), "has a price that cannot be read: retailPrice"),
        ((200, {}, '{"Items": [7]}'), "has a price that cannot be read"),
    ],
)
def test_answer_that_is_no_price_list_is_told(
    server: PriceServer, answer: tuple[int, dict[str, str], str], said: str
) -> None:
    server.trouble = [answer]
    with pytest.raises(MachineError, match=said):
        fetch(NAMES, "eastus", address=server.url)
    assert len(server.asked) == 1


def test_next_page_is_on_the_same_server_and_not_one_that_was_read(server: PriceServer) -> None:
    with price_server(PriceServer()) as other:
        for link in (other.url, "https://prices.example.com/api/retail/prices?$skip=4", "/api", server.url):
            server.next_link = link
            with pytest.raises(MachineError, match="names a next page that is not one"):
                fetch(NAMES, "eastus", address=server.url)
        assert other.asked == []


def test_machine_that_the_list_does_not_have_is_named(server: PriceServer) -> None:
    items = fetch(["standard_ds3_v2"], "eastus", address=server.url)
    with pytest.raises(InputError, match="standard_ds3_v2: the price list has no such machine in eastus"):
        instance_prices(items, ["standard_ds3_v2"], "eastus", NOW)


def test_filter_that_the_server_does_not_understand_is_told(server: PriceServer) -> None:
    with pytest.raises(MachineError, match=r"status 400: .*Invalid OData"):
        fetch(["it's"], "eastus", address=server.url)


@pytest.mark.parametrize(
    "address",
    [
        "http://prices.azure.com/api",
        "http://127.0.0.1.example.com/",
        "https://ada:secret@prices.azure.com/",
        "file:///etc/passwd",
        "https://",
        "https://x:port/",
        "https://prices.azure.com/\n",
        "prices.azure.com",
    ],
)
def test_address_that_is_not_https_is_refused_unless_it_is_this_machine(address: str) -> None:
    with pytest.raises(InputError, match="an https address without user and password would be right"):
        checked_address(address)
    for good in ("https://prices.azure.com/api", "http://localhost:8080/", "http://[::1]:8080/"):
        assert checked_address(good) == good


def test_nobody_there_is_told(server: PriceServer) -> None:
    slept: list[float] = []
    with pytest.raises(MachineError, match="no answer"):
        fetch(NAMES, "eastus", address="http://127.0.0.1:1/", sleep=slept.append)
    assert len(slept) == TRIES - 1
