"""The metrics of the objective evaluator: pure functions on one-dimensional arrays.

Every function takes one value per example and returns one float. ``correct`` is how right the answers are, in [0, 1];
``confidence`` is how sure the LM is of them, in [0, 1]. Three rules hold throughout:

* **No confidence.** A NaN (or None) confidence means there is none: the example is left out of every metric that reads
  confidence, and still counts in accuracy and in the instruction-following rate.
* **Graded correctness.** Where a metric needs two classes (AUROC, AUPRC), an example with correctness ``c`` counts as
  correct with weight ``c`` and as incorrect with weight ``1 - c``. Accuracy, ECE and Brier score use ``c`` as it is.
* **Undefined is NaN**, never 0 and never a warning: nothing to average, or one class only in AUROC and AUPRC.

:mod:`tp_dspy.scoring.resampling` computes the same metrics for thousands of resamples at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tp_dspy.scoring.arrays import (
    BinStrategy,
    FloatArray,
    IntArray,
    confidence_bins,
    unit_interval_array,
    with_confidence,
)

__all__ = [
    "LOWER_IS_BETTER",
    "METRIC_NAMES",
    "OF_CONFIDENCE",
    "ReliabilityCurve",
    "accuracy",
    "auprc_negative",
    "auprc_positive",
    "auroc",
    "brier_score",
    "coverage",
    "expected_calibration_error",
    "graded_rows",
    "instruction_following_rate",
    "maximum_calibration_error",
    "reliability_curve",
]

METRIC_NAMES: tuple[str, ...] = (
    "ifr",
    "accuracy",
    "ece",
    "auroc",
    "auprc_positive",
    "auprc_negative",
    "brier",
    "coverage",
)
"""The names of the metrics in tables, JSON and reports, in the order they are shown."""

OF_CONFIDENCE: frozenset[str] = frozenset({"ece", "auroc", "auprc_positive", "auprc_negative", "brier"})
"""Those of them that are over the examples with a confidence only."""

LOWER_IS_BETTER: frozenset[str] = frozenset({"ece", "brier"})
"""Those of them of which less is better."""


def instruction_following_rate(followed: npt.ArrayLike) -> float:
    """Share of replies that keep to the asked format (IFR).

    Args:
        followed: Booleans, or numbers in [0, 1], of shape (n,).

    Returns:
        The mean, in [0, 1]; higher is better. NaN when n is 0.

    Raises:
        DataError: The values are not one-dimensional, not numbers, outside [0, 1] or NaN.
    """
    return _mean(unit_interval_array(followed, "followed"))


def accuracy(correct: npt.ArrayLike) -> float:
    """Mean correctness (ACC).

    Args:
        correct: Correctness in [0, 1] of shape (n,); examples without a readable answer count as 0.

    Returns:
        The mean, in [0, 1]; higher is better. NaN when n is 0.

    Raises:
        DataError: The values are not one-dimensional, not numbers, outside [0, 1] or NaN.
    """
    return _mean(unit_interval_array(correct, "correct"))


def coverage(confidence: npt.ArrayLike) -> float:
    """Share of examples that have a confidence.

    Args:
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none.

    Returns:
        The share, in [0, 1]; higher is better. NaN when n is 0.

    Raises:
        DataError: The values are not one-dimensional, not numbers, or outside [0, 1].
    """
    return _mean((~np.isnan(unit_interval_array(confidence, "confidence", allow_nan=True))).astype(np.float64))


def expected_calibration_error(
    correct: npt.ArrayLike, confidence: npt.ArrayLike, *, n_bins: int = 10, strategy: BinStrategy = "uniform"
) -> float:
    """Expected calibration error (ECE): the gap between confidence and accuracy, averaged over bins of confidence.

    ``ECE = sum_b (n_b / n) * |accuracy_b - mean confidence_b|`` over the non-empty bins of :func:`confidence_bins`.

    Args:
        correct: Correctness in [0, 1], of shape (n,).
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).
        n_bins: Number of bins, at least 1.
        strategy: ``"uniform"`` for bins of equal width, ``"quantile"`` for bins of equal mass.

    Returns:
        The error, in [0, 1]; lower is better. NaN when no example has a confidence.

    Raises:
        ConfigurationError: ``n_bins`` or ``strategy`` is not one of the above.
        DataError: The arrays differ in length, or hold values outside their ranges.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    right, sure = with_confidence(correct, confidence)
    bins = confidence_bins(sure, n_bins=n_bins, strategy=strategy)
    if not sure.size:
        return math.nan
    # (n_b / n) * |mean - mean| is |sum of differences| / n: no division per bin, so an empty bin needs no special case.
    return float(np.abs(np.bincount(bins, weights=right - sure)).sum() / sure.size)


def maximum_calibration_error(
    correct: npt.ArrayLike, confidence: npt.ArrayLike, *, n_bins: int = 10, strategy: BinStrategy = "uniform"
) -> float:
    """Maximum calibration error (MCE): the gap between confidence and accuracy in the bin where it is largest.

    ``MCE = max_b |accuracy_b - mean confidence_b|`` over the non-empty bins. A bin that holds one example weighs as
    much as one that holds a hundred, so on small sets this is mostly the luck of the emptiest bin.

    Args:
        correct: Correctness in [0, 1], of shape (n,).
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).
        n_bins: Number of bins, at least 1.
        strategy: ``"uniform"`` for bins of equal width, ``"quantile"`` for bins of equal mass.

    Returns:
        The error, in [0, 1], at least the expected calibration error; lower is better. NaN when no example has a
        confidence.

    Raises:
        ConfigurationError: ``n_bins`` or ``strategy`` is not one of the above.
        DataError: The arrays differ in length, or hold values outside their ranges.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    curve = reliability_curve(correct, confidence, n_bins=n_bins, strategy=strategy)
    return float(np.abs(curve.accuracy - curve.confidence).max()) if curve.count.size else math.nan


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """What a reliability diagram shows: accuracy against confidence, one point per non-empty bin, in ascending order.

    Attributes:
        low: Least confidence in each bin, of shape (b,), b at most the number of bins; so for ``high``.
        high: Greatest confidence in each bin.
        confidence: Mean confidence in each bin.
        accuracy: Mean correctness in each bin.
        count: Examples in each bin.
    """

    low: FloatArray
    high: FloatArray
    confidence: FloatArray
    accuracy: FloatArray
    count: IntArray


def reliability_curve(
    correct: npt.ArrayLike, confidence: npt.ArrayLike, *, n_bins: int = 10, strategy: BinStrategy = "uniform"
) -> ReliabilityCurve:
    """Accuracy against confidence, bin by bin.

    Args:
        correct: Correctness in [0, 1], of shape (n,).
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).
        n_bins: Number of bins, at least 1.
        strategy: ``"uniform"`` for bins of equal width, ``"quantile"`` for bins of equal mass.

    Returns:
        One point per non-empty bin; none when no example has a confidence. The gaps between accuracy and confidence,
        averaged with the counts as weights, are the expected calibration error of the same bins.

    Raises:
        ConfigurationError: ``n_bins`` or ``strategy`` is not one of the above.
        DataError: The arrays differ in length, or hold values outside their ranges.
    """
    right, sure = with_confidence(correct, confidence)
    order = np.argsort(sure, kind="stable")
    right, sure = right[order], sure[order]
    bins = confidence_bins(sure, n_bins=n_bins, strategy=strategy)
    starts = np.flatnonzero(np.r_[True, bins[1:] != bins[:-1]]) if sure.size else np.empty(0, dtype=np.intp)
    count = np.diff(np.r_[starts, sure.size])
    if not sure.size:
        return ReliabilityCurve(sure, sure, sure, sure, count)
    return ReliabilityCurve(
        low=sure[starts],
        high=sure[starts + count - 1],
        confidence=np.add.reduceat(sure, starts) / count,
        accuracy=np.add.reduceat(right, starts) / count,
        count=count,
    )


def brier_score(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> float:
    """Brier score: mean squared difference between confidence and correctness.

    Args:
        correct: Correctness in [0, 1], of shape (n,).
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).

    Returns:
        The score, in [0, 1]; lower is better. NaN when no example has a confidence.

    Raises:
        DataError: The arrays differ in length, or hold values outside their ranges.

    References:
        Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review, 1950.
    """
    right, sure = with_confidence(correct, confidence)
    return _mean((right - sure) ** 2)


def auroc(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> float:
    """Area under the ROC curve: how often a correct answer is more confident than an incorrect one (ties count half).

    Args:
        correct: Correctness in [0, 1], of shape (n,); graded values are split over both classes by weight.
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).

    Returns:
        The area, in [0, 1]; 0.5 is chance, higher is better. NaN when only one class has a confidence.

    Raises:
        DataError: The arrays differ in length, or hold values outside their ranges.
    """
    right, sure = with_confidence(correct, confidence)
    if not _two_classes(right):
        return math.nan
    from sklearn.metrics import roc_auc_score

    label, score, weight = graded_rows(right, sure)
    return min(1.0, float(roc_auc_score(label, score, sample_weight=weight)))


def auprc_positive(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> float:
    """Area under the precision-recall curve of the correct answers (the paper's PR-P), as average precision.

    Label = correct, score = confidence. Average precision is the sum of precision times the step in recall, from the
    most confident down, without interpolation.

    Args:
        correct: Correctness in [0, 1], of shape (n,); graded values are split over both classes by weight.
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).

    Returns:
        The area, in [0, 1]; chance is the share of correct answers. NaN when only one class has a confidence.

    Raises:
        DataError: The arrays differ in length, or hold values outside their ranges.
    """
    right, sure = with_confidence(correct, confidence)
    return _average_precision(right, sure, of_correct=True)


def auprc_negative(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> float:
    """Area under the precision-recall curve of the incorrect answers (the paper's PR-N), as average precision.

    Label = incorrect, score = 1 - confidence: the mirror image of :func:`auprc_positive`.

    Args:
        correct: Correctness in [0, 1], of shape (n,); graded values are split over both classes by weight.
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).

    Returns:
        The area, in [0, 1]; chance is the share of incorrect answers. NaN when only one class has a confidence.

    Raises:
        DataError: The arrays differ in length, or hold values outside their ranges.
    """
    right, sure = with_confidence(correct, confidence)
    return _average_precision(right, sure, of_correct=False)


def _average_precision(right: FloatArray, sure: FloatArray, *, of_correct: bool) -> float:
    if not _two_classes(right):
        return math.nan
    from sklearn.metrics import average_precision_score

    label, score, weight = graded_rows(right, sure)
    if not of_correct:
        # -confidence ranks as 1 - confidence does, without rounding confidences near 0 (1e-20, 1e-30) into one tie.
        label, score = 1 - label, -score
    return min(1.0, float(average_precision_score(label, score, sample_weight=weight)))  # Rounding can pass 1.


def graded_rows(right: FloatArray, sure: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Split each example into a correct row (label 1) and an incorrect row (label 0), weighted by its share of each."""
    label = np.repeat(np.array([1, 0], dtype=np.intp), sure.size)
    weight = np.concatenate([right, 1.0 - right])
    kept = weight > 0.0
    return label[kept], np.concatenate([sure, sure])[kept], weight[kept]


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else math.nan


def _two_classes(right: FloatArray) -> bool:
    return bool((right > 0.0).any() and (right < 1.0).any())
