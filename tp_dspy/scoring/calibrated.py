"""A program that says how sure it is, calibrated on examples that it was not optimised on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dspy
from dspy.predict.parameter import Parameter
from dspy.utils.exceptions import AdapterParseError

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.scoring.calibrators import CalibrationMethod, Calibrator, calibrator_from_dict, fit_calibrator
from tp_dspy.scoring.calls import CallRecord, record_calls
from tp_dspy.scoring.judge import UNCALIBRATED, Judge
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.programs import copy_sharing_lms
from tp_dspy.scoring.resampling import OutcomeArrays
from tp_dspy.scoring.running import call_defaults, replies_to, samplers

if TYPE_CHECKING:
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["CalibratedProgram", "fit_to_outcomes", "shared_choices"]


def fit_to_outcomes(outcomes: Sequence[Outcome], method: CalibrationMethod) -> Calibrator:
    """Fit a calibrator to outcomes; those of a calibrated program count with their confidence before calibration.

    Raises:
        ConfigurationError, DataError: As `tp_dspy.scoring.calibrators.fit_calibrator` does.
    """
    raw = [o if o.uncalibrated is None else replace(o, confidence=o.uncalibrated) for o in outcomes]
    arrays = OutcomeArrays.from_outcomes(raw)
    return fit_calibrator(arrays.correct, arrays.confidence, method=method)


def shared_choices(judge: Judge, examples: Sequence[dspy.Example]) -> dict[str, list[str]]:
    """Find the allowed answers that examples list and a program is not given: at inference nobody else knows them.

    Args:
        judge: Says which fields of the examples list them.
        examples: The examples that confidence is calibrated on.

    Returns:
        The allowed answers by the name of the example's field.

    Raises:
        DataError: If they differ from example to example.
    """
    shared: dict[str, list[str]] = {}
    for answer, field in judge.choices.by_field.items():
        if not isinstance(field, str) or all(field in example.inputs() for example in examples):
            continue
        listed = {judge.choices.listed(example, answer) for example in examples}
        if len(listed) > 1:
            raise DataError(
                f"The allowed answers in {field!r} differ between examples, and the program is not given them, so that "
                f"it cannot know them when it is used. Make {field!r} an input of the examples and of the signature."
            )
        allowed = next(iter(listed), None)
        if allowed is not None:
            shared[field] = list(allowed)
    return shared


class _Calibration(Parameter):  # type: ignore[misc]
    """Holds what was fitted where DSPy saves and loads parameters."""

    def __init__(
        self, calibrator: Calibrator | None = None, choices: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.calibrator = calibrator
        self.choices = {name: list(answers) for name, answers in (choices or {}).items()}

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        fitted = self.calibrator.to_dict() if self.calibrator is not None else None
        return {"calibrator": fitted, "choices": self.choices}

    def load_state(self, state: Mapping[str, Any]) -> None:
        described = state["calibrator"]
        self.calibrator = calibrator_from_dict(described) if described is not None else None
        self.choices = dict(state["choices"])

    def reset(self) -> None:
        self.calibrator, self.choices = None, {}


class CalibratedProgram(dspy.Module):  # type: ignore[misc]
    """Runs a program and adds how sure it is of its answer, as `tp_dspy.ObjectiveEvaluator.calibrate` fitted it.

    The prediction is the program's own, with two more fields: the calibrated confidence (under the objective's
    `confidence_field`, "confidence" by default; None where there is none) and ``uncalibrated_confidence``. The calls
    are those that scoring makes: the temperature is 0 where neither predictor nor LM sets one, log-probabilities are
    asked for if confidence comes from logits, and confidence by agreement runs the program ``1 + samples`` times.

    ``save`` and ``load`` keep the calibration along with the program: make the same object again, then load::

        program = CalibratedProgram(dspy.ChainOfThought("question -> answer"), objective)
        program.load("calibrated.json")

    Optimise the program inside, not this one: a calibration belongs to the instruction it was fitted with.

    Args:
        program: The program; it is copied, its LMs are not.
        objective: Says where the answer is, and where confidence comes from.
        calibrator: Maps confidence to calibrated confidence; None leaves it as it is.
        choices: The allowed answers by the name of the example's field that lists them, where the program is not given
            that field.

    Raises:
        ConfigurationError: If the objective reads no confidence.
    """

    def __init__(
        self,
        program: dspy.Module,
        objective: ObjectiveEvaluator,
        calibrator: Calibrator | None = None,
        choices: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__()
        if objective.confidence is None:
            raise ConfigurationError(
                "The objective has confidence=None; there is nothing to calibrate. Pass one with confidence='logits', "
                "'verbalized', 'agreement' or a callable."
            )
        if isinstance(program, CalibratedProgram):
            program = program.program
        self.program: dspy.Module = copy_sharing_lms(program)
        self.objective = objective
        self.calibration = _Calibration(calibrator, choices)
        # Kept apart, so that what an LM is asked for by default goes with the LM of the day.
        self._configs = {name: dict(p.config) for name, p in self.program.named_sub_modules(dspy.Predict)}

    @property
    def calibrator(self) -> Calibrator | None:
        """Maps confidence to calibrated confidence."""
        return self.calibration.calibrator

    def forward(self, **inputs: Any) -> dspy.Prediction:
        """Run the program, and its samples where confidence comes from agreement."""
        self._configure()
        with record_calls() as record:
            prediction = self.program(**inputs)
        samples = []
        for again in samplers(self.program, self.objective):
            # A sample that cannot be read agrees with nothing; the answer stands all the same.
            with contextlib.suppress(AdapterParseError):
                samples.append(again(**inputs))
        return self._with_confidence(inputs, prediction, record, samples)

    async def aforward(self, **inputs: Any) -> dspy.Prediction:
        """Do the same for ``acall``."""
        self._configure()
        with record_calls() as record:
            prediction = await self.program.acall(**inputs)
        samples = []
        for again in samplers(self.program, self.objective):
            with contextlib.suppress(AdapterParseError):
                samples.append(await again.acall(**inputs))
        return self._with_confidence(inputs, prediction, record, samples)

    def applied_to(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Calibrate outcomes of the program inside."""
        calibrated = []
        for outcome in outcomes:
            sure = self._calibrated(outcome.confidence)
            calibrated.append(replace(outcome, confidence=sure, uncalibrated=outcome.confidence))
        return calibrated

    def _configure(self) -> None:
        for name, predictor in self.program.named_sub_modules(dspy.Predict):
            predictor.config = {**call_defaults(predictor, self.objective), **self._configs.get(name, {})}

    def _with_confidence(
        self, inputs: Mapping[str, Any], prediction: Any, record: CallRecord, samples: Sequence[dspy.Prediction]
    ) -> dspy.Prediction:
        if not isinstance(prediction, dspy.Prediction):
            return prediction
        judge = self.objective.judge
        # Nobody knows here what is right; it has no part in confidence.
        blind = replace(judge, match=lambda example, given: 0.0, follows=None, strict=False)
        outcome = blind.outcome(
            dspy.Example(**{**self.calibration.choices, **inputs}),
            prediction,
            replies=replies_to(judge.answers, prediction, record),
            samples=[*samples, *[dspy.Prediction()] * (self.objective.runs - 1 - len(samples))],
            typed=judge.choices.typed(self.program),
        )
        prediction[UNCALIBRATED] = outcome.confidence
        prediction[judge.confidence_field] = self._calibrated(outcome.confidence)
        return prediction

    def _calibrated(self, confidence: float | None) -> float | None:
        if confidence is None or self.calibrator is None:
            return confidence
        return float(self.calibrator.apply(confidence))
