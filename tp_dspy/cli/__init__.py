"""The command line."""

from __future__ import annotations

import typer

from tp_dspy.cli import compiling, demo, measuring, runs, sources, tasks
from tp_dspy.cli.output import Commands

__all__ = ["app"]

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.callback()
def main() -> None:
    """Transfer-Prompting for DSPy programs: find instructions on source tasks, carry them over to a target task."""


demo.register(app)
tasks.register(app)
compiling.register(app)
sources.register(app)
measuring.register(app)
runs.register(app)

if __name__ == "__main__":
    app()
