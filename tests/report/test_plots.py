"""Plots show the numbers that were measured, are left out where there are none, and keep any name inert."""

from __future__ import annotations

import functools
import io
import math
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import dspy
import matplotlib
import numpy as np
import pytest
from matplotlib.backend_bases import RendererBase
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Measurement, Origin
from tp_dspy.report import plots
from tp_dspy.report.plots.progress import saved_calls
from tp_dspy.report.plots.style import COLOURS, label
from tp_dspy.report.rows import candidates
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.frames import fate
from tp_dspy.runs.influence import Influence, SourceInfluence
from tp_dspy.runs.records import CandidateRecord, PhaseRecord
from tp_dspy.runs.side_by_side import SideBySide
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.metrics import reliability_curve
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.set_objective import Metrics, SetObjective
from tp_dspy.scoring.weights import Weights

NAN = math.nan
RULE = SetObjective(Weights.of(None))
HOSTILE = '</svg><script>alert(1)</script>$x$ \u202eevil\u200b\u0000\ud800 & "q" 日本語 _x^{2} ' + "long" * 60
NAMES = [
    "score_curve",
    "metric_bars",
    "metric_curves",
    "reliability",
    "roc",
    "precision_recall",
    "race_source",
    "race_target",
    "heat_map",
]


def metrics(score: float, n: int = 10, **values: float) -> Metrics:
    known = dict.fromkeys(("ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative", "brier"), score)
    return Metrics(n=n, errors=0, score=score, **(known | values))


def record(
    name: str,
    score: float,
    met: int | None = 10,
    *,
    origin: Origin = "proposal",
    round: int = 0,
    tasks: Sequence[str] = ("law",),
    **values: float,
) -> CandidateRecord:
    ends = {} if math.isnan(score) else {"score": (score - 0.1, score + 0.1), "accuracy": (0.0, 1.0)}
    return CandidateRecord(
        id=name,
        instructions={"self": name},
        origin=origin,
        score=score,
        by_task={task: metrics(score, **values) for task in tasks},
        round=round,
        measurement=None if met is None else Measurement(met, ends),
    )


def phase(
    *history: CandidateRecord, dropped: Sequence[str] = (), search: Mapping[str, int] | None = None
) -> PhaseRecord:
    ranked = sorted((one for one in history if one.score == one.score), key=lambda one: -one.score)[:3]
    return PhaseRecord(
        ranked=ranked or list(history[:1]),
        history=list(history),
        dropped=list(dropped),
        proposals=[],
        stopped="all rounds done",
        scorer_usage=Usage(),
        reference_usage=Usage(),
        interaction=0.0,
        search={"law": 10} if search is None else dict(search),
    )


def result(source: PhaseRecord | None, target: PhaseRecord | None, **more: SideBySide | None) -> TransferResult:
    last = target or source
    assert last is not None
    own = next((one for one in last.history if one.origin == "original"), last.history[0])
    return TransferResult(
        winner=last.ranked[0],
        original=own,
        source=source,
        target=target,
        stopped="all rounds done",
        seconds=1.0,
        settings={"objective": {"n_bins": 10}},
        **more,
    )


def outcomes(
    n: int = 40, *, seed: int = 0, graded: bool = False, sure: bool = True, right: float = 0.6
) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        correct = float(rng.random()) if graded else float(rng.random() < right)
        made.append(Outcome("ok", True, correct, float(rng.random()) if sure else None, "yes", "yes"))
    return [*made, Outcome("unparsed"), Outcome("error")]


def side_by_side(**of: list[Outcome]) -> SideBySide:
    evaluations = {name.replace("_", " "): evaluate(rows, RULE, resamples=50) for name, rows in of.items()}
    size = len(next(iter(of.values())))
    examples = [dspy.Example(question=str(i)).with_inputs("question") for i in range(size)]
    return SideBySide.of(evaluations, {name: {"self": name} for name in evaluations}, examples)


@functools.cache
def compared() -> SideBySide:
    return side_by_side(
        original=outcomes(seed=1, right=0.3), best_source=outcomes(seed=2), target=outcomes(seed=3, graded=True)
    )


def small() -> TransferResult:
    """A result of both phases, a few candidates each."""
    own = record("own", 0.3, 5, origin="original")
    source = phase(
        record("general", 0.4, origin="general"), own, record("p1", 0.6, round=1), dropped=["own"], search={"law": 10}
    )
    target = phase(
        record("p1", 0.5, origin="source", tasks=["finance"]),
        record("own", 0.2, 5, origin="original", tasks=["finance"]),
        record("p2", 0.7, round=1, tasks=["finance"]),
        dropped=["own"],
        search={"finance": 10},
    )
    return result(source, target, selection=compared())


@functools.cache
def large(tasks: tuple[str, ...] = ("law", "medicine")) -> TransferResult:
    """A result of 2,000 candidates in each phase, most of them dropped."""
    rng = np.random.default_rng(0)

    def made(names: Sequence[str]) -> PhaseRecord:
        history = [record("own", 0.3, 50, origin="original", tasks=names)]
        for i in range(1, 2000):
            met = int(rng.choice([50, 100, 150, 200], p=[0.5, 0.25, 0.15, 0.1]))
            score = float(np.clip(0.3 + 0.0002 * i + rng.normal(0, 0.08), 0, 1))
            history.append(record(f"p{i}", score, met, round=1 + i // 40, tasks=names))
        dropped = [one.id for one in history if one.measurement and one.measurement.examples < 200]
        return phase(*history, dropped=dropped, search={name: 200 // len(names) for name in names})

    return result(made(tasks), made(["finance"]), held_out=compared())


def drawn(figure: Figure, name: str, panel: int = 0) -> tuple[list[float], list[float]]:
    """The data of the line that is called so."""
    (line,) = (line for line in figure.axes[panel].get_lines() if line.get_label().startswith(name))
    return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))


def title(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


# The search.


def test_the_best_so_far_rises_with_those_that_met_all_examples_and_never_with_a_dropped_one():
    history = [
        record("own", 0.4, 10, origin="original"),
        record("lucky", 0.9, 5),
        record("better", 0.6, 10, round=1),
        record("lost", NAN, 10, round=1),
        record("worse", 0.5, 10, round=2),
    ]
    figure = plots.score_curve(result(None, phase(*history, dropped=["lucky"])))
    assert drawn(figure, "best so far") == ([10.0, 25.0, 45.0], [0.4, 0.6, 0.6])
    assert drawn(figure, "the original")[1] == [0.4, 0.4]
    (band,) = figure.axes[0].findobj(FillBetweenPolyCollection)
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.3) and heights.max() == pytest.approx(0.7)
    hollow = [line for line in figure.axes[0].get_lines() if line.get_fillstyle() == "none"]
    assert (5.0 + 10.0, 0.9) in [(x, y) for line in hollow for x, y in line.get_xydata().tolist()]


def test_a_candidate_that_keeps_the_constraints_leads_one_that_scores_more_and_does_not():
    kept = record("kept", 0.5)
    missed = record("missed", 0.9, violation=0.2)
    figure = plots.score_curve(result(None, phase(missed, kept)))
    assert drawn(figure, "best so far")[1] == [0.9, 0.5]


def test_of_many_dropped_candidates_some_are_shown_and_the_legend_says_how_many():
    lost = [record(f"p{i}", 0.5, 5, round=1) for i in range(4500)]
    history = [record("own", 0.3, origin="original"), *lost, record("last", 0.6, round=2)]
    figure = plots.score_curve(result(None, phase(*history, dropped=[one.id for one in lost])))
    shown = sum(line.get_xydata().shape[0] for line in figure.axes[0].get_lines() if line.get_fillstyle() == "none")
    assert shown == 1500 + 1  # and the ring around the winner
    assert "dropped (1 in 3 shown)" in texts(figure)
    assert len(plots.svg(figure)) < 250_000


def test_candidates_are_counted_where_their_calls_were_not_kept():
    history = [record("own", 0.4, None, origin="original"), record("b", 0.6, None)]
    figure = plots.score_curve(result(phase(*history, search={}), None))
    assert drawn(figure, "best so far") == ([1.0, 2.0], [0.4, 0.6])
    assert "order of arrival" in figure.axes[0].get_xlabel()


def test_phases_have_panels_of_their_own_and_the_title_says_what_was_gained():
    figure = plots.score_curve(small())
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Source phase: law", "Target phase: finance"]
    chosen = small().selection
    assert chosen is not None
    before, after = chosen.prompts["original"].metrics.score, chosen.prompts["target"].metrics.score
    assert f"{before:.3f} → {after:.3f} ({after - before:+.3f}) on 41 of 42 examples it was chosen on" in title(figure)


def test_the_title_has_the_gain_of_the_paired_difference_where_some_answers_are_missing():
    rows = outcomes(30)
    lost = [*[Outcome("error")] * 10, *outcomes(30, seed=1)[10:]]
    found = side_by_side(original=lost, target=rows)
    change, own = found.differences["target"], found.prompts["target"].metrics.score
    before, after = found.paired["target"]
    assert change.n == 21 and after - before == pytest.approx(change.score) and after != pytest.approx(own)
    figure = plots.score_curve(small().model_copy(update={"held_out": found}))
    assert f"{before:.3f} → {after:.3f} ({change.score:+.3f}) on 21 of 32 held-out examples" in title(figure)


def test_what_was_not_measured_on_the_same_has_no_gain():
    half = record("own", 0.2, 5, origin="original", n=5)
    chosen = result(None, phase(half, record("p", 0.7), search={"law": 10}))
    assert "→" not in title(plots.score_curve(chosen))
    nobody = side_by_side(original=[Outcome("error"), *outcomes(1)[:1]], target=[*outcomes(1)[:1], Outcome("error")])
    assert "→" not in title(plots.score_curve(small().model_copy(update={"held_out": nobody})))


def test_the_search_is_drawn_by_examples_and_calls_nothing_a_call():
    """What was known already costs no call, and a program of two predictors takes two."""
    for figure in (plots.score_curve(small()), plots.metric_curves(small())):
        assert "scorer calls" not in texts(figure)
        assert {axes.get_xlabel().partition(" (")[0] for axes in figure.axes} - {""} == {"examples met"}


def test_metric_curves_show_the_metrics_of_the_best_averaged_over_tasks():
    own = record("own", 0.4, 10, origin="original", tasks=["law", "medicine"])
    better = record("better", 0.6, 10, tasks=["law", "medicine"])
    better.by_task["medicine"] = metrics(0.6, accuracy=0.2, ece=NAN)
    figure = plots.metric_curves(result(phase(own, better), None))
    by_title = {axes.get_title(loc="left"): index for index, axes in enumerate(figure.axes)}
    assert drawn(figure, "source phase", by_title["ACC"]) == ([10.0, 20.0], [0.4, 0.4])
    assert drawn(figure, "source phase", by_title["IFR"]) == ([10.0, 20.0], [0.4, 0.6])
    _, y = drawn(figure, "source phase", by_title["ECE ↓ (lower is better)"])
    assert y[0] == 0.4 and math.isnan(y[1])


def test_racing_tells_the_calls_it_saved():
    one = phase(record("a", 0.5), record("b", 0.4, 4), record("c", 0.3, 5, round=1), dropped=["b", "c"])
    assert saved_calls(one) == (6 + 5, 30)
    figure = plots.race(one, "source")
    assert title(figure) == "Racing in the source phase: 11 of 30 scorer calls saved (37 %)"
    assert sorted(patch.get_width() for patch in figure.axes[0].patches) == [4, 5, 10]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["round 0", "round 1"]
    (ends,) = (line for line in figure.axes[0].get_lines() if line.get_marker() == "x")
    assert sorted(ends.get_xdata()) == [4, 5]


def test_of_a_halted_race_nobody_is_called_dropped_and_nothing_is_called_saved():
    history = [record("own", 0.5, origin="original"), record("out", 0.4, 4), record("open", 0.9, 5, round=1)]
    one = phase(*history, dropped=["out"]).model_copy(update={"unfinished": ["open"], "ranked": history[:1]})
    assert saved_calls(one) == (6, 10 + 10 + 5)
    labels = {bars.get_label() for bars in plots.race(one).axes[0].containers}
    assert labels == {"met all examples", "dropped before", "race halted before"}
    curve = plots.score_curve(result(None, one))
    assert set(drawn(curve, "best so far")[1]) == {0.5} and "dropped or halted by a race" in texts(curve)
    rows = {row["id"]: (row["kind"], row["fate"]) for row in candidates(result(None, one))["rows"]}
    assert rows["out"][0] == "dropped" and rows["open"] == ("unfinished", "race halted after 5 of 10 examples")
    assert [fate(record, one) for record in history] == ["winner", "dropped", "unfinished"]


def test_a_race_of_thousands_counts_them_by_round_and_how_far_they_came():
    source = large().source
    assert source is not None
    figure = plots.race(source)
    (axes,) = figure.axes
    assert sum(patch.get_width() for patch in axes.patches) == 2000
    by_label = {bars.get_label(): sum(bar.get_width() for bar in bars) for bars in axes.containers}
    met = [one.measurement.examples for one in source.history if one.measurement]
    assert by_label == {
        "dropped after 50": met.count(50),
        "dropped after 100": met.count(100),
        "dropped after 150": met.count(150),
        "met all 200 examples": met.count(200),
    }


# Comparisons.


def test_the_area_under_the_roc_curve_is_the_auroc_graded_answers_too():
    chosen = compared()
    figure = plots.roc(chosen)
    for name, prompt in chosen.prompts.items():
        wrong, right = drawn(figure, name)
        assert np.trapezoid(right, wrong) == pytest.approx(prompt.metrics.auroc)
        assert f"{name}\nAUROC {prompt.metrics.auroc:.3f} (n = 40)" in texts(figure)


def test_the_areas_under_the_precision_recall_steps_are_pr_p_and_pr_n():
    chosen = compared()
    figure = plots.precision_recall(chosen)
    for name, prompt in chosen.prompts.items():
        for panel, area in enumerate((prompt.metrics.auprc_positive, prompt.metrics.auprc_negative)):
            recall, precision = drawn(figure, name, panel)
            assert recall[0] == 0 and recall[-1] == 1
            assert float(np.sum(np.diff(recall) * precision[1:])) == pytest.approx(area)


def test_curves_say_why_there_is_none_and_are_left_out_when_no_prompt_has_one():
    right, unsure = outcomes(8, right=1.0), outcomes(8, sure=False)
    figure = plots.roc(side_by_side(original=right, best_source=unsure, target=outcomes(8)))
    assert "original\nundefined, all 8 answers right" in texts(figure)
    assert "best source\nundefined, no confidence" in texts(figure)
    for draw in (plots.roc, plots.precision_recall):
        with pytest.raises(plots.NothingToDrawError, match="original: all 8 answers right; target: no confidence"):
            draw(side_by_side(original=right, target=unsure))
    with pytest.raises(plots.NothingToDrawError, match="no answer has a confidence"):
        plots.reliability(side_by_side(original=unsure, target=outcomes(8, sure=False)))


def test_reliability_points_are_those_of_the_curve_and_the_counts_below_add_up():
    chosen = compared()
    figure = plots.reliability(chosen, n_bins=5)
    diagrams, counts = figure.axes[:3], figure.axes[3:]
    for index, (name, prompt) in enumerate(chosen.prompts.items()):
        rows = [one for one in prompt.outcomes if one.status == "ok"]
        curve = reliability_curve([one.correct for one in rows], [one.confidence for one in rows], n_bins=5)
        confidence, accuracy = drawn(figure, "answers in a bin", index)
        assert confidence == pytest.approx(curve.confidence) and accuracy == pytest.approx(curve.accuracy)
        assert [bar.get_height() for bar in counts[index].patches if bar.get_height()] == curve.count.tolist()
        assert diagrams[index].get_title(loc="left") == f"{name}\nECE {prompt.metrics.ece:.3f}"
        assert "n = 40, 1 more without a confidence" in [text.get_text() for text in diagrams[index].texts]


def test_bars_are_as_long_as_the_metrics_and_whiskers_as_the_intervals():
    chosen = compared()
    figure = plots.metric_bars(chosen)
    (axes,) = figure.axes
    names = ["score", "ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative"]
    whiskers = {tuple(line.get_xdata()) for line in axes.get_lines()}
    for bars, (name, prompt) in zip(axes.containers, chosen.prompts.items(), strict=True):
        assert bars.get_label() == name
        assert [bar.get_width() for bar in bars] == pytest.approx([prompt.metrics.as_dict()[one] for one in names])
        assert {tuple(prompt.intervals[one]) for one in names} <= whiskers
    ticks = [tick.get_text() for tick in axes.get_yticklabels()]
    assert ["lower is better" in tick for tick in ticks] == [name == "ece" for name in names]
    one = chosen.differences["target"]
    assert f"{one.score:+.3f} (95 % interval {one.low:+.3f} to {one.high:+.3f}), n = {one.n}" in title(figure)


def test_a_prompt_that_goes_by_two_names_is_drawn_once():
    chosen = compared()
    same = chosen.model_copy(update={"prompts": chosen.prompts | {"best source": chosen.prompts["target"]}})
    (axes,) = plots.metric_bars(same).axes
    assert [bars.get_label() for bars in axes.containers] == ["original", "best source = target"]


# Maps.


def test_the_heat_map_has_a_score_where_one_was_measured_and_hatches_elsewhere():
    figure = plots.heat_map(small())
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["original", "source 1", "target prompt"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["law", "finance (target)"]
    cells = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts[::2]}
    assert cells == {(0, 0): "0.300", (0, 1): "0.600", (1, 0): "0.200", (1, 1): "0.500", (1, 2): "0.700"}
    (gap,) = axes.patches
    assert gap.get_xy() == (2, 0) and gap.get_hatch()


def test_the_heat_map_takes_the_score_on_the_most_examples():
    twice = record("own", 0.3, origin="original"), record("own", 0.5, origin="original", accuracy=0.1)
    twice[1].by_task["law"] = metrics(0.5, n=40)
    found = phase(twice[0])
    figure = plots.heat_map(result(found.model_copy(update={"ranked": [twice[1]]}), None))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0.500", "n = 40"]


def test_a_source_task_with_the_name_of_the_target_has_a_row_of_its_own():
    for name, rows in (("target", ["target (source)", "target (target)"]), ("law", ["law (source)", "law (target)"])):
        source = phase(record("own", 0.1, origin="original", tasks=[name], n=30), search={name: 30})
        target = phase(record("own", 0.9, origin="original", tasks=[name]), search={name: 10})
        (axes,) = plots.heat_map(result(source, target)).axes
        assert [tick.get_text() for tick in axes.get_yticklabels()] == rows
        assert [text.get_text() for text in axes.texts] == ["0.100", "n = 30", "0.900", "n = 10"]
    alone = plots.heat_map(result(None, phase(record("own", 0.9, tasks=["target"]), search={"target": 10})))
    assert [tick.get_text() for tick in alone.axes[0].get_yticklabels()] == ["target"]


def test_the_map_of_influence_has_gains_and_intervals():
    found = SourceInfluence(
        {"finance": {"law": Influence(0.1, -0.05, 0.2, 1)}, "$t$": {"law": Influence(-0.2, -0.3, -0.1, 2)}},
        {"finance": 0.7, "$t$": 0.5},
    )
    figure = plots.influence_map(found)
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "+0.100",
        "-0.050 to +0.200",
        "-0.200",
        "-0.300 to -0.100",
    ]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["finance", "$t$"]
    with pytest.raises(plots.NothingToDrawError):
        plots.influence_map(SourceInfluence({}, {}))


# All of them.


def test_all_plots_of_a_result_come_in_reading_order_on_held_out_examples_where_there_are_some():
    assert list(plots.figures(small())) == NAMES
    measured = side_by_side(original=outcomes(20), target=outcomes(20, seed=7))
    drawn_ = plots.figures(small().model_copy(update={"held_out": measured}))
    assert "21 of 22 held-out examples" in title(drawn_["score_curve"])
    assert "n = 21" in title(drawn_["metric_bars"])


OWN = record("own", 0.3, 5, origin="original")
LOST = record("own", NAN, None, origin="original")
PARTIAL: dict[str, tuple[Callable[[], TransferResult], set[str]]] = {
    "source phase only": (
        lambda: result(small().source, None),
        {"score_curve", "metric_curves", "race_source", "heat_map"},
    ),
    "target phase only": (
        lambda: result(None, small().target, selection=compared()),
        set(NAMES) - {"race_source"},
    ),
    "an old file": (
        lambda: result(phase(record("own", 0.3, None, origin="original"), search={}), None),
        {"score_curve", "metric_curves", "heat_map"},
    ),
    "one candidate": (lambda: result(phase(OWN), None), {"score_curve", "metric_curves", "race_source", "heat_map"}),
    "nothing scored": (lambda: result(phase(LOST), phase(LOST, search={})), set()),
    "an empty target phase": (
        lambda: result(small().source, None).model_copy(
            update={"target": phase(OWN).model_copy(update={"history": [], "ranked": []})}
        ),
        {"score_curve", "metric_curves", "race_source", "heat_map"},
    ),
    "no confidence": (
        lambda: small().model_copy(
            update={"selection": side_by_side(original=outcomes(9, sure=False), target=outcomes(9, sure=False, seed=1))}
        ),
        set(NAMES) - {"reliability", "roc", "precision_recall"},
    ),
}


@pytest.mark.parametrize("case", PARTIAL)
def test_what_has_no_data_is_left_out(case: str):
    make, expected = PARTIAL[case]
    assert set(plots.figures(make())) == expected


def named(name: str) -> TransferResult:
    """A result whose tasks and prompts all have this name."""
    tasks = [name, name + "2"]
    history = [record("own", 0.3, 10, origin="original", tasks=tasks), record("p", 0.6, 20, tasks=tasks)]
    chosen = compared()
    prompts = dict(zip([name, name + "2", "target"], chosen.prompts.values(), strict=True))
    differences = {"target": chosen.differences["target"]}
    search = dict.fromkeys(tasks, 10)
    return result(
        phase(*history, search=search, dropped=["own"]),
        phase(*history, search=search, dropped=["own"]),
        held_out=chosen.model_copy(update={"prompts": prompts, "differences": differences}),
    )


EXTREMES: dict[str, Callable[[], TransferResult]] = {
    "a small result": small,
    "one candidate": PARTIAL["one candidate"][0],
    "nothing scored": PARTIAL["nothing scored"][0],
    "2,000 candidates": large,
    "hostile names": lambda: named(HOSTILE),
    "an underscore": lambda: named("_"),
    "a formula that is none": lambda: named(r"$\frac{x$ {$}"),
    "other scripts": lambda: named("日本 עברית हिन्दी 😀"),
    "no letters at all": lambda: named("\u200b"),
    "40 source tasks": lambda: large(tuple(f"benchmark/of some domain/number {i}" for i in range(40))),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Text, Bbox]]:
    """Every text that is drawn while the test runs."""
    found: dict[Text, Bbox] = {}
    draw = Text.draw

    def kept(self: Text, renderer: RendererBase, *args: object, **options: object) -> None:
        if self.get_visible() and self.get_text().strip():
            found[self] = self.get_window_extent(renderer)
        draw(self, renderer, *args, **options)

    monkeypatch.setattr(Text, "draw", kept)
    yield found


@pytest.mark.parametrize("case", EXTREMES)
def test_no_text_is_cut_off_or_written_over_another_whatever_the_result(case: str, written: dict[Text, Bbox]):
    for name, figure in plots.figures(EXTREMES[case]()).items():
        written.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.savefig(io.BytesIO(), dpi=100)
        page = figure.bbox.padded(1)
        assert written, name
        boxes = [(text.get_text(), box) for text, box in written.items()]
        cut = [text for text, box in boxes if not page.contains(*box.min) or not page.contains(*box.max)]
        assert not cut, name
        over = [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.padded(-2).overlaps(other.padded(-2))]
        assert not over, name


@pytest.mark.parametrize("case", ["a small result", "2,000 candidates", "hostile names", "a formula that is none"])
def test_svg_can_be_put_into_a_page_as_it_is(case: str):
    ids: list[str] = []
    for name, figure in plots.figures(EXTREMES[case]()).items():
        drawn_ = plots.svg(figure)
        assert len(drawn_) < 250_000, name
        root = ElementTree.fromstring(drawn_)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "title", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "pattern"}, (
            name
        )
        assert root.attrib.keys() == {"viewBox", "role", "aria-label", "style"} and root.attrib["role"] == "img"
        assert root[0].text == root.attrib["aria-label"] == title(figure)
        attributes = [(key, value) for element in root.iter() for key, value in element.attrib.items()]
        own = [value for key, value in attributes if key == "id"]
        used = {value[1:] for key, value in attributes if key == "href"}
        used |= {one for _, value in attributes for one in re.findall(r"url\(#([^)]*)\)", value)}
        assert used == set(own) and not {key for key, _ in attributes if key.startswith("on")}
        ids += own
        styles = " ".join(value for key, value in attributes if key in ("style", "fill", "stroke"))
        assert "currentColor" in styles and "#1a1d22" not in styles.lower() and "DejaVu" not in styles
        assert "<?xml" not in drawn_ and "<!DOCTYPE" not in drawn_ and "<metadata" not in drawn_
    assert len(ids) == len(set(ids))


def test_names_are_text_and_no_markup_or_formula():
    name = "</svg><b>$x_2$</b>"
    drawn_ = plots.svg(plots.heat_map(named(name)))
    assert "</svg><b>" not in drawn_ and drawn_.count("</svg>") == 1
    found = [one.text for one in ElementTree.fromstring(drawn_).iter("{http://www.w3.org/2000/svg}text")]
    assert f"{name} (target)" in found and f"{name}2 (target)" in found


def test_names_are_cleaned_and_cut_in_the_middle():
    assert label("a\u200bb\u202ec\n d\x00\ud800") == "abc d"
    assert label("q" + "\u0301" * 50) == "q\u0301\u0301"
    assert label("cais/mmlu:college_medicine", 11) == "cais/…icine"
    assert label("日本語日本語", 7) == "日…語" and label("日本語", 6) == "日本語"
    assert label(" \u200b") == "(no name)" and label("_x") == " _x"


# The surroundings.


def test_the_users_settings_are_left_alone_and_make_no_difference():
    expected = plots.svg(plots.score_curve(small()))
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        figure = plots.score_curve(small())
        assert dict(matplotlib.rcParams) == before
        assert plots.svg(figure) == expected


def test_pyplot_is_never_loaded_and_matplotlib_only_when_something_is_drawn():
    script = (
        "import sys, tp_dspy, tp_dspy.report\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from tp_dspy.report import plots\n"
        "from tp_dspy.report.plots.style import new_plot\n"
        "plots.svg(new_plot('x', 3, 3)); new_plot('x', 3, 3)._repr_png_()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)


def test_a_notebook_shows_a_plot_that_is_the_last_value_of_a_cell():
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    shown, _ = formatter.format(plots.score_curve(small()))
    assert shown["image/png"].startswith(b"\x89PNG")


def test_plots_are_saved_as_png_and_svg_and_nothing_else(tmp_path: Path):
    figure = plots.score_curve(small())
    png = plots.save(figure, tmp_path / "new" / "a.png").read_bytes()
    assert png.startswith(b"\x89PNG") and int.from_bytes(png[16:20]) == round(7.8 * 150)
    one, again = (
        plots.save(plots.score_curve(small()), str(tmp_path / name)).read_bytes() for name in ("a.svg", "b.SVG")
    )
    assert one == again and b"<text" in one and b"dc:date" not in one
    with pytest.raises(ConfigurationError, match=r"'a\.pdf'.*\.png or \.svg"):
        plots.save(figure, tmp_path / "a.pdf")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("colour", COLOURS.values())
@pytest.mark.parametrize("page", ["#ffffff", "#14171c"])
def test_colours_can_be_read_on_light_and_dark_pages(colour: str, page: str):
    light, dark = sorted((luminance(colour), luminance(page)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0
