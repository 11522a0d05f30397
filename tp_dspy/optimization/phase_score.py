"""The score of a phase: what outcomes on several tasks are worth, and how far chance moves that."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tp_dspy.optimization.candidates import Measurement, ScoredCandidate, Standing
from tp_dspy.scoring.evaluation import metric_interval
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.resampling import bootstrap_weights, covering, percentile_interval

__all__ = ["PhaseScore", "combined"]

FloatArray = npt.NDArray[np.float64]

# Gives a standard deviation within about 5 %.
_RESAMPLES = 200


def combined(by_task: npt.ArrayLike, spread_penalty: float = 0.0) -> Any:
    """Make one score of those on the tasks, which are the first axis: their mean, less the spread penalty."""
    scores = np.asarray(by_task, dtype=np.float64)
    return scores.mean(axis=0) - spread_penalty * scores.std(axis=0)


@dataclass(frozen=True)
class PhaseScore:
    """The mean over tasks of the objective, less the spread penalty.

    Attributes:
        objective: Measures the outcomes of one task.
        spread_penalty: Times the standard deviation over tasks, taken off the mean; at least 0.
    """

    objective: ObjectiveEvaluator
    spread_penalty: float = 0.0

    def of(self, standing: Standing, round: int = 0) -> ScoredCandidate:
        """Score a candidate on its outcomes."""
        by_task = {name: self.objective.measure(outcomes) for name, outcomes in standing.outcomes.items()}
        score = float(self.combine(np.array([metrics.score for metrics in by_task.values()])))
        return ScoredCandidate(standing.candidate, score, by_task, round)

    def combine(self, by_task: FloatArray) -> FloatArray:
        """Make one score of those on the tasks, which are the first axis."""
        return np.asarray(combined(by_task, self.spread_penalty))

    def draws(self, standing: Standing) -> FloatArray:
        """Score bootstrap resamples of a candidate's examples, task by task.

        Resample by resample these are the same examples for all candidates that have met as many, so that their
        scores can be compared in pairs.

        Returns:
            Scores of shape (tasks, resamples); NaN where a resample holds nothing that counts.
        """
        return self.resamples(standing)[0]

    def merit(self, scored: ScoredCandidate) -> float:
        """Make one number to compare by: the score, or below all scores by how much the constraints are missed."""
        return -scored.violation if scored.violation > 0 else scored.score

    def merit_draws(self, standing: Standing) -> FloatArray:
        """Give the `merit` of bootstrap resamples, paired as those of `draws` are; of shape (resamples,)."""
        scores, violations = self.resamples(standing)
        violation = violations.mean(axis=0)
        return np.where(violation > 0, -violation, self.combine(scores))

    def resamples(self, standing: Standing) -> tuple[FloatArray, FloatArray]:
        """Give the scores of `draws`, and by how much the constraints are missed; both of shape (tasks, resamples)."""
        drawn = self._drawn(standing)
        return np.array([task["score"] for task in drawn]), np.array([task["violation"] for task in drawn])

    def measured(self, standing: Standing, round: int) -> tuple[ScoredCandidate, FloatArray]:
        """Score a candidate with intervals; the scores of its resamples, as from `draws`, come along."""
        drawn = self._drawn(standing)
        draws = np.array([task["score"] for task in drawn])
        scored = self.of(standing, round)
        means = {
            name: float(np.mean([metrics.as_dict()[name] for metrics in scored.by_task.values()]))
            for name in self.objective.rule.names
        }
        by_name = {name: np.array([task[name] for task in drawn]).mean(axis=0) for name in means}
        ends = {name: metric_interval(name, mean, by_name[name]) for name, mean in means.items() if mean == mean}
        if not math.isnan(scored.score):
            ends["score"] = covering(scored.score, percentile_interval(self.combine(draws)))
        intervals = {name: (_short(low), _short(high)) for name, (low, high) in ends.items() if low == low}
        examples = sum(map(len, standing.outcomes.values()))
        return replace(scored, measurement=Measurement(examples, intervals)), draws

    def _drawn(self, standing: Standing) -> list[dict[str, FloatArray]]:
        """Measure bootstrap resamples of a candidate's examples, task by task."""
        drawn = []
        for task, outcomes in enumerate(standing.outcomes.values()):
            rng = np.random.default_rng([task, len(outcomes)])
            drawn.append(self.objective.resample(outcomes, bootstrap_weights(len(outcomes), _RESAMPLES, rng)))
        return drawn


def _short(value: float) -> float:
    """Four digits: what is kept of thousands of candidates is to be small, and 200 resamples tell no more."""
    return round(value, 4)
