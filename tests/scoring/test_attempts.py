"""Batches of attempts, one after the other and in threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from programs.benchmarks.scaling import scorer_lm
from tp_dspy.errors import LMUnavailableError
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.scoring import attempts
from tp_dspy.scoring.attempts import NOT_SENT, Asking, Attempt, run_batch
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.objective import ObjectiveEvaluator
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.scorer import Job, Scorer
from tp_dspy.scoring.throttle import tallied

PAIRS = [(dspy.Example(question=f"Item {i}.", answer="B").with_inputs("question"), False) for i in range(40)]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    made = ThreadPoolExecutor(8)
    yield made
    made.shutdown(wait=False)


def asking() -> Asking:
    with dspy.context(adapter=InstructionAdapter()):
        scorer = Scorer(ObjectiveEvaluator(confidence=None), lm=scorer_lm(0.001), num_threads=8)
        program = scorer.prepare(dspy.Predict(dspy.Signature("question -> answer", "Answer.")))
        return scorer._begin([Job(0, program, PAIRS[0][0])], None).asking[id(program)]


def doing(monkeypatch: pytest.MonkeyPatch, what: Callable[[int], Any]) -> None:
    def attempt(asking: Asking, example: dspy.Example, *, last: bool, hushed: bool) -> Attempt:
        what(int(example.question[5:-1]))
        return Attempt(Outcome("ok", answer=example.question))

    monkeypatch.setattr(attempts, "attempt", attempt)


def test_threads_find_what_one_finds_in_its_order(pool: ThreadPoolExecutor) -> None:
    made = asking()
    alone = run_batch(made, PAIRS, last=False)
    with tallied() as tally:
        together = run_batch(made, PAIRS, last=False, threads=pool, number=8)
    assert list(together.attempts.items()) == list(alone.attempts.items()) and len(alone.attempts) == 40
    assert together.error is None and together.seconds > 0.04
    # What is counted reaches them.
    assert [counts.answered for counts in tally.values()] == [40]


def test_they_are_no_more_than_is_said_and_see_the_context(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    seen: set[tuple[int, Any]] = set()

    def what(item: int) -> None:
        seen.add((threading.get_ident(), dspy.settings.get("marked")))
        time.sleep(0.01)

    doing(monkeypatch, what)
    with dspy.context(marked="x"):
        assert len(run_batch(asking(), PAIRS, last=False, threads=pool, number=3).attempts) == 40
    assert len(seen) == 3 and {mark for _, mark in seen} == {"x"} and threading.get_ident() not in dict(seen)


@pytest.mark.parametrize("threads", [True, False])
def test_an_error_ends_it_with_what_was_paid_for(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor, threads: bool
) -> None:
    def what(item: int) -> None:
        if item == 10:
            raise LMUnavailableError("no such key")
        time.sleep(0.01)

    doing(monkeypatch, what)
    more: dict[str, Any] = {"threads": pool, "number": 4} if threads else {}
    made = run_batch(asking(), PAIRS, last=False, **more)
    assert isinstance(made.error, LMUnavailableError)
    assert set(range(10)) <= set(made.attempts) <= set(range(14)) - {10}


def test_what_is_no_error_of_a_pair_is_raised_and_no_other_begins(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    begun: list[int] = []

    def what(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise asyncio.CancelledError
        time.sleep(0.02)

    doing(monkeypatch, what)
    with pytest.raises(asyncio.CancelledError):
        run_batch(asking(), PAIRS, last=False, threads=pool, number=2)
    assert len(begun) <= 6


def test_at_the_end_what_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor) -> None:
    ending, free = threading.Event(), threading.Event()

    def what(item: int) -> None:
        if item == 2:
            ending.set()
            free.wait(20)

    doing(monkeypatch, what)
    began = time.monotonic()
    made = run_batch(asking(), PAIRS, last=False, ending=ending, threads=pool, number=2)
    took = time.monotonic() - began
    free.set()
    assert took < 6 and 2 not in made.attempts and made.error is None
    assert made.attempts[0].outcome.status == "ok" and made.attempts[39] is NOT_SENT and len(made.attempts) == 39


def test_what_hung_may_go_on_while_what_is_left_is_listed(
    monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    ending, free, gone = threading.Event(), threading.Event(), threading.Event()

    class Left(deque[Any]):
        """Lets the call that hangs go on as soon as somebody else takes or looks at one of these."""

        def popleft(self) -> Any:
            if threading.current_thread() is threading.main_thread():
                free.set()
                assert gone.wait(5)
            return super().popleft()

        def __iter__(self) -> Iterator[Any]:
            for one in super().__iter__():
                free.set()
                gone.wait(5)
                yield one

    def what(item: int) -> None:
        if item == 2:
            ending.set()
            free.wait(20)
            pool.submit(gone.wait, 0.2).add_done_callback(lambda _: gone.set())  # once it has taken what it can

    doing(monkeypatch, what)
    monkeypatch.setattr(attempts, "deque", Left)
    monkeypatch.setattr(attempts, "_GRACE", 0.1)
    made = run_batch(asking(), PAIRS, last=False, ending=ending, threads=pool, number=1)
    assert made.error is None and [made.attempts[i].outcome.status for i in (0, 1, 2)] == ["ok"] * 3
    assert {made.attempts[i] for i in range(3, 40)} == {NOT_SENT}


def test_a_block_that_found_no_thread_ends_too(pool: ThreadPoolExecutor) -> None:
    ending, free = threading.Event(), threading.Event()
    ending.set()
    for _ in range(8):
        pool.submit(free.wait, 20)
    began = time.monotonic()
    made = run_batch(asking(), PAIRS, last=False, ending=ending, threads=pool, number=8)
    took = time.monotonic() - began
    free.set()
    assert took < 3 and set(made.attempts.values()) == {NOT_SENT} and len(made.attempts) == 40


@pytest.mark.parametrize("failing_first", [True, False])
def test_a_run_that_ends_when_all_had_begun_is_halted_and_not_failed(
    monkeypatch: pytest.MonkeyPatch, failing_first: bool
) -> None:
    """Also while pairs are tried again: what was not asked is no failure."""

    class Lets:
        by_cost = by_time = False

        def __init__(self) -> None:
            self.ending, self.sent = threading.Event(), 0

        def begin(self) -> None:
            self.sent += 1

        def unsent(self) -> None:
            self.sent -= 1

        def spent(self, usage: Any) -> None: ...

    gate, asked = Lets(), list[str]()

    def attempt(asking: Asking, example: dspy.Example, *, last: bool, hushed: bool) -> Attempt:
        asked.append(example.question)
        if failing_first and len(asked) <= 9:
            return Attempt(Outcome("error", error="TimeoutError: slow"), passing=True)
        if len(asked) == 42 if failing_first else len(asked) == 5:
            gate.ending.set()
        return Attempt(Outcome("ok"))

    monkeypatch.setattr(attempts, "attempt", attempt)
    scorer = Scorer(ObjectiveEvaluator(confidence=None), lm=scorer_lm(0.0), num_threads=1)
    prepared = scorer.prepare(dspy.Predict(dspy.Signature("question -> answer", "Answer.")))
    found = []
    with pytest.raises(HaltedError, match="the run is to end"):
        for key, outcome in scorer.score([Job(i, prepared, e) for i, (e, _) in enumerate(PAIRS)], gate=gate):
            found.append(key)
            assert outcome.status == "ok"
    assert len(found) == (33 if failing_first else 5)
    # What waited to be sent does not count; and at the end the gate is asked why once more.
    assert gate.sent == len(asked) + 1
