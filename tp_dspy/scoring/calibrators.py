"""Post-hoc calibration: turn "how sure the LM says it is" into "how often it is right at that".

A calibrator is fitted on examples whose correctness is known (a dev split, never the test split) and then applied to
any confidence of the same LM, prompt and way of asking. It never changes an answer, so accuracy stays what it is.

* :class:`TemperatureScaling` has one parameter, makes do with few examples, and keeps the ranking. It moves every
  confidence towards or away from 0.5 and never across it: an LM that says 0.99 and is right 30 % of the time gets 0.5.
* :class:`IsotonicCalibration` follows any rising curve, across 0.5 too, needs more examples, and makes ties.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ArtifactError, ConfigurationError, DataError
from tp_dspy.scoring.arrays import FloatArray, unit_interval_array, with_confidence

__all__ = [
    "CalibrationMethod",
    "Calibrator",
    "IsotonicCalibration",
    "TemperatureScaling",
    "calibrator_from_dict",
    "fit_calibrator",
]

CalibrationMethod = Literal["temperature", "isotonic"]

_EPSILON = 1e-6  # See TemperatureScaling. Part of what a saved temperature means: do not change it.
_LOWEST_TEMPERATURE, _HIGHEST_TEMPERATURE = 0.05, 100.0
_FEWEST: dict[CalibrationMethod, int] = {"temperature": 10, "isotonic": 30}  # See fit_calibrator for the evidence.


class Calibrator(ABC):
    """A fitted, rising map from confidence to calibrated confidence.

    Attributes:
        method: ``"temperature"`` or ``"isotonic"``.
    """

    method: ClassVar[CalibrationMethod]

    def apply(self, confidence: npt.ArrayLike) -> FloatArray:
        """Calibrate confidences.

        Args:
            confidence: Confidence in [0, 1], of any shape, a single number too; NaN (or None) where there is none.

        Returns:
            A new array of the same shape, in [0, 1]; NaN where there was none.

        Raises:
            DataError: The values are not numbers, or outside [0, 1].
        """
        try:
            given = np.asarray(confidence)
        except ValueError as error:
            raise DataError(f"confidence is not an array ({error}); expected numbers in [0, 1].") from None
        sure = unit_interval_array(given.ravel(), "confidence", allow_nan=True)
        # The clip is for rounding only. NaN is put back because np.interp turns it into a number if x has length 1.
        calibrated = np.where(np.isnan(sure), np.nan, np.clip(self._map(sure), 0.0, 1.0))
        return calibrated.reshape(given.shape)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values from which :func:`calibrator_from_dict` makes an equal calibrator."""

    @abstractmethod
    def _map(self, sure: FloatArray) -> FloatArray: ...


@dataclass(frozen=True)
class TemperatureScaling(Calibrator):
    """Temperature scaling: ``p -> sigmoid(logit(p) / T)``.

    T > 1 softens an overconfident LM, T < 1 sharpens an underconfident one, 0.5 stays 0.5.

    The logit of exactly 0 or 1 is infinite, and no temperature would soften it, yet LMs say 1.0 all the time. So p is
    clipped to [1e-6, 1 - 1e-6] first: 1.0 has the logit 13.8, and becomes 0.99 at T = 3 and 0.80 at T = 10. Even T = 1
    turns 1.0 into 0.999999.

    The map is strictly rising up to that clip, so it leaves AUROC and the precision-recall areas alone, save where it
    makes ties: between confidences beyond the clip, and, for T below about 0.4, where results near 1 round to 1.

    Attributes:
        temperature: T, finite and above 0.

    Raises:
        ConfigurationError: ``temperature`` is not such a number.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    temperature: float

    method: ClassVar[CalibrationMethod] = "temperature"

    def __post_init__(self) -> None:
        temperature = _finite(self.temperature, "temperature", "a finite number above 0")
        if temperature <= 0.0:
            raise ConfigurationError(f"temperature is {self.temperature!r}; expected a finite number above 0.")
        object.__setattr__(self, "temperature", temperature)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``method`` and ``temperature``."""
        return {"method": self.method, "temperature": self.temperature}

    def _map(self, sure: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):  # A tiny T overflows to infinity, and its sigmoid is the right limit.
            return np.asarray(1.0 / (1.0 + np.exp(-_clipped_logit(sure) / self.temperature)), dtype=np.float64)


@dataclass(frozen=True)
class IsotonicCalibration(Calibrator):
    """Isotonic regression: the rising curve closest to the examples, linear between thresholds, constant outside.

    It has flat steps, so it makes ties and can change AUROC. Its ends are often exactly 0 or 1, from the few examples
    beyond the last mistake: a claim of certainty that a log score punishes without limit, and Brier and ECE do not.

    Attributes:
        x: Thresholds of confidence, in [0, 1], strictly rising; at least one.
        y: Calibrated confidence at each threshold, in [0, 1], never falling; as many as ``x``.

    Raises:
        ConfigurationError: ``x`` or ``y`` is not such a sequence.

    References:
        Zadrozny & Elkan, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates", KDD 2002.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    method: ClassVar[CalibrationMethod] = "isotonic"

    def __post_init__(self) -> None:
        x, y = _unit_interval_tuple(self.x, "x"), _unit_interval_tuple(self.y, "y")
        if not x or len(x) != len(y):
            raise ConfigurationError(f"x has {len(x)} values and y has {len(y)}; expected as many, and at least one.")
        if any(after <= before for before, after in pairwise(x)):
            raise ConfigurationError("x is not strictly rising; expected thresholds in ascending order, each once.")
        if any(after < before for before, after in pairwise(y)):
            raise ConfigurationError("y falls somewhere; expected values that never fall as x rises.")
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``method``, and ``x`` and ``y`` as lists."""
        return {"method": self.method, "x": list(self.x), "y": list(self.y)}

    def _map(self, sure: FloatArray) -> FloatArray:
        return np.interp(sure, self.x, self.y)


def fit_calibrator(
    correct: npt.ArrayLike, confidence: npt.ArrayLike, *, method: CalibrationMethod = "temperature"
) -> Calibrator:
    """Fit a calibrator to examples whose correctness is known.

    ``"temperature"`` takes the T in [0.05, 100] with the least mean negative log-likelihood (T = 1 if none does better
    than that). A T at 100 means that being sure goes with being wrong at least as often as with being right; a T at
    0.05, that nearly all correct answers are above 0.5 and nearly all incorrect ones below, so that it will be too sure
    of new ones. ``"isotonic"`` takes the curve with the least squared error.

    How many examples it takes, from 500 simulated fits per cell. "logits": continuous confidence with logits three
    times too large, accuracy 65 %. "words": seven values, half of them exactly 1.0 and 70 % at least 0.99, accuracy
    68 %. In each cell, the mean ECE on 4,000 other examples, and how often it was above the ECE before calibration:

    ====  ===================  ================  ==================  ===============
       n  logits: temperature  logits: isotonic  words: temperature  words: isotonic
    ====  ===================  ================  ==================  ===============
    none  0.158                0.158             0.277               0.277
      10  0.090, 18 %          0.187, 63 %       0.109, 0 %          0.162, 10 %
      20  0.069, 6 %           0.142, 38 %       0.082, 0 %          0.120, 2 %
      30  0.054, 1 %           0.118, 21 %       0.069, 0 %          0.096, 0 %
      50  0.042, 0 %           0.098, 8 %        0.058, 0 %          0.076, 0 %
     200  0.024, 0 %           0.053, 0 %        0.041, 0 %          0.040, 0 %
    ====  ===================  ================  ==================  ===============

    The least numbers accepted are where the Brier score of "logits" (0.218 before) gains too: temperature 0.223 at
    n = 5, 0.205 at 10; isotonic 0.226 at 20, 0.215 at 30. An LM that is calibrated already loses by either method: an
    ECE of 0.017 becomes 0.089 (temperature, n = 10), 0.040 (50), 0.024 (200); isotonic 0.113 (30), 0.093 (50), 0.051
    (200).

    Args:
        correct: Correctness in [0, 1], of shape (n,); may be graded.
        confidence: Confidence in [0, 1], of shape (n,); NaN where there is none (left out).
        method: ``"temperature"`` or ``"isotonic"``.

    Returns:
        A :class:`TemperatureScaling` or an :class:`IsotonicCalibration`.

    Raises:
        ConfigurationError: ``method`` is neither of the two.
        DataError: The arrays differ in length or hold values outside their ranges; fewer than 10 confidences (isotonic:
            30); or all of those answers are correct, or all incorrect.
    """
    if method not in ("temperature", "isotonic"):
        raise ConfigurationError(f"method is {method!r}; expected 'temperature' or 'isotonic'.")
    right, sure = with_confidence(correct, confidence)
    if sure.size < _FEWEST[method]:
        instead = ""
        if method == "isotonic" and sure.size >= _FEWEST["temperature"]:
            instead = f", or use method='temperature', which needs {_FEWEST['temperature']}"
        raise DataError(
            f"{sure.size} of {np.size(confidence)} examples have a confidence; expected at least {_FEWEST[method]} to "
            f"fit method={method!r}. Give more examples that have one{instead}."
        )
    if right.min() == 1.0 or right.max() == 0.0:
        # The best fit would be "always certain" (or a T at its bound), which no number of examples can bear out.
        kind, other = ("correct", "incorrect") if right[0] else ("incorrect", "correct")
        raise DataError(
            f"All {sure.size} answers that have a confidence are {kind}; expected {other} ones too: without any, the "
            f"best fit has no limit. Give more examples, or others, until some answers are {other}."
        )
    return _fit_temperature(right, sure) if method == "temperature" else _fit_isotonic(right, sure)


def calibrator_from_dict(d: Mapping[str, Any]) -> Calibrator:
    """Make the calibrator that :meth:`Calibrator.to_dict` described.

    Args:
        d: What ``to_dict`` returned, perhaps by way of JSON. Keys that the method does not use are ignored.

    Returns:
        A calibrator equal to the one described.

    Raises:
        ArtifactError: Not a mapping, an unknown method, or values that are missing or cannot be.
    """
    if not isinstance(d, Mapping):
        raise ArtifactError(f"A calibrator is {d!r}; expected what Calibrator.to_dict returns.")
    method = d.get("method")
    try:
        if method == "temperature":
            return TemperatureScaling(d["temperature"])
        if method == "isotonic":
            return IsotonicCalibration(d["x"], d["y"])
    except KeyError as error:
        raise ArtifactError(
            f"A calibrator of method {method!r} has only {sorted(map(str, d))}; expected {error} too. "
            "Make it again with fit_calibrator."
        ) from None
    except ConfigurationError as error:
        raise ArtifactError(
            f"A calibrator of method {method!r} is damaged: {error} Make it again with fit_calibrator."
        ) from error
    raise ArtifactError(f"A calibrator has the method {method!r}; expected 'temperature' or 'isotonic'.")


def _fit_temperature(right: FloatArray, sure: FloatArray) -> TemperatureScaling:
    from scipy.optimize import minimize_scalar

    logit = _clipped_logit(sure)

    def loss(log_temperature: float) -> float:
        scaled = logit / math.exp(log_temperature)
        # -c log s(z) - (1 - c) log(1 - s(z)), written so that it stays finite where s(z) rounds to 1.
        return float((np.logaddexp(0.0, scaled) - right * scaled).mean())

    # Convex in 1 / T, so it has one valley in log T too, and a bounded search cannot end in a lesser one.
    bounds = (math.log(_LOWEST_TEMPERATURE), math.log(_HIGHEST_TEMPERATURE))
    best = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)
    # If every confidence is 0.5, all T are equally good: then leave things alone instead of taking any.
    return TemperatureScaling(math.exp(best) if loss(best) < loss(0.0) else 1.0)


def _fit_isotonic(right: FloatArray, sure: FloatArray) -> IsotonicCalibration:
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(sure, right)
    return IsotonicCalibration(tuple(model.X_thresholds_.tolist()), tuple(model.y_thresholds_.tolist()))


def _clipped_logit(sure: FloatArray) -> FloatArray:
    clipped = np.clip(sure, _EPSILON, 1.0 - _EPSILON)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def _finite(value: object, name: str, expected: str) -> float:
    """Read a number that a user or a file gave, as a float."""
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # An integer beyond the floats.
            number = math.inf
    if not math.isfinite(number):
        raise ConfigurationError(f"{name} is {value!r}; expected {expected}.")
    return number


def _unit_interval_tuple(values: object, name: str) -> tuple[float, ...]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise ConfigurationError(f"{name} is {values!r}; expected a sequence of numbers in [0, 1].")
    numbers = tuple(_finite(value, f"{name}[{k}]", "a number in [0, 1]") for k, value in enumerate(values))
    for k, number in enumerate(numbers):
        if not 0.0 <= number <= 1.0:
            raise ConfigurationError(f"{name}[{k}] is {number}; expected a number in [0, 1].")
    return numbers
