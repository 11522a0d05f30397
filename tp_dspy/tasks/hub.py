"""Reading the rows of one split of a public data set, from a local folder or from the hub."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from tp_dspy.errors import DataError, HubUnavailableError
from tp_dspy.tasks.readers import Row

__all__ = ["CONVERTED", "DATA_VARIABLE", "DataSet", "read_split"]

DATA_VARIABLE = "TP_DSPY_DATA"
"""Environment variable that names a folder of parquet files to read instead of the hub."""

CONVERTED = "refs/convert/parquet"
"""The revision where the hub keeps its own parquet copy of a data set, whatever the data set's own form is."""


@dataclass(frozen=True)
class DataSet:
    """How a data set of the hub becomes a task.

    Only splits that every copy of the data has are used, so that a task is the same wherever it is loaded. A test
    split that had to be divided leaves a part of itself for the report: figures on it are not comparable with
    published ones, which are on all of it.

    Attributes:
        hub: "owner/name" on the hub.
        splits: Pairs of a hub split and what becomes of it. The split may be alternatives, "test|validation", of which
            the first that a copy has is read. It becomes "train", "validation" or "test" as a whole; or "divide":
            fixed parts of 40 % train, 20 % validation, 40 % test; or "develop": fixed parts of two thirds train, one
            third validation. Fixed parts have the labels of the whole and depend on the items only.
        to_example: Makes an example of one row; raises `Skip` for one that the task leaves out.
        domain: "medical", "legal", "financial" or "general".
        description: What the task is, as a noun phrase that a reference LM can read.
        licence: As its authors state it.
        citation: What to cite.
        config: The hub's configuration; None when it has one only.
        answers: The answer space; None where items differ in it, and for free answers.
        non_commercial: Whether the licence forbids commercial use.
        same_stem: Whether two items with one question text but other options count as shared between splits.
        revision: Revision of the hub's repository; None for its main branch. `CONVERTED` where the repository itself
            is a loader script, which `datasets` 4 does not run.
        files: Where the hub has nested JSON that `datasets` cannot hold: pairs of a split and its file.
        flatten: Makes rows of the contents of one of `files`.
        aliases: Short names that `load` also takes.
    """

    hub: str
    splits: tuple[tuple[str, str], ...]
    to_example: Callable[[Row], dspy.Example]
    domain: str
    description: str
    licence: str
    citation: str
    config: str | None = None
    answers: tuple[str, ...] | None = None
    non_commercial: bool = False
    same_stem: bool = False
    revision: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    flatten: Callable[[Any], list[Row]] | None = None
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name that `load` takes: "owner/name" or "owner/name:config"."""
        return self.hub + (f":{self.config}" if self.config else "")


def read_split(data: DataSet, split: str) -> list[Row]:
    """Read the rows of one split, from the folder that `TP_DSPY_DATA` names or else from the hub.

    Args:
        data: Where it is.
        split: Its name on the hub, or alternatives: "test|validation".

    Raises:
        DataError: The folder does not have it, or it cannot be read.
        HubUnavailableError: The hub cannot be reached or does not have it.
    """
    folder = os.environ.get(DATA_VARIABLE)
    alternatives = split.split("|")
    if folder:
        return _read_folder(Path(folder), data, alternatives)
    with _quiet_progress():
        try:
            if not data.files:
                return _read_hub(data, alternatives)
            contents = _read_json(data, split)
        except Exception as error:  # whatever the network, the hub or its client come up with, the mend is the same
            raise HubUnavailableError(
                f"{data.name} could not be loaded from the hub ({type(error).__name__}: {error}). Check the network, "
                f"or set {DATA_VARIABLE} to a folder with {data.hub.replace('/', '__')}/[<config>/]<split>.parquet, or "
                "take a set that ships with the library: Task.starter('medical'), 'legal' or 'financial'."
            ) from error
    return _flattened(data, split, contents)


def _read_folder(folder: Path, data: DataSet, alternatives: Sequence[str]) -> list[Row]:
    # Not through `datasets`, which would keep a second copy of every file in its cache.
    import pyarrow.parquet  # type: ignore[import-untyped]

    paths = [Path(data.hub.replace("/", "__"), data.config or "", f"{split}.parquet") for split in alternatives]
    path = next((path for path in paths if (folder / path).is_file()), None)
    if path is None:
        raise DataError(
            f"{data.name}: the folder that {DATA_VARIABLE} names has no file "
            f"{' or '.join(repr(path.as_posix()) for path in paths)}. "
            f"Put it there, or unset {DATA_VARIABLE} to read the hub."
        )
    try:
        rows: list[Row] = pyarrow.parquet.ParquetFile(folder / path).read().to_pylist()
    except (ValueError, OSError) as error:  # pyarrow's own errors are subclasses of these
        raise DataError(
            f"{data.name}: {path.as_posix()!r} cannot be read as parquet ({error}). Get it anew."
        ) from error
    return rows


def _read_hub(data: DataSet, alternatives: Sequence[str]) -> list[Row]:
    *optional, last = alternatives
    for split in optional:
        try:
            return _download(data, split)
        except ValueError:  # "Unknown split"
            continue
    return _download(data, last)


def _download(data: DataSet, split: str) -> list[Row]:
    try:
        return _load_dataset(data, split, data.revision)
    except RuntimeError as error:
        # The hub's repositories change their form now and then; a loader script always has a parquet copy beside it.
        if data.revision or "script" not in str(error):
            raise
        return _load_dataset(data, split, CONVERTED)


def _load_dataset(data: DataSet, split: str, revision: str | None) -> list[Row]:
    import datasets

    if revision is None:
        return list(datasets.load_dataset(data.hub, data.config, split=split))
    where = {"data_dir": data.config} if data.config else {}  # the copy has a folder for each configuration
    return list(datasets.load_dataset(data.hub, **where, split=split, revision=revision))


def _read_json(data: DataSet, split: str) -> Any:
    import huggingface_hub

    path = huggingface_hub.hf_hub_download(
        data.hub, dict(data.files)[split], repo_type="dataset", revision=data.revision
    )
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _flattened(data: DataSet, split: str, contents: Any) -> list[Row]:
    if data.flatten is None:
        raise TypeError(f"{data.name} has `files` and no `flatten`.")
    try:
        return data.flatten(contents)
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{data.name}: {dict(data.files)[split]!r} of the hub is not nested as expected "
            f"({type(error).__name__}: {error}). Set {DATA_VARIABLE} to a folder with a copy of an earlier version."
        ) from error


@contextmanager
def _quiet_progress() -> Iterator[None]:
    """Keep progress bars out of logs: none while stderr is not a terminal."""
    import datasets
    import huggingface_hub.utils

    shown = [] if sys.stderr.isatty() else [datasets, huggingface_hub.utils]
    shown = [library for library in shown if not library.are_progress_bars_disabled()]
    for library in shown:
        library.disable_progress_bars()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bars()
