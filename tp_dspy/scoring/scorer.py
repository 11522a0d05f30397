"""The scorer: runs (program, example) pairs in one pool of threads, one typed outcome each."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dspy
from dspy.utils.exceptions import (
    AdapterParseError,
    LMTransportError,
    is_retryable_lm_error,
)

from tp_dspy.errors import (
    ConfigurationError,
    LMUnavailableError,
    LogprobsUnavailableError,
    ProgramError,
    ScoringFailedError,
    TransferPromptingError,
)
from tp_dspy.scoring.bar import watched
from tp_dspy.scoring.calibrated import CalibratedProgram
from tp_dspy.scoring.calls import CallRecord, Reply, address, unavailable
from tp_dspy.scoring.gate import Gate, HaltedError
from tp_dspy.scoring.judge import NO_LOGPROBS
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.programs import copy_sharing_lms
from tp_dspy.scoring.running import (
    call_defaults,
    refuses_logprobs,
    replies_to,
    run_program,
    samplers,
    says_nothing,
    uncached,
    without_fallback,
)
from tp_dspy.scoring.throttle import ENDING, Limits, Throttles

if TYPE_CHECKING:
    from tp_dspy.scoring.choices import TypedChoices
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["Job", "Scorer"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

# An outage: at least so many failures, and most of what was tried. DSPy has retried each of them by then.
_OUTAGE_FAILURES = 10
_OUTAGE_SHARE = 0.5
# The reply was empty. Asked again it is the prompt's fault; the first time it may be the endpoint's.
_SILENT = "The reply was empty."
_FILTERED = "The provider's content filter kept the reply back."
# How often a pair without an answer is tried again, at most; and the seconds after which it is for the last time.
_AGAIN = 3
_PATIENCE = 120.0
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
class _Run:
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


class Scorer:
    """Runs programs on examples and judges what they answer.

    All pairs share one pool, so a slow answer to one candidate never idles the threads. The LMs and the adapter
    configured in DSPy are used as they are, with three exceptions that scoring cannot do without, all on private
    copies: a ChatAdapter does not silently ask again through JSONAdapter (that would hide the failure and pay twice),
    the temperature is 0 where neither predictor nor LM sets one, and log-probabilities are asked for when the
    objective needs them.

    Args:
        objective: Judges each prediction.
        lm: The scorer LM, for predictors that have none of their own; by default the configured one.
        num_threads: Concurrent calls, at least 1; by default DSPy's setting.
        max_error_rate: Share of pairs, in [0, 1], that may end without an answer for reasons that are not the
            prompt's. Above it `ScoringFailedError` is raised.
        limits: What the endpoints may be asked for: the same for each, or by model name.

    Raises:
        ConfigurationError: If an argument has a value that cannot work.
    """

    def __init__(
        self,
        objective: ObjectiveEvaluator,
        *,
        lm: dspy.BaseLM | None = None,
        num_threads: int | None = None,
        max_error_rate: float = 0.1,
        limits: Limits | Mapping[str, Limits] | None = None,
    ) -> None:
        threads = num_threads if num_threads is not None else dspy.settings.num_threads
        if not isinstance(threads, int) or threads < 1:
            raise ConfigurationError(f"num_threads is {threads!r}; expected a whole number of at least 1.")
        if not 0.0 <= max_error_rate <= 1.0:
            raise ConfigurationError(f"max_error_rate is {max_error_rate!r}; expected a share in [0, 1].")
        if lm is not None and not isinstance(lm, dspy.BaseLM):
            raise ConfigurationError(f"The scorer LM is {lm!r}; expected a dspy.LM, e.g. dspy.LM({str(lm)!r}).")
        self.objective = objective
        self.lm = lm
        self.num_threads = threads
        self.max_error_rate = max_error_rate
        self.throttles = Throttles(limits, threads)

    def prepare(self, program: dspy.Module) -> dspy.Module:
        """Copy a program for scoring; see the class for what differs from the original.

        Of a calibrated program the one inside is scored: no search is to gain by what was fitted afterwards.
        """
        prepared = copy_sharing_lms(program.program if isinstance(program, CalibratedProgram) else program)
        # Frozen parts (compiled by others) are not optimised, but they are called.
        for _, predictor in prepared.named_sub_modules(dspy.Predict):
            predictor.config = {**call_defaults(predictor, self.objective, self.lm), **predictor.config}
            if predictor.lm is not None:
                predictor.lm = self.throttles.govern(predictor.lm)
        return prepared

    def outcomes(
        self, program: dspy.Module, examples: Sequence[dspy.Example], *, verbose: bool = False
    ) -> list[Outcome]:
        """Score one program on examples.

        Args:
            program: The program.
            examples: Examples with inputs set.
            verbose: Whether to show a progress bar, on a terminal or in a notebook.

        Returns:
            One outcome per example, in their order.
        """
        self.objective.check(program, examples)
        prepared = self.prepare(program)
        pairs = self.score(Job(index, prepared, example) for index, example in enumerate(examples))
        results = dict(watched(pairs, len(examples), "Scoring") if verbose else pairs)
        return [results[index] for index in range(len(examples))]

    def score(
        self,
        jobs: Iterable[Job[Key]],
        *,
        late: Callable[[Key, Outcome], None] | None = None,
        gate: Gate | None = None,
    ) -> Generator[tuple[Key, Outcome], None, None]:
        """Score pairs; yields key and outcome of each as it is known.

        A pair that ends in an error, or to which the reply was empty, is tried once more after the others; where the
        endpoint fails for reasons that may pass, up to three times. What is yielded is its last outcome, with the usage
        of all.

        Args:
            jobs: The pairs.
            late: Told, when the iteration is broken off, what had been paid for by then and was not yielded.
            gate: Asked before each pair whether it may begin.

        Raises:
            ConfigurationError: If two jobs have one key.
            HaltedError: If the gate let one not begin, after those that had begun were yielded.
            LMUnavailableError: At the first call, when the key, the model's name or the settings are wrong; after a
                few, when nobody listens.
            LogprobsUnavailableError: At the first reply without the log-probabilities that the objective needs.
            ProgramError: If the program returns something that is no prediction.
            ScoringFailedError: If more pairs than allowed end without an answer, or at once in an outage.
        """
        jobs = list(jobs)
        if len({job.key for job in jobs}) < len(jobs):
            raise ConfigurationError("Two jobs have the same key; expected one key per pair.")
        run = self._begin(jobs, gate)
        failures: dict[Key, Outcome] = {}
        for done, (key, outcome) in enumerate(self._outcomes(jobs, run, late), start=1):
            if outcome.status != "error":
                yield key, outcome
                continue
            if outcome.error == _SILENT:
                run.silent[key] = outcome
                continue
            failures[key] = outcome
            # Too many even if some of them would succeed later: most of the rest would be paid for in vain.
            if len(failures) >= _OUTAGE_FAILURES and len(failures) > _OUTAGE_SHARE * done:
                self._check_error_rate(failures, done, run)
        if run.halted is not None:
            raise HaltedError(run.halted)
        if failures:
            logger.warning(
                "%d of %d calls failed (%s); trying them once more.", len(failures), len(jobs), _reasons(failures)
            )
        earlier = {**failures, **run.silent}
        began = time.monotonic()
        for again in range(1, _AGAIN + 1):
            if not earlier:
                break
            # Where nothing else fails, silence is the prompt's fault the second time; and what takes long to fail is
            # not waited for again and again.
            late_by_now = time.monotonic() - began > _PATIENCE
            run.last = again == _AGAIN or late_by_now or not self.throttles.failures
            run.hushed |= run.silent.keys()
            run.silent, run.passing = {}, set()
            for key, outcome in self._outcomes([job for job in jobs if job.key in earlier], run, late):
                outcome = replace(outcome, usage=earlier[key].usage + outcome.usage)
                failures.pop(key, None)
                if outcome.status == "error" and outcome.error == _SILENT:
                    run.silent[key] = outcome
                    continue
                if outcome.status == "error":
                    failures[key] = outcome
                    if key in run.passing and not run.last:
                        continue
                yield key, outcome
            earlier = {**{key: failures[key] for key in failures if key in run.passing}, **run.silent}
            if run.last:
                break
        if run.halted is not None:
            raise HaltedError(run.halted)
        self._check_error_rate(failures, len(jobs), run)

    def _begin(self, jobs: Sequence[Job[Key]], gate: Gate | None) -> _Run:
        settings: dict[str, Any] = {"adapter": without_fallback(dspy.settings.adapter)}
        default = self.lm or dspy.settings.lm
        if default is not None:
            settings["lm"] = self.throttles.govern(default)
        programs = {id(job.program): job.program for job in jobs}
        typed: dict[int, TypedChoices] = {
            key: self.objective.judge.choices.typed(program) for key, program in programs.items()
        }
        asking = {key: samplers(program, self.objective) for key, program in programs.items()}
        own = [p.lm for program in programs.values() for _, p in program.named_sub_modules(dspy.Predict)]
        lms = [lm or default for lm in own]
        named = ", ".join(dict.fromkeys(address(lm) for lm in lms if lm is not None))
        return _Run(settings, typed, asking, named, gate)

    def _check_error_rate(self, failures: Mapping[Any, Outcome], done: int, run: _Run) -> None:
        if not failures or len(failures) <= self.max_error_rate * done:
            return
        if run.refused and not run.reached:
            raise self._unreachable(run, _reasons(failures))
        raise ScoringFailedError(
            f"{len(failures)} of {done} scorer calls got no answer, more than max_error_rate="
            f"{self.max_error_rate:g} allows: {_reasons(failures)}. This is not held against any prompt. "
            "Mend the cause and make the same call again: what the journal of the run_dir or DSPy's cache knows is not "
            "paid for again."
        )

    def _unreachable(self, run: _Run, reason: object) -> LMUnavailableError:
        return LMUnavailableError(
            f"The LM ({run.lms}) cannot be reached: {run.refused} calls failed to connect and none succeeded "
            f"({reason}). Check that the server runs, api_base and the network; then call again."
        )

    def _outcomes(
        self, jobs: Sequence[Job[Key]], run: _Run, late: Callable[[Key, Outcome], None] | None
    ) -> Iterator[tuple[Key, Outcome]]:
        pool = ThreadPoolExecutor(max_workers=self.num_threads, thread_name_prefix="tp_dspy-scorer")
        pending: dict[Future[Outcome | str], Key] = {}
        try:
            pending |= {
                # Plain threads see only what dspy.configure set; a copied context carries dspy.context along.
                pool.submit(contextvars.copy_context().run, self._one, job, run): job.key
                for job in jobs
            }
            for future in as_completed(pending):
                # Taken out, so that a million outcomes are not kept until the end.
                key, outcome = pending.pop(future), future.result()
                if isinstance(outcome, Outcome):
                    yield key, outcome
                else:
                    run.halted = run.halted or outcome
        finally:
            # After an interrupt or an error nothing new is paid for; what is under way ends by itself.
            pool.shutdown(wait=False, cancel_futures=True)
            for future, key in pending.items():
                if late is not None and future.done() and not future.cancelled() and future.exception() is None:
                    outcome = future.result()
                    if isinstance(outcome, Outcome):
                        late(key, outcome)

    def _one(self, job: Job[Any], run: _Run) -> Outcome | str:
        """Run a pair, if it may begin; else say why not."""
        if run.stop is not None:
            raise run.stop
        if run.gate is None:
            return self._attempt(job, run)
        refused = run.gate.begin()
        if refused is not None:
            return refused
        ENDING.set(run.gate.ending)
        outcome = self._attempt(job, run)
        run.gate.spent(outcome.usage)
        return outcome

    def _attempt(self, job: Job[Any], run: _Run) -> Outcome:
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
            return Outcome("error", usage=usage, error=_SILENT)
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
        self, job: Job[Any], prediction: Any, run: _Run
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

    def _world_error(self, error: Exception | None, job: Job[Any], run: _Run) -> str:
        """Name an error that is not the prompt's fault; raise one that asking again cannot mend."""
        if isinstance(error, TransferPromptingError):
            raise error
        if self.objective.confidence == "logits" and refuses_logprobs(error):
            raise LogprobsUnavailableError(NO_LOGPROBS.format(problem=f"the LM refuses them ({error})")) from error
        hopeless = unavailable(error)
        if hopeless is not None:
            raise hopeless from error
        logger.debug("A scorer call failed.", exc_info=error)
        if isinstance(error, LMTransportError):
            with run.lock:
                run.refused += 1
            if run.refused >= _NO_CONNECTION and not run.reached:
                raise self._unreachable(run, error) from error
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
        run: _Run,
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


def _reasons(failures: Mapping[Any, Outcome]) -> str:
    counts = Counter((outcome.error or "")[:160] for outcome in failures.values())
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
