"""Write what a step on a cluster is installed from: `python tools/lock.py`, after a change of the dependencies in pyproject.toml.

The pins are the versions that are installed here, of the dependencies and of all that they depend on.
"""

from __future__ import annotations

import platform
import re
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
SPARK = ROOT / "azure-ml" / "environments" / "spark-conda.yml"
COUNTING = ("numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "scipy")  # what counting drift imports
CONDA = ROOT / "azure-ml" / "environments" / "training-conda.yml"
HEAD = """\
# Written by tools/lock.py: what pyproject.toml asks for, in the versions that the tests passed with, and all that it depends on.
name: {name}
channels:
  - conda-forge
dependencies:
  - python={python}
  - pip
  - pip:
"""
# A cluster is Linux on x86-64; the Python is that of the package.
TARGET = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
}


def plain(name: str) -> str:
    """Return the name of a package as the registry compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def wanted(pyproject: Path) -> list[Requirement]:
    """Return the core dependencies of the package."""
    return [Requirement(text) for text in tomllib.loads(pyproject.read_text())["project"]["dependencies"]]


def applies(one: Requirement, extras: frozenset[str]) -> bool:
    """Say whether a requirement holds on a cluster for a package with some extras."""
    return one.marker is None or any(
        one.marker.evaluate(TARGET | {"extra": extra}) for extra in extras | {""}
    )


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Return the installed version of some requirements and of all that they need, by name."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [(one, frozenset[str]()) for one in roots]
    while todo:
        one, extras = todo.pop()
        key = (plain(one.name), frozenset(one.extras))
        if key in seen or not applies(one, extras):
            continue
        seen.add(key)
        try:
            installed = distribution(one.name)
        except PackageNotFoundError:
            raise SystemExit(f"{one} is not installed: pip install -e . first") from None
        found[key[0]] = installed.version
        todo += [(Requirement(text), key[1]) for text in installed.requires or ()]
    return dict(sorted(found.items()))


def text_of(name: str, pins: Mapping[str, str]) -> str:
    """Return the conda file of some pins."""
    python = ".".join(platform.python_version_tuple()[:2])
    return HEAD.format(name=name, python=python) + "".join(
        f"      - {name}=={version}\n" for name, version in pins.items()
    )


if __name__ == "__main__":
    roots = wanted(ROOT / "pyproject.toml")
    few = [one for one in roots if plain(one.name) in COUNTING]
    for path, name, chosen in ((CONDA, "brookside-training", roots), (SPARK, "brookside-spark", few)):
        path.write_text(text_of(name, closure(chosen)), encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}", file=sys.stderr)
