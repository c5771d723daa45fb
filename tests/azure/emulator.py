"""An Azure on loopback: resources by id over HTTPS, sign-in, long-running operations, and faults on demand.

It knows resources, not their meaning: any type can be put, read, listed, changed and deleted by its resource id, by the rules of
Azure Resource Manager. What is particular to a type is added by `route`, in a file of its own. The real SDKs talk to it, since it
serves the metadata of a cloud (ARM_CLOUD_METADATA_URL) and signs in (AZURE_AUTHORITY_HOST) with a certificate they are told to trust
(REQUESTS_CA_BUNDLE). Hosts that are no name of this machine, such as those of storage, are reached through its proxy (HTTPS_PROXY);
a host that is not of this cloud is refused there, and remembered.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import select
import socket
import ssl
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

SUBSCRIPTION = "11111111-2222-3333-4444-555555555555"
TENANT = "66666666-7777-8888-9999-000000000000"
CLIENT = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
SECRET = "hunter2-client-secret"
GROUP, WORKSPACE, LOCATION = "rg-brookside", "mlw-brookside", "eastus"
CLOUD, SUFFIX = "BrooksideCloud", "emulator.test"
SCHEMAS = "azuremlschemasprod.azureedge.net"  # the SDK asks it for the schema of a table
STORAGE = f"core.{SUFFIX}"  # the storage SDK wants a name with .blob.core. in it
ML = "Microsoft.MachineLearningServices"
DATES = re.compile(r"20\d\d-\d\d-\d\d(-(preview|beta|alpha))?$")
# What Azure makes by itself when the first child is put.
CONTAINERS = ("models", "environments", "codes", "components", "data", "datastores", "jobs", "schedules")


class Refused(Exception):
    """A request that is answered with Azure's envelope of an error."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers, self.more = (
            status,
            code,
            message,
            dict(headers or {}),
            more,
        )

    def reply(self) -> Reply:
        return Reply(
            self.status, {"error": {"code": self.code, "message": self.message, **self.more}}, self.headers
        )


@dataclass
class Request:
    """A request as it came. `path` is decoded and without its query; `given` is what the pattern of a route named."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    given: dict[str, str] = field(default_factory=dict)
    status: int = 0

    @cached_property
    def json(self) -> Any:
        try:
            return json.loads(self.body or b"null")
        except ValueError:
            raise Refused(
                400, "InvalidRequestContent", "The request content was invalid: not JSON."
            ) from None


@dataclass
class Reply:
    """An answer; `body` that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method and a pattern of the path.

    `status` 0 closes the connection. `done`: what was asked is done all the same, and only its answer is lost.
    """

    status: int
    code: str = "InternalServerError"
    message: str = "It was not taken."
    method: str = ""
    path: str = ""
    times: int = 1
    done: bool = False
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Operation:
    """A long-running operation: so many looks find it in progress, then `finish` is called once and says how it ended."""

    looks: int
    finish: Callable[[], Mapping[str, Any] | None]
    result: str
    state: str = "InProgress"
    error: Mapping[str, Any] | None = None

    def look(self) -> None:
        if self.state != "InProgress":
            return
        if self.looks > 0:
            self.looks -= 1
            return
        self.error = self.finish()
        self.state = "Failed" if self.error else "Succeeded"


Handler = Callable[["Emulator", Request], "Reply | None"]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Register what answers requests of a method (a regular expression) and a path, before what is general.

    The path is matched whole, without regard to case. A handler that returns None leaves the request to what comes after it: the
    routes registered earlier, then the general rules. Routes registered later go first. Routes under /subscriptions/ are asked once
    the token and the api-version are checked.
    """

    def register(handler: Handler) -> Handler:
        ROUTES.insert(0, (method, re.compile(pattern, re.IGNORECASE), handler))
        return handler

    return register


def merged(old: Any, new: Any) -> Any:
    """Return an object with a JSON merge patch applied."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    both = dict(old)
    for key, value in new.items():
        if value is None:
            both.pop(key, None)
        else:
            both[key] = merged(old.get(key), value)
    return both


def type_of(path: str) -> str:
    """Return the type of a resource id or a collection, in lower case: `microsoft.x/things/parts`."""
    return written_type(path).lower()


def written_type(path: str) -> str:
    """Return the type of a resource id as it is written there."""
    parts = path.strip("/").split("/")
    lower = [one.lower() for one in parts]
    if "providers" not in lower:
        return "Microsoft.Resources/" + parts[-1 if len(parts) % 2 else -2]
    provider, *names = parts[len(parts) - lower[::-1].index("providers") :]
    return "/".join([provider, *names[::2]])


def is_collection(path: str) -> bool:
    """Tell whether a path names a collection and no resource."""
    parts = path.strip("/").split("/")
    if "providers" in [one.lower() for one in parts]:
        at = len(parts) - 1 - [one.lower() for one in reversed(parts)].index("providers")
        return len(parts[at + 1 :]) % 2 == 0
    return len(parts) % 2 == 1


@dataclass
class Emulator:
    """The state of a small Azure, and its server."""

    folder: Path
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)  # by resource id in lower case
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    operations: dict[str, Operation] = field(default_factory=dict)
    long_running: set[str] = field(
        default_factory=set
    )  # types, in lower case, whose PUT and DELETE take a while
    looks: int = 2  # how many times an operation is in progress
    page: int = 100  # how many resources one page of a list holds
    tokens: dict[str, float] = field(default_factory=dict)  # each token that was given, and until when
    token_seconds: int = 3600
    hosts: dict[str, int] = field(default_factory=dict)  # of the proxy: a host name, and the port on loopback
    strangers: list[str] = field(
        default_factory=list
    )  # hosts that somebody wanted and that are not of this cloud
    more: dict[str, Any] = field(default_factory=dict)  # what routes of other files keep
    lock: threading.RLock = field(default_factory=threading.RLock)
    port: int = 0
    proxy_port: int = 0

    # Addresses and what a client needs

    @property
    def address(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def group(self) -> str:
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}"

    @property
    def workspace(self) -> str:
        return f"{self.group}/providers/{ML}/workspaces/{WORKSPACE}"

    @cached_property
    def authority(self) -> trustme.CA:
        return trustme.CA()

    @cached_property
    def certificate(self) -> trustme.LeafCert:
        names = ("localhost", "127.0.0.1", f"*.{SUFFIX}", f"*.blob.{STORAGE}", SCHEMAS)
        return self.authority.issue_cert(*names)

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def environment(self) -> dict[str, str]:
        """What a process needs to find this Azure, sign in there, and trust it: the variables that the SDKs read, and settings."""
        return {
            "ARM_CLOUD_METADATA_URL": f"{self.address}/metadata/endpoints?api-version=2019-05-01",
            "AZURE_AUTHORITY_HOST": self.address,
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_FEDERATED_TOKEN_FILE": str(self.folder / "federated-token"),
            "AZURE_TOKEN_CREDENTIALS": "prod",
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            "SSL_CERT_FILE": str(self.ca_file),
            "HTTPS_PROXY": f"http://127.0.0.1:{self.proxy_port}",
            "NO_PROXY": "localhost,127.0.0.1",
            "AZURE_CORE_ONLY_SHOW_ERRORS": "true",
            "REGISTRY_DISCOVERY_ENDPOINT_URL": self.address,
            "BROOKSIDE_AZURE_SUBSCRIPTION": SUBSCRIPTION,
            "BROOKSIDE_AZURE_RESOURCE_GROUP": GROUP,
            "BROOKSIDE_AZURE_WORKSPACE": WORKSPACE,
            "BROOKSIDE_AZURE_LOCATION": LOCATION,
        }

    # Resources

    def put(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Put a resource without a request, as the first state of a test."""
        return self._store(path, dict(body or {}), "Succeeded")

    def find(self, path: str) -> dict[str, Any] | None:
        """Return a resource by its id."""
        return self.resources.get(path.rstrip("/").lower())

    def drop(self, path: str) -> None:
        """Remove a resource and all below it, as another person would."""
        lower = path.rstrip("/").lower()
        with self.lock:
            for key in [one for one in self.resources if one == lower or one.startswith(f"{lower}/")]:
                del self.resources[key]

    def below(self, collection: str) -> list[dict[str, Any]]:
        """Return the resources of a collection, in the order of their names."""
        lower = collection.strip("/").lower()
        parts = lower.split("/")
        found = []
        for key in sorted(self.resources):
            names = key.strip("/").split("/")
            inside = len(names) == len(parts) + 1 and names[: len(parts)] == parts
            # Across resource groups: /subscriptions/S/providers/TYPE.
            across = (
                len(parts) == 5
                and parts[2] == "providers"
                and names[:2] == parts[:2]
                and type_of(key) == type_of(lower)
            )
            if inside or across:
                found.append(self.resources[key])
        return found

    def seen(self, method: str = "", pattern: str = "") -> list[Request]:
        """Return the requests of a method and a pattern of the path, in the order they came."""
        return [
            one
            for one in list(self.requests)
            if (not method or one.method == method) and re.search(pattern, one.path, re.IGNORECASE)
        ]

    def writes(self) -> list[Request]:
        """Return the requests that change something: no sign-in, no reading."""
        return [
            one
            for one in self.seen(pattern="^/subscriptions/")
            if one.method in ("PUT", "PATCH", "DELETE")
            or (one.method == "POST" and not re.search(r"/list\w*$|/getLogs$|/checkName", one.path))
        ]

    def _store(self, path: str, body: dict[str, Any], state: str) -> dict[str, Any]:
        """Keep a resource under its id, with what Azure adds."""
        path = "/" + path.strip("/")
        key = path.lower()
        now = time.strftime("%Y-%m-%dT%H:%M:%S.0000000Z", time.gmtime())
        with self.lock:
            old = self.resources.get(key)
            made = (old or {}).get("systemData", {}).get("createdAt", now)
            properties = {**(body.get("properties") or {}), "provisioningState": state}
            stored = {
                **body,
                "id": (old or {}).get("id", path),
                "name": path.rsplit("/", 1)[1],
                "type": written_type(path),
                "etag": f'"{uuid.uuid4()}"',
                "properties": properties,
                "systemData": {
                    "createdAt": made,
                    "createdBy": CLIENT,
                    "createdByType": "Application",
                    "lastModifiedAt": now,
                    "lastModifiedBy": CLIENT,
                    "lastModifiedByType": "Application",
                },
            }
            self.resources[key] = stored
            return stored

    def set_state(self, path: str, state: str) -> None:
        """Set the provisioning state of a resource that is there."""
        with self.lock:
            found = self.find(path)
            if found is not None:
                found["properties"]["provisioningState"] = state

    # Answering

    def answer(self, request: Request) -> Reply | None:
        """Answer a request; None closes the connection without one."""
        with self.lock:
            self.requests.append(request)
            fault = self._fault(request)
        if fault and not fault.done:
            return self._wrong(fault)
        try:
            reply = self._answer(request)
        except Refused as error:
            reply = error.reply()
        return self._wrong(fault) if fault else reply

    def _fault(self, request: Request) -> Fault | None:
        for one in self.faults:
            if (
                one.times > 0
                and one.method in ("", request.method)
                and re.search(one.path, request.path, re.IGNORECASE)
            ):
                one.times -= 1
                return one
        return None

    @staticmethod
    def _wrong(fault: Fault) -> Reply | None:
        return (
            Refused(fault.status, fault.code, fault.message, fault.headers).reply() if fault.status else None
        )

    def _answer(self, request: Request) -> Reply:
        managed = request.path.lower().startswith("/subscriptions/") or request.path == "/subscriptions"
        if managed:
            self.check_token(request)
            version = request.query.get("api-version", "")
            if not DATES.match(version):
                raise Refused(
                    400,
                    "MissingApiVersionParameter" if not version else "InvalidApiVersionParameter",
                    f"The api-version query parameter (?api-version=) is required for all requests; got {version!r}.",
                )
        for method, pattern, handler in ROUTES:
            found = pattern.fullmatch(request.path)
            if found and re.fullmatch(method, request.method):
                request.given = {key: value or "" for key, value in found.groupdict().items()}
                reply = handler(self, request)
                if reply is not None:
                    return reply
        if managed:
            return self.generic(request)
        raise Refused(404, "NotFound", f"There is nothing at {request.path}.")

    def check_token(self, request: Request) -> None:
        """Refuse a request without a token of ours, or with one whose time is over."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        challenge = {
            "WWW-Authenticate": f'Bearer authorization_uri="{self.address}/{TENANT}", error="invalid_token"'
        }
        if scheme != "Bearer" or token not in self.tokens:
            raise Refused(401, "AuthenticationFailed", "Authentication failed.", challenge)
        if time.time() >= self.tokens[token]:
            raise Refused(
                401, "ExpiredAuthenticationToken", "The access token expiry UTC time is over.", challenge
            )

    def expire_tokens(self) -> None:
        """Let every token that was given be over."""
        with self.lock:
            self.tokens = dict.fromkeys(self.tokens, 0.0)

    def generic(self, request: Request) -> Reply:
        """Answer a request for a resource of any type by the rules of Azure Resource Manager."""
        path = request.path.rstrip("/")
        match request.method:
            case "GET" if is_collection(path):
                return self._list(path, request)
            case "GET":
                return Reply(200, self.existing(path))
            case "HEAD":
                return Reply(204 if self.find(path) else 404)
            case "PUT":
                return self.write(path, request, dict(request.json or {}))
            case "PATCH":
                old = self.existing(path)
                changes = dict(request.json or {})
                return self.write(
                    path, request, merged({k: v for k, v in old.items() if k != "etag"}, changes)
                )
            case "DELETE":
                return self.remove(path, request)
        raise Refused(
            404, "InvalidResourceType", f"{type_of(path)} cannot be asked to do that: {request.method} {path}"
        )

    def _list(self, path: str, request: Request) -> Reply:
        self.need_parent(f"{path}/one")
        found = self.below(path)
        begin = int(request.query.get("$skiptoken", 0))
        body: dict[str, Any] = {"value": found[begin : begin + self.page]}
        if begin + self.page < len(found):
            version = request.query["api-version"]
            body["nextLink"] = f"{self.address}{path}?api-version={version}&$skiptoken={begin + self.page}"
        return Reply(200, body)

    def existing(self, path: str) -> dict[str, Any]:
        """Return a resource, or refuse as Azure does where there is none."""
        found = self.find(path)
        if found is not None:
            return found
        self.need_parent(path)
        if re.fullmatch(r"/subscriptions/[^/]+/resourcegroups/[^/]+", path.lower()):
            name = path.rsplit("/", 1)[1]
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        raise Refused(
            404, "ResourceNotFound", f"The Resource '{type_of(path)}/{path.rsplit('/', 1)[1]}' was not found."
        )

    def need_parent(self, path: str) -> None:
        """Refuse a resource whose parents are not there."""
        lower = path.lower()
        group = re.match(r"/subscriptions/[^/]+(/resourcegroups/[^/]+)?", lower)
        if group and group[0] != lower and group[0] not in self.resources:
            if not group[1]:
                raise Refused(
                    404,
                    "SubscriptionNotFound",
                    f"The subscription '{group[0].split('/')[2]}' could not be found.",
                )
            name = path.split("/")[4]
            raise Refused(404, "ResourceGroupNotFound", f"Resource group '{name}' could not be found.")
        parts = lower.rsplit("/providers/", 1)
        if len(parts) < 2:
            return
        names = parts[1].split("/")
        if len(names) > 3:
            parent = "/".join([parts[0], "providers", *names[:-2]])
            if parent not in self.resources and names[-4] not in CONTAINERS:
                raise Refused(
                    404,
                    "ParentResourceNotFound",
                    f"Failed to perform on {path}: its parent {parent} is not there.",
                )

    def write(self, path: str, request: Request, body: dict[str, Any]) -> Reply:
        """Put a resource: at once, or as a long-running operation."""
        with self.lock:
            old = self.find(path)
            self._preconditions(request, old)
            if old is None:
                self.need_parent(path)
            slow = type_of(path) in self.long_running
            state = ("Updating" if old else "Creating") if slow else "Succeeded"
            stored = self._store(path, body, state)
        if not slow:
            return Reply(200 if old else 201, stored, {"ETag": stored["etag"]})

        def finish() -> None:
            self.set_state(path, "Succeeded")

        return self.accepted(Reply(200 if old else 201, stored, {"ETag": stored["etag"]}), finish, path)

    @staticmethod
    def _preconditions(request: Request, old: Mapping[str, Any] | None) -> None:
        wanted = request.headers.get("if-match", "")
        if wanted and (old is None or wanted not in ("*", old["etag"])):
            raise Refused(412, "PreconditionFailed", "The condition 'If-Match' is not satisfied.")
        if request.headers.get("if-none-match") == "*" and old is not None:
            raise Refused(412, "PreconditionFailed", "The condition 'If-None-Match' is not satisfied.")

    def remove(self, path: str, request: Request) -> Reply:
        """Delete a resource: at once, or as a long-running operation."""
        with self.lock:
            old = self.find(path)
            if old is None:
                return Reply(204)
            self._preconditions(request, old)
            if type_of(path) not in self.long_running:
                self.drop(path)
                return Reply(200)
            self.set_state(path, "Deleting")
        return self.accepted(Reply(202), lambda: self.drop(path), "")

    def accepted(
        self,
        reply: Reply,
        finish: Callable[[], Mapping[str, Any] | None],
        result: str,
        looks: int | None = None,
    ) -> Reply:
        """Begin a long-running operation, and return an answer that says where it can be watched."""
        name = str(uuid.uuid4())
        self.operations[name] = Operation(self.looks if looks is None else looks, finish, result)
        place = f"{self.address}/subscriptions/{SUBSCRIPTION}/providers/{ML}/locations/{LOCATION}"
        reply.headers |= {
            "Azure-AsyncOperation": f"{place}/mfeOperationsStatus/{name}?api-version=2023-04-01",
            "Location": f"{place}/mfeOperationResults/{name}?api-version=2023-04-01",
            "x-ms-retry-after-ms": "20",
        }
        return reply


# What every cloud has


@route("GET", "/metadata/endpoints")
def cloud_metadata(emulator: Emulator, request: Request) -> Reply:
    """The addresses of this cloud, as ARM_CLOUD_METADATA_URL serves them."""
    return Reply(
        200,
        [
            {
                "name": CLOUD,
                "portal": f"https://portal.{SUFFIX}",
                "resourceManager": emulator.address,
                "authentication": {
                    "loginEndpoint": emulator.address,
                    "audiences": [emulator.address],
                    "tenant": "common",
                    "identityProvider": "AAD",
                },
                "suffixes": {"storage": STORAGE},
                "logAnalyticsResourceId": emulator.address,
            }
        ],
    )


@route("GET", r"/.+\.schema\.json")
def schema(emulator: Emulator, request: Request) -> Reply:
    """The schema of a table: any object."""
    return Reply(200, {"type": "object", "required": ["paths"]})


@route("GET", r"/(?P<tenant>[^/]+)/(v2\.0/)?\.well-known/openid-configuration")
def openid(emulator: Emulator, request: Request) -> Reply:
    base = f"{emulator.address}/{request.given['tenant']}"
    return Reply(
        200,
        {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "issuer": f"{base}/v2.0",
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "scopes_supported": ["openid"],
            "tenant_region_scope": "NA",
            "cloud_instance_name": "localhost",
        },
    )


@route("POST", r"/(?P<tenant>[^/]+)/oauth2/v2\.0/token")
def token(emulator: Emulator, request: Request) -> Reply:
    """A token for a service principal: by the secret of its client, or by the federated token of a workload."""
    form = {key: values[0] for key, values in parse_qs(request.body.decode()).items()}
    federated = (emulator.folder / "federated-token").read_text().strip()
    right = form.get("client_id") == CLIENT and request.given["tenant"] == TENANT
    right &= form.get("client_secret") == SECRET or form.get("client_assertion") == federated
    if not right:
        said = "AADSTS7000215: Invalid client secret provided, or the federated token was not accepted."
        return Reply(401, {"error": "invalid_client", "error_description": said, "error_codes": [7000215]})

    def part(content: Mapping[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")

    until = int(time.time()) + emulator.token_seconds
    claims = {
        "aud": form.get("scope", "").split(" ")[0].removesuffix("/.default"),
        "tid": TENANT,
        "appid": CLIENT,
        "oid": CLIENT,
        "exp": until,
    }
    made = ".".join(
        (part({"alg": "none"}), part({**claims, "jti": secrets.token_hex(8)}), secrets.token_hex(16))
    )
    with emulator.lock:
        emulator.tokens[made] = float(until)
    return Reply(
        200,
        {
            "token_type": "Bearer",
            "expires_in": emulator.token_seconds,
            "ext_expires_in": emulator.token_seconds,
            "access_token": made,
        },
    )


@route("GET", r"/subscriptions/[^/]+/providers/[^/]+/locations/[^/]+/mfeOperationsStatus/(?P<name>[^/]+)")
def operation_status(emulator: Emulator, request: Request) -> Reply:
    """The state of a long-running operation (Azure-AsyncOperation)."""
    found = emulator.operations.get(request.given["name"])
    if found is None:
        raise Refused(404, "OperationNotFound", "There is no such operation.")
    with emulator.lock:
        found.look()
    body: dict[str, Any] = {"id": request.path, "name": request.given["name"], "status": found.state}
    if found.error:
        body["error"] = dict(found.error)
    return Reply(200, body, {"x-ms-retry-after-ms": "20"} if found.state == "InProgress" else {})


@route("GET", r"/subscriptions/[^/]+/providers/[^/]+/locations/[^/]+/mfeOperationResults/(?P<name>[^/]+)")
def operation_result(emulator: Emulator, request: Request) -> Reply:
    """The result of a long-running operation (Location): 202 until it is there."""
    found = emulator.operations.get(request.given["name"])
    if found is None:
        raise Refused(404, "OperationNotFound", "There is no such operation.")
    with emulator.lock:
        found.look()
    if found.state == "InProgress":
        place = f"{emulator.address}{request.path}?api-version=2023-04-01"
        return Reply(202, None, {"Location": place, "x-ms-retry-after-ms": "20"})
    if found.error:
        raise Refused(409, str(found.error.get("code", "Failed")), str(found.error.get("message", "")))
    return Reply(200, emulator.find(found.result)) if found.result else Reply(204)


# The servers


def _handler(emulator: Emulator, context: ssl.SSLContext) -> type[BaseHTTPRequestHandler]:
    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        timeout = 60

        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def _do(self) -> None:
            split = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(split.query, keep_blank_values=True).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            request = Request(self.command, unquote(split.path), query, headers, self._body())
            reply = emulator.answer(request)
            if reply is None:
                self.close_connection = True
                return
            request.status = reply.status
            body = reply.body if isinstance(reply.body, bytes) else b""
            if reply.body is not None and not body:
                with emulator.lock:
                    body = json.dumps(reply.body).encode()
            names = {key.lower() for key in reply.headers}
            self.send_response(reply.status)
            for key, value in reply.headers.items():
                self.send_header(key, value)
            if body and "content-type" not in names:
                self.send_header("Content-Type", "application/json; charset=utf-8")
            if "x-ms-request-id" not in names:
                self.send_header("x-ms-request-id", str(uuid.uuid4()))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                found = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = do_HEAD = _do

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Connection


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is no fault of the emulator; anything else is, and is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _tunnel(emulator: Emulator) -> type[BaseHTTPRequestHandler]:
    class Tunnel(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            host = self.path.rsplit(":", 1)[0].lower()
            port = next(
                (to for name, to in emulator.hosts.items() if host == name or host.endswith(f".{name}")), 0
            )
            if not port:
                emulator.strangers.append(host)
                self.send_error(502, f"{host} is not of this cloud")
                return
            with socket.create_connection(("127.0.0.1", port)) as there:
                self.send_response(200)
                self.end_headers()
                self._pump(self.connection, there)

        def _pump(self, one: socket.socket, two: socket.socket) -> None:
            other = {one: two, two: one}
            while True:
                ready, _, _ = select.select(list(other), [], [], 60)
                for source in ready:
                    with suppress(OSError):
                        content = source.recv(65536)
                        if content:
                            other[source].sendall(content)
                            continue
                    return
                if not ready:
                    return

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Tunnel


@contextmanager
def running(folder: Path) -> Iterator[Emulator]:
    """Yield an emulator that answers, with a subscription, a resource group and a workspace in it."""
    folder.mkdir(parents=True, exist_ok=True)
    emulator = Emulator(folder)
    emulator.authority.cert_pem.write_to_path(str(emulator.ca_file))
    (folder / "federated-token").write_text(f"federated.{secrets.token_hex(8)}.token")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    emulator.certificate.configure_cert(context)
    server = _Server(("127.0.0.1", 0), _handler(emulator, context))
    proxy = _Server(("127.0.0.1", 0), _tunnel(emulator))
    emulator.port, emulator.proxy_port = server.server_address[1], proxy.server_address[1]
    emulator.hosts[f"portal.{SUFFIX}"] = emulator.hosts[SCHEMAS] = emulator.port
    threads = [
        threading.Thread(target=one.serve_forever, args=(0.05,), daemon=True) for one in (server, proxy)
    ]
    for thread in threads:
        thread.start()
    seed(emulator)
    try:
        yield emulator
    finally:
        for one in (server, proxy):
            one.shutdown()
            one.server_close()
        for thread in threads:
            thread.join()


def seed(emulator: Emulator) -> None:
    """Put what is there before anybody begins: a subscription, a group, and a workspace with its storage."""
    emulator.put(
        f"/subscriptions/{SUBSCRIPTION}",
        {"subscriptionId": SUBSCRIPTION, "displayName": "Brookside", "state": "Enabled"},
    )
    emulator.put(emulator.group, {"location": LOCATION})
    storage = f"{emulator.group}/providers/Microsoft.Storage/storageAccounts/brooksidestore"
    vault = f"{emulator.group}/providers/Microsoft.KeyVault/vaults/kv-brookside"
    insights = f"{emulator.group}/providers/Microsoft.Insights/components/ai-brookside"
    for path in (storage, vault, insights):
        emulator.put(path, {"location": LOCATION})
    emulator.put(
        emulator.workspace,
        {
            "location": LOCATION,
            "kind": "Default",
            "identity": {"type": "SystemAssigned", "principalId": str(uuid.uuid4()), "tenantId": TENANT},
            "properties": {
                "friendlyName": WORKSPACE,
                "workspaceId": str(uuid.uuid4()),
                "storageAccount": storage,
                "keyVault": vault,
                "applicationInsights": insights,
                "discoveryUrl": f"{emulator.address}/discovery",
                "mlFlowTrackingUri": f"azureml://localhost:{emulator.port}/mlflow/v1.0{emulator.workspace}",
            },
        },
    )
    emulator.put(
        f"{emulator.workspace}/datastores/workspaceblobstore",
        {
            "properties": {
                "datastoreType": "AzureBlob",
                "accountName": "brooksidestore",
                "containerName": "azureml-blobstore",
                "endpoint": STORAGE,
                "protocol": "https",
                "isDefault": True,
                "serviceDataAccessAuthIdentity": "None",
                "credentials": {"credentialsType": "AccountKey"},
            }
        },
    )
