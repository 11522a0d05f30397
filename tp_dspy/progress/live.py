"""The display as a listener: keeps what is known, and has it drawn now and then, at a calm pace."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from tp_dspy.optimization.events import Event, Listener, OutcomeArrived, StepBegan
from tp_dspy.progress.lines import Lines
from tp_dspy.progress.notebook import Notebook, in_notebook
from tp_dspy.progress.rows import view
from tp_dspy.progress.state import MILESTONES, State
from tp_dspy.progress.terminal import Terminal
from tp_dspy.progress.view import View
from tp_dspy.scoring.outcomes import Outcome

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["LiveProgress", "Renderer", "counting", "watching"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key")

# There is one screen: what begins while another display is on it is not shown.
_SCREEN = threading.Lock()


class Renderer(Protocol):
    """Draws views.

    Attributes:
        interval: Seconds from one drawing to the next.
        eager: Whether to draw at every milestone at once, as nothing that was skipped can be seen later.
    """

    interval: float
    eager: bool

    def draw(self, view: View, /) -> None:
        """Draw a view in the place of the last one."""
        ...

    def close(self, view: View, /) -> None:
        """Draw what stays."""
        ...


class LiveProgress:
    """Shows how a compile goes on; a context manager, and a listener of its events.

    What is told is kept at once, in the thread that compiles; a thread of its own draws it a few times a second, so
    that the time goes on while an LM is waited for. Within another display it shows nothing.

    Args:
        console: Where to draw: bars if it is a terminal, else a line now and then. By default in the notebook, if this
            is one, or on standard error.
        summary: Whether to say what is planned, and what was spent in the end.
        renderer: Draws, instead.
        clock: Tells the time, in seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        summary: bool = True,
        renderer: Renderer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._renderer = renderer or _renderer(console)
        self._clock = clock
        # Values only, replaced as a whole: the thread that draws needs no lock to read them.
        self._state = State(summary=summary)
        self._drawing = threading.RLock()
        self._muted = self._broken = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._muted = not _SCREEN.acquire(blocking=False)
        if not self._muted:
            # Taken apart from the last to the first, whatever comes in between; also where no thread can be started.
            with contextlib.ExitStack() as begun:
                begun.callback(_SCREEN.release)
                begun.callback(self._close)
                begun.enter_context(_now_and_then(self._draw, self._renderer.interval))
                self._stack = begun.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = self._state.closed(self._clock(), error)
        self._stack.close()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        self._state = self._state.take(event, self._clock())
        if self._renderer.eager and isinstance(event, MILESTONES):
            self._draw()

    def _draw(self) -> None:
        if not self._muted and self._state.began is not None:
            self._safely(self._renderer.draw)

    def _close(self) -> None:
        self._safely(self._renderer.close)

    def _safely(self, show: Callable[[View], None]) -> None:
        """Show what is known; a display that breaks (a terminal that was closed) does not end what was paid for."""
        if self._broken:
            return
        try:
            with self._drawing:
                show(view(self._state, self._clock()))
        except (Exception, SystemExit):  # rich would end the process where nobody reads its pipe any more
            self._broken = True
            logger.warning("The progress display broke; the work goes on without it.", exc_info=True)


@contextlib.contextmanager
def watching(listeners: Sequence[Listener], verbose: bool) -> Iterator[Listener]:
    """Tell the listeners what happens, and show it where that is wanted and there is a terminal or a notebook."""
    with contextlib.ExitStack() as stack:
        told = list(listeners)
        renderer = _here() if verbose else None
        if renderer is not None:
            told.append(stack.enter_context(LiveProgress(renderer=renderer)))

        def tell(event: Event) -> None:
            for listener in told:
                listener(event)

        yield tell


def counting(
    scored: Generator[tuple[Key, Outcome], None, None], total: int, what: str
) -> Generator[tuple[Key, Outcome], None, None]:
    """Pass scored pairs on, and show how many there are, on a terminal or in a notebook; elsewhere nothing is shown.

    Args:
        scored: The pairs; closed with this.
        total: How many there will be.
        what: What is done, as a title.
    """
    renderer = _here(keep=False)
    if renderer is None:
        yield from scored
        return
    with contextlib.closing(scored), LiveProgress(renderer=renderer, summary=False) as live:
        live(StepBegan(what, total))
        for key, outcome in scored:
            live(OutcomeArrived(what, outcome))
            yield key, outcome


def _renderer(console: Console | None) -> Renderer:
    """Choose how to draw on a console; with none, there is always something to write lines to."""
    from rich.console import Console

    if console is None and (found := _here()) is not None:
        return found
    console = console or Console(stderr=True)
    return Terminal(console) if _can_be_drawn_on(console) else Lines(console)


def _here(*, keep: bool = True) -> Renderer | None:
    """Choose how to draw where this runs: in a notebook, on a terminal, or not at all."""
    from rich.console import Console

    if in_notebook():
        return Notebook(keep=keep)
    console = Console(stderr=True)
    return Terminal(console, keep=keep) if _can_be_drawn_on(console) else None


def _can_be_drawn_on(console: Console) -> bool:
    """Whether this is a terminal. Rich also takes a file for one where the environment asks for colours."""
    return console.is_interactive and console.file.isatty()


@contextlib.contextmanager
def _now_and_then(draw: Callable[[], None], interval: float) -> Iterator[None]:
    """Draw every so many seconds, in a thread of its own."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(interval):
            draw()

    # Notebooks find the cell to write to by the context.
    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(go_on,), name="tp_dspy-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=5)
