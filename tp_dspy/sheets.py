"""What is shown to people, laid out once: tables and lines, drawn for a terminal, as text, or for a notebook."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Cell", "Line", "Sheet", "Shown", "Table", "literal", "number", "signed", "table"]

# For text that is not drawn on a terminal, whose width would be known.
_WIDTH = 100

_HTML = """\
<div style="font-family: sans-serif; font-size: 90%">
<style scoped>
 .tp-dspy { border-collapse: collapse; margin: .4em 1.5em .8em 0; display: inline-table; vertical-align: top }
 .tp-dspy caption { text-align: left; font-weight: bold; padding: .2em 0 }
 .tp-dspy td, .tp-dspy th { padding: .15em .6em; text-align: right; border-bottom: 1px solid rgba(128,128,128,.35) }
 .tp-dspy td:first-child, .tp-dspy th:first-child { text-align: left }
 .tp-dspy td { white-space: pre-line; vertical-align: top }
 .tp-dspy small { opacity: .7; white-space: nowrap }
</style>
{%- for part in sheet.parts %}
{%- if part.rows is defined %}
<table class="tp-dspy"><caption>{{ part.title }}</caption>
<tr>{% for cell in part.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{%- for row in part.rows %}
<tr>{% for cell in row %}<td>
{%- if cell.text is defined %}<b>{{ cell.text }}</b><br><small>{{ cell.below }}</small>{% else %}{{ cell }}{% endif -%}
</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- else %}
<p dir="auto" style="margin: .3em 0; white-space: pre-wrap; overflow-wrap: anywhere
 {%- if part.strong %}; font-weight: bold{% endif %}">{{ part.text }}</p>
{%- endif %}
{%- endfor %}
{%- if sheet.curve %}
<svg role="img" aria-label="Reliability diagram: accuracy against confidence" width="190" height="190"
 viewBox="-30 -8 140 140" style="vertical-align: top; color: inherit">
<title>Reliability diagram: accuracy against confidence; the area of a point is its share of the answers</title>
<g fill="none" stroke="currentColor" stroke-width=".6"><rect width="100" height="100"/>
<path d="M0 100 100 0" stroke-dasharray="3 2" opacity=".6"/></g>
{%- for point in sheet.curve %}
<circle cx="{{ point.x }}" cy="{{ point.y }}" r="{{ point.r }}" fill="#1f77b4" fill-opacity=".75"/>
{%- endfor %}
<g font-size="8" fill="currentColor"><text x="50" y="122" text-anchor="middle">confidence</text>
<text x="-20" y="50" text-anchor="middle" transform="rotate(-90 -20 50)">accuracy</text>
<text x="0" y="110" text-anchor="middle">0</text><text x="100" y="110" text-anchor="middle">1</text>
<text x="-6" y="103" text-anchor="end">0</text><text x="-6" y="5" text-anchor="end">1</text></g>
</svg>
{%- endif %}
</div>
"""


@dataclass(frozen=True)
class Cell:
    """A cell of two lines: a figure, and what is to be known of it below."""

    text: str
    below: str


@dataclass(frozen=True)
class Table:
    """A table; cells are plain text, whatever markup they seem to hold.

    Attributes:
        title: Shown above; empty for none.
        head: The columns.
        rows: Cells by row, as many as there are columns.
        narrow: Whether it is to fit a terminal of 80 columns with many figures.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    narrow: bool = False


@dataclass(frozen=True)
class Line:
    """A line of plain text, or a paragraph.

    Attributes:
        text: The text.
        strong: Whether it stands out.
    """

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Sheet:
    """Tables and lines in reading order.

    Attributes:
        parts: The tables and lines.
        curve: Points of a reliability diagram, in hundredths with a radius each; drawn in notebooks only.
    """

    parts: Sequence[Table | Line]
    curve: Sequence[Mapping[str, float]] = field(default_factory=tuple)

    def drawn(self) -> RenderableType:
        """Draw it for a terminal."""
        from rich.console import Group
        from rich.text import Text

        shown: list[RenderableType] = []
        for part in self.parts:
            if isinstance(part, Table):
                shown.append(table(part.title, part.head, part.rows, narrow=part.narrow))
            else:
                shown.append(Text(part.text, style="bold" if part.strong else ""))
        return Group(*shown)

    def text(self) -> str:
        """Write it without colours."""
        from rich.console import Console

        file = io.StringIO()
        # In a notebook rich would show it there instead.
        Console(file=file, width=_WIDTH, color_system=None, highlight=False, force_jupyter=False).print(self.drawn())
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def html(self) -> str:
        """Write it for a notebook; everything is escaped."""
        from jinja2 import Environment

        return Environment(autoescape=True).from_string(_HTML).render(sheet=self)


class Shown:
    """Whatever has a `_sheet` prints as it, and shows it in terminals with rich and in notebooks."""

    def _sheet(self) -> Sheet:
        raise NotImplementedError

    def __str__(self) -> str:
        return self._sheet().text()

    def __repr__(self) -> str:
        return str(self)  # As a data frame does: what a shell shows is to be read.

    def __rich__(self) -> Any:
        return self._sheet().drawn()

    def _repr_html_(self) -> str:
        return self._sheet().html()


def table(
    title: str, head: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, narrow: bool = False
) -> RenderableType:
    """Draw a table for a terminal; see `Table`."""
    from rich import box
    from rich.table import Table as Drawn
    from rich.text import Text

    gap: Any = (0, 1, 0, 0) if narrow else (0, 1)
    # As plain text: an answer may look like markup.
    drawn = Drawn(title=literal(title), box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False, padding=gap)
    for index, cell in enumerate(head):
        # Names of files differ in their ends.
        how: Any = {"overflow": "fold"} if index == 0 else {"justify": "right", "no_wrap": narrow}
        drawn.add_column(literal(cell), **how)
    for row in rows:
        cells = (
            Text.assemble((cell.text, "bold"), "\n", (cell.below, "dim")) if isinstance(cell, Cell) else literal(cell)
            for cell in row
        )
        drawn.add_row(*cells)
    return drawn


def literal(text: str) -> Any:
    """Show a text as it is, whatever markup it seems to hold."""
    from rich.text import Text

    return Text(text)


def number(value: float) -> str:
    """Write a metric; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """Write a difference; a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:+.3f}"
