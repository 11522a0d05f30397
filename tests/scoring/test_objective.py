"""The objective evaluator: how one prediction is judged, and how it serves DSPy as a metric."""

from __future__ import annotations

import enum
import json
import math
from typing import Any, Literal

import dspy
import pytest

from programs.benchmarks.scripted import Reply as ScriptedReply
from programs.benchmarks.scripted import answer_logprobs, certain, scripted_lm
from tp_dspy.errors import ConfigurationError, DataError, LogprobsUnavailableError, ProgramError
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring.calls import Reply
from tp_dspy.scoring.custom import SetMetric
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Outcome

LETTERS = ["A", "B", "C", "D"]


class Tone(enum.Enum):
    GOOD = "good news"
    BAD = "bad news"


class Lettered(dspy.Signature):
    """Answer with a letter."""

    question: str = dspy.InputField()
    answer: Literal["A", "B", "C", "D"] = dspy.OutputField()


def example(answer: Any = "B", **fields: Any) -> dspy.Example:
    return dspy.Example(question="Which one?", answer=answer, **fields).with_inputs("question")


def read_from(text: str | None, logprobs: Any = None) -> dict[str, Reply | None]:
    return {"answer": None if text is None else Reply(text, logprobs, frozenset({"answer"}))}


def judge(given: Any, expected: Any = "B", *, reply: str | None = None, choices: Any = LETTERS, **settings: Any):
    objective = ObjectiveEvaluator(confidence=None, choices=choices, **settings)
    return objective.outcome(example(expected), dspy.Prediction(answer=given), replies=read_from(reply))


@pytest.mark.parametrize("given", ["B", "(b)", "B. Heart"])
def test_a_letter_is_right_however_it_is_wrapped(given):
    outcome = judge(given)
    assert (outcome.status, outcome.followed, outcome.correct, outcome.answer) == ("ok", True, 1.0, "B")


def test_a_wrong_letter_says_what_was_expected():
    outcome = judge("C")
    assert (outcome.status, outcome.followed, outcome.correct) == ("ok", True, 0.0)
    assert "'C'" in outcome.feedback and "'B'" in outcome.feedback


@pytest.mark.parametrize("given", ["It depends", "", None, "A/B/C/D"])
def test_what_is_no_choice_is_unparsed(given):
    outcome = judge(given)
    assert (outcome.status, outcome.followed, outcome.correct, outcome.confidence) == ("unparsed", False, 0.0, None)
    assert outcome.feedback


def test_labels_are_spelled_as_the_choices_are():
    outcome = judge("Very Positive.", "very positive", choices=["very positive", "neutral"])
    assert (outcome.correct, outcome.answer) == (1.0, "very positive")


@pytest.mark.parametrize(("given", "right"), [("the heart", 1.0), ("1,000", 0.0), ("lung", 0.0)])
def test_free_text_is_compared_without_articles_and_case(given, right):
    assert judge(given, "Heart", choices="choices").correct == right


@pytest.mark.parametrize(("given", "right"), [(5, 1.0), ("5.0", 1.0), ("$5", 1.0), ("-5", 0.0), ("50", 0.0)])
def test_numbers_are_compared_as_numbers(given, right):
    assert judge(given, 5, choices="choices").correct == right


def test_strict_wants_the_answer_and_nothing_else():
    assert judge("B", strict=True).followed
    assert not judge("B. Heart", strict=True).followed
    assert not judge("B", reply="B, surely", strict=True).followed
    assert judge("B", reply="Answer: B", strict=True).followed


def test_the_users_own_checks_replace_ours():
    outcome = judge("C", follows=lambda e, p: False, match=lambda e, p: 0.25)
    assert (outcome.followed, outcome.correct) == (False, 0.25)


def test_match_needs_no_expected_answer():
    objective = ObjectiveEvaluator(confidence=None, match=lambda e, p: p.answer == "42")
    unlabelled = dspy.Example(question="?").with_inputs("question")
    objective.check(dspy.Predict("question -> answer"), [unlabelled])
    assert objective.outcome(unlabelled, dspy.Prediction(answer="42")).correct == 1.0


@pytest.mark.parametrize("value", [1.5, -0.1, math.nan, "good", None])
def test_match_must_return_a_share(value):
    with pytest.raises(DataError, match="`match` returned"):
        judge("B", match=lambda e, p: value)


def test_a_metric_without_an_expected_answer_says_so():
    with pytest.raises(DataError, match="no 'answer'"):
        ObjectiveEvaluator(confidence=None)(dspy.Example(question="?"), dspy.Prediction(answer="B"))


# Answers of a closed type, through DSPy's adapters.

REPLIES = {
    InstructionAdapter: ("", ""),
    dspy.ChatAdapter: ("[[ ## answer ## ]]\n", "\n\n[[ ## completed ## ]]"),
    dspy.JSONAdapter: ('{"answer": "', '"}'),
}


@pytest.mark.parametrize("adapter", REPLIES)
def test_typed_answers_get_their_confidence_from_the_logits(adapter):
    """The type of the field is read off the prediction: no check() is needed, and none is remembered."""
    before, after = REPLIES[adapter]
    tokens = [*certain(before), *answer_logprobs("B", {"B": 0.6, "A": 0.2, "x": 0.2}), *certain(after)]
    lm = scripted_lm(lambda prompt: ScriptedReply.of(*(t for t in tokens if t[0])), logprobs=True, top_logprobs=5)
    with dspy.context(lm=lm, adapter=adapter()):
        prediction = dspy.Predict(Lettered)(question="Which one?")
    outcome = ObjectiveEvaluator().outcome(example(), prediction)
    assert (outcome.answer, outcome.correct, outcome.followed) == ("B", 1.0, True)
    assert outcome.confidence == pytest.approx(0.75)  # 0.6 of the 0.8 that fall on allowed answers


def test_one_objective_serves_two_programs():
    objective = ObjectiveEvaluator(confidence=None)
    objective.check(dspy.Predict(Lettered), [example("B")])
    free = dspy.Predict("question -> answer")
    objective.check(free, [example("Heart")])
    assert objective.outcome(example("Heart"), dspy.Prediction(answer="the heart")).correct == 1.0
    assert objective.judge.choices.typed(dspy.Predict(Lettered)) == {"answer": tuple(LETTERS)}
    assert objective.judge.choices.typed(free) == {"answer": None}


def test_enum_answers_go_by_their_values():
    signature = dspy.Signature({"question": (str, dspy.InputField()), "answer": (Tone, dspy.OutputField())})
    objective = ObjectiveEvaluator(confidence=None)
    objective.check(dspy.Predict(signature), [example(Tone.GOOD), example("bad news")])
    outcome = objective.outcome(
        example("good news"), dspy.Prediction(answer=Tone.GOOD), typed={"answer": ("good news", "bad news")}
    )
    assert (outcome.answer, outcome.correct) == ("good news", 1.0)


# Confidence.


def with_logprobs(*tokens) -> dspy.Prediction:
    content = [
        {"token": t, "logprob": p, "bytes": None, "top_logprobs": [{"token": k, "logprob": v} for k, v in top.items()]}
        for t, p, top in tokens
    ]
    return dspy.Prediction(answer="".join(t for t, _, _ in tokens), logprobs={"content": content})


def test_confidence_is_normalised_over_the_choices_of_each_example():
    prediction = with_logprobs(*answer_logprobs("B", {"B": 0.5, "A": 0.3, "C": 0.2}))
    objective = ObjectiveEvaluator()
    assert objective.outcome(example(choices=["A", "B"]), prediction).confidence == pytest.approx(0.5 / 0.8)
    assert objective.outcome(example(choices=["B", "C"]), prediction).confidence == pytest.approx(0.5 / 0.7)


def test_confidence_of_free_text_is_the_mean_of_its_tokens():
    prediction = with_logprobs(*answer_logprobs("left", {"left": 0.9}), *answer_logprobs(" lung", {" lung": 0.4}))
    outcome = ObjectiveEvaluator().outcome(example("left lung"), prediction)
    assert outcome.confidence == pytest.approx(math.sqrt(0.9 * 0.4))


@pytest.mark.parametrize("logprobs", [None, {"content": []}, {"content": None}])
def test_missing_logprobs_name_the_ways_out(logprobs):
    with pytest.raises(LogprobsUnavailableError, match=r"logprobs=True.*'verbalized'.*confidence=None"):
        ObjectiveEvaluator().outcome(example(), dspy.Prediction(answer="B"), replies=read_from("B", logprobs))


@pytest.mark.parametrize(
    ("stated", "confidence"),
    [
        (0.8, 0.8),
        ("0.8", 0.8),
        ("80%", 0.8),
        ("80 percent", 0.8),
        (85, None),
        (-0.1, None),
        ("sure", None),
        (None, None),
    ],
)
def test_verbalised_confidence_must_be_a_share_to_count_as_followed(stated, confidence):
    objective = ObjectiveEvaluator(confidence="verbalized", choices=LETTERS)
    outcome = objective.outcome(example(), dspy.Prediction(answer="B", confidence=stated))
    assert (outcome.status, outcome.correct, outcome.confidence) == ("ok", 1.0, confidence)
    assert outcome.followed is (confidence is not None)


def test_confidence_may_come_from_the_user():
    objective = ObjectiveEvaluator(confidence=lambda e, p: p.get("votes"), choices=LETTERS)
    assert objective.outcome(example(), dspy.Prediction(answer="B", votes=0.7)).confidence == 0.7
    assert objective.outcome(example(), dspy.Prediction(answer="B")).confidence is None
    with pytest.raises(DataError, match="`confidence` returned 7"):
        objective.outcome(example(), dspy.Prediction(answer="B", votes=7))


# As a DSPy metric.


def test_a_bool_while_bootstrapping_and_a_prediction_otherwise():
    objective = ObjectiveEvaluator(confidence=None, choices=LETTERS)
    right, wrong = dspy.Prediction(answer="B"), dspy.Prediction(answer="C")
    assert objective(example(), right, []) is True
    assert objective(example(), wrong, []) is False
    assert objective(example(), dspy.Prediction(), []) is False
    for scored in (objective(example(), right), objective(example(), right, [], "predict", [])):
        assert isinstance(scored, dspy.Prediction)
        assert scored.score == 1.0 and scored.feedback
    assert objective(example(), wrong).score < 0.5


def test_bootstrapping_needs_no_logprobs():
    """Other optimisers run the program with its own LM, which was never asked for any."""
    assert ObjectiveEvaluator(choices=LETTERS)(example(), dspy.Prediction(answer="B"), []) is True


def test_objective_scores_are_all_higher_is_better():
    objective = ObjectiveEvaluator(confidence="verbalized", choices=LETTERS)
    scores = objective(example(), dspy.Prediction(answer="C", confidence=0.9)).objective_scores
    assert scores == pytest.approx({"ifr": 1.0, "accuracy": 0.0, "calibration": 1 - 0.81})
    assert objective(example(), dspy.Prediction()).objective_scores == {"ifr": 0, "accuracy": 0, "calibration": 0}


def test_being_right_and_sure_beats_every_other_prediction():
    objective = ObjectiveEvaluator(confidence="verbalized", choices=LETTERS)
    others = [("B", 0.4), ("C", 0.9), ("C", 0.0), ("B", None), (None, None)]
    scores = [objective(example(), dspy.Prediction(answer=a, confidence=c)).score for a, c in others]
    assert objective(example(), dspy.Prediction(answer="B", confidence=1.0)).score == pytest.approx(1.0)
    assert max(scores) < 1.0


def test_dspy_evaluate_takes_it():
    lm = scripted_lm(lambda prompt: "B")
    devset = [example("B"), example("B"), example("C"), example("B")]
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        evaluate = dspy.Evaluate(devset=devset, metric=ObjectiveEvaluator(confidence=None), num_threads=2)
        result = evaluate(dspy.Predict(Lettered))
    # Followed counts 0.2; the rest goes to accuracy without confidence.
    assert result.score == pytest.approx(100 * (0.2 + 0.8 * 0.75))


def test_dspy_bootstrapping_takes_it():
    lm = scripted_lm(lambda prompt: "B")
    optimizer = dspy.BootstrapFewShot(metric=ObjectiveEvaluator(), max_bootstrapped_demos=2, max_labeled_demos=0)
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        compiled = optimizer.compile(dspy.Predict(Lettered), trainset=[example("B"), example("C"), example("B")])
    assert [demo.answer for demo in compiled.demos] == ["B", "B"]


# What is refused before a call is paid.


def test_a_program_without_the_answer_field_is_refused():
    with pytest.raises(ProgramError, match=r"'answer'.*\['label'\].*ObjectiveEvaluator\(answer="):
        ObjectiveEvaluator().check(dspy.Predict("question -> label"), [example()])


def test_a_program_without_the_confidence_field_is_refused():
    with pytest.raises(ProgramError, match=r"'confidence'.*Add such a field"):
        ObjectiveEvaluator(confidence="verbalized").check(dspy.Predict("question -> answer"), [example()])


def test_a_frozen_part_may_hold_the_answer_field():
    class Wrapper(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = dspy.ChainOfThought("question -> answer")
            self.inner._compiled = True

        def forward(self, question: str) -> dspy.Prediction:
            return self.inner(question=question)

    ObjectiveEvaluator().check(Wrapper(), [example()])


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (dspy.Predict("clause -> answer"), r"takes \['clause'\], and the examples give it \['question'\]"),
        (dspy.ChainOfThought("question, party -> answer"), r"takes \['party', 'question'\]"),
        (type("Mute", (dspy.Module,), {})(), "output fields are"),
    ],
    ids=["predict", "chain of thought", "nothing"],
)
def test_a_program_that_takes_other_inputs_is_refused_before_a_call(program: dspy.Module, words: str) -> None:
    with pytest.raises(ProgramError, match=words):
        ObjectiveEvaluator().check(program, [example()])


def test_what_a_signature_does_not_ask_for_does_no_harm() -> None:
    given = dspy.Example(question="Which?", hint="Low.", answer="A").with_inputs("question", "hint")
    ObjectiveEvaluator().check(dspy.Predict("question -> answer"), [given])


BAD = [
    ([example(), example(None), example(None)], "2 of 3 examples .*number 1 .*has no 'answer'"),
    ([example(), example("E")], "1 of 2 examples .*number 1.*'answer' that is not allowed: 'E'.*'A', 'B'"),
    ([example(choices=["B", "C"]), example("B", choices=["heart", "lung"])], "1 of 2 .*'heart', 'lung'"),
    ([example("B. Heart")], "1 of 1 .*'B. Heart'"),
    ([example(choices="ABCD")], "'choices' is 'ABCD'; expected a list"),
    ([dspy.Example(question="?", answer="B")], "no inputs set.*with_inputs"),
]


@pytest.mark.parametrize(("examples", "says"), BAD)
def test_examples_that_cannot_be_scored_are_refused(examples, says):
    with pytest.raises(DataError, match=says):
        ObjectiveEvaluator().check(dspy.Predict(Lettered), examples)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"confidence": "logit"}, "'logit'"),
        ({"n_bins": 0}, "n_bins is 0"),
        ({"n_bins": 2.5}, "n_bins is 2.5"),
        ({"choices": []}, "choices is"),
        ({"choices": None}, "choices is None"),
        ({"weights": {"f1": 1.0}}, "f1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        ObjectiveEvaluator(**settings)


def test_nothing_to_evaluate_on_is_an_error():
    with pytest.raises(DataError, match="at least one"):
        ObjectiveEvaluator().evaluate(dspy.Predict(Lettered), [])


# Several accepted answers, several output fields, and other ways to match.


@pytest.mark.parametrize(
    ("match", "given", "expected", "right"),
    [
        ("auto", "3.0", "3", 1.0),
        ("text", "3.0", "3", 0.0),
        ("text", "The heart.", "heart", 1.0),
        ("number", "So 4 + 5 = 9 apples.", "9", 1.0),
        ("number", "It is $1,234.50", "1234.5", 1.0),
        ("number", "about -5", "5", 0.0),
        ("number", "COVID-19", "19", 1.0),
        ("number", "none", "9", 0.0),
        ("f1", "the left lung", "left lung", 1.0),
        ("f1", "left lung", "left upper lung", 2 * (1 * 2 / 3) / (1 + 2 / 3)),
        ("f1", "heart", "lung", 0.0),
        ("f1", "?", "lung", 0.0),
    ],
)
def test_free_text_is_matched_as_asked(match, given, expected, right):
    assert judge(given, expected, choices="choices", match=match).correct == pytest.approx(right)


@pytest.mark.parametrize(("given", "right"), [("101", 1.0), ("102", 0.0), ("-100", 0.0)])
@pytest.mark.parametrize("match", ["auto", "number"])
def test_numbers_may_differ_by_the_tolerance(match, given, right):
    assert judge(given, "100", choices="choices", match=match, tolerance=0.015).correct == right


def test_any_of_several_expected_answers_will_do():
    outcome = judge("MI", ["heart attack", "MI"], choices="choices")
    assert (outcome.correct, outcome.expected) == (1.0, "MI")
    assert judge("stroke", ["heart attack", "MI"], choices="choices").correct == 0.0
    assert judge("C", ["B", "C"]).correct == 1.0
    assert judge("left", ["the left lung", "lung"], choices="choices", match="f1").correct == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="no 'answer'"):
        judge("B", [])


def two_fields(**settings: Any) -> ObjectiveEvaluator:
    return ObjectiveEvaluator(["organ", "urgent"], choices={"urgent": ["yes", "no"]}, **settings)


def findings(organ: Any = "heart", urgent: Any = "yes") -> dspy.Example:
    return dspy.Example(note="...", organ=organ, urgent=urgent).with_inputs("note")


def test_of_several_fields_correctness_is_the_mean():
    objective = two_fields(confidence=None)
    objective.check(dspy.Predict("note -> organ, urgent"), [findings()])
    outcome = objective.outcome(findings(), dspy.Prediction(organ="The heart", urgent="No."))
    assert (outcome.status, outcome.followed, outcome.correct) == ("ok", True, 0.5)
    assert (outcome.answer, outcome.expected) == ("organ: The heart; urgent: no", "organ: heart; urgent: yes")
    assert "'urgent' is 'no'; expected 'yes'" in outcome.feedback and "organ" not in outcome.feedback


def test_a_field_that_cannot_be_read_costs_its_share_and_the_format():
    outcome = two_fields(confidence=None).outcome(findings(), dspy.Prediction(organ="heart", urgent="perhaps"))
    assert (outcome.status, outcome.followed, outcome.correct) == ("ok", False, 0.5)
    assert outcome.answer == "organ: heart; urgent: -"
    assert two_fields(confidence=None).outcome(findings(), dspy.Prediction(urgent="perhaps")).status == "unparsed"


def test_of_several_fields_confidence_is_the_mean_of_their_own():
    lm_reply = [*certain("Organ: "), *answer_logprobs("heart", {"heart": 0.8}), *certain("\nUrgent: ")]
    tokens = [*lm_reply, *answer_logprobs("no", {"no": 0.6, "yes": 0.4})]
    lm = scripted_lm(lambda prompt: ScriptedReply.of(*tokens), logprobs=True, top_logprobs=5)
    objective = two_fields()
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        outcome = objective.evaluate(dspy.Predict("note -> organ, urgent"), [findings()]).outcomes[0]
    assert outcome.confidence == pytest.approx((0.8 + 0.6) / 2)
    assert outcome.correct == 0.5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"answer": []}, "answer is"),
        ({"answer": ["a", "a"]}, "several different ones"),
        ({"answer": ["a", "b"], "choices": ["yes", "no"]}, "expected a mapping by field"),
        ({"answer": ["a", "b"], "choices": {"c": ["yes"]}}, r"names \['c'\]; the answer fields are \['a', 'b'\]"),
        ({"match": "fuzzy"}, "match is 'fuzzy'; expected one of .*'f1'"),
        ({"tolerance": -1}, "tolerance is -1"),
        ({"samples": 0}, "samples is 0"),
        ({"sample_temperature": 0.0}, "temperature above 0"),
        ({"confidence": None, "weights": {"ece": 1.0}}, "need a confidence"),
        ({"constraints": {"ifr": 2}}, "constraints has"),
        ({"metrics": {"ifr": len}}, "the name 'ifr'"),
    ],
)
def test_the_newer_settings_are_checked_too(settings, says):
    with pytest.raises(ConfigurationError, match=says):
        ObjectiveEvaluator(**settings)


def test_a_missing_field_of_several_is_named():
    with pytest.raises(ProgramError, match="reads the answer from 'urgent'"):
        two_fields(confidence=None).check(dspy.Predict("note -> organ"), [findings()])
    with pytest.raises(DataError, match=r"number 1.*expected 'urgent' that is not allowed: 'soon'"):
        two_fields(confidence=None).check(dspy.Predict("note -> organ, urgent"), [findings(), findings(urgent="soon")])


# Confidence by agreement.


@pytest.mark.parametrize(
    ("others", "confidence"), [(["B", "(b)", "C", None, "It depends"], 0.4), (["B"], 1.0), ([None], 0.0), ([], None)]
)
def test_confidence_by_agreement_is_the_share_that_says_the_same(others, confidence):
    objective = ObjectiveEvaluator(confidence="agreement", choices=LETTERS)
    samples = [dspy.Prediction() if other is None else dspy.Prediction(answer=other) for other in others]
    assert objective.outcome(example(), dspy.Prediction(answer="B"), samples=samples).confidence == confidence


def test_free_text_agrees_as_it_is_matched():
    objective = ObjectiveEvaluator(confidence="agreement")
    samples = [dspy.Prediction(answer=text) for text in ("the heart", "Heart!", "lung", "5")]
    assert objective.outcome(example("x"), dspy.Prediction(answer="heart"), samples=samples).confidence == 0.5


# What the metric says and leaves out.


def test_feedback_says_what_was_asked_what_came_and_what_it_costs():
    objective = ObjectiveEvaluator(confidence="verbalized", choices=LETTERS)
    wrong = objective(example(), dspy.Prediction(answer="C", confidence=0.9)).feedback
    assert wrong.startswith("Asked: question: Which one?\n")
    assert "The answer is 'C'; expected 'B'. Its confidence is 0.90, though it is wrong." in wrong
    assert wrong.endswith("This costs accuracy and calibration.")
    unfollowed = objective(example(), dspy.Prediction(answer="B", confidence="quite")).feedback
    assert "'confidence' is 'quite'; expected a number from 0 to 1. This costs instruction following." in unfollowed
    unread = objective(example(), dspy.Prediction(answer="It depends")).feedback
    assert "'It depends'; expected one of A, B, C, D" in unread and "instruction following and accuracy" in unread
    unsure = objective(example(), dspy.Prediction(answer="B", confidence=0.1)).feedback
    assert "confidence is 0.10, though it is right. This costs calibration." in unsure
    assert objective(example(), dspy.Prediction(answer="B", confidence=0.9)).feedback.startswith("Right")


def test_what_cannot_be_measured_on_one_prediction_is_left_out(caplog):
    """No logprobs (other optimisers ask for none), or agreement (a metric cannot ask again): one warning, no error."""
    right, wrong = dspy.Prediction(answer="B"), dspy.Prediction(answer="C")
    logits = ObjectiveEvaluator(choices=LETTERS)
    assert [logits(example(), p).score for p in (right, wrong, None)] == pytest.approx([1.0, 0.2, 0.0])
    assert len([r for r in caplog.records if "Calibration is left out" in r.getMessage()]) == 1
    agreement = ObjectiveEvaluator(choices=LETTERS, confidence="agreement")
    assert [agreement(example(), p).score for p in (right, wrong)] == pytest.approx([1.0, 0.2])
    for objective in (logits, agreement, ObjectiveEvaluator(confidence=None, choices=LETTERS)):
        assert set(objective(example(), right).objective_scores) == {"ifr", "accuracy"}


def test_metrics_of_ones_own_are_objectives_too():
    objective = ObjectiveEvaluator(
        confidence=None,
        choices=LETTERS,
        metrics={"brief": lambda outcome: float(len(outcome.answer or "") < 2), "spread": SetMetric(lambda o: 0.5)},
        weights={"accuracy": 1.0, "brief": 1.0, "spread": 2.0},
    )
    scored = objective(example(), dspy.Prediction(answer="C"))
    assert scored.objective_scores == {"ifr": 1.0, "accuracy": 0.0, "brief": 1.0}
    assert scored.score == pytest.approx(0.25)  # What exists for sets only counts as accuracy here.
    assert objective.measure([Outcome("ok", True, 1.0, answer="C")]).score == pytest.approx(0.25 + 0.25 + 0.5 * 0.5)


def test_settings_are_described_as_plain_values():
    objective = ObjectiveEvaluator(
        ["a", "b"], confidence="agreement", samples=3, constraints={"ifr": 0.9}, match=len, metrics={"own": len}
    )
    described = json.loads(json.dumps(objective.describe()))
    assert described["answer"] == ["a", "b"] and described["samples"] == 3 and described["match"] == "len"
    assert described["constraints"] == {"ifr": 0.9}
