"""Keeping to what an endpoint can take: limits of the user's, fewer calls at once under 429, retries with jitter.

DSPy retries a call by itself, in the thread that made it, and the other threads go on as before: a server that said 429
is sent as much as ever, and what backs off comes back all at once. Here the retries of all threads go through one
throttle for each endpoint. They follow DSPy's rules (which errors, how often) and the server's (Retry-After).
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import logging
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy
import tenacity
from dspy.utils.exceptions import LMRateLimitError, is_retryable_lm_error

from tp_dspy.errors import ConfigurationError
from tp_dspy.scoring.calls import address, calls_so_far
from tp_dspy.scoring.gate import HaltedError

__all__ = ["Counts", "Limits", "Throttle", "Throttles", "endpoint", "original", "tallied", "troubled", "until"]

logger = logging.getLogger(__name__)

_ENDING: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar("ending", default=None)
# A setting of DSPy's, as its own threads (dspy.Parallel) take those along and no other context.
_TALLY = "tp_dspy_tally"

# Seconds before the first retry, twice as many before each further one, and the most.
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
# Retries of a call that got a 429, beyond those of the LM, unless that has none at all.
_MORE_FOR_429 = 6
# A server that asks for more than this is not waited for.
_LONGEST_RETRY_AFTER = 600.0
# Seconds between two looks at whether the run is to end.
_TICK = 0.25


@dataclass(frozen=True)
class Limits:
    """What an endpoint may be asked for.

    Attributes:
        max_concurrency: Calls under way at once, at least 1; None for as many as there are threads.
        requests_per_minute: Requests in any minute, at least 1, retries included; None for no limit.
        tokens_per_minute: Tokens in a minute, sent and generated, at least 1; None for no limit. What a call takes is
            known when it has ended: the limit may be passed by what is under way.

    Raises:
        ConfigurationError: If a limit is below 1.
    """

    max_concurrency: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigurationError(f"{name} is {value!r}; expected a whole number of at least 1, or None.")


@dataclass
class Counts:
    """What was asked of an endpoint.

    Attributes:
        requests: Requests sent, those that failed among them.
        answered: Those that were answered.
        failures: Those that failed for a reason that may pass.
        tokens: Tokens sent and generated.
    """

    requests: int = 0
    answered: int = 0
    failures: int = 0
    tokens: int = 0


class _Tally(dict[str, Counts]):
    """Counts by endpoint; safe in threads."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Tally:
        # dspy.Parallel hands its threads copies.
        return self

    def add(self, name: str, counts: Counts) -> None:
        with self.lock:
            known = self.get(name, Counts())
            self[name] = Counts(*(a + b for a, b in zip(vars(known).values(), vars(counts).values(), strict=True)))


@contextlib.contextmanager
def tallied() -> Iterator[Mapping[str, Counts]]:
    """Count what governed LMs are asked for in the block, by the names of their endpoints' throttles."""
    tally = _Tally()
    with dspy.context(**{_TALLY: tally}):
        yield tally


@contextlib.contextmanager
def until(ending: threading.Event | None) -> Iterator[None]:
    """Make calls of the block wait for a better moment only until this is set; None to wait as long as it takes."""
    token = _ENDING.set(ending)
    try:
        yield
    finally:
        # Else the next compile or evaluation of this thread would be at its end before it began.
        _ENDING.reset(token)


class _Bucket:
    """Holds what may be taken; fills up steadily, so that no minute sees more than the limit."""

    def __init__(self, per_minute: float) -> None:
        # What may come at once, a second's worth, is taken off what flows in over the minute.
        self.most = max(1.0, per_minute / 60.0)
        self.rate = (per_minute - self.most + 1.0) / 60.0
        self.level, self.at = self.most, time.monotonic()

    def wait(self, now: float) -> float:
        """Seconds until there is something to take."""
        self.level = min(self.most, self.level + self.rate * (now - self.at))
        self.at = now
        need = min(1.0, self.most)
        return 0.0 if self.level >= need - 1e-9 else (need - self.level) / self.rate


class Throttle:
    """One endpoint's: how many calls may be under way, and how fast they may begin. Safe in threads.

    The number under way is halved when the server says 429, once for all that were under way, and grows by one for as
    many successes as there are (additive increase, multiplicative decrease, as in TCP).

    Args:
        limits: What the user allows.
        most: Calls under way at once, at most.
        name: What tells its endpoint apart.
    """

    def __init__(self, limits: Limits, most: int, name: str = "") -> None:
        self.name = name
        self.limited = limits != Limits()
        """Whether the user set a limit."""
        self.most = min(most, limits.max_concurrency or most)
        self.failures = 0
        """Calls that failed for a reason that may pass, as a count."""
        self.answered = 0
        """Calls that the endpoint answered, and not only DSPy's cache, as a count."""
        self._allowed = float(self.most)
        self._requests = _Bucket(limits.requests_per_minute) if limits.requests_per_minute else None
        self._tokens = _Bucket(limits.tokens_per_minute) if limits.tokens_per_minute else None
        self._under_way = self._peak = 0
        self._cached = False
        self._shrunk = self._paused = 0.0
        self._free = threading.Condition()

    @property
    def allowed(self) -> int:
        """How many calls may be under way now."""
        return max(1, int(self._allowed + 1e-9))

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """Wait until a call may begin, and hold its place while it is under way."""
        began = self.take()
        before = calls_so_far()
        try:
            yield
        except Exception as error:
            self._give_back(None)
            passes = is_retryable_lm_error(error)
            self._tell(Counts(requests=1, failures=int(passes)))
            if passes:
                self._failed(error, began)
            raise
        except BaseException:
            self._give_back(None)
            raise
        else:
            after = calls_so_far()
            paid, tokens = (after[0] - before[0], after[1] - before[1]) if before and after else (1, 0)
            self._give_back(tokens, request=paid > 0)
            self._tell(Counts(requests=int(paid > 0), answered=int(paid > 0), tokens=tokens))

    def _tell(self, counts: Counts) -> None:
        """Add to what is being counted."""
        tally = dspy.settings.get(_TALLY)
        if tally is not None:
            tally.add(self.name, counts)

    def settle(self, counts: Counts) -> None:
        """Take in what was asked for elsewhere."""
        with self._free:
            self.failures += counts.failures
            self.answered += counts.answered
            self._cached = counts.requests == 0
            if self._requests:
                self._requests.level -= counts.requests
            if self._tokens:
                self._tokens.level -= counts.tokens
            self._free.notify_all()

    def give_back(self, requests: float) -> None:
        """Give a place back that was taken for a call elsewhere, with the requests that were not made, or are settled.

        Args:
            requests: How many; 0 where nobody knows what became of the call.
        """
        with self._free:
            self._under_way -= 1
            if self._requests:
                self._requests.level += requests
            self._free.notify_all()

    def take(self, requests: float = 1.0) -> float:
        """Wait until a call may begin, and take a place for it.

        Args:
            requests: How many it is likely to make.

        Returns:
            When it began, in seconds of the monotonic clock.

        Raises:
            HaltedError: If the run is to end, see `until`.
        """
        ending = _ENDING.get()
        with self._free:
            while True:
                if ending is not None and ending.is_set():
                    raise HaltedError("not sent: the run is to end")
                now = time.monotonic()
                # After a reply from DSPy's cache the next one is expected to be, too; if it is not, it goes into debt.
                buckets = [] if self._cached else [b for b in (self._requests, self._tokens) if b]
                wait = max([self._paused - now, *(bucket.wait(now) for bucket in buckets)])
                if self._under_way < self.allowed and wait <= 0:
                    break
                # Whoever is told that a place is free looks again; a pause or an empty bucket tells nobody.
                self._free.wait(min(wait, _TICK) if wait > 0 else _TICK)
            self._under_way += 1
            self._peak = max(self._peak, self._under_way)
            if self._requests:
                self._requests.level -= requests
            return time.monotonic()

    def _give_back(self, tokens: int | None, *, request: bool = True) -> None:
        with self._free:
            self._under_way -= 1
            self._cached = not request
            self.answered += request and tokens is not None
            if self._requests and not request:
                self._requests.level += 1.0  # It came out of DSPy's cache.
            if tokens is not None:
                if self._tokens:
                    self._tokens.level -= tokens
                if request and self._allowed < self.most:
                    self._allowed = min(float(self.most), self._allowed + 1.0 / self._allowed)
            self._free.notify()
            if self._under_way < self.allowed:
                self._free.notify()

    def _failed(self, error: Exception, began: float) -> None:
        with self._free:
            self.failures += 1
            if not isinstance(error, LMRateLimitError):
                return
            now = time.monotonic()
            self._paused = max(self._paused, now + min(_retry_after(error) or 0.0, _LONGEST_RETRY_AFTER))
            if began >= self._shrunk:  # Those that were under way by then have said it already.
                # Half of what was too much, not of what nobody has used.
                self._allowed, self._shrunk = max(1.0, min(self._allowed, self._peak) / 2.0), now
                self._peak = self._under_way
                logger.info("The endpoint says to slow down (429); %d calls at once now.", self.allowed)


class Throttles:
    """The throttles of all endpoints, by model and address.

    Args:
        limits: For all of them, or by model name, as in ``dspy.LM(model)``.
        most: Calls under way at once at each, at most.

    Raises:
        ConfigurationError: If `limits` is something else.
    """

    def __init__(self, limits: Limits | Mapping[str, Limits] | None, most: int) -> None:
        given = limits if isinstance(limits, Mapping) else {}
        if not isinstance(limits, Limits | Mapping | None) or any(not isinstance(v, Limits) for v in given.values()):
            raise ConfigurationError(
                f"limits is {limits!r}; expected tp_dspy.Limits(...), or such by model name, e.g. "
                "{'openai/gpt-4o': Limits(max_concurrency=8)}."
            )
        self.by_model = dict(given)
        self.general = limits if isinstance(limits, Limits) else Limits()
        self.most = most
        self._throttles: dict[str, Throttle] = {}
        self._governed: dict[int, tuple[dspy.BaseLM, dspy.BaseLM]] = {}
        self._lock = threading.Lock()

    @property
    def limited(self) -> bool:
        """Whether the user set any limit."""
        return any(limits != Limits() for limits in (self.general, *self.by_model.values()))

    @property
    def failures(self) -> int:
        """Calls that failed for a reason that may pass, as a count, whether or not they succeeded later."""
        return sum(throttle.failures for throttle in list(self._throttles.values()))

    @property
    def answered(self) -> int:
        """Calls that were answered, and not only by DSPy's cache, as a count."""
        return sum(throttle.answered for throttle in list(self._throttles.values()))

    def of(self, lm: dspy.BaseLM) -> Throttle:
        """Give the throttle of an LM's endpoint."""
        governed = self.govern(lm)
        assert isinstance(governed, _Governed)
        return governed.tp_dspy_throttle

    def settle(self, tally: Mapping[str, Counts]) -> None:
        """Take in what was asked for elsewhere, of each endpoint, by the names of throttles."""
        for name, counts in tally.items():
            if (throttle := self._throttles.get(name)) is not None:
                throttle.settle(counts)

    def check(self, lms: Iterable[dspy.BaseLM]) -> None:
        """Make sure that every limit is of one of these LMs.

        Raises:
            ConfigurationError: If one is of a model that is not called.
        """
        models = sorted({str(lm.model) for lm in lms})
        if strange := sorted(set(self.by_model) - set(models)):
            raise ConfigurationError(f"limits names {', '.join(strange)}; the models that are called: {models}.")

    def govern(self, lm: dspy.BaseLM, name: str | None = None) -> dspy.BaseLM:
        """Copy an LM so that its calls go through the throttle of its endpoint; the same LM gives the same copy.

        Args:
            lm: The LM.
            name: What tells the endpoint apart, where that is not to be its address.
        """
        if isinstance(lm, _Governed):
            return lm
        with self._lock:
            # Kept with the original, whose id would else be given to another.
            if id(lm) not in self._governed:
                limits = self.by_model.get(str(lm.model), self.general)
                name = name or endpoint(lm)
                throttle = self._throttles.setdefault(name, Throttle(limits, self.most, name))
                self._governed[id(lm)] = (lm, _governed(lm, throttle))
            return self._governed[id(lm)][1]


def endpoint(lm: dspy.BaseLM) -> str:
    """Tell an endpoint apart, without its address, which may hold a key."""
    return hashlib.sha256(address(lm).encode()).hexdigest()[:16]


def original(lm: Any) -> Any:
    """Give the LM that a governed one is a copy of; any other as it is."""
    return lm.tp_dspy_original if isinstance(lm, _Governed) else lm


def troubled(lm: dspy.BaseLM) -> bool:
    """Say whether the endpoint of a governed LM has failed before, for a reason that may pass."""
    return isinstance(lm, _Governed) and lm.tp_dspy_throttle.failures > 0


class _Governed:
    """Mixed into the class of an LM: one attempt of DSPy's at a time, the retries by way of the throttle."""

    tp_dspy_throttle: Throttle
    tp_dspy_original: dspy.BaseLM
    tp_dspy_retrying: tenacity.Retrying

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Most calls succeed at once: what keeps account of retries takes a twentieth of the CPU of a scored pair.
        try:
            return self._once(*args, **kwargs)
        except Exception as error:
            if not _passes(error):
                raise
            failed = [error]

        def again() -> Any:
            if failed:
                raise failed.pop()
            return self._once(*args, **kwargs)

        return self.tp_dspy_retrying(again)

    def _once(self, *args: Any, **kwargs: Any) -> Any:
        with self.tp_dspy_throttle.slot():
            return super().__call__(*args, **kwargs)  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        # Its waiting would hold up the event loop: DSPy's own retries do.
        return await self.tp_dspy_original.acall(*args, **kwargs)


def _governed(lm: dspy.BaseLM, throttle: Throttle) -> dspy.BaseLM:
    copied = lm.copy(num_retries=0)
    copied.__class__ = type(type(lm).__name__, (_Governed, type(lm)), {"__module__": type(lm).__module__})
    copied.tp_dspy_throttle, copied.tp_dspy_original = throttle, lm
    copied.tp_dspy_retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_passes),
        stop=functools.partial(_stop, getattr(lm, "num_retries", 0) or 0),
        wait=_wait,
        sleep=_sleep,
        reraise=True,
    )
    # Who asks the user's LM for its history finds what was called here.
    copied.history = lm.history
    return copied


def _passes(error: BaseException) -> bool:
    ending = _ENDING.get()
    return isinstance(error, Exception) and is_retryable_lm_error(error) and not (ending and ending.is_set())


def _stop(retries: int, state: tenacity.RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    # A call that is turned away has not failed, and what is asked for too much is asked for by all threads together.
    more = _MORE_FOR_429 if retries and isinstance(error, LMRateLimitError) else 0
    return state.attempt_number >= 1 + retries + more


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = _retry_after(error)
    if asked is not None:
        # A little more, each another little: all that were turned away together are not to come back together.
        return min(asked, _LONGEST_RETRY_AFTER) * (1.0 + 0.1 * random.random())
    return min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** (state.attempt_number - 1)) * random.uniform(0.5, 1.0)


def _retry_after(error: BaseException | None) -> float | None:
    seconds = getattr(error, "retry_after", None)
    return float(seconds) if isinstance(seconds, int | float) and seconds >= 0 else None


def _sleep(seconds: float) -> None:
    ending = _ENDING.get()
    if ending is None:
        time.sleep(seconds)
    else:
        ending.wait(seconds)
