"""Make the pictures of the README anew, from a real run and a real rollout: `python tools/pictures.py`. Takes some minutes.

Needs chromium and chromedriver. Writes nbs/images/run.svg, the first run in a terminal, and nbs/images/page.png, the page of the
endpoint while a second version takes over.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from brookside_mlops.endpoints.local import LocalEndpoint, stop_all  # noqa: E402
from brookside_mlops.endpoints.tickets import Tickets  # noqa: E402
from brookside_mlops.settings import settings_file  # noqa: E402
from tests.browsers import chromium, show  # noqa: E402

IMAGES = ROOT / "nbs" / "images"
RUN = ["run", "--environment", "dev"]
COLUMNS = 110
BAKING = (
    "return /bakes at 50 %[^]*?\\b\\d s\\s*left of/.test(document.body.innerText)"  # less than 10 s are left
)
DRAWN = "return (document.querySelector('#difference-chart .area')?.getAttribute('d') ?? '').length > 400"


def begin(project: Path, *words: str) -> subprocess.Popen[str]:
    """Start a command of this checkout in a project."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "FORCE_COLOR": "1",
        "COLUMNS": str(COLUMNS),
        "LOGNAME": "ada",
    }
    command = [sys.executable, "-m", "brookside_mlops.cli", *words]
    return subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True)


def terminal_svg(command: str, said: str, project: Path) -> str:
    """Return what a command said as a picture of a terminal that asks no other host for a font."""
    said = said.replace(str(project), "~/project")
    said = re.sub(r"(Bearer )[\w-]{12,}", r"\1KEY", said)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text(f"$ {command}", style="bold"))
    shown = Text.from_ansi(said.rstrip())
    for line in shown.split("\n"):  # a spinner that is drawn again and again leaves a line each time
        if not re.match(r"\s*[\u2800-\u28ff]", line.plain):
            console.print(line)
    svg = console.export_svg(title=command)
    svg = re.sub(r"@font-face\s*\{.*?\}", "", svg, flags=re.S)
    svg = re.sub(r"font-family:\s*Fira Code", "font-family: ui-monospace, Menlo, Consolas", svg)
    return re.sub(r"[ \t]+\n", "\n", svg)


def page_picture(project: Path, folder: Path) -> bytes:
    """Return the page of the endpoint as PNG, while a second version bakes at 50 %."""
    endpoint = LocalEndpoint(project / ".brookside", "viability-dev")
    driver = chromium(folder)
    rollout = begin(project, *RUN, "--set", "train.depth=4")
    try:
        show(driver, 1100, "light", height=1150)
        ticket = Tickets(endpoint.state).make()
        driver.get(f"{endpoint.show_uri().removesuffix('score')}?ticket={ticket}")
        wait = WebDriverWait(driver, 600, poll_frequency=0.5)
        wait.until(lambda one: one.execute_script(BAKING) and one.execute_script(DRAWN))
        driver.execute_script("document.documentElement.style.scrollbarWidth = 'none'")
        return driver.get_screenshot_as_png()
    finally:
        driver.quit()
        rollout.communicate()


def main() -> None:
    """Make both pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        project = Path(place) / "project"
        project.mkdir()
        settings = settings_file(ROOT).read_text(encoding="utf-8")
        slower = re.sub(r"^bake_scale = .*$", "bake_scale = 0.05", settings, flags=re.M)
        slower = re.sub(r"^replay_rate = .*$", "replay_rate = 100", slower, flags=re.M)
        (project / "settings.ini").write_text(slower, encoding="utf-8")
        try:
            first = begin(project, *RUN)
            said = first.communicate()[0]
            if first.returncode:
                sys.exit(said)
            svg = terminal_svg(" ".join(["brookside-mlops", *RUN]), said, project)
            (IMAGES / "run.svg").write_text(svg, encoding="utf-8")
            (IMAGES / "page.png").write_bytes(page_picture(project, Path(place) / "browser"))
        finally:
            stop_all(project / ".brookside")


if __name__ == "__main__":
    main()
