"""The display on a terminal: a few lines that are drawn anew, and above them a line for each phase that is over."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tp_dspy.progress.view import HEAD, View

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["Terminal", "frame"]

_BAR = 40
_SHADES: dict[str, Any] = {"complete_style": "cyan", "finished_style": "cyan"}
# Columns line up over the lines, which are printed one by one; what is left of 80 is for why a phase ended.
_WIDTHS = (22, 9, 6, 6, 7)
_REMARK = 20


class Terminal:
    """Draws on a terminal. While it does, what others print or log goes above it.

    Args:
        console: Where to draw.
        keep: Whether a line about each phase stays on the screen.
    """

    interval = 0.25
    eager = False

    def __init__(self, console: Console, *, keep: bool = True) -> None:
        self._console = console
        self._keep = keep
        self._told = (0, 0, 0)
        self._headed = False
        self._drawn: object = None
        self._stack = contextlib.ExitStack()
        self._live: Live | None = None

    def draw(self, view: View) -> None:
        """Print what stays, and draw the rest anew where it has changed."""
        from rich.live import Live

        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=_same_screen(sys.stdout, self._console),
                redirect_stderr=self._console.file is sys.stderr,
            )
            self._stack.enter_context(self._live)
            self._stack.enter_context(_logging_through(self._console))
        self._print_new(view)
        changing = view.title, view.done, view.total, view.rows
        if changing != self._drawn:
            self._drawn = changing
            self._live.update(frame(view) if view.title else "", refresh=True)

    def close(self, view: View) -> None:
        """Take away what is drawn anew, and leave what stays."""
        if self._live is not None:
            # When it stops it draws once more.
            self._live.update("")
        self._stack.close()
        self._print_new(view)
        self._live = self._drawn = None

    def _print_new(self, view: View) -> None:
        from rich.text import Text

        if not self._keep:
            return
        before, ended, after = self._told
        self._told = len(view.before), len(view.ended), len(view.after)
        for text in view.before[before:]:
            self._console.print(Text(text, style="dim"))
        for one in view.ended[ended:]:
            if math.isnan(one.score) and not self._headed:
                self._console.print(Text(one.line))
                continue
            if not self._headed:
                self._console.print(*_row(HEAD, "dim"))
                self._headed = True
            self._console.print(*_row(one.cells), sep="\n")
        for text in view.after[after:]:
            self._console.print(Text(text))


def frame(view: View) -> RenderableType:
    """Draw what goes on; a title, a bar, and rows."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1))
    if view.total is None:
        bar.add_row(Text(view.count))
    else:
        bar.add_row(ProgressBar(view.total, min(view.done, view.total), _BAR, **_SHADES), Text(view.count))
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(width=6, style="dim")
    rows.add_column(overflow="fold")
    for label, text in view.rows:
        rows.add_row(Text(label), Text(text, style="red" if label == "Errors" else ""))
    return Group(Text(view.title, style="bold", no_wrap=True, overflow="ellipsis"), bar, rows)


def _row(cells: tuple[str, ...], style: str = "") -> list[RenderableType]:
    """Draw a phase that is over; a long remark goes below."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    *figures, remark = cells
    row = Table.grid(padding=(0, 2, 0, 0))
    for index, width in enumerate(_WIDTHS):
        row.add_column(width=width, no_wrap=True, overflow="ellipsis", justify="right" if index else "left")
    if len(remark) <= _REMARK:
        row.add_column(width=_REMARK)
        row.add_row(*(Text(cell, style=style) for cell in cells))
        return [row]
    row.add_row(*(Text(cell, style=style) for cell in figures))
    return [row, Padding(Text(remark), (0, 0, 0, 2))]


def _same_screen(stream: object, console: Console) -> bool:
    """Whether what is written to a stream appears where the console draws: a pipe keeps what is meant for it."""
    isatty = getattr(stream, "isatty", None)
    return console.file is sys.stderr and isatty is not None and bool(isatty())


@contextlib.contextmanager
def _logging_through(console: Console) -> Iterator[None]:
    """Have log handlers that write to the terminal write above the display.

    A handler keeps the stream that it was made with, and would write into the middle of what is drawn.
    """
    from rich.logging import RichHandler

    screens = [one for one in (sys.__stderr__, sys.__stdout__, console.file) if one is not None and one.isatty()]
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {h for logger in loggers if isinstance(logger, logging.Logger) for h in logger.handlers}
    with contextlib.ExitStack() as back:
        for handler in handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in screens:
                back.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)
            elif isinstance(handler, RichHandler) and handler.console.file in screens:
                back.callback(setattr, handler, "console", handler.console)
                handler.console = console
        yield
