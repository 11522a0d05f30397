"""The objective evaluator: a DSPy metric per example, and several metrics and one score per set of examples."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import dspy
import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError, LogprobsUnavailableError
from tp_dspy.lms.answers import (
    as_text,
    choices_of_type,
    holds_nothing_else,
    listed_choices,
    read_choice,
    same_answer,
)
from tp_dspy.scoring.checks import check_examples, check_program
from tp_dspy.scoring.confidence import (
    answer_probability,
    prediction_logprobs,
    sequence_probability,
    verbalized_confidence,
)
from tp_dspy.scoring.evaluation import (
    Comparison,
    Evaluation,
    Metrics,
    Weights,
    compare,
    evaluate,
    measure,
    resample,
)
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["ConfidenceSource", "ObjectiveEvaluator"]

FloatArray = npt.NDArray[np.float64]
ConfidenceSource = Literal["logits", "verbalized"] | Callable[[dspy.Example, dspy.Prediction], float | None] | None


class ObjectiveEvaluator:
    """Score a program on instruction following, accuracy, calibration and ranking at once.

    As a DSPy metric it returns a ``dspy.Prediction`` with ``score``, ``feedback`` and ``objective_scores`` for one
    example. Calibration and ranking exist only for a set of examples: `evaluate` and `measure` give those.

    Args:
        answer: The output field that holds the answer. Examples hold the expected one under the same name.
        confidence: Where confidence comes from. ``"logits"``: the probability of the answer's tokens, normalised over
            the allowed answers (length-normalised for free text); the LM must return log-probabilities.
            ``"verbalized"``: an output field of the program. A callable ``(example, prediction) -> float | None``.
            None: no confidence; its metrics are NaN and their weight goes to accuracy.
        confidence_field: The output field of verbalised confidence.
        choices: The allowed answers: a sequence of strings, or the name of a field of the example that holds them.
            Where an example has no such field, the closed type of the answer field counts (``Literal``, enum,
            ``bool``); else the answer is free text.
        weights: Weight by metric name; see `tp_dspy.scoring.evaluation.DEFAULT_WEIGHTS`.
        n_bins: Bins of the calibration error, at least 1.
        strict: Whether a reply must be the answer in the asked format and nothing else to count as followed.
            Otherwise ``B. Heart`` and ``No, because ...`` count, as their answer is beyond doubt.
        follows: Replaces the check of instruction following: ``(example, prediction) -> bool``.
        match: Replaces the check of correctness: ``(example, prediction) -> float`` in [0, 1] or bool.

    Raises:
        ConfigurationError: If an argument has a value that cannot work.
    """

    def __init__(
        self,
        answer: str = "answer",
        *,
        confidence: ConfidenceSource = "logits",
        confidence_field: str = "confidence",
        choices: str | Sequence[str] = "choices",
        weights: Mapping[str, float] | None = None,
        n_bins: int = 10,
        strict: bool = False,
        follows: Callable[[dspy.Example, dspy.Prediction], bool] | None = None,
        match: Callable[[dspy.Example, dspy.Prediction], float] | None = None,
    ) -> None:
        if isinstance(confidence, str) and confidence not in ("logits", "verbalized"):
            raise ConfigurationError(
                f"confidence is {confidence!r}; expected 'logits', 'verbalized', a callable, or None."
            )
        if not isinstance(n_bins, int) or n_bins < 1:
            raise ConfigurationError(f"n_bins is {n_bins!r}; expected a whole number of at least 1.")
        self.answer = answer
        self.confidence = confidence
        self.confidence_field = confidence_field
        self.choices = choices if isinstance(choices, str) else _own_choices(choices)
        self.weights = Weights.of(weights)
        self.n_bins = n_bins
        self.strict = strict
        self.follows = follows
        self.match = match

    # What a program and its examples must have, checked before any call is paid.

    def check(self, program: dspy.Module, examples: Sequence[dspy.Example]) -> None:
        """Check that a program and examples can be scored at all.

        Raises:
            ProgramError: If no predictor of the program has the answer field (or the confidence field).
            DataError: If examples lack inputs or the expected answer, or expect one that is not allowed.
        """
        check_program(self, program)
        check_examples(self, examples, self.typed_choices(program))

    def allowed(self, example: dspy.Example) -> tuple[str, ...] | None:
        """Tell the allowed answers that the objective or an example lists; None when neither does.

        Raises:
            DataError: If the example's field of choices is no list of answers.
        """
        if not isinstance(self.choices, str):
            return self.choices
        listed = example.get(self.choices)
        if listed is None or (isinstance(listed, list | tuple) and not listed):
            return None
        try:
            return listed_choices(listed)
        except ValueError as error:
            raise DataError(
                f"An example's {self.choices!r} is {error} Mend the example, or pass ObjectiveEvaluator(choices=...) "
                "the answers or the name of the field that lists them."
            ) from None

    def typed_choices(self, program: dspy.Module) -> tuple[str, ...] | None:
        """Read the allowed answers off the type of the program's answer field (the last predictor's that has it)."""
        signatures = [predictor.signature for _, predictor in program.named_sub_modules(dspy.Predict)]
        signatures = [signature for signature in signatures if self.answer in signature.output_fields]
        return choices_of_type(signatures[-1].output_fields[self.answer].annotation) if signatures else None

    # One example.

    def outcome(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        *,
        reply: str | None = None,
        logprobs: Any = None,
        typed: Sequence[str] | None = None,
    ) -> Outcome:
        """Judge one prediction.

        Args:
            example: The example, with the expected answer.
            prediction: What the program returned; an empty one stands for a reply that could not be parsed.
            reply: The raw reply, where known.
            logprobs: Token log-probabilities of the reply, where the prediction itself carries none.
            typed: The allowed answers by the type of the program's answer field, for examples that list none; read
                off the prediction where it comes straight from a predictor.

        Returns:
            An outcome without usage; status ``ok`` or ``unparsed``.

        Raises:
            LogprobsUnavailableError: If confidence comes from logits and there are none.
            DataError: If the example has no expected answer or no usable choices, or a callable of the user's returns
                something that is no number in [0, 1].
        """
        allowed = self.allowed(example) or typed or self._typed(prediction)
        answer, exact, problem = self._answer(prediction, allowed)
        if answer is None:
            return Outcome("unparsed", reply=reply, feedback=problem)
        confidence = self._confidence(example, prediction, answer, allowed, logprobs)
        correct = self._correct(example, prediction, answer, allowed)
        followed = self._followed(example, prediction, answer, exact, confidence, reply)
        feedback = _feedback(example.get(self.answer), answer, correct, followed, confidence)
        return Outcome("ok", followed, correct, confidence, answer, reply, feedback)

    def _typed(self, prediction: dspy.Prediction | None) -> tuple[str, ...] | None:
        signature = getattr(getattr(prediction, "completions", None), "signature", None)
        field = getattr(signature, "output_fields", {}).get(self.answer)
        return None if field is None else choices_of_type(field.annotation)

    def _answer(
        self, prediction: dspy.Prediction | None, allowed: Sequence[str] | None
    ) -> tuple[str | None, bool, str]:
        """Read the answer: the answer or None, whether it is that and nothing else, and what is wrong with it."""
        given = prediction.get(self.answer) if prediction is not None else None
        if given is None:
            return None, False, "The reply is not in the asked format."
        text = as_text(given)
        answer, exact = read_choice(text, allowed) if allowed else (text.strip() or None, True)
        shown = text if len(text) <= 80 else text[:77] + "..."
        wanted = f"expected one of {', '.join(allowed)}" if allowed else "expected an answer"
        return answer, exact, f"The reply gives {shown!r}; {wanted}."

    def _confidence(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        answer: str,
        allowed: Sequence[str] | None,
        logprobs: Any,
    ) -> float | None:
        if self.confidence is None:
            return None
        if self.confidence == "verbalized":
            return verbalized_confidence(prediction.get(self.confidence_field))
        if callable(self.confidence):
            value = self.confidence(example, prediction)
            return None if value is None else _unit(value, "confidence")
        # DSPy hands on an empty list of tokens when an LM was asked for logprobs and gave none.
        logprobs = prediction_logprobs(prediction) or prediction_logprobs(dspy.Prediction(logprobs=logprobs))
        if logprobs is None:
            raise LogprobsUnavailableError(
                "confidence='logits' needs token log-probabilities, and the LM returned none. Use an LM that has them "
                "(dspy.LM(..., logprobs=True, top_logprobs=10)), or ObjectiveEvaluator(confidence='verbalized') with "
                "a confidence output field, or confidence=None."
            )
        if allowed:
            return answer_probability(logprobs, field=self.answer, answer=answer, allowed=allowed)
        return sequence_probability(logprobs, field=self.answer, answer=answer)

    def _correct(
        self, example: dspy.Example, prediction: dspy.Prediction, answer: str, allowed: Sequence[str] | None
    ) -> float:
        if self.match is not None:
            return _unit(self.match(example, prediction), "match")
        if example.get(self.answer) is None:
            raise DataError(
                f"The example has no {self.answer!r} (it has {sorted(example.keys())}). Put the expected answer there, "
                "or pass `match` to score without one."
            )
        expected = as_text(example[self.answer])
        if allowed:
            return float(read_choice(expected, allowed)[0] == answer)
        return float(same_answer(answer, expected))

    def _followed(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        answer: str,
        exact: bool,
        confidence: float | None,
        reply: str | None,
    ) -> bool:
        if self.follows is not None:
            return bool(self.follows(example, prediction))
        if self.confidence == "verbalized" and confidence is None:
            return False
        return not self.strict or (exact and holds_nothing_else(reply, answer))

    # As a DSPy metric.

    def __call__(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> dspy.Prediction | bool:
        """Judge one prediction as ``dspy.Evaluate`` and DSPy's optimisers ask for it.

        Returns:
            While bootstrapping (a trace, and no predictor name) a bool: followed and correct. Otherwise a
            prediction with ``score`` in [0, 1] (followed, correct and the Brier complement of confidence under the
            objective's weights), ``feedback`` in words, and ``objective_scores`` (``ifr``, ``accuracy``,
            ``calibration``; higher is better).
        """
        if trace is not None and pred_name is None:
            return self._passes(example, prediction)
        outcome = self.outcome(example, prediction)
        calibration = 0.0
        if outcome.confidence is not None:
            calibration = 1.0 - (outcome.confidence - outcome.correct) ** 2
        weights = self.weights.by_metric
        ifr = weights.get("ifr", 0.0)
        accuracy = weights.get("accuracy", 0.0) if self.confidence is not None else 1.0 - ifr
        score = ifr * outcome.followed + accuracy * outcome.correct + (1.0 - ifr - accuracy) * calibration
        scores = {"ifr": float(outcome.followed), "accuracy": outcome.correct, "calibration": calibration}
        feedback = outcome.feedback or "Right, and in the asked format."
        return dspy.Prediction(score=score, feedback=feedback, objective_scores=scores)

    def _passes(self, example: dspy.Example, prediction: dspy.Prediction) -> bool:
        """Whether a prediction may serve as a demo. How sure the LM was does not matter; nor are there logprobs."""
        without = copy.copy(self)
        if self.confidence != "verbalized":
            without.confidence = None
        outcome = without.outcome(example, prediction)
        return outcome.followed and outcome.correct >= 0.5

    # Sets of examples.

    def measure(self, outcomes: Sequence[Outcome]) -> Metrics:
        """Measure a set of outcomes: the metrics and the one score."""
        return measure(outcomes, self.weights, n_bins=self.n_bins)

    def resample(self, outcomes: Sequence[Outcome], weights: npt.ArrayLike) -> FloatArray:
        """Score resamples of a set of outcomes.

        Args:
            outcomes: One per example; ``error`` outcomes are left out.
            weights: How often each example is in each resample, of shape (resamples, examples).

        Returns:
            Scores of shape (resamples,); NaN where a resample holds nothing that counts.
        """
        return resample(outcomes, weights, self.weights, n_bins=self.n_bins)

    def evaluate(
        self,
        program: dspy.Module,
        examples: Sequence[dspy.Example],
        *,
        lm: dspy.BaseLM | None = None,
        num_threads: int | None = None,
        max_error_rate: float = 0.1,
        seed: int = 0,
    ) -> Evaluation:
        """Run a program on examples and measure it, with 95 % bootstrap intervals.

        Args:
            program: Any DSPy program with the answer field.
            examples: Examples with inputs set and the expected answer; at least one.
            lm: The LM for predictors that have none of their own; by default the configured one.
            num_threads: Concurrent calls; by default DSPy's setting.
            max_error_rate: Share of examples, in [0, 1], that may end without an answer for reasons of the world's.
            seed: Seed of the resampling.

        Raises:
            ProgramError, DataError: As `check` does.
            ScoringFailedError, LMUnavailableError, LogprobsUnavailableError: As the scorer does.
        """
        from tp_dspy.scoring.scorer import Scorer

        if not examples:
            raise DataError("There are no examples to evaluate on; pass at least one.")
        scorer = Scorer(self, lm=lm, num_threads=num_threads, max_error_rate=max_error_rate)
        return evaluate(scorer.outcomes(program, examples), self.weights, n_bins=self.n_bins, seed=seed)

    def compare(self, first: Evaluation, second: Evaluation, *, seed: int = 0) -> Comparison:
        """Compare two evaluations on the same examples: the paired difference of scores, second minus first."""
        return compare(first.outcomes, second.outcomes, self.weights, n_bins=self.n_bins, seed=seed)

    def describe(self) -> dict[str, Any]:
        """Describe the settings as plain values, for saved results."""
        return {
            "answer": self.answer,
            "confidence": getattr(self.confidence, "__qualname__", self.confidence),
            "weights": dict(self.weights.by_metric),
            "n_bins": self.n_bins,
            "strict": self.strict,
        }


def _own_choices(choices: Sequence[str]) -> tuple[str, ...]:
    try:
        return listed_choices(choices)
    except ValueError as error:
        raise ConfigurationError(f"choices is {error} Or pass the name of a field of the examples.") from None


def _unit(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0.0 <= number <= 1.0:
        raise DataError(f"`{name}` returned {value!r}; expected a number in [0, 1].")
    return number


def _feedback(expected: Any, answer: str, correct: float, followed: bool, confidence: float | None) -> str:
    parts = []
    if correct < 1.0:
        parts.append(
            f"The answer is {answer!r}" + (f"; expected {as_text(expected)!r}" if expected is not None else "")
        )
        if confidence is not None and confidence >= 0.8:
            parts[-1] += f", and it was given with confidence {confidence:.2f}"
    if not followed:
        parts.append("The reply does not keep to the asked format")
    return ". ".join(parts) + "." if parts else ""
