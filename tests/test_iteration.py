"""A stage of a run is opened again as a new run, compared with the old one, and shown as a page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from typer.testing import CliRunner

from brookside_mlops.cli import app
from brookside_mlops.errors import InputError
from brookside_mlops.fingerprints import fingerprint
from brookside_mlops.iteration import iterate
from brookside_mlops.pipeline import LINE, Event, advance, promote, run_stage, stage_parameters
from brookside_mlops.promotion import carry
from brookside_mlops.run_report import report_html
from brookside_mlops.runs import Run, list_runs

SMALL = {"rows": 1_200, "train.trees": 30, "evaluate.bootstrap": 100}


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose first three stages are done."""
    run = Run.create(tmp_path_factory.mktemp("project"), "dev", "viability", SMALL)
    values = stage_parameters(run.project, LINE, SMALL)
    for stage in ("validate", "engineer", "train"):
        run_stage(run, stage, values[stage], lambda event: None, fingerprint(run, stage, values[stage]))
    return run


def edit(notebook: Path, old: str, new: str) -> None:
    """Change a notebook as a person would, in one cell."""
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    for cell in content.cells:
        cell.source = cell.source.replace(old, new)
    nbformat.write(content, notebook)  # type: ignore[no-untyped-call]


def test_iterated_stage_runs_by_itself_in_jupyter(trained: Run, tmp_path: Path) -> None:
    from nbclient import NotebookClient

    run, notebook = iterate(trained, "train", trained.project)
    content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(content, resources={"metadata": {"path": str(tmp_path)}}).execute()
    run.refresh()
    assert run.path("model.skops").is_file()
    assert run.record.parameters["train.trees"] == 30


def test_own_notebook_of_a_run_is_what_runs_and_what_the_next_stage_reads(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.project)
    code, said = call("iterate", "03_train", "--run", trained.id, "--json")
    assert code == 0, said
    shown = json.loads(said)
    run = Run(trained.project / "parameterized" / "dev" / shown["run"])
    edit(Path(shown["notebook"]), "rate: float = 0.1", "rate: float = 0.3")
    edit(Path(shown["notebook"]), "Boosted trees (XGBoost)", "Fewer boosted trees")
    values = stage_parameters(run.project, LINE, SMALL, run.folder)["train"] | {"trees": 5}
    run_stage(run, "train", values, lambda event: None)
    executed = (run.folder / "03_train.ipynb").read_text(encoding="utf-8")
    assert "Fewer boosted trees" in executed
    assert "Fewer boosted trees" not in (trained.folder / "03_train.ipynb").read_text(encoding="utf-8")

    code, said = call("runs", "diff", trained.id, run.id)
    assert code == 0 and "its own" in said and "03_train.ipynb, The stage: outputs" in said
    code, said = call("runs", "diff", trained.id, run.id, "--html", "difference.html")
    page = Path("difference.html").read_text(encoding="utf-8")
    assert code == 0 and page.count("data:image/png") == 2 and trained.id in page
    assert "&amp;gt;" not in page and "<ins>" in page and "<del>" in page
    alts = [str(one["alt"]) for one in BeautifulSoup(page, "html.parser").select("img")]
    assert len(alts) == 2 and all(len(one.split()) > 5 for one in alts), alts
    found = json.loads(call("runs", "diff", trained.id, run.id, "--json")[1])
    assert not [line for one in found["cells"] for line in one["after"] if "%|" in line]
    names = list(found["facts"])
    assert names[0] == "parameter train.learning_rate" and found["facts"][names[0]] == [0.1, 0.3]
    assert names[-1].startswith("artifact ")
    assert found["facts"]["metric train.trees"][1] == 5 and "metric train.loss" in names
    assert "artifact model.skops" in found["facts"]
    assert any(one["heading"] == "The picture" for one in found["cells"])


def test_verbs_pass_over_a_newer_run_that_has_not_what_they_need(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.project)
    bare = json.loads(call("iterate", "03_train", "--run", trained.id, "--json")[1])["run"]
    code, said = call("iterate", "04_evaluate", "--json")
    assert code == 0, said
    assert json.loads(said)["source"] != bare
    for words in (("smoke-test",), ("stage", "smoke_test"), ("rollback",), ("stage", "register")):
        code, said = call(*words)
        assert code == 2 and re.search(r"no run of viability in dev has .*yet", said), said
    folder = trained.project / "parameterized" / "dev" / bare
    assert {path.name for path in folder.glob("*.ipynb")} == {"01_validate.ipynb", "02_engineer.ipynb"}


@pytest.mark.parametrize("how", ["iterate", "promote"])
def test_run_whose_making_is_interrupted_is_none(
    how: str, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(trained.project.rglob("run.json")), sorted(trained.project.rglob("*.skops"))
    whole = shutil.copyfile

    def interrupted(source: Path, target: Path) -> None:
        if source.name == "model.skops":
            raise KeyboardInterrupt
        whole(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            if how == "iterate":
                iterate(trained, "evaluate", trained.project)
            else:
                carry(trained, "staging", ("validate", "engineer", "train"))
    assert (sorted(trained.project.rglob("run.json")), sorted(trained.project.rglob("*.skops"))) == before
    assert Run(trained.folder).record.promoted_to == ""


def test_run_whose_maker_is_killed_is_none(trained: Run) -> None:
    before = [run.id for run in list_runs(trained.project)]
    kill = (
        "import os, shutil, sys\n"
        "from pathlib import Path\n"
        "from brookside_mlops.iteration import iterate\n"
        "from brookside_mlops.runs import Run\n"
        "shutil.copyfile = lambda *paths: os.kill(os.getpid(), 9)\n"
        "run = Run(Path(sys.argv[1]))\n"
        "iterate(run, 'train', run.project)\n"
    )
    killed = subprocess.run([sys.executable, "-c", kill, str(trained.folder)], check=False)
    assert killed.returncode == -9
    assert [run.id for run in list_runs(trained.project)] == before


def test_run_with_a_notebook_of_its_own_is_not_promoted(trained: Run) -> None:
    run, _ = iterate(trained, "train", trained.project)
    with pytest.raises(InputError, match=r"03_train\.ipynb, and is not promoted"):
        promote(run, "staging")


def test_stage_whose_inputs_are_gone_is_not_iterated(trained: Run) -> None:
    broken, _ = iterate(trained, "train", trained.project)
    (broken.folder / "train.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="iterate engineer"):
        iterate(broken, "train", trained.project)
    with pytest.raises(InputError, match="iterate evaluate"):
        iterate(trained, "register", trained.project)


@pytest.mark.parametrize("name", ["04_train", "trian", "", "10_train", "_"])
def test_what_is_no_stage_is_refused(trained: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.project)
    code, said = call("iterate", name, "--run", trained.id)
    assert code == 2 and "03_train" in said


def test_damaged_notebook_of_a_run_is_a_sentence(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.project)
    run, notebook = iterate(trained, "train", trained.project)
    whole = notebook.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"[]", b"\xff", b'{"cells": [1]}'):
        notebook.write_bytes(content)
        code, said = call("run", "--resume", run.id, "--until", "train")
        assert code == 2 and str(notebook) in said and "iterate 03_train" in said, said


def test_lost_notebook_of_a_run_is_not_replaced_in_silence(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.project)
    run, notebook = iterate(trained, "train", trained.project)
    notebook.unlink()
    for words in (("run", "--resume", run.id, "--until", "train"), ("stage", "train", "--run", run.id)):
        code, said = call(*words)
        assert code == 2 and str(notebook) in said and f"iterate 03_train --run {run.id}" in said, said
    again, _ = iterate(run, "train", trained.project)
    assert "Parameters of this run" in (again.folder / "notebooks/03_train.ipynb").read_text(encoding="utf-8")


def test_own_notebook_of_an_earlier_stage_is_taken_along(trained: Run) -> None:
    run, notebook = iterate(trained, "train", trained.project)
    for name in ("model.skops", "train.json"):
        shutil.copyfile(trained.folder / name, run.folder / name)
    with run.change() as record:
        record.stages["train"] = trained.record.stages["train"]
        record.artifacts = dict(trained.record.artifacts)
    later, _ = iterate(run, "evaluate", trained.project)
    assert (later.folder / "notebooks/03_train.ipynb").read_bytes() == notebook.read_bytes()
    assert later.record.own_notebooks == ("train", "evaluate")
    notebook.unlink()
    with pytest.raises(InputError, match="is gone"):
        iterate(run, "evaluate", trained.project)


def test_stage_that_no_line_comes_to_is_not_iterated(trained: Run) -> None:
    with pytest.raises(InputError, match="brookside-mlops rollback"):
        iterate(trained, "rollback", trained.project)
    promoted = carry(trained, "staging", ("validate", "engineer", "train"))
    with pytest.raises(InputError, match=f"iterate train --run {trained.id}"):
        iterate(promoted, "train", trained.project)


@pytest.mark.parametrize("verb", ["iterate", "stage"])
def test_run_that_is_not_what_was_named_is_refused(
    verb: str, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.project)
    code, said = call(verb, "train", "-u", "nope")
    assert code == 2 and "no [usecase.nope]" in said and "viability" in said
    code, said = call(verb, "train", "-u", "cost")
    assert code == 2 and "run --environment dev --usecase cost" in said
    code, said = call(verb, "train", "--run", trained.id, "-e", "prod")
    assert code == 2 and "is of dev" in said
    code, said = call(verb, "train", "--run", trained.id, "-u", "cost")
    assert code == 2 and "is of viability" in said


def test_report_shows_every_stage_and_loads_nothing(trained: Run) -> None:
    page = report_html(trained)
    for title in ("01 Validate", "02 Engineer", "03 Train"):
        assert title in page
    assert "default_exp" not in page and "data:image/png;base64," in page
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']https?:", page)
    pictures = BeautifulSoup(page, "html.parser").select("img")
    alts = [str(one.get("alt", "")) for one in pictures]
    assert alts and all(len(one.split()) > 5 and "No description" not in one for one in alts), alts
    assert "prefers-color-scheme: dark" in page
    soup = BeautifulSoup(page, "html.parser")
    ids = [str(one["id"]) for one in soup.find_all(id=True)]
    assert len(ids) == len(set(ids)) and {"01_validate-The-verdict", "03_train-The-verdict"} <= set(ids)
    inward = [str(one["href"]) for one in soup.select("a[href]") if ":" not in str(one["href"])]
    assert inward and {one[1:] for one in inward} <= set(ids), set(inward) - {f"#{one}" for one in ids}
    assert "Splitting on Spark" in page and "spark_splits.ipynb" not in page
    assert [one.get_text() for one in soup.select("td > a")] == ["validate", "engineer", "train"]
    assert not re.search(r"\bimport [^;\n]* from [\"']https?:", page)


def test_report_of_a_run_that_has_not_begun_is_refused(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.project)
    fresh = Run.create(trained.project, "dev", "viability", SMALL)
    code, said = call("runs", "report", fresh.id)
    assert code == 2 and f"run --resume {fresh.id}" in said


class Begun(Exception):
    """A stage has begun, which is all that is asked."""


def test_iterated_run_goes_on_where_its_notebook_is(trained: Run) -> None:
    run, _ = iterate(trained, "evaluate", trained.project)
    seen: list[tuple[str, str]] = []

    def listen(event: Event) -> None:
        seen.append((event.kind, event.stage))
        if event.kind == "begin":
            raise Begun

    with pytest.raises(Begun):
        advance(run, listen)
    assert seen == [("skip", "validate"), ("skip", "engineer"), ("skip", "train"), ("begin", "evaluate")]
