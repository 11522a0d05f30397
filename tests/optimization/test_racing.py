"""How far a race step goes, and who is dropped on the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy import ObjectiveEvaluator
from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.racing import (
    ExpectedGain,
    FullScoring,
    PairedBootstrap,
    _foreseen,
    race,
    step_ends,
    usual_share,
    worth_going_on,
)
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.outcomes import Outcome

WORTH = PhaseScore(ObjectiveEvaluator())


def test_full_scoring_keeps_everyone_in_one_step() -> None:
    standings = [Standing(Candidate({"self": text}), {"t": [Outcome("ok")]}) for text in "abc"]
    assert list(FullScoring().survivors(standings, 1.0, WORTH)) == [standing.candidate for standing in standings]
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


# Racing by a paired bootstrap.

ACCURACY = PhaseScore(ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}))


def runner(name: str, right: Sequence[float]) -> Standing:
    return Standing(Candidate({"self": name}), {"t": [Outcome("ok", True, float(hit)) for hit in right]})


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.instructions["self"] for candidate in candidates]


def test_the_clearly_worse_go_and_ties_and_the_close_stay() -> None:
    good = [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]
    field = [runner("best", good), runner("twin", good), runner("close", [*good[:-1], 0]), runner("bad", [0] * 12)]
    assert names(PairedBootstrap().survivors(field, 0.5, ACCURACY)) == ["best", "twin", "close"]
    assert names(PairedBootstrap(keep=4).survivors(field, 0.5, ACCURACY)) == names([s.candidate for s in field])
    # Against the third best, the same one is as bad.
    assert names(PairedBootstrap(keep=3).survivors(field, 0.5, ACCURACY)) == ["best", "twin", "close"]


def test_a_handful_of_examples_tells_nothing() -> None:
    field = [runner("best", [1] * 7), runner("bad", [0] * 7)]
    assert len(PairedBootstrap().survivors(field, 0.25, ACCURACY)) == 2
    field = [runner("best", [1] * 8), runner("bad", [0] * 8)]
    assert len(PairedBootstrap().survivors(field, 0.25, ACCURACY)) == 1


def test_of_two_equally_good_one_is_dropped_as_often_as_alpha_says_over_all_checkpoints() -> None:
    rng = np.random.default_rng(0)
    rule, lost = PairedBootstrap(alpha=0.3), 0
    for _ in range(150):
        hits = rng.random((2, 80)) < 0.6
        for share in rule.checkpoints[:-1]:
            end = round(80 * share)
            kept = names(rule.survivors([runner(n, h[:end]) for n, h in zip("ab", hits, strict=True)], share, ACCURACY))
            if "a" not in kept:
                lost += 1
            if len(kept) < 2:
                break
    assert 0.08 < lost / 150 < 0.3, lost


def test_the_whole_objective_is_compared_and_not_accuracy_alone() -> None:
    right = [1.0, 0.0] * 12
    calibrated = [Outcome("ok", True, hit, 0.9 if hit else 0.1) for hit in right]
    inverted = [Outcome("ok", True, hit, 0.1 if hit else 0.9) for hit in right]
    field = [
        Standing(Candidate({"self": n}), {"t": o}) for n, o in [("calibrated", calibrated), ("inverted", inverted)]
    ]
    assert names(PairedBootstrap().survivors(field, 0.5, WORTH)) == ["calibrated"]
    assert len(PairedBootstrap().survivors(field, 0.5, ACCURACY)) == 2


@pytest.mark.parametrize("settings", [{"keep": 0}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_settings_that_cannot_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="PairedBootstrap has"):
        PairedBootstrap(**settings)


def test_a_race_against_incumbents_may_drop_all_that_are_new_and_asks_incumbents_nothing_new() -> None:
    examples = [dspy.Example(question=str(i)).with_inputs("question") for i in range(16)]
    asked: list[tuple[list[str], int]] = []

    def outcomes(candidates: Sequence[Candidate], panel: dict[str, list[dspy.Example]]) -> list[Standing]:
        asked.append((names(candidates), len(panel["t"])))
        return [runner(n, [n == "good"] * len(panel["t"])) for n in names(candidates)]

    good, bad = Candidate({"self": "good"}), Candidate({"self": "bad"})
    arguments = {"rule": PairedBootstrap(), "worth": ACCURACY, "outcomes": outcomes}
    ended = race([bad, bad], {"t": examples}, incumbents=[good], **arguments)
    assert ended.halted is None and not ended.reached and not ended.unfinished
    assert [(names([s.candidate]), len(s.outcomes["t"])) for s in ended.dropped] == [(["bad"], 8)]
    assert asked == [(["good", "bad"], 4), (["good", "bad"], 8)]
    reached = race([good, bad], {"t": examples}, incumbents=[good], **arguments).reached
    assert names([s.candidate for s in reached]) == ["good"] and len(reached[0].outcomes["t"]) == 16


def test_a_race_that_is_halted_drops_nobody_but_whom_the_rule_dropped() -> None:
    examples = [dspy.Example(question=str(i)).with_inputs("question") for i in range(16)]

    def outcomes(candidates: Sequence[Candidate], panel: dict[str, list[dspy.Example]]) -> list[Standing]:
        if len(panel["t"]) > 12:
            raise HaltedError("interrupted")
        return [runner(n, [n != "bad"] * len(panel["t"])) for n in names(candidates)]

    field = [Candidate({"self": name}) for name in ("good", "bad", "fair")]
    ended = race(field, {"t": examples}, rule=PairedBootstrap(), worth=ACCURACY, outcomes=outcomes)
    assert not ended.reached and ended.halted == "interrupted"
    assert [(names([s.candidate]), len(s.outcomes["t"])) for s in ended.dropped] == [(["bad"], 8)]
    assert [(names([s.candidate]), len(s.outcomes["t"])) for s in ended.unfinished] == [(["good"], 12), (["fair"], 12)]


# Racing by expected gain.


def test_whoever_promises_no_gain_goes_and_the_best_stay() -> None:
    good = [1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1]
    field = [runner("best", good), runner("close", [*good[:-1], 0]), runner("bad", [0] * 12)]
    assert names(ExpectedGain().survivors(field, 0.5, ACCURACY)) == ["best", "close"]
    # At a price that nobody is worth, only those that are wanted stay.
    assert names(ExpectedGain(price=0.5).survivors(field, 0.5, ACCURACY)) == ["best"]
    assert names(ExpectedGain(keep=2, price=0.5).survivors(field, 0.5, ACCURACY)) == ["best", "close"]


def test_a_handful_of_examples_tells_those_apart_that_are_worlds_apart() -> None:
    """With an idea of how much chance there is before anything was seen; three are too few for anything."""
    field = [runner("good", [1, 1, 1, 1]), runner("bad", [0, 0, 0, 0]), runner("never", [0, 0, 0, 0])]
    assert names(ExpectedGain().survivors(field, 0.25, ACCURACY)) == ["good"]
    near = [runner("good", [1, 1, 1, 0]), runner("near", [1, 0, 1, 1]), runner("never", [0, 0, 0, 0])]
    assert names(ExpectedGain().survivors(near, 0.25, ACCURACY))[:2] == ["good", "near"]
    assert len(ExpectedGain().survivors([runner("a", [1] * 3), runner("b", [0] * 3)], 0.25, ACCURACY)) == 2


def test_a_single_example_of_each_of_many_tasks_says_nothing_of_chance() -> None:
    def spread(name: str, right: list[int]) -> Standing:
        outcomes = runner(name, right).outcomes["t"]
        return Standing(runner(name, right).candidate, {f"task {i}": [one] for i, one in enumerate(outcomes)})

    field = [spread("good", [1] * 8), spread("bad", [0] * 8), spread("fair", [1, 0] * 4)]
    assert len(ExpectedGain().survivors(field, 0.25, ACCURACY)) == 3


def test_the_usual_share_is_all_where_nobody_can_be_dropped() -> None:
    def panel(size: int) -> dict[str, list[dspy.Example]]:
        return {"t": [dspy.Example(question=str(i)) for i in range(size)]}

    assert usual_share(FullScoring(), panel(20)) == 1.0
    assert usual_share(ExpectedGain(), panel(4)) == 1.0, "looks after one, two and three are too early"
    assert usual_share(ExpectedGain(), panel(20)) == usual_share(ExpectedGain(), panel(6)) == 0.5


def test_a_tie_that_hardly_matters_is_not_paid_for_to_the_end() -> None:
    """A test keeps two that it cannot tell apart, however little there is between them."""
    scores, near = np.array([0.701, 0.700, 0.5]), 0.001
    assert (scores[0] - scores[1]) / (math.sqrt(2) * near) < 0.8  # No test would drop the second.
    assert worth_going_on(scores, near, 0.5, keep=1, price=0.001).tolist() == [True, False, False]
    # With more chance, as much may lie between them in the end as it costs to find out.
    assert worth_going_on(scores, 0.02, 0.5, keep=1, price=0.001).tolist() == [True, True, False]
    # And what costs next to nothing is done.
    assert worth_going_on(scores, near, 0.5, keep=1, price=0.00001).tolist() == [True, True, False]


def test_among_many_that_are_alike_it_saves_most_of_the_examples() -> None:
    """Ten prompts within a point, two far below: a test goes on with the ten to the end."""
    rng = np.random.default_rng(0)
    used, lost = {"gain": 0, "test": 0}, {"gain": 0.0, "test": 0.0}
    for _ in range(100):
        worth = np.r_[0.7 + rng.uniform(0.0, 0.01, 10), 0.5, 0.5]
        blocks = worth[:, None] + rng.normal(0.0, 0.03, (12, 10))
        for name in used:
            alive = np.arange(12)
            for met in range(1, 11):
                used[name] += len(alive)
                if met == 10 or len(alive) == 1:
                    break
                means, error = blocks[alive, :met].mean(axis=1), 0.03 / math.sqrt(met)
                if name == "gain":
                    stay = worth_going_on(means, error, met / 10, keep=1, price=0.002)
                else:
                    stay = means >= means.max() - 1.28 * math.sqrt(2) * error  # alpha 0.1
                alive = alive[stay]
            ends = blocks.mean(axis=1)
            lost[name] += (ends.max() - ends[alive[np.argmax(blocks[alive, :met].mean(axis=1))]]) / 100
    assert used["gain"] < 0.8 * used["test"]
    assert lost["gain"] < lost["test"] + 0.003


def test_what_a_source_phase_knows_is_used() -> None:
    """Three that scored alike: the one that the sources speak against goes."""
    rng = np.random.default_rng(0)
    field = [
        Standing(
            Candidate({"self": name}, "source", Belief(mean, 0.02)), runner(name, rng.permutation([1, 0] * 8)).outcomes
        )
        for name, mean in {"good": 0.6, "fair": 0.5, "poor": 0.4}.items()
    ]
    field += [runner("other", [1, 0, 0, 0] * 4)]
    assert "poor" not in names(ExpectedGain(price=0.025).survivors(field, 0.5, ACCURACY))
    plain = [Standing(replace(s.candidate, prior=None), s.outcomes) for s in field]
    assert "poor" in names(ExpectedGain(price=0.025).survivors(plain, 0.5, ACCURACY))


def test_whoever_surely_misses_a_constraint_goes_though_it_scores_best() -> None:
    worth = PhaseScore(ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}, constraints={"ifr": 0.95}))
    sloppy = Standing(Candidate({"self": "sloppy"}), {"t": [Outcome("ok", i < 8, 1.0) for i in range(20)]})
    kept = Standing(Candidate({"self": "kept"}), {"t": [Outcome("ok", True, float(i < 12)) for i in range(20)]})
    assert names(ExpectedGain().survivors([sloppy, kept], 0.5, worth)) == ["kept"]
    assert names(ExpectedGain().survivors([sloppy, kept], 0.5, ACCURACY)) == ["sloppy"]


@pytest.mark.parametrize("settings", [{"keep": 0}, {"price": 0.0}, {"price": 1.0}])
def test_a_gain_that_cannot_be_priced_is_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="ExpectedGain has"):
        ExpectedGain(**settings)


@given(
    st.lists(st.floats(0.2, 0.9), min_size=3, max_size=12),
    st.floats(0.01, 0.2),
    st.sampled_from([0.001, 0.01, 0.05]),
    st.sampled_from([1, 2]),
)
def test_whoever_is_worth_it_to_the_end_is_worth_it_with_looks_on_the_way(
    scores: list[float], error: float, price: float, keep: int
) -> None:
    given_ = np.array(scores)
    to_the_end = worth_going_on(given_, error, 0.25, keep=keep, price=price)
    with_looks = worth_going_on(given_, error, 0.25, keep=keep, price=price, ahead=(0.5, 0.75))
    assert (with_looks | ~to_the_end).all() and with_looks.sum() >= keep


def test_a_near_tie_is_worth_a_few_examples_at_a_price_that_it_is_not_worth_to_the_end() -> None:
    scores = np.array([0.62, 0.60, 0.30])
    assert worth_going_on(scores, 0.03, 0.25, keep=1, price=0.02).tolist() == [True, False, False]
    assert worth_going_on(scores, 0.03, 0.25, keep=1, price=0.02, ahead=(0.3,)).tolist() == [True, True, False]


@given(st.floats(0.05, 0.9), st.floats(0.0, 0.01), st.floats(1e-6, 0.01))
def test_what_is_foreseen_grows_with_the_examples_to_come(share: float, worth: float, example: float) -> None:
    rest = 1.0 - share
    moved = [_foreseen(part * rest, rest, worth, example) for part in (0.1, 0.4, 0.7, 1.0)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(moved))
    # At the end all is known: what it is worth, and the chance of what was left.
    assert moved[-1] == pytest.approx(math.sqrt(rest**2 * worth + rest * example))
