"""What trackers share: when to log, and what to do when that fails."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import dspy

from tp_dspy.errors import ConfigurationError, MissingDependencyError
from tp_dspy.optimization.events import Event, PhaseEnded, Planned, Resumed, RoundEnded, Spending
from tp_dspy.runs.artifacts import TransferResult, save_program
from tp_dspy.runs.events import Compiled, Failed, Measured
from tp_dspy.trackers.notes import Notes, keys, notes_of, prompts_text, target_of

__all__ = ["Entry", "Status", "Tracker", "import_or_tell"]

logger = logging.getLogger(__name__)

Status = Literal["finished", "failed", "killed"]

# What is collected is sent with one of these: once a round. After a failure it is tried again in the end only: with a
# server that is gone each try may take minutes.
_SENDING = (RoundEnded, PhaseEnded, Compiled)


@dataclass(frozen=True)
class Entry:
    """Notes, and when they were taken, in seconds since the epoch."""

    notes: Notes
    time: float


@dataclass(frozen=True)
class _Outcome:
    """A result whose files are to be attached; with the program, unless only the result is new."""

    target: str
    result: TransferResult
    program: dspy.Module | None


class Tracker:
    """Logs every compile that it hears of; each begins a run, or goes into the one that is open.

    What cannot be used is told before a call is paid: when the tracker is made, or when the compile begins. After that
    a failure is a warning, never the end of a compile: what could not be logged is kept, and tried again in the end.

    Args:
        log_program: Whether to attach the compiled program.
        log_report: Whether to attach the HTML report, which takes seconds to draw.
    """

    _name: str
    """What it logs to, for messages."""

    def __init__(self, *, log_program: bool, log_report: bool) -> None:
        self._log_program, self._log_report = log_program, log_report
        self._pending: list[Entry] = []
        self._outcomes: list[_Outcome] = []
        self._targets: tuple[str, ...] = ()
        self._compiles_one = False
        self._resumed = 0
        self._begun = self._broken = self._told = False

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Resumed):
            self._resumed = event.outcomes  # told before what is planned
        elif isinstance(event, Planned):
            self._begin(event)
        elif self._begun:
            self._safely(lambda: self._take(event), last=self._is_last(event))

    def close(self) -> None:
        """End a run that is still open for what may follow, e.g. held-out figures."""
        if self._begun:
            self._begun = False
            self._safely(lambda: self._end("finished"), last=True)

    # What each tracker does in its own way.

    def _open(self, planned: Notes) -> None:
        """Find or begin the run.

        Raises:
            Exception: If there is no way to log there.
        """
        raise NotImplementedError

    def _send(self, entries: Sequence[Entry]) -> None:
        """Log entries, in order."""
        raise NotImplementedError

    def _attach(self, target: str, folder: Path) -> None:
        """Attach all files of a folder; `target` is empty where there is one only."""
        raise NotImplementedError

    def _attach_program(self, target: str, program: dspy.Module) -> None:
        """Attach the compiled program in the tracker's own way, beside its state as JSON."""

    def _end(self, status: Status) -> None:
        """End the run, where it is the tracker's own; does nothing where that was done."""
        raise NotImplementedError

    def _compile_ended(self) -> None:
        """No phase follows; there may still be a compiled program, and held-out figures."""

    def _target_ended(self, target: str) -> None:
        """A target of several has all its figures and files."""

    # When to do it.

    def _begin(self, event: Planned) -> None:
        self.close()
        self._pending, self._outcomes = [], []
        self._broken = self._told = False
        self._targets = tuple(name for plan in event.plans if (name := target_of(plan.phase)))
        self._compiles_one = any(plan.phase == "target" for plan in event.plans)
        planned = notes_of(event)
        assert planned is not None
        # A figure, not a setting: the same compile, gone on with in the same run, differs in it.
        planned = replace(planned, metrics={"resumed_outcomes": float(self._resumed)})
        self._resumed = 0
        try:
            self._open(planned)
            self._send([Entry(planned, time.time())])
        except Exception as error:
            self._safely(lambda: self._end("failed"))
            raise ConfigurationError(
                f"{self._name} cannot be logged to ({type(error).__name__}: {error}). Nothing was paid for yet: see "
                f"that it can be reached, or take {type(self).__name__} out of the listeners."
            ) from error
        self._begun = True

    def _take(self, event: Event) -> None:
        notes = notes_of(event)
        if notes is not None:
            self._pending.append(Entry(notes, time.time()))
        if isinstance(event, Compiled):
            self._outcomes.append(_Outcome(target_of(event.phase), event.result, event.program))
            self._note_in_overview(event)
        elif isinstance(event, Measured):
            self._outcomes.append(_Outcome("", event.result, None))
        sends = isinstance(event, _SENDING) or _is_end(event)
        try:
            if self._is_last(event) or (sends and not self._broken):
                self._flush()
            if isinstance(event, Compiled) and target_of(event.phase):
                self._target_ended(target_of(event.phase))
        finally:
            self._ends(event)

    def _is_last(self, event: Event) -> bool:
        """Say whether it may be the last chance to log."""
        if isinstance(event, Compiled):
            return self._compiles_one
        return isinstance(event, Measured | Failed) or (_is_end(event) and not self._compiles_one)

    def _ends(self, event: Event) -> None:
        if isinstance(event, Failed):
            self._begun = False
            self._end("killed" if isinstance(event.error, KeyboardInterrupt) else "failed")
        elif _is_end(event):
            self._compile_ended()
        elif isinstance(event, Measured):
            self.close()

    def _note_in_overview(self, event: Compiled) -> None:
        """Of several targets, each has its scores in the whole run too."""
        if name := target_of(event.phase):
            winner, original = event.result.winner.score, event.result.original.score
            figures = {"score": winner, "gain": winner - original}
            named = {f"targets/{self._key(name)}/{k}": v for k, v in figures.items() if v == v}
            self._pending.append(Entry(Notes(metrics=named), time.time()))

    def _flush(self) -> None:
        self._broken = True
        self._send(self._pending)
        self._pending.clear()
        while self._outcomes:
            self._attach_files(self._outcomes[0])
            self._outcomes.pop(0)
        self._broken = False

    def _attach_files(self, outcome: _Outcome) -> None:
        result, program = outcome.result, outcome.program if self._log_program else None
        with tempfile.TemporaryDirectory(prefix="tp_dspy-") as name:
            folder = Path(name)
            result.save(folder / "result.json")
            (folder / "prompts.txt").write_text(prompts_text(result), encoding="utf-8")
            if program is not None:
                self._piece("the program's state", lambda: save_program(program, folder / "program.json"))
            if self._log_report:
                self._piece("the HTML report", lambda: _write_page(result, folder / "report.html"))
            self._attach(outcome.target, folder)
        if program is not None:
            self._piece("the program", lambda: self._attach_program(outcome.target, program))

    def _piece(self, what: str, make: Callable[[], object]) -> None:
        """Make one of the things to attach; without it the others are still worth having."""
        try:
            make()
        except Exception as error:
            logger.warning("%s is not logged to %s: %s: %s", what, self._name, type(error).__name__, error)

    def _safely(self, act: Callable[[], object], *, last: bool = False) -> None:
        """Do something that must not end a compile; say once that it failed, and in the end what is missing."""
        try:
            act()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            if last:
                logger.warning(
                    "Not all of this compile is logged to %s (%s). The compile itself has what it found: in "
                    "`detailed_results`, and in the run_dir where there is one.",
                    self._name,
                    reason,
                )
            elif not self._told:
                logger.warning(
                    "%s fails (%s). The compile goes on; what is not logged is tried again in the end.",
                    self._name,
                    reason,
                )
            self._told = True
            logger.debug("%s fails.", self._name, exc_info=True)

    def _key(self, target: str) -> str:
        """Name a target as a part of other names; no two have the same."""
        return keys(self._targets)[target]


def _is_end(event: Event) -> bool:
    """Say whether no phase follows."""
    return isinstance(event, Spending) and not event.phase


def import_or_tell(package: str, who: str, install: str | None = None, module: str | None = None) -> Any:
    """Import what a tracker logs to.

    Args:
        package: The package.
        who: Who needs it.
        install: What to install for it; by default the extra of its name.
        module: What to import of it; by default its own module.

    Raises:
        MissingDependencyError: If it is not installed.
    """
    module = module or package
    if not _is_there(module):
        install = install or f'"tp_dspy[{package}]"'
        raise MissingDependencyError(
            f"{who} needs the package {package}, which is not installed: pip install {install}"
        )
    return importlib.import_module(module)


def _is_there(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # What it is part of is missing.
        return False
    # Any folder of that name can be imported, such as the one that wandb itself leaves behind; it has no file.
    return spec is not None and spec.origin is not None


def _write_page(result: TransferResult, path: Path) -> None:
    from tp_dspy.report.page import write_page

    write_page(result, path)
