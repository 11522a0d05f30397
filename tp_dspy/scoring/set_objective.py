"""What a set of outcomes is worth: its metrics, the one score they make, and whether it keeps the constraints."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from tp_dspy.scoring.custom import CustomMetric, SetMetric, custom_metrics, outcome_value
from tp_dspy.scoring.metrics import METRIC_NAMES, OF_CONFIDENCE
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.resampling import OutcomeArrays, weighted_metrics
from tp_dspy.scoring.weights import Constraints, Weights

__all__ = ["Metrics", "SetObjective", "example_scores"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """The metrics of one set of outcomes.

    Attributes:
        n: Outcomes that count.
        errors: Outcomes left out because no answer could be had.
        ifr: Instruction-following rate, in [0, 1].
        accuracy: Mean correctness, in [0, 1].
        ece: Expected calibration error, in [0, 1]; lower is better. NaN without confidences.
        auroc: Area under the ROC curve of confidence against correctness; NaN with one class only.
        auprc_positive: Average precision for correct answers (PR-P); NaN with one class only.
        auprc_negative: Average precision for incorrect answers (PR-N); NaN with one class only.
        brier: Mean squared difference of confidence and correctness; lower is better. NaN without confidences.
        score: The objective's one score, in [0, 1]; NaN with no outcomes.
        coverage: Share of outcomes with a confidence, in [0, 1]: what the five metrics of confidence are over.
        violation: By how much the constraints are missed, added up; 0 where they are kept.
        custom: Metrics of the user's own, by name.
    """

    n: int
    errors: int
    ifr: float
    accuracy: float
    ece: float
    auroc: float
    auprc_positive: float
    auprc_negative: float
    brier: float
    score: float
    coverage: float = math.nan
    violation: float = 0.0
    custom: Mapping[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, float]:
        """Return all of it by name, the user's own metrics among the others."""
        values = asdict(self)
        own: dict[str, float] = values.pop("custom")
        return values | own

    def __str__(self) -> str:
        numbers = (
            (name, f"{value:.3f}" if isinstance(value, float) else value) for name, value in self.as_dict().items()
        )
        return " ".join(f"{name}={value}" for name, value in numbers)


@dataclass(frozen=True)
class SetObjective:
    """Measures sets of outcomes.

    Attributes:
        weights: How metrics make the score.
        constraints: The levels that metrics must reach.
        n_bins: Bins of the calibration error, at least 1.
        custom: Metrics of the user's own, by name.
    """

    weights: Weights
    constraints: Constraints = field(default_factory=Constraints)
    n_bins: int = 10
    custom: Mapping[str, CustomMetric] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics in the order they are shown."""
        return (*METRIC_NAMES, *self.custom)

    def values(self, outcomes: Sequence[Outcome], counts: npt.ArrayLike) -> dict[str, FloatArray]:
        """Measure resamples of outcomes.

        Args:
            outcomes: One per example; ``error`` outcomes are left out.
            counts: How often each example is in each resample, of shape (R, number of outcomes).

        Returns:
            Arrays of shape (R,) for every metric, for ``score`` and for ``violation``; NaN where a resample leaves a
            metric undefined.

        Raises:
            DataError: If a metric of the user's own gives no number in [0, 1].
        """
        counted = [outcome for outcome in outcomes if outcome.status != "error"]
        rows = np.asarray(counts)[:, [outcome.status != "error" for outcome in outcomes]]
        values = weighted_metrics(OutcomeArrays.from_outcomes(counted), rows, n_bins=self.n_bins)
        values |= custom_metrics(self.custom, counted, rows)
        return values | {"score": self.weights.score(values), "violation": self.constraints.violation(values)}

    def measure(self, outcomes: Iterable[Outcome]) -> Metrics:
        """Measure a set of outcomes; ``error`` outcomes are counted and left out."""
        outcomes = list(outcomes)
        values = {name: float(row[0]) for name, row in self.values(outcomes, np.ones((1, len(outcomes)))).items()}
        custom = {name: values.pop(name) for name in self.custom}
        errors = sum(outcome.status == "error" for outcome in outcomes)
        return Metrics(n=len(outcomes) - errors, errors=errors, custom=custom, **values)


def example_scores(rule: SetObjective, outcome: Outcome, *, calibrated: bool) -> tuple[float, dict[str, float]]:
    """Score one outcome, for optimisers that average over examples.

    Args:
        rule: Gives the weights. What exists for sets only gives its weight to accuracy, as it does where it is
            undefined; so does calibration where there is none.
        outcome: What to score.
        calibrated: Whether there can be a confidence: then calibration is the Brier complement of it, and 0 for an
            outcome without (averages are over the examples that report a score).

    Returns:
        One score, and one for each objective; in [0, 1], higher is better.
    """
    scores = {"ifr": float(outcome.followed), "accuracy": outcome.correct}
    if calibrated:
        sure = outcome.confidence
        scores["calibration"] = 0.0 if sure is None else 1.0 - (sure - outcome.correct) ** 2
    for name, metric in rule.custom.items():
        if not isinstance(metric, SetMetric):
            scores[name] = outcome_value(name, metric, outcome)
    total = 0.0
    for name, weight in rule.weights.by_metric.items():
        part = "calibration" if name in OF_CONFIDENCE or name == "coverage" else name
        total += weight * scores.get(part, outcome.correct)
    return min(1.0, total), scores
