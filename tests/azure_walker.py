"""A walk through a pipeline of Azure DevOps on this machine: templates expanded, every script run by bash, as an agent would.

An agent gives each job a fresh checkout, pipeline artifacts, output variables and the page of the run: all files here. Signing in is
not done, since without a service connection nothing of Azure is asked.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from brookside_mlops.endpoints.local import stop_all
from tests.github_walker import ROOT, JobEnd, Ran, checkout, machine, shell
from tests.workflow_expressions import Expression, text_of

HOLE = re.compile(r"\$\{\{((?:(?!\}\}).)*)\}\}", re.S)
COMPARE: dict[str, Callable[..., Any]] = {
    "eq": lambda one, other: text_of(one).lower() == text_of(other).lower(),
    "ne": lambda one, other: text_of(one).lower() != text_of(other).lower(),
    "and": lambda *all_of: all(all_of),
    "or": lambda *any_of: any(any_of),
    "not": lambda one: not one,
    "in": lambda one, *all_of: text_of(one).lower() in [text_of(other).lower() for other in all_of],
}


def expand(node: Any, parameters: Mapping[str, Any]) -> Any:  # noqa: PLR0911
    """Return a part of a pipeline with its templates put in and its `${{ }}` computed, as the service does before a run begins."""
    names = {"parameters": parameters}
    if isinstance(node, str):
        whole = HOLE.fullmatch(node)
        if whole:
            return Expression(whole.group(1), names, COMPARE).value()
        return HOLE.sub(lambda hole: text_of(Expression(hole.group(1), names, COMPARE).value()), node)
    if isinstance(node, list):
        found: list[Any] = []
        for one in node:
            made = expand(one, parameters)
            found += made if isinstance(made, list) else [made]
        return found
    if not isinstance(node, dict):
        return node
    if len(node) == 1 and (asked := HOLE.fullmatch(str(next(iter(node))))):
        words = asked.group(1).strip()
        assert words.startswith("if "), words
        holds = Expression(words.removeprefix("if "), names, COMPARE).value()
        return expand(next(iter(node.values())), parameters) if holds else []
    if "template" in node:
        return from_template(node["template"], expand(node.get("parameters", {}), parameters))
    return {("on" if key is True else key): expand(value, parameters) for key, value in node.items()}


def from_template(path: str, given: Mapping[str, Any]) -> list[Any]:
    """Return the steps, the jobs or the stages of a template. Parameters are checked as the service does."""
    assert path.startswith("/"), "paths from the top of the repository do not depend on who includes"
    content = yaml.safe_load((ROOT / path.lstrip("/")).read_text(encoding="utf-8"))
    values = {}
    for one in content.get("parameters", []):
        assert one["name"] in given or "default" in one, f"{path}: {one['name']} is missing"
        values[one["name"]] = given.get(one["name"], one.get("default"))
    assert set(given) <= set(values), f"{path}: unknown {set(given) - set(values)}"
    (kind,) = content.keys() & {"steps", "jobs", "stages"}
    found: list[Any] = expand(content[kind], values)
    return found


def pipeline(path: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Return a pipeline as the service would run it with some parameters."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    parameters = {one["name"]: one.get("default", "") for one in content.pop("parameters")} | dict(given)
    found: dict[str, Any] = {key: expand(value, parameters) for key, value in content.items()}
    return found


def as_written(node: Any) -> Any:
    """Return an expanded pipeline as its text would have it: numbers are texts where the schema says so."""
    if isinstance(node, dict):
        return {
            key: str(value) if key == "timeoutInMinutes" else as_written(value) for key, value in node.items()
        }
    return [as_written(one) for one in node] if isinstance(node, list) else node


@dataclass
class AzureWalker:
    """An agent for the stages of one run. What is in `ended` is taken as done; `tamper` may change a checkout, as misfortune would."""

    path: Path
    place: Path
    given: Mapping[str, str]
    environ: Mapping[str, str] = field(default_factory=dict)
    change: Mapping[str, str] = field(default_factory=dict)
    tamper: Callable[[str, str, Path], None] = lambda job, command, folder: None
    skip: frozenset[str] = frozenset()
    ended: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.content = pipeline(self.path, self.given)
        self.artifacts = self.place / "artifacts"
        self.artifacts.mkdir(parents=True, exist_ok=True)
        self.programs = machine(self.place / "machine")
        self.variables = {one["name"]: text_of(one["value"]) for one in self.content["variables"]}

    def walk(self) -> None:
        """Run the stages in order; they are written in the order in which they depend on one another."""
        for stage in self.content["stages"]:
            if stage["stage"] in self.ended:
                continue
            needs = stage.get("dependsOn", [])
            fine = all(self.ended[one] == "Succeeded" for one in needs)
            if not self._holds(stage.get("condition", "succeeded()"), {}, fine):
                self.ended[stage["stage"]] = "Skipped"
                continue
            self._stage(stage)

    def _holds(
        self, text: str, variables: Mapping[str, str], fine: bool, ends: Mapping[str, str] | None = None
    ) -> bool:
        status = {"succeeded": lambda: fine, "failed": lambda: not fine, "always": lambda: True}
        words = re.sub(r"variables\['([^']+)'\]", lambda one: repr(variables.get(one.group(1), "")), text)
        names = {"dependencies": {name: {"result": end} for name, end in (ends or {}).items()}}
        return bool(Expression(words, names, COMPARE | status).value())

    def _stage(self, stage: Mapping[str, Any]) -> None:
        ends: dict[str, str] = {}
        for job in stage["jobs"]:
            name = job.get("job") or job["deployment"]
            if name in self.skip:
                ends[name] = "Succeeded"
                continue
            needs = job.get("dependsOn", [])
            needs = [needs] if isinstance(needs, str) else needs
            fine = all(ends[one] == "Succeeded" for one in needs)
            if not self._holds(job.get("condition", "succeeded()"), self.variables, fine, ends):
                ends[name] = "Skipped"
                continue
            ends[name] = self._job(stage, job, name).result
        self.ended[stage["stage"]] = "Failed" if "Failed" in ends.values() else "Succeeded"

    def _job(self, stage: Mapping[str, Any], job: Mapping[str, Any], name: str) -> JobEnd:
        agent = Agent(self, name, self.place / name, self._given(stage, job))
        once = job.get("strategy", {}).get("runOnce", {})
        for step in once["deploy"]["steps"] if once else job["steps"]:
            agent.step(step)
        stop_all(agent.sources / ".brookside")  # the agent is gone, and with it what it ran
        told = {f"{name}.{key}" if once else key: value for key, value in agent.told.items()}
        self.outputs.setdefault(stage["stage"], {})[name] = told
        return JobEnd("Failed" if agent.failed else "Succeeded", told)

    def _given(self, stage: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, str]:
        """Return the variables of a job; groups are not here, and `$[ ]` is what an earlier stage told."""
        found = dict(self.variables)
        for one in (*stage.get("variables", []), *job.get("variables", [])):
            if "name" in one:
                value = text_of(one["value"])
                asked = re.fullmatch(
                    r"\$\[\s*stageDependencies\.(\w+)\.(\w+)\.outputs\['([^']+)'\]\s*\]", value
                )
                if not asked:
                    assert "$[" not in value, one
                    found[one["name"]] = value
                    continue
                found[one["name"]] = text_of(
                    self.outputs.get(asked.group(1), {}).get(asked.group(2), {}).get(asked.group(3))
                )
        return found


@dataclass
class Agent:
    """A job that goes on, in a folder of its own."""

    walker: AzureWalker
    name: str
    folder: Path
    variables: dict[str, str]
    told: dict[str, str] = field(default_factory=dict)
    failed: bool = False

    def __post_init__(self) -> None:
        self.sources, self.workspace = self.folder / "s", self.folder
        (self.folder / "a").mkdir(parents=True, exist_ok=True)
        self.variables |= {
            "Build.SourcesDirectory": str(self.sources),
            "Build.ArtifactStagingDirectory": str(self.folder / "a"),
            "Pipeline.Workspace": str(self.workspace),
            "Build.BuildNumber": "20260101.1",
            "Agent.OS": "Linux",
            "System.AccessToken": self.walker.environ.get("SYSTEM_ACCESSTOKEN", "none"),
            "System.TeamProjectId": "p",
            "System.DefinitionId": "7",
            "System.StageAttempt": "1",
            "System.JobAttempt": "1",
        }

    def step(self, step: Mapping[str, Any]) -> None:
        """Do one step, unless its condition says no."""
        if not self.walker._holds(
            step.get("condition", "succeeded()"), self.variables | self.told, not self.failed
        ):
            return
        kind = next(one for one in ("checkout", "script", "task", "publish", "download") if one in step)
        done = getattr(self, f"_{kind}")(step)
        self.failed = self.failed or (not done and text_of(step.get("continueOnError")) != "true")

    def _filled(self, text: str) -> str:
        """Return a text with its macros; one that has no value stays as it is, as on an agent."""
        known = self.variables | self.told
        return re.sub(r"\$\(([\w.]+)\)", lambda one: known.get(one.group(1), one.group(0)), str(text))

    def _checkout(self, _: Mapping[str, Any]) -> bool:
        self.sources.mkdir()
        checkout(self.sources, self.walker.change)
        return True

    def _script(self, step: Mapping[str, Any]) -> bool:
        command = self._filled(step["script"])
        assert not re.search(r"\$\([\w.]+\)", command), f"{self.name}: {command}: a variable has no value"
        environ = {
            name.upper().replace(".", "_"): value
            for name, value in (self.variables | self.told).items()
            if name != "System.AccessToken"
        }
        environ |= {key: value for key, value in self.walker.environ.items() if key != "SYSTEM_ACCESSTOKEN"}
        environ |= {key: self._filled(value) for key, value in step.get("env", {}).items()}
        environ |= {"TF_BUILD": "True", "AGENT_TEMPDIRECTORY": str(self.folder)}
        self.walker.tamper(self.name, command, self.sources)
        begun = time.monotonic()
        ended = shell(command, self.sources, self.walker.programs, environ)
        took = time.monotonic() - begun
        self.walker.ran.append(Ran(self.name, command, ended.returncode, ended.stdout, took))
        for name, value in re.findall(
            r"^##vso\[task\.setvariable variable=(\w+);isOutput=true\](.*)$", ended.stdout, re.M
        ):
            self.told[f"{step['name']}.{name}"] = value
        self.walker.tags |= set(re.findall(r"^##vso\[build\.addbuildtag\](.*)$", ended.stdout, re.M))
        for path in re.findall(r"^##vso\[task\.uploadsummary\](.*)$", ended.stdout, re.M):
            self.walker.pages.append(Path(path).read_text(encoding="utf-8"))
        return ended.returncode == 0

    def _task(self, step: Mapping[str, Any]) -> bool:
        inputs = {key: self._filled(value) for key, value in step["inputs"].items()}
        if step["task"] == "DownloadPipelineArtifact@2":
            return False  # there was no run before this one
        if step["task"] == "PublishTestResults@2":
            files = [Path(inputs["searchFolder"], one) for one in inputs["testResultsFiles"].split()]
            return all("<testsuite" in one.read_text(encoding="utf-8") for one in files)
        if step["task"] == "PublishCodeCoverageResults@1":
            measured = Path(inputs["summaryFileLocation"]).read_text(encoding="utf-8")
            return "<coverage" in measured
        assert step["task"] in ("UsePythonVersion@0", "Cache@2"), step["task"]
        return True

    def _publish(self, step: Mapping[str, Any]) -> bool:
        source, target = (
            self.sources / self._filled(step["publish"]),
            self.walker.artifacts / self._filled(step["artifact"]),
        )
        assert not target.exists(), f"{target.name} is published already"
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"))
        elif source.is_file():
            target.mkdir()
            shutil.copy2(source, target)
        return source.exists()

    def _download(self, step: Mapping[str, Any]) -> bool:
        """Download what a pattern matches in all artifacts, each into a folder of its own."""
        found = list(self.walker.artifacts.glob(f"*/{step['patterns']}"))
        for one in found:
            place = self.workspace / one.relative_to(self.walker.artifacts)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(one, place)
        return bool(found)


def settled(walker: AzureWalker) -> str:
    """Return what failed, for people."""
    failed = [one for one in walker.ran if one.status]
    return json.dumps(walker.ended) + "\n\n".join(
        f"{one.job}: {one.command}\n{one.output[-3000:]}" for one in failed
    )


__all__ = ["Agent", "AzureWalker", "as_written", "expand", "pipeline", "settled"]
