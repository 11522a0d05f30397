"""The run page: what a compile found, as one HTML file that asks nothing of the outside."""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from tp_dspy.report import content, rows
from tp_dspy.report.headline import headline, measured, target_name
from tp_dspy.report.marks import HIDDEN, inert, script_json, visible
from tp_dspy.runs.folders import write_whole
from tp_dspy.runs.snapshots import RUNNING
from tp_dspy.sheets import number, signed

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.side_by_side import SideBySide

__all__ = ["render_page", "write_page"]

_TEMPLATES = files("tp_dspy.report") / "templates"
_SCRIPTS = ("base.js", "words.js", "lists.js", "candidates.js", "questions.js", "start.js")
# Candidates that are shown where no script runs.
_WITHOUT_SCRIPT = 20
# Plots of several panels, which take the whole width.
_WIDE = ("score_curve", "metric_curves")


def write_page(result: TransferResult, path: str | os.PathLike[str], *, refresh: float | None = None) -> Path:
    """Write the run page, all or nothing: who looks at it never sees half of it.

    Args:
        result: What a compile found, or has found so far.
        path: The file; its folder is made when missing.
        refresh: As in `render_page`.

    Returns:
        The path.
    """
    # A label of a plot may hold what no file can: lone surrogates.
    return write_whole(Path(path), render_page(result, refresh=refresh).encode("utf-8", "replace"))


def render_page(result: TransferResult, *, refresh: float | None = None) -> str:
    """Render the run page: self-contained HTML, every text of LMs and data in it escaped.

    Args:
        result: What a compile found, or has found so far.
        refresh: Seconds after which the page loads itself again, for a file that is rewritten while a run goes on;
            None where nothing more will come.
    """
    script = _script()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    prompts = content.prompts(result)
    data = rows.candidates(result) | {
        "hidden": HIDDEN,
        "refresh": refresh,
        "rejected": rows.rejected(result),
        "questions": rows.questions(measured(result)),
        "copies": [card["text"] for group in prompts for card in group["cards"]],
    }
    return _template().render(
        result=result,
        running=result.stopped == RUNNING,
        refresh=refresh,
        style=Markup(_text("style.css")),
        script=Markup(script),
        script_hash=digest,
        data=data,
        head=headline(result),
        task=content.target_task(result),
        created=content.moment(result.created),
        facts=content.facts(result),
        prompts=prompts,
        measurements=_measurements(result),
        figures=_figures(result),
        unscripted=data["rows"][:_WITHOUT_SCRIPT],
        cost=content.cost(result),
        settings=list(content.flat(result.settings)),
    )


def _measurements(result: TransferResult) -> list[dict[str, Any]]:
    objective = result.settings.get("objective")
    weights = objective.get("weights") if isinstance(objective, dict) else None
    titles = {"held_out": "held-out examples", "selection": "examples that the winner was chosen on"}
    return [
        {
            "title": f"On {len(found.examples)} {title}{_shared(found)}",
            "prompts": list(found.prompts),
            "target": target_name(found),
            "rows": content.metric_rows(found, weights if isinstance(weights, dict) else {}),
        }
        for name, title in titles.items()
        if (found := getattr(result, name)) is not None
    ]


def _shared(found: SideBySide) -> str:
    """Say what the differences are on, where that is not all."""
    change = found.differences.get(target_name(found))
    some = change is not None and change.n < len(found.examples)
    return f"; differences on the {change.n} that both prompts answered" if change is not None and some else ""


def _figures(result: TransferResult) -> list[dict[str, Any]]:
    """Draw the plots; matplotlib is imported here, as it takes long."""
    from tp_dspy.report.plots import figures, svg

    return [
        {
            "slug": slug,
            "caption": content.CAPTIONS.get(slug, ""),
            "svg": Markup(svg(figure)),
            "wide": slug in _WIDE or width > 1.6 * height,
            "width": round(96 * width),
        }
        for slug, figure in figures(result).items()
        for width, height in [figure.get_size_inches()]
    ]


@cache
def _template() -> jinja2.Template:
    loader = jinja2.FunctionLoader(_text)
    environment = jinja2.Environment(
        autoescape=True, loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"visible": visible, "inert": inert, "json": script_json}
    environment.filters |= {"number": number, "signed": signed}
    return environment.get_template("page.html")


@cache
def _script() -> str:
    """All of the script, as it stands in the page: its digest is what the page's policy lets run."""
    parts = "\n".join(_text(f"scripts/{name}") for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}\n}})();\n'


@cache
def _text(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")
