"""Whether confidence tells right answers from wrong ones: ROC and precision-recall curves."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tp_dspy.report.plots.compared import Shown, shown
from tp_dspy.report.plots.style import INK, NothingToDrawError, drawing, legend_below, new_plot
from tp_dspy.runs.side_by_side import SideBySide
from tp_dspy.scoring.arrays import with_confidence

# There is to be one way only of splitting graded answers over both classes.
from tp_dspy.scoring.metrics import auprc_negative, auprc_positive, auroc, graded_rows

__all__ = ["precision_recall", "roc"]

FloatArray = npt.NDArray[np.float64]


@drawing()
def roc(side_by_side: SideBySide) -> Figure:
    """Draw the ROC curve of each prompt: right answers against wrong ones, by confidence.

    Raises:
        NothingToDrawError: If no prompt has a curve.
    """
    from sklearn.metrics import roc_curve

    prompts = _with_a_curve(side_by_side, "ROC curve")
    figure = new_plot("ROC: right answers by wrong ones let through", 7.8, 4.9)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":", alpha=0.8, label="chance\nAUROC 0.500")
    for one in prompts:
        right, sure = _rated(one)
        area = auroc(right, sure)
        wrong, found = np.empty(0), np.empty(0)
        if math.isfinite(area):
            label, score, weight = graded_rows(right, sure)
            wrong, found, _ = roc_curve(label, score, sample_weight=weight)
        text = f"AUROC {area:.3f} (n = {sure.size})" if math.isfinite(area) else f"undefined, {_why_not(one)}"
        axes.plot(wrong, found, color=one.role.colour, linestyle=one.role.line, label=f"{one.name}\n{text}")
    axes.set_xlabel("share of wrong answers at or above a confidence")
    axes.set_ylabel("share of right answers at or above it")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    figure.legend(loc="outside right center", handlelength=2.6, labelspacing=1.0)
    return figure


@drawing()
def precision_recall(side_by_side: SideBySide) -> Figure:
    """Draw the precision-recall curves of each prompt: of its right answers, and of its wrong ones.

    The area under the steps is what the metrics call PR-P and PR-N.

    Raises:
        NothingToDrawError: If no prompt has a curve.
    """
    prompts = _with_a_curve(side_by_side, "precision-recall curve")
    figure = new_plot("Precision by recall, of right and of wrong answers", 7.8, 5.0)
    panels = figure.subplots(1, 2, sharey=True)
    for one in prompts:
        right, sure = _rated(one)
        areas = auprc_positive(right, sure), auprc_negative(right, sure)
        text = f"PR-P {areas[0]:.3f}, PR-N {areas[1]:.3f} (n = {sure.size})"
        if math.isnan(areas[0]):
            text = f"undefined, {_why_not(one)}"
        for axes, of_correct in zip(panels, (True, False), strict=True):
            _steps(axes, one, f"{one.name}: {text}", of_correct=of_correct)
    panels[0].plot([], [], color=INK, linewidth=1, linestyle=":", label="chance: the share of such answers")
    for axes, kind, name, order in zip(panels, ("right", "wrong"), ("PR-P", "PR-N"), ("high", "low"), strict=True):
        axes.set_title(f"{kind.capitalize()} answers ({name}), by {order} confidence")
        axes.set_xlabel(f"recall: share of the {kind} answers found")
        axes.set_xlim(-0.01, 1.01)
        axes.set_ylim(-0.01, 1.01)
    panels[0].set_ylabel("precision: share of those found that are such")
    legend_below(figure, panels[0], columns=1)
    return figure


def _rated(one: Shown) -> tuple[FloatArray, FloatArray]:
    """Correctness and confidence of the answers that have a confidence."""
    return with_confidence(one.arrays.correct, one.arrays.confidence)


def _with_a_curve(side_by_side: SideBySide, what: str) -> list[Shown]:
    prompts = shown(side_by_side)
    if not any(math.isfinite(auroc(*_rated(one))) for one in prompts):
        reasons = "; ".join(f"{one.name}: {_why_not(one)}" for one in prompts)
        raise NothingToDrawError(f"There is no {what}: {reasons}.")
    return prompts


def _why_not(one: Shown) -> str:
    right, sure = _rated(one)
    if not sure.size:
        return "no confidence"
    return f"all {sure.size} answers {'right' if right.all() else 'wrong'}"


def _steps(axes: Axes, one: Shown, text: str, *, of_correct: bool) -> None:
    """Draw the curve of a prompt in the steps that average precision adds up, and its chance level."""
    from sklearn.metrics import precision_recall_curve

    right, sure = _rated(one)
    recall, precision = np.empty(0), np.empty(0)
    if math.isfinite(auroc(right, sure)):
        label, score, weight = graded_rows(right, sure)
        wanted, by = (label, score) if of_correct else (1 - label, -score)
        precision, recall, _ = precision_recall_curve(wanted, by, sample_weight=weight)
        # From the first found on, and of each recall the first that reaches it: what follows adds no area.
        recall, first = np.unique(recall[::-1], return_index=True)
        precision = precision[::-1][first]
        chance = float(right.mean()) if of_correct else 1.0 - float(right.mean())
        axes.axhline(chance, color=one.role.colour, linewidth=1, linestyle=":")
    axes.plot(recall, precision, color=one.role.colour, linestyle=one.role.line, drawstyle="steps-pre", label=text)
