"""The display where there is no terminal: a line now and then, each of which can be read alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tp_dspy.progress.view import View, duration

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Lines"]

# Seconds without a line after which one says where it stands.
_SILENCE = 30.0


class Lines:
    """Writes a line for each phase, round and remark, and one after every half minute of silence.

    Args:
        console: Where to write.
    """

    interval = 1.0
    eager = True

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = 0.0
        self._step = 0
        self._told = (0, 0, 0)

    def draw(self, view: View) -> None:
        """Write what is new."""
        before, ended, after = self._told
        self._told = len(view.before), len(view.ended), len(view.after)
        lines = [*view.before[before:], *(one.line for one in view.ended[ended:]), *view.after[after:]]
        silent = not lines and view.seconds - self._said >= _SILENCE
        if view.line and (view.step > self._step or silent):
            lines.append(view.line)
        self._step = view.step
        for line in lines:
            self._said = view.seconds
            said = f"[{duration(view.seconds)}] {line}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)

    def close(self, view: View) -> None:
        """Write what is left to be said."""
        self.draw(view)
