"""The guide says what is so: its links lead somewhere, its commands are commands, its files are files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import nbformat
import pytest
import typer
import yaml
from typer.exceptions import TyperException

from brookside_mlops.cli import app
from brookside_mlops.monitoring_config import monitoring_config
from brookside_mlops.settings import ENVIRONMENTS
from tests.colours import contrast

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
GUIDE = sorted((ROOT / "nbs" / "guide").glob("*.ipynb"))
EXAMPLES = sorted((ROOT / "examples").rglob("README.md"))
PROSE = [*NOTEBOOKS, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *EXAMPLES]
ROOT_COMMAND: Any = typer.main.get_command(app)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose_of(path: Path) -> str:
    """Return the Markdown of a page."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells  # type: ignore[no-untyped-call]
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


def fences(text: str) -> list[tuple[str, str]]:
    """Return the language and the content of each code fence."""
    return re.findall(r"^```(\S*)[^\n]*\n(.*?)^```", text, re.M | re.S)


def unfenced(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """Return the anchors that the headings of a page get from Pandoc."""
    heads = re.findall(r"^#+ (.+)$", unfenced(prose_of(path)), re.M)
    words = (re.sub(r"[^\w\s.-]", "", head.replace("`", "").lower()) for head in heads)
    return {re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", one.strip())) for one in words}


def commands_in(text: str) -> list[str]:
    """Return the command lines of this tool in fences of shell and in code spans; what stands for a word is left out."""
    lines = [line for kind, body in fences(text) if kind in ("sh", "bash") for line in body.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", unfenced(text))
    parts = (part.split(" #")[0].strip() for line in lines for part in re.split(r"&&|\|", line))
    return [part for part in parts if part.startswith("brookside-mlops ")]


def parse(line: str) -> None:
    """Parse a command line as the command line itself would. Raises TyperException where it would refuse it.

    A command that is named without anything, as prose does, need not have its arguments.
    """
    words = shlex.split(line)[1:]
    command = ROOT_COMMAND
    while words and getattr(command, "commands", None) and not words[0].startswith("-"):
        if words[0] not in command.commands:
            raise TyperException(f"no command {words[0]!r}")
        command, words = command.commands[words[0]], words[1:]
    if words and words != ["--help"]:
        command.make_context(line, list(words))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_has_front_matter_and_is_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    first = notebook.cells[0]
    assert first.cell_type == "raw" and first.source.startswith("---"), f"{path}: begins with front matter"
    head = yaml.safe_load(first.source.strip().strip("-"))
    assert head["title"] and head["description"].endswith((".", "?"))
    for cell in notebook.cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_links_lead_to_a_page_and_an_anchor_of_it(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", unfenced(prose_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.is_file(), f"{name_of(path)} links to {target}"
        assert not anchor or anchor in anchors(page), f"{name_of(path)} links to {target}"


@pytest.mark.parametrize("path", [one for one in PROSE if commands_in(prose_of(one))], ids=name_of)
def test_commands_are_taken_by_the_command_line(path: Path) -> None:
    for line in commands_in(prose_of(path)):
        try:
            parse(line)
        except TyperException as error:
            pytest.fail(f"{name_of(path)}: {line}: {error}")


def test_commands_that_there_are_not_are_found() -> None:
    for wrong in (
        "brookside-mlops trian",
        "brookside-mlops run --colour red",
        "brookside-mlops costs what-of",
    ):
        with pytest.raises(TyperException):
            parse(wrong)
    assert commands_in(
        "`brookside-mlops run` and ```\n```sh\ncd x && brookside-mlops runs list # all\n```"
    ) == [
        "brookside-mlops runs list",
        "brookside-mlops run",
    ]


@pytest.mark.parametrize("path", PROSE, ids=name_of)
def test_fences_of_yaml_and_json_can_be_read(path: Path) -> None:
    for kind, body in fences(prose_of(path)):
        if kind in ("yaml", "yml"):
            yaml.safe_load(body)
        elif kind == "json":
            json.loads(body if body.lstrip().startswith(("{", "[")) else f"{{{body}}}")


def test_every_command_is_in_the_quick_reference_of_readme() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The verbs")[2]
    missing = [name for name in ROOT_COMMAND.commands if not re.search(rf"`[^`]*\b{name}\b", table)]
    assert not missing


def test_readme_tells_how_often_is_looked_and_what_has_a_model_trained_anew() -> None:
    said = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    profiles = {name: monitoring_config(ROOT).profile(name) for name in ENVIRONMENTS}
    minutes = {name: re.findall(r"\d+", one.schedules["metrics"])[0] for name, one in profiles.items()}
    looks = f"(prod every {minutes['prod']} minutes, staging every {minutes['staging']}, dev every {minutes['dev']},"
    assert looks in said
    (rule,) = (one for one in profiles["prod"].alert_rules if one.name == "drift")
    assert "retrain" in rule.actions and f"more than {100 * rule.threshold:g} % of the features" in said
    assert [name for name, one in profiles.items() if one.auto_retraining.enabled] == ["staging", "prod"]
    (gone,) = (one for one in profiles["prod"].alert_rules if one.name == "down")
    assert gone.for_minutes == float(minutes["prod"]) and "at the second look that finds it so" in said


def test_diagram_of_promotion_has_the_smoke_test_before_the_approval() -> None:
    assert "ready3[smoke test at 0 %] --> approve" in (ROOT / "nbs/guide/04_promotion.ipynb").read_text()


def site() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    return content


def test_site_has_every_page_of_the_guide_and_every_stage_in_order() -> None:
    contents = site()["website"]["sidebar"]["contents"]
    sections = {one["section"]: one["contents"] for one in contents if isinstance(one, dict)}
    assert sections["Guide"] == [name_of(one) for one in GUIDE]
    assert sections["Stages"] == [name_of(one) for one in sorted((ROOT / "nbs" / "stages").glob("*.ipynb"))]
    for one in contents:
        assert isinstance(one, dict) or (ROOT / one).is_file()
    for pattern in site()["project"]["render"]:
        assert list(ROOT.glob(pattern)), f"_quarto.yml renders {pattern}, which is nothing"
    for link in site()["website"]["navbar"]["left"]:
        assert (ROOT / link["href"]).is_file()


def test_site_asks_no_other_host() -> None:
    text = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    assert "http:" not in text and "https:" not in text
    for path in GUIDE:
        assert not re.search(r"!\[[^\]]*\]\(https?:", prose_of(path)), path


def test_site_asks_no_host_for_fonts_or_formulas() -> None:
    html = site()["format"]["html"]
    for names in html["theme"].values():
        own = [ROOT / name for name in names if name.endswith(".scss")]
        assert any("$web-font-path: false;" in one.read_text(encoding="utf-8") for one in own), names
    assert html["html-math-method"] == "mathml"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_of_the_site_can_be_read_by_contrast(theme: str) -> None:
    text = (ROOT / "nbs" / f"theme-{theme}.scss").read_text(encoding="utf-8")
    colours = dict(re.findall(r"^\$([\w-]+): (#\w{6});$", text, re.M))
    grounds = {"code": "code-bg", "navbar": "navbar-bg", "sidebar": "sidebar-bg"}
    for name, colour in colours.items():
        if not name.endswith("-bg"):
            assert contrast(colour, colours[grounds.get(name.split("-")[0], "body-bg")]) >= 4.5, name
    assert contrast(colours["link-color"], colours["code-bg"]) >= 4.5, "a name of the API that is a link"
    assert len(colours) == 15


def test_pictures_have_words() -> None:
    for path in PROSE:
        for words in re.findall(r"!\[([^\]]*)\]\(", prose_of(path)):
            assert len(words) > 10, f"{name_of(path)}: a picture without words"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name_of)
def test_notebook_passes_the_filter_of_the_site(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbdev.cli import nbdev_filter

    monkeypatch.chdir(path.parent)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found cells")
        shown = json.loads(nbdev_filter(path.read_text(encoding="utf-8"), printit=False))
    sources = ["".join(cell["source"]) for cell in shown["cells"]]
    assert sources[0].startswith("---\ntitle:")
    assert not any(re.search(r"^# ?\| ?(export|hide)", one, re.M) for one in sources)


@pytest.mark.skipif(
    shutil.which("quarto") is None, reason="Quarto is not on this machine: pip install quarto-cli"
)
def test_site_is_rendered_and_walked(tmp_path: Path) -> None:
    subprocess.run(["quarto", "render", "--output-dir", tmp_path], cwd=ROOT, check=True)
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) >= len(GUIDE)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r'(?:src|href)="([^"#?:]+)"', text):
            assert (page.parent / target).exists() or (tmp_path / target.lstrip("/")).exists(), (page, target)
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', text), page
