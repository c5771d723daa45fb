"""Packaging: puts the stage notebooks, the default settings, the contracts and what is watched inside the wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithProject(build_py):
    """Copy what a project starts from into `brookside_mlops/_project` of the build."""

    def run(self) -> None:
        """Build the package, then add the files that a run needs and Python does not import."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "brookside_mlops" / "_project"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copy(ROOT / "settings.ini", target)
        packed = (
            ("nbs/stages", "*.ipynb"),
            ("contracts", "*.yaml"),
            ("azure-ml/monitoring", "monitoring-config.*"),
            ("azure-ml/pipelines", "*.yml"),
            ("azure-ml/components", "*.yml"),
            ("azure-ml/environments", "*.yml"),
            ("azure-ml/spark", "*.py"),
        )
        for source, pattern in packed:
            (target / source).mkdir(parents=True)
            for path in sorted((ROOT / source).glob(pattern)):
                shutil.copy(path, target / source)


setup(cmdclass={"build_py": BuildWithProject})
