"""How far a race step goes, and when a phase has done enough."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.racing import FullScoring, Standing, step_ends
from tp_dspy.optimization.stopping import Patience, Progress, ScorerCalls, TargetScore
from tp_dspy.scoring.outcomes import Outcome

PROGRESS = Progress(round=3, best=0.6, rounds_without_gain=1, scorer_calls=90, next_calls=10)


def test_full_scoring_keeps_everyone_in_one_step() -> None:
    standings = [Standing(Candidate({"self": text}), {"t": [Outcome("ok")]}) for text in "abc"]
    assert list(FullScoring().survivors(standings, 1.0)) == [standing.candidate for standing in standings]
    assert step_ends({"t": 7, "u": 3}, FullScoring().checkpoints) == [{"t": 7, "u": 3}]


def test_a_share_of_whole_examples_is_not_rounded_up_by_a_hair() -> None:
    assert step_ends({"t": 30, "u": 1}, (0.1, 0.5, 1.0)) == [{"t": 3, "u": 1}, {"t": 15, "u": 1}, {"t": 30, "u": 1}]
    assert step_ends({"t": 10}, (0.7, 1.0))[0] == {"t": 7}
    assert step_ends({"t": 0}, (1.0,)) == [{"t": 0}]


@given(
    st.dictionaries(st.text(), st.integers(0, 1000), min_size=1),
    st.lists(st.floats(0.001, 0.999), unique=True).map(lambda shares: [*sorted(shares), 1.0]),
)
def test_steps_only_go_on_and_end_with_everything(sizes: dict[str, int], shares: list[float]) -> None:
    ends = step_ends(sizes, shares)
    assert ends[-1] == sizes
    assert all(a[name] <= b[name] for a, b in itertools.pairwise(ends) for name in sizes)
    assert all(end[name] > 0 for end in ends for name in sizes if sizes[name])


@pytest.mark.parametrize("shares", [(), (0.5,), (0.0, 1.0), (0.5, 0.5, 1.0), (1.0, 0.5), (0.5, 1.5)])
def test_checkpoints_that_would_leave_candidates_on_unequal_examples_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="checkpoints"):
        step_ends({"t": 10}, shares)


def test_patience_counts_rounds_without_gain() -> None:
    assert Patience(2)(PROGRESS) is None
    assert Patience(1)(PROGRESS) == "no gain in 1 rounds"
    with pytest.raises(ConfigurationError, match="Patience is 0"):
        Patience(0)


def test_the_target_score_counts_once_it_is_reached() -> None:
    assert TargetScore(0.61)(PROGRESS) is None
    assert TargetScore(0.6)(PROGRESS) == "target score 0.6 reached"
    assert TargetScore(0.0)(replace(PROGRESS, best=float("nan"))) is None


def test_the_budget_may_be_spent_to_the_last_call() -> None:
    assert ScorerCalls(100)(PROGRESS) is None
    assert ScorerCalls(99)(PROGRESS) == "the next round would pass 99 scorer calls"
    with pytest.raises(ConfigurationError, match="ScorerCalls is 0"):
        ScorerCalls(0)
