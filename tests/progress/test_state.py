"""What is known from the events, on exact values: scores, counts, and the time that is left at most."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.progress.scenes import HOSTILE, Told, a_phase, answer, candidate, dropped, planned, result, scored
from tp_dspy.optimization.events import PhaseBegan, PhaseEnded, Proposed, Resumed, RoundEnded, Spending, StepBegan
from tp_dspy.optimization.stopping import ReferenceCalls, ScorerCalls, Seconds, Spent, Tokens, Usd
from tp_dspy.progress.state import State
from tp_dspy.progress.view import duration, named, roughly
from tp_dspy.runs.events import Failed, Measured


def begun(**plan: object) -> Told:
    return Told().tell(planned(**plan)).tell(PhaseBegan("source", 6, 4)).tell(StepBegan("source", 60))  # type: ignore[arg-type]


def told_up_to(stop: type) -> Told:
    told = Told().tell(planned())
    for event, after in a_phase():
        told.tell(event, after)
        if isinstance(event, stop) and getattr(event, "round", 1) == 1:
            break
    return told


def test_the_best_is_the_search_score_and_its_gain_on_the_original() -> None:
    told = begun()
    assert told.rows["Best"] == "not known yet: no prompt has met all examples"
    told.tell(candidate("Answer.", 0.628, "original"))
    assert told.rows["Best"] == "0.628, the original's (search score)"
    told.tell(candidate("Worse.", 0.5)).tell(candidate("Only.", 0.712)).tell(candidate("Nothing.", math.nan))
    assert told.rows["Best"] == "0.712, +0.084 on the original (search scores)"


def test_what_a_race_dropped_is_never_the_best_and_a_dropped_original_is_told_of() -> None:
    told = begun().tell(dropped("Lucky.", 0.99, rival=0.99))
    assert told.rows["Best"].startswith("not known yet")
    told.tell(candidate("Only.", 0.712)).tell(dropped("Answer.", 0.25, rival=0.75, origin="original"))
    assert told.rows["Best"] == "0.712 (search score); the original was dropped, 0.500 behind"


def test_a_best_that_breaks_the_constraints_gives_way_to_one_that_keeps_them() -> None:
    breaks = candidate("Breaks.", 0.9)
    breaks.scored.by_task["law"] = SimpleNamespace(violation=0.1)  # type: ignore[index]
    told = begun().tell(breaks)
    assert told.rows["Best"] == "0.900, which breaks the constraints (search score)"
    assert told.tell(candidate("Keeps.", 0.4)).rows["Best"] == "0.400 (search score)"


def test_the_title_says_the_round_of_how_many_and_what_goes_on() -> None:
    assert told_up_to(PhaseBegan).view.title == "Source prompts: scoring the first 6 prompts"
    asked = told_up_to(Proposed)
    assert asked.view.title == "Source prompts, round 1 of 4: scoring 5 new prompts (5 of 8 replies usable)"
    ended = told_up_to(RoundEnded)
    assert ended.view.title == "Source prompts, round 1 of 4: 5 of 8 replies usable, waiting for proposals"


def test_a_round_that_brought_nothing_new_is_told_with_what_it_cost() -> None:
    paid = [Spent(scorer_calls=60, reference_calls=1)]
    told = Told().tell(replace(planned(), spent=lambda: paid[-1])).tell(PhaseBegan("source", 6, 4))
    told.tell(StepBegan("source", 60)).tell(candidate("Answer.", 0.628, "original"))
    told.tell(Spending("source", paid[-1])).tell(RoundEnded("source", 0, result(scored("Answer.", 0.628, "original"))))
    before = told.view
    paid.append(Spent(scorer_calls=60, reference_calls=9))
    told.tell(Proposed("source", 1, 0, 8), 10.0)
    assert told.view.title == "Source prompts, round 1 of 4: nothing new to score (0 of 8 replies usable)"
    told.tell(Spending("source", paid[-1]))
    assert told.view.step == before.step and told.view.ended == told.view.after == (), "the phase goes on"
    told.tell(RoundEnded("source", 1, result(scored("Answer.", 0.628, "original"))))
    assert told.view.title == "Source prompts, round 1 of 4: 0 of 8 replies usable, waiting for proposals"
    assert told.rows["Calls"] == "60 of 200 scorer, 9 of 16 reference" and told.view.step == before.step + 1


def test_calls_and_costs_stand_beside_the_plan_or_the_budget_where_that_is_less() -> None:
    spent = Spent(scorer_calls=142, reference_calls=8, tokens=48_210, usd=0.01234)
    assert begun(spent=spent).rows["Calls"] == "142 of 200 scorer, 8 of 16 reference"
    assert begun(spent=spent).rows["Cost"] == "48,210 tokens, 0.0123 USD"
    budgets = (ScorerCalls(150), ReferenceCalls(99), Tokens(100_000), Usd(2), Seconds(600))
    rows = begun(spent=spent, budgets=budgets).rows
    assert rows["Calls"] == "142 of 150 (budget) scorer, 8 of 16 reference"
    assert rows["Cost"] == "48,210 of 100,000 tokens, 0.0123 of 2 USD"
    assert rows["Time"] == "0:00 of 10:00, time left not known yet"
    again = begun(spent=Spent(scorer_calls=1250)).rows["Calls"]
    assert again == "1,250 (200 planned) scorer, 0 of 16 reference", "pairs that were tried again"
    assert begun(spent=Spent(tokens=5, usd=None)).rows["Cost"] == "5 tokens, price unknown"
    assert "Cost" not in begun().rows, "a free LM that counts nothing"


def test_errors_and_what_the_cache_knew_are_counted() -> None:
    told = begun()
    assert "Errors" not in told.rows
    told.tell(answer()).tell(answer(status="error")).tell(answer(calls=0, cached=1)).tell(answer(calls=1, cached=1))
    assert told.rows["Errors"] == "1 of 4 scorer calls got no answer"
    assert told.rows["Calls"].endswith(", 25% cached")
    assert (told.view.done, told.view.total, told.view.count) == (4, 100, "4 of at most 100")


def test_the_time_left_is_that_of_everything_planned_at_the_pace_so_far() -> None:
    told = begun()
    for _ in range(9):
        told.tell(answer(), 0.5)
    assert told.rows["Time"] == "0:04, time left not known yet", "nine pairs tell no pace"
    told.tell(answer(), 0.5)
    # 190 pairs to come at half a second; nobody has seen how long the eight rounds take.
    assert told.rows["Time"] == "0:05, at most ~2 min left, and 8 rounds of proposals"
    told.tell(RoundEnded("source", 0, result(scored("Only.", 0.7)))).tell(Proposed("source", 1, 5, 8), 30.0)
    # 95 s, and seven rounds of half a minute.
    assert told.rows["Time"] == "0:35, at most ~6 min left"
    told.tell(PhaseEnded("source", result(scored("Only.", 0.7)))).tell(PhaseBegan("target", 3, 4))
    assert told.rows["Time"] == "0:35, at most ~3 min left", "what is over is not waited for: 50 s and four rounds"


def test_a_budget_that_ends_it_sooner_bounds_the_time_left() -> None:
    def left(*budgets: object, **spent: object) -> str:
        told = begun(budgets=budgets, spent=Spent(scorer_calls=10, **spent))  # type: ignore[arg-type]
        for _ in range(10):
            told.tell(answer(), 1.0)
        return told.rows["Time"].split(", ", 1)[1]

    assert left() == "at most ~4 min left, and 8 rounds of proposals"
    assert left(ScorerCalls(40)) == "at most ~30 s left, and 8 rounds of proposals"
    assert left(Tokens(3000), tokens=1000) == "at most ~20 s left, and 8 rounds of proposals"
    assert left(Seconds(60), seconds=20.0) == "at most ~40 s left"
    assert left(Usd(1), usd=None) == "at most ~4 min left, and 8 rounds of proposals", "an unknown price bounds nothing"


def test_what_the_journal_knows_makes_no_pace() -> None:
    told = Told().tell(Resumed("", 50)).tell(planned()).tell(PhaseBegan("source", 6, 4)).tell(StepBegan("source", 60))
    assert told.view.before[0] == "The journal knows 50 outcomes; none is paid for again."
    for _ in range(50):
        told.tell(answer(), 0.0001)
    told.tell(RoundEnded("source", 0, result(scored("Only.", 0.7)))).tell(Proposed("source", 1, 5, 8), 0.0001)
    assert told.rows["Time"].endswith("time left not known yet")
    told.tell(StepBegan("source", 10))
    for _ in range(10):
        told.tell(answer(), 1.0)
    assert told.view.done == 60
    assert told.rows["Time"] == "0:10, at most ~3 min left, and 7 rounds of proposals", "140 pairs at a second each"


def test_what_the_cache_answers_makes_no_pace() -> None:
    told = begun()
    for _ in range(40):
        told.tell(answer(calls=0, cached=1), 0.1)
    assert told.rows["Time"].endswith("time left not known yet")


def test_a_phase_that_is_over_is_summed_up_by_what_its_winner_was_chosen_on() -> None:
    one = told_up_to(PhaseEnded).view.ended[0]
    assert one.cells == ("Source prompts", "0.712", "+0.084", "20", "0:22", "all rounds done")
    assert one.line == (
        "Source prompts: 0.712, +0.084 on the original (selection scores); 20 scorer calls in 0:22; all rounds done"
    )
    own = scored("Answer.", 0.6, "original")
    stays = begun().tell(PhaseEnded("source", result(own, selected=False, stopped="interrupted"))).view.ended[0]
    assert stays.cells == (
        "Source prompts",
        "0.600",
        "+0.000",
        "0",
        "0:00",
        "interrupted; nothing better found; search scores",
    )


def test_an_error_ends_the_phase_with_the_best_so_far() -> None:
    told = begun().tell(candidate("Answer.", 0.5, "original")).tell(candidate("Only.", 0.7)).tell(answer(), 3.0)
    told.tell(Failed("", KeyboardInterrupt("secret")))
    assert [one.line for one in told.view.ended] == [
        "Source prompts: 0.700, +0.200 on the original (search scores); 1 scorer call in 0:03; "
        "broken off: KeyboardInterrupt"
    ]
    assert told.view.title == "" and told.state.closed(told.now, KeyboardInterrupt()) == told.state


def test_many_targets_are_numbered_and_told_in_one_line_of_plan() -> None:
    names = [f"target {name}" for name in [*map(str, range(29)), HOSTILE]]
    told = Told().tell(planned(*names))
    (plan,) = told.view.before
    assert plan.startswith("At most: 30 phases, 240 reference calls; 3000 scorer calls in all.")
    for name in names:
        for event, after in a_phase(name):
            told.tell(event, after)
    assert [one.short for one in told.view.ended[:2]] == ["1/30 0", "2/30 1"]
    last = told.view.ended[-1]
    assert len(last.short) <= 22 and last.short.startswith("30/30 [red]") and last.title.startswith("Target 30/30 ")
    assert (last.title + last.short).isprintable()


def test_influence_and_the_held_out_test_have_pairs_only() -> None:
    told = Told().tell(planned("target a", "target b")).tell(StepBegan("target a", 7)).tell(answer("target a"), 1.0)
    assert told.view.title == "Target 1/2 a" and "Best" not in told.rows
    told.tell(StepBegan("target b", 7)).tell(Spending("", Spent(scorer_calls=1)))
    assert [one.line for one in told.view.ended] == [
        "Target 1/2 a: 1 scorer call in 0:01",
        "Target 2/2 b: 0 scorer calls in 0:00",
    ]
    assert told.view.after[0].startswith("Spent: 1 scorer calls (planned: at most 200)")
    told.tell(PhaseBegan("test", 3, 0)).tell(StepBegan("test", 60)).tell(answer("test"), 1.0)
    assert (told.view.title, told.view.count, set(told.rows)) == ("Held-out test", "1 of 60", {"Time"})
    found = {
        name: SimpleNamespace(metrics=SimpleNamespace(score=s)) for name, s in (("original", 0.5), ("target", 0.6))
    }
    told.tell(Measured("test", SimpleNamespace(evaluations=found), None))  # type: ignore[arg-type]
    assert told.view.ended[-1].cells == ("Held-out test", "0.600", "+0.100", "1", "0:01", "test scores")


def test_without_a_summary_neither_plan_nor_spending_are_told() -> None:
    told = Told(State(summary=False)).tell(planned()).tell(Spending("", Spent()))
    assert told.view.before == told.view.after == ()


@pytest.mark.parametrize(
    ("seconds", "passed", "left"),
    [
        (0.0, "0:00", "10 s"),
        (41, "0:41", "50 s"),
        (51, "0:51", "1 min"),
        (61, "1:01", "2 min"),
        (3599, "59:59", "1 h"),
        (3601, "1:00:01", "1 h 5 min"),
        (48 * 3600 + 1, "48:00:01", "3 days"),
    ],
)
def test_times_are_rounded_up_as_they_are_ceilings(seconds: float, passed: str, left: str) -> None:
    assert duration(seconds) == passed and roughly(seconds) == left


def test_names_are_cut_in_their_middle_and_keep_no_control_characters() -> None:
    assert named("medicine") == "medicine"
    assert named("mmlu:professional_medicine", 15) == "mmlu:pr…edicine"
    assert named(HOSTILE) == "[red]<script>x\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}"


def side_by_side(*names: str) -> Told:
    told = Told().tell(replace(planned(*names), at_once=2))
    for name in names[:2]:
        told.tell(PhaseBegan(name, 6, 4)).tell(StepBegan(name, 60))
    return told


def test_phases_that_go_on_at_once_are_told_apart() -> None:
    a, b, c = "target a", "target b", "target c"
    told = side_by_side(a, b, c)
    for name in (a, b, b):
        told.tell(answer(name), 1.0)
    told.tell(candidate("Only.", 0.712, phase=b)).tell(Proposed(b, 1, 5, 8)).tell(answer(a, status="error"))
    assert told.view.title == "2 targets at once, 0 done, 1 to come"
    assert [text.split("  ")[-1].strip() for label, text in told.view.rows if not label] == [
        "2 of 100, first prompts",
        "2 of 100, round 1 of 4, best 0.712",
    ]
    assert told.view.count == "4 of at most 300" and told.rows["Errors"] == "1 of 4 scorer calls got no answer"
    own = scored("Answer.", 0.628, "original")
    told.tell(PhaseEnded(b, result(scored("Only.", 0.712), own)))
    assert [(one.title, one.pairs) for one in told.view.ended] == [("Target 2/3 b", 2)]
    told.tell(PhaseBegan(c, 6, 4)).tell(answer(c))
    assert told.view.title == "2 targets at once, 1 done, 0 to come"
    assert told.view.count == "5 of at most 202", "two of them took less than was planned"
    told.tell(PhaseEnded(a, result(own))).tell(PhaseEnded(c, result(own)))
    assert [one.title for one in told.view.ended] == ["Target 2/3 b", "Target 1/3 a", "Target 3/3 c"]
    assert told.view.title == ""


def test_the_time_that_is_left_is_for_all_that_go_on_at_once() -> None:
    told = side_by_side("target a", "target b")
    for index in range(40):
        told.tell(answer(f"target {'ab'[index % 2]}"), 0.25)
    # 40 of 200 pairs took 10 s; that proposals are waited for costs nothing while others go on.
    assert told.rows["Time"] == "0:10, at most ~40 s left, and 8 rounds of proposals"
    told.tell(Proposed("target a", 1, 5, 8), 5.0)
    assert told.rows["Time"].startswith("0:15, at most ~40 s left")


def test_what_goes_on_at_once_is_broken_off_at_once() -> None:
    told = side_by_side("target a", "target b").tell(candidate("Only.", 0.7, phase="target a"))
    told.tell(Failed("", OSError()))
    assert [(one.title, one.why, one.on) for one in told.view.ended] == [
        ("Target 1/2 a", "broken off: OSError", "search"),
        ("Target 2/2 b", "broken off: OSError", ""),
    ]


def test_what_an_earlier_compile_did_is_not_of_this_one() -> None:
    told = Told().tell(planned("source"))
    for event, after in a_phase("source"):
        told.tell(event, after)
    told.tell(replace(planned("target a", "target b"), at_once=2)).tell(PhaseBegan("target a", 6, 4))
    assert told.view.title == "1 target at once, 0 done, 1 to come" and told.view.count == "0 of at most 200"


def test_what_the_journal_brings_is_no_pace_while_others_go_on() -> None:
    told = Told().tell(planned("target a", "target b")).tell(Resumed("", 60))
    told.state = replace(told.state, plan=replace(told.state.plan, at_once=2))
    for name in ("target a", "target b"):
        told.tell(PhaseBegan(name, 6, 4)).tell(StepBegan(name, 30))
        for _ in range(30):
            told.tell(answer(name), 0.001)
        told.now += 1.0  # a race decides
    told.tell(StepBegan("target a", 30))
    for _ in range(10):
        told.tell(answer("target a"), 1.0)
    assert told.state.pace.pairs == 10 and told.state.pace.seconds == pytest.approx(11.0, abs=0.1)


def test_what_others_are_answered_while_the_journal_brings_a_step_is_paid_for() -> None:
    told = Told().tell(planned("target a", "target b")).tell(Resumed("", 60))
    told.state = replace(told.state, plan=replace(told.state.plan, at_once=2))
    for name in ("target a", "target b"):
        told.tell(PhaseBegan(name, 6, 4)).tell(StepBegan(name, 30))
    for _ in range(40):
        told.tell(answer("target a"), 0.005)
    assert told.state.pace.pairs == 40 and told.state.pace.known == 60
