"""Evaluations and comparisons as text, values, tables and HTML."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tp_dspy.scoring.comparison import compare
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.set_objective import SetObjective
from tp_dspy.scoring.weights import Constraints, Weights

RULE = SetObjective(Weights.of(None))


def outcomes(n: int = 60, *, seed: int = 0, sure: float | None = None, right: float = 0.7) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        expected = "yes" if rng.random() < 0.5 else "no"
        hit = rng.random() < right
        answer = expected if hit else {"yes": "no", "no": "yes"}[expected]
        confidence = float(rng.random()) if sure is None else sure
        made.append(Outcome("ok", True, float(hit), confidence, answer, expected, usage=Usage(1)))
    return made


MIXED = [*outcomes(), Outcome("unparsed", expected="no"), Outcome("ok", False, 1.0, 0.5, "no", "no"), Outcome("error")]


def test_replies_and_answers_are_counted():
    evaluation = evaluate(MIXED, RULE, resamples=50)
    assert evaluation.statuses == {"ok": 61, "ok but not followed": 1, "unparsed": 1, "error": 1}
    table = evaluation.confusion()
    assert table.to_numpy().sum() == 62 and table.loc["no", "(unparsed)"] == 1
    right = sum(o.correct for o in MIXED)
    assert table.loc["no", "no"] + table.loc["yes", "yes"] == right


def test_the_reliability_curve_averages_to_the_calibration_error():
    evaluation = evaluate(MIXED, RULE, resamples=50)
    for strategy, ece in (("uniform", evaluation.metrics.ece), ("quantile", evaluation.ece_equal_mass)):
        curve = evaluation.reliability(strategy)
        assert np.average(np.abs(curve.accuracy - curve.confidence), weights=curve.count) == pytest.approx(ece)


def test_saturated_confidences_are_remarked_on_with_the_equal_mass_figure():
    """Seen in published outputs of optimisers: nearly everything at 0.99 and above."""
    saturated = evaluate([*outcomes(30, sure=0.999), *outcomes(6, seed=1)], RULE, resamples=50)
    remark = next(r for r in saturated.remarks if "of confidences are 0.99 or more" in r)
    assert remark.startswith("83%") and f"ECE is {saturated.ece_equal_mass:.3f}" in remark
    assert not any("0.99" in r for r in evaluate(outcomes(), RULE, resamples=50).remarks)


def test_remarks_tell_errors_coverage_and_missed_constraints():
    rule = SetObjective(Weights.of(None), Constraints.of({"ifr": 0.99}))
    said = " ".join(evaluate(MIXED, rule, resamples=50).remarks)
    assert "Constraint missed: ifr is 0.968; at least 0.99 was asked for." in said
    assert "1 of 63 examples got no answer" in said and "Only 61 of 62 answers have a confidence" in said
    assert evaluate(outcomes(), RULE, resamples=50).remarks == []


def test_plain_values_hold_every_figure():
    evaluation = evaluate(MIXED, RULE, resamples=50)
    values = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert values["metrics"]["n"] == 62 and isinstance(values["metrics"]["n"], int)
    assert values["metrics"]["accuracy"] == pytest.approx(evaluation.metrics.accuracy)
    assert values["intervals"]["score"] == pytest.approx(list(evaluation.intervals["score"]))
    assert values["confusion"]["no"]["(unparsed)"] == 1 and values["calls"] == 60
    assert sum(bin_["count"] for bin_ in values["reliability"]) == 61
    nothing = json.loads(json.dumps(evaluate([Outcome("error")], RULE).to_dict(), allow_nan=False))
    assert nothing["metrics"]["score"] is None and nothing["intervals"] == {} and nothing["confusion"] == {}


def test_tables_for_pandas():
    evaluation = evaluate(MIXED, RULE, resamples=50)
    frame = evaluation.to_frame()
    assert list(frame.columns) == ["value", "low", "high"] and list(frame.index) == [*RULE.names, "score"]
    assert (frame["low"] <= frame["value"]).all() and (frame["value"] <= frame["high"]).all()
    changes = compare(MIXED, MIXED[::-1], RULE, resamples=50).to_frame()
    assert list(changes.columns) == ["difference", "low", "high"] and "score" in changes.index


def test_of_confidence_nothing_is_said_where_there_is_none_and_nobody_asked_for_one():
    unsure = [replace(outcome, confidence=None) for outcome in outcomes()]
    plain_rule = SetObjective(Weights.of(None, confidence=False))
    about = ("with a confidence", "ECE", "AUROC", "AUPRC", "Brier")
    for shown in (evaluate(unsure, plain_rule, resamples=50), compare(unsure, unsure[::-1], plain_rule, resamples=50)):
        assert not any(word in str(shown) for word in about) and "accuracy (ACC)" in str(shown)
    # With a weight, it is told that there is none.
    assert all(word in str(evaluate(unsure, RULE, resamples=50)) for word in about)
    assert all(word in str(compare(unsure, outcomes(), plain_rule, resamples=50)) for word in about)
    assert all(word in str(evaluate(outcomes(), plain_rule, resamples=50)) for word in about)


@pytest.mark.parametrize("made", [MIXED, outcomes(3), [Outcome("unparsed")] * 3, [Outcome("error")] * 2, []])
def test_anything_can_be_printed_and_shown(made):
    evaluation = evaluate(made, RULE, resamples=20)
    text, html = str(evaluation), evaluation._repr_html_()
    assert "accuracy (ACC)" in text and "accuracy (ACC)" in html
    assert max(map(len, text.splitlines())) <= 100
    assert "nan" not in text and "nan" not in html.replace("tenant", "")


class _Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("rect", "path", "circle", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_what_an_lm_said_stays_text():
    hostile = "<script>alert(1)</script>[bold]x[/]"
    said = [Outcome("ok", True, 0.0, 0.9, hostile, "no"), Outcome("ok", True, 1.0, 0.4, "no", "no")]
    evaluation = evaluate(said, RULE, resamples=20)
    seen = _Seen()
    seen.feed(evaluation._repr_html_())
    assert "script" not in seen.tags and not seen.open and {"table", "svg", "circle"} <= seen.tags
    assert "[bold]x[/]" in str(evaluation)


def test_a_comparison_says_how_many_examples_a_difference_needs():
    worse, better = outcomes(200, right=0.6), outcomes(200, seed=1, right=0.7)
    comparison = compare(worse, better, RULE, resamples=400)
    error = (comparison.high - comparison.low) / (2 * 1.96)
    expected = 200 * ((1.96 + 0.84) * error / comparison.score) ** 2
    assert comparison.examples_needed == pytest.approx(expected, rel=0.15)
    assert f"About {int(comparison.examples_needed):,} examples" in str(comparison)
    equal = compare(worse, worse, RULE, resamples=50)
    assert math.isinf(equal.examples_needed) and "The scores are equal." in equal._repr_html_()
    assert json.loads(json.dumps(equal.to_dict(), allow_nan=False))["examples_needed"] is None


def test_with_so_many_examples_the_difference_is_found_about_as_often_as_said():
    """80 % of experiments, for a difference of 0.1 in accuracy that is really there."""
    rule = SetObjective(Weights.of({"accuracy": 1.0}, confidence=False))
    rng = np.random.default_rng(0)

    def experiment(n: int) -> tuple[list[Outcome], list[Outcome]]:
        sides = rng.random((2, n)) < np.array([[0.6], [0.7]])
        return tuple([Outcome("ok", True, float(hit)) for hit in side] for side in sides)

    first = compare(*experiment(4000), rule, resamples=300)
    n = int(first.examples_needed)
    found = sum(compare(*experiment(n), rule, resamples=200, seed=i).p_value < 0.05 for i in range(150))
    assert 200 < n < 700
    assert 0.6 < found / 150 < 0.95


def test_differences_of_every_metric_are_given():
    comparison = compare(outcomes(), outcomes(seed=1), RULE, resamples=50)
    a, b = RULE.measure(outcomes()), RULE.measure(outcomes(seed=1))
    assert comparison.by_metric["ece"][0] == pytest.approx(b.ece - a.ece)
    for difference, low, high in comparison.by_metric.values():
        assert low <= difference <= high
