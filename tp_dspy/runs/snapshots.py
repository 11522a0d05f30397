"""What a compile has found so far, written to its folder after every round: to look at while it goes on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.events import Event, PhaseEnded, RoundEnded
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.runs.artifacts import TransferResult

__all__ = ["RUNNING", "SNAPSHOT", "Snapshots"]

SNAPSHOT = "so_far.json"
"""Name of the file in the run folder. It goes when the result comes, and stays after a crash."""
RUNNING = "not ended yet"
"""Why a result that is not the last "stopped"."""


@dataclass
class Snapshots:
    """A listener that keeps `TransferResult` files of a compile that goes on.

    Attributes:
        folders: Where to write what a phase has found, by its name; other phases are left alone.
        original: The program's own instructions.
        settings: How the compile is set up.
    """

    folders: Mapping[str, Path]
    original: Candidate
    settings: dict[str, Any]
    _source: PhaseResult | None = None
    _started: float = field(default_factory=time.monotonic)

    def __call__(self, event: Event) -> None:
        """Write what was found so far, after rounds and source phases."""
        if not isinstance(event, RoundEnded | PhaseEnded) or event.phase not in self.folders:
            return
        found = event.so_far if isinstance(event, RoundEnded) else event.result
        if event.phase == "source":
            self._source = found
        target = None if event.phase == "source" else found
        seconds = time.monotonic() - self._started
        result = TransferResult.of(self._source, target, self.original, seconds, self.settings)
        result.model_copy(update={"stopped": RUNNING}).save(self.folders[event.phase] / SNAPSHOT)

    @staticmethod
    def end(folder: Path) -> None:
        """Take the file of a compile that has ended away."""
        (folder / SNAPSHOT).unlink(missing_ok=True)
