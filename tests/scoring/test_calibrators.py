"""Calibrators: against known temperatures, against scikit-learn, and on examples that they were not fitted on."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from tp_dspy.errors import ArtifactError, ConfigurationError, DataError
from tp_dspy.scoring import calibrators as c
from tp_dspy.scoring.metrics import auprc_negative, auprc_positive, auroc, brier_score, expected_calibration_error

METHODS = ("temperature", "isotonic")

unit = st.floats(0.0, 1.0)
confidences = st.lists(unit | st.sampled_from([0.0, 0.5, 0.99, 1.0, math.nan]), max_size=40)
temperatures = st.floats(0.05, 100.0)


@st.composite
def isotonic_calibrations(draw):
    # Subnormal gaps would have slopes beyond the floats; a fit merges thresholds that are closer than 1e-15.
    x = sorted(draw(st.lists(st.floats(0.0, 1.0, allow_subnormal=False), min_size=1, max_size=12, unique=True)))
    y = sorted(draw(st.lists(unit, min_size=len(x), max_size=len(x))))
    return c.IsotonicCalibration(tuple(x), tuple(y))


calibrators = st.builds(c.TemperatureScaling, temperatures) | isotonic_calibrations()


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


def logits_lm(rng, n, factor):
    """An LM whose logits are `factor` times what they should be, so the temperature to find is `factor`."""
    true_logit = rng.normal(0.7, 1.0, n)
    return (rng.random(n) < sigmoid(true_logit)).astype(float), sigmoid(factor * true_logit)


def words_lm(rng, n):
    """An LM that names one of seven values, mostly 1.0, and is right far less often than that."""
    said = np.array([0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0])
    right = np.array([0.35, 0.4, 0.5, 0.55, 0.6, 0.68, 0.75])
    pick = rng.choice(7, n, p=[0.03, 0.03, 0.05, 0.09, 0.1, 0.2, 0.5])
    return (rng.random(n) < right[pick]).astype(float), said[pick]


def nll(correct, confidence):
    sure = np.clip(confidence, 1e-6, 1 - 1e-6)
    return float(-(correct * np.log(sure) + (1 - correct) * np.log1p(-sure)).mean())


# --- temperature: by hand ---


def test_temperature_by_hand():
    # Odds of 9 (0.9) under a square root are 3 (0.75); squared, 81.
    assert c.TemperatureScaling(2).apply([0.9, 0.1, 0.5]) == pytest.approx([0.75, 0.25, 0.5], abs=1e-12)
    assert c.TemperatureScaling(0.5).apply([0.9]) == pytest.approx([81 / 82], abs=1e-12)


def test_temperature_one_changes_nothing_inside_the_clip():
    inside = np.linspace(1e-6, 1 - 1e-6, 1001)
    assert c.TemperatureScaling(1.0).apply(inside) == pytest.approx(inside, rel=1e-9)


def test_saturated_confidence_is_softened_as_documented():
    for temperature, softened in ((1, 0.999999), (3, 0.99), (10, 0.80)):
        top, bottom = c.TemperatureScaling(temperature).apply([1.0, 0.0])
        assert top == pytest.approx(softened, abs=0.0025 if temperature > 1 else 1e-9)
        assert bottom == pytest.approx(1 - top, abs=1e-12)


def test_an_lm_that_always_says_one_gets_its_accuracy():
    correct = np.r_[np.ones(80), np.zeros(20)]
    calibrator = c.fit_calibrator(correct, np.ones(100))
    assert calibrator.apply([1.0]) == pytest.approx([0.8], abs=1e-4)


def test_an_extreme_temperature_gives_the_limit_without_a_warning():
    assert c.TemperatureScaling(1e-300).apply([0.0, 0.4, 0.5, 0.6, 1.0]).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert c.TemperatureScaling(1e300).apply([0.0, 0.4, 1.0]) == pytest.approx([0.5] * 3)


# --- temperature: fitted ---


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_known_temperature_is_recovered(temperature):
    fitted = c.fit_calibrator(*logits_lm(np.random.default_rng(1), 20_000, temperature))
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)


def test_graded_correctness_counts_by_its_share():
    # An answer of correctness 0.8 is worth 8 correct and 2 incorrect ones.
    graded = c.fit_calibrator([0.8] * 10, [0.99] * 10)
    counted = c.fit_calibrator([1.0] * 8 + [0.0] * 2, [0.99] * 10)
    assert graded.apply([0.99]) == pytest.approx([0.8], abs=1e-5)
    assert graded.temperature == pytest.approx(counted.temperature, rel=1e-5)


def test_the_fit_is_the_best_temperature_of_a_fine_grid():
    correct, confidence = words_lm(np.random.default_rng(2), 60)
    fitted = c.fit_calibrator(correct, confidence)
    grid = np.geomspace(0.05, 100, 2000)
    losses = [nll(correct, c.TemperatureScaling(t).apply(confidence)) for t in grid]
    assert nll(correct, fitted.apply(confidence)) <= min(losses) + 1e-12
    assert fitted.temperature == pytest.approx(grid[np.argmin(losses)], rel=0.01)


def test_the_range_of_temperatures_holds_where_the_best_one_is_infinite_or_zero():
    wrong_when_sure = c.fit_calibrator([0] * 8 + [1] * 2, [0.9] * 10)
    assert wrong_when_sure.temperature == pytest.approx(100, rel=1e-3)
    split_at_half = c.fit_calibrator([1] * 5 + [0] * 5, [0.6] * 5 + [0.4] * 5)
    assert split_at_half.temperature == pytest.approx(0.05, rel=1e-3)


def test_confidences_that_say_nothing_leave_things_alone():
    assert c.fit_calibrator([1, 0] * 10, [0.5] * 20) == c.TemperatureScaling(1.0)


# --- both, on other examples ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [3.0, 0.4])
def test_calibration_error_and_likelihood_improve_on_held_out_data(method, factor):
    rng = np.random.default_rng(3)
    calibrator = c.fit_calibrator(*logits_lm(rng, 400, factor), method=method)
    correct, confidence = logits_lm(rng, 4000, factor)
    calibrated = calibrator.apply(confidence)
    before, after = (expected_calibration_error(correct, sure) for sure in (confidence, calibrated))
    assert before > 0.1
    assert after < before / 2
    assert nll(correct, calibrated) < nll(correct, confidence) - 0.01
    assert brier_score(correct, calibrated) < brier_score(correct, confidence) - 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_calibrated_lm_is_hardly_changed(method):
    rng = np.random.default_rng(4)
    calibrator = c.fit_calibrator(*logits_lm(rng, 5000, 1.0), method=method)
    _, confidence = logits_lm(rng, 4000, 1.0)
    assert np.abs(calibrator.apply(confidence) - confidence).mean() < 0.03


FIGURES = {  # n: mean ECE after temperature, after isotonic; as the docstring of fit_calibrator gives them.
    "logits": (0.158, {10: (0.090, 0.187), 20: (0.069, 0.142), 50: (0.042, 0.098), 200: (0.024, 0.053)}),
    "words": (0.277, {10: (0.109, 0.162), 20: (0.082, 0.120), 50: (0.058, 0.076), 200: (0.041, 0.040)}),
}


@pytest.mark.parametrize("lm", FIGURES)
def test_the_documented_figures_hold(lm, monkeypatch):
    def simulate(rng, n):
        return words_lm(rng, n) if lm == "words" else logits_lm(rng, n, 3.0)

    monkeypatch.setattr(c, "_FEWEST", dict.fromkeys(METHODS, 1))
    before, after = FIGURES[lm]
    correct, confidence = simulate(np.random.default_rng(12345), 4000)
    assert expected_calibration_error(correct, confidence) == pytest.approx(before, abs=0.0006)
    for n, documented in after.items():
        samples = [simulate(np.random.default_rng(seed), n) for seed in range(100)]
        for method, expected in zip(METHODS, documented, strict=True):
            fitted = [c.fit_calibrator(*s, method=method) for s in samples if 0 < s[0].mean() < 1]
            errors = [expected_calibration_error(correct, f.apply(confidence)) for f in fitted]
            # 100 of the 500 fits: within three standard errors.
            assert np.mean(errors) == pytest.approx(expected, abs=3 * np.std(errors) / 10), (n, method)


# --- isotonic ---


def test_isotonic_by_hand():
    calibrator = c.IsotonicCalibration((0.5, 0.9), (0.25, 0.75))
    assert calibrator.apply([0.0, 0.5, 0.7, 0.9, 1.0]) == pytest.approx([0.25, 0.25, 0.5, 0.75, 0.75])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(unit, unit | st.sampled_from([0.9, 0.99, 1.0])), min_size=30, max_size=60), confidences)
def test_isotonic_is_what_scikit_learn_predicts(rows, asked):
    correct, confidence = np.array([(0.0, 0.3), (1.0, 0.7), *rows]).T
    asked = [sure for sure in asked if not math.isnan(sure)] + confidence.tolist()
    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidence, correct)
    calibrator = c.fit_calibrator(correct, confidence, method="isotonic")
    assert calibrator.apply(asked) == pytest.approx(model.predict(asked), abs=1e-12, rel=0)


def test_isotonic_goes_where_temperature_cannot():
    correct, confidence = [1.0] * 9 + [0.0] * 21, [0.99] * 30
    assert c.fit_calibrator(correct, confidence, method="isotonic").apply([0.99, 0.2]) == pytest.approx([0.3, 0.3])
    assert c.fit_calibrator(correct, confidence).apply([0.99])[0] > 0.5


# --- properties of any calibrator ---


@given(calibrators, confidences)
def test_range_order_and_nan_are_kept(calibrator, confidence):
    calibrated = calibrator.apply(confidence)
    known = ~np.isnan(np.array(confidence, dtype=float))
    assert calibrated.dtype == np.float64
    assert calibrated.shape == known.shape
    assert np.array_equal(~np.isnan(calibrated), known)
    assert ((calibrated[known] >= 0.0) & (calibrated[known] <= 1.0)).all()
    rising = calibrated[known][np.argsort(np.array(confidence, dtype=float)[known])]
    assert (np.diff(rising) >= -1e-12).all()


@given(st.floats(0.4, 100.0), st.lists(st.tuples(st.booleans(), st.integers(1, 9999)), min_size=2, max_size=30))
def test_temperature_never_changes_a_ranking_metric_inside_the_clip(temperature, rows):
    correct, confidence = [row[0] for row in rows], [row[1] / 10_000 for row in rows]
    calibrated = c.TemperatureScaling(temperature).apply(confidence)
    for metric in (auroc, auprc_positive, auprc_negative):
        assert metric(correct, calibrated) == pytest.approx(metric(correct, confidence), abs=1e-12, nan_ok=True)


@given(calibrators, confidences)
def test_the_json_round_trip_is_exact(calibrator, confidence):
    read = c.calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict(), allow_nan=False)))
    assert read == calibrator
    assert read.method == calibrator.method
    assert np.array_equal(read.apply(confidence), calibrator.apply(confidence), equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_calibrator_makes_the_round_trip_too(method):
    calibrator = c.fit_calibrator(*words_lm(np.random.default_rng(5), 60), method=method)
    assert calibrator.method == method
    assert c.calibrator_from_dict(json.loads(json.dumps(calibrator.to_dict()))) == calibrator


@pytest.mark.parametrize(
    "calibrator", [c.TemperatureScaling(2.0), c.IsotonicCalibration((0.5,), (0.4,))], ids=lambda k: k.method
)
def test_any_shape_is_kept_and_the_input_is_not_touched(calibrator):
    given_ = np.array([[0.9, math.nan, 1.0], [0.0, 0.5, 0.7]])
    copy = given_.copy()
    calibrated = calibrator.apply(given_)
    assert calibrated.shape == (2, 3)
    assert np.isnan(calibrated[0, 1])  # np.interp with one threshold would say 0.4.
    assert np.array_equal(given_, copy, equal_nan=True)
    assert calibrated[1, 2] == calibrator.apply(0.7) == calibrator.apply([None, 0.7])[1]
    assert calibrator.apply(0.7).shape == ()
    assert calibrator.apply([]).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_examples_without_confidence_are_left_out_of_the_fit(method):
    correct, confidence = words_lm(np.random.default_rng(6), 40)
    more = c.fit_calibrator(np.r_[correct, 0, 0, 1], np.r_[confidence, [math.nan] * 3], method=method)
    assert more == c.fit_calibrator(correct, confidence, method=method)


# --- errors ---


@pytest.mark.parametrize("confidence", [[1.2], [-0.1], ["sure"], [[0.1], [0.1, 0.2]], [math.inf]])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(DataError, match=r"confidence.*expected"):
        c.TemperatureScaling(2.0).apply(confidence)


def test_an_unknown_method_is_refused_with_the_two_there_are():
    with pytest.raises(ConfigurationError, match="'platt'; expected 'temperature' or 'isotonic'"):
        c.fit_calibrator([0, 1] * 20, [0.5] * 40, method="platt")


def test_too_few_confidences_are_refused_with_the_counts_and_the_mend():
    confidence = [0.9] * 9 + [math.nan] * 4
    with pytest.raises(DataError, match=r"^9 of 13 examples have a confidence; expected at least 10 .*Give more"):
        c.fit_calibrator([0] + [1] * 12, confidence)
    assert c.fit_calibrator([0] + [1] * 12, [0.9] * 10 + [math.nan] * 3).temperature > 0
    with pytest.raises(DataError, match=r"^29 of 29 .*at least 30 .*method='temperature', which needs 10"):
        c.fit_calibrator([0] + [1] * 28, [0.9] * 29, method="isotonic")
    assert c.fit_calibrator([0] + [1] * 29, [0.9] * 30, method="isotonic").apply(0.9) == pytest.approx(29 / 30)
    with pytest.raises(DataError) as caught:
        c.fit_calibrator([0] + [1] * 8, [0.9] * 9, method="isotonic")
    assert "which needs" not in str(caught.value)  # No use in pointing to a method that would refuse too.
    with pytest.raises(DataError, match=r"^0 of 0"):
        c.fit_calibrator([], [])


@pytest.mark.parametrize("method", METHODS)
def test_one_class_is_refused_with_the_class_that_is_there(method):
    with pytest.raises(DataError, match=r"All 40 .* are correct; expected incorrect ones too"):
        c.fit_calibrator([1] * 40 + [0], [0.9] * 40 + [math.nan], method=method)
    with pytest.raises(DataError, match=r"All 40 .* are incorrect; expected correct ones too"):
        c.fit_calibrator([0] * 40, [0.9] * 40, method=method)
    assert c.fit_calibrator([0.7] * 40, [0.9] * 40, method=method).apply(0.9) == pytest.approx(0.7, abs=1e-5)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf, 10**400, True, "2", None])
def test_what_is_no_temperature_is_refused(temperature):
    with pytest.raises(ConfigurationError, match=r"^temperature is .*expected a finite number above 0"):
        c.TemperatureScaling(temperature)
    with pytest.raises(ArtifactError, match=r"temperature is .*expected a finite number above 0.*fit_calibrator"):
        c.calibrator_from_dict({"method": "temperature", "temperature": temperature})


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([], [], "x has 0 values and y has 0"),
        ([0.1, 0.2], [0.1], "x has 2 values and y has 1"),
        ([0.2, 0.1], [0.1, 0.2], "x is not strictly rising"),
        ([0.1, 0.1], [0.1, 0.2], "x is not strictly rising"),
        ([0.1, 0.2], [0.2, 0.1], "y falls"),
        ([0.1, 1.2], [0.1, 0.2], r"x\[1\] is 1.2"),
        ([0.1, 0.2], [math.nan, 0.2], r"y\[0\] is nan"),
        ([0.1, None], [0.1, 0.2], r"x\[1\] is None"),
        (0.1, [0.1], r"x is 0.1"),
        ("01", [0.0, 1.0], r"x is '01'"),
    ],
)
def test_what_is_no_rising_curve_is_refused(x, y, message):
    with pytest.raises(ConfigurationError, match=f"^{message}.*expected"):
        c.IsotonicCalibration(x, y)
    with pytest.raises(ArtifactError, match=f"'isotonic' is damaged: {message}.*expected"):
        c.calibrator_from_dict({"method": "isotonic", "x": x, "y": y})


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"method": "platt", "a": 1.0}, "method 'platt'; expected 'temperature' or 'isotonic'"),
        ({}, "method None; expected 'temperature' or 'isotonic'"),
        ({"method": ["temperature"]}, r"method \['temperature'\]; expected"),
        ({"method": "temperature", "t": 2.0}, r"only \['method', 't'\]; expected 'temperature' too"),
        ({"method": "isotonic", "x": [0.1]}, r"only \['method', 'x'\]; expected 'y' too"),
        ([1.0], r"is \[1.0\]; expected what Calibrator.to_dict returns"),
        (None, "is None; expected"),
    ],
)
def test_what_is_no_saved_calibrator_is_refused(saved, message):
    with pytest.raises(ArtifactError, match=message):
        c.calibrator_from_dict(saved)
