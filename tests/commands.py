"""A command of the command line, in the process of the tests."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from brookside_mlops.cli import app


def call(*words: object) -> Result:
    """Return what a command said and how it ended; an exception that the command line would not show is raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result
