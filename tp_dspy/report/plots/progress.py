"""What happened in a phase, as numbers: examples met so far, the best so far, calls that racing saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.records import CandidateRecord, PhaseRecord
from tp_dspy.scoring.metrics import METRIC_NAMES

__all__ = ["Phase", "best_so_far", "examples_so_far", "mean_metric", "phases", "saved_calls"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Phase:
    """A phase that has scored something.

    Attributes:
        name: "source" or "target".
        record: What it did.
        original: The program's own instructions as it scored them; None where it did not.
    """

    name: str
    record: PhaseRecord
    original: CandidateRecord | None


def phases(result: TransferResult) -> list[Phase]:
    """List the phases of a result that have scored something, in order."""
    found = []
    for name, record in (("source", result.source), ("target", result.target)):
        if record is not None and record.history:
            own = next((one for one in record.history if one.id == result.original.id), None)
            found.append(Phase(name, record, own))
    return found


def examples_so_far(record: PhaseRecord) -> FloatArray | None:
    """Count the examples met up to and with each candidate, in order of arrival; None where that was not kept.

    Not calls of the scorer LM, which nobody kept by candidate: a pair that was known costs none, and a program of
    several predictors takes several. Within a round candidates race side by side, and are counted here one after the
    other; between rounds it is exact.
    """
    met = [one.measurement.examples if one.measurement is not None else None for one in record.history]
    if not met or None in met:
        return None
    return np.cumsum(np.array(met, dtype=np.float64))


def best_so_far(record: PhaseRecord) -> list[CandidateRecord | None]:
    """Name the best so far after each candidate, in order of arrival; None before the first that counts.

    Those that have not met all examples do not count.
    """
    partial, best, found = record.incomplete, None, []
    merit = (-math.inf, -math.inf)
    for one in record.history:
        if one.id not in partial and not math.isnan(one.score) and (worth := one.scored().merit) > merit:
            best, merit = one, worth
        found.append(best)
    return found


def mean_metric(record: CandidateRecord, name: str) -> float:
    """Average a metric over tasks; NaN where it is undefined on one of them, or is not there."""
    values = [
        # Not `as_dict`, which copies: this is asked thousands of times.
        metrics.custom.get(name, getattr(metrics, name) if name in METRIC_NAMES else math.nan)
        for metrics in record.by_task.values()
    ]
    return math.fsum(values) / len(values) if values else math.nan


def saved_calls(record: PhaseRecord) -> tuple[int, int] | None:
    """Count the scorer calls that racing saved, and those of a search without it; None where that was not kept.

    Of those that were in a race when it was halted both are what they have met: nobody decided about the rest.
    """
    panel, dropped, open_ = sum(record.search.values()), set(record.dropped), set(record.unfinished)
    met = {one.id: one.measurement.examples for one in record.history if one.measurement is not None}
    if not panel or not met:
        return None
    without = sum(count if one in open_ else panel for one, count in met.items())
    return sum(max(panel - count, 0) for one, count in met.items() if one in dropped), without
