"""The resampling kernel against the plain metrics on physically repeated examples, and the bootstrap around it."""

from __future__ import annotations

import math
import timeit
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring import metrics as m
from tp_dspy.scoring import resampling
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.resampling import (
    OutcomeArrays,
    bootstrap_weights,
    percentile_interval,
    weighted_metrics,
)


@pytest.fixture(autouse=True)
def every_warning_is_an_error():
    with warnings.catch_warnings(), np.errstate(divide="raise", invalid="raise", over="raise"):
        warnings.simplefilter("error")
        yield


def plain_metrics(arrays, n_bins=10):
    """The same metrics, one function of metrics.py at a time."""
    right, sure = arrays.correct, arrays.confidence
    return {
        "ifr": m.instruction_following_rate(arrays.followed),
        "accuracy": m.accuracy(right),
        "ece": m.expected_calibration_error(right, sure, n_bins=n_bins),
        "auroc": m.auroc(right, sure),
        "auprc_positive": m.auprc_positive(right, sure),
        "auprc_negative": m.auprc_negative(right, sure),
        "brier": m.brier_score(right, sure),
        "coverage": m.coverage(sure),
    }


def metrics_of(arrays, n_bins=10):
    return {k: float(v[0]) for k, v in weighted_metrics(arrays, np.ones((1, len(arrays))), n_bins=n_bins).items()}


def assert_rows_equal_repeated_examples(arrays, weights, n_bins=10):
    values = weighted_metrics(arrays, weights, n_bins=n_bins)
    assert tuple(values) == m.METRIC_NAMES
    assert all(value.shape == (len(weights),) for value in values.values())
    for row, counts in enumerate(weights):
        repeated = arrays.take(np.repeat(np.arange(len(arrays)), counts))
        got = {name: float(value[row]) for name, value in values.items()}
        assert got == pytest.approx(plain_metrics(repeated, n_bins), abs=1e-9, nan_ok=True)


def random_arrays(rng, n):
    """Outcomes of every kind: ties, extremes 0 and 1, no confidence, graded correctness, one class."""
    confidence = [rng.random(n), rng.integers(0, 11, n) / 10, rng.choice([0.0, 1.0], n), np.full(n, 0.8)]
    correct = [rng.random(n) < 0.6, rng.random(n) < 0.03, np.ones(n), rng.random(n), rng.integers(0, 5, n) / 4]
    missing = rng.random(n) < rng.choice([0.0, 0.2, 0.95])
    return OutcomeArrays(
        followed=rng.random(n) < 0.8,
        correct=correct[rng.integers(5)],
        confidence=np.where(missing, math.nan, confidence[rng.integers(4)]),
        answered=~missing,
    )


def some_arrays(n=6):
    return random_arrays(np.random.default_rng(0), n)


# --- from outcomes to arrays ---


def test_outages_are_left_out_and_unreadable_replies_count_against_the_prompt():
    arrays = OutcomeArrays.from_outcomes(
        [
            Outcome("ok", followed=True, correct=0.5, confidence=0.9),
            Outcome("error", followed=True, correct=1.0, confidence=1.0, error="TimeoutError: too late"),
            Outcome("unparsed", followed=True, correct=1.0, confidence=0.3),
            Outcome("ok", followed=False, correct=1.0, confidence=None),
        ]
    )
    assert len(arrays) == 3
    assert arrays.followed.tolist() == [True, False, False]
    assert arrays.correct.tolist() == [0.5, 0.0, 1.0]
    assert arrays.confidence.tolist() == pytest.approx([0.9, math.nan, math.nan], nan_ok=True)
    assert arrays.answered.tolist() == [True, False, True]
    assert [a.dtype.kind for a in (arrays.followed, arrays.correct, arrays.confidence, arrays.answered)] == list("bffb")


def test_unparsed_outcomes_lower_ifr_and_accuracy_and_nothing_else():
    answered = [Outcome("ok", True, 1.0, 0.9), Outcome("ok", True, 0.0, 0.2)]
    before = metrics_of(OutcomeArrays.from_outcomes(answered))
    after = metrics_of(OutcomeArrays.from_outcomes([*answered, Outcome("unparsed"), Outcome("unparsed")]))
    assert (before["ifr"], before["accuracy"]) == (1.0, 0.5)
    assert (after["ifr"], after["accuracy"]) == (0.5, 0.25)
    for name in ("ece", "auroc", "auprc_positive", "auprc_negative", "brier"):
        assert after[name] == pytest.approx(before[name])


@pytest.mark.parametrize("outcomes", [[], [Outcome("error")] * 3, iter([])])
def test_no_outcomes_is_an_empty_set_with_undefined_metrics(outcomes):
    arrays = OutcomeArrays.from_outcomes(outcomes)
    assert len(arrays) == 0
    assert all(math.isnan(value) for value in metrics_of(arrays).values())


def test_take_picks_by_position_repeats_and_masks():
    arrays = some_arrays(4)
    assert arrays.take([2, 2, -1]).correct.tolist() == arrays.correct[[2, 2, 3]].tolist()
    assert arrays.take(np.array([True, False, True, False])).followed.tolist() == arrays.followed[[0, 2]].tolist()
    assert len(arrays.take([])) == 0
    with pytest.raises(IndexError):
        arrays.take([4])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"confidence": [0.5]}, r"differ in length.*'confidence': 1"),
        ({"correct": [0.5, math.nan]}, r"correct\[1\] is nan"),
        ({"confidence": [0.5, 1.5]}, r"confidence\[1\] is 1.5"),
        ({"followed": [0.5, 1]}, r"followed holds values between 0 and 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, says):
    good = {"followed": [True, False], "correct": [1, 0], "confidence": [0.5, None], "answered": [True, True]}
    assert len(OutcomeArrays(**good)) == 2
    with pytest.raises(DataError, match=says):
        OutcomeArrays(**good | change)


# --- the kernel ---


@pytest.mark.parametrize("seed", range(3))
def test_weights_equal_physically_repeated_examples(seed):
    rng = np.random.default_rng(seed)
    for _ in range(60):
        arrays = random_arrays(rng, int(rng.integers(1, 40)))
        weights = bootstrap_weights(len(arrays), 4, rng)
        assert_rows_equal_repeated_examples(arrays, weights, n_bins=int(rng.choice([1, 7, 10])))


unit = st.one_of(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0, 5e-324]), st.floats(0.0, 1.0))
rows = st.tuples(st.booleans(), unit, st.one_of(unit, st.just(math.nan)), st.integers(0, 4))


@settings(max_examples=150, deadline=None)
@given(examples=st.lists(rows, max_size=15), seed=st.integers(0, 1000))
def test_any_counts_equal_repeated_examples_stay_in_range_and_ignore_the_order(examples, seed):
    followed, correct, confidence, counts = map(list, zip(*examples, strict=True)) if examples else ([], [], [], [])
    arrays = OutcomeArrays(followed, correct, confidence, [True] * len(followed))
    weights = np.array([counts, [1] * len(counts), [0] * len(counts)], dtype=int)
    assert_rows_equal_repeated_examples(arrays, weights)
    values = weighted_metrics(arrays, weights)
    assert all(((v >= 0) & (v <= 1) | np.isnan(v)).all() for v in values.values())
    shuffle = np.random.default_rng(seed).permutation(len(counts))
    shuffled = weighted_metrics(arrays.take(shuffle), weights[:, shuffle])
    for name, value in values.items():
        assert shuffled[name] == pytest.approx(value, abs=1e-12, nan_ok=True)


def test_only_the_proportions_of_the_weights_matter():
    arrays, weights = some_arrays(30), np.random.default_rng(1).random((5, 30))
    once, thousandth = weighted_metrics(arrays, weights), weighted_metrics(arrays, weights / 1000)
    for name in m.METRIC_NAMES:
        assert thousandth[name] == pytest.approx(once[name], abs=1e-12, nan_ok=True)


def test_one_row_of_ones_gives_the_plain_metrics():
    rng = np.random.default_rng(3)
    for n in (1, 2, 50, 500):
        arrays = random_arrays(rng, n)
        assert metrics_of(arrays, n_bins=7) == pytest.approx(plain_metrics(arrays, 7), abs=1e-9, nan_ok=True)


def test_rows_that_leave_nothing_or_one_class_are_nan_next_to_rows_that_do_not():
    arrays = OutcomeArrays([True] * 3, [1, 0, 1], [0.9, 0.2, math.nan], [True] * 3)
    values = weighted_metrics(arrays, [[0, 0, 0], [2, 0, 0], [0, 0, 3], [1, 1, 1]])
    undefined = {name: np.isnan(value).tolist() for name, value in values.items()}
    assert undefined["ifr"] == undefined["accuracy"] == [True, False, False, False]
    assert undefined["ece"] == undefined["brier"] == [True, False, True, False]
    for name in ("auroc", "auprc_positive", "auprc_negative"):
        assert undefined[name] == [True, True, True, False]
        assert values[name][3] == 1.0


def test_chunks_do_not_show_in_the_result(monkeypatch):
    arrays = some_arrays(20)
    whole_weights = bootstrap_weights(20, 50, np.random.default_rng(9))
    whole = weighted_metrics(arrays, whole_weights)
    for elements in (1, 60, 999):  # One row, three rows, and rows that do not divide 50.
        monkeypatch.setattr(resampling, "_CHUNK_ELEMENTS", elements)
        assert (bootstrap_weights(20, 50, np.random.default_rng(9)) == whole_weights).all()
        parts = weighted_metrics(arrays, whole_weights)
        for name in m.METRIC_NAMES:
            assert parts[name] == pytest.approx(whole[name], abs=1e-12, nan_ok=True)
    assert weighted_metrics(arrays, whole_weights[:0])["ece"].shape == (0,)


@pytest.mark.parametrize("weights", [np.ones(6), np.ones((2, 5)), [["a"] * 6], np.ones((1, 6), dtype=complex)])
def test_weights_of_another_shape_or_type_are_refused(weights):
    with pytest.raises(DataError, match=r"expected numbers of shape \(R, 6\)"):
        weighted_metrics(some_arrays(6), weights)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_that_are_no_weights_are_refused(bad):
    weights = np.ones((3, 6))
    weights[1, 2] = bad
    with pytest.raises(DataError, match="at least 0"):
        weighted_metrics(some_arrays(6), weights)


@pytest.mark.parametrize("n_bins", [0, 1.5, True])
def test_a_bad_number_of_bins_is_refused(n_bins):
    with pytest.raises(ConfigurationError, match="n_bins"):
        metrics_of(some_arrays(), n_bins=n_bins)


def test_memory_does_not_grow_with_the_resamples():
    arrays = some_arrays(2_000)
    weights = bootstrap_weights(2_000, 2_000, np.random.default_rng(0))
    tracemalloc.start()
    try:
        weighted_metrics(arrays, weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000 * 2_000 * 8 / 2  # Less than half of one float64 copy of the weights.


def test_a_thousand_resamples_are_much_faster_than_a_scikit_learn_loop():
    rng = np.random.default_rng(0)
    n = 2_000
    arrays = OutcomeArrays(np.ones(n), rng.random(n) < 0.6, rng.random(n), np.ones(n))
    plain_metrics(arrays)  # scikit-learn is imported lazily; that is not what is measured.
    loop = min(timeit.repeat(lambda: plain_metrics(arrays.take(rng.integers(n, size=n))), number=1, repeat=5))
    kernel = min(timeit.repeat(lambda: weighted_metrics(arrays, bootstrap_weights(n, 1_000, rng)), number=1, repeat=2))
    assert kernel * 5 < loop * 1_000


# --- the bootstrap around it ---


def test_bootstrap_weights_are_counts_of_n_draws_and_follow_the_seed():
    weights = bootstrap_weights(50, 400, np.random.default_rng(2))
    assert weights.shape == (400, 50)
    assert weights.dtype.kind == "i"
    assert weights.min() >= 0
    assert (weights.sum(axis=1) == 50).all()
    assert (weights == bootstrap_weights(50, 400, np.random.default_rng(2))).all()
    assert (weights != bootstrap_weights(50, 400, np.random.default_rng(3))).any()


def test_bootstrap_weights_have_the_moments_of_the_multinomial():
    n, resamples = 10, 40_000
    weights = bootstrap_weights(n, resamples, np.random.default_rng(4)).astype(float)
    covariance = np.cov(weights, rowvar=False)
    assert weights.mean(axis=0) == pytest.approx(np.ones(n), abs=0.03)
    assert np.diag(covariance) == pytest.approx(np.full(n, 1 - 1 / n), abs=0.05)
    assert covariance[~np.eye(n, dtype=bool)] == pytest.approx(np.full(n * n - n, -1 / n), abs=0.04)


def test_batches_of_bootstrap_weights_equal_one_draw():
    for n in (7, 50):
        rng = np.random.default_rng(6)
        batches = np.concatenate([bootstrap_weights(n, k, rng) for k in (3, 1, 5)])
        assert (batches == bootstrap_weights(n, 9, np.random.default_rng(6))).all()


def test_bootstrap_weights_of_nothing_and_of_less():
    rng = np.random.default_rng(0)
    assert bootstrap_weights(0, 5, rng).shape == (5, 0)
    assert bootstrap_weights(5, 0, rng).shape == (0, 5)
    for n, resamples in ((-1, 5), (5, -1)):
        with pytest.raises(ConfigurationError, match="at least 0"):
            bootstrap_weights(n, resamples, rng)


def test_percentile_interval_by_hand_and_without_the_undefined():
    values = np.random.default_rng(0).permutation(np.arange(101) / 100)
    assert percentile_interval(values) == pytest.approx((0.025, 0.975))
    assert percentile_interval(values, level=0.5) == pytest.approx((0.25, 0.75))
    assert percentile_interval([*values, math.nan, math.nan]) == percentile_interval(values)
    assert percentile_interval([0.3]) == (0.3, 0.3)


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]])
def test_percentile_interval_of_nothing_is_nan(values):
    assert all(math.isnan(end) for end in percentile_interval(values))


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.5, math.nan])
def test_percentile_interval_wants_a_share(level):
    with pytest.raises(ConfigurationError, match=r"such as 0\.95"):
        percentile_interval([0.1, 0.2], level=level)


def test_the_interval_of_an_accuracy_is_that_of_the_binomial():
    arrays = OutcomeArrays(np.ones(400), np.arange(400) < 280, np.full(400, 0.7), np.ones(400))
    draws = weighted_metrics(arrays, bootstrap_weights(400, 4_000, np.random.default_rng(8)))["accuracy"]
    half_width = 1.96 * math.sqrt(0.7 * 0.3 / 400)
    assert percentile_interval(draws) == pytest.approx((0.7 - half_width, 0.7 + half_width), abs=0.005)
