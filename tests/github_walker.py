"""A walk through a workflow of GitHub Actions on this machine: every `run:` is run, by bash, as its runner would.

What a runner gives a job is made of files: a fresh checkout for each job, artifacts, the cache, outputs, the page of the run. The
actions that move files are done here; signing in to Azure is not, since the local target needs none.
"""

from __future__ import annotations

import fnmatch
import itertools
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from brookside_mlops.endpoints.local import stop_all
from tests.workflow_expressions import condition, filled

ROOT = Path(__file__).resolve().parent.parent
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]


def load(path: Path) -> dict[str, Any]:
    """Return a workflow; `on` is a key, not a truth."""
    content: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {("on" if key is True else str(key)): value for key, value in content.items()}


def checkout(folder: Path, change: Mapping[str, str]) -> None:
    """Copy what git would check out; in pyproject.toml some texts are replaced, each of which must be there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    for old, new in change.items():
        assert text.count(old) == 1, f"pyproject.toml has {old!r} {text.count(old)} times"
        text = text.replace(old, new)
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    who = ["-c", "user.name=walker", "-c", "user.email=walker@example.org"]
    subprocess.run(["git", *who, "commit", "--quiet", "--message", "as it is"], cwd=folder, check=True)


@dataclass
class Ran:
    """One `run:` that was run."""

    job: str
    command: str
    status: int
    output: str
    seconds: float = 0.0


@dataclass
class JobEnd:
    """How a job ended, and what it gave out."""

    result: str
    outputs: dict[str, str] = field(default_factory=dict)


def matched(folder: Path, patterns: str) -> list[Path]:
    """Return the files of an artifact's `path`, which may be globs on lines."""
    found: list[Path] = []
    for line in filter(None, map(str.strip, patterns.splitlines())):
        hits = folder.glob(line) if "*" in line else [folder / line]
        found += [one for one in hits if one.is_file()]
    return sorted(set(found))


@dataclass
class Walker:
    """A runner for the jobs of one workflow run. What is in `ended` is taken as done; `cache` is that of an earlier run.

    `tamper` may change the checkout of a job before a command, as misfortune would.
    """

    workflow: Path
    place: Path
    event: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    change: Mapping[str, str] = field(default_factory=dict)
    tamper: Callable[[str, str, Path], None] = lambda job, command, folder: None
    tolerated: frozenset[str] = frozenset()  # commands that need a service which is not here
    run_id: str = "7"
    cache: Path | None = None
    ended: dict[str, JobEnd] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.content = load(self.workflow)
        self.artifacts, self.summary = self.place / "artifacts", self.place / "summary.md"
        self.kept = self.cache or self.place / "cache"
        for one in (self.artifacts, self.kept):
            one.mkdir(parents=True, exist_ok=True)
        self.programs = machine(self.place / "machine")
        self.summary.touch()

    # ---- what expressions see ------------------------------------------------------------------------------------------------------------

    def names(
        self, job: Mapping[str, Any], steps: Mapping[str, Any], matrix: Mapping[str, Any]
    ) -> dict[str, Any]:
        needs = {one: {"result": end.result, "outputs": end.outputs} for one, end in self.ended.items()}
        return {
            "github": {
                "event_name": self.event,
                "ref": "refs/heads/main",
                "run_id": self.run_id,
                "run_attempt": "1",
                "event": {},
            },
            "inputs": dict(self.inputs),
            "vars": dict(self.variables),
            "needs": {one: needs[one] for one in needed(job) if one in needs},
            "steps": dict(steps),
            "matrix": dict(matrix),
        }

    @staticmethod
    def functions(failed: bool) -> dict[str, Callable[..., Any]]:
        return {
            "always": lambda: True,
            "failure": lambda: failed,
            "success": lambda: not failed,
            "cancelled": lambda: False,
            "contains": lambda within, one: one in within,
        }

    # ---- jobs ----------------------------------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Run the jobs, each after those that it needs."""
        waiting = {name: job for name, job in self.content["jobs"].items() if name not in self.ended}
        while waiting:
            name = next(one for one, job in waiting.items() if not set(needed(job)) & set(waiting))
            self._job(name, waiting.pop(name))

    def _before(self, name: str) -> set[str]:
        """Return the jobs that a job comes after, also those far before."""
        direct = set(needed(self.content["jobs"][name]))
        return direct.union(*(self._before(one) for one in direct))

    def _job(self, name: str, job: Mapping[str, Any]) -> None:
        before = [self.ended[one].result for one in self._before(name)]
        functions = self.functions("failure" in before)
        functions["success"] = lambda: all(one == "success" for one in before)
        if not condition(job.get("if", ""), self.names(job, {}, {}), functions):
            self.ended[name] = JobEnd("skipped")
            return
        matrix = job.get("strategy", {}).get("matrix", {})
        ends = []
        for values in itertools.product(*matrix.values()):
            ends.append(self._instance(name, job, dict(zip(matrix, values, strict=True))))
        failed = any(one.result == "failure" for one in ends)
        self.ended[name] = JobEnd("failure" if failed else "success", ends[-1].outputs)

    def _instance(self, name: str, job: Mapping[str, Any], matrix: Mapping[str, Any]) -> JobEnd:
        folder = self.place / "-".join(["job", name, *matrix.values()])
        folder.mkdir()
        state = Instance(self, name, job, matrix, folder)
        for number, step in enumerate(job["steps"]):
            state.step(step, str(number))
        stop_all(folder / ".brookside")  # the runner is gone, and with it what it ran
        names = self.names(job, state.steps, matrix)
        outputs = {key: filled(text, names, {}) for key, text in job.get("outputs", {}).items()}
        return JobEnd("failure" if state.failed else "success", outputs)


def needed(job: Mapping[str, Any]) -> list[str]:
    """Return the jobs that a job needs."""
    found = job.get("needs", [])
    return [found] if isinstance(found, str) else list(found)


@dataclass
class Instance:
    """A job that goes on."""

    walker: Walker
    name: str
    job: Mapping[str, Any]
    matrix: Mapping[str, Any]
    folder: Path
    steps: dict[str, Any] = field(default_factory=dict)
    failed: bool = False

    def step(self, step: Mapping[str, Any], number: str, given: Mapping[str, Any] | None = None) -> None:
        """Do one step, unless its condition says no."""
        names = self.walker.names(self.job, self.steps, self.matrix) | {"inputs": given or self.walker.inputs}
        functions = self.walker.functions(self.failed)
        if not condition(step.get("if", ""), names, functions):
            self.steps[step.get("id", number)] = {"outcome": "skipped", "outputs": {}}
            return
        outputs = self.folder.parent / f"{self.folder.name}.{number}.outputs"
        outputs.touch()
        done = self._run(step, names, outputs) if "run" in step else self._use(step, names, number)
        told = dict(line.split("=", 1) for line in outputs.read_text(encoding="utf-8").splitlines())
        self.steps[step.get("id", number)] = {"outcome": "success" if done else "failure", "outputs": told}
        self.failed = self.failed or not done

    def _run(self, step: Mapping[str, Any], names: Mapping[str, Any], outputs: Path) -> bool:
        environ = dict(self.walker.environ)
        for source in (self.walker.content.get("env", {}), self.job.get("env", {}), step.get("env", {})):
            environ |= {key: filled(value, names, {}) for key, value in source.items()}
        environ |= {
            "GITHUB_ACTIONS": "true",
            "GITHUB_OUTPUT": str(outputs),
            "GITHUB_STEP_SUMMARY": str(self.walker.summary),
            "GITHUB_RUN_ID": self.walker.run_id,
        }
        command = filled(step["run"], names, {})
        assert command == step["run"], f"{command!r}: a value is put into a command; env: would be right"
        self.walker.tamper(self.name, command, self.folder)
        begun = time.monotonic()
        ended = shell(command, self.folder, self.walker.programs, environ)
        took = time.monotonic() - begun
        self.walker.ran.append(Ran(self.name, command, ended.returncode, ended.stdout, took))
        return ended.returncode == 0 or command in self.walker.tolerated

    def _use(self, step: Mapping[str, Any], names: Mapping[str, Any], number: str) -> bool:
        with_ = {key: filled(value, names, {}) for key, value in step.get("with", {}).items()}
        action = str(step["uses"]).partition("@")[0]
        if action.startswith("./"):
            content = yaml.safe_load((self.folder / action / "action.yml").read_text(encoding="utf-8"))
            given = {key: one.get("default", "") for key, one in content["inputs"].items()} | with_
            for place, one in enumerate(content["runs"]["steps"]):
                self.step(one, f"{number}.{place}", given)
            return not self.failed
        done = getattr(self, "_" + action.replace("/", "_").replace("-", "_"))
        return bool(done(with_))

    def _actions_checkout(self, _: Mapping[str, str]) -> bool:
        checkout(self.folder, self.walker.change)
        return True

    def _actions_setup_python(self, with_: Mapping[str, str]) -> bool:
        return with_["python-version"] == f"{sys.version_info[0]}.{sys.version_info[1]}"

    def _actions_upload_artifact(self, with_: Mapping[str, str]) -> bool:
        target = self.walker.artifacts / with_["name"]
        shutil.rmtree(target, ignore_errors=True)
        for path in matched(self.folder, with_["path"]):
            place = target / path.relative_to(self.folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        return True

    def _actions_download_artifact(self, with_: Mapping[str, str]) -> bool:
        pattern = with_.get("pattern") or with_["name"]
        found = [one for one in self.walker.artifacts.iterdir() if fnmatch.fnmatch(one.name, pattern)]
        for one in found:  # those of a pattern are in a folder each
            place = self.folder / with_.get("path", "") / (one.name if "pattern" in with_ else "")
            shutil.copytree(one, place, dirs_exist_ok=True)
        return bool(found) or "pattern" in with_

    def _actions_cache_restore(self, with_: Mapping[str, str]) -> bool:
        keys = [with_["key"], *with_.get("restore-keys", "").split()]
        for one in sorted(self.walker.kept.iterdir(), key=lambda one: one.stat().st_mtime_ns, reverse=True):
            if any(one.name.startswith(key) for key in keys):
                shutil.copytree(one, self.folder, dirs_exist_ok=True)
                break
        return True

    def _actions_cache_save(self, with_: Mapping[str, str]) -> bool:
        for path in matched(self.folder, with_["path"]):
            target = self.walker.kept / with_["key"] / path.name
            target.parent.mkdir(exist_ok=True)
            shutil.copy2(path, target)
        return True


def machine(folder: Path) -> Path:
    """Make a Python of its own in a folder, which has the packages and programs of this one; return where its programs are.

    What a job installs goes there: the project from the job's checkout, since all else is there already.
    """
    venv.EnvBuilder(symlinks=True).create(folder)
    programs = folder / "bin"
    here = Path(sysconfig.get_paths()["purelib"])
    there = Path(sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"])
    (there / "a0_packages_of_the_tests.pth").write_text(f"{here}\n", encoding="utf-8")
    for path in here.glob("*.pth"):
        if not path.name.startswith("__editable__"):  # coverage of processes that a process starts, for one
            shutil.copy2(path, there / path.name)
    for path in Path(sys.executable).parent.iterdir():
        if not path.is_file() or (programs / path.name).exists() or path.name == "brookside-mlops":
            continue
        head, _, rest = path.read_bytes().partition(b"\n")
        if not head.startswith(b"#!") or b"python" not in head:
            (programs / path.name).symlink_to(path)
            continue
        (programs / path.name).write_bytes(f"#!{programs / 'python'}\n".encode() + rest)
        (programs / path.name).chmod(0o755)
    return programs


def shell(
    command: str, folder: Path, programs: Path, environ: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command of a job by bash, with the programs of its machine first and nothing of this project's own environment.

    Packages that are missing are not looked for (`PIP_NO_DEPS`): a machine here begins with those of these tests.
    """
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("BROOKSIDE_", "GITHUB_", "PYTEST_", "COV"))
        and key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    base = {"PATH": f"{programs}:{kept['PATH']}", "PIP_NO_DEPS": "1"}
    return subprocess.run(
        [*BASH, "-c", command],
        cwd=folder,
        env=kept | base | dict(environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def all_runs(jobs: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """Yield each job and each of its `run:`."""
    for name, job in jobs.items():
        for step in job["steps"]:
            if "run" in step:
                yield name, step["run"]
