"""The metrics against values worked out by hand, against scikit-learn, and against their own definitions."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring import metrics as m
from tp_dspy.scoring.arrays import confidence_bins

CONFIDENCE_METRICS = (
    m.expected_calibration_error,
    m.maximum_calibration_error,
    m.brier_score,
    m.auroc,
    m.auprc_positive,
    m.auprc_negative,
)
TWO_CLASS_METRICS = (m.auroc, m.auprc_positive, m.auprc_negative)


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# --- by hand ---


def test_the_means_are_means_and_graded_answers_count_as_they_are():
    assert m.instruction_following_rate([True, True, False, True]) == 0.75
    assert m.accuracy([1, 0, 0.5, 0.5]) == 0.5


def test_ece_by_hand_on_two_uniform_bins():
    # (0, 0.5]: conf 0.25, 0.5 -> mean 0.375, accuracy 0.5, gap 0.125.  (0.5, 1]: conf 0.75, 1 -> 0.875, 0.5, gap 0.375.
    assert m.expected_calibration_error([0, 1, 1, 0], [0.25, 0.5, 0.75, 1.0], n_bins=2) == pytest.approx(0.25)


def test_ece_of_perfect_and_of_perfectly_wrong_confidence():
    assert m.expected_calibration_error([1, 0, 1], [1.0, 0.0, 1.0]) == 0.0
    assert m.expected_calibration_error([0, 1, 0], [1.0, 0.0, 1.0]) == 1.0


def test_brier_by_hand():
    assert m.brier_score([1, 0, 0.5], [0.5, 0.5, 0.5]) == pytest.approx((0.25 + 0.25 + 0.0) / 3)


def test_ranking_metrics_by_hand_with_a_tie():
    # From the top: 0.9 right; {0.5 right, 0.5 wrong}; 0.1 wrong. Pairs won: 2 + (0.5 + 1) of 4.
    correct, confidence = [1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1]
    assert m.auroc(correct, confidence) == pytest.approx(3.5 / 4)
    assert m.auprc_positive(correct, confidence) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert m.auprc_negative(correct, confidence) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_the_two_precision_recall_areas_look_at_different_ends():
    # The one wrong answer is the second most confident: bad for finding it, hardly bad for the three right ones.
    correct, confidence = [1, 0, 1, 1], [0.9, 0.8, 0.7, 0.6]
    assert m.auprc_positive(correct, confidence) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert m.auprc_negative(correct, confidence) == pytest.approx(1 / 3)


def test_graded_correctness_is_split_over_both_classes_by_weight():
    # Above: 0.75 right and 0.25 wrong; below: 0.25 right and 0.75 wrong.
    correct, confidence = [0.75, 0.25], [0.8, 0.2]
    assert m.auroc(correct, confidence) == pytest.approx(0.75 * 0.75 + 0.5 * (0.75 * 0.25 + 0.25 * 0.75))
    assert m.auprc_positive(correct, confidence) == pytest.approx(0.75 * 0.75 + 0.25 * 0.5)


# --- bins ---


def test_uniform_bins_are_open_below_and_closed_above_with_zero_in_the_first():
    edges = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert confidence_bins(edges).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    just_above = np.nextafter(edges[:-1], 1.0)
    assert confidence_bins(just_above).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("n_bins", [1, 2, 5, 7, 10, 15, 20, 100])
def test_every_edge_written_as_a_decimal_belongs_to_the_bin_below(n_bins):
    edges = [k / n_bins for k in range(1, n_bins + 1)]
    assert confidence_bins(edges, n_bins=n_bins).tolist() == list(range(n_bins))


def test_quantile_bins_have_equal_mass_without_ties():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.5, 0.6, 43))
    sizes = np.bincount(confidence_bins(confidence, n_bins=10, strategy="quantile"), minlength=10)
    assert set(sizes) == {4, 5}
    assert sizes.sum() == 43


def test_quantile_bins_keep_ties_together_in_the_bin_of_the_lowest():
    bins = confidence_bins([0.1, 0.9, 0.9, 0.9, 0.9, 0.95], n_bins=3, strategy="quantile")
    assert bins.tolist() == [0, 0, 0, 0, 0, 2]


def test_quantile_ece_by_hand_sees_what_one_wide_bin_hides():
    correct, confidence = [0, 0, 1, 1], [0.91, 0.92, 0.98, 0.99]
    assert m.expected_calibration_error(correct, confidence) == pytest.approx(0.45)  # One bin: |0.5 - 0.95|.
    expected = 0.5 * 0.915 + 0.5 * 0.015
    assert m.expected_calibration_error(correct, confidence, n_bins=2, strategy="quantile") == pytest.approx(expected)


# --- against other implementations ---


def ece_by_loop(correct, confidence, n_bins):
    """The definition, one bin and one example at a time."""
    error = 0.0
    for k in range(n_bins):
        low, high = k / n_bins, (k + 1) / n_bins
        inside = [i for i, c in enumerate(confidence) if low < c <= high or (k == 0 and c == 0)]
        if inside:
            mean_correct = sum(correct[i] for i in inside) / len(inside)
            mean_confidence = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(mean_correct - mean_confidence)
    return error


def quantile_ece_by_loop(correct, confidence, n_bins):
    """Walk up the confidences; a tie stays in the bin where it began."""
    ranked = sorted(range(len(confidence)), key=lambda i: confidence[i])
    members = {}
    for rank, i in enumerate(ranked):
        tied = rank and confidence[i] == confidence[ranked[rank - 1]]
        current = current if tied else math.floor(rank * n_bins / len(ranked) + 1e-9)  # noqa: F821
        members.setdefault(current, []).append(i)
    gaps = [abs(sum(correct[i] for i in group) - sum(confidence[i] for i in group)) for group in members.values()]
    return sum(gaps) / len(ranked)


def random_set(rng):
    """Sets of every kind: distinct and tied confidences, extremes 0 and 1, few examples, one class nearly always."""
    n = int(rng.integers(1, 60))
    confidence = [
        rng.random(n),
        rng.integers(0, 11, n) / 10,
        rng.choice([0.0, 1.0], n),
        rng.choice([0.0, 1.0, 0.5, rng.random()], n),
        np.full(n, rng.random()),
    ][rng.integers(5)]
    return (rng.random(n) < rng.choice([0.02, 0.5, 0.7, 0.98])).astype(float), confidence


@pytest.mark.parametrize("seed", range(3))
def test_binary_metrics_equal_scikit_learn_and_the_loops(seed):
    rng = np.random.default_rng(seed)
    single_class = 0
    for _ in range(200):
        correct, confidence = random_set(rng)
        n_bins = int(rng.choice([1, 3, 10, 15]))
        assert m.expected_calibration_error(correct, confidence, n_bins=n_bins) == pytest.approx(
            ece_by_loop(correct, confidence, n_bins), abs=1e-12
        )
        assert m.expected_calibration_error(correct, confidence, n_bins=n_bins, strategy="quantile") == pytest.approx(
            quantile_ece_by_loop(correct, confidence, n_bins), abs=1e-12
        )
        if len(set(correct)) == 1:
            single_class += 1
            assert all(math.isnan(metric(correct, confidence)) for metric in TWO_CLASS_METRICS)
            continue
        assert m.auroc(correct, confidence) == pytest.approx(roc_auc_score(correct, confidence), abs=1e-12)
        assert m.auprc_positive(correct, confidence) == pytest.approx(
            average_precision_score(correct, confidence), abs=1e-12
        )
        assert m.auprc_negative(correct, confidence) == pytest.approx(
            average_precision_score(1 - correct, 1 - confidence), abs=1e-12
        )
    assert 20 < single_class < 480  # Both branches were really met.


def test_brier_equals_scikit_learn():
    rng = np.random.default_rng(11)
    for _ in range(100):
        correct, confidence = random_set(rng)
        expected = brier_score_loss(correct, confidence, pos_label=1)
        assert m.brier_score(correct, confidence) == pytest.approx(expected, abs=1e-12)


def test_graded_metrics_equal_whole_answers_repeated_in_proportion():
    """Correctness k/4 is the same as k right and 4 - k wrong answers at the same confidence."""
    rng = np.random.default_rng(7)
    for _ in range(150):
        _, confidence = random_set(rng)
        quarters = rng.integers(0, 5, confidence.size)
        whole = np.concatenate([np.r_[np.ones(k), np.zeros(4 - k)] for k in quarters])
        for metric in TWO_CLASS_METRICS:
            expected = metric(whole, np.repeat(confidence, 4))
            assert metric(quarters / 4, confidence) == pytest.approx(expected, abs=1e-12, nan_ok=True)


# --- what is left out, and what is undefined ---


@pytest.mark.parametrize("metric", CONFIDENCE_METRICS)
def test_examples_without_confidence_are_left_out_of_confidence_metrics(metric):
    correct, confidence = [1, 0, 1, 0, 1], [0.9, 0.2, 0.4, 0.6, 0.7]
    with_gaps = metric([1, 0, *correct, 0], [math.nan, None, *confidence, math.nan])
    assert with_gaps == metric(correct, confidence)
    assert not math.isnan(with_gaps)


def test_nothing_to_average_is_nan():
    assert math.isnan(m.instruction_following_rate([]))
    assert math.isnan(m.accuracy([]))
    for metric in CONFIDENCE_METRICS:
        assert math.isnan(metric([], []))
        assert math.isnan(metric([1, 0], [math.nan, math.nan]))
    assert math.isnan(m.expected_calibration_error([], [], strategy="quantile"))


@pytest.mark.parametrize("metric", TWO_CLASS_METRICS)
@pytest.mark.parametrize("only", [0.0, 1.0])
def test_one_class_is_nan_even_when_the_other_class_has_no_confidence(metric, only):
    assert math.isnan(metric([only] * 3, [0.2, 0.5, 0.9]))
    assert math.isnan(metric([only, only, 1 - only], [0.2, 0.5, math.nan]))


def test_the_smallest_graded_correctness_still_makes_two_classes():
    """1 - 1e-320 is 1: a check on the incorrect share alone would see one class."""
    assert m.auroc([1e-320], [0.5]) == 0.5
    assert m.auprc_positive([1e-320], [0.5]) == pytest.approx(0.0, abs=1e-12)
    assert m.auprc_negative([1e-320], [0.5]) == 1.0


def test_confidences_next_to_zero_keep_their_order_in_the_negative_area():
    """1 - 1e-20 and 1 - 1e-30 are the same float; the ranking must not turn them into a tie."""
    assert m.auprc_negative([1, 0], [1e-20, 1e-30]) == 1.0
    assert m.auprc_negative([0, 1], [1e-20, 1e-30]) == 0.5


# --- errors ---


@pytest.mark.parametrize("metric", CONFIDENCE_METRICS)
@pytest.mark.parametrize(
    ("correct", "confidence", "says"),
    [
        ([1, 0], [0.5], r"correct has 2 values and confidence has 1"),
        ([1, math.nan], [0.5, 0.5], r"correct\[1\] is nan"),
        ([1, 2], [0.5, 0.5], r"correct\[1\] is 2.0"),
        ([1, 0], [0.5, 90], r"confidence\[1\] is 90.0"),
        ([1, 0], [-0.1, 0.5], r"confidence\[0\] is -0.1"),
        ([1, 0], [0.5, math.inf], r"confidence\[1\] is inf"),
        ([[1, 0]], [0.5, 0.5], r"correct has shape \(1, 2\)"),
        (1, 0.5, r"correct has shape \(\)"),
        (["yes", "no"], [0.5, 0.5], r"correct is not numeric"),
    ],
)
def test_bad_arrays_are_named(metric, correct, confidence, says):
    with pytest.raises(DataError, match=says):
        metric(correct, confidence)


@pytest.mark.parametrize("metric", [m.accuracy, m.instruction_following_rate])
@pytest.mark.parametrize("values", [[1, math.nan], [1, 1.5], [None], [[1]]])
def test_the_means_check_their_values_too(metric, values):
    with pytest.raises(DataError):
        metric(values)


@pytest.mark.parametrize("n_bins", [0, -1, 2.5, "10", None, True])
@pytest.mark.parametrize("values", [[], [0.5]])
def test_a_bad_number_of_bins_is_refused(n_bins, values):
    with pytest.raises(ConfigurationError, match="n_bins"):
        m.expected_calibration_error(values, values, n_bins=n_bins)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ConfigurationError, match=r"'equal'.*'uniform' or 'quantile'"):
        m.expected_calibration_error([1], [0.5], strategy="equal")


# --- properties ---

unit = st.one_of(st.sampled_from([0.0, 0.1, 0.5, 0.7, 1.0]), st.floats(0.0, 1.0))
example_sets = st.lists(st.tuples(unit, st.one_of(unit, st.just(math.nan))), max_size=25)


def all_metrics(pairs):
    correct, confidence = [c for c, _ in pairs], [p for _, p in pairs]
    values = {f.__name__: f(correct, confidence) for f in CONFIDENCE_METRICS}
    values["accuracy"] = m.accuracy(correct)
    for strategy in ("uniform", "quantile"):
        values[strategy] = m.expected_calibration_error(correct, confidence, n_bins=4, strategy=strategy)
    return values


@settings(max_examples=150, deadline=None)
@given(pairs=example_sets, seed=st.integers(0, 1000))
def test_every_value_is_in_range_or_nan_and_the_order_does_not_matter(pairs, seed):
    values = all_metrics(pairs)
    assert all(math.isnan(value) or 0.0 <= value <= 1.0 for value in values.values())
    shuffled = [pairs[i] for i in np.random.default_rng(seed).permutation(len(pairs))]
    assert all_metrics(shuffled) == pytest.approx(values, abs=1e-12, nan_ok=True)


@settings(max_examples=100, deadline=None)
@given(
    correct=st.lists(st.booleans(), min_size=2, max_size=25),
    levels=st.lists(st.integers(0, 16), min_size=25, max_size=25),
)
def test_turning_confidence_and_correctness_around_swaps_the_two_areas(correct, levels):
    right = np.array(correct, dtype=float)
    sure = np.array(levels[: right.size]) / 16  # Sixteenths, so that 1 - x is exact.
    swapped = m.auprc_negative(1 - right, 1 - sure)
    assert swapped == pytest.approx(m.auprc_positive(right, sure), abs=1e-12, nan_ok=True)
    assert m.auroc(1 - right, 1 - sure) == pytest.approx(m.auroc(right, sure), abs=1e-12, nan_ok=True)


# --- the reliability curve ---


def test_the_reliability_curve_by_hand_leaves_empty_bins_out():
    curve = m.reliability_curve([1, 0, 1, 0.5], [0.92, 0.15, 0.98, float("nan")])
    assert curve.count.tolist() == [1, 2]
    assert (curve.low.tolist(), curve.high.tolist()) == ([0.15, 0.92], [0.15, 0.98])
    assert curve.accuracy.tolist() == [0.0, 1.0] and curve.confidence == pytest.approx([0.15, 0.95])
    assert m.maximum_calibration_error([1, 0, 1, 0.5], [0.92, 0.15, 0.98, float("nan")]) == pytest.approx(0.15)
    empty = m.reliability_curve([1, 0], [float("nan")] * 2)
    assert [part.size for part in (empty.low, empty.high, empty.confidence, empty.accuracy, empty.count)] == [0] * 5


@given(
    st.lists(st.tuples(st.floats(0, 1), st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.3, 1.0]))), min_size=1),
    st.integers(1, 12),
    st.sampled_from(["uniform", "quantile"]),
)
def test_both_calibration_errors_can_be_read_off_the_curve(pairs, n_bins, strategy):
    correct, confidence = zip(*pairs, strict=True)
    curve = m.reliability_curve(correct, confidence, n_bins=n_bins, strategy=strategy)
    gaps = np.abs(curve.accuracy - curve.confidence)
    ece = m.expected_calibration_error(correct, confidence, n_bins=n_bins, strategy=strategy)
    mce = m.maximum_calibration_error(correct, confidence, n_bins=n_bins, strategy=strategy)
    assert ece == pytest.approx((gaps * curve.count).sum() / len(pairs)) and mce == pytest.approx(gaps.max())
    assert ece <= mce + 1e-12
    assert curve.count.sum() == len(pairs) and len(curve.count) <= n_bins
    assert (curve.low <= curve.confidence + 1e-12).all() and (curve.confidence <= curve.high + 1e-12).all()
    assert (curve.high[:-1] < curve.low[1:]).all()


def test_where_nearly_all_confidences_are_the_same_only_bins_of_equal_mass_still_tell_them_apart():
    # What saturated LMs give: 19 of 20 confidences at 0.99 or more; the right ones are the surest.
    confidence = np.r_[np.linspace(0.99, 0.999999, 95), np.linspace(0.1, 0.5, 5)]
    correct = np.r_[np.zeros(45), np.ones(50), np.zeros(5)]
    assert m.reliability_curve(correct, confidence).count.max() == 95
    quantile = m.reliability_curve(correct, confidence, strategy="quantile")
    assert len(quantile.count) == 10 and quantile.accuracy[0] < quantile.accuracy[-1]
    assert m.expected_calibration_error(correct, confidence, strategy="quantile") >= m.expected_calibration_error(
        correct, confidence
    )
