"""The metrics of :mod:`tp_dspy.scoring.metrics` for many resamples of the same outcomes at once.

A bootstrap resample of n examples is a row of n counts, so R resamples are one (R, n) matrix of weights. Each metric is
a weighted sum over the examples, in any order (accuracy, ECE, Brier) or in order of confidence (AUROC, AUPRC): sorted
once, what is left are matrix products and cumulative sums. To compare two candidates in pairs, use the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.arrays import confidence_bins, unit_interval_array
from tp_dspy.scoring.metrics import METRIC_NAMES
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["OutcomeArrays", "bootstrap_weights", "covering", "percentile_interval", "weighted_metrics"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Elements (rows x examples) worked on at once: 0.5 MB per temporary array, so that a core's cache holds them.
_CHUNK_ELEMENTS = 2**16


@dataclass(frozen=True, eq=False)
class OutcomeArrays:
    """The outcomes of one candidate as arrays, one entry per example, all of shape (n,).

    Attributes:
        followed: Whether the reply keeps to the asked format; bool.
        correct: How right the answer is, in [0, 1]; float64.
        confidence: How sure the LM is of its answer, in [0, 1], NaN where there is none; float64.
        answered: Whether an answer could be read from the reply; bool.

    Raises:
        DataError: The arrays are not one-dimensional, differ in length, or hold values outside their ranges.
    """

    followed: BoolArray
    correct: FloatArray
    confidence: FloatArray
    answered: BoolArray

    def __post_init__(self) -> None:
        object.__setattr__(self, "followed", _flags(self.followed, "followed"))
        object.__setattr__(self, "correct", unit_interval_array(self.correct, "correct"))
        object.__setattr__(self, "confidence", unit_interval_array(self.confidence, "confidence", allow_nan=True))
        object.__setattr__(self, "answered", _flags(self.answered, "answered"))
        sizes = {name: getattr(self, name).size for name in ("followed", "correct", "confidence", "answered")}
        if len(set(sizes.values())) > 1:
            raise DataError(f"The arrays differ in length: {sizes}; expected one value of each per example.")

    @classmethod
    def from_outcomes(cls, outcomes: Iterable[Outcome]) -> OutcomeArrays:
        """Read outcomes into arrays, in their order.

        An ``error`` outcome is the world's fault and is left out. An ``unparsed`` outcome is the prompt's fault: not
        followed, not correct, no confidence, not answered, whatever its other fields say.

        Args:
            outcomes: Outcomes of one candidate, one per example.

        Returns:
            The arrays, of shape (number of outcomes that are not errors,).
        """
        kept = [outcome for outcome in outcomes if outcome.status != "error"]
        answered = np.array([outcome.status == "ok" for outcome in kept], dtype=np.bool_)
        followed = np.array([outcome.followed for outcome in kept], dtype=np.bool_)
        correct = np.array([outcome.correct for outcome in kept], dtype=np.float64)
        confidence = np.array([outcome.confidence for outcome in kept], dtype=np.float64)  # None becomes NaN.
        return cls(
            followed=followed & answered,
            correct=np.where(answered, correct, 0.0),
            confidence=np.where(answered, confidence, math.nan),
            answered=answered,
        )

    def __len__(self) -> int:
        """Number of examples."""
        return int(self.correct.size)

    def take(self, index: npt.ArrayLike) -> OutcomeArrays:
        """Pick examples, in the order given; an example may be picked more than once.

        Args:
            index: Positions in [-n, n) of shape (m,), or a boolean mask of shape (n,).

        Returns:
            The picked examples, of shape (m,).

        Raises:
            IndexError: A position is out of range, a mask is not of shape (n,), or positions are not whole numbers.
        """
        picked = np.asarray(index)
        if not picked.size:  # An empty list reads as float64, which cannot index.
            picked = picked.astype(np.intp)
        return OutcomeArrays(
            self.followed[picked], self.correct[picked], self.confidence[picked], self.answered[picked]
        )


def weighted_metrics(arrays: OutcomeArrays, weights: npt.ArrayLike, *, n_bins: int = 10) -> dict[str, FloatArray]:
    """Every metric for every row of weights.

    A row of counts gives what :mod:`tp_dspy.scoring.metrics` gives on the examples repeated that often; ECE is in
    ``n_bins`` bins of equal width. IFR, accuracy and coverage are over all examples, the other metrics over the
    examples with a confidence. Work goes in chunks of rows, so memory beyond ``weights`` itself grows with
    n * n_bins + R, not n * R.

    Args:
        arrays: The outcomes of n examples.
        weights: Non-negative finite weights of shape (R, n), such as :func:`bootstrap_weights`.
        n_bins: Number of bins of the calibration error, at least 1.

    Returns:
        For each name of ``METRIC_NAMES``, in that order, an array of shape (R,); NaN where a row leaves nothing to
        average or, for AUROC and AUPRC, one class only.

    Raises:
        ConfigurationError: ``n_bins`` is not a whole number of at least 1.
        DataError: ``weights`` is not of shape (R, n), or holds negative, infinite or NaN values.
    """
    matrix = np.asarray(weights)
    if matrix.ndim != 2 or matrix.shape[1] != len(arrays) or matrix.dtype.kind not in "buif":
        raise DataError(
            f"weights has shape {matrix.shape} and type {matrix.dtype}; expected numbers of shape (R, {len(arrays)}): "
            "one row per resample, one column per example."
        )
    known = np.flatnonzero(~np.isnan(arrays.confidence))
    order = known[np.argsort(arrays.confidence[known], kind="stable")]
    right, sure = arrays.correct[order], arrays.confidence[order]
    first_of_tie = np.flatnonzero(np.r_[True, sure[1:] != sure[:-1]]) if sure.size else np.empty(0, dtype=np.intp)
    columns = _additive_columns(arrays, n_bins)
    values = np.empty((len(METRIC_NAMES), len(matrix)))
    rows = max(1, _CHUNK_ELEMENTS // max(1, len(arrays)))
    for start in range(0, len(matrix), rows):
        chunk = matrix[start : start + rows].astype(np.float64)
        _check_weights(chunk, start)
        ifr, acc, ece, brier, coverage = _additive_metrics(chunk @ columns)
        ranked = chunk[:, order]
        auroc, positive, negative = _ranking_metrics(
            _sum_ties(ranked * right, first_of_tie), _sum_ties(ranked * (1.0 - right), first_of_tie)
        )
        values[:, start : start + rows] = ifr, acc, ece, auroc, positive, negative, brier, coverage
    np.clip(values, 0.0, 1.0, out=values)  # Rounding can leave the range by an ulp; NaN stays NaN.
    return dict(zip(METRIC_NAMES, values, strict=True))


def bootstrap_weights(n: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int32]:
    """Draw bootstrap resamples as counts: how often each of n examples is in each resample of n.

    The rows are independent multinomial(n, 1/n, ..., 1/n) draws. A generator gives the same rows in one call or in
    several, so a caller short of memory (4 bytes * n * resamples) may draw them in batches.

    Args:
        n: Number of examples, at least 0.
        resamples: Number of rows R, at least 0.
        rng: Source of randomness; it is advanced.

    Returns:
        Counts of shape (R, n); each row sums to n.

    Raises:
        ConfigurationError: ``n`` or ``resamples`` is negative.
    """
    if n < 0 or resamples < 0:
        raise ConfigurationError(f"n is {n} and resamples is {resamples}; expected whole numbers of at least 0.")
    counts = np.zeros((resamples, n), dtype=np.int32)
    if not n:
        return counts
    rows = max(1, _CHUNK_ELEMENTS // n)
    for start in range(0, resamples, rows):
        block = counts[start : start + rows]
        # Counting n draws per row is the multinomial, many times faster than Generator.multinomial over n categories.
        drawn = rng.integers(n, size=block.shape) + n * np.arange(len(block))[:, None]
        block[:] = np.bincount(drawn.ravel(), minlength=block.size).reshape(block.shape)
    return counts


def percentile_interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval: the range that holds the middle ``level`` of the values.

    Resamples in which a metric is undefined (NaN) are left out, so the interval is conditional on its being defined.

    Args:
        values: One value per resample, of shape (R,).
        level: Share of the values inside, in (0, 1).

    Returns:
        The (1 - level) / 2 and (1 + level) / 2 quantiles, linearly interpolated; (NaN, NaN) if only NaN is left.

    Raises:
        ConfigurationError: ``level`` is not in (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise ConfigurationError(f"level is {level!r}; expected a number between 0 and 1, such as 0.95.")
    array = np.asarray(values, dtype=np.float64)
    defined = array[~np.isnan(array)]
    if not defined.size:
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def covering(point: float, interval: tuple[float, float]) -> tuple[float, float]:
    """Widen an interval to its point: resampled ECE lies above the ECE of the set, and may leave it outside."""
    if math.isnan(point) or math.isnan(interval[0]):
        return interval
    return min(interval[0], point), max(interval[1], point)


def _flags(values: npt.ArrayLike, name: str) -> BoolArray:
    array = unit_interval_array(values, name)
    if ((array > 0.0) & (array < 1.0)).any():
        raise DataError(f"{name} holds values between 0 and 1; expected True or False per example.")
    return array.astype(np.bool_)


def _check_weights(chunk: FloatArray, start: int) -> None:
    # min and max carry a NaN along and need no temporary array.
    if chunk.size and not (chunk.min() >= 0.0 and chunk.max() < math.inf):
        raise DataError(
            f"weights[{start}:{start + len(chunk)}] ranges from {chunk.min()} to {chunk.max()}; "
            "expected finite numbers of at least 0, such as bootstrap counts."
        )


def _additive_columns(arrays: OutcomeArrays, n_bins: int) -> FloatArray:
    """Columns, of shape (n, 5 + n_bins), whose weighted sums give the additive metrics.

    They are: one, followed, correct, has confidence, squared gap, and ``correct - confidence`` in its bin's column.
    """
    known = ~np.isnan(arrays.confidence)
    gap = np.where(known, arrays.correct - arrays.confidence, 0.0)
    bins = confidence_bins(arrays.confidence[known], n_bins=n_bins)
    per_bin = np.zeros((len(arrays), n_bins))
    per_bin[np.flatnonzero(known), bins] = gap[known]
    return np.column_stack([np.ones(len(arrays)), arrays.followed, arrays.correct, known, gap**2, per_bin])


def _additive_metrics(sums: FloatArray) -> tuple[FloatArray, ...]:
    """IFR, accuracy, ECE, Brier score and coverage of each row from the weighted sums of ``_additive_columns``."""
    total = np.where(sums[:, 0] > 0.0, sums[:, 0], math.nan)
    total_known = np.where(sums[:, 3] > 0.0, sums[:, 3], math.nan)
    ece = np.abs(sums[:, 5:]).sum(axis=1) / total_known
    return sums[:, 1] / total, sums[:, 2] / total, ece, sums[:, 4] / total_known, sums[:, 3] / total


def _sum_ties(ranked: FloatArray, first_of_tie: npt.NDArray[np.intp]) -> FloatArray:
    """Sum columns of equal confidence, so that no order among ties can matter."""
    if len(first_of_tie) == ranked.shape[1]:
        return ranked
    return np.add.reduceat(ranked, first_of_tie, axis=1)


def _ranking_metrics(right: FloatArray, wrong: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """AUROC and both AUPRC of each row.

    Args:
        right: Weight of correct answers at each distinct confidence, ascending, of shape (R, g).
        wrong: Weight of incorrect answers at the same confidences, of shape (R, g).

    Returns:
        AUROC, AUPRC of the correct and AUPRC of the incorrect class, each of shape (R,); NaN for one class only.
    """
    total_right, total_wrong = right.sum(axis=1), wrong.sum(axis=1)
    both = (total_right > 0.0) & (total_wrong > 0.0)
    total_right, total_wrong = np.where(both, total_right, math.nan), np.where(both, total_wrong, math.nan)
    # Dividing first keeps a vanishing graded correctness (1e-320) from underflowing in the products below.
    right_share = right / total_right[:, None]
    wrong_below = np.cumsum(wrong, axis=1)
    auroc = np.einsum("rg,rg->r", right_share, wrong_below - wrong / 2.0) / total_wrong
    negative = np.einsum("rg,rg->r", wrong, _precision(wrong_below, np.cumsum(right, axis=1))) / total_wrong
    # From the top: a second cumulative sum, as total minus the first would lose a small weight to cancellation.
    right_above = np.cumsum(right[:, ::-1], axis=1)
    wrong_above = np.cumsum(wrong[:, ::-1], axis=1)
    positive = np.einsum("rg,rg->r", right_share[:, ::-1], _precision(right_above, wrong_above))
    return auroc, np.where(both, positive, math.nan), negative


def _precision(hits: FloatArray, misses: FloatArray) -> FloatArray:
    """Precision, hits / (hits + misses), and 0 where both are 0: there the step in recall is 0 too."""
    total = hits + misses
    np.maximum(total, np.finfo(np.float64).tiny, out=total)
    return np.divide(hits, total, out=total)
