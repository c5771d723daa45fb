"""A project with registered versions that nobody had to train: small graphs in a real registry, each in a run of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pandas as pd

from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.registry import RegisterResult, Registration, register_version
from brookside_mlops.results import StageResult
from brookside_mlops.rollout import Record
from brookside_mlops.rollout_store import RolloutStore, Wish
from brookside_mlops.runs import Run
from brookside_mlops.scratch import scratch_bundle
from brookside_mlops.settings import settings_file
from brookside_mlops.tracking import start_run, tracking_client

NUMBERS = count()
ENVIRONMENT = "dev"
QUICK = {
    "bake_minutes": "10",
    "bake_scale": "0.0003",
    "canary_margin": "1",
    "rollout_steps": "50, 100",
    "replay_traffic": "yes",
    "replay_rate": "200",
    "azure_replay_rate": "200",
    "request_seconds": "2",
}


def write_settings(project: Path, **changes: str) -> None:
    """Write the settings of a project: those of the package, with bakes of a fraction of a second and an endpoint of its own."""
    wanted = QUICK | {"endpoint": f"{{usecase}}-{{environment}}-{next(NUMBERS)}"} | changes
    lines = []
    for line in (
        settings_file(Path(__file__).resolve().parent.parent).read_text(encoding="utf-8").splitlines()
    ):
        key = line.partition("=")[0].strip()
        if line.startswith("["):
            section = line.strip("[]")
        if key in wanted and section == "DEFAULT":
            lines.append(f"{key} = {wanted.pop(key)}")
        else:
            lines.append(line)
        if line == "[DEFAULT]":
            place = len(lines)
    lines[place:place] = [f"{key} = {value}" for key, value in wanted.items()]
    (project / "settings.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")


def registered_run(
    project: Path, constant: float, write: Callable[[Path, float], Path] = scratch_bundle
) -> Run:
    """Return a run that has registered a graph, by default one that answers `weeks` plus a constant, and has held-out rows."""
    run = Run.create(project, ENVIRONMENT, "cost")
    write(run.folder / "bundle", constant)
    pd.DataFrame({"weeks": [float(number) for number in range(50)]}).to_parquet(run.new("test.parquet"))
    client = tracking_client(run.settings)
    mlflow_run = start_run(client, run)
    client.set_terminated(mlflow_run)
    version = register_version(run, Registration(run.folder / "bundle", mlflow_run, "# A graph"))
    names = ("bundle/model.onnx", "bundle/input_example.json", "bundle/bundle.json")
    run.finish(StageResult(stage="engineer", verdict="pass", artifacts={"test": "test.parquet"}))
    run.finish(
        RegisterResult(
            stage="register",
            verdict="pass",
            artifacts=dict(zip(("graph", "example", "info"), names, strict=True)),
            model_name=run.usecase.model_name,
            version=version,
            sha256=Bundle.open(run.folder / "bundle").info.sha256,
        )
    )
    return run


@dataclass
class Registered:
    """A project with three registered versions; `runs` opens their runs with the settings of now."""

    project: Path
    folders: list[Path]

    def run(self, version: int) -> Run:
        return Run(self.folders[version - 1])

    def settings(self, **changes: str) -> None:
        """Write other settings, among them an endpoint that nobody has used yet."""
        write_settings(self.project, **changes)

    @property
    def endpoint(self) -> LocalEndpoint:
        settings = self.run(1).settings
        return LocalEndpoint(settings.state, settings.endpoint_name("cost"), settings.limits)

    def serving(self) -> dict[str, int]:
        """The versions of the deployments that have traffic."""
        return {one.name: one.version for one in self.endpoint.show().deployments if one.weight}

    def known(self) -> dict[str, int]:
        return {one.name: one.version for one in self.endpoint.show().deployments}


def asking(registered: Registered, state: str, wish: Wish) -> Callable[[Record], None]:
    """Return a listener that asks for something when the rollout gets into a state, once."""
    store = RolloutStore(registered.run(1).settings.state)
    asked: list[str] = []

    def listen(record: Record) -> None:
        if record.state == state and not asked:
            asked.append(state)
            store.ask(record.endpoint, wish, "Ada")

    return listen


def make(project: Path) -> Registered:
    """Return a new project with three registered versions."""
    write_settings(project)
    return Registered(project, [registered_run(project, number).folder for number in (1, 2, 3)])
