"""Several targets under way at once: the same results, one event after the other, fixed shares, nothing lost."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tests.transfers.conftest import optimiser, student
from tp_dspy import ScorerCalls, Seconds, SourcePrompts, Task
from tp_dspy.errors import ConfigurationError, ScoringFailedError
from tp_dspy.optimization.ledger import Ledger
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import ReferenceCalls, Tokens
from tp_dspy.runs.transfers import Transfers

# The reference LM answers the same prompt in the order in which it is asked.
REPEATABLE: dict[str, Any] = {"num_threads": 1}
NAMES = ("finance", "banking", "insurance", "trade")


def targets(world: World) -> list[Task]:
    return [world.task(name, train=8, validation=8) for name in NAMES]


def found(made: Transfers) -> dict[str, str]:
    return {name: result.model_dump_json(exclude={"created", "seconds"}) for name, result in made.results.items()}


def paid(*optimisers: Any) -> int:
    return sum(tp.scorer.lm.scripted.calls for tp in optimisers)


@pytest.mark.parametrize("at_once", [2, 9])
def test_what_is_found_is_what_one_after_the_other_finds(
    world: World, sources: SourcePrompts, at_once: int, tmp_path: Path
) -> None:
    one, many = optimiser(world, **REPEATABLE), optimiser(world, run_dir=tmp_path, **REPEATABLE)
    turns = one.transfer_to(student(), targets(world), source_prompts=sources)
    made = many.transfer_to(student(), targets(world), source_prompts=sources, at_once=at_once)
    names = {
        "scripted" + lm.model.partition("scripted")[2] for tp in (one, many) for lm in (tp.scorer.lm, tp.reference_lm)
    }
    same = [{name: _without(text, names) for name, text in found(each).items()} for each in (turns, made)]
    assert list(made) == list(NAMES) and same[0] == same[1]
    assert paid(one) == paid(many) and one.reference_lm.scripted.calls == many.reference_lm.scripted.calls
    assert {path.parent.name for path in tmp_path.glob("*/program.json")} == set(NAMES)
    assert not list(tmp_path.glob("*/so_far.json"))


def _without(text: str, names: set[str]) -> str:
    for name in names:
        text = text.replace(name, "")
    return text


def test_one_goes_on_while_another_waits_for_its_lm(world: World, sources: SourcePrompts) -> None:
    """The first target is answered only once all others have been asked: one after the other it would wait for ever."""
    answer, others, came = world.scorer_lm().scripted.rule, threading.Event(), set()

    def rule(prompt: PromptView) -> Any:
        came.update(name for name in NAMES if f"of {name} in" in prompt.user)
        if came >= set(NAMES[1:]):
            others.set()
        if "of finance in" in prompt.user:
            assert others.wait(20)
        return answer(prompt)

    lm = scripted_lm(rule, logprobs=True, top_logprobs=10)
    made = optimiser(world, scorer_lm=lm).transfer_to(
        student(), targets(world), source_prompts=sources, at_once=len(NAMES)
    )
    assert others.is_set() and list(made) == list(NAMES)


def test_a_listener_hears_one_event_after_the_other(world: World, sources: SourcePrompts) -> None:
    heard, here, both = [], threading.Lock(), []

    def listen(event: Any) -> None:
        both.append(not here.acquire(blocking=False))
        heard.append(event.phase)
        time.sleep(0.0005)
        here.release()

    tp = optimiser(world, listeners=[listen], scorer_lm=world.scorer_lm(latency=0.003))
    tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    assert not any(both)
    phases = [phase for phase in heard if phase]
    switches = sum(a != b for a, b in itertools.pairwise(phases))
    assert switches > 2 * len(NAMES), "they take turns"


def test_shares_of_a_budget_are_fixed(world: World, sources: SourcePrompts) -> None:
    def run(latency: Callable[[PromptView], float]) -> Any:
        tp = optimiser(
            world, rounds=5, stop=[ScorerCalls(200)], scorer_lm=world.scorer_lm(latency=latency), **REPEATABLE
        )
        made = tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
        assert paid(tp) <= 200
        return made.to_frame()

    frame = run(lambda prompt: 0.0)
    assert frame["scorer_calls"].max() <= 50 and frame["scorer_calls"].min() > 25
    assert frame["stopped"].str.contains("share of the target").all()
    assert frame["stopped"].str.contains("in the budget of 200 scorer calls is spent").all()
    slow = run(lambda prompt: 0.01 * ("of finance in" in prompt.user))
    assert slow.equals(frame), "whoever is slow loses nothing to whoever is fast"


def test_targets_that_share_questions_follow_each_other(world: World, sources: SourcePrompts) -> None:
    task = world.task("finance", train=8, validation=8)
    once = optimiser(world, rounds=0)
    once.transfer_to(student(), {"one": task}, source_prompts=sources)
    began: list[str] = []
    both = optimiser(world, rounds=0, listeners=[lambda e: began.append(f"{e.kind} {e.phase}")])
    given = {"one": task, "other": world.task("banking", train=8, validation=8), "two": task}
    made = both.transfer_to(student(), given, source_prompts=sources, at_once=3)
    other = optimiser(world, rounds=0)
    other.transfer_to(student(), {"other": given["other"]}, source_prompts=sources)
    assert paid(both) == paid(once, other) and list(made) == ["one", "other", "two"]
    assert began.index("compiled target one") < began.index("phase target two")
    assert made.results["two"].scorer_usage.calls == 0


def test_the_reference_lm_is_checked_once(world: World, sources: SourcePrompts) -> None:
    tp = optimiser(world, proposals=1, rounds=1)
    tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    asked = Counter(call.prompt.user.startswith("Reply with the word") for call in tp.reference_lm.scripted.log)
    assert asked[True] == 1


def test_settings_of_a_context_reach_the_threads(world: World, sources: SourcePrompts) -> None:
    tp = optimiser(world)
    lm, tp.scorer.lm = tp.scorer.lm, None
    with dspy.context(lm=lm):
        made = tp.transfer_to(student(), targets(world)[:2], source_prompts=sources, at_once=2)
    assert len(made) == 2 and lm.scripted.calls > 0


@pytest.mark.parametrize("threads", [1, 6])
def test_a_program_never_runs_in_more_threads_than_asked_for(
    world: World, sources: SourcePrompts, threads: int
) -> None:
    here, most, lock = [0], [0], threading.Lock()

    class Tool(dspy.Module):  # type: ignore[misc]
        """Does something of its own beside the call, which no throttle of an LM holds back."""

        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict(dspy.Signature("question -> answer", "Answer."))

        def forward(self, question: str) -> dspy.Prediction:
            with lock:
                here[0] += 1
                most[0] = max(most[0], here[0])
            time.sleep(0.01)
            with lock:
                here[0] -= 1
            return self.predict(question=question)

    tp = optimiser(world, num_threads=threads, rounds=0, mapping={"self": "predict"})
    tp.transfer_to(Tool(), targets(world), source_prompts=sources, at_once=4)
    assert most[0] == threads


def test_an_error_of_one_ends_the_others_with_what_they_have(
    world: World, sources: SourcePrompts, tmp_path: Path
) -> None:
    answer = world.scorer_lm().scripted.rule

    def rule(prompt: PromptView) -> Any:
        if "of trade in" in prompt.user and broken:
            return dspy.lm15.ServerError("down")
        return answer(prompt)

    broken = [True]
    lm = scripted_lm(rule, logprobs=True, top_logprobs=10, latency=0.002)
    tp = optimiser(world, scorer_lm=lm, run_dir=tmp_path, rounds=6, **REPEATABLE)
    with pytest.raises(ScoringFailedError) as failed:
        tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    kept = failed.value.transfers  # type: ignore[attr-defined]
    assert "trade" in kept.missing and "trade" not in kept
    assert all("another target failed (ScoringFailedError)" in r.stopped for r in kept.results.values())
    broken.clear()
    before = lm.scripted.calls
    again = optimiser(world, scorer_lm=lm, reference_lm=tp.reference_lm, run_dir=tmp_path, rounds=6, **REPEATABLE)
    made = again.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    fresh = optimiser(world, rounds=6, **REPEATABLE)
    whole = fresh.transfer_to(student(), targets(world), source_prompts=sources)
    assert [p.signature.instructions for p in made.values()] == [p.signature.instructions for p in whole.values()]
    known = sum(result.scorer_usage.calls for result in kept.results.values())
    assert lm.scripted.calls - before <= paid(fresh) - known, "what was known is not paid for again"


def test_what_a_listener_raises_is_raised(world: World, sources: SourcePrompts) -> None:
    def listen(event: Any) -> None:
        if event.phase == "target banking" and event.kind == "outcome":
            raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk") as failed:
        optimiser(world, listeners=[listen]).transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    assert "banking" in failed.value.transfers.missing  # type: ignore[attr-defined]


def test_ctrl_c_ends_all_with_the_best_so_far(world: World, sources: SourcePrompts) -> None:
    pressed: list[int] = []

    def listen(event: Any) -> None:
        if event.kind == "outcome" and not pressed:
            pressed.append(1)
            os.kill(os.getpid(), signal.SIGINT)

    tp = optimiser(world, listeners=[listen], scorer_lm=world.scorer_lm(latency=0.01), rounds=9)
    made = tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    assert {result.stopped for result in made.results.values()} == {"interrupted"}
    assert len(made) + len(made.missing) == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Hanging:
    """A scorer LM whose calls hang from the 41st on; then Ctrl-C is pressed twice.

    Args:
        world: Answers.
        then: What comes of the calls that hung, in the place of an answer.
        release_after: Seconds after which they hang no longer.
    """

    def __init__(self, world: World, then: Any = None, release_after: float | None = None) -> None:
        self.answered, self.calls, self.release, self.lock = 0, 0, threading.Event(), threading.Lock()
        answer = world.scorer_lm().scripted.rule

        def rule(prompt: PromptView) -> Any:
            with self.lock:
                self.calls += 1
                number = self.calls
            if number == 41:
                for seconds in (0.3, 0.8):
                    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
                if release_after is not None:
                    threading.Timer(release_after, self.release.set).start()
            if number > 40 and not self.release.wait(60):
                raise AssertionError
            if number > 40 and then is not None:
                return then
            with self.lock:
                self.answered += 1
            return answer(prompt)

        self.lm = scripted_lm(rule, logprobs=True, top_logprobs=10)


def test_ctrl_c_twice_waits_for_nobody(world: World, sources: SourcePrompts, tmp_path: Path) -> None:
    hanging = Hanging(world)
    tp = optimiser(world, scorer_lm=hanging.lm, run_dir=tmp_path, **REPEATABLE)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    assert time.monotonic() - began < 20
    hanging.release.set()
    # Nobody holds the journal, and what was paid for by then is in it.
    before = hanging.calls
    again = optimiser(world, scorer_lm=hanging.lm, reference_lm=tp.reference_lm, run_dir=tmp_path, **REPEATABLE)
    made = again.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    fresh = optimiser(world, **REPEATABLE)
    whole = fresh.transfer_to(student(), targets(world), source_prompts=sources)
    assert [p.signature.instructions for p in made.values()] == [p.signature.instructions for p in whole.values()]
    assert hanging.calls - before <= paid(fresh) - 40


def test_what_comes_soon_after_the_second_ctrl_c_is_kept(world: World, sources: SourcePrompts, tmp_path: Path) -> None:
    hanging = Hanging(world, release_after=1.5)
    tp = optimiser(world, scorer_lm=hanging.lm, run_dir=tmp_path, num_threads=4)
    with pytest.raises(KeyboardInterrupt):
        tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as journal:
        (kept,) = journal.execute("select count(*) from outcomes").fetchone()
    assert kept == hanging.answered == hanging.calls > 40


def test_after_the_second_ctrl_c_nothing_is_told_or_written(
    world: World, sources: SourcePrompts, tmp_path: Path
) -> None:
    hanging, told = Hanging(world, then=dspy.lm15.ServerError("down")), []
    tp = optimiser(world, scorer_lm=hanging.lm, run_dir=tmp_path, num_threads=4, listeners=[told.append])
    with pytest.raises(KeyboardInterrupt):
        tp.transfer_to(student(), targets(world), source_prompts=sources, at_once=4)
    before = len(told)
    hanging.release.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "tp_dspy-phase"]:
        thread.join(20)
        assert not thread.is_alive()
    assert told[before:] == [] and not list(tmp_path.glob("*/result.json"))


def test_the_next_run_does_not_wait_for_what_hangs_in_the_last(world: World, sources: SourcePrompts) -> None:
    release, runs = threading.Event(), itertools.count(1)

    class Tool(dspy.Module):  # type: ignore[misc]
        """Hangs on its own, where no throttle of an LM knows of it."""

        def __init__(self) -> None:
            super().__init__()
            self.predict = dspy.Predict(dspy.Signature("question -> answer", "Answer."))

        def forward(self, question: str) -> dspy.Prediction:
            number = next(runs)
            if number == 41:
                for seconds in (0.3, 0.8):
                    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
            if 41 <= number <= 44:
                release.wait(60)
            return self.predict(question=question)

    tp = optimiser(world, num_threads=4, mapping={"self": "predict"})
    try:
        with pytest.raises(KeyboardInterrupt):
            tp.transfer_to(Tool(), targets(world), source_prompts=sources, at_once=4)
        began = time.monotonic()
        assert len(tp.transfer_to(Tool(), targets(world)[:1], source_prompts=sources)) == 1
        assert time.monotonic() - began < 20
    finally:
        release.set()


def test_a_thread_that_cannot_be_started_is_the_error(
    world: World, sources: SourcePrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, phases = threading.Thread.start, []

    def begin(thread: threading.Thread) -> None:
        phases.append(thread.name == "tp_dspy-phase")
        if phases[-1] and sum(phases) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        optimiser(world).transfer_to(student(), targets(world), source_prompts=sources, at_once=4)


def test_an_error_of_one_leaves_the_earlier_results_of_others(
    world: World, sources: SourcePrompts, tmp_path: Path
) -> None:
    answer, broken = world.scorer_lm().scripted.rule, list[int]()

    def rule(prompt: PromptView) -> Any:
        return dspy.lm15.ServerError("down") if broken and "of trade in" in prompt.user else answer(prompt)

    lm = scripted_lm(rule, logprobs=True, top_logprobs=10, latency=0.002)
    whole = optimiser(world, scorer_lm=lm, run_dir=tmp_path, rounds=0, **REPEATABLE)
    whole.transfer_to(student(), targets(world)[:3], source_prompts=sources, at_once=3)
    before = (tmp_path / "finance" / "result.json").read_text()
    broken.append(1)
    with pytest.raises(ScoringFailedError):
        optimiser(world, scorer_lm=lm, run_dir=tmp_path, rounds=4, **REPEATABLE).transfer_to(
            student(), targets(world), source_prompts=sources, at_once=4
        )
    files = [*(tmp_path / "finance").glob("earlier-*result.json"), tmp_path / "finance" / "result.json"]
    assert before in [file.read_text() for file in files] and len(files) == 2


def test_questions_are_the_same_whatever_the_answer(world: World, sources: SourcePrompts, tmp_path: Path) -> None:
    """The LM is asked the same, and DSPy's cache answers the second target."""
    task, calls = world.task("finance", train=8, validation=8), []

    def other(examples: Any) -> list[dspy.Example]:
        return [example.copy(answer="BCDA"["ABCD".index(example.answer)]) for example in examples]

    twin = Task("twin", train=other(task.train), validation=other(task.validation), description=task.description)
    for at_once in (1, 2):
        lm = world.scorer_lm(latency=0.01, cache=True)
        optimiser(world, rounds=0, scorer_lm=lm).transfer_to(
            student(), [task, twin], source_prompts=sources, at_once=at_once
        )
        calls.append(lm.scripted.calls)
    assert calls[0] == calls[1]


def test_nothing_reached_is_a_table_without_rows() -> None:
    assert len(Transfers({}, ("a",)).to_frame()) == 0 and "Not reached before the run ended: a" in str(
        Transfers({}, ("a",))
    )


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "all"])
def test_at_once_is_a_count(world: World, sources: SourcePrompts, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"at_once is .*; expected a whole number of at least 1"):
        optimiser(world).transfer_to(student(), targets(world), source_prompts=sources, at_once=given)


# Shares.


def limits(ledger: Ledger, *names: str) -> list[dict[str, float]]:
    shares = [ledger.share(name) for name in names]
    return [{type(budget).__name__: limit for budget, limit in share._limits.items()} for share in shares]


def test_shares_of_each_kind_of_budget() -> None:
    plans = [PhasePlan(name, 40, 40, 20, calls) for name, calls in (("a", 10), ("b", 30))]
    ledger = Ledger(plans, [ScorerCalls(100), ReferenceCalls(20), Tokens(1000), Seconds(60)])
    ledger.divide([["a"], ["b"]], at_once=2)
    a, b = limits(ledger, "a", "b")
    assert a == pytest.approx({"ScorerCalls": 50, "ReferenceCalls": 5, "Tokens": 500, "Seconds": 60}, abs=0.1)
    assert b == pytest.approx({"ScorerCalls": 50, "ReferenceCalls": 15, "Tokens": 500, "Seconds": 60}, abs=0.1)


def test_calls_are_shared_out_in_whole_ones_and_too_few_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    names = list("abcdefgh")
    plans = [PhasePlan(name, 10, 10, 0, 6, round=3) for name in names]
    ledger = Ledger(plans, [ReferenceCalls(7), ScorerCalls(101)])
    ledger.divide([[name] for name in names], at_once=8)
    shares = limits(ledger, *names)
    assert [share["ReferenceCalls"] for share in shares] == [1] * 7 + [0]
    assert [share["ScorerCalls"] for share in shares] == [13] * 5 + [12] * 3
    assert "less than a round of proposals for each of 8 targets" in caplog.text and "one of them has 0" in caplog.text


@pytest.mark.parametrize(
    ("chains", "at_once", "seconds"),
    [
        ([["a"], ["b"], ["c"], ["d"], ["e"]], 4, 30.0),  # the fifth follows one of the others
        ([["a"], ["b"], ["c"], ["d"], ["e"]], 5, 60.0),
        ([["a", "b", "c"], ["d"], ["e"]], 2, 20.0),
        ([["a", "b", "c", "d", "e"]], 1, 12.0),
    ],
)
def test_nobody_is_promised_time_that_others_will_have_spent(
    chains: list[list[str]], at_once: int, seconds: float
) -> None:
    ledger = Ledger([PhasePlan(name, 10, 10, 5, 2) for name in "abcde"], [Seconds(60)])
    ledger.divide(chains, at_once)
    assert all(share["Seconds"] == pytest.approx(seconds, abs=0.1) for share in limits(ledger, *"abcde"))


def test_accounts_of_phases_add_up_and_the_whole_has_the_last_word() -> None:
    plans = [PhasePlan(name, 3, 0, 0, 0) for name in ("a", "b")]
    ledger = Ledger(plans, [ScorerCalls(5)])
    ledger.divide([["a"], ["b"]], 2)
    a, b = ledger.share("a"), ledger.share("b")
    assert [a.may_begin("scorer") for _ in range(3)] == [None, None, None]
    assert "the share of the a phase in the budget of 5 scorer calls is spent (3)" in str(a.may_begin("scorer"))
    assert [b.may_begin("scorer") for _ in range(2)] == [None, None]
    assert a.spent.scorer_calls == b.spent.scorer_calls == ledger.spent.scorer_calls == 5
    b.halt("enough")
    assert a.halted == b.halted == ledger.halted == "enough" and a.ending.is_set()
    assert a.may_begin("reference") == "enough"
