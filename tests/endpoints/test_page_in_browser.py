"""The page in a real browser: headless Chromium, a real server, real traffic, a real rollout."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from brookside_mlops.alert_effects import Means
from brookside_mlops.alert_rules import AlertRule
from brookside_mlops.alert_store import AlertStore
from brookside_mlops.alerts import Silence
from brookside_mlops.audit import audit_log
from brookside_mlops.bundle import Bundle
from brookside_mlops.endpoints.local import LocalEndpoint
from brookside_mlops.endpoints.tickets import Tickets
from brookside_mlops.monitor import Watched, look
from brookside_mlops.monitoring import read_rows
from brookside_mlops.results import Check
from brookside_mlops.rollout import Context
from brookside_mlops.rollout_driver import roll_out
from brookside_mlops.rollout_plan import Plan, Target
from brookside_mlops.rollout_store import RolloutStore
from brookside_mlops.scratch import scratch_bundle
from tests.browsers import chromium, show

pytestmark = pytest.mark.browser
NAME = "viability-dev"
HOSTILE = "<img src=x onerror=alert(1)><b>bold</b>"
PATIENCE = 60


class Browser:
    """Chromium with what is asked of it in these tests."""

    def __init__(self, folder: Path) -> None:
        self.driver = chromium(folder)
        self.show(1280, "light")

    def show(self, width: int, scheme: str) -> None:
        """Set the width of the window and the colour scheme."""
        show(self.driver, width, scheme)

    def run(self, script: str, *values: Any) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *values)

    def text(self, selector: str) -> str:
        """Return the text of an element that is seen, '' where there is none."""
        script = "const one = document.querySelector(arguments[0]);"
        script += "return one?.getClientRects().length ? one.innerText : ''"
        return str(self.run(script, selector))

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to become true."""
        wait = WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1)
        return wait.until(lambda _: condition(), f"waited for {what}; the page says:\n{self.text('body')}")

    def hosts(self) -> set[str]:
        """Return the hosts that were asked for anything since the last call."""
        found = set()
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
                parameters = message["params"]
                url = parameters.get("request", parameters).get("url", "")
                found.add(urlsplit(url).netloc if url.startswith(("http", "ws")) else urlsplit(url).scheme)
        return found

    def complaints(self) -> list[str]:
        """Return what the browser had to complain about since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    one = Browser(tmp_path / "browser")
    yield one
    one.driver.quit()


class Served:
    """An endpoint with version 1 and callers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.endpoint = LocalEndpoint(folder / "state", NAME)
        self.endpoint.start()
        self.log = audit_log(folder / "state")
        self.roll_out(1, bake=0.1)
        self.over = threading.Event()
        self.caller = threading.Thread(target=self.call)
        self.caller.start()

    @property
    def link(self) -> str:
        """Return a new link to the page."""
        ticket = Tickets(self.endpoint.state).make()
        return f"{self.endpoint.show_uri().removesuffix('score')}?ticket={ticket}"

    @property
    def host(self) -> str:
        """Return host and port."""
        return urlsplit(self.endpoint.show_uri()).netloc

    def call(self) -> None:
        """Send requests until it is over."""
        while not self.over.wait(0.002):
            self.endpoint.score(b'[{"weeks": 1}]')

    def roll_out(self, version: int, bake: float) -> None:
        """Roll a version out, as the deploy stage does."""

        def audit(event: str, details: Mapping[str, Any]) -> None:
            self.log.append(event, NAME, details)  # type: ignore[arg-type]

        bundle = scratch_bundle(self.folder / f"bundle{version}", version)
        digest = Bundle.open(bundle).info.sha256
        target = Target(bundle=bundle, model_name="m", version=version, sha256=digest)
        plan = Plan.model_validate(
            {"strategy": "canary", "steps": (10, 50, 100), "bake": bake, "look": 0.2, "rules": {"margin": 1}}
        )
        passed = [Check(name="answers", measured="right", verdict="pass")]
        store = RolloutStore(self.folder / "state")
        roll_out(Context(self.endpoint, store, lambda one, name: passed, audit), plan, target)

    def stop(self) -> None:
        """End callers and server."""
        self.over.set()
        self.caller.join()
        self.endpoint.stop()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path)
    yield one
    one.stop()


# The contrast of every text that is seen with what is behind it, by the formulas of WCAG 2.1; large text needs 3, other text 4.5.
CONTRAST = """
const rgb = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const ratio = (one, two) => { const [a, b] = [light(one), light(two)].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05); };
const behind = (node) => {
  for (; node; node = node.parentElement) {
    const colour = rgb(getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const poor = [];
let seen = 0;
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const node = walk.currentNode.parentElement;
  const style = getComputedStyle(node);
  if (!walk.currentNode.data.trim() || !node.getClientRects().length || node.closest(".unseen, noscript")) continue;
  const size = parseFloat(style.fontSize);
  const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
  const found = ratio(rgb(node instanceof SVGElement ? style.fill : style.color), behind(node));
  seen += 1;
  if (found < needed) poor.push(`${walk.currentNode.data}: ${found.toFixed(2)}`);
}
for (const [selector, property] of [[".curve", "stroke"], [".limit", "stroke"], [".spark .line", "stroke"],
    ["#split div", "backgroundColor"], [".mark", "borderTopColor"], ["progress", "color"], [".dot", "backgroundColor"]]) {
  for (const node of document.querySelectorAll(selector)) {
    const style = getComputedStyle(node);
    const found = ratio(rgb(style[property]), behind(node.matches("progress") ? node : node.parentElement));
    if (found < 3) poor.push(`${selector}: ${found.toFixed(2)}`);
  }
}
return [seen, poor];
"""


# The elements whose content is wider than they are.
CUT_OFF = """
return [...document.querySelectorAll("main *")].filter((one) => one.scrollWidth > one.clientWidth + 1)
  .filter((one) => getComputedStyle(one).display !== "inline" && !one.closest("svg, .unseen")).map((one) => one.outerHTML);
"""


# Which steps were in hand, in order; a page that was loaded again would have forgotten them.
REMEMBER = """
window.steps = [];
new MutationObserver(() => {
  const now = document.querySelector("#steps [aria-current]")?.children[1].textContent;
  if (now && now !== window.steps.at(-1)) window.steps.push(now);
}).observe(document.querySelector("main"), { subtree: true, childList: true, attributes: true });
"""


def check_looks(browser: Browser) -> None:
    """Check that the page fits a phone and that all of it can be read, in light and in dark."""
    for width, scheme in ((1280, "light"), (360, "light"), (360, "dark"), (1280, "dark")):
        browser.show(width, scheme)
        assert browser.run("return matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        browser.wait(lambda width=width: browser.run("return innerWidth") == width, f"{width} pixels")
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CUT_OFF) == []
        texts, poor = browser.run(CONTRAST)
        assert texts > 20 and poor == []
    browser.show(1280, "light")


def test_page_follows_a_rollout_without_reload(browser: Browser, served: Served) -> None:
    served.log.append("alert", NAME, {"text": HOSTILE})
    browser.driver.get(served.link)
    browser.wait(lambda: browser.text(".share") == "100 %", "the split before")
    assert browser.driver.current_url == f"http://{served.host}/" and browser.driver.title.startswith(NAME)
    browser.run(REMEMBER)
    browser.wait(lambda: browser.text(".numbers dd") not in ("", "0.0"), "the rate")
    assert HOSTILE in browser.text("#events")
    assert browser.run("return document.querySelectorAll('img, b').length") == 0

    rollout = threading.Thread(target=partial(served.roll_out, 2, bake=10.0))
    rollout.start()
    try:
        browser.wait(lambda: browser.text("#headline") == "Green bakes at 10 %", "the first bake")
        browser.wait(lambda: browser.text("#deployments > li:last-child .share") == "10 %", "the split")
        split = browser.run("return document.querySelector('#split').ariaLabel")
        assert split == "Split of the traffic: blue 90 %, green 10 %"
        left = browser.wait(lambda: browser.text("#left"), "the countdown")
        browser.wait(lambda: browser.text("#left") not in ("", left), "the countdown to go on")
        length = "return document.querySelector('#difference-chart .area')?.getAttribute('d').length ?? 0"
        drawn = browser.wait(lambda: browser.run(length), "the confidence sequence")
        browser.wait(lambda: browser.run(length) > drawn, "more of the confidence sequence")
        limits = "return document.querySelectorAll('#evidence-chart .limit, #difference-chart .limit').length"
        assert browser.run(limits) == 2
        assert "percentage points, under the margin of +100.00" in browser.text("#difference")
        assert "200 stops the rollout" in browser.text("#evidence")
        assert "is not shown to be worse" in browser.text("#reason")
        browser.wait(lambda: "mean prediction" in browser.text("#warnings"), "the warning about predictions")
        check_looks(browser)
    finally:
        rollout.join()
    browser.wait(lambda: browser.text("#headline") == "Version 2 serves as green", "the end of the rollout")
    browser.wait(
        lambda: browser.text(".name") == "green" and browser.text(".share") == "100 %", "the split after"
    )
    assert browser.text("#events .event") == "promote" and not browser.text("#countdown")
    check_looks(browser)
    steps = browser.run("return window.steps")
    assert [step for step in steps if step.endswith("%")] == ["10 %", "50 %", "100 %"]
    assert browser.complaints() == [] and browser.hosts() - {"data", "chrome", "about"} == {served.host}


def test_page_shows_open_alerts_and_the_last_hour(browser: Browser, served: Served) -> None:
    browser.driver.get(served.link)
    browser.wait(
        lambda: browser.text("#no-alerts") == "Nothing has been seen of this endpoint yet.", "the page"
    )
    assert "monitor --endpoint viability-dev --watch" in browser.text("#monitor-hint")

    def rule(name: str, **changes: Any) -> AlertRule:
        known = {"metric": "requests", "comparison": "above", "threshold": 0, "severity": "critical"}
        return AlertRule.model_validate({"name": name, **known, **changes})

    rules = [rule("busy"), rule("slow", severity="warning", metric="p50_ms"), rule("later", for_minutes=30)]
    state = served.folder / "state"
    AlertStore(state).silence(NAME, Silence(rule="slow", start=0, end=1e10, by=HOSTILE))
    watched = Watched(state, NAME, rules, Means(state, {}))
    assert served.endpoint.score(b"no JSON").status == 400
    log = served.endpoint.state.requests
    browser.wait(lambda: 400 in read_rows(log, 0, 1e11).status, "the refused request in the log")
    look(watched, time.time() + 62)  # the minute that has just begun is over then
    browser.wait(lambda: browser.text("#open-alerts .rule") == "busy", "the alert")
    lines = browser.run(
        "return [...document.querySelectorAll('#open-alerts li')].map((one) => one.innerText)"
    )
    assert [line.split()[0] for line in lines] == ["critical", "warning", "pending"]
    assert "since 20" in lines[0] and "alert: above 0" in lines[0] and f"silenced by {HOSTILE}" in lines[1]
    assert browser.run("return document.querySelectorAll('img, b').length") == 0
    numbers = browser.run("return [...document.querySelectorAll('#hour dd')].map((one) => one.innerText)")
    assert int(numbers[0].replace(",", "")) > 0 and numbers[2] == "0.0 %" and numbers[4] == "100.0 %"
    assert "1 refused (400 and the like" in browser.text("#not-answered")
    chart = "return document.querySelector('#hour-chart').getClientRects().length && "
    assert browser.run(f"{chart} document.querySelector('#hour-chart .line').getAttribute('d')").startswith(
        "M"
    )
    assert "No alert" not in browser.text("#monitor") and not browser.text("#monitor-hint")
    top = "return document.querySelector('main').children[2].getBoundingClientRect().top"
    first = "return document.querySelector('#traffic').getBoundingClientRect().top"
    assert browser.run(top) < browser.run(first)  # what is open comes first
    check_looks(browser)

    look(replace(watched, rules=[]), time.time() + 122)
    browser.wait(lambda: browser.text("#no-alerts") == "No alert is open.", "the end of the alerts")
    assert not browser.text("#open-alerts") and browser.complaints() == []


def test_page_says_since_when_the_server_is_gone_and_comes_back(browser: Browser, served: Served) -> None:
    browser.driver.get(served.link)
    browser.wait(lambda: browser.text("#link").startswith("Live"), "the first event")
    served.over.set()
    served.caller.join()
    pid = served.endpoint.state.server()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        browser.wait(
            lambda: browser.text("#link").startswith("Disconnected since"), "the silence to be noticed"
        )
        assert "No connection to the server since" in browser.text("#alerts")
        _, poor = browser.run(CONTRAST)
        assert poor == []
    finally:
        os.kill(pid, signal.SIGCONT)
    browser.wait(
        lambda: browser.text("#link").startswith("Live") and not browser.text("#alerts"), "the line again"
    )

    served.endpoint.stop()
    browser.wait(lambda: browser.text("#link").startswith("Disconnected since"), "the end of the server")
    served.endpoint.start()
    over = f"The session is over. Run: brookside-mlops endpoint open {NAME}"
    browser.wait(lambda: over in browser.text("#alerts"), "what to do about the end of the session")
    watching = browser.driver.current_window_handle
    browser.driver.switch_to.new_window("tab")
    browser.driver.get(served.link)
    browser.driver.switch_to.window(watching)
    browser.wait(lambda: browser.text("#link").startswith("Live"), "the session that another tab began")


def test_link_works_from_a_page_of_another_site(browser: Browser, served: Served) -> None:
    link = served.link

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f'<a href="{link}">open</a>'.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser.driver.get(f"http://localhost:{server.server_port}/")
        browser.run("document.querySelector('a').click()")
        browser.wait(lambda: browser.text("h1") == NAME and browser.text(".share") == "100 %", "the page")
        server.shutdown()
    assert browser.driver.current_url == f"http://{served.host}/"


def test_stranger_is_told_how_to_get_in(browser: Browser, served: Served) -> None:
    browser.driver.get(f"http://{served.host}/?ticket=guessed")
    assert f"brookside-mlops endpoint open {NAME}" in browser.text("main")
    for width, scheme in ((360, "dark"), (1280, "light")):
        browser.show(width, scheme)
        assert browser.run("return document.documentElement.scrollWidth") <= width
        texts, poor = browser.run(CONTRAST)
        assert texts >= 5 and poor == []
