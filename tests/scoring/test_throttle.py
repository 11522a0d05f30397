"""Keeping to what an endpoint can take: limits, 429 and Retry-After, retries, and not waiting when it is to end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, RateLimitError, ServerError
from dspy.utils.exceptions import LMAuthError, LMRateLimitError, LMServerError

from programs.benchmarks.scripted import PromptView, scripted_lm
from tp_dspy import InstructionAdapter, Limits, ObjectiveEvaluator
from tp_dspy.errors import ConfigurationError
from tp_dspy.scoring import throttle as module
from tp_dspy.scoring.calls import record_calls
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.scorer import Scorer
from tp_dspy.scoring.throttle import Throttle, Throttles, troubled, until


def patient_lm(rule: Any, **settings: Any) -> dspy.LM:
    """A scripted LM with the retries and the cache that an LM has by default."""
    return scripted_lm(rule, **{"num_retries": 3, "cache": True, **settings})


class Narrow:
    """An endpoint that takes so many calls at once, and says 429 to any other."""

    def __init__(self, width: int, seconds: float = 0.02, retry_after: float | None = 0.05) -> None:
        self.width, self.seconds, self.retry_after = width, seconds, retry_after
        self.under_way = self.most = self.refused = 0
        self.lock = threading.Lock()

    def __call__(self, prompt: PromptView) -> str | Exception:
        with self.lock:
            if self.under_way >= self.width:
                self.refused += 1
                return RateLimitError("slow down", retry_after=self.retry_after)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(self.seconds)
        with self.lock:
            self.under_way -= 1
        return "B"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Make waits short, and list how long they would have been."""
    waits: list[float] = []
    real = module._wait

    def wait(state: Any) -> float:
        waits.append(real(state))
        return 0.0

    monkeypatch.setattr(module, "_wait", wait)
    yield waits


def all_at_once(lm: dspy.BaseLM, calls: int, threads: int) -> list[Any]:
    def one(number: int) -> Any:
        with record_calls():
            try:
                return lm(f"Call {number}.", cache=False)[0]
            except Exception as error:
                return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(calls)))


# Retries.


def test_what_may_pass_is_tried_as_often_as_the_lm_says_and_no_more(quick: list[float]) -> None:
    for retries, fails, answered in ((3, 3, True), (3, 4, False), (0, 1, False)):
        left = iter(range(fails))
        lm = patient_lm(lambda prompt, left=left: ServerError("down") if next(left, None) is not None else "B")
        lm.num_retries = retries
        governed = Throttles(None, 4).govern(lm)
        if answered:
            assert governed("?")[0] == "B"
        else:
            with pytest.raises(LMServerError):
                governed("?")
        assert lm.scripted.calls == min(fails + 1, retries + 1) and troubled(governed)


def test_what_will_not_pass_is_not_tried_again() -> None:
    lm = patient_lm(lambda prompt: AuthError("no key"))
    governed = Throttles(None, 4).govern(lm)
    with pytest.raises(LMAuthError):
        governed("?")
    assert lm.scripted.calls == 1 and not troubled(governed) and not troubled(lm)


def test_waits_grow_and_differ_and_the_servers_own_wish_comes_first(quick: list[float]) -> None:
    down = patient_lm(lambda prompt: ServerError("down"))
    down.num_retries = 6
    for _ in range(3):
        with pytest.raises(LMServerError):
            Throttles(None, 4).govern(down)("?")
    for attempt in range(6):
        same = quick[attempt::7]  # tenacity asks after the last one, too
        assert all(0.5 * 2**attempt <= wait <= 2**attempt for wait in same) and len(set(same)) == 3
    quick.clear()
    slow = patient_lm(lambda prompt: RateLimitError("slow", retry_after=0.01))
    with pytest.raises(LMRateLimitError):
        Throttles(None, 4).govern(slow)("?")
    assert all(0.01 <= wait <= 0.011 for wait in quick) and quick
    # A call that is turned away has not failed: it has six tries more. None where the user wants none.
    assert slow.scripted.calls == 1 + 3 + 6
    slow.num_retries = 0
    with pytest.raises(LMRateLimitError):
        Throttles(None, 4).govern(slow)("??")
    assert slow.scripted.calls == 11


# Fewer at once.


def test_under_429_fewer_calls_are_made_at_once_and_none_fails() -> None:
    narrow = Narrow(4)
    lm = patient_lm(narrow)
    throttles = Throttles(None, 32)
    replies = all_at_once(throttles.govern(lm), 200, 32)
    assert replies == ["B"] * 200 and narrow.most == 4
    # Without a throttle 32 threads are turned away all the time, and calls fail.
    blind = Narrow(4)
    without = patient_lm(blind)
    assert sum(reply != "B" for reply in all_at_once(without, 200, 32)) > 0 or blind.refused > narrow.refused
    assert narrow.refused < 200


def test_it_grows_back_when_the_endpoint_has_recovered() -> None:
    narrow = Narrow(2, seconds=0.001, retry_after=0.01)
    lm = patient_lm(narrow)
    throttles = Throttles(None, 16)
    governed = throttles.govern(lm)
    all_at_once(governed, 60, 16)
    throttle = governed.tp_dspy_throttle
    assert throttle.allowed < 16
    narrow.width = 100
    all_at_once(governed, 300, 16)
    assert throttle.allowed == 16


def test_one_429_for_all_that_were_under_way_halves_once() -> None:
    throttle = Throttle(Limits(), 16)
    ready = threading.Barrier(16)

    def refused() -> None:
        with throttle.slot():
            ready.wait(5)
            raise LMRateLimitError("slow down")

    with ThreadPoolExecutor(16) as pool:
        errors = [future.exception() for future in [pool.submit(refused) for _ in range(16)]]
    assert len(errors) == 16 == throttle.failures and throttle.allowed == 8


# Limits.


def test_no_more_calls_are_under_way_than_allowed() -> None:
    narrow = Narrow(100, seconds=0.005)
    all_at_once(Throttles(Limits(max_concurrency=3), 16).govern(patient_lm(narrow)), 60, 16)
    assert narrow.most == 3


def test_requests_in_a_minute_are_spread_over_it() -> None:
    began: list[float] = []
    lm = patient_lm(lambda prompt: began.append(time.monotonic()) or "B")  # type: ignore[func-returns-value]
    all_at_once(Throttles(Limits(requests_per_minute=1200), 16).govern(lm), 40, 16)
    # A second's worth (20) at once, then 19.7 a second.
    assert 0.8 <= began[-1] - began[0] <= 3.0 and began[19] - began[0] < 0.5


@pytest.mark.parametrize("per_minute", [1, 2, 59, 60, 61, 500])
def test_in_no_minute_are_there_more_than_the_limit(per_minute: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    bucket = module._Bucket(per_minute)
    taken: list[float] = []
    while now < 121.0:
        wait = bucket.wait(now)
        if wait > 0:
            now += wait
            continue
        bucket.level -= 1.0
        taken.append(now)
    for index, start in enumerate(taken[: len(taken) - per_minute]):
        assert taken[index + per_minute] >= start + 60.0 - 1e-6
    # And not many fewer: the second minute is full.
    assert sum(60.0 <= at < 120.0 + 1e-6 for at in taken) >= min(0.95 * per_minute, per_minute - 1)


def test_what_comes_out_of_the_cache_is_no_request_and_tokens_count() -> None:
    lm = patient_lm(lambda prompt: "B")
    throttles = Throttles(Limits(requests_per_minute=60, tokens_per_minute=600), 4)
    governed = throttles.govern(lm)
    throttle = governed.tp_dspy_throttle
    began = time.monotonic()
    with record_calls():
        for _ in range(5):
            governed("the same")
    assert lm.scripted.calls == 1 and time.monotonic() - began < 5
    tokens = lm.history[0]["usage"]
    # What was sent and generated is taken off what there was, once.
    spent = tokens["prompt_tokens"] + tokens["completion_tokens"]
    assert throttle._tokens is not None and throttle._tokens.level == pytest.approx(10.0 - spent, abs=5.0)


@pytest.mark.parametrize("wrong", [{"max_concurrency": 0}, {"requests_per_minute": -1}, {"tokens_per_minute": 1.5}])
def test_limits_below_one_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        Limits(**wrong)


def test_limits_are_for_all_or_by_model() -> None:
    one, other = patient_lm(lambda prompt: "B", name="local/one"), patient_lm(lambda prompt: "B", name="local/other")
    throttles = Throttles({"local/one": Limits(max_concurrency=2)}, 8)
    assert throttles.govern(one).tp_dspy_throttle.most == 2 and throttles.govern(other).tp_dspy_throttle.most == 8
    assert Throttles(Limits(max_concurrency=3), 8).govern(one).tp_dspy_throttle.most == 3
    throttles.check([one, other])
    with pytest.raises(
        ConfigurationError, match=r"limits names local/one; the models that are called: \['local/other'\]"
    ):
        throttles.check([other])
    for wrong in (5, {"local/one": 5}, "x"):
        with pytest.raises(ConfigurationError, match="limits is"):
            Throttles(wrong, 8)  # type: ignore[arg-type]


# The governed LM.


def test_two_lms_of_one_endpoint_share_its_throttle() -> None:
    throttles = Throttles(None, 4)
    a, b, c = (
        dspy.LM("openai/x", api_base=f"http://localhost:{port}/v1", api_key="-", temperature=t)
        for port, t in ((1, 0.0), (1, 1.0), (2, 0.0))
    )
    one, two, three = map(throttles.govern, (a, b, c))
    assert one.tp_dspy_throttle is two.tp_dspy_throttle is not three.tp_dspy_throttle
    assert throttles.govern(a) is one and throttles.govern(one) is one
    assert isinstance(one, dspy.LM) and one.num_retries == 0 and a.num_retries == 3


def test_history_callbacks_and_cache_are_those_of_the_original() -> None:
    started: list[Any] = []

    class Watch(dspy.utils.callback.BaseCallback):  # type: ignore[misc]
        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            started.append(instance.model)

    lm = patient_lm(lambda prompt: "B", name="local/watched")
    lm.callbacks = [Watch()]
    lm("asked before")
    governed = Throttles(None, 4).govern(lm)
    governed("asked before")
    governed("asked now")
    assert lm.scripted.calls == 2 and len(lm.history) == 3 and started == ["local/watched"] * 3
    assert asyncio.run(governed.acall("asked now, too"))[0] == "B"


def test_a_scorer_keeps_to_its_limits_with_lms_of_the_programs_own() -> None:
    narrow = Narrow(2, seconds=0.005, retry_after=0.01)
    program = dspy.Predict("question -> answer")
    program.lm = patient_lm(narrow)
    scorer = Scorer(ObjectiveEvaluator(confidence=None), num_threads=16, limits=Limits(max_concurrency=2))
    examples = [dspy.Example(question=str(i), answer="B").with_inputs("question") for i in range(40)]
    with dspy.context(adapter=InstructionAdapter()):
        outcomes = scorer.outcomes(program, examples)
    assert all(outcome.status == "ok" for outcome in outcomes) and narrow.most == 2 and narrow.refused == 0
    assert program.lm.num_retries == 3  # The program itself is not touched.


# When it is to end.


def test_nobody_waits_any_longer_when_it_is_to_end() -> None:
    ending = threading.Event()
    slow = patient_lm(lambda prompt: RateLimitError("slow down", retry_after=60.0))
    full = Throttle(Limits(max_concurrency=1), 4)
    governed = Throttles(None, 4).govern(slow)

    def retry() -> Any:
        try:
            with until(ending):
                return governed("?")
        except Exception as error:
            return error

    def queue() -> Any:
        try:
            with until(ending), full.slot():
                return None
        except Exception as error:
            return error

    with ThreadPoolExecutor(2) as pool, full.slot():
        began = time.monotonic()
        waiting = [pool.submit(copy_context().run, work) for work in (retry, queue)]
        time.sleep(0.2)
        ending.set()
        retried, queued = (future.result(timeout=5) for future in waiting)
        assert time.monotonic() - began < 3
    assert isinstance(retried, HaltedError) and isinstance(queued, HaltedError) and slow.scripted.calls == 1
