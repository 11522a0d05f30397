"""Programs side by side on held-out examples: what is run, what is counted, and what is told."""

from __future__ import annotations

import math

import dspy
import pytest

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, scripted_lm
from programs.medical_qa import Corpus, MedicalQA
from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.errors import ConfigurationError, DataError

EXAMPLES = [
    dspy.Example(question=f"Does aspirin {i} help?", answer="yes", choices=["yes", "no"]).with_inputs("question")
    for i in range(12)
]


@pytest.fixture(autouse=True)
def plain_prompts() -> None:
    dspy.configure(adapter=InstructionAdapter())


def told(prompt: PromptView) -> Reply:
    """Right where the prompt says that it helps."""
    answer = "yes" if "helps" in prompt.user else "no"
    return Reply.of(*answer_logprobs(answer, {"yes": 0.6, "no": 0.4}))


def program(instruction: str) -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", instruction))


def test_programs_are_measured_side_by_side_and_compared_with_the_first() -> None:
    lm = scripted_lm(told)
    found = ObjectiveEvaluator().evaluate_all(
        {"bad": program("Answer."), "good": program("It helps.")}, EXAMPLES, lm=lm, verbose=False
    )
    assert found.to_frame()["accuracy"].to_dict() == {"bad": 0.0, "good": 1.0}
    difference = found.compare("good")
    assert difference.score > 0 and difference.n == 12
    assert found.compare("bad", "good").score == -difference.score
    assert found.usage.calls == lm.scripted.calls == 24
    figures = found.to_dict()
    assert figures["differences"].keys() == {"good"} and figures["programs"]["bad"]["auroc"] is None
    assert math.isnan(found.evaluations["bad"].metrics.auroc)
    assert "good against bad, paired" in str(found)


def test_programs_that_differ_in_what_is_not_saved_are_each_run() -> None:
    # Their predictors, and so what would be saved of them, are the same.
    programs = {name: MedicalQA(Corpus([text])) for name, text in (("a", "Aspirin helps."), ("b", "Aspirin harms."))}
    lm = scripted_lm(told)
    found = ObjectiveEvaluator().evaluate_all(programs, EXAMPLES, lm=lm, verbose=False)
    assert found.to_frame()["accuracy"].to_dict() == {"a": 1.0, "b": 0.0}
    assert lm.scripted.calls == 24


def test_a_program_under_two_names_is_run_and_counted_once() -> None:
    one, lm = program("It helps."), scripted_lm(told)
    found = ObjectiveEvaluator().evaluate_all({"original": one, "target": one}, EXAMPLES, lm=lm, verbose=False)
    assert lm.scripted.calls == found.usage.calls == 12
    assert found.compare("target").score == 0.0


def test_what_cannot_be_measured() -> None:
    objective = ObjectiveEvaluator()
    with pytest.raises(ConfigurationError, match="no programs"):
        objective.evaluate_all({}, EXAMPLES)
    with pytest.raises(DataError, match="no examples"):
        objective.evaluate_all({"one": program("Answer.")}, [])
    found = objective.evaluate_all({"one": program("Answer.")}, EXAMPLES, lm=scripted_lm(told), verbose=False)
    with pytest.raises(ConfigurationError, match=r"no program 'two'; there is \['one'\]"):
        found.compare("two")
