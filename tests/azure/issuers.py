"""Who vouches for a job of GitHub or Azure DevOps, beside the Azure on loopback. What they give is the federated token it takes."""

from __future__ import annotations

from tests.azure.emulator import Emulator, Refused, Reply, Request, route

RIGHT = "right-of-the-job"


def _token(emulator: Emulator, request: Request) -> str:
    """Return the token of a job. Raises Refused for one without the right to it."""
    if request.headers.get("authorization") != f"Bearer {RIGHT}":
        raise Refused(401, "Unauthorized", "No token for this job.")
    return (emulator.folder / "federated-token").read_text()


@route("GET", "/github/oidc")
def github(emulator: Emulator, request: Request) -> Reply:
    """Return a token as the service behind ACTIONS_ID_TOKEN_REQUEST_URL does."""
    return Reply(200, {"count": 1, "value": _token(emulator, request)})


@route("POST", "/devops/oidc")
def devops(emulator: Emulator, request: Request) -> Reply:
    """Return a token as the service behind SYSTEM_OIDCREQUESTURI does."""
    return Reply(200, {"oidcToken": _token(emulator, request)})
