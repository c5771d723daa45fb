"""An Azure on loopback for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azure.emulator import Emulator, running


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Yield an Azure on loopback; the environment says where it is, and who we are there."""
    with running(tmp_path / "azure") as emulator:
        for name in (
            "AZURE_CLIENT_SECRET",
            "AZUREML_CURRENT_CLOUD",
            "https_proxy",
            "no_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            monkeypatch.delenv(name, raising=False)
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AZUREML_CURRENT_CLOUD", "")  # put back at the end: the SDK sets it
        monkeypatch.delenv("AZUREML_CURRENT_CLOUD")
        yield emulator
        assert emulator.strangers == [], "a host outside this cloud was asked for"
