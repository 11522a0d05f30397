"""Prompts on the same examples: their metrics, and how far their confidence can be believed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tp_dspy.report.plots.style import (
    INK,
    OTHERS,
    ROLES,
    NothingToDrawError,
    Role,
    drawing,
    label,
    legend_below,
    new_plot,
)
from tp_dspy.runs.side_by_side import PromptRecord, SideBySide
from tp_dspy.scoring.arrays import confidence_bins, with_confidence
from tp_dspy.scoring.held_out import HEADINGS
from tp_dspy.scoring.metrics import LOWER_IS_BETTER, reliability_curve
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.reports import LABELS
from tp_dspy.scoring.resampling import OutcomeArrays
from tp_dspy.sheets import number, signed

__all__ = ["Shown", "metric_bars", "reliability", "shown"]


@dataclass(frozen=True)
class Shown:
    """A prompt of a comparison, as it is drawn.

    Attributes:
        name: What it is called; two names if two of them are the same prompt.
        role: How it is drawn.
        record: What it did.
    """

    name: str
    role: Role
    record: PromptRecord

    @cached_property
    def arrays(self) -> OutcomeArrays:
        """Its outcomes as arrays, errors left out."""
        return OutcomeArrays.from_outcomes(Outcome(**dict(one)) for one in self.record.outcomes)


def shown(side_by_side: SideBySide) -> list[Shown]:
    """List the prompts to draw, in order; one that is there under two names once, e.g. "best source = target"."""
    found: list[Shown] = []
    others = 0
    for name, record in side_by_side.prompts.items():
        role = ROLES.get(name) or OTHERS[others % len(OTHERS)]
        others += name not in ROLES
        same = next((i for i, one in enumerate(found) if _same(one.record, record)), None)
        if same is None:
            found.append(Shown(label(name), role, record))
        else:
            found[same] = Shown(f"{found[same].name} = {label(name)}", role, record)
    return found


def _same(one: PromptRecord, other: PromptRecord) -> bool:
    return one.instructions == other.instructions and one.outcomes == other.outcomes


@drawing()
def metric_bars(side_by_side: SideBySide) -> Figure:
    """Draw each metric of each prompt as a bar with its 95 % interval.

    Raises:
        NothingToDrawError: If no prompt has a metric.
    """
    prompts = shown(side_by_side)
    own = list(dict.fromkeys(name for one in prompts for name in one.record.metrics.custom))
    values = [one.record.metrics.as_dict() for one in prompts]
    names = [
        name
        for name in ["score", *(name for name in HEADINGS if name != "score"), *own]
        if any(math.isfinite(row.get(name, math.nan)) for row in values)
    ]
    if not names:
        raise NothingToDrawError("There are no metrics to draw: no prompt of the comparison has one that is defined.")
    height = 0.8 / len(prompts)
    figure = new_plot(_difference(side_by_side), 7.8, 1.3 + len(names) * (0.16 + 0.19 * len(prompts)))
    axes = figure.subplots()
    for index, one in enumerate(prompts):
        places = np.arange(len(names)) + (index - (len(prompts) - 1) / 2) * height
        level = np.array([values[index].get(name, math.nan) for name in names])
        _bars(axes, one, places, level, height)
        for place, name, value in zip(places, names, level, strict=True):
            low, high = one.record.intervals.get(name, (math.nan, math.nan))
            if math.isfinite(low) and math.isfinite(value):
                axes.plot([low, high], [place] * 2, color=INK, linewidth=1.4, marker="|", markersize=5)
            text = f"{value:.3f}" if math.isfinite(value) else "undefined"
            axes.text(1.025, place, text, va="center", ha="left", fontsize=8)
    axes.plot([], [], color=INK, linewidth=1.4, marker="|", markersize=5, label="95 % interval")
    axes.set_yticks(range(len(names)), [_name(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.004)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("value, 0-1")
    legend_below(figure, axes)
    return figure


def _bars(axes: Axes, one: Shown, places: np.ndarray, level: np.ndarray, height: float) -> None:
    axes.barh(
        places,
        np.nan_to_num(level),
        height * 0.86,
        facecolor=one.role.colour if one.role.filled else "none",
        edgecolor=one.role.colour,
        hatch=one.role.hatch,
        linewidth=1.0,
        label=one.name,
    )


def _name(metric: str) -> str:
    text = LABELS.get(metric) or label(metric)
    return f"{text},\nlower is better" if metric in LOWER_IS_BETTER else text.replace(" (", "\n(")


def _difference(side_by_side: SideBySide) -> str:
    """Say what the last prompt gained on the first, as a title."""
    differences = side_by_side.differences
    name = "target" if "target" in differences else next(reversed(differences), None)
    if name is None or not math.isfinite(differences[name].score):
        return f"Metrics on {len(side_by_side.examples)} examples"
    one = differences[name]
    first = label(next(iter(side_by_side.prompts)))
    return (
        f"Score: {label(name)} less {first} {signed(one.score)} (95\u00a0% interval {signed(one.low)} to "
        f"{signed(one.high)}), n\u00a0=\u00a0{one.n}"
    )


@drawing()
def reliability(side_by_side: SideBySide, n_bins: int = 10) -> Figure:
    """Draw accuracy against confidence for each prompt, with the number of answers in each bin of confidence below.

    Args:
        side_by_side: The prompts.
        n_bins: Bins of confidence, of equal width.

    Raises:
        NothingToDrawError: If no answer has a confidence.
    """
    prompts = shown(side_by_side)
    if not any(np.isfinite(one.arrays.confidence).any() for one in prompts):
        raise NothingToDrawError("There is no reliability diagram: no answer has a confidence.")
    width = (5.0, 7.0, 7.8)[len(prompts) - 1] if len(prompts) <= 3 else 2.6 * len(prompts)
    # So that the diagrams are square, more or less.
    height = 1.8 + 4 / 3 * (width / len(prompts) - 0.4)
    figure = new_plot("Reliability: accuracy by confidence", width, height)
    grid = figure.subplots(2, len(prompts), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for column, one in enumerate(prompts):
        _diagram(grid[0, column], one, n_bins)
        _histogram(grid[1, column], one, n_bins)
    grid[0, 0].set_ylabel("accuracy, 0-1")
    grid[1, 0].set_ylabel("answers")
    legend_below(figure, grid[0, 0])
    return figure


def _diagram(axes: Axes, one: Shown, n_bins: int) -> None:
    curve = reliability_curve(one.arrays.correct, one.arrays.confidence, n_bins=n_bins)
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", alpha=0.8, label="as right as sure")
    gaps = axes.vlines(
        curve.confidence, curve.confidence, curve.accuracy, color=one.role.colour, linewidth=5, alpha=0.3
    )
    gaps.set_label("gap")
    axes.plot(
        curve.confidence,
        curve.accuracy,
        color=one.role.colour,
        linestyle=one.role.line,
        linewidth=1.0,
        alpha=0.9,
        clip_on=False,
        zorder=3,
        marker=one.role.marker,
        markersize=5.5,
        fillstyle="full" if one.role.filled else "none",
        label="answers in a bin",
    )
    known = int(np.isfinite(one.arrays.confidence).sum())
    without = one.arrays.confidence.size - known
    ece = one.record.metrics.ece
    counts = f"n = {known}" + (f", {without} more without a confidence" if without else "")
    axes.set_title(f"{one.name}\nECE {number(ece)}", pad=20)
    axes.text(0, 1.045, counts, transform=axes.transAxes, fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _histogram(axes: Axes, one: Shown, n_bins: int) -> None:
    _, sure = with_confidence(one.arrays.correct, one.arrays.confidence)
    counts = np.bincount(confidence_bins(sure, n_bins=n_bins), minlength=n_bins)
    axes.bar(
        (np.arange(n_bins) + 0.5) / n_bins,
        counts,
        0.86 / n_bins,
        facecolor=one.role.colour if one.role.filled else "none",
        edgecolor=one.role.colour,
        hatch=one.role.hatch,
    )
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_xlabel("confidence, 0-1")
