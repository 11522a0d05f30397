"""Constraints in the search: who misses one ranks below all that keep them, everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import dspy
import pytest

from programs.benchmarks.scripted import PromptView, scripted_lm
from tp_dspy import ObjectiveEvaluator, Task, TransferPrompting
from tp_dspy.lms.adapter import InstructionAdapter
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.history import History
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.racing import PairedBootstrap
from tp_dspy.optimization.reference import _by_instruction
from tp_dspy.optimization.selection import choose
from tp_dspy.scoring.outcomes import Outcome

OBJECTIVE = ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}, constraints={"ifr": 0.95})
WORTH = PhaseScore(OBJECTIVE)
OWN = Candidate({"self": "own"})


def standing(name: str, right: int, followed: int, of: int = 20, tasks: int = 1) -> Standing:
    outcomes = [Outcome("ok", index < followed, float(index < right)) for index in range(of)]
    candidate = OWN if name == "own" else Candidate({"self": name}, "seed")
    return Standing(candidate, {f"task{number}": outcomes for number in range(tasks)})


def names(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.instructions["self"] for candidate in candidates]


# Accuracy alone would rank: sloppy, loose, kept, own.
FIELD = [standing("own", 4, 20), standing("sloppy", 18, 8), standing("kept", 10, 19), standing("loose", 14, 18)]


def test_the_history_ranks_whoever_keeps_them_first_then_by_how_much_is_missed() -> None:
    history = History(WORTH)
    history.record(FIELD, [], 0)
    assert names([scored.candidate for scored in history.ranked()]) == ["kept", "own", "loose", "sloppy"]
    assert [round(scored.violation, 3) for scored in history.ranked()] == [0.0, 0.0, 0.05, 0.55]


def test_the_reference_lm_is_shown_them_in_that_order() -> None:
    history = History(WORTH)
    history.record(FIELD, [], 0)
    shown = _by_instruction(history.worst_first(), "self")
    assert [text for text, _ in shown] == ["sloppy", "loose", "own", "kept"]
    scores = [score for _, score in shown]
    assert scores == sorted(scores) and scores[1] < scores[2]


def test_racing_drops_whoever_surely_misses_one() -> None:
    """The one that scores best but breaks the format goes; the one that might just keep it stays.

    So does the original, which surely keeps it: chance may yet have it that no better one does.
    """
    assert names(PairedBootstrap().survivors(FIELD, 0.5, WORTH)) == ["own", "kept", "loose"]
    free = PhaseScore(ObjectiveEvaluator(confidence=None, weights={"accuracy": 1.0}))
    assert names(PairedBootstrap().survivors(FIELD, 0.5, free)) == ["sloppy"]


def test_the_winner_keeps_them_where_anyone_does() -> None:
    history = History(WORTH)
    history.record(FIELD, [], 0)
    ranked = choose(FIELD, history, WORTH, fresh=True)
    assert names([scored.candidate for scored in ranked])[:2] == ["kept", "own"]
    # Nobody does: then who misses least, though another scores better, and the original too.
    nobody = [standing("own", 12, 10), standing("sloppy", 18, 8), standing("loose", 11, 16)]
    ranked = choose(nobody, History(WORTH), WORTH, fresh=True)
    assert names([scored.candidate for scored in ranked])[0] == "loose"


def test_a_constraint_must_be_kept_on_every_task() -> None:
    both = standing("both", 10, 20, tasks=2)
    half = Standing(
        Candidate({"self": "half"}),
        {"task0": both.outcomes["task0"], "task1": [Outcome("ok", index > 3, 1.0) for index in range(20)]},
    )
    scored = {s.candidate.instructions["self"]: WORTH.of(s) for s in (both, half)}
    assert scored["half"].score > scored["both"].score and scored["half"].rank < scored["both"].rank
    assert scored["half"].violation == pytest.approx((0.0 + 0.15) / 2)


# A compile.

WORDY, EXACT = "Explain at length.", "Only one word."


def answers(prompt: PromptView) -> str:
    """Told to explain, the LM is always right and never in the format; in one word it is right four times of five."""
    number = int(prompt.user.split("Item ")[1].split(".")[0])
    right = "yes" if number % 2 else "no"
    if WORDY in prompt.text:
        return f"{right}, because of what item {number} says"
    if EXACT not in prompt.text:
        return "no"
    wrong = {"yes": "no", "no": "yes"}[right]
    return wrong if number % 5 == 0 else right


@pytest.mark.parametrize(
    ("constraints", "winner"),
    [(None, WORDY), ({"ifr": 0.95}, EXACT), ({"ifr": 1.0, "accuracy": 1.0}, EXACT)],  # The last: nobody keeps both.
)
def test_a_compile_keeps_them(
    constraints: dict[str, float] | None, winner: str, caplog: pytest.LogCaptureFixture
) -> None:
    examples = [
        dspy.Example(question=f"Item {n}.", answer="yes" if n % 2 else "no", choices=["yes", "no"]).with_inputs(
            "question"
        )
        for n in range(80)
    ]
    objective = ObjectiveEvaluator(
        confidence=None, strict=True, weights={"accuracy": 0.95, "ifr": 0.05}, constraints=constraints
    )
    silent = scripted_lm(lambda prompt: "")
    teleprompter = TransferPrompting(
        objective,
        reference_lm=silent,
        scorer_lm=scripted_lm(answers),
        rounds=0,
        examples=20,
        verbose=False,
        seed_instructions=[WORDY, EXACT],
    )
    with dspy.context(adapter=InstructionAdapter()):
        program = dspy.Predict(dspy.Signature("question -> answer", "Answer."))
        compiled = teleprompter.compile(
            program, trainset=examples[:20], valset=examples[20:40], source_tasks=[Task("t", train=examples[40:])]
        )
        kept = objective.evaluate(compiled, examples, lm=teleprompter.scorer.lm)
    assert compiled.detailed_results.winner.instructions == {"self": winner}
    assert kept.metrics.ifr == (1.0 if constraints else 0.0)
    missed = bool(constraints and "accuracy" in constraints)
    assert (kept.metrics.violation > 0.0) is missed
    assert ("No prompt keeps all constraints; the best on target: accuracy is 0." in caplog.text) is missed
