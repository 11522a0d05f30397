"""One attempt at one pair: run the program, tell the prompt's faults from the world's, judge the answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError, is_retryable_lm_error

from tp_dspy.errors import LMUnavailableError, LogprobsUnavailableError, ProgramError, TransferPromptingError
from tp_dspy.scoring.calls import CallRecord, Reply, nobody_listens, unavailable
from tp_dspy.scoring.gate import Gate
from tp_dspy.scoring.judge import NO_LOGPROBS
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.running import refuses_logprobs, replies_to, run_program, says_nothing, uncached

if TYPE_CHECKING:
    from tp_dspy.scoring.choices import TypedChoices
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["SILENT", "Attempts", "Job", "Run"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

SILENT = "The reply was empty."
"""The error of a pair whose reply was empty: in the end the prompt's fault, until then maybe the endpoint's."""
_FILTERED = "The provider's content filter kept the reply back."
# Nobody listens: so many connections failed, and none succeeded.
_NO_CONNECTION = 3


@dataclass(frozen=True)
class Job(Generic[Key]):
    """One pair to be scored.

    Attributes:
        key: What the caller knows the pair by; no two jobs of one `Scorer.score` share it.
        program: The program, prepared by `Scorer.prepare`.
        example: An example with inputs set.
    """

    key: Key
    program: dspy.Module
    example: dspy.Example


@dataclass
class Run:
    """What the threads of one `Scorer.score` know of each other.

    Attributes:
        settings: DSPy settings of every call.
        typed: The allowed answers by the types of the answer fields, by the program's id.
        samplers: The programs that ask again, for confidence by agreement, by the program's id.
        lms: The LMs by name and address, for messages.
        reached: Whether the LM has answered anything.
        refused: Calls that found nobody to talk to.
        last: Whether each pair is being tried for the last time.
        silent: Pairs whose reply was empty, by key.
        hushed: Those of them that are being asked again.
        passing: Pairs that failed in this pass for a reason that may pass.
        gate: Lets calls begin.
        halted: Why the gate let no more begin.
        stop: The error that ends it all.
    """

    settings: dict[str, Any]
    typed: dict[int, TypedChoices]
    samplers: dict[int, list[dspy.Module]]
    lms: str
    gate: Gate | None = None
    reached: bool = False
    refused: int = 0
    last: bool = False
    silent: dict[Any, Outcome] = field(default_factory=dict)
    hushed: set[Any] = field(default_factory=set)
    passing: set[Any] = field(default_factory=set)
    halted: str | None = None
    stop: Exception | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def unreachable(self, reason: object) -> LMUnavailableError:
        """Say that nobody listens."""
        return LMUnavailableError(
            f"The LM ({self.lms}) cannot be reached: {self.refused} calls failed to connect and none succeeded "
            f"({reason}). Check that the server runs, api_base and the network; then call again."
        )


@dataclass(frozen=True)
class Attempts:
    """Makes attempts; safe in threads.

    Attributes:
        objective: Judges each prediction.
    """

    objective: ObjectiveEvaluator

    def outcome(self, job: Job[Any], run: Run) -> Outcome:
        """Run a pair and judge it.

        Raises:
            LMUnavailableError, LogprobsUnavailableError, ProgramError, DataError: What asking again cannot mend; `run`
                is stopped, so that nothing further begins.
        """
        # An empty reply would come out of the cache again.
        program = uncached(job.program) if job.key in run.hushed else job.program
        prediction, error, record = run_program(program, job.example, run.settings)
        usage = record.usage
        if isinstance(error, AdapterParseError) and record.finish_reason == "content_filter":
            run.reached = True
            return Outcome("error", usage=usage, error=_FILTERED)
        if not run.last and isinstance(error, AdapterParseError) and says_nothing(record):
            # An endpoint in trouble may send nothing; a prompt to which nothing can be said gets nothing again.
            run.reached = run.reached or record.paid > 0
            return Outcome("error", usage=usage, error=SILENT)
        try:
            run.reached = run.reached or record.paid > 0  # A reply from the cache proves no connection.
            if error is not None and not isinstance(error, AdapterParseError):
                return Outcome("error", usage=usage, error=self._world_error(error, job, run))
            samples = None
            if error is None and self.objective.confidence == "agreement":
                samples, failure, more = self._ask_again(job, prediction, run)
                usage = usage + more
                if failure is not None:
                    return Outcome("error", usage=usage, error=self._world_error(failure, job, run))
            outcome = self._judge(job, prediction, error, record, run, samples)
        except Exception as reason:
            # Set before the pool hands out the next pair, so that no further call is paid for.
            run.stop = run.stop or reason
            raise
        return replace(outcome, usage=usage)

    def _ask_again(
        self, job: Job[Any], prediction: Any, run: Run
    ) -> tuple[list[dspy.Prediction], Exception | None, Usage]:
        """Run the samplers: what they gave, the first error that is not the prompt's, and what it cost."""
        samples: list[dspy.Prediction] = []
        usage = Usage()
        given = prediction.get if isinstance(prediction, dspy.Prediction) else {}.get
        if all(given(name) is None for name in self.objective.answers):
            return samples, None, usage  # There is no answer that could be agreed with.
        for program in run.samplers[id(job.program)]:
            sample, error, record = run_program(program, job.example, run.settings)
            usage = usage + record.usage
            if error is not None and not isinstance(error, AdapterParseError):
                return samples, error, usage
            samples.append(sample if isinstance(sample, dspy.Prediction) else dspy.Prediction())
        return samples, None, usage

    def _world_error(self, error: Exception | None, job: Job[Any], run: Run) -> str:
        """Name an error that is not the prompt's fault; raise one that asking again cannot mend."""
        if isinstance(error, TransferPromptingError):
            raise error
        if self.objective.confidence == "logits" and refuses_logprobs(error):
            raise LogprobsUnavailableError(NO_LOGPROBS.format(problem=f"the LM refuses them ({error})")) from error
        hopeless = unavailable(error)
        if hopeless is not None:
            raise hopeless from error
        logger.debug("A scorer call failed.", exc_info=error)
        if nobody_listens(error):
            with run.lock:
                run.refused += 1
            if run.refused >= _NO_CONNECTION and not run.reached:
                raise run.unreachable(error) from error
        if isinstance(error, Exception) and is_retryable_lm_error(error):
            with run.lock:
                run.passing.add(job.key)
        return f"{type(error).__name__}: {error}"

    def _judge(
        self,
        job: Job[Any],
        prediction: Any,
        error: Exception | None,
        record: CallRecord,
        run: Run,
        samples: Sequence[dspy.Prediction] | None,
    ) -> Outcome:
        if not isinstance(prediction, dspy.Prediction):
            raise ProgramError(
                f"The program returned {type(prediction).__name__}; expected a dspy.Prediction with "
                f"{self.objective.answer!r}. Return dspy.Prediction({self.objective.answer}=...) from its forward."
            )
        if isinstance(error, AdapterParseError):
            # What could not be read is the last reply, whichever predictor asked.
            text = next((text for text, _ in reversed(record.replies())), str(error.lm_response or ""))
            unread: dict[str, Reply | None] = {self.objective.answer: Reply(text, None, frozenset())}
            return self.objective.outcome(job.example, prediction, replies=unread)
        return self.objective.outcome(
            job.example,
            prediction,
            replies=replies_to(self.objective.answers, prediction, record),
            samples=samples,
            typed=run.typed[id(job.program)],
        )
