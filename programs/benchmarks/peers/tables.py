"""Tables of the cells, as Markdown, LaTeX, CSV and JSON, and the curve of score against calls."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from programs.benchmarks.peers.figures import METRICS, Mean, Table
from programs.benchmarks.peers.methods import METHODS
from tp_dspy.runs.folders import write_whole
from tp_dspy.scoring.held_out import HEADINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["against", "all_tables", "as_json", "as_markdown", "curve", "markdown", "summary", "write"]

_OURS = "at_hand"
_OURS_TOO = ("scratch", "at_hand")
_COLUMNS = """\
calls: distinct pairs of prompt and example that were paid for; runs: of the program, repeats too; replies: of the
reference LM, for ours with a first one that shows whether it is there; all as means of a compile. with errors: compiles
in which the optimiser raised an error of its own, as a rule because it could not read a reply; it was begun anew, up to
three times, and what it had measured best counts, or else the original prompt. Source prompts at hand were made
before, with a budget as large, which is not counted. Below, won : tied : lost counts targets and seeds, and the
Wilcoxon test is of the targets, where at least six differ.
All have a program whose questions list the allowed answers, and the target's examples; ours have source tasks beside.
What the target is in words is told to nobody but who wrote a prompt by hand (and to "ours, told in a sentence ...")."""
_PEERS = ("copro", "miprov2", "gepa", "simba", "capo")


def main_table(table: Table) -> pd.DataFrame:
    """A row for each method: metrics with intervals, rank, and what it took."""
    ranks = table.ranks().by_method
    rows = {}
    for method in table.methods:
        cells = {HEADINGS[name]: _interval(table.mean(method, name)) for name in METRICS}
        took = {"calls": f"{table.total(method, 'pairs'):.0f}", "runs": f"{table.total(method, 'runs'):.0f}"}
        took["replies"] = f"{table.total(method, 'reference_replies'):.0f}"
        took["with errors"] = f"{table.errors(method)} of {len(table.blocks)}"
        rows[_title(method)] = {**cells, "rank": _number(ranks.get(method, math.nan)), **took}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def summary(table: Table) -> pd.DataFrame:
    """The main table in short: an interval of the score alone."""
    ranks = table.ranks().by_method
    rows = {}
    for method in table.methods:
        cells = {HEADINGS["score"]: _interval(table.mean(method))}
        cells |= {HEADINGS[name]: _number(table.mean(method, name).value) for name in METRICS[1:]}
        took = {
            "calls": f"{table.total(method, 'pairs'):.0f}",
            "replies": f"{table.total(method, 'reference_replies'):.0f}",
        }
        rows[_title(method)] = {**cells, "rank": _number(ranks.get(method, math.nan)), **took}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def by_target(table: Table, metric: str = "score") -> pd.DataFrame:
    """A row for each method, a column for each target: one metric, mean over seeds."""
    rows = {_title(m): {t: _number(table.of_target(m, t, metric)) for t in table.targets} for m in table.methods}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(HEADINGS[metric])


def against(table: Table, ours: str) -> pd.DataFrame:
    """A row for each other method: the paired difference of the score."""
    rows = {}
    for other in table.methods:
        if other != ours:
            d = table.difference(ours, other)
            rows[_title(other)] = {
                "difference": f"{d.mean.value:+.3f} [{d.mean.low:+.3f}, {d.mean.high:+.3f}]",
                "won : tied : lost": f"{d.wins} : {d.ties} : {d.losses}",
                "Wilcoxon p": "-" if math.isnan(d.p_value) else f"{d.p_value:.3f}",
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"{_title(ours)} against")


def reached(table: Table, ours: str) -> pd.DataFrame:
    """A row for each target: the best peer, and with what share of its calls ours is as good."""
    peers = [peer for peer in _PEERS if peer in table.methods]
    rows = {}
    for target in table.targets if peers else ():
        best, ratio = table.calls_to_reach(ours, target, peers)
        cells = {"best peer": f"{_title(best)} ({_number(table.of_target(best, target))})"}
        said = "not reached" if ratio is None else "-, the peer made none" if math.isnan(ratio) else f"{ratio:.2f}"
        rows[target] = cells | {"calls, as a ratio": said}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("target")


def proposals(table: Table) -> pd.DataFrame:
    """A row for each method that asks as ours does: what became of the replies, over all compiles."""
    rows = {}
    for method in table.methods:
        kept = [table.found[method][block].cell.get("proposals") or (0, 0, 0) for block in table.blocks]
        asked, usable, better = (sum(figures) for figures in zip(*kept, strict=True))
        if asked:
            shares = {"usable": f"{usable / asked:.2f}", "better than their parent": f"{better / asked:.2f}"}
            rows[_title(method)] = {"replies": str(asked)} | shares
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("replies of the reference LM")


def all_tables(table: Table) -> dict[str, pd.DataFrame]:
    """All tables by what is said above them."""
    ranks = table.ranks()
    targets, blocks = len(table.targets), len(table.blocks)
    test = "" if math.isnan(ranks.p_value) else f"; Friedman test of the ranks: p = {ranks.p_value:.2g}"
    drawn = "95 % intervals over targets, seeds and questions"
    said = f"Held-out metrics: means over {targets} targets, each the mean of its seeds ({blocks} blocks), {drawn}"
    made = {f"{said}{test}": main_table(table), "Held-out score by target": by_target(table)}
    for ours in reversed(_OURS_TOO):
        if ours in table.methods:
            made[f"{_title(ours)}: paired differences of the held-out score"] = against(table, ours)
    if _OURS in table.methods:
        said = "scorer calls until it is as good as the best peer at its end, by those of the peer until then"
        made[f"{_title(_OURS)}: {said}"] = reached(table, _OURS)
    said = "Shares of the replies that passed the guards, and that scored above their parent on the search"
    made[said] = proposals(table)
    return {title: frame for title, frame in made.items() if len(frame)}


def markdown(table: Table) -> str:
    """All tables as Markdown."""
    parts = [f"{title}\n\n{as_markdown(frame)}" for title, frame in all_tables(table).items()]
    return "\n\n".join([parts[0], _COLUMNS, *parts[1:]]) + "\n"


def as_json(table: Table) -> dict[str, Any]:
    """All figures as plain values."""
    return {
        "blocks": [list(block) for block in table.blocks],
        "methods": {
            method: {
                "metrics": {name: _plain(table.mean(method, name)) for name in METRICS},
                "took": {name: table.total(method, name) for name in ("pairs", "runs", "reference_replies", "seconds")},
                "settings": [table.found[method][block].cell["settings"] for block in table.blocks][:1],
                "proposals": [table.found[method][block].cell.get("proposals") for block in table.blocks],
                "ended": [table.found[method][block].cell["ended"] for block in table.blocks],
            }
            for method in table.methods
        },
        "ranks": dict(table.ranks().by_method),
    }


def curve(table: Table) -> Figure:
    """Draw the held-out score of the best so far against scorer calls, means over targets."""
    from tp_dspy.report.plots.style import COLOURS, INK, drawing, legend_below, new_plot

    @drawing()
    def draw() -> Figure:
        figure = new_plot("Held-out score of the best so far, by scorer calls", 7.8, 4.6)
        axes = figure.subplots()
        # To the end of the longest compile: what was chosen in the end comes with its last call.
        last = max(found.cell["pairs"] for method in table.found.values() for found in method.values())
        calls = np.linspace(1, last, 200)
        lines = itertools.cycle([(colour, line) for line in ("-", (0, (5, 1.5))) for colour in COLOURS.values()])
        searching = sorted(
            (m for m in table.methods if METHODS[m].searches), key=lambda method: method not in _OURS_TOO
        )
        looks = dict(zip(searching, lines, strict=False))
        fixed = [method for method in table.methods if method not in searching]
        for number, method in enumerate(table.methods):
            y = table.curve(method, calls)
            look: dict[str, Any] = {"label": _title(method)}
            if METHODS[method].searches:
                # Methods that found the same prompt lie on each other; markers at other places tell them apart.
                colour, line = looks[method]
                look |= {"color": colour, "linestyle": line, "marker": "osD^vP*X<>"[number % 10], "markersize": 5}
                look |= {"markevery": (10 * number % 40, 40), "linewidth": 2.6 if method in _OURS_TOO else 1.2}
            else:
                look |= {
                    "color": INK,
                    "linestyle": ("-", "--")[fixed.index(method) % 2],
                    "linewidth": 1.0,
                    "alpha": 0.6,
                }
            axes.step(calls, y, where="post", **look)
        axes.set_xlabel("scorer calls: distinct pairs of prompt and example")
        axes.set_ylabel("held-out score (0 to 1)")
        axes.set_xlim(0, last * 1.01)
        legend_below(figure, axes)
        return figure

    return draw()


def write(table: Table, folder: Path) -> list[Path]:
    """Write everything there is to look at."""
    frames = all_tables(table)
    files = {
        "table.md": markdown(table),
        "summary.md": as_markdown(summary(table)) + "\n",
        "table.tex": "\n".join(f"% {title}\n{frame.style.to_latex(hrules=True)}" for title, frame in frames.items()),
        "table.csv": "\n".join(f"{title}\n{frame.to_csv()}" for title, frame in frames.items()),
        "table.json": json.dumps(as_json(table), indent=1) + "\n",
    }
    written = [write_whole(folder / name, text.encode()) for name, text in files.items()]
    figure = curve(table)
    for suffix in ("svg", "png"):
        figure.savefig(folder / f"curve.{suffix}")
        written.append(folder / f"curve.{suffix}")
    return written


def _title(method: str) -> str:
    return METHODS[method].title


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _interval(mean: Mean) -> str:
    return "-" if math.isnan(mean.value) else f"{mean.value:.3f} [{mean.low:.2f}, {mean.high:.2f}]"


def _plain(mean: Mean) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 4) for value in (mean.value, mean.low, mean.high)]


def as_markdown(frame: pd.DataFrame) -> str:
    """One table as Markdown."""
    rows: list[Sequence[str]] = [[str(frame.index.name), *map(str, frame.columns)], ["---"] * (1 + len(frame.columns))]
    rows += [[str(name), *map(str, row)] for name, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
