"""Export nbs/ to the package, format it, and write README.md: `python tools/export.py [--check] [NOTEBOOK ...]`.

With notebooks named, only their modules are exported. With `--check`, nothing is changed: exit 1 says what would be. Both work together.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def export_one(notebook: Path, root: Path) -> None:
    """Export the module of one notebook and format it."""
    from nbdev.config import get_config
    from nbdev.export import nb_export

    before = {path: path.stat().st_mtime_ns for path in (root / "brookside_mlops").rglob("*.py")}
    nb_export(notebook, lib_path=get_config(root).lib_path)
    changed = [
        path
        for path in (root / "brookside_mlops").rglob("*.py")
        if before.get(path) != path.stat().st_mtime_ns
    ]
    subprocess.run([BIN / "black", "-q", *changed], cwd=root, check=True)


def export_all(root: Path) -> None:
    """Export every notebook, format notebooks and package, and write README.md from nbs/index.ipynb."""
    subprocess.run([BIN / "nbdev-export"], cwd=root, check=True)
    subprocess.run([BIN / "black", "-q", "brookside_mlops", "nbs"], cwd=root, check=True)
    index = root / "nbs" / "index.ipynb"
    if index.exists():
        (root / "README.md").write_text(readme(index), encoding="utf-8")


def readme(index: Path) -> str:
    """Return the Markdown of the home page: its prose and code, without front matter and hidden cells."""
    import nbformat

    parts: list[str] = []
    for cell in nbformat.read(index, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.replace("](images/", "](nbs/images/"))
        elif cell.cell_type == "code" and not cell.source.startswith("#| hide"):
            parts.append(f"```python\n{cell.source}\n```")
    return "<!-- made from nbs/index.ipynb by tools/export.py -->\n\n" + "\n\n".join(parts) + "\n"


def stale(notebooks: list[Path]) -> list[str]:
    """Return the files that an export of some notebooks, or of all, in a copy of this tree would change."""
    tracked = ["nbs", "brookside_mlops", "pyproject.toml", "README.md", "setup.py", "settings.ini"]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in tracked:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "_project"))
            elif source.exists():
                shutil.copy(source, copy / name)
        for notebook in notebooks:
            export_one(copy / notebook.resolve().relative_to(ROOT), copy)
        if not notebooks:
            export_all(copy)
        return [
            str(path.relative_to(copy))
            for name in ("nbs", "brookside_mlops", "README.md")
            for path in sorted([copy / name, *(copy / name).rglob("*")])
            if path.is_file()
            and "__pycache__" not in path.parts
            and (
                not (ROOT / path.relative_to(copy)).exists()
                or path.read_bytes() != (ROOT / path.relative_to(copy)).read_bytes()
            )
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("notebooks", nargs="*", type=Path)
    options = parser.parse_args()
    missing = [name for name in ("black", "nbdev-export") if not (BIN / name).exists()]
    if missing:
        print(f"{', '.join(missing)} is not in {BIN}: pip install -e '.[test]'", file=sys.stderr)
        return 2
    if options.check:
        files = stale(options.notebooks)
        print(
            "\n".join(f"out of step with nbs/: {name}" for name in files)
            or "package and README in step with nbs/"
        )
        return 1 if files else 0
    if options.notebooks:
        for notebook in options.notebooks:
            export_one(notebook.resolve(), ROOT)
    else:
        export_all(ROOT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
