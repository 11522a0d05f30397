"""Plots of what a compile found: figures of matplotlib that notebooks show, and SVG for pages.

They are drawn in a style of their own; pyplot, its backend and the user's settings are left alone.
"""

from tp_dspy.report.plots.compared import metric_bars, reliability
from tp_dspy.report.plots.curves import metric_curves, score_curve
from tp_dspy.report.plots.export import save, svg
from tp_dspy.report.plots.gallery import figures
from tp_dspy.report.plots.maps import heat_map, influence_map
from tp_dspy.report.plots.racing import race
from tp_dspy.report.plots.style import NothingToDrawError
from tp_dspy.report.plots.thresholds import precision_recall, roc

__all__ = [
    "NothingToDrawError",
    "figures",
    "heat_map",
    "influence_map",
    "metric_bars",
    "metric_curves",
    "precision_recall",
    "race",
    "reliability",
    "roc",
    "save",
    "score_curve",
    "svg",
]
