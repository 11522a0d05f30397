"""The cycle in a world whose words matter: what it finds, what it pays for, and how it ends."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
import pytest
from dspy.lm15 import ServerError
from hypothesis import given, settings
from hypothesis import strategies as st

from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.errors import ConfigurationError, NoUsableProposalWarning, ScoringFailedError
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate, Standing
from tp_dspy.optimization.cycle import Cycle
from tp_dspy.optimization.events import Decided, Event, Listener, Spending
from tp_dspy.optimization.memory import PlainMemory
from tp_dspy.optimization.panel import Panel, fingerprint
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.racing import FullScoring
from tp_dspy.optimization.reference import Proposer, ReferencePrompt, TaskBrief
from tp_dspy.optimization.stopping import Patience, TargetScore
from tp_dspy.scoring.scorer import Scorer

STUDENT = dspy.Predict("question -> answer")
OWN = Candidate({"self": "Answer this."})
FIRST = [OWN, Candidate({"self": "Answer loudly."}, "seed"), Candidate({"self": "Answer only calmly."}, "seed")]


@dataclass
class Lab:
    """One cycle and what it works on."""

    world: World = field(default_factory=World)
    racing: Any = field(default_factory=FullScoring)
    scorer_lm: dspy.LM | None = None
    reference_lm: dspy.LM | None = None
    tasks: Sequence[str] = ("law",)
    size: int = 12
    spread_penalty: float = 0.0
    max_error_rate: float = 0.1
    listener: Listener | None = None
    events: list[Event] = field(default_factory=list)
    memory: PlainMemory = field(default_factory=PlainMemory)

    def __post_init__(self) -> None:
        made = [self.world.task(name, train=self.size, validation=self.size) for name in self.tasks]
        self.search: Panel = {task.name: task.train for task in made}
        self.selection: Panel = {task.name: task.validation for task in made}
        self.lm = self.scorer_lm or self.world.scorer_lm()
        self.scorer = Scorer(ObjectiveEvaluator(), lm=self.lm, num_threads=4, max_error_rate=self.max_error_rate)
        self.cycle = Cycle(STUDENT, self.scorer, self.racing, self.memory, self.spread_penalty, self.tell)
        self.asked = self.proposer()

    def proposer(self) -> Proposer:
        brief = TaskBrief("law", "", None, None, tuple(example for part in self.search.values() for example in part))
        lm = self.reference_lm or self.world.reference_lm()
        return Proposer(lm, {"self": [ReferencePrompt((brief,), ("answer",))]}, threads=1)

    def tell(self, event: Event) -> None:
        self.events.append(event)
        if self.listener is not None:
            self.listener(event)

    def run(self, population: Sequence[Candidate] = FIRST, **changes: Any) -> PhaseResult:
        kwargs: dict[str, Any] = {
            "search": self.search,
            "selection": self.selection,
            "proposer": self.asked,
            "rounds": 2,
            "proposals_per_round": 3,
            "finalists": 2,
        }
        with dspy.context(adapter=InstructionAdapter()):
            return self.cycle.run("source", population, **{**kwargs, **changes})

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events if event.kind not in ("outcome", "scored", "decision", "spent")]


def text(scored: ScoredCandidate) -> str:
    return scored.candidate.instructions["self"]


def asked_pairs(lm: dspy.LM) -> list[str]:
    return [call.prompt.text for call in lm.scripted.log]


def flaky(world: World, broken: Callable[[str], bool]) -> dspy.LM:
    """The world's scorer, but for prompts to which no answer can be had."""
    inner = world.scorer_lm().scripted
    return scripted_lm(lambda prompt: ServerError("gone") if broken(prompt.text) else inner.rule(prompt))


# What it finds.


@settings(max_examples=4, deadline=None)
@given(st.integers(0, 10_000))
def test_the_winner_is_never_scored_below_the_original_where_it_was_chosen(seed: int) -> None:
    for chosen_apart in (True, False):
        lab = Lab(World(seed), size=8)
        result = lab.run(finalists=1, selection=lab.selection if chosen_apart else None)
        own = [scored for scored in result.ranked if scored.candidate == OWN]
        assert len(own) == 1 and result.best.score >= own[0].score
        # Best expected first; but what measured below the original comes after it.
        order = [(s.score >= own[0].score, s.rank) for s in result.ranked]
        assert order == sorted(order, reverse=True)
        panel = lab.selection if chosen_apart else lab.search
        again = [lab.memory.outcome((result.best.candidate.id, fingerprint(e))) for e in panel["law"]]
        assert lab.scorer.objective.measure(again).score == pytest.approx(result.best.score)


def test_it_climbs_where_there_is_something_to_climb() -> None:
    lab = Lab(World(3, noise=0.2), size=20)
    result = lab.run([OWN], rounds=4, proposals_per_round=5)
    assert lab.world.quality(text(result.best)) > lab.world.quality("Answer this.")
    assert result.stopped == "all rounds done" and {scored.round for scored in result.history} <= set(range(5))
    assert result.history[0].candidate == OWN and len({s.candidate for s in result.history}) == len(result.history)
    assert STUDENT.signature.instructions != text(result.best)


def test_of_equals_the_original_wins() -> None:
    world = World(1)
    lm = scripted_lm(lambda prompt: "I do not know.")
    lab = Lab(world, scorer_lm=lm)
    for selection in (lab.selection, None):
        assert lab.run(selection=selection, finalists=3).best.candidate == OWN


def test_the_spread_over_tasks_is_taken_off() -> None:
    def rule(prompt: PromptView) -> str:
        good = "law" in prompt.text if "uneven" in prompt.text else "0" in prompt.text or "1" in prompt.text
        return "A" if good else "It depends."

    population = [OWN, Candidate({"self": "Be uneven."}, "seed")]
    for penalty in (0.0, 2.0):
        lab = Lab(World(), scorer_lm=scripted_lm(rule), tasks=("law", "medicine"), spread_penalty=penalty)
        lab.scorer.objective = ObjectiveEvaluator(confidence=None, weights={"ifr": 1.0})
        uneven = next(s for s in lab.run(population, rounds=0).history if text(s) == "Be uneven.")
        assert {name: metrics.score for name, metrics in uneven.by_task.items()} == {"law": 1.0, "medicine": 0.0}
        assert uneven.score == pytest.approx(0.5 - penalty * 0.5)


# What it pays for.


def test_nothing_is_scored_twice() -> None:
    lab = Lab()
    first = lab.run()
    pairs = asked_pairs(lab.lm)
    assert len(pairs) == len(set(pairs)) == lab.cycle.ledger.spent.scorer_calls == first.scorer_usage.calls
    assert first.reference_usage.calls == 1 + 6  # the first one to see whether it answers
    # A second phase over the same store: the panels have changed places, and everything known is known.
    second = lab.run(rounds=0, search=lab.selection, selection=lab.search, finalists=3, proposer=lab.proposer())
    assert len(asked_pairs(lab.lm)) == len(set(asked_pairs(lab.lm))) == lab.cycle.ledger.spent.scorer_calls
    assert second.scorer_usage.calls == lab.cycle.ledger.spent.scorer_calls - len(pairs)
    # And a third has nothing left to pay for.
    third = lab.run(rounds=0, search=lab.selection, selection=lab.search, finalists=3, proposer=lab.proposer())
    assert third.scorer_usage.calls == 0 and third.ranked == second.ranked


def test_without_a_selection_panel_the_choice_costs_nothing() -> None:
    lab = Lab()
    result = lab.run(selection=None)
    assert lab.lm.scripted.calls == len(result.history) * lab.size
    assert "selection" not in lab.kinds() and len(result.ranked) in (2, 3)


def test_the_same_question_in_two_tasks_is_one_question() -> None:
    lab = Lab()
    panel = {"law": lab.search["law"], "copy": lab.search["law"]}
    lab.run(rounds=0, search=panel, selection=None)
    assert lab.lm.scripted.calls == len(FIRST) * lab.size


def test_pairs_of_one_candidate_are_submitted_next_to_each_other() -> None:
    lab = Lab()
    lab.scorer.num_threads = 1
    lab.run(rounds=0, selection=None)
    begun = [pair.partition("\n")[0] for pair in asked_pairs(lab.lm)]
    assert begun == [text for text in ("Answer this.", "Answer loudly.", "Answer only calmly.") for _ in range(12)]


# Racing.


@dataclass
class Halving:
    """Drops the worse half, by accuracy, after half of the examples; or whom it is told to drop."""

    drop: Candidate | None = None
    checkpoints: Sequence[float] = (0.5, 1.0)
    seen: list[Sequence[Standing]] = field(default_factory=list)

    def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
        self.seen.append(standings)
        if self.drop is not None:
            return [s.candidate for s in standings if s.candidate != self.drop]
        ranked = sorted(standings, key=lambda s: -sum(o.correct for task in s.outcomes.values() for o in task))
        return [s.candidate for s in ranked[: max(1, len(ranked) // 2)]]


def test_a_race_drops_early_and_compares_on_equal_examples() -> None:
    rule = Halving()
    lab = Lab(racing=rule, tasks=("law", "medicine"))
    population = [*FIRST, Candidate({"self": "Answer stepwise."}, "seed")]
    result = lab.run(population, rounds=0, selection=None)
    assert len(rule.seen) == 1  # not asked at the end, where everything is paid for
    assert {tuple(len(o) for o in standing.outcomes.values()) for standing in rule.seen[0]} == {(6, 6)}
    assert len(result.dropped) == 2 and {s.candidate for s in result.history} == set(population)
    known = {c.id: sum(1 for key in lab.memory if key[0] == c.id) for c in population}
    for scored in result.history:
        met = 12 if scored.candidate in result.dropped else 24
        assert sum(metrics.n for metrics in scored.by_task.values()) == met
        assert known[scored.candidate.id] == (24 if scored.candidate == OWN else met)  # the original is a finalist
    told = {e.scored.candidate for e in lab.events if e.kind == "scored" and e.dropped}
    assert told == set(result.dropped)
    assert not set(result.dropped) & {s.candidate for s in result.ranked if s.candidate != OWN}


@pytest.mark.parametrize("chosen_apart", [True, False])
def test_an_original_that_the_race_dropped_still_takes_part_in_the_choice(chosen_apart: bool) -> None:
    lab = Lab(racing=Halving(drop=OWN))
    result = lab.run(rounds=1, selection=lab.selection if chosen_apart else None)
    assert result.dropped.count(OWN) == 1
    own = next(s for s in result.ranked if s.candidate == OWN)
    assert own.by_task["law"].n == lab.size and result.best.score >= own.score
    assert len(result.ranked) == 3  # the two finalists and the original


def test_what_the_race_dropped_is_not_tried_again() -> None:
    loud = FIRST[1]
    stubborn = scripted_lm(lambda prompt: "<INS>Answer loudly.</INS>")
    lab = Lab(racing=Halving(drop=loud), reference_lm=stubborn)
    with pytest.warns(NoUsableProposalWarning):
        result = lab.run(rounds=2)
    assert (
        result.dropped == (loud,)
        and result.history
        and lab.cycle.ledger.spent.scorer_calls == len(set(asked_pairs(lab.lm)))
    )


def test_a_rule_that_drops_everyone_breaks_its_contract() -> None:
    class Nobody(Halving):
        def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
            return []

    with pytest.raises(ConfigurationError, match=r"Nobody.survivors kept none of 3"):
        Lab(racing=Nobody()).run()


# Errors are the world's fault.


def test_examples_that_got_no_answer_are_left_out_for_all_alike() -> None:
    world = World(4)
    lm = flaky(world, lambda prompt: "Answer this." in prompt and "Case 13 " in prompt)
    lab = Lab(world, scorer_lm=lm)
    result = lab.run(rounds=0, finalists=3)
    assert {scored.by_task["law"].n for scored in result.ranked} == {11}
    assert {scored.by_task["law"].errors for scored in result.ranked} == {0}
    assert all(outcome.status != "error" for outcome in map(lab.memory.outcome, lab.memory))
    assert lm.scripted.calls == 3 * 24 + 5  # tried five times more, and that is it


def test_a_rule_is_shown_no_errors_and_a_choice_on_the_search_panel_has_none_either() -> None:
    world = World(4)
    lm = flaky(world, lambda prompt: "loudly" in prompt and "Case 2 " in prompt)
    rule = Halving(drop=FIRST[2])
    lab = Lab(world, scorer_lm=lm, racing=rule, max_error_rate=0.2)
    result = lab.run(rounds=0, selection=None, finalists=3)
    shown = {(len(s.outcomes["law"]), o.status) for s in rule.seen[0] for o in s.outcomes["law"]}
    assert all(length == 5 and status != "error" for length, status in shown)
    assert {scored.by_task["law"].n for scored in result.ranked} == {11}
    # One pair that cannot be had is tried twice in all, not once more at every step.
    assert sum("loudly" in p and "Case 2 " in p for p in asked_pairs(lm)) == 6


def test_an_error_is_tried_again_in_the_next_phase() -> None:
    world = World(4)
    broken = {"now": True}
    lm = flaky(world, lambda prompt: broken["now"] and "loudly" in prompt and "Case 2 " in prompt)
    lab = Lab(world, scorer_lm=lm)
    lab.run(rounds=0, selection=None)
    broken["now"] = False
    result = lab.run(rounds=0, selection=None, finalists=3)
    assert result.scorer_usage.calls == 1 and {s.by_task["law"].n for s in result.ranked} == {12}


def test_a_task_that_nobody_could_be_asked_about_does_not_spoil_the_others() -> None:
    world = World(4)
    lm = flaky(world, lambda prompt: "of medicine" in prompt)
    lab = Lab(world, scorer_lm=lm, tasks=("law", "medicine"), max_error_rate=1.0)
    result = lab.run(rounds=0, finalists=3)
    assert all(set(s.by_task) == {"law"} and s.score == s.by_task["law"].score for s in result.ranked)


def test_an_outage_is_an_error_and_no_bad_prompt() -> None:
    lab = Lab(scorer_lm=scripted_lm(lambda prompt: ServerError("down")))
    with pytest.raises(ScoringFailedError, match="not held against any prompt"):
        lab.run()
    assert len(lab.memory) == 0
    patient = Lab(scorer_lm=scripted_lm(lambda prompt: ServerError("down")), max_error_rate=1.0)
    assert patient.run(rounds=1, finalists=3).best.candidate == OWN  # no score for anybody: nothing changes


# What the reference LM is told.


def test_failures_of_the_best_are_told_unfollowed_ones_first_and_the_tasks_take_turns() -> None:
    lab = Lab(tasks=("law", "medicine"), scorer_lm=scripted_lm(lambda prompt: "It depends."))
    lab.run(rounds=1, proposals_per_round=1)
    prompt = lab.asked.lm.scripted.log[1].prompt.text
    told = [line for line in prompt.split("Where the best of them failed:")[1].splitlines() if "Item:" in line]
    assert len(told) == 3 and any("of law" in line for line in told) and any("of medicine" in line for line in told)


# How it ends.


def test_stop_rules_end_a_phase_with_their_reason() -> None:
    stuck = scripted_lm(lambda prompt: "")
    lab = Lab(reference_lm=stuck)
    with pytest.warns(NoUsableProposalWarning):
        result = lab.run(rounds=9, stop=[Patience(2)])
    assert result.stopped == "no gain in 2 rounds" and stuck.scripted.calls == 1 + 2 * 2 * 2 * 3
    assert lab.run(stop=[TargetScore(0.0)]).stopped == "target score 0 reached"


def test_a_reference_lm_that_is_no_help_is_warned_of_and_the_best_so_far_wins() -> None:
    lab = Lab(World(2), reference_lm=scripted_lm(lambda prompt: "Question: what is it?"))
    with pytest.warns(NoUsableProposalWarning, match="none of 12 replies"):
        result = lab.run()
    assert {s.candidate for s in result.history} == set(FIRST) and len(result.proposals) == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Lab().run()
        Lab(reference_lm=scripted_lm(lambda prompt: "")).run(rounds=0)


def test_a_reference_lm_that_is_no_help_is_not_asked_for_ever() -> None:
    stuck = scripted_lm(lambda prompt: "Question: what is it?")
    lab = Lab(World(2), reference_lm=stuck)
    with pytest.warns(NoUsableProposalWarning):
        result = lab.run(rounds=1_000)
    assert result.stopped == "no usable proposal in 5 rounds" and len(result.proposals) == 5 * 2 * 3


def test_events_come_in_order() -> None:
    lab = Lab()
    result = lab.run()
    rounds = ["step", "round", "proposals", "step", "round", "proposals", "step", "round"]
    assert lab.kinds() == ["phase", *rounds, "selection", "step", "end"]
    so_far = [event.so_far for event in lab.events if event.kind == "round"]
    assert [len(found.history) for found in so_far] == sorted(len(found.history) for found in so_far)
    assert so_far[-1].history == result.history and {OWN} <= {s.candidate for s in so_far[0].ranked}
    totals = sum(event.total for event in lab.events if event.kind == "step")
    assert totals == sum(event.kind == "outcome" for event in lab.events) == lab.cycle.ledger.spent.scorer_calls
    told = [e.scored for e in lab.events if e.kind == "scored"]
    assert [(s.candidate, s.score) for s in told] == [(s.candidate, s.score) for s in result.history]
    assert lab.events[-1].result == result and {event.phase for event in lab.events} == {"source"}


def test_decisions_of_the_race_and_what_was_spent_are_told() -> None:
    lab = Lab(World(5), racing=Halving(drop=OWN))
    result = lab.run(rounds=1)
    decided = [event for event in lab.events if isinstance(event, Decided)]
    assert decided[0].share == 0.5 and list(decided[0].dropped) == [OWN] and OWN not in decided[0].kept
    assert {c for event in decided for c in event.dropped} == set(result.dropped)
    spent = [event.spent for event in lab.events if isinstance(event, Spending)]
    assert len(spent) == 3  # after the first population, the round, and the choice
    rounds = [event.kind for event in lab.events if event.kind in ("spent", "round")]
    assert rounds == ["spent", "round", "spent", "round", "spent"]
    assert [s.scorer_calls for s in spent] == sorted(s.scorer_calls for s in spent)
    assert spent[-1].scorer_calls == result.scorer_usage.calls and spent[-1].tokens > 0


def interrupt_at(kind: str, nth: int) -> Listener:
    count = iter(range(10_000))

    def listener(event: Event) -> None:
        if event.kind == kind and next(count) == nth:
            raise KeyboardInterrupt

    return listener


@pytest.mark.parametrize(
    ("kind", "nth", "scored"),
    [
        ("phase", 0, 0),
        ("outcome", 5, 0),  # in the first population
        ("scored", 0, 3),
        ("proposals", 1, 6),
        ("outcome", 36 + 36 + 5, 6),  # in round 2
        ("selection", 0, 9),
        ("outcome", 36 + 36 + 36 + 3, 9),  # in the selection
    ],
)
def test_ctrl_c_gives_the_best_so_far(kind: str, nth: int, scored: int) -> None:
    numbers = iter(range(100))
    other_each_time = scripted_lm(lambda prompt: f"Answer calmly, in way number{next(numbers)}.")
    lab = Lab(World(5), listener=interrupt_at(kind, nth), reference_lm=other_each_time)
    result = lab.run()
    assert result.stopped == "interrupted" and len(result.history) == scored
    assert sum(s.candidate == OWN for s in result.ranked) == 1 and lab.events[-1].kind == "end"
    if scored:
        own = next(s for s in result.ranked if s.candidate == OWN)
        assert result.best.score >= own.score and result.best.rank == max(s.rank for s in result.history)
        assert len(result.ranked) <= 3
    else:
        assert [s.candidate for s in result.ranked] == [OWN]
    # What was paid for is kept, and counted.
    assert len(lab.memory) == len(lab.cycle.met) == result.scorer_usage.calls


def test_ctrl_c_after_the_race_dropped_the_original_keeps_the_best() -> None:
    lab = Lab(World(5), racing=Halving(drop=OWN), listener=interrupt_at("selection", 0))
    result = lab.run(rounds=0)
    assert result.best.candidate != OWN and result.best.candidate not in result.dropped
    assert result.ranked[-1].candidate == OWN and result.ranked[-1].by_task["law"].n == lab.size / 2


def test_those_that_were_in_a_race_when_it_was_halted_are_not_called_dropped() -> None:
    # Three candidates meet 18 of 36 pairs, the rule drops one, and Ctrl-C comes in the other half.
    def interrupt(event: Event) -> None:
        if isinstance(event, Decided):
            lab.cycle.ledger.halt("interrupted")

    lab = Lab(World(5), racing=Halving(drop=OWN), listener=interrupt)
    result = lab.run(rounds=0)
    assert result.stopped == "interrupted" and list(result.dropped) == [OWN]
    assert set(result.unfinished) == {s.candidate for s in result.history} - {OWN} and len(result.unfinished) == 2
    told = {e.scored.candidate: (e.dropped, e.complete) for e in lab.events if e.kind == "scored"}
    assert told == {OWN: (True, False)} | dict.fromkeys(result.unfinished, (False, False))


def test_a_real_signal_while_the_scorer_waits() -> None:
    world = World(6)
    main = threading.main_thread().ident
    assert main is not None
    inner = world.scorer_lm().scripted
    due, sent = threading.Event(), threading.Lock()

    def rule(prompt: PromptView) -> Any:
        # From a worker, once the main thread has taken in some outcomes and waits for more.
        if due.is_set() and sent.acquire(blocking=False):
            signal.pthread_kill(main, signal.SIGINT)
        return inner.rule(prompt)

    arrived = iter(range(1, 1000))

    def count(event: Event) -> None:
        if event.kind == "outcome" and next(arrived) == 5:
            due.set()

    lab = Lab(world, scorer_lm=scripted_lm(rule, latency=0.02), listener=count)
    result = lab.run()
    assert result.stopped == "interrupted" and result.best.candidate == OWN
    assert 5 <= len(lab.memory) < 36 and lab.lm.scripted.calls < 36


def test_examples_are_known_by_their_content() -> None:
    example = dspy.Example(question="é \ud83d", answer="A", choices=["A"]).with_inputs("question")
    turned = dspy.Example(choices=["A"], answer="A", question="é \ud83d").with_inputs("question")
    assert fingerprint(example) == fingerprint(turned) != fingerprint(example.copy(answer="B"))
