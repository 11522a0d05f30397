"""Evaluations and comparisons to look at: text for terminals, plain values for files, HTML for notebooks."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tp_dspy.scoring.metrics import LOWER_IS_BETTER, ReliabilityCurve

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tp_dspy.scoring.comparison import Comparison
    from tp_dspy.scoring.evaluation import Evaluation

__all__ = [
    "LABELS",
    "as_text",
    "comparison_dict",
    "comparison_html",
    "comparison_table",
    "evaluation_dict",
    "evaluation_html",
    "evaluation_table",
    "literal",
    "number",
    "signed",
    "table",
]

LABELS: Mapping[str, str] = {
    "ifr": "instruction following (IFR)",
    "accuracy": "accuracy (ACC)",
    "ece": "calibration error (ECE)",
    "auroc": "AUROC",
    "auprc_positive": "AUPRC, correct (PR-P)",
    "auprc_negative": "AUPRC, incorrect (PR-N)",
    "brier": "Brier score",
    "coverage": "with a confidence",
    "score": "score",
}
"""What the metrics are called where there is room."""

_WIDTH = 100
# More rows and columns than this hardly show anything.
_MOST_ANSWERS = 12

_HTML = """\
<div style="font-family: sans-serif; font-size: 90%">
<style scoped>
 .tp-dspy { border-collapse: collapse; margin: .4em 1.5em .8em 0; display: inline-table; vertical-align: top }
 .tp-dspy caption { text-align: left; font-weight: bold; padding: .2em 0 }
 .tp-dspy td, .tp-dspy th { padding: .15em .6em; text-align: right; border-bottom: 1px solid rgba(128,128,128,.35) }
 .tp-dspy td:first-child, .tp-dspy th:first-child { text-align: left }
</style>
{%- for table in tables %}
<table class="tp-dspy"><caption>{{ table.title }}</caption>
<tr>{% for cell in table.head %}<th>{{ cell }}</th>{% endfor %}</tr>
{%- for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{%- endfor %}
</table>
{%- endfor %}
{%- if curve %}
<svg role="img" aria-label="Reliability diagram: accuracy against confidence" width="190" height="190"
 viewBox="-30 -8 140 140" style="vertical-align: top; color: inherit">
<title>Reliability diagram: accuracy against confidence; the area of a point is its share of the answers</title>
<g fill="none" stroke="currentColor" stroke-width=".6"><rect width="100" height="100"/>
<path d="M0 100 100 0" stroke-dasharray="3 2" opacity=".6"/></g>
{%- for point in curve %}
<circle cx="{{ point.x }}" cy="{{ point.y }}" r="{{ point.r }}" fill="#1f77b4" fill-opacity=".75"/>
{%- endfor %}
<g font-size="8" fill="currentColor"><text x="50" y="122" text-anchor="middle">confidence</text>
<text x="-20" y="50" text-anchor="middle" transform="rotate(-90 -20 50)">accuracy</text>
<text x="0" y="110" text-anchor="middle">0</text><text x="100" y="110" text-anchor="middle">1</text>
<text x="-6" y="103" text-anchor="end">0</text><text x="-6" y="5" text-anchor="end">1</text></g>
</svg>
{%- endif %}
{%- for line in lines %}
<p style="margin: .3em 0">{{ line }}</p>
{%- endfor %}
</div>
"""


def as_text(renderable: RenderableType) -> str:
    """Render for a terminal without colours."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=_WIDTH, color_system=None, highlight=False)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


# One program.


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain JSON values; None for what is undefined."""
    metrics, without = evaluation.metrics.as_dict(), evaluation.uncalibrated
    confusion = evaluation.confusion()
    return {
        "metrics": {name: plain(value) for name, value in metrics.items()},
        "intervals": {name: [plain(low), plain(high)] for name, (low, high) in evaluation.intervals.items()},
        "ece_equal_mass": plain(evaluation.ece_equal_mass),
        "ece_uncalibrated": plain(without.ece) if without is not None else None,
        "statuses": evaluation.statuses,
        # Counts above 0 only: free text has as many rows and columns as there are answers.
        "confusion": {
            str(row): {str(k): int(v) for k, v in confusion.loc[row].items() if v} for row in confusion.index
        },
        "reliability": [
            {name: plain(getattr(curve, name)[i]) for name in ("low", "high", "confidence", "accuracy", "count")}
            for curve in [evaluation.reliability()]
            for i in range(curve.count.size)
        ],
        "remarks": evaluation.remarks,
        "calls": evaluation.usage.calls,
    }


def plain(value: float) -> float | None:
    """Return a number that JSON can hold; None for NaN and infinity."""
    if isinstance(value, int | np.integer):
        return int(value)
    return float(value) if math.isfinite(value) else None


def evaluation_table(evaluation: Evaluation) -> RenderableType:
    """Draw an evaluation for a terminal."""
    from rich.console import Group

    parts = [table(*parts) for parts in _tables(evaluation)]
    parts += [literal(line) for line in [*evaluation.remarks, _cost(evaluation)]]
    return Group(*parts)


def evaluation_html(evaluation: Evaluation) -> str:
    """Draw an evaluation for a notebook: tables, and the reliability diagram."""
    curve = evaluation.reliability()
    return _html(_tables(evaluation), [*evaluation.remarks, _cost(evaluation)], _points(curve))


def _tables(evaluation: Evaluation) -> list[tuple[str, list[str], list[list[str]]]]:
    """Lay out an evaluation: title, head and rows of each table."""
    metrics, without = evaluation.metrics.as_dict(), evaluation.uncalibrated
    rows = []
    for name in [*evaluation.rule.names, "score"]:
        low, high = evaluation.intervals.get(name, (math.nan, math.nan))
        lower = name in LOWER_IS_BETTER
        weight = evaluation.rule.weights.by_metric.get(name)
        level = evaluation.rule.constraints.levels.get(name)
        asked = "" if level is None else f"wanted: {'at most' if lower else 'at least'} {level:g}"
        rows.append(
            [
                LABELS.get(name, name),
                number(metrics[name]),
                f"{number(low)} - {number(high)}" if not math.isnan(low) else "-",
                "" if weight is None else f"{weight:.2f}",
                asked or ("lower is better" if lower else ""),
            ]
        )
        if name == "ece":
            rows.append(["ECE in bins of equal mass", number(evaluation.ece_equal_mass), "", "", ""])
            if without is not None:
                rows.append(["ECE without calibration", number(without.ece), "", "", ""])
    counted = f"{evaluation.metrics.n} examples, 95 % intervals"
    tables = [(counted, ["metric", "value", "interval", "weight", ""], rows)]
    counts = [[status, str(count)] for status, count in evaluation.statuses.items() if count]
    tables.append(("Replies", ["status", "count"], counts))
    confusion = evaluation.confusion()
    if 0 < len(confusion.index) <= _MOST_ANSWERS and len(confusion.columns) <= _MOST_ANSWERS:
        head = ["expected \\ given", *map(str, confusion.columns)]
        tables.append(("Answers", head, [[str(i), *map(str, confusion.loc[i])] for i in confusion.index]))
    curve = evaluation.reliability()
    if curve.count.size:
        bins = [
            [
                f"{low:.2f} - {high:.2f}",
                str(count),
                f"{sure:.2f}",
                f"{right:.2f}",
                f"{right - sure:+.2f}",
            ]
            for low, high, sure, right, count in zip(
                curve.low, curve.high, curve.confidence, curve.accuracy, curve.count, strict=True
            )
        ]
        tables.append(("Reliability", ["confidence", "count", "mean", "accuracy", "gap"], bins))
    return tables


def _cost(evaluation: Evaluation) -> str:
    usage = evaluation.usage
    price = f", {usage.usd:.4f} USD" if usage.usd else ""
    return f"{usage.calls} calls, {usage.cached} more from the cache{price}."


# Two programs.


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as plain JSON values; None for what is undefined or infinite."""
    names = ("score", "low", "high", "p_value", "n", "examples_needed")
    by_metric = {name: [plain(value) for value in row] for name, row in comparison.by_metric.items()}
    return {name: plain(getattr(comparison, name)) for name in names} | {"by_metric": by_metric}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Draw a comparison for a terminal."""
    from rich.console import Group

    return Group(table(*_differences(comparison)), literal(_verdict(comparison)))


def comparison_html(comparison: Comparison) -> str:
    """Draw a comparison for a notebook."""
    return _html([_differences(comparison)], [_verdict(comparison)])


def _differences(comparison: Comparison) -> tuple[str, list[str], list[list[str]]]:
    rows = [
        [
            LABELS.get(name, name),
            signed(row[0]),
            f"{signed(row[1])} to {signed(row[2])}" if not math.isnan(row[1]) else "-",
            "lower is better" if name in LOWER_IS_BETTER else "",
        ]
        for name, row in {
            **comparison.by_metric,
            "score": (comparison.score, comparison.low, comparison.high),
        }.items()
    ]
    title = f"Second minus first, on the same {comparison.n} examples, 95 % intervals"
    return title, ["metric", "difference", "interval", ""], rows


def _verdict(comparison: Comparison) -> str:
    p = f"p = {comparison.p_value:.3f} (two-sided, paired bootstrap). "
    if not math.isfinite(comparison.examples_needed):
        return p + "The scores are equal."
    needed = f"{int(comparison.examples_needed):,}"
    if comparison.low <= 0.0 <= comparison.high:
        return p + f"About {needed} examples would be needed to see a difference of this size."
    return p + f"About {needed} examples would have shown a difference of this size."


# Both.


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    """Draw a table for a terminal; cells are plain text."""
    from rich import box
    from rich.table import Table

    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    # As plain text: an answer may look like markup.
    for index, cell in enumerate(head):
        drawn.add_column(literal(cell), justify="left" if index == 0 else "right")
    for row in rows:
        drawn.add_row(*map(literal, row))
    return drawn


def _html(
    tables: list[tuple[str, list[str], list[list[str]]]],
    lines: list[str],
    curve: list[dict[str, float]] | None = None,
) -> str:
    from jinja2 import Environment

    template = Environment(autoescape=True).from_string(_HTML)
    named = [{"title": title, "head": head, "rows": rows} for title, head, rows in tables]
    return template.render(tables=named, lines=lines, curve=curve)


def _points(curve: ReliabilityCurve) -> list[dict[str, float]]:
    total = curve.count.sum()
    return [
        {
            "x": round(100 * float(sure), 1),
            "y": round(100 - 100 * float(right), 1),
            "r": round(1.5 + 9 * math.sqrt(count / total), 1),
        }
        for sure, right, count in zip(curve.confidence, curve.accuracy, curve.count, strict=True)
    ]


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
