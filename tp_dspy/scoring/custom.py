"""Metrics of the user's own, on outcomes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.metrics import METRIC_NAMES
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["CustomMetric", "SetMetric", "check_metrics", "custom_metrics", "macro_f1", "outcome_value"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SetMetric:
    """A metric that exists for a set of outcomes only, such as a macro F1.

    It is computed anew for every bootstrap resample: some hundred times for each candidate, and two thousand times for
    an evaluation.

    Attributes:
        function: From outcomes (none of them an ``error``) to a number in [0, 1], higher is better; NaN where it is
            undefined, which gives its weight to accuracy.
    """

    function: Callable[[Sequence[Outcome]], float]


CustomMetric = Callable[[Outcome], float] | SetMetric
"""A function of one outcome, of which the mean is taken, or a `SetMetric`; in [0, 1], higher is better."""


def macro_f1(outcomes: Sequence[Outcome]) -> float:
    """F1 of each expected answer, averaged: use it as ``SetMetric(macro_f1)`` where some answers are rare.

    Args:
        outcomes: Outcomes with the expected answer; one without a readable answer is a miss of what was expected.

    Returns:
        The mean over the expected answers, in [0, 1]; NaN without any.
    """
    # scikit-learn's takes a millisecond for its checks, and this is computed for thousands of resamples.
    labelled = [(outcome.expected, outcome.answer) for outcome in outcomes if outcome.expected is not None]
    expected, given = Counter(label for label, _ in labelled), Counter(answer for _, answer in labelled)
    hits = Counter(label for label, answer in labelled if answer == label)
    each = [2.0 * hits[label] / (count + given[label]) for label, count in expected.items()]
    return math.fsum(each) / len(each) if each else math.nan


def check_metrics(metrics: Mapping[str, CustomMetric] | None) -> dict[str, CustomMetric]:
    """Check metrics of the user's own.

    Raises:
        ConfigurationError: If a name is taken or no identifier, or a metric cannot be called.
    """
    given = dict(metrics or {})
    taken = {*METRIC_NAMES, "score", "n", "errors", "violation"}
    for name, metric in given.items():
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            raise ConfigurationError(
                f"metrics has the name {name!r}; expected a word that is not one of {sorted(taken)}."
            )
        if not callable(metric.function if isinstance(metric, SetMetric) else metric):
            raise ConfigurationError(
                f"metrics[{name!r}] is {metric!r}; expected a function of an Outcome, or SetMetric(function of a list "
                "of them)."
            )
    return given


def outcome_value(name: str, metric: Callable[[Outcome], float], outcome: Outcome) -> float:
    """Compute a metric of one outcome.

    Raises:
        DataError: If it is no number in [0, 1].
    """
    return _checked(name, metric(outcome), may_be_nan=False)


def custom_metrics(
    metrics: Mapping[str, CustomMetric], outcomes: Sequence[Outcome], counts: npt.ArrayLike
) -> dict[str, FloatArray]:
    """Compute metrics for every resample.

    Args:
        metrics: By name.
        outcomes: The n outcomes; no ``error`` among them.
        counts: How often each is in each resample, of shape (R, n).

    Returns:
        Arrays of shape (R,) by name; NaN where a resample is empty.

    Raises:
        DataError: If a metric gives no number in [0, 1].
    """
    rows = np.asarray(counts)
    values: dict[str, FloatArray] = {}
    for name, metric in metrics.items():
        if isinstance(metric, SetMetric):
            values[name] = np.array([_of_set(name, metric, outcomes, row) for row in rows], dtype=np.float64)
        else:
            each = np.array([outcome_value(name, metric, outcome) for outcome in outcomes], dtype=np.float64)
            total = rows.sum(axis=1).astype(np.float64)
            values[name] = (rows @ each) / np.where(total > 0.0, total, math.nan)
    return values


def _of_set(name: str, metric: SetMetric, outcomes: Sequence[Outcome], counts: npt.NDArray[Any]) -> float:
    drawn = [outcome for outcome, count in zip(outcomes, counts, strict=True) for _ in range(int(count))]
    return _checked(name, metric.function(drawn), may_be_nan=True) if drawn else math.nan


def _checked(name: str, value: Any, *, may_be_nan: bool) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.inf
    if 0.0 <= number <= 1.0 or (may_be_nan and math.isnan(number)):
        return number
    raise DataError(f"The metric {name!r} returned {value!r}; expected a number in [0, 1], higher is better.")
