"""The history: who is ranked where, and what a dropped candidate counts for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tp_dspy import ObjectiveEvaluator
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.history import History
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.scoring.outcomes import Outcome

WORTH = PhaseScore(ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}))
OWN = Candidate({"self": "own"})


def standing(candidate: Candidate | str, right: Sequence[int], tasks: int = 1) -> Standing:
    """A candidate that was right (1) or wrong (0) on each of a task's examples."""
    candidate = candidate if isinstance(candidate, Candidate) else Candidate({"self": candidate}, "seed")
    outcomes = [Outcome("error") if hit < 0 else Outcome("ok", True, float(hit)) for hit in right]
    return Standing(candidate, {f"task{number}": outcomes for number in range(tasks)})


def texts(history: History) -> list[str]:
    return [scored.candidate.instructions["self"] for scored in history.ranked()]


def test_it_ranks_best_first_and_the_first_of_equals_wins() -> None:
    history = History(WORTH)
    assert history.ranked() == [] and len(history) == 0 and history.interaction() == 0.0
    lost = standing("nothing", [-1] * 4)
    rows = [standing(OWN, [1, 0, 1, 0]), lost, standing("b", [1, 0, 1, 0]), standing("c", [1, 1, 1, 0])]
    assert [scored.score for scored in history.record(rows, [], 0)][2:] == [0.5, 0.75]
    assert texts(history) == ["c", "own", "b", "nothing"]  # NaN compares with nothing: it must not shuffle the rest
    assert [scored.candidate.instructions["self"] for scored in history.worst_first()] == texts(history)[::-1]
    history.record([standing(OWN, [1, 1, 1, 1])], [], 1)
    assert len(history) == 4 and texts(history)[0] == "own" and history[OWN].round == 1
    assert Candidate({"self": "b"}) in history and "b" not in history


def test_a_score_on_the_hard_half_is_brought_to_the_level_of_the_whole() -> None:
    history = History(WORTH)
    whole = standing("whole", [0, 0, 0, 1, 1, 1, 1, 1])
    history.record([whole, standing(OWN, [0, 0, 0, 0, 0, 1, 1, 0])], [standing("half", [0, 0, 0, 1])], 0)
    scored = {s.candidate.instructions["self"]: s for s in history}
    assert scored["half"].score == 0.25 and scored["half"].by_task["task0"].n == 4
    # On those four it did as well as the best, so as much is expected of it, nearly.
    assert scored["half"].expected.mean == pytest.approx(scored["whole"].expected.mean, abs=0.05)
    assert texts(history)[0] == "whole"
    assert [s.candidate.instructions["self"] for s in history.complete()] == ["whole", "own"]


def test_one_that_was_dropped_is_never_the_first() -> None:
    history = History(WORTH)
    promising = Candidate({"self": "promising"}, "source", Belief(0.95, 0.01))
    known = Candidate({"self": "known"}, "source", Belief(0.1, 0.01))
    history.record([standing(known, [0, 1] * 4)], [standing(promising, [0, 1])], 0)
    assert history[promising].expected.mean > history[known].expected.mean + 0.1
    assert texts(history) == ["known", "promising"]


def test_a_proposal_is_weighed_with_its_kin() -> None:
    history = History(WORTH)
    half = [0, 1] * 8
    history.record([standing(OWN, half)], [], 0)
    children = [OWN.with_instruction("self", f"child {number}") for number in range(8)]
    assert {child.parent for child in children} == {OWN.id}
    rows = [standing(child, [*half[number:], *half[:number]]) for number, child in enumerate(children)]
    lucky = OWN.with_instruction("self", "lucky")
    history.record([*rows, standing(lucky, [1, 1] * 5 + [0, 1] * 3)], [], 1)
    assert history[lucky].score > 0.8 > history[lucky].expected.mean > 0.5


def test_the_interaction_is_seen_where_tasks_rank_candidates_differently() -> None:
    alike, apart = History(WORTH), History(WORTH)
    good, bad = [Outcome("ok", True, 1.0)] * 30, [Outcome("ok", True, 0.0)] * 30
    for number in range(8):
        first, second = (good, bad) if number % 2 else (bad, good)
        candidate = Candidate({"self": str(number)})
        alike.record([Standing(candidate, {"law": first, "medicine": first})], [], 0)
        apart.record([Standing(candidate, {"law": first, "medicine": second})], [], 0)
    assert alike.interaction() == 0.0 and apart.interaction() > 0.5
