"""A trained version behind a real endpoint that keeps every request, and callers with ids of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pandas as pd

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.protocol import REQUEST_ID, Limits
from brookside_mlops.golden import body_of
from brookside_mlops.registry import RegisterResult
from brookside_mlops.runs import Run


def unhurried(settings: str) -> str:
    """Return settings under which no rollout fails for a machine that is busy with other things."""
    return re.sub(r"(?m)^(p(?:50|95|99)_ms) = .*", r"\1 = 60000", settings)


@contextmanager
def served(run: Run, name: str) -> Iterator[LocalEndpoint]:
    """Serve the version of a run under a name; the server is stopped at the end, and its samples are on the disk then."""
    endpoint = LocalEndpoint(run.settings.state, name, Limits(sample_share=1.0))
    known = run.read(RegisterResult, "register")
    endpoint.start()
    try:
        endpoint.create_deployment("blue", run.folder / "bundle", known.model_name, known.version)
        endpoint.set_traffic({"blue": 100})
        yield endpoint
    finally:
        endpoint.stop()


def ask(endpoint: LocalEndpoint, frame: pd.DataFrame, ids: list[str], rows: int, keys: str = "") -> None:
    """Send a table in requests of so many rows each, under ids of the caller's; `keys` names the column that is sent as the index."""
    info = Bundle.open(endpoint.state.bundle("blue")).info
    headers = {"Authorization": f"Bearer {endpoint.keys()[0]}"}
    with httpx.Client(trust_env=False, timeout=60) as client:
        for number, name in enumerate(ids):
            part = frame.iloc[number * rows : (number + 1) * rows].reset_index(drop=True)
            content = json.loads(body_of(part, info))
            if keys:
                content["input_data"]["index"] = part[keys].tolist()
            answer = client.post(endpoint.show_uri(), json=content, headers=headers | {REQUEST_ID: name})
            assert answer.status_code == 200 and answer.headers[REQUEST_ID] == name
