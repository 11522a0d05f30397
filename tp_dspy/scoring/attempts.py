"""One attempt at one pair: run the program, tell the prompt's faults from the world's, judge the answer."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError, is_retryable_lm_error

from tp_dspy.errors import LogprobsUnavailableError, ProgramError, TransferPromptingError
from tp_dspy.scoring.calls import CallRecord, Reply, nobody_listens, unavailable
from tp_dspy.scoring.judge import NO_LOGPROBS
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.running import refuses_logprobs, replies_to, run_program, says_nothing, uncached
from tp_dspy.scoring.throttle import Counts, until

if TYPE_CHECKING:
    from tp_dspy.scoring.choices import TypedChoices
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["NOT_SENT", "SILENT", "Asking", "Attempt", "Batch", "Job", "attempt", "run_batch"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

SILENT = "The reply was empty."
"""The error of a pair whose reply was empty: in the end the prompt's fault, until then maybe the endpoint's."""
# Seconds between two looks whether a run is to end, and that what is under way then is waited for.
_TICK, _GRACE = 0.25, 1.5
_FILTERED = "The provider's content filter kept the reply back."


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


@dataclass(frozen=True)
class Asking:
    """How a program is asked and its answers are judged: what all attempts at its pairs share.

    Attributes:
        objective: Judges each prediction.
        program: The program, prepared by `Scorer.prepare`.
        settings: DSPy settings of every call.
        typed: The allowed answers by the types of the answer fields.
        samplers: The programs that ask again, for confidence by agreement.
    """

    objective: ObjectiveEvaluator
    program: dspy.Module
    settings: Mapping[str, Any]
    typed: TypedChoices
    samplers: Sequence[dspy.Module]


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt at a pair.

    Attributes:
        outcome: Its outcome, with what it cost.
        reached: Whether the LM answered, and not only DSPy's cache.
        refused: Whether nobody listened.
        passing: Whether it failed for a reason that may pass.
    """

    outcome: Outcome
    reached: bool = False
    refused: bool = False
    passing: bool = False


@dataclass
class Batch:
    """What came of attempts at several pairs.

    Attributes:
        attempts: By the place of the pair among these; none of those that an error kept from being judged.
        error: What asking again cannot mend: no further pair is to begin.
        seconds: How long the attempts took, together.
        tally: What was asked of each endpoint, by its address; empty where the throttles know it already.
    """

    attempts: Mapping[int, Attempt] = field(default_factory=dict)
    error: BaseException | None = None
    seconds: float = 0.0
    tally: Mapping[str, Counts] = field(default_factory=dict)


NOT_SENT = Attempt(Outcome("error", error="HaltedError: not sent: the run is to end"))
"""What comes of a pair that was not asked any more."""


def run_batch(
    asking: Asking,
    pairs: Sequence[tuple[dspy.Example, bool]],
    *,
    last: bool,
    ending: threading.Event | None = None,
    threads: Executor | None = None,
    number: int = 1,
) -> Batch:
    """Make attempts, see `attempt`: one after the other, or in several threads.

    Args:
        asking: How.
        pairs: Examples, and whether the reply was empty before.
        last: Whether the pairs are being tried for the last time.
        ending: Set when no further call is to begin.
        threads: Where to make them, if not in this thread. What is under way in them at the end is waited for a little.
        number: How many of these threads to use at most.
    """
    todo = deque(enumerate(pairs))
    made: dict[int, Attempt] = {}
    errors: list[BaseException] = []
    seconds: list[float] = []

    def work() -> None:
        with until(ending):
            while todo and not errors:
                try:
                    place, (example, hushed) = todo.popleft()
                except IndexError:  # another thread was faster
                    return
                began = time.monotonic()
                over = ending is not None and ending.is_set()
                try:
                    made[place] = NOT_SENT if over else attempt(asking, example, last=last, hushed=hushed)
                except BaseException as error:
                    errors.append(error)
                seconds.append(time.monotonic() - began)

    if threads is None:
        work()
    else:
        # Plain threads see nothing of dspy.context.
        loops = [threads.submit(contextvars.copy_context().run, work) for _ in range(min(number, len(pairs)))]
        _wait_for(loops, lambda: bool(errors) or (ending is not None and ending.is_set()))
        if ending is not None and ending.is_set():
            # What hung may go on at any moment, and takes from these, too.
            with contextlib.suppress(IndexError):
                while True:
                    made[todo.popleft()[0]] = NOT_SENT
    if errors and not isinstance(errors[0], Exception):
        raise errors[0]
    known = made.copy()  # What hangs may still end.
    return Batch(dict(sorted(known.items())), errors[0] if errors else None, sum(seconds))


def _wait_for(loops: Sequence[Future[None]], over: Callable[[], bool]) -> None:
    """Wait until all have ended; once it is over, for those that have begun, and not for long."""
    ended = threading.Semaphore(0)
    for loop in loops:
        loop.add_done_callback(lambda _: ended.release())
    left, deadline = len(loops), math.inf
    while left and time.monotonic() < deadline:
        left -= ended.acquire(timeout=_TICK)
        if deadline == math.inf and over():
            deadline = time.monotonic() + _GRACE
            for loop in loops:
                loop.cancel()


def attempt(asking: Asking, example: dspy.Example, *, last: bool, hushed: bool) -> Attempt:
    """Run a pair and judge it.

    It depends on nothing but its arguments, and changes nothing: threads and other machines may make attempts.

    Args:
        asking: How.
        example: The example.
        last: Whether the pair is being tried for the last time.
        hushed: Whether the reply was empty before; it would come out of the cache again.

    Raises:
        LMUnavailableError, LogprobsUnavailableError, ProgramError, DataError: What asking again cannot mend.
    """
    program = uncached(asking.program) if hushed else asking.program
    prediction, error, record = run_program(program, example, asking.settings)
    usage = record.usage
    if isinstance(error, AdapterParseError) and record.finish_reason == "content_filter":
        return Attempt(Outcome("error", usage=usage, error=_FILTERED), reached=True)
    reached = record.paid > 0  # A reply from the cache proves no connection.
    if not last and isinstance(error, AdapterParseError) and says_nothing(record):
        # An endpoint in trouble may send nothing; a prompt to which nothing can be said gets nothing again.
        return Attempt(Outcome("error", usage=usage, error=SILENT), reached)
    if error is not None and not isinstance(error, AdapterParseError):
        return _failed(asking, error, usage, reached)
    samples = None
    if error is None and asking.objective.confidence == "agreement":
        samples, failure, more = _ask_again(asking, example, prediction)
        usage = usage + more
        if failure is not None:
            return _failed(asking, failure, usage, reached)
    return Attempt(replace(_judge(asking, example, prediction, error, record, samples), usage=usage), reached)


def _ask_again(
    asking: Asking, example: dspy.Example, prediction: Any
) -> tuple[list[dspy.Prediction], Exception | None, Usage]:
    """Run the samplers: what they gave, the first error that is not the prompt's, and what it cost."""
    samples: list[dspy.Prediction] = []
    usage = Usage()
    given = prediction.get if isinstance(prediction, dspy.Prediction) else {}.get
    if all(given(name) is None for name in asking.objective.answers):
        return samples, None, usage  # There is no answer that could be agreed with.
    for program in asking.samplers:
        sample, error, record = run_program(program, example, asking.settings)
        usage = usage + record.usage
        if error is not None and not isinstance(error, AdapterParseError):
            return samples, error, usage
        samples.append(sample if isinstance(sample, dspy.Prediction) else dspy.Prediction())
    return samples, None, usage


def _failed(asking: Asking, error: Exception, usage: Usage, reached: bool) -> Attempt:
    """Tell of an error that is not the prompt's fault; raise one that asking again cannot mend."""
    if isinstance(error, TransferPromptingError):
        raise error
    if asking.objective.confidence == "logits" and refuses_logprobs(error):
        raise LogprobsUnavailableError(NO_LOGPROBS.format(problem=f"the LM refuses them ({error})")) from error
    hopeless = unavailable(error)
    if hopeless is not None:
        raise hopeless from error
    logger.debug("A scorer call failed.", exc_info=error)
    outcome = Outcome("error", usage=usage, error=f"{type(error).__name__}: {error}")
    return Attempt(outcome, reached, refused=nobody_listens(error), passing=is_retryable_lm_error(error))


def _judge(
    asking: Asking,
    example: dspy.Example,
    prediction: Any,
    error: Exception | None,
    record: CallRecord,
    samples: Sequence[dspy.Prediction] | None,
) -> Outcome:
    objective = asking.objective
    if not isinstance(prediction, dspy.Prediction):
        raise ProgramError(
            f"The program returned {type(prediction).__name__}; expected a dspy.Prediction with "
            f"{objective.answer!r}. Return dspy.Prediction({objective.answer}=...) from its forward."
        )
    if isinstance(error, AdapterParseError):
        # What could not be read is the last reply, whichever predictor asked.
        text = next((text for text, _ in reversed(record.replies())), str(error.lm_response or ""))
        unread: dict[str, Reply | None] = {objective.answer: Reply(text, None, frozenset())}
        return objective.outcome(example, prediction, replies=unread)
    return objective.outcome(
        example,
        prediction,
        replies=replies_to(objective.answers, prediction, record),
        samples=samples,
        typed=asking.typed,
    )
