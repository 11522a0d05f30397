"""How a compile goes on, for whoever waits: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tp_dspy.optimization.events import (
    CandidateScored,
    Decided,
    Event,
    Listener,
    OutcomeArrived,
    PhaseBegan,
    PhaseEnded,
    Planned,
    Proposed,
    Resumed,
    SelectionBegan,
    Spending,
    StepBegan,
)
from tp_dspy.optimization.plan import PhasePlan

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["LiveProgress", "watching"]

# Seconds without a line after which one says how far it is.
_SILENCE = 30.0
_TITLES = {"source": "Source prompts", "target": "Target prompt", "test": "Held-out test"}


class LiveProgress:
    """Shows how a compile goes on; a context manager, and a listener of its events.

    Args:
        console: Where to draw; by default standard error.
        summary: Whether to say what is planned, and what was spent in the end.
    """

    def __init__(self, console: Console | None = None, *, summary: bool = True) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._started = self._said = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._best: dict[str, float] = {}
        self._plans: dict[str, int] = {}
        self._planned: Sequence[PhasePlan] = ()
        self._summary = summary

    def __enter__(self) -> Self:
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        if isinstance(event, Planned):
            self._planned = event.plans
            self._plans = {plan.phase: plan.scorer_calls for plan in event.plans}
            if self._summary:
                self._console.print(event.words)
            return
        if isinstance(event, Spending):
            if not event.phase and self._summary:
                self._console.print(PhasePlan.beside(self._planned, event.spent))
            return
        if isinstance(event, Resumed):
            self._console.print(f"The journal knows {event.outcomes} outcomes; none is paid for again.")
            return
        if not event.phase or isinstance(event, Decided):
            return
        bar = self._bar(event.phase)
        if isinstance(event, StepBegan) and event.phase not in self._plans:
            self._progress.update(bar, total=event.total)
        elif isinstance(event, OutcomeArrived):
            self._progress.advance(bar)
            self._say_now_and_then(event.phase, bar)
        elif isinstance(event, CandidateScored) and not event.dropped:
            score = event.scored.score
            self._best[event.phase] = max(score, self._best.get(event.phase, score))
        if note := self._note(event):
            self._progress.update(bar, note=note)
            self._say(event.phase, note)
        if isinstance(event, PhaseEnded):
            # What was planned is a ceiling: pairs known already are not scored again.
            done = next(task.completed for task in self._progress.tasks if task.id == bar)
            self._progress.update(bar, total=done)
            self._progress.stop_task(bar)

    def _say(self, phase: str, note: str) -> None:
        """Print a line where there is no terminal to draw bars on."""
        if not self._console.is_terminal:
            self._said = time.monotonic()
            self._console.print(f"{self._said - self._started:6.0f} s  {_TITLES.get(phase, phase)}: {note}")

    def _say_now_and_then(self, phase: str, bar: TaskID) -> None:
        if time.monotonic() - self._said >= _SILENCE:
            task = next(task for task in self._progress.tasks if task.id == bar)
            self._say(phase, f"{task.completed:.0f} of at most {task.total or 0:.0f} scorer calls")

    def _bar(self, phase: str) -> TaskID:
        if phase not in self._bars:
            title = _TITLES.get(phase, phase)
            self._bars[phase] = self._progress.add_task(title, total=self._plans.get(phase), note="")
        return self._bars[phase]

    def _note(self, event: Event) -> str:
        # NaN where the first population was halted before anybody had met all examples.
        best = self._best.get(event.phase, math.nan)
        if isinstance(event, PhaseBegan):
            return f"{event.candidates} prompts to score"
        if isinstance(event, Proposed):
            return f"best {best:.3f}; round {event.round}: {event.usable} of {event.asked} proposals usable"
        if isinstance(event, SelectionBegan):
            return f"best {best:.3f}; choosing among {event.candidates} finalists"
        if isinstance(event, PhaseEnded):
            return f"{event.result.best.score:.3f} on what it was chosen on; {event.result.stopped}"
        return f"best {best:.3f}" if isinstance(event, CandidateScored) and self._console.is_terminal else ""


@contextlib.contextmanager
def watching(listeners: Sequence[Listener], verbose: bool) -> Iterator[Listener]:
    """Tell the listeners what happens, and show it on a terminal where that is wanted."""
    with contextlib.ExitStack() as stack:
        told = list(listeners)
        if verbose and sys.stderr.isatty():
            told.append(stack.enter_context(LiveProgress()))

        def tell(event: Event) -> None:
            for listener in told:
                listener(event)

        yield tell
