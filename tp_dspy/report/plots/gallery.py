"""All plots of a result."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from tp_dspy.report.plots.compared import metric_bars, reliability
from tp_dspy.report.plots.curves import metric_curves, score_curve
from tp_dspy.report.plots.maps import heat_map
from tp_dspy.report.plots.progress import phases
from tp_dspy.report.plots.racing import race
from tp_dspy.report.plots.style import NothingToDrawError
from tp_dspy.report.plots.thresholds import precision_recall, roc
from tp_dspy.runs.artifacts import TransferResult

__all__ = ["figures"]

logger = logging.getLogger(__name__)


def figures(result: TransferResult) -> dict[str, Figure]:
    """Draw all that a result has the data for, in reading order.

    Args:
        result: What a compile found, of any stage. Prompts are compared on held-out examples where there are some, and
            otherwise on those that the winner was chosen on.

    Returns:
        Of these names those that have something to show: ``score_curve``, ``metric_bars``, ``metric_curves``,
        ``reliability``, ``roc``, ``precision_recall``, ``race_source``, ``race_target``, ``heat_map``.
    """
    plans: dict[str, Callable[[], Figure]] = {"score_curve": lambda: score_curve(result)}
    compared = result.held_out or result.selection
    if compared is not None:
        plans["metric_bars"] = lambda: metric_bars(compared)
    plans["metric_curves"] = lambda: metric_curves(result)
    if compared is not None:
        plans |= {
            "reliability": lambda: reliability(compared, _bins(result.settings)),
            "roc": lambda: roc(compared),
            "precision_recall": lambda: precision_recall(compared),
        }
    plans |= {f"race_{phase.name}": _race(phase.name, phase.record) for phase in phases(result)}
    plans["heat_map"] = lambda: heat_map(result)
    drawn = {}
    for name, plan in plans.items():
        try:
            drawn[name] = plan()
        except NothingToDrawError as reason:
            logger.debug("Left out: %s", reason)
    return drawn


def _race(name: str, record: Any) -> Callable[[], Figure]:
    return lambda: race(record, name)


def _bins(settings: dict[str, Any]) -> int:
    """Bins of the calibration error that the objective had."""
    objective = settings.get("objective")
    bins = objective.get("n_bins") if isinstance(objective, dict) else None
    return bins if isinstance(bins, int) and 1 <= bins <= 100 else 10
