"""How every plot looks: colours, marks, text, and the figure that the plots are drawn on.

Colours are of Okabe and Ito's palette, which the colour-blind can tell apart, and of it those that are readable on
white and on a dark page alike (contrast of at least 3:1 on both; the blue is a little lighter for it). None carries a
meaning alone: markers, hatches and line styles say the same in greyscale.
"""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tp_dspy.errors import DataError

__all__ = [
    "COLOURS",
    "INK",
    "OTHERS",
    "ROLES",
    "NothingToDrawError",
    "Plot",
    "Role",
    "drawing",
    "label",
    "legend_below",
    "new_plot",
]

INK = "#1a1d22"
"""Of axes, text and grid. No data has this colour: an inline SVG has the page's text colour in its place."""

COLOURS: Mapping[str, str] = {
    "blue": "#2B83BA",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
}


@dataclass(frozen=True)
class Role:
    """How a prompt is drawn.

    Attributes:
        colour: Of lines, edges and hatches.
        hatch: Of areas, as matplotlib spells it.
        line: Line style, as matplotlib spells it.
        filled: Whether areas are filled.
        marker: Of points, as matplotlib spells it.
    """

    colour: str
    hatch: str
    line: str
    filled: bool
    marker: str


ROLES: Mapping[str, Role] = {
    "original": Role(INK, "", "--", False, "D"),
    "best source": Role(COLOURS["blue"], "/////", "-.", False, "s"),
    "target": Role(COLOURS["vermillion"], "", "-", True, "o"),
}
"""By the prompt's name in a comparison."""

OTHERS: tuple[Role, ...] = (
    Role(COLOURS["purple"], "\\\\\\\\\\", ":", False, "^"),
    Role(COLOURS["green"], "-----", (0, (6, 1, 1, 1, 1, 1)), False, "v"),  # type: ignore[arg-type]
)
"""Of prompts with other names, in turn."""

_STYLE: dict[str, Any] = {
    # A `$` in the name of a task is a dollar.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "figure.titlesize": 11.5,
    "figure.titleweight": "bold",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "lines.linewidth": 1.8,
    # Text stays text: it can be found, copied and read aloud, and the file is small.
    "svg.fonttype": "none",
    # Ids of clip paths come from the content, so that the same plot gives the same file.
    "svg.hashsalt": "tp_dspy",
}

# What a letter and a mark take, in inches, at the sizes above.
_TITLE_LETTER = 0.098
_LEGEND_LETTER = 0.071
_LEGEND_MARK = 0.65


class NothingToDrawError(DataError):
    """A plot was asked for of which the data hold nothing."""


@contextmanager
def drawing() -> Iterator[None]:
    """Draw in this package's style, whatever the user's is, which comes back afterwards. Use as a decorator too."""
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        # Names may be in any script. A browser has its fonts; a PNG shows boxes, which needs no warning for each.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .*missing")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support .* natively")
        yield


class Plot(Figure):
    """A figure that keeps its style wherever it is drawn, and that notebooks show as the last value of a cell."""

    def draw(self, renderer: Any) -> None:
        """Draw in this package's style: ticks and their labels are made only now."""
        with drawing():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        with drawing():
            self.savefig(buffer, format="png", dpi=110)
        return buffer.getvalue()


def new_plot(title: str, width: float, height: float) -> Plot:
    """Make an empty figure.

    Args:
        title: What it shows; no names in it that are not cleaned by `label`.
        width: In inches.
        height: In inches.
    """
    figure = Plot(figsize=(width, height), layout="constrained")
    # Letters of other scripts, and the boxes for those that the font lacks, take the room of two.
    wide = sum("\u0590" <= c < "\u2000" or c > "\u2fff" for c in title)
    letters = int(width / _TITLE_LETTER * len(title) / (len(title) + wide))
    figure.suptitle(textwrap.fill(title, letters), x=0.01, ha="left")
    return figure


def legend_below(figure: Figure, *axes: Axes, columns: int = 4) -> None:
    """Put one legend below all axes, each label once, in as many columns as there is room for."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, text in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(text, handle)

    def width(count: int) -> float:
        longest = (max(map(_columns, some)) for some in np.array_split(list(found), count) if len(some))
        return sum(_LEGEND_MARK + _LEGEND_LETTER * letters for letters in longest)

    wide = [count for count in range(2, columns + 1) if width(count) < figure.get_figwidth()]
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=max(wide, default=1), handlelength=2.6
    )


# Marks that stand upon a letter, more than any script needs: they would run over the lines above.
_MARK = r"[\u0300-\u036f\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
_STACKED = re.compile(f"({_MARK}{{2}}){_MARK}+")


def label(text: str, width: int = 24) -> str:
    """Make a name fit to be drawn: one line, what cannot be seen left out, and not too long.

    Args:
        text: A name from anywhere.
        width: The most columns, at least 2; a Chinese character takes two. The middle is left out, as names of tasks
            often begin alike.
    """
    plain = "".join(" " if c.isspace() else c for c in unicodedata.normalize("NFC", text))
    # Control and format characters (zero-width, direction), halves of pairs, private and unassigned ones.
    plain = "".join(c for c in plain if not unicodedata.category(c).startswith("C"))
    plain = " ".join(_STACKED.sub(r"\1", plain).split()) or "(no name)"
    if _columns(plain) > width:
        head = _fitting(plain, (width - 1) // 2 + (width - 1) % 2)
        tail = _fitting(plain[::-1], (width - 1) // 2)[::-1]
        plain = f"{head}…{tail}"
    # matplotlib leaves out of a legend what begins with an underscore.
    return f" {plain}" if plain.startswith("_") else plain


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitting(text: str, width: int) -> str:
    while _columns(text) > width:
        text = text[:-1]
    return text
