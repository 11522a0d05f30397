"""Tasks by what a user types: a set that ships with the library, a file, or a data set of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.tasks.splitting import stratified_order
from tp_dspy.tasks.task import Task

__all__ = ["is_file", "load_task"]

_FILES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def is_file(name: str) -> bool:
    """Say whether a name is that of a file that holds a task."""
    return name.lower().endswith(_FILES)


def load_task(name: str, *, seed: int = 0, limit: int | None = None, **layout: Any) -> Task:
    """Load a task.

    Args:
        name: ``starter/<domain>[:<kind>]``, a file that ends in .csv, .tsv, .jsonl, .json or .parquet, or a data set of
            the catalogue.
        seed: Divides what has no splits of its own, and picks the examples when there is a limit.
        limit: At most so many examples in each split; None for all.
        **layout: Of a file; see `tp_dspy.tasks.tabular.Layout`.

    Raises:
        ConfigurationError: A layout was given for what is no file.
        DataError, HubUnavailableError: As the loaders do.
    """
    if is_file(name):
        from tp_dspy.tasks.tabular import load_file

        return _limited(load_file(name, seed=seed, **layout), seed, limit)
    if layout:
        said = ", ".join(layout)
        raise ConfigurationError(f"{said} given for {name!r}; that says how to read a file, and this is none.")
    if name.startswith("starter/"):
        domain, _, kind = name.removeprefix("starter/").partition(":")
        return _limited(Task.starter(domain, kind=kind or None), seed, limit)
    if Path(name).exists():
        raise DataError(f"{name!r} is a file or folder of a kind that cannot be read; expected one of {_FILES}.")
    return Task.from_hub(name, seed=seed, limit=limit)


def _limited(task: Task, seed: int, limit: int | None) -> Task:
    if limit is None:
        return task
    train, validation, test = (stratified_order(s, seed=seed)[:limit] for s in (task.train, task.validation, task.test))
    about: dict[str, Any] = {"domain": task.domain, "description": task.description, "answers": task.answers}
    return Task(task.name, train=train, validation=validation, test=test, **about)
