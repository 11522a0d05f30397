"""Budgets, stop files and Ctrl-C over a whole compile: what is spent, what comes of it, and going on afterwards."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import statistics
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest

from programs.benchmarks.scripted import PromptView
from programs.benchmarks.tight import Setting, run
from programs.benchmarks.worlds import DirectStudent, World
from tests.test_resume import Lab, comparable
from tp_dspy import (
    Event,
    InstructionAdapter,
    Limits,
    ObjectiveEvaluator,
    ReferenceCalls,
    ScorerCalls,
    Seconds,
    Tokens,
    TransferPrompting,
    TransferResult,
    Usd,
)
from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.racing import FullScoring


def spent(result: TransferResult) -> int:
    return result.scorer_usage.calls


def test_a_budget_is_kept_and_both_phases_have_their_part() -> None:
    whole = Lab(None).compile()
    for limit in (spent(whole) // 2, 150):
        lab = Lab(None)
        result = lab.compile(stop=[ScorerCalls(limit)], source_examples=10)
        assert lab.paid == spent(result) <= limit
        assert result.source is not None and result.target is not None
        assert "scorer calls is spent" in result.source.stopped
        # There was enough left to choose with, in both.
        for phase in (result.source, result.target):
            assert {m.n for record in phase.ranked for m in record.by_task.values()} == {10}
        assert result.winner.score >= result.original.score


def test_a_budget_that_does_not_even_last_for_the_first_population_gives_a_program() -> None:
    for limit in (1, 5, 17, 40):
        lab = Lab(None)
        result = lab.compile(stop=[ScorerCalls(limit)], seed_instructions=None)
        assert lab.paid <= limit and result.winner.instructions
        assert not result.winner.score < result.original.score


def test_a_small_budget_leaves_something_to_propose_with() -> None:
    # A first look after five of twenty examples ends most of the seven first candidates, and a round is as large as its
    # candidates are likely to take, not as they could.
    rows = [run(Setting(world, 200, 20, 5, top_k=2, noise=0.5, shift=0.05)) for world in range(4)]
    for way, least in (("alone", 3), ("scratch", 1), ("at_hand", 4)):
        assert statistics.mean(row[way].proposals for row in rows) >= least
        assert all(row[way].calls <= 200 for row in rows)
    assert statistics.mean(row["at_hand"].quality - row["alone"].quality for row in rows) > 0.1


def test_a_small_budget_takes_fewer_source_examples(caplog: pytest.LogCaptureFixture) -> None:
    def examples_of(**settings: Any) -> int:
        result = Lab(None).compile(rounds=4, **settings)
        (most,) = {max(m.n for r in result.source.history for m in r.by_task.values())}
        fitted = most < 10 and "source_examples" not in settings
        assert result.settings["source_examples"] == (most if fitted else settings.get("source_examples"))
        return most

    with caplog.at_level(logging.INFO, "tp_dspy.session"):
        sizes = [examples_of(stop=[ScorerCalls(limit)]) for limit in (120, 150, 200, 10_000)]
    assert sizes == sorted(sizes) and sizes[0] == 4 < sizes[2] < 10 == sizes[3]
    said = [r.getMessage() for r in caplog.records if "source_examples= says otherwise" in r.getMessage()]
    assert len(said) == 3 and "Of each source task 4 examples, not 10" in said[0]
    assert examples_of(stop=[ScorerCalls(180)], source_examples=10) == 10, "whoever says how many gets them"
    assert examples_of(stop=[Tokens(20_000)]) == 10, "what a pair will cost is not known before"
    # Without proposals to save for, they are all taken as long as they can be paid for.
    assert Lab(None).compile(rounds=0, stop=[ScorerCalls(200)]).settings["source_examples"] is None


def test_examples_to_choose_on_are_saved_where_there_are_few_to_search_on() -> None:
    world = World(3)
    sources = [world.task(name, train=4, validation=40) for name in ("medicine", "law")]

    def planned(**settings: Any) -> tuple[int, str]:
        tp = TransferPrompting(
            ObjectiveEvaluator(),
            reference_lm=world.reference_lm(),
            scorer_lm=world.scorer_lm(),
            examples=40,
            **settings,
        )
        student, target = DirectStudent(world, "Answer."), world.task("finance", train=10, validation=10)
        plan = tp.plan(student, trainset=target.train, valset=target.validation, source_tasks=sources)
        return plan.phases[0].selection, plan.words

    (all_of_them, said), (fitted, remark) = planned(), planned(stop=[ScorerCalls(200)])
    assert all_of_them == (1 + 3) * 2 * 40 and fitted == (1 + 3) * 2 * 5
    assert "Of each source task" not in said and "Of each source task 5 examples, not 40" in remark


def test_where_nothing_is_dropped_no_round_is_begun_that_cannot_be_paid_for() -> None:
    dspy.configure(adapter=InstructionAdapter())
    for seed, limit in ((0, 200), (2, 200), (0, 100)):
        world, size = World(seed), limit // 10
        target = world.task("finance", train=size, validation=size)
        tp = TransferPrompting(
            ObjectiveEvaluator(confidence=lambda example, prediction: prediction.sure),
            reference_lm=world.reference_lm(),
            scorer_lm=world.scorer_lm(),
            rounds=1000,
            proposals=8,
            examples=size,
            top_k=2,
            racing=FullScoring(),
            seed_instructions=[],
            stop=[ScorerCalls(limit)],
            verbose=False,
        )
        made = tp.compile(DirectStudent(world, "Answer."), trainset=target.train, valset=target.validation)
        phase = made.detailed_results.target
        assert len(phase.history) >= 6 and not phase.incomplete


def test_with_a_larger_budget_the_same_compile_goes_on(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    first = lab.compile(stop=[ScorerCalls(150)])
    paid = lab.paid
    second = lab.compile(stop=[ScorerCalls(250)])
    # What was paid for before is not paid for again, and counts as far as it is used again.
    assert spent(first) == paid <= 150 < spent(second) <= 250
    assert lab.paid < spent(second)
    # Without any limit it ends as a run that nobody ever limited.
    assert comparable(lab.compile()) == comparable(Lab(None).compile())


def test_calls_of_the_reference_lm_and_tokens_are_limited() -> None:
    lab = Lab(None)
    result = lab.compile(stop=[ReferenceCalls(4)])
    assert result.reference_usage.calls == 1 + 4  # the first one to see whether it answers
    assert result.target is not None and result.target.stopped == "the budget of 4 calls of the reference LM is spent"
    result = Lab(None).compile(stop=[Tokens(5000)])
    both = [result.scorer_usage, result.reference_usage]
    tokens = sum(usage.prompt_tokens + usage.completion_tokens for usage in both)
    assert 2500 < tokens < 5200  # with one thread at most one call is under way


def test_a_budget_in_dollars_wants_a_price_before_anything_is_paid() -> None:
    lab = Lab(None)
    with pytest.raises(ConfigurationError, match=r"no price of scripted/r, scripted/s\. Limit Tokens"):
        lab.compile(stop=[Usd(5)])
    assert lab.paid == lab.asked == 0


def test_time_that_has_run_out_ends_it() -> None:
    lab = Lab(None)
    result = lab.compile(stop=[Seconds(0.001)])
    assert lab.paid == 0 and "0.001 seconds is spent" in result.stopped
    assert result.winner.id == result.original.id


def test_a_stop_file_ends_the_compile_and_the_same_call_goes_on_when_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(tmp_path)
    file = tmp_path / "stop"
    heard = 0

    def touch(event: Event) -> None:
        nonlocal heard
        heard += event.kind == "outcome"
        if heard == 50:
            file.touch()

    # Looked for at every call: half a second is longer than all of this takes.
    monkeypatch.setattr("tp_dspy.optimization.stopping.time.monotonic", iter(range(100_000)).__next__)
    result = lab.compile(listen=touch)
    assert result.stopped == "stop file stop found" and lab.paid < 60
    assert not result.winner.score < result.original.score
    with pytest.raises(ConfigurationError, match=r"stop file .* is there"):
        lab.compile()
    file.unlink()
    assert comparable(lab.compile()) == comparable(Lab(None).compile())


def test_ctrl_c_waits_for_what_is_under_way_and_twice_stops_now(tmp_path: Path) -> None:
    unbroken = comparable(Lab(None).compile())
    lab = Lab(tmp_path)

    def press(times: int, at: int) -> Any:
        heard = 0

        def listen(event: Event) -> None:
            nonlocal heard
            heard += event.kind == "outcome"
            for _ in range(times if event.kind == "outcome" and heard == at else 0):
                os.kill(os.getpid(), signal.SIGINT)

        return listen

    result = lab.compile(listen=press(1, 30))
    assert result.stopped == "interrupted" and result.target is None
    assert spent(result) == lab.paid  # nothing that was paid for is lost
    with pytest.raises(KeyboardInterrupt):
        lab.compile(listen=press(2, 40))
    # What comes afterwards in the same thread is not at its end.
    program = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
    with dspy.context(lm=lab.world.scorer_lm(), adapter=InstructionAdapter()):
        assert ObjectiveEvaluator().evaluate(program, lab.target.train).metrics.n == 10
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert comparable(lab.compile()) == unbroken


def test_a_handler_of_the_users_own_stays() -> None:
    pressed: list[int] = []

    def mine(number: int, frame: object) -> None:
        pressed.append(number)

    before = signal.signal(signal.SIGINT, mine)
    try:
        Lab(None).compile(
            rounds=0, listen=lambda event: os.kill(os.getpid(), signal.SIGINT) if event.kind == "plan" else None
        )
        assert pressed == [signal.SIGINT] and signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_compiles_outside_the_main_thread_too() -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(Lab(None).compile(rounds=0)))
    thread.start()
    thread.join()
    assert results[0].stopped == "all rounds done"


def test_plan_and_truth_are_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Event] = []
    with caplog.at_level(logging.INFO, logger="tp_dspy"):
        result = Lab(None).compile(listen=events.append)
    planned = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("At most"))
    assert "source phase 220 scorer and 6 reference calls" in planned
    tokens = float(re.search(r"About ([\d,]+) tokens", planned)[1].replace(",", ""))  # type: ignore[index]
    # A question of a dozen words and what stands around it, 360 times.
    assert 10 * 360 < tokens < 60 * 360
    told = next(record.getMessage() for record in caplog.records if record.getMessage().startswith("Spent"))
    assert f"Spent: {spent(result)} scorer calls (planned: at most" in told
    assert [event.kind for event in events[-2:]] == ["spent", "compiled"]
    assert events[-2].spent.scorer_calls == spent(result) and events[-1].result == result


@pytest.mark.parametrize(("limited", "limits"), [("s", Limits(requests_per_minute=1500)), ("r", Limits(1))])
def test_what_waited_to_be_sent_when_it_ended_does_not_count_as_spent(limited: str, limits: Limits) -> None:
    """Eight threads may begin calls, and the endpoint is asked for fewer: some wait when Ctrl-C comes."""
    calls, waited = itertools.count(1), 40 if limited == "s" else 4
    told = []

    def latency(prompt: PromptView) -> float:
        if ("<INS>" in prompt.text) == (limited == "r") and next(calls) == waited:
            signal.raise_signal(signal.SIGINT)
        return 0.01

    def listen(event: Event) -> None:
        told.extend([event.spent] if event.kind == "spent" else [])

    lab = Lab(None, latency)
    lab.compile(listen=listen, num_threads=8, proposals=8, limits={f"scripted/{limited}": limits})
    assert lab.paid == told[-1].scorer_calls
    # Before any budget it was asked once whether it is there.
    assert lab.asked == told[-1].reference_calls + 1
