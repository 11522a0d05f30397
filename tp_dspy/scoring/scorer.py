"""The scorer: runs (program, example) pairs in one pool of threads, one typed outcome each."""

from __future__ import annotations

import contextvars
import copy
import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError

from tp_dspy.errors import ConfigurationError, LMUnavailableError, ScoringFailedError, TransferPromptingError
from tp_dspy.scoring.calls import CallRecord, record_calls, unavailable
from tp_dspy.scoring.outcomes import Outcome

if TYPE_CHECKING:
    from tp_dspy.scoring.objective import ObjectiveEvaluator

__all__ = ["Job", "Scorer"]

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

# What decides an answer is among the first few alternatives; several providers allow no more than this.
_TOP_LOGPROBS = 10
# Below this many results an error rate says little.
_MIN_RESULTS = 10


@dataclass(frozen=True)
class Job(Generic[Key]):
    """One pair to be scored.

    Attributes:
        key: What the caller knows the pair by.
        program: The program, prepared by `Scorer.prepare`.
        example: An example with inputs set.
    """

    key: Key
    program: dspy.Module
    example: dspy.Example


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

    def prepare(self, program: dspy.Module) -> dspy.Module:
        """Copy a program for scoring; see the class for what differs from the original."""
        prepared = program.deepcopy()
        originals = dict(program.named_predictors())
        for name, predictor in prepared.named_predictors():
            predictor.lm = originals[name].lm
            predictor.config = {**self._call_defaults(predictor), **predictor.config}
        return prepared

    def _call_defaults(self, predictor: Any) -> dict[str, Any]:
        lm = predictor.lm or self.lm or dspy.settings.lm
        if lm is None:
            raise LMUnavailableError("There is no LM to run the program: call dspy.configure(lm=...) or pass one.")
        defaults: dict[str, Any] = {}
        # Reasoning models take no temperature.
        if getattr(lm, "kwargs", {}).get("temperature") is None and not getattr(lm, "supports_reasoning", False):
            defaults["temperature"] = 0.0
        if self.objective.confidence == "logits" and self.objective.answer in predictor.signature.output_fields:
            defaults |= {"logprobs": True, "top_logprobs": _TOP_LOGPROBS}
        return defaults

    def outcomes(self, program: dspy.Module, examples: Sequence[dspy.Example]) -> list[Outcome]:
        """Score one program on examples; returns one outcome per example, in their order."""
        self.objective.check(program, examples)
        prepared = self.prepare(program)
        results = dict(self.score(Job(index, prepared, example) for index, example in enumerate(examples)))
        return [results[index] for index in range(len(examples))]

    def score(self, jobs: Iterable[Job[Key]]) -> Iterator[tuple[Key, Outcome]]:
        """Score pairs; yields key and outcome of each as it is known.

        A pair that ends in an error is tried once more after the others.

        Raises:
            LMUnavailableError: At the first call, when the key, the model's name or the settings are wrong.
            LogprobsUnavailableError: At the first reply without the log-probabilities that the objective needs.
            ScoringFailedError: If more pairs than allowed end without an answer.
        """
        jobs = list(jobs)
        failures: dict[Key, Outcome] = {}
        done = 0
        for key, outcome in self._run(jobs):
            done += 1
            if outcome.status != "error":
                yield key, outcome
                continue
            failures[key] = outcome
            if done >= _MIN_RESULTS:
                self._check_error_rate(failures, done)
        again = [job for job in jobs if job.key in failures]
        if again:
            logger.warning("%d of %d calls failed (%s); trying them once more.", len(again), done, _reasons(failures))
        for key, outcome in self._run(again):
            usage = failures[key].usage + outcome.usage
            if outcome.status != "error":
                del failures[key]
            yield key, replace(outcome, usage=usage)
        self._check_error_rate(failures, done)

    def _check_error_rate(self, failures: Mapping[Any, Outcome], done: int) -> None:
        if failures and len(failures) > self.max_error_rate * done:
            raise ScoringFailedError(
                f"{len(failures)} of {done} scorer calls got no answer, more than max_error_rate="
                f"{self.max_error_rate:g} allows: {_reasons(failures)}. This is not held against any prompt. "
                "Mend the cause and call again; calls that succeeded are in DSPy's cache."
            )

    def _run(self, jobs: Sequence[Job[Key]]) -> Iterator[tuple[Key, Outcome]]:
        adapter = _without_fallback(dspy.settings.adapter)
        settings = {"adapter": adapter, "trace": [], **({"lm": self.lm} if self.lm is not None else {})}
        pool = ThreadPoolExecutor(max_workers=self.num_threads, thread_name_prefix="tp_dspy-scorer")
        try:
            pending: dict[Future[Outcome], Key] = {
                # Plain threads see only what dspy.configure set; a copied context carries dspy.context along.
                pool.submit(contextvars.copy_context().run, self._one, job, settings): job.key
                for job in jobs
            }
            for future in as_completed(pending):
                yield pending[future], future.result()
        finally:
            # After an interrupt or an error nothing new is paid for; what is under way ends by itself.
            pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, job: Job[Any], settings: dict[str, Any]) -> Outcome:
        with record_calls(**settings) as record:
            try:
                prediction = job.program(**job.example.inputs())
                outcome = self._judge(job.example, prediction, record)
            except AdapterParseError as error:
                outcome = replace(
                    self.objective.outcome(job.example, dspy.Prediction()),
                    reply=_asked_reply(record) or str(error.lm_response or ""),
                )
            except TransferPromptingError:
                raise
            except Exception as error:
                hopeless = unavailable(error)
                if hopeless is not None:
                    raise hopeless from error
                outcome = Outcome("error", error=f"{type(error).__name__}: {error}")
        return replace(outcome, usage=record.usage)

    def _judge(self, example: dspy.Example, prediction: dspy.Prediction, record: CallRecord) -> Outcome:
        # The last call is the one that answered, unless the program says otherwise through its own logprobs.
        replies = record.replies()
        reply, logprobs = replies[-1] if replies else (None, None)
        return self.objective.outcome(example, prediction, reply=reply, logprobs=logprobs)


def _asked_reply(record: CallRecord) -> str | None:
    replies = record.replies()
    return replies[-1][0] if replies else None


def _without_fallback(adapter: dspy.Adapter | None) -> dspy.Adapter:
    """Take the silent second call out of a ChatAdapter, on a copy; any other adapter is used as it is."""
    if adapter is None:
        return dspy.ChatAdapter(use_json_adapter_fallback=False)
    if getattr(adapter, "use_json_adapter_fallback", False):
        adapter = copy.copy(adapter)
        adapter.use_json_adapter_fallback = False
    return adapter


def _reasons(failures: Mapping[Any, Outcome]) -> str:
    counts = Counter((outcome.error or "")[:160] for outcome in failures.values())
    return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common(3))
