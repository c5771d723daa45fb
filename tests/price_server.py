"""A price list on loopback that keeps the rules of the Azure Retail Prices API: `$filter`, pages of a size, 429 with Retry-After."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

CLAUSE = re.compile(r"(\w+) eq '([^']*)'")


def item(name: str, price: str, **changes: Any) -> dict[str, Any]:
    """A row as the API gives it; the price is put into the text as it is written."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": price,
        "unitPrice": price,
        "armRegionName": "eastus",
        "location": "US East",
        "effectiveStartDate": "2024-01-01T00:00:00Z",
        "meterName": name.removeprefix("Standard_").replace("_", " "),
        "productName": "Virtual Machines DSv2 Series",
        "skuName": name.removeprefix("Standard_").replace("_", " "),
        "serviceName": "Virtual Machines",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": name,
    } | changes


def machine(name: str, price: str, low: str, year: str, three: str) -> list[dict[str, Any]]:
    """The rows of a machine: those that count, and those that are there to be mistaken for them."""
    sku = name.removeprefix("Standard_").replace("_", " ")
    return [
        item(name, "9.99", productName="Virtual Machines DSv2 Series Windows"),
        item(name, "0.011", skuName=f"{sku} Spot"),
        item(name, low, skuName=f"{sku} Low Priority"),
        item(name, year, type="Reservation", reservationTerm="1 Year"),
        item(name, three, type="Reservation", reservationTerm="3 Years"),
        item(name, "0.001", type="DevTestConsumption"),
        item(name, "8.88", effectiveStartDate="2020-01-01T00:00:00Z"),
        item(name, "7.77", armRegionName="westeurope"),
        item(name, price),
    ]


@dataclass
class PriceServer:
    """What the server sells, how it answers and what it was asked; `trouble` answers come first, one each."""

    items: list[dict[str, Any]] = field(default_factory=list)
    page: int = 4
    trouble: list[tuple[int, dict[str, str], str]] = field(default_factory=list)
    next_link: str = ""
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], str]:
        self.asked.append(path)
        if self.trouble:
            return self.trouble.pop(0)
        query = {key: values[0] for key, values in parse_qs(urlsplit(path).query).items()}
        if urlsplit(path).path != "/api/retail/prices":
            return 404, {}, "{}"
        wanted = query.get("$filter", "")
        if CLAUSE.sub("X", wanted) != "X and X and (" + " or ".join("X" for _ in wanted.split(" or ")) + ")":
            return (
                400,
                {},
                json.dumps({"Error": {"Code": "400", "Message": "Invalid OData parameters supplied"}}),
            )
        either: dict[str, set[str]] = {}
        for key, value in CLAUSE.findall(wanted):
            either.setdefault(key, set()).add(value)
        rows = [
            one for one in self.items if all(str(one.get(key)) in values for key, values in either.items())
        ]
        start = int(query.get("$skip", 0))
        more = start + self.page < len(rows)
        link = f"{self.url}?$filter={quote(wanted)}&$skip={start + self.page}" if more else None
        text = json.dumps(
            {
                "BillingCurrency": "USD",
                "CustomerEntityId": "Default",
                "CustomerEntityType": "Retail",
                "Items": rows[start : start + self.page],
                "NextPageLink": self.next_link or link,
                "Count": len(rows[start : start + self.page]),
            }
        )
        return 200, {}, re.sub(r'("(?:retail|unit)Price": )"([^"]*)"', r"\1\2", text)


@contextmanager
def price_server(server: PriceServer) -> Iterator[PriceServer]:
    """Serve a price list on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, text = server.answer(self.path)
            body = text.encode()
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Say nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/api/retail/prices"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
