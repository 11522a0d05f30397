"""The judge: what one prediction on one example is worth, as an outcome."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import dspy

from tp_dspy.errors import DataError, LogprobsUnavailableError
from tp_dspy.lms.answers import as_text, choices_of_type, holds_nothing_else, read_choice
from tp_dspy.scoring.calls import Reply
from tp_dspy.scoring.choices import AllowedAnswers, TypedChoices
from tp_dspy.scoring.confidence import (
    answer_probability,
    prediction_logprobs,
    sequence_probability,
    verbalized_confidence,
)
from tp_dspy.scoring.feedback import Part, in_words
from tp_dspy.scoring.matching import MatchKind, expected_answers, match_answer
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["NO_LOGPROBS", "UNCALIBRATED", "ConfidenceSource", "Judge", "Match"]

ConfidenceSource = (
    Literal["logits", "verbalized", "agreement"] | Callable[[dspy.Example, dspy.Prediction], float | None] | None
)
Match = MatchKind | Callable[[dspy.Example, dspy.Prediction], float]
UNCALIBRATED = "uncalibrated_confidence"
"""Where a calibrated program puts what the confidence was before."""

NO_LOGPROBS = (
    "confidence='logits' needs token log-probabilities, and {problem}. Use an LM that has them (dspy.LM(..., "
    "logprobs=True, top_logprobs=10)); or ObjectiveEvaluator(confidence='verbalized') with a confidence output field "
    "(no further calls), or confidence='agreement' (asks several times), or confidence=None."
)


@dataclass(frozen=True)
class Judge:
    """Judges predictions; `tp_dspy.ObjectiveEvaluator` documents the settings.

    Attributes:
        answers: The output fields that hold the answers; at least one.
        confidence: Where confidence comes from.
        confidence_field: The output field of verbalised confidence.
        choices: The allowed answers.
        strict: Whether nothing may stand beside the answer.
        follows: The user's own check of instruction following.
        match: How free-text answers are compared, or the user's own check of correctness.
        tolerance: Relative difference at which two numbers are equal.
    """

    answers: tuple[str, ...]
    confidence: ConfidenceSource
    confidence_field: str
    choices: AllowedAnswers
    strict: bool
    follows: Callable[[dspy.Example, dspy.Prediction], bool] | None
    match: Match
    tolerance: float

    # One prediction.

    def outcome(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction | None,
        *,
        replies: Mapping[str, Reply | None] | None = None,
        samples: Sequence[dspy.Prediction] | None = None,
        typed: TypedChoices | None = None,
    ) -> Outcome:
        """Judge one prediction.

        Args:
            example: The example, with the expected answer.
            prediction: What the program returned; an empty one or None stands for a reply that could not be parsed.
            replies: By answer field the raw reply it was read from, with its log-probabilities, where known; else those
                that the prediction itself carries.
            samples: What the program returned when it was asked again, for confidence by agreement.
            typed: The allowed answers by the types of the program's answer fields, for examples that list none; read
                off the prediction where it comes straight from a predictor.

        Returns:
            An outcome without usage; status ``ok`` or ``unparsed``.

        Raises:
            LogprobsUnavailableError: If confidence comes from logits and there are none.
            DataError: If the example has no expected answer or no usable choices, or a callable of the user's returns
                something that is no number in [0, 1].
        """
        # SIMBA hands on None where a program raised.
        prediction = dspy.Prediction() if prediction is None else prediction
        parts = [
            self._part(name, example, prediction, (replies or {}).get(name), samples, (typed or {}).get(name))
            for name in self.answers
        ]
        answer = _joined([(part.field, part.answer) for part in parts])
        expected = _joined([(part.field, part.expected) for part in parts])
        reply = next((part.reply for part in parts if part.reply is not None), None)
        if answer is None:
            feedback = in_words(parts, 0.0, None, "An answer that cannot be read does not follow the instruction")
            return Outcome("unparsed", expected=expected, reply=reply, feedback=feedback)
        confidence = self._confidence(example, prediction, parts)
        correct = math.fsum(part.correct for part in parts) / len(parts)
        if callable(self.match):
            correct = _unit(self.match(example, prediction), "match")
            parts = [replace(part, correct=correct) for part in parts]
        unfollowed = self._unfollowed(example, prediction, parts, confidence)
        feedback = in_words(parts, correct, confidence, unfollowed)
        return Outcome("ok", not unfollowed, correct, confidence, answer, expected, reply, feedback)

    def _part(
        self,
        name: str,
        example: dspy.Example,
        prediction: dspy.Prediction,
        reply: Reply | None,
        samples: Sequence[dspy.Prediction] | None,
        typed: Sequence[str] | None,
    ) -> Part:
        allowed = self.choices.listed(example, name) or typed or self._typed(prediction, name)
        expected = self._expected(example, name)
        given = prediction.get(name)
        text, raw = None if given is None else as_text(given), reply.text if reply else None
        first = expected[0] if expected else None
        part = Part(name, tuple(allowed) if allowed else None, text, expected=first, reply=raw)
        answer, exact = _read(text, allowed)
        if answer is None:
            return part
        correct, best = 0.0, part.expected
        if not callable(self.match):
            rated = [(self._agree(answer, one, allowed), one) for one in expected]
            correct, best = max(rated, key=lambda pair: pair[0])
        part = replace(part, answer=answer, exact=exact, correct=correct, expected=best)
        if self.confidence == "logits":
            return replace(part, confidence=self._from_logits(part, prediction, reply))
        if self.confidence == "agreement" and samples is not None:
            return replace(part, confidence=self._from_samples(part, samples))
        return part

    def _typed(self, prediction: dspy.Prediction, name: str) -> tuple[str, ...] | None:
        signature = getattr(getattr(prediction, "completions", None), "signature", None)
        field = getattr(signature, "output_fields", {}).get(name)
        return None if field is None else choices_of_type(field.annotation)

    # Correctness.

    def _expected(self, example: dspy.Example, name: str) -> list[str]:
        expected = expected_answers(example.get(name))
        if not expected and not callable(self.match):
            raise DataError(
                f"The example has no {name!r} (it has {sorted(example.keys())}). Put the expected answer there, or "
                "pass a function as `match` to score without one."
            )
        return expected

    def _agree(self, answer: str, other: str, allowed: Sequence[str] | None) -> float:
        """How far two answers agree."""
        if allowed:
            return float(read_choice(other, allowed)[0] == answer)
        kind: MatchKind = "auto" if callable(self.match) else self.match
        return match_answer(answer, other, kind, self.tolerance)

    def _unfollowed(
        self, example: dspy.Example, prediction: dspy.Prediction, parts: Sequence[Part], confidence: float | None
    ) -> str:
        """Say why a reply does not keep to the asked format; empty when it does."""
        if self.follows is not None:
            return "" if self.follows(example, prediction) else "The reply does not keep to the asked format"
        if any(part.answer is None for part in parts):
            return "An answer that cannot be read does not follow the instruction"
        if self.confidence == "verbalized" and confidence is None:
            stated = prediction.get(self.confidence_field)
            return f"{self.confidence_field!r} is {stated!r}; expected a number from 0 to 1"
        if self.strict and not all(p.exact and holds_nothing_else(p.reply, p.answer or "") for p in parts):
            return "The reply holds more than the answer in the asked format"
        return ""

    # Confidence.

    def _confidence(self, example: dspy.Example, prediction: dspy.Prediction, parts: Sequence[Part]) -> float | None:
        if self.confidence is None:
            return None
        if self.confidence == "verbalized":
            # A search must not gain by a calibration that was fitted afterwards.
            stated = prediction.get(UNCALIBRATED, prediction.get(self.confidence_field))
            return verbalized_confidence(stated)
        if callable(self.confidence):
            value = self.confidence(example, prediction)
            return None if value is None else _unit(value, "confidence")
        # Correctness is the mean over the fields, so that is what confidence is to foretell.
        each = [0.0 if part.answer is None else part.confidence for part in parts]
        known = [value for value in each if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(each) else None

    def _from_logits(self, part: Part, prediction: dspy.Prediction, reply: Reply | None) -> float | None:
        # DSPy hands on an empty list of tokens when an LM was asked for logprobs and gave none.
        logprobs = prediction_logprobs(reply) or prediction_logprobs(prediction)
        if logprobs is None:
            raise LogprobsUnavailableError(NO_LOGPROBS.format(problem="the LM returned none"))
        answer = part.answer or ""
        if part.allowed:
            return answer_probability(logprobs, field=part.field, answer=answer, allowed=part.allowed)
        return sequence_probability(logprobs, field=part.field, answer=answer)

    def _from_samples(self, part: Part, samples: Sequence[dspy.Prediction]) -> float | None:
        """The share of samples that give the same answer; what cannot be read agrees with nothing."""
        if not samples:
            return None
        same = 0
        for sample in samples:
            given = sample.get(part.field)
            other, _ = _read(None if given is None else as_text(given), part.allowed)
            same += other is not None and self._agree(part.answer or "", other, part.allowed) >= 0.5
        return same / len(samples)


def _read(text: str | None, allowed: Sequence[str] | None) -> tuple[str | None, bool]:
    """Read an answer: it, or None; and whether the text is that and nothing else."""
    if text is None:
        return None, False
    return read_choice(text, allowed) if allowed else (text.strip() or None, True)


def _joined(answers: Sequence[tuple[str, str | None]]) -> str | None:
    if len(answers) == 1 or all(answer is None for _, answer in answers):
        return answers[0][1]
    return "; ".join(f"{name}: {'-' if answer is None else answer}" for name, answer in answers)


def _unit(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise DataError(f"`{name}` returned {value!r}; expected a number in [0, 1].")
    return number
