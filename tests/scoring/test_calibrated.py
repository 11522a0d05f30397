"""Calibrated programs: the compiled program itself says how sure it is, and no search gains by it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
import numpy as np
import pytest

from programs.benchmarks.scripted import PromptView, Reply, answer_logprobs, certain, scripted_lm
from tp_dspy.errors import ArtifactError, ConfigurationError, DataError
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring.calibrated import CalibratedProgram
from tp_dspy.scoring.calibrators import IsotonicCalibration, TemperatureScaling
from tp_dspy.scoring.objective import ObjectiveEvaluator

LETTERS = ["A", "B"]


class Lettered(dspy.Signature):
    """Answer with a letter."""

    question: str = dspy.InputField()
    answer: Literal["A", "B"] = dspy.OutputField()


def overconfident(n: int, seed: int = 0, **fields: Any) -> list[dspy.Example]:
    """Items that `says` answers with B at 0.9 or 0.7; it is right in 60 % and 52 % of them."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        sure = 0.9 if number % 2 else 0.7
        right = rng.random() < (0.6 if number % 2 else 0.52)
        item = dspy.Example(question=f"Item {number}: {sure}.", answer="B" if right else "A", **fields)
        made.append(item.with_inputs("question"))
    return made


def says(prompt: PromptView) -> Reply:
    sure = 0.9 if "0.9." in prompt.user else 0.7
    letter = answer_logprobs("B", {"B": sure, "A": 1.0 - sure})
    if "## answer ##" in prompt.text:
        return Reply.of(*certain("[[ ## answer ## ]]\n"), *letter, *certain("\n\n[[ ## completed ## ]]"))
    return Reply.of(*letter)


@pytest.fixture
def lm():
    lm = scripted_lm(says)
    with dspy.context(lm=lm, adapter=InstructionAdapter()):
        yield lm


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_the_program_itself_becomes_calibrated(lm, method):
    objective = ObjectiveEvaluator()
    program = dspy.Predict(Lettered)
    calibrated = objective.calibrate(program, overconfident(400), method=method)
    test = overconfident(400, seed=1)
    before, after = objective.evaluate(program, test), objective.evaluate(calibrated, test)
    assert before.uncalibrated is None and before.metrics.ece > 0.2
    assert after.metrics.ece < 0.08 and after.metrics.accuracy == before.metrics.accuracy
    assert after.uncalibrated.ece == pytest.approx(before.metrics.ece)
    assert re.search(rf"ECE without calibration +{before.metrics.ece:.3f}", str(after))
    # What was measured is what comes out at inference.
    for example, outcome in list(zip(test, after.outcomes, strict=True))[:4]:
        prediction = calibrated(**example.inputs())
        assert prediction.answer == "B" == program(**example.inputs()).answer
        assert prediction.confidence == pytest.approx(outcome.confidence)
        assert prediction.uncalibrated_confidence == pytest.approx(outcome.uncalibrated)


def test_calibrating_changes_and_pays_nothing_that_is_not_needed(lm):
    objective = ObjectiveEvaluator()
    program, examples = dspy.Predict(Lettered), overconfident(60)
    evaluation = objective.evaluate(program, examples)
    paid = lm.scripted.calls
    calibrated = objective.calibrate(program, examples, evaluation=evaluation)
    assert lm.scripted.calls == paid
    assert calibrated.calibrator == objective.calibrate(program, examples).calibrator
    assert program.config == {} and calibrated.program is not program
    with pytest.raises(DataError, match="60 outcomes; expected an evaluation of the same"):
        objective.calibrate(program, examples[:-1], evaluation=evaluation)


def test_it_is_saved_and_loaded_with_the_program(lm, tmp_path: Path):
    objective = ObjectiveEvaluator()
    signature = Lettered.with_instructions("Compiled.")
    calibrated = objective.calibrate(dspy.Predict(signature), overconfident(60), method="isotonic")
    calibrated.save(tmp_path / "program.json")
    loaded = CalibratedProgram(dspy.Predict(Lettered), objective)
    assert loaded.calibrator is None
    loaded.load(tmp_path / "program.json")
    assert loaded.calibrator == calibrated.calibrator and isinstance(loaded.calibrator, IsotonicCalibration)
    assert loaded.program.signature.instructions == "Compiled."
    inputs = overconfident(1)[0].inputs()
    assert loaded(**inputs).confidence == calibrated(**inputs).confidence
    # A copy, as DSPy's optimisers make them, keeps it; a reset copy does not.
    assert loaded.deepcopy().calibrator == calibrated.calibrator
    assert loaded.reset_copy().calibrator is None
    damaged = json.loads((tmp_path / "program.json").read_text())
    damaged["calibration"]["calibrator"]["method"] = "magic"
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    with pytest.raises(ArtifactError, match="'magic'"):
        loaded.load(tmp_path / "damaged.json")


def test_choices_that_are_no_input_are_remembered(lm, tmp_path: Path):
    """Scoring knows the allowed answers from the examples; whoever uses the program later does not pass them."""
    objective = ObjectiveEvaluator()
    calibrated = objective.calibrate(dspy.Predict("question -> answer"), overconfident(60, choices=LETTERS))
    calibrated.save(tmp_path / "program.json")
    loaded = CalibratedProgram(dspy.Predict("question -> answer"), objective)
    loaded.load(tmp_path / "program.json")
    outcome = objective.evaluate(calibrated, overconfident(1, choices=LETTERS)).outcomes[0]
    assert loaded(question=overconfident(1)[0].question).confidence == pytest.approx(outcome.confidence)
    mixed = [*overconfident(30, choices=LETTERS), *overconfident(30, choices=["B", "A", "C"])]
    with pytest.raises(DataError, match=r"'choices' differ between examples.*an input"):
        objective.calibrate(dspy.Predict("question -> answer"), mixed)


def test_a_search_sees_the_confidence_as_it_was(lm):
    """What scores candidates must not gain by a calibration: not through the scorer, and not as a metric."""
    objective = ObjectiveEvaluator()
    plain = dspy.Predict(Lettered)
    calibrated = CalibratedProgram(plain, objective, TemperatureScaling(20.0))
    from tp_dspy.scoring.scorer import Scorer

    test = overconfident(20)
    scored = Scorer(objective).outcomes(calibrated, test)
    assert [o.confidence for o in scored] == [o.confidence for o in Scorer(objective).outcomes(plain, test)]
    inputs = test[0].inputs()
    assert calibrated(**inputs).confidence == pytest.approx(0.51, abs=0.02)
    with dspy.context(lm=scripted_lm(says, logprobs=True, top_logprobs=5)):
        assert objective(test[0], calibrated(**inputs)).score == objective(test[0], plain(**inputs)).score


def stated(prompt: PromptView) -> str:
    return "Answer: B\nConfidence: 0.9"


def test_stated_confidence_is_replaced_and_kept(lm):
    objective = ObjectiveEvaluator(confidence="verbalized", choices=LETTERS)
    with dspy.context(lm=scripted_lm(stated)):
        program = dspy.Predict("question -> answer, confidence: float")
        calibrated = objective.calibrate(program, overconfident(60))
        prediction = calibrated(question="Item 1: 0.9.")
        assert prediction.uncalibrated_confidence == 0.9 > prediction.confidence > 0.5
        example = overconfident(2)[1]
        assert objective(example, prediction).score == objective(example, program(**example.inputs())).score


def test_agreement_is_asked_for_at_inference_too(lm):
    answers = iter(["B", "B", "A", "It depends"] * 2)

    def rule(prompt: PromptView) -> str:
        return "B" if not prompt.config.temperature else next(answers)

    objective = ObjectiveEvaluator(confidence="agreement", samples=4)
    engine = scripted_lm(rule)
    with dspy.context(lm=engine):
        calibrated = CalibratedProgram(dspy.Predict(Lettered), objective)
        predictions = [calibrated(question="?"), asyncio.run(calibrated.acall(question="?"))]
    # One of four said something else, and one could not be read.
    for prediction in predictions:
        assert prediction.confidence == prediction.uncalibrated_confidence == 0.5
    assert engine.scripted.calls == 10


def test_it_runs_asynchronously_and_under_other_adapters(lm):
    calibrated = CalibratedProgram(dspy.ChainOfThought(Lettered), ObjectiveEvaluator(), TemperatureScaling(2.0))

    def reasoned(prompt: PromptView) -> Reply:
        thought = certain("[[ ## reasoning ## ]]\nB, or A?\n\n[[ ## answer ## ]]\n")
        return Reply.of(*thought, *answer_logprobs("B", {"B": 0.9, "A": 0.1}), *certain("\n\n[[ ## completed ## ]]"))

    with dspy.context(lm=scripted_lm(reasoned), adapter=dspy.ChatAdapter()):
        prediction = asyncio.run(calibrated.acall(question="?"))
        assert prediction.uncalibrated_confidence == pytest.approx(0.9)
        assert prediction.confidence == pytest.approx(0.75)
        assert calibrated(question="?").confidence == prediction.confidence


@pytest.mark.parametrize(
    ("examples", "method", "says_"),
    [
        (overconfident(5), "temperature", "5 of 5 examples have a confidence; expected at least 10"),
        ([e for e in overconfident(60) if e.answer == "B"], "temperature", "are correct; expected incorrect ones"),
        ([], "temperature", "no examples"),
    ],
)
def test_examples_that_cannot_be_fitted_are_refused(lm, examples: Sequence[dspy.Example], method: Any, says_: str):
    with pytest.raises(DataError, match=says_):
        ObjectiveEvaluator().calibrate(dspy.Predict(Lettered), examples, method=method)


def test_what_cannot_be_calibrated_is_refused(lm):
    with pytest.raises(ConfigurationError, match="confidence=None; there is nothing to calibrate"):
        CalibratedProgram(dspy.Predict(Lettered), ObjectiveEvaluator(confidence=None))
    with pytest.raises(ConfigurationError, match="'platt'"):
        ObjectiveEvaluator().calibrate(dspy.Predict(Lettered), overconfident(40), method="platt")  # type: ignore[arg-type]
