"""Evaluations and comparisons: laid out to look at, and as plain values for files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tp_dspy.scoring.metrics import LOWER_IS_BETTER, OF_CONFIDENCE, ReliabilityCurve
from tp_dspy.sheets import Line, Sheet, Table, number, signed

if TYPE_CHECKING:
    from tp_dspy.scoring.comparison import Comparison
    from tp_dspy.scoring.evaluation import Evaluation

__all__ = [
    "LABELS",
    "comparison_dict",
    "comparison_sheet",
    "evaluation_dict",
    "evaluation_sheet",
    "plain",
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

_ABOUT_CONFIDENCE = OF_CONFIDENCE | {"coverage"}
# More rows and columns than this hardly show anything.
_MOST_ANSWERS = 12


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


def evaluation_sheet(evaluation: Evaluation) -> Sheet:
    """Lay out an evaluation: tables, what a reader should know, and in notebooks the reliability diagram."""
    lines = [Line(text) for text in [*evaluation.remarks, _cost(evaluation)]]
    return Sheet([*_tables(evaluation), *lines], _points(evaluation.reliability()))


def _tables(evaluation: Evaluation) -> list[Table]:
    metrics, without = evaluation.metrics.as_dict(), evaluation.uncalibrated
    rule = evaluation.rule
    # Where nobody asks for a confidence and nothing has one, there is no word to be said of it.
    asked_for = _ABOUT_CONFIDENCE & {*rule.weights.by_metric, *rule.constraints.levels}
    silent = frozenset() if asked_for or metrics["coverage"] > 0.0 else _ABOUT_CONFIDENCE
    rows = []
    for name in [one for one in (*rule.names, "score") if one not in silent]:
        low, high = evaluation.intervals.get(name, (math.nan, math.nan))
        lower = name in LOWER_IS_BETTER
        weight = rule.weights.by_metric.get(name)
        level = rule.constraints.levels.get(name)
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
    tables = [Table(counted, ["metric", "value", "interval", "weight", ""], rows)]
    counts = [[status, str(count)] for status, count in evaluation.statuses.items() if count]
    tables.append(Table("Replies", ["status", "count"], counts))
    confusion = evaluation.confusion()
    if 0 < len(confusion.index) <= _MOST_ANSWERS and len(confusion.columns) <= _MOST_ANSWERS:
        head = ["expected \\ given", *map(str, confusion.columns)]
        tables.append(Table("Answers", head, [[str(i), *map(str, confusion.loc[i])] for i in confusion.index]))
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
        tables.append(Table("Reliability", ["confidence", "count", "mean", "accuracy", "gap"], bins))
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


def comparison_sheet(comparison: Comparison) -> Sheet:
    """Lay out a comparison."""
    return Sheet([_differences(comparison), Line(_verdict(comparison))])


def _differences(comparison: Comparison) -> Table:
    by_metric = comparison.by_metric
    # Neither side has a confidence, so that nothing of it can differ.
    sure, calibrated = (by_metric.get(name, (math.nan,))[0] for name in ("coverage", "brier"))
    silent = _ABOUT_CONFIDENCE if sure == 0.0 and math.isnan(calibrated) else frozenset()
    rows = [
        [
            LABELS.get(name, name),
            signed(row[0]),
            f"{signed(row[1])} to {signed(row[2])}" if not math.isnan(row[1]) else "-",
            "lower is better" if name in LOWER_IS_BETTER else "",
        ]
        for name, row in {**by_metric, "score": (comparison.score, comparison.low, comparison.high)}.items()
        if name not in silent
    ]
    title = f"Second minus first, on the same {comparison.n} examples, 95 % intervals"
    return Table(title, ["metric", "difference", "interval", ""], rows)


def _verdict(comparison: Comparison) -> str:
    p = f"p = {comparison.p_value:.3f} (two-sided, paired bootstrap). "
    if not math.isfinite(comparison.examples_needed):
        return p + "The scores are equal."
    needed = f"{int(comparison.examples_needed):,}"
    if comparison.low <= 0.0 <= comparison.high:
        return p + f"About {needed} examples would be needed to see a difference of this size."
    return p + f"About {needed} examples would have shown a difference of this size."


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
