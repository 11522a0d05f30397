"""Arrays as the metrics take them: checked in one place, and binned by confidence."""

from __future__ import annotations

import operator
from typing import Literal

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError

__all__ = ["BinStrategy", "FloatArray", "IntArray", "confidence_bins", "unit_interval_array", "with_confidence"]

BinStrategy = Literal["uniform", "quantile"]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


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


def with_confidence(correct: npt.ArrayLike, confidence: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
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


def _bin_count(n_bins: int) -> int:
    try:
        count = 0 if isinstance(n_bins, bool) else operator.index(n_bins)
    except TypeError:
        count = 0
    if count < 1:
        raise ConfigurationError(f"n_bins is {n_bins!r}; expected a whole number of at least 1.")
    return count
