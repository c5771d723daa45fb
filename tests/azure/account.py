"""What an identity may do and how much of the quota is left, in the Azure on loopback."""

from __future__ import annotations

from tests.azure.emulator import Emulator, Reply, Request, route


@route("GET", r"(?P<scope>/subscriptions/.+)/providers/Microsoft.Authorization/permissions")
def permissions(emulator: Emulator, request: Request) -> Reply:
    """Return the actions of this identity at a resource: those that a test gives there, or everywhere, else all of them."""
    scope = request.given["scope"]
    emulator.existing(scope)
    everywhere = emulator.more.get("permissions", [{"actions": ["*"], "notActions": []}])
    given = emulator.more.get("permissions at", {})
    return Reply(200, {"value": given.get(scope.lower(), everywhere)})


@route("GET", r"/subscriptions/[^/]+/providers/Microsoft.MachineLearningServices/locations/[^/]+/vmSizes")
def sizes(emulator: Emulator, request: Request) -> Reply:
    """Return the machines of a region."""
    known = {"Standard_DS2_v2": 2, "Standard_DS3_v2": 4}
    return Reply(
        200,
        {
            "value": [
                {"name": name, "family": "standardDSv2Family", "vCPUs": cores}
                for name, cores in known.items()
            ]
        },
    )


@route("GET", r"/subscriptions/[^/]+/providers/Microsoft.MachineLearningServices/locations/[^/]+/usages")
def usages(emulator: Emulator, request: Request) -> Reply:
    """Return what of the quota is taken."""
    taken = emulator.more.get("taken", 4)
    name = {"value": "standardDSv2Family", "localizedValue": "Standard DSv2 Family vCPUs"}
    return Reply(200, {"value": [{"name": name, "unit": "Count", "currentValue": taken, "limit": 100}]})
