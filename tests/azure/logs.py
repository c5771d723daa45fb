"""Log Analytics on loopback: a query is answered with the table that a test laid down for a word in it."""

from __future__ import annotations

from typing import Any

from tests.azure.emulator import Emulator, Refused, Reply, Request, route

Column = tuple[str, str]


def lay(emulator: Emulator, word: str, columns: list[Column], rows: list[list[Any]]) -> None:
    """Say what a query with a word in it finds; the first word that fits counts."""
    emulator.more.setdefault("tables", []).append((word, columns, rows))


@route("POST", r"/v1/workspaces/(?P<workspace>[^/]+)/query")
def query(emulator: Emulator, request: Request) -> Reply:
    """Answer a query of a workspace; the token has to be one of ours."""
    emulator.check_token(request)
    asked = request.json["query"]
    for word, columns, rows in emulator.more.get("tables", []):
        if word in asked:
            named = [{"name": name, "type": kind} for name, kind in columns]
            return Reply(200, {"tables": [{"name": "PrimaryResult", "columns": named, "rows": rows}]})
    raise Refused(400, "BadArgumentError", "The request had some invalid properties")
