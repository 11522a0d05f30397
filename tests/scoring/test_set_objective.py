"""One score from many metrics: what it may never do, constraints, and metrics of the user's own."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.custom import SetMetric, check_metrics, macro_f1
from tp_dspy.scoring.metrics import LOWER_IS_BETTER, METRIC_NAMES
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.set_objective import SetObjective
from tp_dspy.scoring.weights import DEFAULT_WEIGHTS, Constraints, Weights

RULE = SetObjective(Weights.of(None))

shares = st.floats(0.0, 1.0)
graded = st.sampled_from([0.0, 0.3, 1.0])
outcome = st.one_of(
    st.just(Outcome("unparsed")),
    st.builds(Outcome, st.just("ok"), st.booleans(), graded, st.one_of(st.none(), shares, st.sampled_from([0.0, 1.0]))),
)
outcome_sets = st.lists(outcome, min_size=1, max_size=25)
weight_sets = st.dictionaries(st.sampled_from(METRIC_NAMES), st.floats(0.01, 1.0), min_size=1)
metric_sets = st.fixed_dictionaries(
    {name: st.one_of(shares, st.just(math.nan)) if name.startswith("au") else shares for name in METRIC_NAMES}
)


# Properties of the score.


@settings(max_examples=300)
@given(outcome_sets, weight_sets)
def test_the_score_is_a_share(outcomes: list[Outcome], weights: dict[str, float]) -> None:
    for score in (RULE.measure(outcomes).score, SetObjective(Weights.of(weights)).measure(outcomes).score):
        assert 0.0 <= score <= 1.0


@given(outcome_sets, weight_sets, st.randoms(use_true_random=False))
def test_the_order_of_outcomes_changes_nothing(outcomes: list[Outcome], weights: dict[str, float], random: Any) -> None:
    rule = SetObjective(Weights.of(weights))
    shuffled = random.sample(outcomes, len(outcomes))
    before, after = rule.measure(outcomes).as_dict(), rule.measure(shuffled).as_dict()
    assert before == pytest.approx(after, abs=1e-12, nan_ok=True)


@given(metric_sets, metric_sets, weight_sets)
@settings(max_examples=500)
def test_a_set_at_least_as_good_in_every_metric_never_scores_lower(
    one: dict[str, float], other: dict[str, float], weights: dict[str, float]
) -> None:
    """Whatever the metrics are; where one is undefined for one set, it is for the other."""
    names = [name for name in METRIC_NAMES if math.isnan(one[name]) or math.isnan(other[name])]
    one, other = one | dict.fromkeys(names, math.nan), other | dict.fromkeys(names, math.nan)
    worse = {n: max(one[n], other[n]) if n in LOWER_IS_BETTER else min(one[n], other[n]) for n in METRIC_NAMES}
    for by in (Weights.of(None), Weights.of(weights)):
        assert by.score(worse) <= by.score(one) + 1e-12


# Of two sets drawn apart, few pairs can be compared.
@settings(max_examples=150, suppress_health_check=[HealthCheck.filter_too_much])
@given(outcome_sets, outcome_sets, weight_sets)
def test_and_so_it_is_with_real_sets_where_undefined_is_all_right_or_all_wrong(
    one: list[Outcome], other: list[Outcome], weights: dict[str, float]
) -> None:
    rule = SetObjective(Weights.of(weights))
    a, b = rule.measure(one).as_dict(), rule.measure(other).as_dict()
    defined = [n for n in METRIC_NAMES if not math.isnan(a[n]) and not math.isnan(b[n])]
    better = all((a[n] >= b[n]) != (n in LOWER_IS_BETTER and a[n] != b[n]) for n in defined)
    # All are right and sure, or all are as good where both are known and nothing is unknown to one alone.
    assume(better and all(math.isnan(a[n]) == math.isnan(b[n]) for n in METRIC_NAMES))
    assert a["score"] >= b["score"] - 1e-12


@given(weight_sets, st.integers(1, 30))
def test_a_perfect_set_scores_1(weights: dict[str, float], n: int) -> None:
    perfect = [Outcome("ok", True, 1.0, 1.0)] * n
    for by in (Weights.of(None), Weights.of(weights)):
        assert SetObjective(by).measure(perfect).score == pytest.approx(1.0)


@settings(max_examples=500)
@given(outcome_sets, st.floats(0.5, 1.0), st.data())
def test_withholding_a_right_answer_never_helps(outcomes: list[Outcome], sure: float, data: st.DataObject) -> None:
    """Not even where what is left is better calibrated. At a confidence near 0 it may."""
    index = data.draw(st.integers(0, len(outcomes)))
    full = [*outcomes[:index], Outcome("ok", True, 1.0, sure), *outcomes[index:]]
    fewer = [*outcomes[:index], Outcome("unparsed"), *outcomes[index:]]
    assert RULE.measure(fewer).score <= RULE.measure(full).score + 1e-12


def _honest(rng: np.random.Generator, n: int, accuracy: float) -> list[Outcome]:
    sure = rng.beta(2 * accuracy, 2 * (1 - accuracy), n)
    return [Outcome("ok", True, float(rng.random() < c), float(c)) for c in sure]


def _degenerate(rng: np.random.Generator, kind: str, base: list[Outcome]) -> list[Outcome]:
    right = sum(outcome.correct for outcome in base)
    if kind == "wrong at confidence 0":
        return [Outcome("ok", True, 0.0, 0.0) for _ in base]
    if kind == "constant":
        constant = [0.0, 1.0, right / len(base), 0.5][int(rng.integers(4))]
        return [replace(outcome, confidence=constant) for outcome in base]
    if kind == "refuses":
        return [Outcome("unparsed") for _ in base]
    if kind == "refuses unless sure":  # And is right and calibrated in what it answers.
        return [o if (o.confidence or 0) > 0.8 else Outcome("unparsed") for o in base]
    keep = rng.random(len(base)) < 0.3  # Refuses most, and answers the rest as the baseline does.
    return [outcome if kept else Outcome("unparsed") for outcome, kept in zip(base, keep, strict=True)]


@pytest.mark.parametrize(
    "kind", ["wrong at confidence 0", "constant", "refuses", "refuses most", "refuses unless sure"]
)
def test_degenerate_prompts_lose_to_an_honest_baseline_of_at_least_their_accuracy(kind: str) -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        base = _honest(rng, 300, float(rng.uniform(0.2, 0.9)))
        other = RULE.measure(_degenerate(rng, kind, base))
        honest = RULE.measure(base)
        assert other.accuracy <= honest.accuracy
        assert other.score < honest.score


def test_two_of_ten_well_answered_count_a_fifth() -> None:
    few = [Outcome("ok", True, 1.0, 1.0)] * 2 + [Outcome("unparsed")] * 8
    metrics = RULE.measure(few)
    assert (metrics.coverage, metrics.ece, metrics.accuracy) == (0.2, 0.0, 0.2)
    assert metrics.score == pytest.approx(0.2)


# Weights.


def test_without_confidence_the_default_weights_of_its_metrics_go_to_accuracy() -> None:
    assert Weights.of(None, confidence=False).by_metric == pytest.approx({"accuracy": 0.8, "ifr": 0.2})
    with pytest.raises(ConfigurationError, match=r"weights names \['auroc'\], which need a confidence"):
        Weights.of({"accuracy": 1.0, "auroc": 1.0, "ece": 0.0}, confidence=False)


def test_any_subset_of_metrics_can_be_weighted() -> None:
    outcomes = _honest(np.random.default_rng(0), 50, 0.6)
    metrics = SetObjective(Weights.of({"brier": 3.0, "accuracy": 1.0})).measure(outcomes)
    assert metrics.score == pytest.approx(0.75 * (1 - metrics.brier) + 0.25 * metrics.accuracy)
    assert set(DEFAULT_WEIGHTS) < set(METRIC_NAMES)


# Constraints.


def _levels(**levels: float) -> SetObjective:
    return SetObjective(Weights.of(None), Constraints.of(levels))


def test_a_constraint_is_kept_missed_by_so_much_or_undefined() -> None:
    followed = [Outcome("ok", True, 1.0, 0.9)] * 19
    assert _levels(ifr=0.95).measure([*followed, Outcome("unparsed")]).violation == 0.0  # 19 of 20
    assert _levels(ifr=0.95).measure([*followed[:17], *[Outcome("unparsed")] * 3]).violation == pytest.approx(0.10)
    assert _levels(ece=0.05).measure(followed).violation == pytest.approx(0.05)  # 0.1 is more than 0.05
    assert _levels(ece=0.05, ifr=0.9).measure([Outcome("unparsed")]).violation == pytest.approx(0.95 + 0.9)
    # One class only: as good as the accuracy is.
    assert _levels(auroc=0.7).measure(followed).violation == 0.0
    assert _levels(auroc=0.7).measure([Outcome("ok", True, 0.0, 0.9)] * 3).violation == pytest.approx(0.7)


def test_what_is_missed_is_said_in_words() -> None:
    constraints = Constraints.of({"ifr": 0.95, "ece": 0.05, "accuracy": 0.5})
    metrics = _levels().measure([Outcome("ok", False, 1.0, 0.9)] * 4)
    assert constraints.missed(metrics.as_dict()) == [
        "ifr is 0.000; at least 0.95 was asked for",
        "ece is 0.100; at most 0.05 was asked for",
    ]


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ({"irf": 0.9}, r"constraints names \['irf'\]; expected some of .*'ifr'.*ObjectiveEvaluator\(metrics="),
        ({"ifr": 1.5}, r"\{'ifr': 1.5\}; expected levels in \[0, 1\]"),
        ({"ifr": "high"}, "expected levels"),
        ({"ifr": math.nan}, "expected levels"),
        ({"score": 0.5}, "constraints names"),
    ],
)
def test_levels_that_cannot_be_are_refused(levels: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Constraints.of(levels)
    with pytest.raises(ConfigurationError, match="need a confidence"):
        Constraints.of({"ece": 0.1}, confidence=False)


# Metrics of the user's own.


def _own(metric: Any, weights: dict[str, float] | None = None) -> SetObjective:
    custom = check_metrics({"own": metric})
    return SetObjective(Weights.of(weights or {"own": 1.0}, custom=custom), custom=custom)


def test_a_metric_of_outcomes_is_averaged_and_resampled_as_the_others_are() -> None:
    rule = _own(lambda outcome: float(outcome.reply == "B"), {"own": 1.0, "accuracy": 1.0})
    outcomes = [Outcome("ok", True, 1.0, reply="B"), Outcome("ok", True, 0.0, reply="A"), Outcome("error", reply="B")]
    metrics = rule.measure(outcomes)
    assert metrics.custom == {"own": 0.5} and metrics.as_dict()["own"] == 0.5 and metrics.score == 0.5
    values = rule.values(outcomes, [[2, 0, 9], [1, 3, 0], [0, 0, 1]])
    assert values["own"] == pytest.approx([1.0, 0.25, math.nan], nan_ok=True)


def test_a_metric_of_sets_sees_every_resample() -> None:
    seen: list[int] = []

    def largest_share(outcomes: Any) -> float:
        seen.append(len(outcomes))
        answers = [outcome.answer for outcome in outcomes]
        return max(answers.count(answer) for answer in answers) / len(answers)

    outcomes = [Outcome("ok", answer=letter) for letter in "AAB"]
    assert _own(SetMetric(largest_share)).values(outcomes, [[1, 1, 1], [0, 1, 3]])["own"] == pytest.approx(
        [2 / 3, 0.75]
    )
    assert seen == [3, 4]


def test_macro_f1_is_scikit_learns_over_the_expected_answers() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    expected, given_ = rng.choice(list("abc"), 60, p=[0.8, 0.1, 0.1]), rng.choice(list("abc"), 60)
    outcomes = [Outcome("ok", answer=str(g), expected=str(e)) for g, e in zip(given_, expected, strict=True)]
    assert macro_f1(outcomes) == pytest.approx(f1_score(expected, given_, average="macro"))
    refused = [*outcomes, *[Outcome("unparsed", expected="b")] * 20]
    assert macro_f1(refused) < macro_f1(outcomes)
    assert math.isnan(macro_f1([Outcome("ok", answer="a")]))


def test_an_undefined_metric_of_sets_gives_its_weight_to_accuracy() -> None:
    rule = _own(SetMetric(lambda outcomes: math.nan), {"own": 1.0, "ifr": 1.0})
    assert rule.measure([Outcome("ok", True, 0.3)]).score == pytest.approx(0.5 * 0.3 + 0.5)


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan, "good", None])
def test_a_metric_must_give_a_share(value: Any) -> None:
    with pytest.raises(DataError, match="The metric 'own' returned"):
        _own(lambda outcome: value).measure([Outcome("ok")])


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ({"accuracy": len}, "the name 'accuracy'"),
        ({"score": len}, "the name 'score'"),
        ({"my metric": len}, "the name 'my metric'"),
        ({"own": 0.5}, r"metrics\['own'\] is 0.5; expected a function"),
        ({"own": SetMetric(0.5)}, "expected a function"),  # type: ignore[arg-type]
    ],
)
def test_metrics_that_cannot_work_are_refused(metrics: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        check_metrics(metrics)
