"""What a display shows at one moment, as plain text: what draws it decides about colours and columns only."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tp_dspy.sheets import number, signed

__all__ = ["HEAD", "Ended", "View", "counted", "duration", "named", "roughly"]


HEAD = ("Phase", "Selection", "Gain", "Calls", "Time", "Ended")
"""The columns of `Ended.cells`: scores are of the selection, where no remark says otherwise."""


@dataclass(frozen=True)
class Ended:
    """A phase that is over.

    Attributes:
        title: What it is called.
        short: The same in at most 22 characters.
        pairs: Scored pairs, as a count.
        seconds: Wall time.
        score: Of the winner, in [0, 1] without a spread penalty; NaN where nothing was chosen.
        gain: Of the winner over the original, on the same examples; NaN where one of the two is not known.
        on: What that was measured on: "search", "selection" or "test" examples; empty where nothing was.
        why: Why it ended; may be empty.
        errors: Pairs without an answer, as a count.
    """

    title: str
    short: str
    pairs: int
    seconds: float
    score: float = math.nan
    gain: float = math.nan
    on: str = ""
    why: str = ""
    errors: int = 0

    @property
    def cells(self) -> tuple[str, ...]:
        """A text for each of `HEAD`."""
        figures = number(self.score), signed(self.gain), f"{self.pairs:,}", duration(self.seconds)
        on = f"{self.on} scores" if self.on and self.on != "selection" else ""
        return (self.short, *figures, "; ".join(filter(None, [self.why, on, self._lost])))

    @property
    def line(self) -> str:
        """All of it in one line."""
        gain = "" if math.isnan(self.gain) else f", {signed(self.gain)} on the original"
        score = "" if math.isnan(self.score) else f"{number(self.score)}{gain} ({self.on} scores)"
        calls = f"{counted(self.pairs, 'scorer call')} in {duration(self.seconds)}"
        return f"{self.title}: {'; '.join(filter(None, [score, calls, self.why, self._lost]))}"

    @property
    def _lost(self) -> str:
        return f"{self.errors:,} without an answer" if self.errors else ""


@dataclass(frozen=True)
class View:
    """What is known at one moment.

    Attributes:
        seconds: Since the beginning.
        before: Remarks from before the first phase.
        ended: The phases that are over, in order.
        title: What goes on now; empty when nothing does.
        done: Pairs scored in the present phase, as a count.
        total: How many there will be at most; None where nobody knows.
        count: The same in words.
        rows: More about it: a label and a text each.
        after: Remarks from after the last phase.
        step: Counts what is worth a line of its own: phases, rounds, selections.
        line: Where it stands, in one line; empty when nothing goes on.
    """

    seconds: float
    before: tuple[str, ...] = ()
    ended: tuple[Ended, ...] = ()
    title: str = ""
    done: int = 0
    total: int | None = None
    count: str = ""
    rows: tuple[tuple[str, str], ...] = ()
    after: tuple[str, ...] = ()
    step: int = 0
    line: str = ""


def counted(count: int, thing: str) -> str:
    """Write a count with what is counted: "1 scorer call", "1,200 scorer calls"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def duration(seconds: float) -> str:
    """Write how long something took: "0:07", "12:40", "1:02:03"."""
    minutes, rest = divmod(int(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def roughly(seconds: float) -> str:
    """Write how long something will take at most, rounded up so that it does not pretend to know: "40 s", "3 min"."""
    for unit, step, most in (("s", 10, 60), ("min", 60, 3600)):
        rounded = math.ceil(max(seconds, 1.0) / step) * step
        if rounded < most:
            return f"{rounded if unit == 's' else rounded // 60} {unit}"
    # From an hour on to five minutes, from two days on to days.
    if seconds > 48 * 3600:
        return f"{math.ceil(seconds / 86400)} days"
    hours, minutes = divmod(math.ceil(seconds / 300) * 5, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def named(text: str, most: int = 28) -> str:
    """Show a name from elsewhere on one line: cut in its middle, what cannot be printed replaced.

    What cannot be printed may move the cursor, or turn the direction of the text around.
    """
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[-end:]}"
