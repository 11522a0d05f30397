"""A calm live display of a compile: one line per phase on a terminal, nothing elsewhere (logging has it all)."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from tp_dspy.optimization.cycle import Event

__all__ = ["LiveProgress"]

_TITLES = {"source": "Source prompts", "target": "Target prompt"}


class LiveProgress:
    """Shows how a compile goes on; a context manager, and a listener of its events.

    Args:
        console: Where to draw; by default the terminal on standard error.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._progress: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console or Console(file=sys.stderr),
        )
        self._bars: dict[str, TaskID] = {}
        self._notes: dict[str, str] = {}
        self._plans: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if event.kind == "plan":
            self._plans = {plan.phase: plan.scorer_calls for plan in event.data["plans"]}
            return
        bar = self._bars.get(event.phase)
        if bar is None:
            title = _TITLES.get(event.phase, event.phase)
            bar = self._progress.add_task(title, total=self._plans.get(event.phase), note="")
            self._bars[event.phase] = bar
        if event.kind == "outcome":
            self._progress.advance(bar)
            return
        note = self._note(event)
        if event.kind == "end":
            # What was planned is a ceiling: repeats are not scored again, and a round may bring nothing usable.
            self._progress.update(bar, total=self._progress.tasks[self._progress.task_ids.index(bar)].completed)
        if note:
            self._progress.update(bar, note=note)

    def _note(self, event: Event) -> str:
        if event.kind == "scored":
            best = max(event.data["scored"].score, float(self._notes.get(event.phase, "-inf")))
            self._notes[event.phase] = str(best)
            return f"best {best:.3f}"
        if event.kind == "proposals":
            return f"round {event.data['round']}: {event.data['usable']} of {event.data['asked']} proposals usable"
        if event.kind == "selection":
            return f"choosing among {event.data['candidates']} finalists"
        if event.kind == "end":
            return f"best {event.data['best'].score:.3f}, {event.data['stopped']}"
        return ""
