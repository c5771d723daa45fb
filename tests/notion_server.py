"""A server on loopback that keeps the rules of Notion's API, version 2025-09-03: what the tracker needs of it, and no more."""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSIONS = ("2025-09-03", "2026-03-11")
TOKEN = "ntn_hunter2secret"
STATUS = {"options": [{"name": "Active"}, {"name": "Trial"}, {"name": "Inactive"}]}
SCHEMA: dict[str, dict[str, Any]] = {
    "Name": {"title": {}},
    "Category": {"select": {"options": [{"name": "Design"}]}},
    "Monthly cost": {"number": {"format": "dollar"}},
    "Status": {"status": STATUS},
    "Licenses": {"number": {"format": "number"}},
    "Service": {"select": {"options": []}},
    "Run": {"url": {}},
    "Notes": {"rich_text": {}},
}


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def invalid(message: str) -> Refused:
    return Refused(400, "validation_error", message)


@dataclass
class Fault:
    """What goes wrong with one request of a method and path: an error, before or after it is done; status 0 is no answer at all."""

    status: int
    code: str = "internal_server_error"
    method: str = ""
    path: str = ""
    done: bool = False
    retry_after: str = ""
    message: str = "It was not taken."


@dataclass
class Notion:
    """One database, by default with one data source. `requests` are method, path and body, as they came."""

    schema: dict[str, dict[str, Any]] = field(default_factory=lambda: json.loads(json.dumps(SCHEMA)))
    port: int = 0
    database: str = field(default_factory=lambda: str(uuid.uuid4()))
    sources: list[str] = field(default_factory=lambda: [str(uuid.uuid4())])
    pages: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[tuple[str, str, Any]] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    faults: list[Fault] = field(default_factory=list)
    incomplete: bool = False
    held: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def writes(self) -> list[tuple[str, str, Any]]:
        """The requests that changed something or tried to."""
        return [one for one in self.requests if one[0] == "PATCH" or one[1] == "pages"]

    def said(self) -> dict[str, dict[str, Any]]:
        """What the tracker says: the values of each page that is not in the trash, by name. No name comes twice."""
        found: dict[str, dict[str, Any]] = {}
        for page in self.pages.values():
            if not page["in_trash"]:
                values = {name: plain(value) for name, value in page["properties"].items()}
                assert values["Name"] not in found, f"{values['Name']} is there twice"
                found[values["Name"]] = values
        return found

    def add(self, **values: Any) -> str:
        """Add a page as a person would, and return its id. Properties have _ for a space in their names."""
        named = {name.replace("_", " "): value for name, value in values.items()}
        given = {}
        for name, value in named.items():
            kind = next(iter(self.schema[name]))
            shapes = {"title": [{"text": {"content": value}}], "select": value and {"name": value}}
            shapes["status"] = shapes["select"]
            given[name] = {kind: shapes.get(kind, value)}
        return str(self.create({"parent": self.parent(), "properties": given})["id"])

    def parent(self) -> dict[str, str]:
        return {"type": "data_source_id", "data_source_id": self.sources[0]}

    # What Notion does

    def handle(self, method: str, path: str, body: Any) -> dict[str, Any]:
        """Answer a request."""
        parts = path.split("/")
        if len(parts) > 1:
            parts[1] = dashed(parts[1])
        match method, parts:
            case "GET", ["databases", name] if name == self.database:
                sources = [{"id": one, "name": f"Software Tracker {n}"} for n, one in enumerate(self.sources)]
                return {"object": "database", "id": name, "data_sources": sources}
            case "GET", ["data_sources", name] if name in self.sources:
                properties = {key: {"type": next(iter(one)), **one} for key, one in self.schema.items()}
                return {"object": "data_source", "id": name, "properties": properties}
            case "POST", ["data_sources", name, "query"] if name in self.sources:
                return self.query(body)
            case "POST", ["pages"]:
                return self.create(body)
            case "PATCH", ["pages", name] if name in self.pages:
                return self.update(self.pages[name], body)
            case "GET", ["pages", name] if name in self.pages:
                return self.pages[name]
            case _, ["databases" | "data_sources" | "pages", name, *_]:
                raise Refused(404, "object_not_found", f"Could not find object with ID: {name}.")
        raise Refused(400, "invalid_request_url", "Invalid request URL.")

    def query(self, body: Mapping[str, Any]) -> dict[str, Any]:
        size = body.get("page_size", 100)
        if not 1 <= size <= 100:
            raise invalid(
                "body failed validation: body.page_size should be ≤ `100`, instead was `" + str(size) + "`."
            )
        found = [page for page in self.pages.values() if not page["in_trash"]]
        if "filter" in body:
            kind = next(iter(self.schema[body["filter"]["property"]]))
            wanted = body["filter"][kind]["equals"]
            found = [
                page for page in found if plain(page["properties"][body["filter"]["property"]]) == wanted
            ]
        ids = [page["id"] for page in found]
        first = 0
        if "start_cursor" in body:
            if dashed(body["start_cursor"]) not in ids:
                raise invalid("The start_cursor provided is invalid: " + body["start_cursor"])
            first = ids.index(dashed(body["start_cursor"]))
        more = len(found) > first + size
        answer = {
            "object": "list",
            "type": "page_or_data_source",
            "results": found[first : first + size],
            "has_more": more,
            "next_cursor": ids[first + size] if more else None,
        }
        if self.incomplete:
            answer["request_status"] = {
                "type": "incomplete",
                "incomplete_reason": "query_result_limit_reached",
            }
        return answer

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        parent = body["parent"]
        if parent.get("type") != "data_source_id" or parent.get("data_source_id") not in self.sources:
            raise invalid("body failed validation: body.parent.data_source_id should be defined.")
        empty = {
            name: {"id": name, "type": next(iter(kind)), next(iter(kind)): None}
            for name, kind in self.schema.items()
        }
        for value in empty.values():
            if value["type"] in ("title", "rich_text"):
                value[value["type"]] = []
        key = str(uuid.uuid4())
        page = {"object": "page", "id": key, "url": f"https://www.notion.so/{key.replace('-', '')}"}
        page |= {"in_trash": False, "archived": False, "properties": empty | self.checked(body["properties"])}
        self.pages[key] = page
        return page

    def update(self, page: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
        if page["in_trash"] and body.get("in_trash") is not False:
            raise invalid("Can't edit block that is archived. You must unarchive the block before editing.")
        page["properties"] |= self.checked(body.get("properties", {}))
        page["in_trash"] = page["archived"] = body.get("in_trash", page["in_trash"])
        return page

    def checked(self, given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return property values as Notion keeps them."""
        kept = {}
        for name, value in given.items():
            if name not in self.schema:
                raise invalid(f"{name} is not a property that exists.")
            kind = next(iter(self.schema[name]))
            if kind not in value:
                raise invalid(f"{name} is expected to be {kind}.")
            CHECKS[kind](name, value[kind], self.schema[name][kind])
            content = value[kind]
            if kind in ("title", "rich_text"):
                content = [{"type": "text", "plain_text": one["text"]["content"], **one} for one in content]
            kept[name] = {"id": name, "type": kind, kind: content}
        return kept


def check_text(name: str, value: Any, _: Any) -> None:
    if not isinstance(value, list) or any(len(one["text"]["content"]) > 2000 for one in value):
        raise invalid(f"body.properties.{name} content.length should be ≤ `2000`.")


def check_number(name: str, value: Any, _: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise invalid(f"body.properties.{name}.number should be a number, instead was {value!r}.")


def check_select(name: str, value: Any, known: Any) -> None:
    if value is None:
        return
    if "," in value["name"] or not 1 <= len(value["name"]) <= 100:
        raise invalid(f"Invalid select option, commas not allowed: {value['name']}")
    if value["name"] not in [one["name"] for one in known["options"]]:
        known["options"].append({"name": value["name"]})


def check_status(name: str, value: Any, known: Any) -> None:
    if value is not None and value["name"] not in [one["name"] for one in known["options"]]:
        raise invalid(f'Invalid status option. Status option "{value["name"]}" does not exist".')


def check_url(name: str, value: Any, _: Any) -> None:
    if value is not None and not 1 <= len(value) <= 2000:
        raise invalid(f"body.properties.{name}.url.length should be ≤ `2000`.")


CHECKS: dict[str, Callable[[str, Any, Any], None]] = {
    "title": check_text,
    "rich_text": check_text,
    "number": check_number,
    "select": check_select,
    "status": check_status,
    "url": check_url,
}


def dashed(key: str) -> str:
    return str(uuid.UUID(key)) if re.fullmatch("[0-9a-fA-F-]{32,36}", key) else key


def plain(value: Mapping[str, Any]) -> Any:
    """Return the value of a property of a page, as a person reads it."""
    content = value[value["type"]]
    if isinstance(content, list):
        return "".join(one["plain_text"] for one in content)
    return content["name"] if isinstance(content, dict) else content


class Handler(BaseHTTPRequestHandler):
    """One connection to a Notion, which `notion_site` sets."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    notion: Notion

    def handle_any(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        raw = self.rfile.read(length)
        path = self.path.removeprefix("/v1/").partition("?")[0]
        body = json.loads(raw) if raw else None
        notion = self.notion
        with notion.lock:
            notion.requests.append((self.command, path, body))
            fault = next((one for one in notion.faults if self.meant(one, path)), None)
            if fault:
                notion.faults.remove(fault)
            status, answer = self.answer(path, body) if not fault or fault.done else (0, {})
        if fault and not fault.status:
            notion.held.set()
            notion.over.wait()
            self.close_connection = True
            return
        headers = {}
        if fault:
            status, answer = fault.status, error(fault.status, fault.code, fault.message)
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
        self.say(status, answer, headers)

    def meant(self, fault: Fault, path: str) -> bool:
        return fault.method in ("", self.command) and path.startswith(fault.path)

    def answer(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        version = self.headers.get("Notion-Version")
        try:
            if version is None:
                raise Refused(400, "missing_version", "Notion-Version header should be defined.")
            if version not in VERSIONS:
                raise invalid("Notion-Version header failed validation.")
            self.notion.versions.add(version)
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refused(401, "unauthorized", "API token is invalid.")
            return 200, self.notion.handle(self.command, path, body)
        except Refused as refused:
            return refused.status, error(refused.status, refused.code, str(refused))

    def say(self, status: int, answer: dict[str, Any], headers: Mapping[str, str]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = handle_any

    def log_message(self, *words: Any) -> None:
        """Say nothing."""


def error(status: int, code: str, message: str) -> dict[str, Any]:
    return {"object": "error", "status": status, "code": code, "message": message}


@contextmanager
def notion_site() -> Iterator[Notion]:
    """Serve an empty tracker on a free port."""
    notion = Notion()
    handler = type("Bound", (Handler,), {"notion": notion})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        notion.port = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield notion
        finally:
            notion.over.set()
            server.shutdown()
            thread.join()
