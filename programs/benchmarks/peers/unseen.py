"""Data sets that were never seen while this was built, from a folder of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from programs.benchmarks.peers.suite import Target
from tp_dspy import Task
from tp_dspy.errors import DataError
from tp_dspy.tasks.loading import is_file
from tp_dspy.tasks.tabular import load_file

__all__ = ["unseen"]

_SPLITS = ("train", "validation", "test")
_READERS = {
    ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False),
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
    ".parquet": pd.read_parquet,
}


def unseen(given: Sequence[str]) -> tuple[Target, Task]:
    """Read a target: a file, or a folder with train, validation and test in files of their own.

    Args:
        given: ``NAME=PLACE``, and two or three source tasks of the catalogue.

    Raises:
        DataError: If it is none of this, or there is nothing to read.
    """
    name, equals, place = given[0].partition("=")
    if not equals or not name or not place or len(given) < 2:
        raise DataError(f"--held-out got {list(given)}; expected NAME=FOLDER and source tasks after it.")
    target = Target(name, tuple(given[1:]), "", "unseen")
    if is_file(place):
        return target, load_file(place, name=name)
    files = [path for path in sorted(Path(place).glob("*")) if path.stem in _SPLITS and path.suffix in _READERS]
    if not files:
        raise DataError(f"{place!r} holds no file such as train.parquet, validation.csv or test.jsonl.")
    parts = [_READERS[path.suffix](path).assign(split=path.stem) for path in files]
    return target, Task.from_dataframe(pd.concat(parts, ignore_index=True), name=name, split="split")
