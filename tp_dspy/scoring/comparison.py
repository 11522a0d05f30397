"""Two programs on the same examples: paired differences, and whether chance explains them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import DataError
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.resampling import bootstrap_weights, covering, percentile_interval
from tp_dspy.scoring.set_objective import SetObjective
from tp_dspy.sheets import Sheet, Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "compare"]

FloatArray = npt.NDArray[np.float64]

# Two-sided test at 5 % that finds a difference in 80 % of cases: 1.96 and 0.84 standard errors.
_POWER_QUANTILES = 1.959964 + 0.841621


@dataclass(frozen=True, repr=False)
class Comparison(Shown):
    """The paired difference of two evaluations on the same examples, second minus first.

    Attributes:
        score: Difference of the scores; positive when the second is better.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
        p_value: Two-sided bootstrap p-value of no difference.
        n: Examples that both could be measured on.
        examples_needed: Examples like these with which a difference of this size would be seen: a two-sided test at
            5 % finds it in 80 % of cases. A rough figure, since it takes the measured difference for the true one.
            Infinite where there is no difference.
        by_metric: Difference of each metric with its interval: (difference, low, high). For ECE and Brier score
            negative is better.
    """

    score: float
    low: float
    high: float
    p_value: float
    n: int
    examples_needed: float
    by_metric: Mapping[str, tuple[float, float, float]]

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain values; None for what is undefined or infinite."""
        from tp_dspy.scoring.reports import comparison_dict

        return comparison_dict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return the differences as a table: a row per metric; difference, low and high as columns."""
        import pandas as pd

        rows = {**self.by_metric, "score": (self.score, self.low, self.high)}
        columns = ["difference", "low", "high"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("metric")

    def _sheet(self) -> Sheet:
        from tp_dspy.scoring.reports import comparison_sheet

        return comparison_sheet(self)


def compare(
    first: Sequence[Outcome],
    second: Sequence[Outcome],
    rule: SetObjective,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare two sets of outcomes example by example: both are resampled with the same examples each time.

    Examples that ended in ``error`` on either side are left out of both.

    Args:
        first: One outcome per example.
        second: The same examples.
        rule: How a set is measured.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        DataError: If the two differ in length, or no example is left.
    """
    if len(first) != len(second):
        raise DataError(f"The two sets have {len(first)} and {len(second)} outcomes; expected the same examples.")
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a.status != "error" and b.status != "error"]
    if not pairs:
        raise DataError("No example has an answer from both sides; evaluate again when the LM can be reached.")
    sides = [list(side) for side in zip(*pairs, strict=True)]
    # The first row is the set as it is.
    counts = np.vstack([np.ones((1, len(pairs)), dtype=np.int32), _draws(len(pairs), resamples, seed)])
    values = [rule.values(side, counts) for side in sides]
    changes = {name: values[1][name] - values[0][name] for name in (*rule.names, "score")}
    ends = {name: _change(rows) for name, rows in changes.items()}
    score, low, high = ends.pop("score")
    difference = changes["score"][1:]
    # Add-one, so that a finite number of resamples never claims a p-value of 0. Rounding keeps equal scores equal.
    rounded = np.round(difference, 12)
    tail = min((rounded <= 0).sum(), (rounded >= 0).sum())
    p_value = min(1.0, 2 * (int(tail) + 1) / (resamples + 1))
    needed = _examples_needed(score, float(difference.std()), len(pairs))
    return Comparison(score, low, high, p_value, len(pairs), needed, ends)


def _draws(n: int, resamples: int, seed: int) -> npt.NDArray[np.int32]:
    return bootstrap_weights(n, resamples, np.random.default_rng(seed))


def _change(rows: FloatArray) -> tuple[float, float, float]:
    point = float(rows[0])
    return point, *covering(point, percentile_interval(rows[1:]))


def _examples_needed(difference: float, standard_error: float, n: int) -> float:
    if round(difference, 12) == 0:
        return math.inf
    # The standard error falls with the root of the number of examples.
    return max(2.0, float(math.ceil(n * (_POWER_QUANTILES * standard_error / difference) ** 2)))
