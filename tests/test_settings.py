"""Settings: what is read, and what a wrong value is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from brookside_mlops.errors import InputError
from brookside_mlops.settings import ENVIRONMENTS, add_usecase, read_settings, settings_file
from brookside_mlops.usecases import UseCase

ROOT = Path(__file__).resolve().parent.parent
SMALL = "[DEFAULT]\nseed = 1\n[dev]\n[staging]\n[prod]\n[usecase.viability]\ntask = classification\ntarget = viable\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "settings.ini").write_text(SMALL)
    return tmp_path


def test_gates_of_the_mission_are_the_defaults() -> None:
    dev, staging, prod = (read_settings(ROOT, name, "viability")[0] for name in ENVIRONMENTS)
    assert (dev.min_accuracy, dev.converged) == (0.75, True)
    assert (staging.min_accuracy, staging.min_precision, staging.min_recall) == (0.85, 0.80, 0.75)
    assert (prod.min_accuracy, prod.min_precision, prod.min_recall) == (0.90, 0.85, 0.80)
    assert (prod.baseline_rule, prod.significance, prod.approval) == ("better", 0.05, True)
    assert dev.baseline_rule == staging.baseline_rule == "none"


def test_every_use_case_is_read_in_every_environment() -> None:
    for usecase in ("viability", "cost", "patterns"):
        for environment in ENVIRONMENTS:
            settings, case = read_settings(ROOT, environment, usecase)
            assert settings.endpoint_name(usecase) == f"{usecase}-{environment}"
            assert case.model_name == f"brookside-{usecase}"


def test_project_without_settings_gets_the_packaged_ones(tmp_path: Path) -> None:
    assert settings_file(tmp_path) == ROOT / "settings.ini"
    settings, _ = read_settings(tmp_path, "dev", "viability")
    assert settings.state == tmp_path / ".brookside"
    assert settings.tracking == f"sqlite:///{tmp_path / '.brookside' / 'mlflow.db'}"
    assert settings.runs == tmp_path / "parameterized" / "dev"
    assert settings.gates.min_accuracy == 0.75


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("seed = 1", "seed = soon", "settings.ini [DEFAULT] seed: 'soon'"),
        ("[dev]", "[dev]\nmin_accuracy = 75", "[dev] min_accuracy: '75'"),
        ("[dev]", "[dev]\nmin_acuracy = 0.75", "min_acuracy: '0.75': not a setting; allowed here: "),
        ("[dev]", "[dev]\nbaseline_rule = best", "'none', 'not_worse' or 'better'"),
        ("target = viable", "", "needs the name of the column to predict"),
        ("task = classification", "task = guessing", "'classification', 'regression' or 'clustering'"),
        ("[dev]", "[dev]\nseed", "settings.ini"),
        ("target = viable", "target = viable\nprod.min_accuracy = 7\nlabel = x", "label: 'x': not a setting"),
    ],
)
def test_wrong_value_names_section_key_value_and_what_is_allowed(
    project: Path, old: str, new: str, said: str
) -> None:
    (project / "settings.ini").write_text(SMALL.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_settings(project, "dev", "viability")
    assert said in str(error.value)
    assert error.value.exit_code == 2


def test_unknown_environment_and_use_case_name_the_known_ones(project: Path) -> None:
    with pytest.raises(InputError, match="dev, staging, prod"):
        read_settings(project, "production", "viability")
    with pytest.raises(InputError, match=r"no \[usecase.churn\]; it has viability"):
        read_settings(project, "dev", "churn")


def test_use_case_gate_applies_to_its_environment_alone(project: Path) -> None:
    (project / "settings.ini").write_text(SMALL + "prod.min_accuracy = 0.97\n")
    assert read_settings(project, "prod", "viability")[0].min_accuracy == 0.97
    assert read_settings(project, "dev", "viability")[0].min_accuracy is None


def test_added_use_case_is_read_back_and_not_added_twice(tmp_path: Path) -> None:
    case = UseCase(
        name="ames", task="regression", target="Sale_Price", log_target=True, slices=("Zone", "Street")
    )
    path = add_usecase(tmp_path, case)
    assert path == tmp_path / "settings.ini"
    assert read_settings(tmp_path, "staging", "ames")[1] == case
    with pytest.raises(InputError, match="already has"):
        add_usecase(tmp_path, case)
