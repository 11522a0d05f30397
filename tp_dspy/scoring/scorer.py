"""The scorer: runs (program, example) pairs, all by one crew of threads or workers, one typed outcome each."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import dspy

from tp_dspy.errors import ConfigurationError, LMUnavailableError, ScoringFailedError
from tp_dspy.scoring.attempts import NOT_SENT, SILENT, Asking, Attempt, Batch, Job
from tp_dspy.scoring.bar import watched
from tp_dspy.scoring.calibrated import CalibratedProgram
from tp_dspy.scoring.calls import address
from tp_dspy.scoring.dispatch import Dispatch
from tp_dspy.scoring.executors import Opened, Threads, crew
from tp_dspy.scoring.gate import Gate, HaltedError
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.programs import copy_sharing_lms
from tp_dspy.scoring.running import call_defaults, samplers, without_fallback
from tp_dspy.scoring.throttle import Limits, Throttles

if TYPE_CHECKING:
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["Job", "Scorer"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

# An outage: at least so many failures, and most of what was tried. DSPy has retried each of them by then.
_OUTAGE_FAILURES = 10
_OUTAGE_SHARE = 0.5
# How often a pair without an answer is tried again, at most; and the seconds after which it is for the last time.
_AGAIN = 5
_PATIENCE = 120.0
# The limit of a cluster's calls at once is its size.
_NO_LIMIT = 1_000_000
# Nobody listens: so many connections failed, and none succeeded.
_NO_CONNECTION = 3


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
        num_threads: Concurrent calls, at least 1; by default DSPy's setting, or with a cluster all that it can.
        max_error_rate: Share of pairs, in [0, 1], that may end without an answer for reasons that are not the
            prompt's. Above it `ScoringFailedError` is raised.
        limits: What the endpoints may be asked for: the same for each, or by model name.
        executor: Where the program runs, see `tp_dspy.scoring.executors.crew`; by default in threads.

    Raises:
        ConfigurationError: If an argument has a value that cannot work.
        MissingDependencyError: If the executor is a Dask cluster, and distributed is not installed.
    """

    def __init__(
        self,
        objective: ObjectiveEvaluator,
        *,
        lm: dspy.BaseLM | None = None,
        num_threads: int | None = None,
        max_error_rate: float = 0.1,
        limits: Limits | Mapping[str, Limits] | None = None,
        executor: Any = None,
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
        self.max_error_rate = max_error_rate
        self.crew = crew(executor, num_threads)
        self.num_threads = self.crew.number if isinstance(self.crew, Threads) else threads
        self.throttles = Throttles(limits, self.num_threads if isinstance(self.crew, Threads) else _NO_LIMIT)

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
        before: tuple[int, int] = (0, 0),
    ) -> Generator[tuple[Key, Outcome], None, None]:
        """Score pairs; yields key and outcome of each as it is known.

        A pair that ends in an error, or to which the reply was empty, is tried once more after the others; where the
        endpoint fails for reasons that may pass, up to five times. What is yielded is its last outcome, with the usage
        of all.

        Args:
            jobs: The pairs.
            late: Told, when the iteration is broken off, what had been paid for by then and was not yielded.
            gate: Asked before each pair whether it may begin.
            before: Pairs that were scored earlier in the same run, and how many of them got no answer: `max_error_rate`
                is a share of all, as one call that fails is half of a step of two.

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
        lost: dict[Key, Outcome] = {}
        failures: dict[Key, Outcome] = {}
        todo, began = jobs, 0.0
        for again in range(1 + _AGAIN):
            # Where nothing else fails, silence is the prompt's fault the second time; and what takes long to fail is
            # not waited for again and again.
            late_by_now = time.monotonic() - began > _PATIENCE
            run.last = again > 0 and (again == _AGAIN or late_by_now or not self.throttles.failures)
            run.hushed |= {key for key, outcome in lost.items() if outcome.error == SILENT}
            run.passing = set()
            earlier, lost, failed, asked = lost, {}, 0, 0
            for done, (key, outcome) in enumerate(self._outcomes(todo, run, late), start=1):
                if _unsent(outcome):
                    continue
                asked += 1
                if key in earlier:
                    outcome = replace(outcome, usage=earlier[key].usage + outcome.usage)
                if outcome.status != "error":
                    yield key, outcome
                elif not run.last and (again == 0 or outcome.error == SILENT or key in run.passing):
                    lost[key] = outcome
                    failed += outcome.error != SILENT
                    # An outage: most of the rest would be paid for in vain, even if some succeeded later.
                    most = failed >= _OUTAGE_FAILURES and failed > max(_OUTAGE_SHARE, self.max_error_rate) * done
                    if again == 0 and most:
                        raise self._failed({k: o for k, o in lost.items() if o.error != SILENT}, done, run)
                else:
                    failures[key] = outcome
                    yield key, outcome
            if asked < len(todo) and run.halted is None:  # All had been sent when the run was to end.
                run.halted = (run.gate.begin() if run.gate is not None else None) or "the run is to end"
            if run.halted is not None:
                raise HaltedError(run.halted)
            if not lost:
                break
            if again == 0:
                began = time.monotonic()
                logger.info("%d of %d pairs got no answer (%s); trying again.", len(lost), len(jobs), _reasons(lost))
            if self.throttles.failures and any(outcome.error == SILENT for outcome in lost.values()):
                # What failed has been backed off from already; what was empty has not.
                (run.ending or threading.Event()).wait(random.uniform(0.25, 0.5) * 2**again)
            todo = [job for job in jobs if job.key in lost]
        pairs, failed = before
        if failures and failed + len(failures) > self.max_error_rate * (pairs + len(jobs)):
            raise self._failed(failures, len(jobs), run, before)

    def _begin(self, jobs: Sequence[Job[Key]], gate: Gate | None) -> _Run:
        settings: dict[str, Any] = {"adapter": without_fallback(dspy.settings.adapter)}
        default = self.lm or dspy.settings.lm
        if default is not None:
            settings["lm"] = self.throttles.govern(default)
        programs = {id(job.program): job.program for job in jobs}
        asking = {
            key: Asking(
                self.objective,
                program,
                settings,
                self.objective.judge.choices.typed(program),
                samplers(program, self.objective),
            )
            for key, program in programs.items()
        }
        own = [p.lm for program in programs.values() for _, p in program.named_sub_modules(dspy.Predict)]
        lms = [lm or default for lm in own]
        named = ", ".join(dict.fromkeys(address(lm) for lm in lms if lm is not None))
        return _Run(asking, named, gate, self.throttles, self.throttles.answered)

    def _failed(
        self, failures: Mapping[Any, Outcome], done: int, run: _Run, before: tuple[int, int] = (0, 0)
    ) -> Exception:
        if run.refused and not run.reached:
            return run.unreachable(_reasons(failures))
        return ScoringFailedError(
            f"{len(failures) + before[1]} of {done + before[0]} scorer calls got no answer, more than max_error_rate="
            f"{self.max_error_rate:g} allows: {_reasons(failures)}. This is not held against any prompt. "
            "Mend the cause and make the same call again: what the journal of the run_dir or DSPy's cache knows is not "
            "paid for again."
        )

    def _outcomes(
        self, jobs: Sequence[Job[Key]], run: _Run, late: Callable[[Key, Outcome], None] | None
    ) -> Iterator[tuple[Key, Outcome]]:
        ahead = run.gate is None or not (run.gate.by_time or run.gate.by_cost)
        with self.crew.open(self.throttles, run.ending, ahead=ahead) as crew:

            def submit(block: Sequence[Job[Key]]) -> Future[Batch]:
                pairs = [(job.example, job.key in run.hushed) for job in block]
                return crew.submit(run.asking[id(block[0].program)], pairs, run.last)

            dispatch = Dispatch(
                _blocks(jobs, run, crew),
                submit,
                room=crew.room,
                weight=crew.weight,
                ended=lambda block, future: run.take(dispatch, future),
            )
            known: deque[tuple[Job[Key], Attempt]] = deque()
            try:
                for block, future in dispatch:
                    batch = future.result()
                    known.extend((block[place], made) for place, made in batch.attempts.items())
                    while known:
                        job, made = known.popleft()
                        if made.passing:
                            run.passing.add(job.key)
                        yield job.key, made.outcome
                    if batch.error is not None:
                        raise batch.error
            finally:
                # After an interrupt or an error nothing new is paid for; what is under way ends by itself.
                dispatch.close()
                crew.wind_up()
                for block, future in dispatch.left():
                    if not future.cancelled() and future.exception() is None:
                        known.extend((block[place], made) for place, made in future.result().attempts.items())
                for job, made in known:
                    if late is not None and made.outcome != NOT_SENT.outcome:
                        late(job.key, made.outcome)


def _blocks(jobs: Sequence[Job[Key]], run: _Run, crew: Opened) -> Iterator[Sequence[Job[Key]]]:
    """Give what is to be done together: pairs of one program that the gate lets begin."""
    block: list[Job[Key]] = []
    size, one = 1, run.gate is not None and run.gate.by_cost
    for number, job in enumerate(jobs):
        if block and (job.program is not block[0].program or len(block) >= size):
            yield block
            block = []
        if not block and not one:
            size = crew.size(len(jobs) - number)
        run.halted = run.gate.begin() if run.gate is not None else None
        if run.halted is not None:
            break
        block.append(job)
    if block:
        yield block


@dataclass
class _Run:
    """What is known in one `Scorer.score`.

    Attributes:
        asking: How each program is asked, by the program's id.
        lms: The LMs by name and address, for messages.
        gate: Lets calls begin.
        throttles: Know of calls that were answered.
        answered_before: How many there were before this run.
        reached: Whether the LM has answered anything.
        refused: Calls that found nobody to talk to.
        last: Whether each pair is being tried for the last time.
        hushed: Pairs whose reply was empty, by key, that are being asked again.
        passing: Pairs that failed in this pass for a reason that may pass.
        halted: Why the gate let no more begin.
    """

    asking: dict[int, Asking]
    lms: str
    gate: Gate | None
    throttles: Throttles
    answered_before: int
    reached: bool = False
    refused: int = 0
    last: bool = False
    hushed: set[Any] = field(default_factory=set)
    passing: set[Any] = field(default_factory=set)
    halted: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def ending(self) -> threading.Event | None:
        """Set when no further call is to begin."""
        return self.gate.ending if self.gate is not None else None

    def take(self, dispatch: Dispatch[Any, Batch], future: Future[Batch]) -> None:
        """Take in what came of a batch, in whichever thread it ended; where asking again cannot mend it, end all."""
        batch = future.result()
        for made in batch.attempts.values():
            if self.gate is not None:
                self.gate.spent(made.outcome.usage)
                if _unsent(made.outcome):
                    self.gate.unsent()
            with self.lock:
                # Of an attempt that is under way, and makes several calls, the throttles know.
                self.reached = self.reached or made.reached or self.throttles.answered > self.answered_before
                self.refused += made.refused
                if made.refused and self.refused >= _NO_CONNECTION and not self.reached and batch.error is None:
                    batch.error = self.unreachable(made.outcome.error)
        if batch.error is not None:
            # It is raised to whoever iterates when its turn comes, after what this batch has paid for.
            dispatch.close()

    def unreachable(self, reason: object) -> LMUnavailableError:
        """Say that nobody listens."""
        return LMUnavailableError(
            f"The LM ({self.lms}) cannot be reached: {self.refused} calls failed to connect and none succeeded "
            f"({reason}). Check that the server runs, api_base and the network; then call again."
        )


def _unsent(outcome: Outcome) -> bool:
    """Say whether a pair was not asked, or not to its end, as the run is to end: its thread or its endpoint said so."""
    return outcome.error == NOT_SENT.outcome.error


def _reasons(failures: Mapping[Any, Outcome]) -> str:
    counts = Counter((outcome.error or "")[:160] for outcome in failures.values())
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
