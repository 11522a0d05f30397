"""When a phase has searched enough, and what may be spent: rules, budgets, the ledger that shares them out."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy import AllOf, Patience, Progress, ReferenceCalls, ScorerCalls, Seconds, StopFile, TargetScore, Tokens, Usd
from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.ledger import Ledger, sorted_out
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.scoring.outcomes import Usage

PROGRESS = Progress(round=3, best=0.6, rounds_without_gain=1)
SOURCE = PhasePlan("source", population=60, proposals=240, selection=40, reference_calls=8, raced=0.5)
TARGET = PhasePlan("target", population=40, proposals=160, selection=40, reference_calls=8, raced=0.5)
STAGES = [(phase, part) for phase in ("source", "target") for part in ("search", "selection")]


def spend(ledger: Ledger, kind: str = "scorer", usage: Usage | None = None) -> int:
    """Call until no further call may begin."""
    gate = getattr(ledger, kind)
    for count in range(10_000):
        if gate.begin() is not None:
            return count
        gate.spent(usage or Usage(1, 0, 10, 0, 0.01))
    raise AssertionError("it never ends")


def through(ledger: Ledger, kind: str = "scorer", usage: Usage | None = None) -> list[int]:
    """Spend all that each stage may."""
    spent = []
    for phase, part in STAGES:
        ledger.enter(phase, part)
        spent.append(spend(ledger, kind, usage))
    return spent


# Rules.


def test_patience_counts_rounds_without_gain() -> None:
    assert Patience(2)(PROGRESS) is None
    assert Patience(1)(PROGRESS) == "no gain in 1 rounds"
    with pytest.raises(ConfigurationError, match="Patience is 0"):
        Patience(0)


def test_the_target_score_counts_once_it_is_reached() -> None:
    assert TargetScore(0.61)(PROGRESS) is None
    assert TargetScore(0.6)(PROGRESS) == "target score 0.6 reached"
    assert TargetScore(0.0)(replace(PROGRESS, best=float("nan"))) is None
    with pytest.raises(ConfigurationError, match="TargetScore is 80"):
        TargetScore(80)


def test_all_of_several_rules_say_so_or_none() -> None:
    both = AllOf(Patience(1), TargetScore(0.5))
    assert both(PROGRESS) == "no gain in 1 rounds and target score 0.5 reached"
    assert both(replace(PROGRESS, best=0.4)) is None and both(replace(PROGRESS, rounds_without_gain=0)) is None
    for wrong in ((), (Patience(1), Usd(3))):
        with pytest.raises(ConfigurationError, match="AllOf was given"):
            AllOf(*wrong)  # type: ignore[arg-type]


# What is given.


@pytest.mark.parametrize("kind", [ScorerCalls, ReferenceCalls, Tokens, Usd, Seconds])
@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), "5", True, None])
def test_a_limit_that_limits_nothing_is_refused(kind: type, limit: object) -> None:
    with pytest.raises(ConfigurationError, match=f"{kind.__name__} is "):
        kind(limit)


def test_what_is_no_stop_rule_is_refused_and_two_limits_of_one_kind_are() -> None:
    rules, budgets, files = sorted_out([Patience(1), Usd(2), StopFile("x"), lambda progress: None])
    assert len(rules) == 2 and budgets == [Usd(2)] and [file.path for file in files] == [Path("x")]
    with pytest.raises(ConfigurationError, match=r"stop holds \[5\]"):
        sorted_out([Patience(1), 5])
    with pytest.raises(ConfigurationError, match=r"more than one budget of \['Usd'\]"):
        sorted_out([Usd(2), Tokens(5), Usd(3)])


# What each stage may spend.


def test_what_is_planned_fits_into_a_budget_of_as_much() -> None:
    assert through(Ledger([SOURCE, TARGET], [ScorerCalls(580)])) == [300, 40, 200, 40]


def test_what_nobody_can_do_without_is_set_aside_and_the_searches_share_the_rest() -> None:
    # 130 are necessary: a race takes half of a first population. Of the other 250 the source search is planned to take
    # 270 parts in 450.
    assert through(Ledger([SOURCE, TARGET], [ScorerCalls(380)])) == [30 + 150, 40, 20 + 100, 40]
    # Where nothing is dropped, all of them are.
    whole = [replace(plan, raced=1.0) for plan in (SOURCE, TARGET)]
    assert through(Ledger(whole, [ScorerCalls(380)])) == [60 + 120, 40, 40 + 80, 40]
    assert through(Ledger(whole, [ScorerCalls(180)])) == [60, 40, 40, 40]
    # A source phase alone has no target that chooses again.
    alone = Ledger([SOURCE], [ScorerCalls(35)])
    alone.enter("source", "search")
    assert spend(alone) == 15
    # Where that is too much, source prompts are chosen by the search, and then everything shrinks alike.
    assert through(Ledger([SOURCE, TARGET], [ScorerCalls(110)])) == [30, 20, 20, 40]
    assert through(Ledger([SOURCE, TARGET], [ScorerCalls(45)])) == [15, 0, 10, 20]


def test_what_one_stage_leaves_is_the_next_ones() -> None:
    ledger = Ledger([SOURCE, TARGET], [ScorerCalls(380)])
    ledger.enter("target", "search")
    assert spend(ledger) == 340


@given(st.integers(1, 2000), st.integers(0, 3))
def test_no_budget_is_ever_passed_whatever_is_planned(limit: int, empty: int) -> None:
    plans = [SOURCE, TARGET]
    if empty:
        plans = [PhasePlan("source", 0, 0, 0, 0)] * (empty > 1) + [TARGET] * (empty != 3)
    ledger = Ledger(plans, [ScorerCalls(limit)])
    assert sum(through(ledger)) <= limit
    assert ledger.spent.scorer_calls <= limit


def test_calls_of_the_reference_lm_are_shared_by_the_searches() -> None:
    ledger = Ledger([SOURCE, TARGET], [ReferenceCalls(10)])
    assert through(ledger, "reference") == [5, 0, 5, 0]
    # They do not hold up the scorer.
    assert ledger.scorer.begin() is None


@pytest.mark.parametrize(
    ("budget", "usage"), [(Tokens(3800), Usage(1, 0, 7, 3)), (Usd(380 / 128), Usage(1, 0, 7, 3, 1 / 128))]
)
def test_tokens_and_dollars_are_shared_as_pairs_are_by_what_a_pair_costs(budget: Tokens | Usd, usage: Usage) -> None:
    spent = through(Ledger([SOURCE, TARGET], [budget]), usage=usage)
    assert sum(spent) == 380
    assert all(abs(had - asked) <= 1 for had, asked in zip(spent, [180, 40, 120, 40], strict=True))


def test_a_call_without_a_price_ends_a_budget_in_dollars() -> None:
    assert spend(Ledger([TARGET], [Usd(5)]), usage=Usage(1, usd=None)) == 1


def test_seconds_pass_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("tp_dspy.optimization.ledger.time.monotonic", lambda: now)
    ledger = Ledger([SOURCE, TARGET], [Seconds(58)])
    for phase, part in STAGES:
        ledger.enter(phase, part)
        while ledger.scorer.begin() is None:
            now += 0.1
    assert 158.0 <= now < 158.2


def test_a_larger_round_than_can_be_paid_for_is_made_smaller() -> None:
    ledger = Ledger([TARGET], [ScorerCalls(100), ReferenceCalls(3)])
    ledger.enter("target", "search")
    share = "the share of the target phase's search in the budget of 100 scorer calls is spent (60)"
    assert ledger.affordable(8, 20) == (3, share)
    assert ledger.affordable(8, 5, calls=1) == (3, "the budget of 3 calls of the reference LM is spent")
    assert ledger.affordable(2, 5, calls=1) == (2, None)
    spend(ledger)
    assert ledger.affordable(2, 5)[0] == 0
    ledger.enter("target", "selection")
    assert ledger.affordable(4, 10) == (4, None)


def test_what_others_paid_for_does_not_count_and_what_was_paid_for_before_does() -> None:
    ledger = Ledger([TARGET], [ScorerCalls(200)])
    for usage in (Usage(), Usage(1, 0, 5, 5), Usage(0, 1)):
        ledger.known("scorer", usage)
    assert ledger.spent.scorer_calls == 2 and ledger.spent.tokens == 10
    assert spend(ledger) <= 198


# Halts.


def test_nothing_begins_after_a_halt_and_the_first_reason_stays() -> None:
    ledger = Ledger([TARGET])
    assert ledger.scorer.begin() is None and not ledger.ending.is_set()
    ledger.halt("interrupted")
    ledger.halt("something else")
    assert ledger.scorer.begin() == ledger.reference.begin() == "interrupted" and ledger.ending.is_set()


def test_a_stop_file_is_found_and_one_left_over_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("tp_dspy.optimization.stopping.time.monotonic", lambda: now)
    file = StopFile(tmp_path / "stop")
    ledger = Ledger([TARGET], files=[file])
    ledger.check()
    assert ledger.scorer.begin() is None
    file.path.touch()
    assert ledger.scorer.begin() is None  # It was looked for just now.
    now = 0.6
    assert ledger.scorer.begin() == ledger.halted == "stop file stop found"
    with pytest.raises(ConfigurationError, match="is there, from an earlier run; remove it"):
        ledger.check()


# Around it.


def test_threads_together_pass_no_limit() -> None:
    ledger = Ledger([TARGET], [ScorerCalls(240)])
    ledger.enter("target", "selection")
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(spend(ledger))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 240 == ledger.spent.scorer_calls and ledger.spent.tokens == 2400


def test_a_budget_below_what_is_necessary_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Ledger([SOURCE, TARGET], [ScorerCalls(130), Tokens(5)]).check()
        assert not caplog.records
        Ledger([SOURCE, TARGET], [ScorerCalls(129)]).check()
    assert "budget of 129 scorer calls is less than the 130" in caplog.text


def test_a_budget_that_leaves_less_than_a_round_of_proposals_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    plans = [replace(plan, round=8) for plan in (SOURCE, TARGET)]
    with caplog.at_level(logging.WARNING):
        # Three fifths of what is left are the source phase's, whose proposals take 15 each; the target's take 10.
        Ledger(plans, [ScorerCalls(130 + 100)]).check()
        assert not caplog.records
        Ledger(plans, [ScorerCalls(130 + 75)]).check()
    assert (
        "budget of 205 scorer calls is likely to be enough for some 6 proposals, less than a round of 8" in caplog.text
    )


def test_plan_and_truth_are_compared() -> None:
    ledger = Ledger([SOURCE, TARGET])
    ledger.scorer.begin()
    ledger.scorer.spent(Usage(1, 0, 1000, 234, 0.5))
    words = PhasePlan.beside(ledger.plans, ledger.spent)
    assert "1 scorer calls (planned: at most 580), 0 reference calls (planned: 16), 1,234 tokens, 0.5000 USD" in words
    ledger.add(Usage(1, usd=None))
    assert "price unknown" in PhasePlan.beside(ledger.plans, ledger.spent)
