"""How a search went: the score of every candidate, and what the best so far was worth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tp_dspy.report.headline import gain
from tp_dspy.report.plots.progress import Phase, best_so_far, examples_so_far, mean_metric, phases
from tp_dspy.report.plots.style import COLOURS, INK, NothingToDrawError, drawing, label, legend_below, new_plot
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.records import CandidateRecord
from tp_dspy.scoring.held_out import HEADINGS
from tp_dspy.sheets import signed

__all__ = ["gained", "metric_curves", "score_curve"]

FloatArray = npt.NDArray[np.float64]

# Marker, colour and size by origin; what is written of it.
_ORIGINS = {
    "original": ("D", INK, 5.5, "original prompt"),
    "general": ("s", COLOURS["purple"], 5.0, "general instruction"),
    "seed": ("^", COLOURS["purple"], 5.5, "seed instruction"),
    "source": ("v", COLOURS["blue"], 6.0, "source prompt"),
    "proposal": ("o", COLOURS["vermillion"], 4.6, "proposal"),
}
# More hollow points than this in a phase hide each other, and make the file large.
_MOST_DROPPED = 1500
_EXAMPLES = "examples met (all candidates together)"
_ARRIVAL = "candidates, in order of arrival"


@drawing()
def score_curve(result: TransferResult) -> Figure:
    """Draw the score of every candidate of both phases, with the best so far and its 95 % interval.

    The phases are on different tasks, so each has its own panel. Of the candidates that a race dropped at most 1,500
    are shown in each.

    Raises:
        NothingToDrawError: If no candidate has a score.
    """
    found = phases(result)
    if not any(math.isfinite(one.score) for phase in found for one in phase.record.history):
        raise NothingToDrawError("There is no score curve: no candidate of the result has a score.")
    figure = new_plot(f"Score by examples met: {gained(result)}".rstrip(": "), 7.8, 4.6)
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, phase in zip(panels, found, strict=True):
        x, unit = _positions(phase)
        _rounds(axes, phase, x)
        _original(axes, phase, lambda one: one.score, 0.0, x[-1])
        _best(axes, x, best_so_far(phase.record), "score", lambda one: one.score, COLOURS["green"])
        _points(axes, phase, x)
        _winner(axes, phase, x, result.winner.id if phase is found[-1] else "")
        axes.set_title(_title(phase, 26 if len(found) > 1 else 70))
        axes.set_xlabel(unit)
        axes.set_xlim(0, x[-1] * 1.03)
        _count(axes, 6)
    panels[0].set_ylabel("score, 0-1")
    legend_below(figure, *panels)
    return figure


@drawing()
def metric_curves(result: TransferResult) -> Figure:
    """Draw the metrics of the best so far, with 95 % intervals: a panel per metric, both phases one after the other.

    Raises:
        NothingToDrawError: If there is no candidate that has met all examples.
    """
    found = [phase for phase in phases(result) if any(best_so_far(phase.record))]
    best = [best_so_far(phase.record) for phase in found]
    names = [name for name in _metric_names(best) if any(_known(row, name) for row in best)]
    if not names:
        raise NothingToDrawError("There are no metric curves: no candidate has met all examples of its phase.")
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = new_plot("Metrics of the best prompt so far (the one with the best score)", 7.8, 1.2 + 2.0 * rows)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False)
    whole = sum(_positions(phase)[0][-1] for phase in found)
    colours = {"source": COLOURS["blue"], "target": COLOURS["vermillion"]}
    for axes, name in zip(panels.flat, names, strict=False):
        start = 0.0
        for phase, row in zip(found, best, strict=True):
            x = _positions(phase)[0]
            value = _metric(name)
            if start:
                axes.axvline(start, color=INK, linewidth=1.0, alpha=0.5)
            if x[-1] > 0.2 * whole:
                axes.text(start + x[-1] / 2, -0.07, phase.name, ha="center", va="center", fontsize=7.5)
            _original(axes, phase, value, start, start + x[-1])
            _best(axes, start + x, row, name, value, colours[phase.name], f"{phase.name} phase")
            start += x[-1]
        axes.set_xlim(0, start * 1.02)
        _count(axes, 4)
        axes.set_ylim(-0.13, 1.03)
        axes.set_title(f"{HEADINGS.get(name, label(name))}{' (lower is better)' if name == 'ece' else ''}")
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    for axes in panels.flat[max(0, len(names) - columns) : len(names)]:
        axes.tick_params(labelbottom=True)
        axes.set_xlabel(_positions(found[0])[1].partition(" (")[0])
    legend_below(figure, *panels.flat[: len(names)])
    return figure


def gained(result: TransferResult) -> str:
    """Say what the winner gained on the original, in the headline's figures; "" if that is unknown."""
    found = gain(result)
    if not math.isfinite(found.change):
        return ""
    # In one line: what is said of the examples behind a colon is for where there is room.
    where = found.basis.partition(":")[0].replace("that the winner was", "it was")
    return f"{found.before:.3f} → {found.after:.3f} ({signed(found.change)}) on {where}"


def _count(axes: Axes, ticks: int) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _title(phase: Phase, width: int) -> str:
    """Name the phase and its tasks, or say how many where there is no room."""
    tasks = list(phase.record.search)
    names = ", ".join(label(name, width) for name in tasks)
    if len(names) > width and len(tasks) > 1:
        names = f"{len(tasks)} tasks"
    return f"{phase.name.capitalize()} phase" + (f": {names}" if names else "")


def _positions(phase: Phase) -> tuple[FloatArray, str]:
    met = examples_so_far(phase.record)
    return (np.arange(1.0, len(phase.record.history) + 1), _ARRIVAL) if met is None else (met, _EXAMPLES)


def _metric(name: str) -> Callable[[CandidateRecord], float]:
    return lambda one: mean_metric(one, name)


def _metric_names(best: Sequence[Sequence[CandidateRecord | None]]) -> list[str]:
    """The metrics of the paper, then the user's own."""
    own = {name for row in best for one in row if one for metrics in one.by_task.values() for name in metrics.custom}
    return [name for name in HEADINGS if name != "score"] + sorted(own)


def _known(row: Sequence[CandidateRecord | None], name: str) -> bool:
    once = {one.id: one for one in row if one is not None}
    return any(math.isfinite(mean_metric(one, name)) for one in once.values())


def _rounds(axes: Axes, phase: Phase, x: FloatArray) -> None:
    """Mark where a round begins."""
    rounds = np.array([one.round for one in phase.record.history])
    starts = np.flatnonzero(np.diff(rounds))
    axes.grid(False, axis="x")
    if 0 < starts.size <= 30:
        for start in x[starts]:
            axes.axvline(start, color=INK, linewidth=0.8, alpha=0.4, linestyle=(0, (1, 2)))
        axes.plot([], [], color=INK, linewidth=0.9, alpha=0.6, linestyle=(0, (1, 2)), label="next round")


def _original(axes: Axes, phase: Phase, value: Callable[[CandidateRecord], float], start: float, end: float) -> None:
    """Draw what the original has on the examples it has met, as a line to compare with."""
    if phase.original is not None and math.isfinite(level := value(phase.original)):
        axes.plot([start, end], [level] * 2, color=INK, linewidth=1.1, linestyle="--", alpha=0.75, label="the original")


def _best(
    axes: Axes,
    x: FloatArray,
    best: Sequence[CandidateRecord | None],
    metric: str,
    value: Callable[[CandidateRecord], float],
    colour: str,
    text: str = "best so far",
) -> None:
    # Where another takes the lead, and the end: what lies between says nothing more.
    leads = [i for i in range(len(best)) if i in (0, len(best) - 1) or best[i] is not best[i - 1]]
    leaders = [one for i in leads if (one := best[i]) is not None]
    x = x[leads[len(leads) - len(leaders) :]]
    y = np.array([value(one) for one in leaders])
    if not np.isfinite(y).any():
        return
    intervals = [{} if one.measurement is None else one.measurement.intervals for one in leaders]
    low, high = np.array([each.get(metric, (math.nan, math.nan)) for each in intervals]).T
    # In the score curve the candidates have marks already; elsewhere, one that led at the very end has to be seen too.
    marker = "" if metric == "score" else "."
    axes.step(x, y, where="post", color=colour, label=text, marker=marker, markersize=5, solid_capstyle="butt")
    if np.isfinite(low).any():
        area = {"color": colour, "alpha": 0.2, "linewidth": 0}
        axes.fill_between(x, low, high, step="post", label="95 % interval", **area)  # type: ignore[arg-type]


def _points(axes: Axes, phase: Phase, x: FloatArray) -> None:
    """Draw every candidate, those that have not met all examples hollow."""
    history, partial = phase.record.history, phase.record.incomplete
    every = max(1, math.ceil(sum(one.id in partial for one in history) / _MOST_DROPPED))
    scores = np.array([one.score for one in history])
    out = np.array([one.id in partial for one in history])
    shown = ~out | (np.cumsum(out) % every == 0)
    for origin, (marker, colour, size, text) in _ORIGINS.items():
        mine = np.array([one.origin == origin for one in history])
        hollow = mine & out & (shown | (origin == "original"))
        axes.plot(x[hollow], scores[hollow], marker, color=colour, markersize=size, fillstyle="none", alpha=0.75)
        axes.plot(x[mine & ~out], scores[mine & ~out], marker, color=colour, markersize=size)
        if mine.any():
            axes.plot([], [], marker, color=colour, markersize=size, label=text)
    if out.any():
        text = f"dropped (1 in {every} shown)" if every > 1 else "dropped by a race"
        text = text.replace("dropped", "dropped or halted") if phase.record.unfinished else text
        axes.plot([], [], "o", color=INK, markersize=5, fillstyle="none", alpha=0.75, label=text)


def _winner(axes: Axes, phase: Phase, x: FloatArray, winner: str) -> None:
    for place, one in zip(x, phase.record.history, strict=True):
        if one.id == winner and math.isfinite(one.score):
            axes.plot([place], [one.score], "o", color=INK, markersize=11, fillstyle="none", label="the winner")
