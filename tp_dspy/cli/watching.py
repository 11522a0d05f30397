"""``tp-dspy report``'s page: where it may be written, and how it is written again while a run goes on."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tp_dspy.cli.folders import SOURCE_PROMPTS, has_ended, how_to_go_on, is_busy, result_file, written
from tp_dspy.cli.output import Output
from tp_dspy.errors import ConfigurationError

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult

__all__ = ["check_place", "watch", "write"]

# Seconds; a compile lays its journal down a moment before its result is there.
SETTLING = 2.0


def check_place(page: Path) -> None:
    """See that a page can be written, before there is work that would be lost.

    Raises:
        ConfigurationError: If it cannot.
    """
    draft = page.with_name(f".{page.name}.{uuid.uuid4().hex}") if page.name else page
    try:
        if page.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        page.parent.mkdir(parents=True, exist_ok=True)
        draft.touch(exist_ok=False)
        draft.unlink()
    except OSError as error:
        file = next((path for path in page.parents if path.is_file()), None)
        reason = f"{file.as_posix()} is a file, and no folder" if file is not None else error.strerror
        raise ConfigurationError(
            f"The page cannot be written to {page.as_posix()!r}: {reason}. Name another place with --out, or leave the "
            "page out with --no-page."
        ) from error


def write(result: TransferResult, page: Path, refresh: float | None, shown: Output, *, again: bool = False) -> None:
    """Write the page, and say where the first time."""
    from tp_dspy.report.page import write_page

    write_page(result, page, refresh=refresh)
    if not again:
        shown.remark(f"The page is {page.as_posix()}.")


def watch(run: Path, page: Path, every: float, shown: Output) -> TransferResult | None:
    """Write the page whenever there is more to see, until the run has ended, nobody works on it any more, or Ctrl-C.

    Returns:
        What the page shows in the end; None where nothing was found.
    """
    shown.remark(f"Watching {run.as_posix()}; Ctrl-C ends it.", "dim")
    before: tuple[Path, int] | None = None
    result: TransferResult | None = None
    quiet, ended, over = _Quiet(), False, False
    try:
        while not over:
            # In this order: once nobody works on a run, what it wrote last is there.
            busy = is_busy(run)
            ended = has_ended(run, busy)
            over = quiet.lasts(busy) or ended
            path = result_file(run, busy)
            now = None if path is None else (path, written(path))
            found = None if path is None or (now == before and not over) else _loaded(path)
            if path is None and over and result is not None:
                found = _with_source_prompts(result, run / SOURCE_PROMPTS)
            if found is not None:
                write(found, page, None if over else every, shown, again=result is not None)
                before, result = now, found
            if not over:
                time.sleep(every)
    except KeyboardInterrupt:
        if result is not None:
            write(result, page, None, shown, again=True)  # Nobody writes it any more: it need not look for that.
        raise
    if result is not None and not ended:
        shown.remark(
            f"{run.as_posix()} has not ended, and nobody works on it any more: it was killed, or an error ended it; "
            f"{how_to_go_on(run)}.",
            "yellow",
        )
    return result


@dataclass
class _Quiet:
    """How long nobody has worked on a run.

    Attributes:
        looks: Looks in a row that saw nobody.
        since: When the first of them was.
    """

    looks: int = 0
    since: float = 0.0

    def lasts(self, busy: bool | None) -> bool:
        """Take one more look into account; say whether nobody will come back."""
        now = time.monotonic()
        self.looks = self.looks + 1 if busy is False else 0
        if self.looks == 1:
            self.since = now
        return self.looks > 1 and now - self.since >= SETTLING


def _loaded(path: Path) -> TransferResult | None:
    """Read a result; None where the file of what was found so far has just given way to the result."""
    from tp_dspy.runs.artifacts import TransferResult

    try:
        return TransferResult.load(path)
    except FileNotFoundError:
        return None


def _with_source_prompts(so_far: TransferResult, path: Path) -> TransferResult:
    """Bring what was seen of a run that makes nothing but source prompts to its end: it leaves no other result."""
    from tp_dspy.runs.source_prompts import SourcePrompts

    if not path.is_file():
        return so_far
    made = SourcePrompts.load(path)
    whole = {"winner": made.phase.ranked[0], "original": made.original, "source": made.phase}
    return so_far.model_copy(update={**whole, "stopped": made.phase.stopped})
