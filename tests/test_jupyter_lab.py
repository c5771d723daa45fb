"""A stage in a real JupyterLab, in headless Chromium: open it, run all cells, see the picture, in light and in dark."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.browsers import chromium, show

pytestmark = pytest.mark.browser
STAGES = Path(__file__).resolve().parent.parent / "nbs" / "stages"
PATIENCE = 240

# The application of JupyterLab is there for scripts with `expose_app_in_browser`.
RUN_ALL = """
const done = arguments[arguments.length - 1];
window.jupyterapp.commands.execute("notebook:run-all-cells").then(() => done("over"), (error) => done(String(error)));
"""
THEME = """
const done = arguments[arguments.length - 1];
window.jupyterapp.commands.execute("apputils:change-theme", { theme: arguments[0] }).then(() => done(""), (e) => done(String(e)));
"""
# What the cells show now. JupyterLab draws only the cells near the window, so the notebook's own model is asked for the errors.
STATE = """
const panel = window.jupyterapp.shell.currentWidget;
const errors = [], pictures = [], counts = [];
for (const cell of panel.content.model.cells) {
  if (cell.type !== "code") continue;
  counts.push(cell.executionCount);
  for (let at = 0; at < cell.outputs.length; at += 1) {
    const output = cell.outputs.get(at).toJSON();
    if (output.output_type === "error") errors.push(`${output.ename}: ${output.evalue}`);
    if (output.data?.["image/png"]) pictures.push(output.data["text/plain"]);
  }
}
return { errors, pictures, counts };
"""
# The text of each table of ours with its contrast to what is behind it, by the formulas of WCAG 2.1.
CONTRAST = """
const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const rgb = (colour) => { const found = colour.match(/[\\d.]+/g).map(Number); return found.length < 4 ? [...found, 1] : found; };
const mixed = (top, under, share) => [0, 1, 2].map((at) => top[at] * share + under[at] * (1 - share));
return [...document.querySelectorAll(".jp-RenderedHTMLCommon th, .jp-RenderedHTMLCommon td")].map((one) => {
  let under = [255, 255, 255], opacity = 1;
  for (let node = one; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour[3] === 1) { under = colour; break; }
  }
  for (let node = one; node && node.tagName !== "BODY"; node = node.parentElement) opacity *= getComputedStyle(node).opacity;
  const colour = rgb(getComputedStyle(one).color);
  const [a, b] = [light(mixed(colour, under, colour[3] * opacity)), light(under)].sort((x, y) => y - x);
  return [one.innerText, (a + 0.05) / (b + 0.05)];
});
"""


def free_port() -> int:
    """Return a port that nobody listens to."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Start JupyterLab on a copy of the stages, with settings of its own, and yield its address with the token."""
    shutil.copytree(STAGES, tmp_path / "work" / "stages")
    port, token = free_port(), secrets.token_hex(16)
    own = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings")}
    own |= {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"), "TMPDIR": str(tmp_path)}
    words = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={tmp_path / 'work'}",
        "--ServerApp.open_browser=False",
        "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True",
        "--LabApp.news_url=",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    environment = os.environ | own | {"JUPYTER_TOKEN": token}  # not an argument, which any process could read
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *words], env=environment, stdout=log, stderr=log
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            try:
                if httpx.get(f"{address}/api/status", headers={"Authorization": f"token {token}"}).is_success:
                    break
            except httpx.TransportError:
                pass
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
        else:
            pytest.fail((tmp_path / "lab.log").read_text())
        yield f"{address}/lab/tree/stages/01_validate.ipynb?reset&token={token}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[WebDriver]:
    one = chromium(tmp_path / "browser")
    one.set_script_timeout(PATIENCE)
    yield one
    one.quit()


def until(driver: WebDriver, script: str) -> Any:
    """Wait until a script returns something."""

    def look(one: WebDriver) -> Any:
        try:
            return one.execute_script(script)
        except WebDriverException:
            return None

    return WebDriverWait(driver, PATIENCE, poll_frequency=0.2).until(look, f"waited for: {script}")


def test_stage_runs_in_jupyterlab_and_shows_its_picture(lab: str, driver: WebDriver, tmp_path: Path) -> None:
    show(driver, 1280, "light", height=3_000)
    driver.get(lab)
    until(
        driver,
        "return window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
    )
    assert driver.execute_async_script(RUN_ALL) == "over"
    state = driver.execute_script(STATE)
    assert state["errors"] == [] and None not in state["counts"]
    assert any("missing values" in one for one in state["pictures"]) and len(state["pictures"]) == 2
    widths = "return [...document.querySelectorAll('.jp-OutputArea img')].map((one) => one.naturalWidth)"
    assert min(until(driver, f"{widths}.filter((one) => one > 0)")) >= 600
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        driver.execute_async_script(THEME, theme)
        dark = str(theme.endswith("Dark")).lower()
        until(
            driver, f"return document.body.dataset.jpThemeLight === '{'false' if dark == 'true' else 'true'}'"
        )
        found = until(driver, CONTRAST)
        poor = [one for one in found if one[0] and one[1] < 4.5]
        assert len(found) > 10 and not poor, json.dumps(poor)
        if folder := os.environ.get("BROOKSIDE_PICTURES"):
            driver.save_screenshot(str(Path(folder) / f"{theme}.png"))
