"""What racing saved: how far each candidate came before it was dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tp_dspy.report.plots.progress import saved_calls
from tp_dspy.report.plots.style import COLOURS, INK, NothingToDrawError, drawing, legend_below, new_plot
from tp_dspy.runs.records import CandidateRecord, PhaseRecord

__all__ = ["race"]

# With more candidates, a bar each can no longer be read.
_MOST_BARS = 60
_MOST_ROUNDS = 24
_MOST_STEPS = 5


@drawing()
def race(phase: PhaseRecord, name: str = "") -> Figure:
    """Draw how many examples each candidate met before a race dropped it, round by round.

    Up to 60 candidates have a bar each; of more, it shows how many of each round came how far.

    Args:
        phase: The phase.
        name: What it is called in the title, e.g. "source".

    Raises:
        NothingToDrawError: If it was not kept how far candidates came.
    """
    saved = saved_calls(phase)
    if saved is None:
        raise NothingToDrawError("There is no race to draw: the phase does not say how many examples candidates met.")
    of = f"Racing in the {name} phase" if name else "Racing"
    share = f" ({100 * saved[0] / saved[1]:.0f}\u00a0%)" if saved[1] else ""
    title = f"{of}: {saved[0]:,} of {saved[1]:,} scorer calls saved{share}"
    known = [one for one in phase.history if one.measurement is not None]
    panel = sum(phase.search.values())
    if len(known) > _MOST_BARS:
        return _by_round(phase, known, panel, title)
    figure = new_plot(title, 7.8, 1.5 + 0.105 * max(len(known), 8))
    axes = figure.subplots()
    _bars(axes, known, set(phase.dropped), panel)
    axes.axvline(panel, color=INK, linewidth=1.1, linestyle="--", alpha=0.75, label=f"all {panel} examples")
    axes.set_xlim(0, panel * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(False, axis="y")
    axes.set_xlabel("examples met (scorer calls of the candidate)")
    legend_below(figure, axes)
    return figure


def _met(one: CandidateRecord) -> int:
    return one.measurement.examples if one.measurement is not None else 0


def _bars(axes: Axes, known: Sequence[CandidateRecord], dropped: set[str], panel: int) -> None:
    """A bar for each candidate, from the top down in order of arrival, rounds apart."""
    rounds = np.array([one.round for one in known])
    # Half a bar of space between rounds.
    places = np.arange(len(known)) + 0.7 * np.cumsum(np.r_[0, np.diff(rounds) != 0])
    met, out = np.array([_met(one) for one in known]), np.array([one.id in dropped for one in known])
    blue = COLOURS["blue"]
    for some, text, fill, hatch in (
        (~out & (met >= panel), "met all examples", blue, ""),
        (out, "dropped before", "none", "/////"),
        (~out & (met < panel), "race halted before", "none", ""),
    ):
        if some.any():
            axes.barh(
                places[some], met[some], 0.72, facecolor=fill, hatch=hatch, edgecolor=blue, linewidth=0.8, label=text
            )
    if out.any():
        axes.plot(met[out], places[out], "x", color=COLOURS["vermillion"], markersize=5, markeredgewidth=1.6)
    first = np.flatnonzero(np.r_[True, np.diff(rounds) != 0])
    middle = [places[rounds_of].mean() for rounds_of in np.split(np.arange(len(known)), first[1:])]
    axes.set_yticks(middle, [f"round {rounds[i]}" for i in first])
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1] + 0.8, places[0] - 0.8)


def _by_round(phase: PhaseRecord, known: Sequence[CandidateRecord], panel: int, title: str) -> Figure:
    """How many candidates of each round, or of some rounds together, came how far."""
    rounds = sorted({one.round for one in known})
    size = -(-len(rounds) // _MOST_ROUNDS)
    groups = [rounds[i : i + size] for i in range(0, len(rounds), size)]
    steps = _steps(sorted({_met(one) for one in known if _met(one) < panel}), panel)
    counts = np.zeros((len(groups), len(steps)), dtype=int)
    row = {number: index for index, group in enumerate(groups) for number in group}
    ends = np.array([high for _, high in steps])
    for (number, met), count in Counter((one.round, _met(one)) for one in known).items():
        counts[row[number], np.searchsorted(ends, min(met, panel))] += count
    figure = new_plot(title, 7.8, 1.7 + 0.27 * max(len(groups), 4))
    axes = figure.subplots()
    _stacked(axes, counts, steps, panel, "dropped or halted" if phase.unfinished else "dropped")
    axes.set_yticks(range(len(groups)), [_rounds(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_xlabel("candidates")
    legend_below(figure, axes)
    return figure


def _steps(met: Sequence[int], panel: int) -> list[tuple[int, int]]:
    """Where candidates stopped, as ranges of examples, both ends with them; the whole panel last."""
    size = -(-len(met) // _MOST_STEPS) if met else 1
    groups = [met[i : i + size] for i in range(0, len(met), size)]
    return [(group[0], group[-1]) for group in groups] + [(panel, panel)]


def _rounds(group: Sequence[int]) -> str:
    return f"round {group[0]}" if len(group) == 1 else f"rounds {group[0]}-{group[-1]}"


def _stacked(axes: Axes, counts: np.ndarray, steps: Sequence[tuple[int, int]], panel: int, ended: str) -> None:
    left = np.zeros(len(counts))
    for index, (low, high) in enumerate(steps):
        whole = index == len(steps) - 1
        share = (index + 1) / len(steps)
        examples = f"{low}" if low == high else f"{low}-{high}"
        axes.barh(
            range(len(counts)),
            counts[:, index],
            0.74,
            left=left,
            # Darker the further they came, the last one solid: it can be told without colours.
            facecolor=COLOURS["blue"] if whole else (*_rgb(COLOURS["blue"]), 0.75 * share),
            edgecolor=COLOURS["blue"],
            hatch="" if whole else ("", "-----", "/////", "\\\\\\\\\\", "xxxxx")[index % 5],
            linewidth=0.8,
            label=f"met all {panel} examples" if whole else f"{ended} after {examples}",
        )
        left += counts[:, index]


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)
