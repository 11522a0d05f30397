"""The choice among finalists: never below the original, and neither for nor against a lucky dozen of examples."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy import ObjectiveEvaluator
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate, Standing
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.history import History
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.selection import choose
from tp_dspy.scoring.outcomes import Outcome

WORTH = PhaseScore(ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}))
OWN = Candidate({"self": "own"})


def standing(candidate: Candidate, right: int, of: int) -> Standing:
    hits = [index < right for index in range(of)] if right >= 0 else []
    outcomes = [Outcome("ok", True, float(hit)) for hit in hits] or [Outcome("error")] * of
    return Standing(candidate, {"t": outcomes})


def finalists(rows: Sequence[tuple[Candidate, int, int]], *, of: int, fresh: bool = True) -> list[ScoredCandidate]:
    """Choose among candidates, by right answers out of 100 in the search and out of `of` in the selection."""
    history = History(WORTH)
    history.record([standing(candidate, earlier, 100) for candidate, earlier, _ in rows], [], 3)
    return choose([standing(candidate, now, of) for candidate, _, now in rows], history, WORTH, fresh=fresh)


def other(name: str) -> Candidate:
    return Candidate({"self": name}, "seed")


def test_a_dozen_examples_do_not_outweigh_a_hundred() -> None:
    ranked = finalists([(OWN, 40, 6), (other("good"), 80, 8), (other("lucky"), 55, 9)], of=12)
    assert [s.candidate.instructions["self"] for s in ranked] == ["good", "lucky", "own"]
    assert ranked[0].score < ranked[1].score and ranked[0].expected.mean > ranked[1].expected.mean
    assert {s.round for s in ranked} == {3}


def test_but_what_measures_below_the_original_is_not_chosen() -> None:
    ranked = finalists([(OWN, 40, 8), (other("good"), 80, 7)], of=12)
    assert ranked[0].candidate == OWN


@pytest.mark.parametrize(("search", "wins"), [((2, 8), True), ((5, 6), True), ((5, 5), False), ((8, 2), False)])
def test_all_examples_count_that_both_have_met(search: tuple[int, int], wins: bool) -> None:
    good, history = other("good"), History(WORTH)
    history.record([standing(OWN, 40, 100), standing(good, 80, 100)], [], 3)
    # Right on other examples: a difference that says little.
    standings = [standing(OWN, 8, 12), Standing(good, {"t": standing(good, 7, 12).outcomes["t"][::-1]})]
    own = standing(OWN, search[0], 10)
    before = [(own, own), (own, standing(good, search[1], 10))]
    ranked = choose(standings, history, WORTH, fresh=True, before=before)
    assert (ranked[0].candidate == good) is wins


def test_without_fresh_examples_nothing_is_learnt() -> None:
    rows = [(OWN, 40, 40), (other("good"), 80, 80)]
    history = History(WORTH)
    history.record([standing(candidate, earlier, 100) for candidate, earlier, _ in rows], [], 3)
    ranked = finalists(rows, of=100, fresh=False)
    assert [s.expected for s in ranked] == [history[s.candidate].expected for s in ranked]


def test_a_finalist_without_a_history_or_a_score_takes_part_all_the_same() -> None:
    history = History(WORTH)
    history.record([standing(OWN, 5, 10)], [], 0)
    ranked = choose([standing(OWN, 5, 10), standing(other("new"), 9, 10)], history, WORTH, fresh=True)
    assert [s.candidate.instructions["self"] for s in ranked] == ["new", "own"]
    ranked = choose([standing(OWN, -1, 10), standing(other("new"), -1, 10)], history, WORTH, fresh=True)
    assert ranked[0].candidate == OWN and ranked[0].score != ranked[0].score


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 12)), min_size=1, max_size=6), st.booleans())
def test_the_winner_never_measures_below_the_original(rows: list[tuple[int, int]], fresh: bool) -> None:
    named = [(OWN if index == 0 else other(str(index)), *row) for index, row in enumerate(rows)]
    ranked = finalists(named, of=12, fresh=fresh)
    own = next(s for s in ranked if s.candidate == OWN)
    assert ranked[0].score >= own.score and len(ranked) == len(rows)


def test_of_equals_the_original_wins() -> None:
    assert finalists([(OWN, 50, 6), (other("same"), 50, 6)], of=12)[0].candidate == OWN
    known = Candidate({"self": "own"}, prior=Belief(0.5, 0.05))
    same = Candidate({"self": "same"}, "source", Belief(0.5, 0.05))
    assert finalists([(known, 50, 6), (same, 50, 6)], of=12)[0].candidate == OWN
