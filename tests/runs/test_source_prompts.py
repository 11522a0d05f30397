"""Source prompts put together, taken apart and looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tp_dspy.errors import ConfigurationError, ProgramError
from tp_dspy.optimization.candidates import Candidate, Origin, ScoredCandidate
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.set_objective import Metrics
from tp_dspy.tasks.task import Task

NAN = float("nan")
DOMAINS = {"anatomy": "medical", "virology": "medical", "law": "legal", "jurisprudence": "legal", "fomc": "financial"}


def metrics(score: float, n: int = 10) -> Metrics:
    return Metrics(n, 0, 1.0, score, 0.1, NAN, NAN, NAN, 0.2, score, 1.0)


def scored(text: str, by_task: Mapping[str, float], origin: Origin = "proposal", name: str = "self") -> ScoredCandidate:
    mean = sum(by_task.values()) / len(by_task)
    by_metrics = {task: metrics(score) for task, score in by_task.items()}
    return ScoredCandidate(Candidate({name: text}, origin), mean, by_metrics, 0, Belief(mean, 0.02))


def task(name: str) -> Task:
    import dspy

    examples = [dspy.Example(question=f"{name} {i}", answer="A").with_inputs("question") for i in range(10)]
    return Task(name, train=examples, domain=DOMAINS[name])


def sources(
    by_text: Mapping[str, Mapping[str, float]], *, name: str = "self", top_k: int = 3, lm: str = "local/a"
) -> SourcePrompts:
    """The first text is the original's."""
    made = [
        scored(text, by_task, "original" if index == 0 else "proposal", name)
        for index, (text, by_task) in enumerate(by_text.items())
    ]
    ranked = sorted(made, key=lambda s: s.score, reverse=True)
    usage = Usage(10, 0, 100, 50, None)
    phase = PhaseResult(tuple(ranked), tuple(made), (), (), "all rounds done", usage, usage, 0.03)
    tasks = [task(t) for t in next(iter(by_text.values()))]
    return SourcePrompts.of(phase, made[0].candidate, tasks, top_k, {"scorer_lm": lm, "top_k": top_k})


def texts(made: SourcePrompts) -> list[str]:
    return [record.instructions["self"] for record in made.prompts]


MEDICAL = sources(
    {
        "Answer.": {"anatomy": 0.5, "virology": 0.3},
        "Be careful.": {"anatomy": 0.6, "virology": 0.4},
        "Think of the body.": {"anatomy": 0.9, "virology": 0.3},
    }
)
# The same prompts do much better here: the tasks are easier, by 0.3.
LEGAL = sources(
    {
        "Answer.": {"law": 0.7, "jurisprudence": 0.7},
        "Cite.": {"law": 0.82, "jurisprudence": 0.74},
        "Guess.": {"law": 0.6, "jurisprudence": 0.6},
    }
)


def test_merged_prompts_are_compared_at_one_level() -> None:
    both = MEDICAL.merge(LEGAL)
    # By their gain over the original: +0.20, +0.10, +0.08, 0, -0.10; not by scores, of which the legal ones lead.
    assert texts(both) == ["Think of the body.", "Be careful.", "Cite.", "Answer.", "Guess."]
    assert both.original.score == pytest.approx((0.5 + 0.3 + 0.7 + 0.7) / 4)
    assert set(both.original.by_task) == {"anatomy", "virology", "law", "jurisprudence"}
    own = both.original.score
    assert [record.score - own for record in both.prompts] == pytest.approx([0.2, 0.1, 0.08, 0.0, -0.1])
    assert [record.expected.mean - own for record in both.prompts] == pytest.approx([0.2, 0.1, 0.08, 0.0, -0.1])
    assert [t.name for t in both.tasks] == ["anatomy", "virology", "law", "jurisprudence"]
    assert both.phase.scorer_usage == Usage(20, 0, 200, 100, None)
    assert both.phase.stopped == "merged"


def test_merged_prompts_are_saved_carried_over_and_cut(tmp_path: Path) -> None:
    both = MEDICAL.merge(LEGAL, top_k=2)
    again = SourcePrompts.load(both.save(tmp_path / "both.json"))
    assert again.model_dump_json() == both.model_dump_json()
    carried = again.candidates(Candidate({"predict": "Answer."}, "original"), 5)
    assert [c.candidate.instructions for c in carried] == [
        {"predict": "Think of the body."},
        {"predict": "Be careful."},
    ]
    assert all(c.candidate.origin == "source" and c.candidate.prior is not None for c in carried)


def test_merging_with_itself_changes_no_order_and_no_level() -> None:
    twice = LEGAL.merge(LEGAL, top_k=3)
    assert texts(twice) == texts(LEGAL)
    assert [r.score for r in twice.prompts] == pytest.approx([r.score for r in LEGAL.prompts])
    assert len(twice.phase.ranked) == len(LEGAL.phase.ranked)
    # The same prompt measured twice is known better; whoever merges a file with itself fools himself.
    assert twice.prompts[0].expected.sd < LEGAL.prompts[0].expected.sd


def test_lms_that_differ_are_both_named() -> None:
    other = sources({"Answer.": {"fomc": 0.4}, "Be brief.": {"fomc": 0.5}}, lm="local/b")
    assert MEDICAL.merge(other).settings["scorer_lm"] == "local/a and local/b"
    assert MEDICAL.merge(LEGAL).settings["scorer_lm"] == "local/a"


def test_what_cannot_be_merged() -> None:
    strangers = sources({"Reply.": {"fomc": 0.4}, "Be brief.": {"fomc": 0.5}})
    with pytest.raises(ConfigurationError, match="no prompt in common"):
        MEDICAL.merge(strangers)
    with pytest.raises(ConfigurationError, match="top_k is 0"):
        MEDICAL.merge(LEGAL, top_k=0)
    steps = LEGAL.model_copy(
        update={"original": LEGAL.original.model_copy(update={"instructions": {"facts": "F", "decide": "D"}})}
    )
    with pytest.raises(ProgramError, match=r"\['facts', 'decide'\].*\['self'\]"):
        MEDICAL.merge(steps)


def test_one_predictor_takes_the_prompts_of_one_of_another_name() -> None:
    other = sources({"Answer.": {"fomc": 0.4}, "Be brief.": {"fomc": 0.8}}, name="decide")
    both = MEDICAL.merge(other)
    assert texts(both)[0] == "Be brief."
    assert {name for record in both.phase.history for name in record.instructions} == {"self"}
    assert both.prompts[0].id == Candidate({"self": "Be brief."}).id


def test_filtering_ranks_anew_by_what_is_left() -> None:
    assert texts(MEDICAL) == ["Think of the body.", "Be careful.", "Answer."]
    only = MEDICAL.filter(tasks=["virology"])
    assert texts(only)[0] == "Be careful."
    best = only.prompts[0]
    assert best.score == pytest.approx(0.4) and set(best.by_task) == {"virology"}
    assert best.expected.mean == pytest.approx(0.4)
    assert best.expected.sd == pytest.approx(0.02 * math.sqrt(2)), "half of the evidence is gone"
    assert [t.name for t in only.tasks] == ["virology"]
    assert only.original.score == pytest.approx(0.3)
    assert all(set(record.by_task) == {"virology"} for record in only.phase.history)


def test_filtering_by_domain_undoes_a_merge() -> None:
    medical = MEDICAL.merge(LEGAL).filter(domains=["medical"])
    assert texts(medical)[:3] == texts(MEDICAL)
    assert [t.domain for t in medical.tasks] == ["medical", "medical"]
    assert [r.score for r in medical.prompts[:3]] == pytest.approx([r.score for r in MEDICAL.prompts])


def test_filtering_by_what_is_not_there_lists_what_is() -> None:
    with pytest.raises(ConfigurationError, match=r"'anatomie', 'surgical'.*\['anatomy', 'virology'\].*\['medical'\]"):
        MEDICAL.filter(tasks=["anatomie"], domains=["surgical"])
    with pytest.raises(ConfigurationError, match="Nothing was named"):
        MEDICAL.filter()


def test_each_prompt_is_shown_with_its_metrics_on_each_task() -> None:
    frame = MEDICAL.to_frame()
    assert list(frame.index) == [(p, t) for p in (1, 2, 3) for t in ("anatomy", "virology")]
    assert frame.loc[(1, "anatomy"), "score"] == 0.9
    assert frame.loc[(2, "virology"), "self"] == "Be careful."
    assert {"ifr", "accuracy", "ece", "origin"} <= set(frame.columns)
    text = str(MEDICAL)
    for words in ("anatomy", "virology", "0.900 (1.00, 0.90)", "Think of the body."):
        assert words in text
    cut = sources({"Answer.": {"law": 0.1}, "Cite.": {"law": 0.5}}, top_k=1)
    assert list(cut.to_frame().index.get_level_values("prompt")) == [1, 0], "the original is there too, as 0"
    assert "original: Answer." in str(cut)


scores = st.floats(0.0, 1.0, allow_nan=False)


@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=5), st.floats(-0.3, 0.3))
def test_however_hard_the_tasks_the_merge_keeps_the_order_within_each(
    rows: list[tuple[float, float]], easier: float
) -> None:
    first = sources({f"P{i}": {"law": a, "fomc": b} for i, (a, b) in enumerate(rows)}, top_k=9)
    shifted = {"P0": {"anatomy": rows[0][0] + easier}} | {
        f"Q{i}": {"anatomy": a + easier} for i, (a, _) in enumerate(rows[1:], start=1)
    }
    merged = first.merge(sources(shifted, top_k=9))
    place = {record.instructions["self"]: record.score for record in merged.prompts}
    for index in range(1, len(rows) - 1):
        gap = (sum(rows[index]) - sum(rows[index + 1])) / 2
        assert place[f"P{index}"] - place[f"P{index + 1}"] == pytest.approx(gap, abs=1e-9)
        gap = rows[index][0] - rows[index + 1][0]
        assert place[f"Q{index}"] - place[f"Q{index + 1}"] == pytest.approx(gap, abs=1e-9)
    assert len(place) == 2 * len(rows) - 1
