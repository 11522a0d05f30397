"""Tables of numbers as pictures: prompts by tasks, and which source task helped which target."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tp_dspy.report.plots.progress import Phase, phases
from tp_dspy.report.plots.style import INK, NothingToDrawError, drawing, label, new_plot
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.influence import SourceInfluence
from tp_dspy.runs.records import CandidateRecord, PhaseRecord
from tp_dspy.scoring.set_objective import Metrics
from tp_dspy.sheets import signed

__all__ = ["heat_map", "influence_map"]

FloatArray = npt.NDArray[np.float64]

_MOST_PROMPTS = 5
_MOST_TASKS = 40
# With more, what is in a cell has to stand in one line.
_MOST_TALL_ROWS = 8


@drawing()
def heat_map(result: TransferResult) -> Figure:
    """Draw the score of the original, the source prompts and the target prompt on each task.

    Each score is on the most examples that the prompt has met of the task; how many, stands below it. What was not
    measured is hatched. At most 5 source prompts and 40 tasks are shown.

    Raises:
        NothingToDrawError: If nothing has a score.
    """
    prompts = _prompts(result)
    found = phases(result)
    # By phase: a source task may have the target's name, and is another one all the same.
    tasks = [(phase, name) for phase in found for name in _tasks(phase.record)]
    # Original and winner are of the phase that decided; there they may have met more than in the search.
    own = {phase.name: [result.original, result.winner] if phase is found[-1] else [] for phase in found}
    cells = [[_on(phase, task, name, own[phase.name]) for name in prompts.values()] for phase, task in tasks]
    scores = np.array([[math.nan if cell is None else cell.score for cell in row] for row in cells])
    if not np.isfinite(scores).any():
        raise NothingToDrawError("There is no heat map: none of the prompts has a score on a task.")
    often = Counter(task for _, task in tasks)
    names = [f"{label(task, 30)}{_of(phase, task, twice=often[task] > 1)}" for phase, task in tasks]
    left_out = len(tasks) - _MOST_TASKS
    title = "Score of prompts by task" + (f" (the last {_MOST_TASKS} of {len(tasks)} tasks)" if left_out > 0 else "")
    texts = [[_cell(cell) for cell in row] for row in cells]
    return _table(title, names[-_MOST_TASKS:], list(prompts), scores[-_MOST_TASKS:], texts[-_MOST_TASKS:], "YlGnBu", 1)


@drawing()
def influence_map(influence: SourceInfluence) -> Figure:
    """Draw what each source task brought to each target, with its 95 % interval.

    Raises:
        NothingToDrawError: If there is no source task or no target.
    """
    targets = list(influence.by_target)
    sources = list(dict.fromkeys(source for row in influence.by_target.values() for source in row))
    rows = [[influence.by_target[target].get(source) for target in targets] for source in sources]
    gains = np.array([[math.nan if one is None else one.gain for one in row] for row in rows])
    if not np.isfinite(gains).any():
        raise NothingToDrawError("There is no map of influence: it holds no source task that was left out.")
    texts = [
        ["" if one is None else f"{signed(one.gain)}\n{signed(one.low)} to {signed(one.high)}" for one in row]
        for row in rows
    ]
    title = "What each source task (row) brought to each target (column): gain in score"
    names = [label(source, 30) for source in sources]
    return _table(title, names, [label(target, 18) for target in targets], gains, texts, "PuOr", None)


def _tasks(phase: PhaseRecord) -> list[str]:
    return list(phase.search) or list(dict.fromkeys(name for one in phase.history for name in one.by_task))


def _prompts(result: TransferResult) -> dict[str, str]:
    """Candidate ids by what they are called."""
    if result.target is not None and result.target.history:
        carried = [one.id for one in result.target.history if one.origin == "source"]
    else:
        carried = [one.id for one in result.source.ranked] if result.source is not None else []
    carried = [one for one in dict.fromkeys(carried) if one != result.original.id][:_MOST_PROMPTS]
    names = {result.original.id: "original"} | {one: f"source {i}" for i, one in enumerate(carried, start=1)}
    known = names.get(result.winner.id)
    last = "target prompt" if result.target is not None else "best prompt"
    names[result.winner.id] = f"{known}\n= {last}" if known else last
    return {name: one for one, name in names.items()}


def _of(phase: Phase, task: str, *, twice: bool) -> str:
    """Say what a task is, where its name does not."""
    return f" ({phase.name})" if twice or (phase.name == "target" and task != "target") else ""


def _on(phase: Phase, task: str, candidate: str, more: Sequence[CandidateRecord]) -> Metrics | None:
    """What a candidate did on a task of a phase, on the most examples it has met of it."""
    records = [*more, *phase.record.ranked, *phase.record.history]
    met = [one.by_task[task] for one in records if one.id == candidate and task in one.by_task]
    met = [metrics for metrics in met if metrics.n and math.isfinite(metrics.score)]
    return max(met, key=lambda metrics: metrics.n, default=None)


def _cell(metrics: Metrics | None) -> str:
    return "" if metrics is None else f"{metrics.score:.3f}\nn = {metrics.n}"


def _table(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: FloatArray,
    texts: Sequence[Sequence[str]],
    colours: str,
    top: float | None,
) -> Figure:
    """Draw a table whose cells are coloured from 0 to `top`, or with None from -x to x around 0."""
    flat = len(rows) > _MOST_TALL_ROWS
    figure = new_plot(title, max(6.0, 2.6 + 1.15 * len(columns)), 1.1 + (0.27 if flat else 0.5) * max(len(rows), 2))
    axes = figure.subplots()
    reach = float(np.nanmax(np.abs(values))) or 1.0
    norm = Normalize(-reach, reach) if top is None else Normalize(0.0, top)
    map_ = colormaps[colours]
    axes.pcolormesh(np.ma.masked_invalid(values), cmap=map_, norm=norm, edgecolors="none")
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            _fill(axes, (i, j), text, map_(norm(values[i, j])) if math.isfinite(values[i, j]) else None, flat)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(rows)) + 0.5, rows)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return figure


def _fill(axes: Axes, place: tuple[int, int], text: str, colour: Sequence[float] | None, flat: bool) -> None:
    """Write into a cell, in one line if rows are flat; hatch it if there is nothing in it."""
    row, column = place
    if colour is None:
        gap = Rectangle((column, row), 1, 1, facecolor="none", edgecolor=INK, hatch="////", alpha=0.5, linewidth=0)
        axes.add_patch(gap)
        return
    red, green, blue = colour[:3]
    # On the colour of the cell, not on the page.
    ink = "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "#ffffff"
    head, _, rest = text.partition("\n")
    first, second = ((column + 0.3, row + 0.5), (column + 0.72, row + 0.5))
    if not flat:
        first, second = ((column + 0.5, row + 0.38), (column + 0.5, row + 0.73))
    axes.text(*first, head, ha="center", va="center", color=ink, fontsize=9 if flat else 10, fontweight="bold")
    axes.text(*second, rest, ha="center", va="center", color=ink, fontsize=7.5)
