"""The display in a notebook: one output that is replaced as things go on; what a saved notebook keeps is the last."""

from __future__ import annotations

import functools
import math
import sys
from typing import TYPE_CHECKING, Any

from tp_dspy.progress.view import HEAD, View

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Notebook", "as_html", "as_text", "in_notebook"]

# Colours of the page around it: whatever is drawn here is a shade of its text colour, but for the bar.
_HTML = """\
<div class="tp-dspy-progress" style="font-family: sans-serif; font-size: 90%; line-height: 1.5; max-width: 48em">
{%- set cell = "padding: .1em .8em .1em 0; border: 0; background: none; vertical-align: top; white-space: normal" %}
{%- set figure = cell ~ "; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap" %}
{%- macro note(text) %}<div style="opacity: .75; overflow-wrap: anywhere">{{ text }}</div>{% endmacro %}
{%- for text in view.before %}
{{ note(text) }}
{%- endfor %}
{%- if scored %}
<table style="border-collapse: collapse; margin: .3em 0; border: 0; font-size: inherit; color: inherit">
<tr style="background: none">{% for text in head %}
<th style="{{ figure if 0 < loop.index0 < 5 else cell ~ '; text-align: left' }}; opacity: .75; font-weight: normal">
{{- text }}</th>{% endfor %}</tr>
{%- for one in view.ended %}
<tr style="background: none">{% for text in one.cells %}
<td style="{{ figure if 0 < loop.index0 < 5 else cell ~ '; text-align: left' }}
 {%- if loop.first %}; white-space: nowrap{% endif %}">{{ text }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- else %}
{%- for one in view.ended %}
<div>{{ one.line }}</div>
{%- endfor %}
{%- endif %}
{%- if view.title %}
<div style="margin-top: .3em; font-weight: bold; overflow-wrap: anywhere">{{ view.title }}</div>
<div style="display: flex; align-items: center; gap: .8em; margin: .2em 0">
{%- if view.total %}
<div role="progressbar" aria-valuemin="0" aria-valuemax="{{ view.total }}" aria-valuenow="{{ view.done }}" style="flex:
 0 1 24em; height: .5em; border-radius: .25em; overflow: hidden; background: rgba(128, 128, 128, .35)"><div style="
 width: {{ percent }}%; height: 100%; background: #2f80d0"></div></div>
{%- endif %}
<span style="font-variant-numeric: tabular-nums; white-space: nowrap">{{ view.count }}</span></div>
<table style="border-collapse: collapse; border: 0; font-size: inherit; color: inherit">
{%- for label, text in view.rows %}
<tr style="background: none"><td style="{{ cell }}; text-align: left; opacity: .75">{{ label }}</td>
<td style="{{ cell }}; text-align: left; font-variant-numeric: tabular-nums">
{%- if label == "Errors" %}<span style="border-left: .3em solid #d03b3b; padding-left: .4em">{{ text }}</span>
{%- else %}{{ text }}{% endif %}</td></tr>
{%- endfor %}
</table>
{%- endif %}
{%- for text in view.after %}
{{ note(text) }}
{%- endfor %}
</div>
"""


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook; IPython is not imported to find out."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Notebook:
    """Draws as the output of a notebook's cell.

    Args:
        keep: Whether to show what was over before it could be drawn.
    """

    interval = 0.5
    eager = False

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self._handle: Any = None
        self._drawn: dict[str, str] = {}

    def draw(self, view: View) -> None:
        """Show it; or put it in the place of what was shown, where it has changed."""
        from IPython import display as ipython

        shown = {"text/plain": as_text(view), "text/html": as_html(view)}
        if shown == self._drawn:
            return
        if self._handle is None:
            show: Any = ipython.display  # It has no types.
            self._handle = show(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)
        self._drawn = shown

    def close(self, view: View) -> None:
        """Show what stays."""
        if self._handle is not None or self._keep:
            self.draw(view)


def as_html(view: View) -> str:
    """Write a view for a page, light or dark; everything is escaped."""
    percent = round(100 * min(view.done, view.total) / view.total, 1) if view.total else 0
    return _template().render(view=view, head=HEAD, percent=percent, scored=_scored(view))


@functools.cache
def _template() -> Template:
    from jinja2 import Environment

    return Environment(autoescape=True).from_string(_HTML)


def as_text(view: View) -> str:
    """Write a view without any marks, for whoever reads a notebook as text."""
    lines = [*view.before, *(one.line for one in view.ended)]
    if view.title:
        lines += [view.title, view.count, *(f"{label:<6}  {text}" for label, text in view.rows)]
    return "\n".join([*lines, *view.after])


def _scored(view: View) -> bool:
    """Whether there are scores that are worth a table."""
    return any(not math.isnan(one.score) for one in view.ended)
