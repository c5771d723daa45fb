"""What Azure ML does with a pipeline, on this machine: each step's own command line, in a shell, in a copy of its code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

BINDING = re.compile(r"^\$\{\{parent\.(inputs|jobs|outputs)\.([\w.]+)\}\}$")
PART = re.compile(r"\$\[\[(.*?)\]\]", re.S)
NAME = re.compile(r"\$\{\{(inputs|outputs)\.(\w+)\}\}")


@dataclass(frozen=True)
class Node:
    """One step: its command, the values or bindings of its inputs, the bindings of its outputs, which outputs there are, its code."""

    name: str
    command: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    makes: tuple[str, ...]
    code: Path


@dataclass
class Walk:
    """What came of a pipeline: the folder of each output, and of each step its exit code and what it printed; `None`: never begun."""

    outputs: dict[str, Path] = field(default_factory=dict)
    codes: dict[str, int | None] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        return "Completed" if all(code == 0 for code in self.codes.values()) else "Failed"


def command_of(text: str, inputs: Mapping[str, str], outputs: Mapping[str, Path]) -> str:
    """Return a command line with its inputs and outputs in it; an optional part without its input is left out."""
    known = {"inputs": inputs, "outputs": {name: str(path) for name, path in outputs.items()}}

    def optional(found: re.Match[str]) -> str:
        return found[1] if all(name in inputs for _, name in NAME.findall(found[1])) else ""

    return NAME.sub(lambda found: str(known[found[1]][found[2]]), PART.sub(optional, text))


def nodes_of(pipeline: Path) -> list[Node]:
    """Return the steps of a pipeline file, with the defaults of its components."""
    found = []
    for name, job in yaml.safe_load(pipeline.read_text())["jobs"].items():
        path = (pipeline.parent / job["component"]).resolve()
        component = yaml.safe_load(path.read_text())
        defaults = {key: str(one["default"]) for key, one in component["inputs"].items() if "default" in one}
        given = {key: str(value) for key, value in job.get("inputs", {}).items()}
        code = (path.parent / component["code"]).resolve()
        makes = tuple(component["outputs"])
        found.append(Node(name, component["command"], defaults | given, job.get("outputs", {}), makes, code))
    return found


def _value(bound: str, inputs: Mapping[str, str], made: Mapping[str, Path]) -> str | None:
    """Return what an input is bound to, None where the pipeline was given nothing for it."""
    found = BINDING.match(bound)
    if not found:
        return bound
    if found[1] == "inputs":
        return inputs.get(found[2])
    job, _, output = found[2].split(".")
    return str(made[f"{job}.{output}"])


def needs(node: Node) -> set[str]:
    """Return the steps whose outputs a step reads."""
    bound = (BINDING.match(one) for one in node.inputs.values())
    return {one[2].split(".")[0] for one in bound if one and one[1] == "jobs"}


def environment() -> dict[str, str]:
    """Return the variables of a step: a machine that knows nothing of this project."""
    left = ("BROOKSIDE_", "PYTHONPATH", "AZURE_", "ARM_", "HTTPS_PROXY", "SSL_CERT", "REQUESTS_CA")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    kept["ORT_DISABLE_TELEMETRY"] = "1"
    return kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def copy_code(code: Path, target: Path) -> None:
    """Copy the code of a step to where it runs, without what stays at home."""
    left = (".git", ".brookside", "parameterized", "__pycache__", "tests", "bench", ".*_cache", "*.egg-info")
    shutil.copytree(code, target, ignore=shutil.ignore_patterns(*left))


def walk(
    nodes: list[Node],
    inputs: Mapping[str, str],
    folder: Path,
    listen: Callable[[str, int | None], Any] = lambda name, code: None,
) -> Walk:
    """Run the steps of a pipeline in order; what follows a step that failed is not begun."""
    done, made = Walk(), dict[str, Path]()
    todo = {node.name: node for node in nodes}
    while todo:
        ready = [name for name, node in todo.items() if not needs(node) & todo.keys()]
        assert ready, f"the steps wait for each other: {', '.join(todo)}"
        node = todo.pop(ready[0])
        if any(done.codes[name] != 0 for name in needs(node)):
            done.codes[node.name] = None
            listen(node.name, None)
            continue
        outputs = {name: folder / node.name / name for name in node.makes}
        for name, path in outputs.items():
            path.mkdir(parents=True)
            made[f"{node.name}.{name}"] = path
            bound = BINDING.match(node.outputs.get(name, ""))
            if bound:
                done.outputs[bound[2]] = path
        values = {name: _value(bound, inputs, made) for name, bound in node.inputs.items()}
        words = command_of(node.command, {k: v for k, v in values.items() if v is not None}, outputs)
        copy_code(node.code, folder / node.name / "code")
        ran = subprocess.run(
            words,
            shell=True,
            cwd=folder / node.name / "code",
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        done.codes[node.name] = ran.returncode
        done.said[node.name] = ran.stdout + ran.stderr
        listen(node.name, ran.returncode)
    return done
