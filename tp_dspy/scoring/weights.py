"""How metrics make one score, and the levels that some of them must reach."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError
from tp_dspy.scoring.metrics import LOWER_IS_BETTER, METRIC_NAMES, OF_CONFIDENCE

__all__ = ["DEFAULT_WEIGHTS", "Constraints", "Weights"]

FloatArray = npt.NDArray[np.float64]

# The paper's own weights are not public. Accuracy leads; following the format comes next; the rest is confidence.
DEFAULT_WEIGHTS: Mapping[str, float] = {
    "accuracy": 0.40,
    "ifr": 0.20,
    "ece": 0.15,
    "auroc": 0.15,
    "auprc_positive": 0.05,
    "auprc_negative": 0.05,
}

# A level of 0.95 is reached by 19 of 20, however the quotient was rounded.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Weights:
    """How metrics make one score: their weighted mean, ECE and Brier score counting as one minus their value.

    Metrics of confidence count times the coverage, the share of examples that have a confidence: a prompt that answers
    two of ten does not earn the calibration of ten. A metric that is undefined because all answers are right, or all
    are wrong (AUROC, AUPRC), gives its weight to accuracy, at most to the coverage; so a perfect prompt scores 1, and a
    prompt that answers nothing scores 0.

    Attributes:
        by_metric: Positive weight by metric name, normalised to sum to 1.
    """

    by_metric: Mapping[str, float]

    @classmethod
    def of(
        cls, weights: Mapping[str, float] | None, *, custom: Collection[str] = (), confidence: bool = True
    ) -> Weights:
        """Validate and normalise.

        Args:
            weights: Weight by metric name, any subset; None for `DEFAULT_WEIGHTS`.
            custom: Names of metrics of the user's own.
            confidence: Whether there is a confidence at all. Without one the default weights of its metrics go to
                accuracy.

        Raises:
            ConfigurationError: If a metric is unknown, a weight is negative or not finite, all are zero, or one is
                given to a metric of confidence where there is none.
        """
        given = dict(DEFAULT_WEIGHTS if weights is None else weights)
        _check_names("weights", given, custom)
        bad = {name: value for name, value in given.items() if not _is_number(value) or value < 0}
        if bad or sum(given.values()) <= 0:
            raise ConfigurationError(
                f"weights is {given}; expected finite numbers of at least 0, one of them above 0."
                + (f" Wrong: {bad}." if bad else "")
            )
        if not confidence:
            _refuse_confidence("weights", {} if weights is None else {n: v for n, v in given.items() if v > 0})
            moved = sum(given.pop(name) for name in [*given] if name in OF_CONFIDENCE)
            given["accuracy"] = given.get("accuracy", 0.0) + moved
        total = sum(given.values())
        return cls({name: value / total for name, value in given.items() if value > 0})

    def score(self, metrics: Mapping[str, npt.ArrayLike]) -> FloatArray:
        """Combine metrics into scores.

        Args:
            metrics: Arrays of one shape by metric name, as `weighted_metrics` gives them; ``accuracy`` and
                ``coverage`` among them.

        Returns:
            Scores of that shape, in [0, 1]; NaN only where accuracy is (no outcomes at all).
        """
        total = np.zeros_like(np.asarray(metrics["accuracy"], dtype=float))
        for name, weight in self.by_metric.items():
            total = total + weight * _goodness(name, metrics, covered=True)
        return np.where(np.isnan(total), total, np.clip(total, 0.0, 1.0))


@dataclass(frozen=True)
class Constraints:
    """Levels that metrics must reach. A prompt that misses one ranks below all that meet them, whatever its score.

    Attributes:
        levels: By metric name the least value that will do; for ECE and Brier score the largest.
    """

    levels: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, levels: Mapping[str, float] | None, *, custom: Collection[str] = (), confidence: bool = True
    ) -> Constraints:
        """Validate.

        Raises:
            ConfigurationError: If a metric is unknown, needs a confidence where there is none, or a level is not in
                [0, 1].
        """
        given = dict(levels or {})
        _check_names("constraints", given, custom)
        bad = {name: value for name, value in given.items() if not _is_number(value) or not 0.0 <= value <= 1.0}
        if bad:
            raise ConfigurationError(f"constraints has {bad}; expected levels in [0, 1], such as {{'ifr': 0.95}}.")
        if not confidence:
            _refuse_confidence("constraints", given)
        return cls(given)

    def violation(self, metrics: Mapping[str, npt.ArrayLike]) -> FloatArray:
        """Sum up by how much levels are missed.

        An undefined metric is judged as in the score: by accuracy where there is one class only, as missed by all where
        nothing has a confidence.

        Args:
            metrics: As for `Weights.score`.

        Returns:
            Sums of that shape, at least 0; 0 where every level is reached.
        """
        total = np.zeros_like(np.asarray(metrics["accuracy"], dtype=float))
        for name, level in self.levels.items():
            wanted = 1.0 - level if name in LOWER_IS_BETTER else level
            missing = wanted - _goodness(name, metrics, covered=False)
            total = total + np.where(missing > _ROUNDING, missing, 0.0)
        return total

    def missed(self, metrics: Mapping[str, float]) -> list[str]:
        """Say in words which levels are missed: ``ifr is 0.90; at least 0.95 was asked for``."""
        words = []
        for name, level in self.levels.items():
            if Constraints({name: level}).violation(metrics) > 0:
                side = "at most" if name in LOWER_IS_BETTER else "at least"
                words.append(f"{name} is {metrics[name]:.3f}; {side} {level:g} was asked for")
        return words


def _goodness(name: str, metrics: Mapping[str, npt.ArrayLike], *, covered: bool) -> FloatArray:
    """Turn a metric into a value in [0, 1] of which more is better and which is defined wherever accuracy is."""
    value = np.asarray(metrics[name], dtype=float)
    if name in LOWER_IS_BETTER:
        value = 1.0 - value
    accuracy = np.asarray(metrics["accuracy"], dtype=float)
    if name not in OF_CONFIDENCE:
        return np.where(np.isnan(value), accuracy, value)
    coverage = np.asarray(metrics["coverage"], dtype=float)
    instead = np.where(np.isnan(accuracy), accuracy, np.minimum(accuracy, coverage))
    return np.where(np.isnan(value), instead, value * coverage if covered else value)


def _check_names(argument: str, given: Mapping[str, float], custom: Collection[str]) -> None:
    known = [*METRIC_NAMES, *custom]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ConfigurationError(
            f"{argument} names {unknown}; expected some of {known}. Metrics of your own go in "
            "ObjectiveEvaluator(metrics={name: function})."
        )


def _refuse_confidence(argument: str, given: Mapping[str, float]) -> None:
    of_confidence = sorted(set(given) & OF_CONFIDENCE)
    if of_confidence:
        raise ConfigurationError(
            f"{argument} names {of_confidence}, which need a confidence, and confidence is None. Leave them out, or "
            "pass confidence='logits', 'verbalized', 'agreement' or a callable."
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
