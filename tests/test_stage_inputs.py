"""What stages read: as declared, no more and no less."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from brookside_mlops.errors import BrooksideError
from brookside_mlops.fingerprints import fingerprint
from brookside_mlops.run_record import STAGES
from brookside_mlops.runs import Run
from brookside_mlops.settings import Environment
from brookside_mlops.stage_inputs import INPUTS, Inputs, readers
from brookside_mlops.training import Recipe
from brookside_mlops.usecases import UseCase
from tests.served import unhurried

ALWAYS = {"project", "name"}  # they say which run it is, and cannot change in it
ROOT = Path(__file__).resolve().parent.parent


def watched(model: BaseModel, seen: set[str]) -> Any:
    """Return a copy of a model that notes the fields that are read."""
    kind = type(model)

    class Watched(kind):  # type: ignore[misc, valid-type]
        def __getattribute__(self, name: str) -> Any:
            if name in kind.model_fields:
                seen.add(name)
            return super().__getattribute__(name)

    return Watched.model_construct(**model.__dict__)


class WatchedRun(Run):
    """A run that notes the stages whose artifacts are opened."""

    opened: set[str]

    def path(self, name: str) -> Path:
        if name in self.record.artifacts:
            self.opened.add(self.record.artifacts[name].stage)
        return super().path(name)


@pytest.mark.endtoend
def test_every_stage_reads_what_is_declared_and_nothing_else(project: Path) -> None:
    read: dict[str, dict[str, set[str]]] = {
        stage: {"stages": set(), "settings": set(), "usecase": set()} for stage in STAGES
    }
    small: dict[str, dict[str, Any]] = {
        "validate": {"rows": 1500},
        "train": {"recipe": Recipe(trees=30)},
        "evaluate": {"bootstrap": 100},
    }
    (project / "settings.ini").write_text(unhurried((ROOT / "settings.ini").read_text()))
    for usecase in ("viability", "cost", "patterns"):
        runs = [WatchedRun(Run.create(project, "dev", usecase).folder) for _ in range(2)]
        for run in runs:
            settings, case = run._settings
            for stage in STAGES if run is runs[1] else STAGES[:6]:
                seen = read[stage]
                run.opened = seen["stages"]
                run.__dict__["_settings"] = (
                    watched(settings, seen["settings"]),
                    watched(case, seen["usecase"]),
                )
                work = getattr(importlib.import_module(f"brookside_mlops.stages.{stage}"), stage)
                result = work(run, **small.get(stage, {}))
                run.__dict__["_settings"] = (settings, case)
                try:
                    run.finish(result)
                except BrooksideError:
                    continue  # 1,500 rows reach no gate; what was read is what counts here
    found = {
        stage: Inputs(*(tuple(sorted(keys - ALWAYS)) for keys in seen.values()))
        for stage, seen in read.items()
    }
    assert found == {stage: in_order(inputs) for stage, inputs in INPUTS.items()}


def in_order(inputs: Inputs) -> Inputs:
    return Inputs(*(tuple(sorted(keys)) for keys in (inputs.stages, inputs.settings, inputs.usecase)))


def test_declared_keys_exist() -> None:
    for stage, inputs in INPUTS.items():
        assert set(inputs.settings) <= set(Environment.model_fields), stage
        assert set(inputs.usecase) <= set(UseCase.model_fields), stage
        assert set(inputs.stages) <= set(STAGES[: STAGES.index(stage)]), stage


@pytest.mark.parametrize(
    ("old", "new", "first"),
    [
        ("min_accuracy = 0.75", "min_accuracy = 0.76", {"evaluate"}),
        ("seed = 20260101", "seed = 1", {"validate", "engineer", "train", "evaluate"}),
        ("slices = business_unit, channel", "slices = channel", {"evaluate"}),
    ],
)
def test_changed_setting_changes_the_fingerprint_of_the_stages_that_read_it(
    project: Path, old: str, new: str, first: set[str]
) -> None:
    text = (ROOT / "settings.ini").read_text()
    (project / "settings.ini").write_text(text)
    run = Run.create(project, "dev", "viability")
    before = {stage: fingerprint(run, stage, {}) for stage in STAGES}
    assert old in text
    (project / "settings.ini").write_text(text.replace(old, new, 1))
    again = Run(run.folder)
    assert {stage for stage in STAGES if fingerprint(again, stage, {}) != before[stage]} == first


def test_stages_after_a_stage_are_those_that_read_it_also_through_others() -> None:
    assert readers("validate") == (
        "engineer",
        "train",
        "evaluate",
        "register",
        "deploy",
        "smoke_test",
        "drift",
    )
    assert readers("evaluate") == ("register", "deploy", "smoke_test", "drift")
    assert readers("smoke_test") == ()
