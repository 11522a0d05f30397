"""What a set of outcomes is worth: the score, its intervals, and paired differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.comparison import compare
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.set_objective import SetObjective
from tp_dspy.scoring.weights import DEFAULT_WEIGHTS, Weights

RULE = SetObjective(Weights.of(None))


def honest(rng: np.random.Generator, n: int, *, accuracy: float = 0.5) -> list[Outcome]:
    """Outcomes whose confidence is the true chance of being right."""
    sure = rng.beta(2 * accuracy, 2 * (1 - accuracy), n)
    return [Outcome("ok", True, float(rng.random() < c), float(c)) for c in sure]


def test_a_perfect_set_scores_1():
    metrics = RULE.measure([Outcome("ok", True, 1.0, 1.0)] * 5)
    assert metrics.score == pytest.approx(1.0)
    assert math.isnan(metrics.auroc)  # One class only: its weight went to accuracy.


def test_a_set_without_any_answer_scores_0():
    metrics = RULE.measure([Outcome("unparsed")] * 5)
    assert metrics.score == 0.0
    assert (metrics.n, metrics.ifr, metrics.accuracy) == (5, 0.0, 0.0)
    assert math.isnan(metrics.ece)


def test_confidence_that_is_expected_and_not_given_earns_nothing():
    outcomes = [Outcome("ok", True, c) for c in (1.0, 1.0, 0.0, 1.0)]
    assert RULE.measure(outcomes).score == pytest.approx(0.2 * 1.0 + 0.4 * 0.75)
    assert SetObjective(Weights.of(None, confidence=False)).measure(outcomes).score == pytest.approx(0.2 + 0.8 * 0.75)


def test_errors_are_counted_and_left_out():
    right = Outcome("ok", True, 1.0, 1.0)
    metrics = RULE.measure([right, Outcome("error", error="down"), right])
    assert (metrics.n, metrics.errors, metrics.accuracy) == (2, 1, 1.0)


def test_errors_alone_are_worth_nothing_known():
    evaluation = evaluate([Outcome("error")] * 3, RULE)
    assert (evaluation.metrics.n, evaluation.metrics.errors) == (0, 3)
    assert math.isnan(evaluation.metrics.score)
    assert evaluation.intervals == {}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n", [1, 3, 40])
def test_intervals_cover_the_point(seed, n):
    evaluation = evaluate(honest(np.random.default_rng(seed), n), RULE, resamples=200, seed=seed)
    point = evaluation.metrics.as_dict()
    assert set(DEFAULT_WEIGHTS) | {"score", "brier", "coverage"} == set(evaluation.intervals)
    for name, (low, high) in evaluation.intervals.items():
        if not math.isnan(point[name]):
            assert low <= point[name] <= high, name


def test_the_interval_of_ece_covers_a_perfect_ece():
    """Resampled, a constant 0.5 is seldom right half of the time: every resample has a larger ECE than the set."""
    outcomes = [Outcome("ok", True, float(i % 2), 0.5) for i in range(2000)]
    low, high = evaluate(outcomes, RULE, resamples=100).intervals["ece"]
    assert low == 0.0 < high


def test_the_interval_of_ece_is_moved_down_to_where_the_true_ece_is():
    """An LM that is right in 0.2 + 0.6 x confidence of cases has an ECE of 0.1; sets of 100 show about 0.15."""
    held, shown = 0, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        confidence = rng.random(100)
        hits = rng.random(100) < 0.2 + 0.6 * confidence
        outcomes = [Outcome("ok", True, float(hit), float(c)) for hit, c in zip(hits, confidence, strict=True)]
        evaluation = evaluate(outcomes, RULE, resamples=300, seed=seed)
        low, high = evaluation.intervals["ece"]
        held += low <= 0.1 <= high
        shown.append(evaluation.metrics.ece)
    assert np.mean(shown) > 0.14
    assert held >= 80  # Without the correction it is fewer than 30.


def test_intervals_shrink_with_more_examples():
    rng = np.random.default_rng(0)
    widths = [np.diff(evaluate(honest(rng, n), RULE, resamples=300).intervals["score"])[0] for n in (30, 600)]
    assert widths[1] < widths[0] / 2


def test_the_usage_of_an_evaluation_is_that_of_its_outcomes():
    outcomes = [Outcome("ok", usage=Usage(1, 0, 10, 2, 0.5)), Outcome("error", usage=Usage(2, 1, 20, 0, None))]
    assert evaluate(outcomes, RULE).usage == Usage(3, 1, 30, 2, None)


def test_equal_sets_do_not_differ():
    outcomes = honest(np.random.default_rng(1), 60)
    comparison = compare(outcomes, outcomes, RULE, resamples=300)
    assert (comparison.score, comparison.low, comparison.high, comparison.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_paired_comparison_sees_what_an_unpaired_one_cannot():
    """The second gets two of sixty more right, and nothing else changes: the noise of the examples cancels."""
    rng = np.random.default_rng(2)
    first = honest(rng, 60)
    wrong = [i for i, outcome in enumerate(first) if not outcome.correct][:8]
    second = [replace(o, correct=1.0) if i in wrong else o for i, o in enumerate(first)]
    paired = compare(first, second, RULE, resamples=500)
    order = rng.permutation(60)
    unpaired = compare(first, [second[i] for i in order], RULE, resamples=500)
    assert paired.score == pytest.approx(unpaired.score) and paired.score > 0
    assert paired.high - paired.low < 0.8 * (unpaired.high - unpaired.low)
    assert paired.p_value < unpaired.p_value


def test_a_comparison_is_antisymmetric():
    rng = np.random.default_rng(3)
    first, second = honest(rng, 50), honest(rng, 50, accuracy=0.8)
    there, back = compare(first, second, RULE, resamples=400), compare(second, first, RULE, resamples=400)
    assert (there.score, there.low, there.high) == pytest.approx((-back.score, -back.high, -back.low))
    assert there.p_value == back.p_value
    assert there.low <= there.score <= there.high


def test_a_finite_number_of_resamples_never_claims_a_p_value_of_0():
    right, wrong = Outcome("ok", True, 1.0, 0.9), Outcome("ok", True, 0.0, 0.9)
    comparison = compare([wrong] * 30, [right] * 30, RULE, resamples=99)
    assert comparison.p_value == pytest.approx(2 / 100)
    assert comparison.low > 0


def test_examples_that_failed_on_either_side_are_left_out_of_both():
    right, wrong, down = Outcome("ok", True, 1.0, 0.9), Outcome("ok", True, 0.0, 0.9), Outcome("error")
    comparison = compare([right, down, wrong, right], [right, right, down, right], RULE, resamples=100)
    assert (comparison.n, comparison.score, comparison.p_value) == (2, 0.0, 1.0)


def test_sets_of_different_lengths_cannot_be_compared():
    with pytest.raises(DataError, match="1 and 2 outcomes"):
        compare([Outcome("ok")], [Outcome("ok")] * 2, RULE)


def test_there_must_be_something_to_compare():
    with pytest.raises(DataError, match="No example has an answer from both"):
        compare([Outcome("error")], [Outcome("ok")], RULE)


def test_weights_are_normalised():
    assert Weights.of({"accuracy": 3, "ece": 1, "ifr": 0}).by_metric == {"accuracy": 0.75, "ece": 0.25}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"acuracy": 1.0}, "acuracy"),
        ({"accuracy": -1.0, "ifr": 2.0}, "at least 0"),
        ({"accuracy": math.nan}, "finite"),
        ({"accuracy": math.inf}, "finite"),
        ({"accuracy": "0.5"}, "finite numbers"),
        ({"accuracy": None}, "finite numbers"),
        ({"accuracy": True}, "finite numbers"),
        ({"accuracy": 0.0}, "one of them above 0"),
        ({}, "one of them above 0"),
    ],
)
def test_weights_that_cannot_work_are_refused(weights, says):
    with pytest.raises(ConfigurationError, match=says):
        Weights.of(weights)
