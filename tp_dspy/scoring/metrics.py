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
import operator
from typing import Literal

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError

__all__ = [
    "METRIC_NAMES",
    "BinStrategy",
    "accuracy",
    "auprc_negative",
    "auprc_positive",
    "auroc",
    "brier_score",
    "confidence_bins",
    "expected_calibration_error",
    "instruction_following_rate",
    "unit_interval_array",
]

METRIC_NAMES: tuple[str, ...] = ("ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative", "brier")
"""The names of the metrics in tables, JSON and reports, in the order they are shown."""

BinStrategy = Literal["uniform", "quantile"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


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
    right, sure = _with_confidence(correct, confidence)
    bins = confidence_bins(sure, n_bins=n_bins, strategy=strategy)
    if not sure.size:
        return math.nan
    # (n_b / n) * |mean - mean| is |sum of differences| / n: no division per bin, so an empty bin needs no special case.
    return float(np.abs(np.bincount(bins, weights=right - sure)).sum() / sure.size)


def confidence_bins(confidence: npt.ArrayLike, *, n_bins: int = 10, strategy: BinStrategy = "uniform") -> IntArray:
    """Bin of each confidence, as used by the calibration error and by reliability diagrams.

    * ``"uniform"``: bin k is (k / n_bins, (k + 1) / n_bins]; a confidence of exactly 0 goes in the first bin.
    * ``"quantile"``: an example with r examples strictly less confident goes in bin floor(r * n_bins / n). Without ties
      the bins differ by at most one example. Equal confidences always share a bin, the one of the lowest ranked among
      them, so ties can make bins uneven or empty, and the order of the examples never matters.

    Args:
        confidence: Confidence in [0, 1], of shape (n,), without NaN.
        n_bins: Number of bins, at least 1.
        strategy: ``"uniform"`` for bins of equal width, ``"quantile"`` for bins of equal mass.

    Returns:
        Bin indices in [0, n_bins), of shape (n,).

    Raises:
        ConfigurationError: ``n_bins`` or ``strategy`` is not one of the above.
        DataError: The values are not one-dimensional, not numbers, outside [0, 1] or NaN.
    """
    count = _bin_count(n_bins)
    sure = unit_interval_array(confidence, "confidence")
    if strategy == "uniform":
        # k / n rounds to the float that the literal reads as (0.3, 0.7), where linspace is an ulp off: so a verbalised
        # 0.3 sits on its edge, and side="left" puts it in the bin below.
        return np.searchsorted(np.arange(1, count) / count, sure, side="left")
    if strategy == "quantile":
        below = np.searchsorted(np.sort(sure), sure, side="left")
        return below * count // max(sure.size, 1)
    raise ConfigurationError(f"strategy is {strategy!r}; expected 'uniform' or 'quantile'.")


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
    right, sure = _with_confidence(correct, confidence)
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
    right, sure = _with_confidence(correct, confidence)
    if not _two_classes(right):
        return math.nan
    from sklearn.metrics import roc_auc_score

    label, score, weight = _weighted_rows(right, sure)
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
    right, sure = _with_confidence(correct, confidence)
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
    right, sure = _with_confidence(correct, confidence)
    return _average_precision(right, sure, of_correct=False)


def unit_interval_array(values: npt.ArrayLike, name: str, *, allow_nan: bool = False) -> FloatArray:
    """Check one argument of a metric: the one place where arrays are validated.

    Args:
        values: What the caller gave: booleans or numbers in [0, 1]; None reads as NaN.
        name: The argument's name, for the error.
        allow_nan: Whether NaN may stand for "none".

    Returns:
        The values as float64, of shape (n,), copied only if they are something else.

    Raises:
        DataError: The values are not one-dimensional, not numbers, outside [0, 1], or NaN where NaN may not be.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} is not numeric ({error}); expected one number in [0, 1] per example.") from None
    if array.ndim != 1:
        raise DataError(f"{name} has shape {array.shape}; expected (n,), one number in [0, 1] per example.")
    inside = (array >= 0.0) & (array <= 1.0)
    if allow_nan:
        inside |= np.isnan(array)
    if not inside.all():
        where = int(np.argmin(inside))
        expected = "a number in [0, 1], or NaN for none" if allow_nan else "a number in [0, 1]"
        raise DataError(f"{name}[{where}] is {array[where]}; expected {expected}. Rescale it or leave it out.")
    return array


def _with_confidence(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Check both arrays and keep the examples that have a confidence."""
    right = unit_interval_array(correct, "correct")
    sure = unit_interval_array(confidence, "confidence", allow_nan=True)
    if right.size != sure.size:
        raise DataError(
            f"correct has {right.size} values and confidence has {sure.size}; expected one of each per example "
            "(NaN as the confidence of an example that has none)."
        )
    known = ~np.isnan(sure)
    return right[known], sure[known]


def _bin_count(n_bins: int) -> int:
    try:
        count = 0 if isinstance(n_bins, bool) else operator.index(n_bins)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigurationError(f"n_bins is {n_bins!r}; expected a whole number of at least 1.")
    return count


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if values.size else math.nan


def _two_classes(right: FloatArray) -> bool:
    return bool((right > 0.0).any() and (right < 1.0).any())


def _average_precision(right: FloatArray, sure: FloatArray, *, of_correct: bool) -> float:
    if not _two_classes(right):
        return math.nan
    from sklearn.metrics import average_precision_score

    label, score, weight = _weighted_rows(right, sure)
    if not of_correct:
        # -confidence ranks as 1 - confidence does, without rounding confidences near 0 (1e-20, 1e-30) into one tie.
        label, score = 1 - label, -score
    return min(1.0, float(average_precision_score(label, score, sample_weight=weight)))  # Rounding can pass 1.


def _weighted_rows(right: FloatArray, sure: FloatArray) -> tuple[IntArray, FloatArray, FloatArray]:
    """Split each example into a correct row (label 1) and an incorrect row (label 0), weighted by its share of each."""
    label = np.repeat(np.array([1, 0], dtype=np.intp), sure.size)
    weight = np.concatenate([right, 1.0 - right])
    kept = weight > 0.0
    return label[kept], np.concatenate([sure, sure])[kept], weight[kept]
