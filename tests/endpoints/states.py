"""Endpoints in a folder, and a gateway in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from brookside_mlops.endpoints.gateway import Gateway
from brookside_mlops.endpoints.protocol import Deployment, Limits
from brookside_mlops.endpoints.state import EndpointState
from brookside_mlops.scratch import scratch_bundle

ROW = [{"weeks": 1}]


def state_with(folder: Path, *names: str, limits: Limits | None = None) -> EndpointState:
    """Return the state of an endpoint whose deployments add 0, 1, 2, ... to `weeks`."""
    state = EndpointState(folder, "cost-dev")
    state.create()
    if limits:
        state.set_limits(limits)
    for number, name in enumerate(names):
        bundle = scratch_bundle(folder / "bundles" / name, number)
        state.add(Deployment(name=name, model_name="m", version=number, sha256="0"), bundle)
    return state


@asynccontextmanager
async def gateway_of(state: EndpointState) -> AsyncIterator[tuple[Gateway, httpx.AsyncClient]]:
    """Yield a gateway with real workers, and a client with its key that needs no port."""
    gateway = Gateway(state)
    async with gateway.site.router.lifespan_context(gateway.site):
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            client.headers["Authorization"] = f"Bearer {state.read_keys()[0]}"
            yield gateway, client
