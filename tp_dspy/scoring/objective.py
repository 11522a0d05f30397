"""The objective evaluator: a DSPy metric per example, and several metrics and one score per set of examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dspy
import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError, DataError, LogprobsUnavailableError
from tp_dspy.scoring.calibrated import CalibratedProgram, fit_to_outcomes, shared_choices
from tp_dspy.scoring.calibrators import CalibrationMethod
from tp_dspy.scoring.callbacks import evaluated
from tp_dspy.scoring.calls import Reply
from tp_dspy.scoring.checks import check_examples, check_inputs, check_program
from tp_dspy.scoring.choices import AllowedAnswers, Choices, TypedChoices
from tp_dspy.scoring.comparison import Comparison, compare
from tp_dspy.scoring.custom import CustomMetric, check_metrics
from tp_dspy.scoring.evaluation import Evaluation, evaluate
from tp_dspy.scoring.feedback import question
from tp_dspy.scoring.judge import ConfidenceSource, Judge, Match
from tp_dspy.scoring.matching import MATCH_KINDS
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.set_objective import Metrics, SetObjective, example_scores
from tp_dspy.scoring.weights import Constraints, Weights

if TYPE_CHECKING:
    from tp_dspy.scoring.held_out import HeldOut

__all__ = ["ConfidenceSource", "ObjectiveEvaluator"]

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_CONFIDENCES = ("logits", "verbalized", "agreement")


class ObjectiveEvaluator:
    """Score a program on instruction following, accuracy, calibration and ranking at once.

    As a DSPy metric it returns a ``dspy.Prediction`` with ``score``, ``feedback`` and ``objective_scores`` for one
    example. Calibration and ranking exist only for a set of examples: `evaluate` and `measure` give those.

    Args:
        answer: The output field that holds the answer, or several of them: correctness and confidence are then means
            over the fields. Examples hold the expected answer under the same name; a list of them, where any will do.
        confidence: Where confidence comes from.

            * ``"logits"``: the probability of the answer's tokens, normalised over the allowed answers
              (length-normalised for free text). No further calls, but the LM must return log-probabilities.
            * ``"verbalized"``: an output field of the program. No further calls, some more tokens.
            * ``"agreement"``: the share of `samples` further runs of the program that give the same answer
              (self-consistency). ``1 + samples`` times the calls.
            * A callable ``(example, prediction) -> float | None``.
            * None: no confidence; the default weights of its metrics go to accuracy.
        confidence_field: The output field of verbalised confidence.
        samples: Further runs for confidence by agreement, at least 1.
        sample_temperature: Their temperature, above 0.
        choices: The allowed answers: a sequence of strings, or the name of a field of the example that holds them; for
            several answer fields a mapping of these by field (by default the example's ``<field>_choices``). Where an
            example has no such field, the closed type of the answer field counts (``Literal``, enum, ``bool``); else
            the answer is free text.
        weights: Weight by metric name, any subset; see `tp_dspy.scoring.weights.DEFAULT_WEIGHTS`.
        constraints: Level that a metric must reach, by name: ``{"ifr": 0.95}`` (for ``ece`` and ``brier``: must not
            pass). A prompt that misses one ranks below all that meet them.
        metrics: Metrics of your own by name, for `weights` and `constraints`: functions of an `Outcome`, or a
            `tp_dspy.scoring.custom.SetMetric`; in [0, 1], higher is better.
        n_bins: Bins of the calibration error, at least 1.
        strict: Whether a reply must be the answer in the asked format and nothing else to count as followed.
            Otherwise ``B. Heart`` and ``No, because ...`` count, as their answer is beyond doubt.
        follows: Replaces the check of instruction following: ``(example, prediction) -> bool``.
        match: How free-text answers are compared: ``"auto"`` (as numbers where both are, else as text normalised as
            SQuAD does), ``"text"``, ``"number"`` (the last number of the answer), ``"f1"`` (overlap of words); or your
            own check of correctness: ``(example, prediction) -> float`` in [0, 1] or bool. Where answers are allowed
            ones, they are compared as such.
        tolerance: Relative difference at which two numbers are equal, at least 0.

    Raises:
        ConfigurationError: If an argument has a value that cannot work.
    """

    def __init__(
        self,
        answer: str | Sequence[str] = "answer",
        *,
        confidence: ConfidenceSource = "logits",
        confidence_field: str = "confidence",
        samples: int = 5,
        sample_temperature: float = 0.7,
        choices: Choices | Mapping[str, Choices] = "choices",
        weights: Mapping[str, float] | None = None,
        constraints: Mapping[str, float] | None = None,
        metrics: Mapping[str, CustomMetric] | None = None,
        n_bins: int = 10,
        strict: bool = False,
        follows: Callable[[dspy.Example, dspy.Prediction], bool] | None = None,
        match: Match = "auto",
        tolerance: float = 1e-6,
    ) -> None:
        if isinstance(confidence, str) and confidence not in _CONFIDENCES:
            raise ConfigurationError(
                f"confidence is {confidence!r}; expected one of {list(_CONFIDENCES)}, a callable, or None."
            )
        if not isinstance(n_bins, int) or n_bins < 1:
            raise ConfigurationError(f"n_bins is {n_bins!r}; expected a whole number of at least 1.")
        if not isinstance(samples, int) or samples < 1 or not sample_temperature > 0:
            raise ConfigurationError(
                f"samples is {samples!r} and sample_temperature {sample_temperature!r}; expected a whole number of at "
                "least 1, and a temperature above 0."
            )
        if not callable(match) and match not in MATCH_KINDS:
            raise ConfigurationError(f"match is {match!r}; expected one of {list(MATCH_KINDS)}, or a function.")
        if not isinstance(tolerance, int | float) or not tolerance >= 0:
            raise ConfigurationError(f"tolerance is {tolerance!r}; expected a number of at least 0, such as 0.01.")
        answers = (answer,) if isinstance(answer, str) else tuple(answer)
        if not answers or len(set(answers)) < len(answers):
            raise ConfigurationError(f"answer is {answer!r}; expected an output field, or several different ones.")
        allowed = AllowedAnswers.of(choices, answers)
        self.judge = Judge(answers, confidence, confidence_field, allowed, strict, follows, match, float(tolerance))
        self.samples = samples
        self.sample_temperature = sample_temperature
        custom = check_metrics(metrics)
        sure = confidence is not None
        self.rule = SetObjective(
            Weights.of(weights, custom=custom, confidence=sure),
            Constraints.of(constraints, custom=custom, confidence=sure),
            n_bins,
            custom,
        )
        self._warned = False

    @property
    def answers(self) -> tuple[str, ...]:
        """The output fields that hold the answers."""
        return self.judge.answers

    @property
    def answer(self) -> str:
        """The first of them, by which examples are stratified."""
        return self.judge.answers[0]

    @property
    def confidence(self) -> ConfidenceSource:
        """Where confidence comes from."""
        return self.judge.confidence

    @property
    def runs(self) -> int:
        """How often a program is run for each example: more than once where confidence comes from agreement."""
        return 1 + self.samples if self.confidence == "agreement" else 1

    @property
    def weights(self) -> Weights:
        """How metrics make the score."""
        return self.rule.weights

    # What a program and its examples must have, checked before any call is paid.

    def check(self, program: dspy.Module, examples: Sequence[dspy.Example]) -> None:
        """Check that a program and examples can be scored at all.

        Raises:
            ProgramError: If no predictor of the program has an answer field (or the confidence field), or the program
                takes other inputs than the examples have.
            DataError: If examples lack inputs or the expected answer, or expect one that is not allowed.
        """
        check_program(self.judge, program)
        check_examples(self.judge, examples, self.judge.choices.typed(program))
        check_inputs(program, examples)

    # One example.

    def outcome(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction | None,
        *,
        replies: Mapping[str, Reply | None] | None = None,
        samples: Sequence[dspy.Prediction] | None = None,
        typed: TypedChoices | None = None,
    ) -> Outcome:
        """Judge one prediction; see `tp_dspy.scoring.judge.Judge.outcome`."""
        return self.judge.outcome(example, prediction, replies=replies, samples=samples, typed=typed)

    # As a DSPy metric.

    def __call__(
        self,
        example: dspy.Example,
        prediction: dspy.Prediction | None,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> dspy.Prediction | bool:
        """Judge one prediction as ``dspy.Evaluate`` and DSPy's optimisers ask for it.

        A metric cannot call the program again, and other optimisers ask for no log-probabilities: where there is
        nothing to read confidence from, calibration is left out of the score, with one warning in the log.

        Returns:
            While bootstrapping (a trace, and no predictor name) a bool: followed and correct. Otherwise a
            prediction with ``score`` in [0, 1] (followed, correct, the Brier complement of confidence and your own
            metrics of outcomes, under the objective's weights), ``feedback`` in words, and ``objective_scores``
            (``ifr``, ``accuracy``, ``calibration`` where there is one, and your own; higher is better).
        """
        if trace is not None and pred_name is None:
            # Whether it may serve as a demo. How sure the LM was does not matter; nor are there logprobs.
            outcome = self._without_calls().outcome(example, prediction)
            return outcome.followed and outcome.correct >= 0.5
        measured = self.confidence not in (None, "agreement")
        try:
            outcome = (self.judge if measured else self._without_calls()).outcome(example, prediction)
        except LogprobsUnavailableError as error:
            measured = False
            outcome = self._without_calls().outcome(example, prediction)
            if not self._warned:
                self._warned = True
                logger.warning("Calibration is left out of the metric: %s", error)
        score, scores = example_scores(self.rule, outcome, calibrated=measured)
        said = outcome.feedback or "Right, and in the asked format."
        if outcome.feedback and getattr(example, "_input_keys", None):
            said = f"Asked: {question(dict(example.inputs()))}\n{said}"
        return dspy.Prediction(score=score, feedback=said, objective_scores=scores)

    def _without_calls(self) -> Judge:
        """The judge without a confidence that needs logprobs or further calls."""
        return self.judge if self.confidence == "verbalized" else replace(self.judge, confidence=None)

    # Sets of examples.

    def measure(self, outcomes: Sequence[Outcome]) -> Metrics:
        """Measure a set of outcomes: the metrics and the one score."""
        return self.rule.measure(outcomes)

    def resample(self, outcomes: Sequence[Outcome], counts: npt.ArrayLike) -> dict[str, FloatArray]:
        """Measure resamples of a set of outcomes; see `tp_dspy.scoring.set_objective.SetObjective.values`."""
        return self.rule.values(outcomes, counts)

    def evaluate(
        self,
        program: dspy.Module,
        examples: Sequence[dspy.Example],
        *,
        lm: dspy.BaseLM | None = None,
        num_threads: int | None = None,
        executor: Any = None,
        max_error_rate: float = 0.1,
        seed: int = 0,
        verbose: bool = True,
    ) -> Evaluation:
        """Run a program on examples and measure it, with 95 % bootstrap intervals.

        DSPy's callbacks hear of it as of a ``dspy.Evaluate``.

        Args:
            program: Any DSPy program with the answer field; a calibrated one is measured with its calibration.
            examples: Examples with inputs set and the expected answer; at least one.
            lm: The LM for predictors that have none of their own; by default the configured one.
            num_threads: Concurrent calls; by default DSPy's setting, or with a cluster all that it can.
            executor: Where the program runs: by default in threads; "dask" for worker processes on this machine,
                "dask://host:port", a ``distributed.Client`` or any ``concurrent.futures.Executor``; see
                `tp_dspy.scoring.executors`.
            max_error_rate: Share of examples, in [0, 1], that may end without an answer for reasons of the world's.
            seed: Seed of the resampling.
            verbose: Whether to show a progress bar, on a terminal or in a notebook.

        Raises:
            ProgramError, DataError: As `check` does.
            ScoringFailedError, LMUnavailableError, LogprobsUnavailableError: As the scorer does.
        """

        def work() -> tuple[list[Outcome], Evaluation]:
            where: dict[str, Any] = {"num_threads": num_threads, "executor": executor}
            outcomes = self._run(program, examples, verbose, lm=lm, max_error_rate=max_error_rate, **where)
            return outcomes, self.summarize(outcomes, seed=seed)

        return evaluated(program, examples, self, work)

    def _run(
        self, program: dspy.Module, examples: Sequence[dspy.Example], verbose: bool, **settings: Any
    ) -> list[Outcome]:
        from tp_dspy.scoring.scorer import Scorer

        if not examples:
            raise DataError("There are no examples to evaluate on; pass at least one.")
        outcomes = Scorer(self, **settings).outcomes(program, examples, verbose=verbose)
        return program.applied_to(outcomes) if isinstance(program, CalibratedProgram) else outcomes

    def evaluate_all(
        self, programs: Mapping[str, dspy.Module], examples: Sequence[dspy.Example], **settings: Any
    ) -> HeldOut:
        """Measure several programs on the same examples, side by side, with paired differences to the first.

        All are run in one pool; one that has two names is run once.

        Args:
            programs: By the name to report them under, the one to compare with first.
            examples: Examples that no search has seen.
            **settings: As for `evaluate`; see `tp_dspy.scoring.held_out.measure`.

        Raises:
            ConfigurationError: If there is no program.
            Else as `evaluate`.
        """
        from tp_dspy.scoring.held_out import measure

        return measure(self, programs, examples, **settings)

    def calibrate(
        self,
        program: dspy.Module,
        examples: Sequence[dspy.Example],
        *,
        evaluation: Evaluation | None = None,
        method: CalibrationMethod = "temperature",
        lm: dspy.BaseLM | None = None,
        num_threads: int | None = None,
        executor: Any = None,
        max_error_rate: float = 0.1,
        verbose: bool = True,
    ) -> CalibratedProgram:
        """Fit a program's confidence to how often it is right, on examples kept for that.

        Args:
            program: A compiled program. Its answers stay as they are.
            examples: Labelled examples such as the validation split, never the test split: they are run (DSPy's cache
                answers what it has seen).
            evaluation: How the program did on the same examples, where that is known; then nothing is run.
            method: ``"temperature"`` (one parameter, from 10 examples on) or ``"isotonic"`` (any rising curve, from
                30 on).
            lm: As for `evaluate`; so for the next four.
            num_threads: Concurrent calls.
            executor: Where the program runs.
            max_error_rate: Share of examples that may end without an answer.
            verbose: Whether to show a progress bar.

        Returns:
            A program whose predictions carry the calibrated confidence; `evaluate` it on the test split to see the
            calibration error with and without.

        Raises:
            ConfigurationError: If the objective reads no confidence, or the method is unknown.
            DataError: If there are too few answers with a confidence, or all are right, or all wrong; or if the
                allowed answers differ between examples and are no input of the program.
            ProgramError, ScoringFailedError, LMUnavailableError, LogprobsUnavailableError: As `evaluate`.
        """
        choices = shared_choices(self.judge, examples)
        if evaluation is None:
            where: dict[str, Any] = {"num_threads": num_threads, "executor": executor}
            outcomes: Sequence[Outcome] = self._run(
                program, examples, verbose, lm=lm, max_error_rate=max_error_rate, **where
            )
        else:
            outcomes = evaluation.outcomes
        if len(outcomes) != len(examples):
            raise DataError(
                f"There are {len(examples)} examples and {len(outcomes)} outcomes; expected an evaluation of the same."
            )
        return CalibratedProgram(program, self, fit_to_outcomes(outcomes, method), choices)

    def summarize(self, outcomes: Sequence[Outcome], *, seed: int = 0) -> Evaluation:
        """Measure outcomes that are at hand, with 95 % bootstrap intervals over examples."""
        return evaluate(outcomes, self.rule, seed=seed)

    def compare(self, first: Evaluation, second: Evaluation, *, seed: int = 0) -> Comparison:
        """Compare two evaluations on the same examples: the paired difference of scores, second minus first."""
        return compare(first.outcomes, second.outcomes, self.rule, seed=seed)

    def describe(self) -> dict[str, Any]:
        """Describe the settings as plain values, for saved results."""
        judge = self.judge
        described = {
            "answer": list(judge.answers) if len(judge.answers) > 1 else self.answer,
            "confidence": getattr(judge.confidence, "__qualname__", judge.confidence),
            "weights": dict(self.weights.by_metric),
            "constraints": dict(self.rule.constraints.levels),
            "n_bins": self.rule.n_bins,
            "strict": judge.strict,
            "match": getattr(judge.match, "__qualname__", judge.match),
        }
        if self.confidence == "agreement":
            described |= {"samples": self.samples, "sample_temperature": self.sample_temperature}
        return described
