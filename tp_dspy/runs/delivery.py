"""How the outcome of a compile reaches its user: the program, files in the run folder, the last event."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import dspy

from tp_dspy.errors import ArtifactError
from tp_dspy.optimization.events import Listener
from tp_dspy.optimization.ledger import broken_off
from tp_dspy.runs.artifacts import TransferResult, save_program
from tp_dspy.runs.events import Compiled
from tp_dspy.runs.snapshots import Snapshots
from tp_dspy.scoring.programs import without_rivals

__all__ = ["deliver"]

logger = logging.getLogger(__name__)

_RESULT, _PROGRAM = "result.json", "program.json"


def deliver(
    result: TransferResult, student: dspy.Module, folder: Path | None, phase: str, listeners: Sequence[Listener]
) -> dspy.Module:
    """Make the compiled program, save it and the result, and tell the listeners.

    Args:
        result: The outcome.
        student: The program; never changed.
        folder: Where the files go; None for no files. Those of an earlier compile with another winner, or measured
            where this one was interrupted, stay beside them: "earlier-result.json", then "earlier-2-result.json".
        phase: The target phase, for the event.
        listeners: What they raise now is logged: the compile is done, and its program is not to be lost for that.

    Returns:
        A copy of the program with the winner's instructions, and the result as ``detailed_results``.
    """
    compiled = result.winner.scored().candidate.apply(without_rivals(student))
    compiled.detailed_results = result
    result._program = compiled
    if folder is not None:
        _keep_earlier(folder, result)
        result.save(folder / _RESULT)
        save_program(compiled, folder / _PROGRAM)
        Snapshots.end(folder)
    for listener in listeners:
        try:
            listener(Compiled(phase, result, compiled))
        except Exception:
            logger.exception("The listener %r failed after the compile; the program is returned.", listener)
    return compiled


def _keep_earlier(folder: Path, result: TransferResult) -> None:
    """Set the files of an earlier compile aside that this one, perhaps broken off early, does not replace."""
    try:
        earlier: TransferResult | None = TransferResult.load(folder / _RESULT)
    except FileNotFoundError:
        return
    except ArtifactError:
        earlier = None  # Of another version, or damaged; not ours to lose.
    same = earlier is not None and earlier.winner.id == result.winner.id
    # One that was broken off is not measured, else whoever measured the earlier one does so again; and it knows less.
    more = earlier is not None and (earlier.held_out is not None or not broken_off(earlier.stopped))
    if same and not (more and broken_off(result.stopped)):
        return
    names = (f"earlier-{number}-" if number > 1 else "earlier-" for number in itertools.count(1))
    prefix = next(name for name in names if not (folder / f"{name}{_RESULT}").exists())
    for name in (_RESULT, _PROGRAM):
        if (folder / name).exists():
            (folder / name).replace(folder / f"{prefix}{name}")
    logger.info("%s held another result, which is kept as %s%s.", folder, prefix, _RESULT)
