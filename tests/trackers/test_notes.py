"""What is logged of a compile, as figures, words and tables: exact values, without a tracker."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.trackers.conftest import Lab
from tp_dspy import Event, ScorerCalls, SourcePrompts, Usd
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.events import OutcomeArrived, PhaseBegan, PhaseEnded, Planned, RoundEnded, Spending
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.reference import Proposal
from tp_dspy.optimization.stopping import Spent
from tp_dspy.runs.events import Compiled, Constructed, Failed, Measured
from tp_dspy.runs.side_by_side import PromptRecord, SideBySide
from tp_dspy.scoring.comparison import Comparison
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.set_objective import Metrics
from tp_dspy.trackers.notes import _compared, flattened, key, keys, notes_of, prompts_text

NAN = math.nan


def metrics(accuracy: float, auroc: float = NAN, **custom: float) -> Metrics:
    return Metrics(4, 0, 1.0, accuracy, 0.25, auroc, NAN, NAN, NAN, accuracy, 1.0, 0.0, custom)


def scored(text: str, score: float, round: int = 0, *, origin: Any = "proposal", **more: Any) -> ScoredCandidate:
    by_task = more.pop("by_task", {"t": metrics(score)})
    return ScoredCandidate(Candidate({"predict": text}, origin), score, by_task, round, **more)


ORIGINAL = scored("Answer.", 0.25, origin="original")
BETTER = scored("Answer calmly.", 0.5, 1, expected=Belief(0.45, 0.1))
DROPPED = scored("Answer wildly.", 0.9, 1)
BEST = scored("Answer calmly and only.", 0.75, 2)


def result(*ranked: ScoredCandidate, history: tuple[ScoredCandidate, ...] = ()) -> PhaseResult:
    replies = [
        Proposal("<INS>Answer calmly.</INS>", "Answer calmly.", "predict", None, BETTER.candidate),
        Proposal("I cannot.", "", "predict", "no tags", None),
    ]
    return PhaseResult(
        ranked=ranked,
        history=history or ranked,
        dropped=(DROPPED.candidate,),
        proposals=tuple(replies),
        stopped="no gain in 2 rounds",
        scorer_usage=Usage(),
        reference_usage=Usage(),
    )


def test_what_is_planned_is_told_as_settings_in_one_level() -> None:
    plans = [
        PhasePlan("source", 10, 20, 5, 4),
        PhasePlan("target a/b", 1, 2, 3, 4),
        PhasePlan("target a:b", 1, 1, 1, 1),
    ]
    settings = {"scorer_lm": "openai/x", "objective": {"weights": {"ifr": 0.5}, "answer": ["a", "b"]}, "seed": 0}
    notes = notes_of(Planned("", plans, "At most: much.", settings, (ScorerCalls(100), Usd(1.5))))
    assert notes is not None and notes.params == {
        "scorer_lm": "openai/x",
        "objective.weights.ifr": 0.5,
        "objective.answer": '["a", "b"]',
        "seed": 0,
        "budget.scorer_calls": 100,
        "budget.usd": 1.5,
        "plan.source.scorer_calls": 35,
        "plan.source.reference_calls": 4,
        "plan.target_a_b-1.scorer_calls": 6,
        "plan.target_a_b-1.reference_calls": 4,
        "plan.target_a_b-2.scorer_calls": 3,
        "plan.target_a_b-2.reference_calls": 1,
    }
    assert notes.tags == {"state": "running", "plan": "At most: much."} and not notes.metrics


def test_a_round_tells_its_best_and_what_came_in_without_undefined_figures() -> None:
    notes = notes_of(RoundEnded("source", 1, result(BETTER, ORIGINAL, history=(ORIGINAL, BETTER, DROPPED))))
    assert notes is not None and (notes.target, notes.step, notes.axis) == ("", 1, "source/round")
    assert notes.metrics == {
        "source/best_score": 0.5,
        "source/best_gain": 0.25,
        "source/best_expected": 0.45,
        "source/best_ifr": 1.0,
        "source/best_accuracy": 0.5,
        "source/best_ece": 0.25,
        "source/best_coverage": 1.0,
        "source/round": 1.0,
        "source/candidates": 3.0,
        "source/dropped": 1.0,
        "source/proposals": 2.0,
        "source/usable": 1.0,
    }


def test_one_of_several_targets_has_the_same_figures_under_its_own_name() -> None:
    notes = notes_of(RoundEnded("target law/2024", 0, result(ORIGINAL)))
    assert notes is not None and notes.target == "law/2024" and notes.axis == "target/round"
    assert notes.metrics["target/best_score"] == 0.25 and notes.metrics["target/best_gain"] == 0.0


def test_a_phase_that_scored_nothing_tells_no_score() -> None:
    nothing = ScoredCandidate(ORIGINAL.candidate, NAN, {})
    notes = notes_of(PhaseEnded("target", result(nothing)))
    assert notes is not None and notes.metrics == {} and notes.tags == {"target_stopped": "no gain in 2 rounds"}


def test_a_metric_is_a_mean_over_tasks_and_left_out_where_one_of_them_has_none() -> None:
    by_task = {"a": metrics(0.25, 0.75, f1=0.5), "b": metrics(0.75, NAN, f1=1.0)}
    notes = notes_of(RoundEnded("source", 0, result(scored("X", 0.5, by_task=by_task))))
    assert notes is not None and notes.metrics["source/best_accuracy"] == 0.5
    assert notes.metrics["source/best_f1"] == 0.75 and "source/best_auroc" not in notes.metrics


def test_the_best_after_each_round_is_a_table_that_no_dropped_candidate_leads() -> None:
    history = (ORIGINAL, BETTER, DROPPED, BEST)
    notes = notes_of(PhaseEnded("source", result(BEST, ORIGINAL, history=history)))
    columns = ("round", "candidates", "dropped", "best", "score", "instructions")
    rows = [
        (0, 1, 0, ORIGINAL.candidate.id, 0.25, "Answer."),
        (1, 2, 1, BETTER.candidate.id, 0.5, "Answer calmly."),
        (2, 1, 0, BEST.candidate.id, 0.75, "Answer calmly and only."),
    ]
    assert notes is not None
    assert notes.tables == {"source_rounds": [dict(zip(columns, row, strict=True)) for row in rows]}
    assert notes.metrics["source/final_score"] == 0.75 and notes.metrics["source/final_gain"] == 0.5
    assert notes.texts["source_prompts.txt"] == (
        "== 1 (proposal), score 0.750\n\nAnswer calmly and only.\n\n== 2 (original), score 0.250\n\nAnswer.\n"
    )


def test_spending_is_told_by_scorer_calls_and_an_unknown_price_not_at_all() -> None:
    notes = notes_of(Spending("source", Spent(40, 3, 900, None, 1.5)))
    told = {"spent/scorer_calls": 40.0, "spent/reference_calls": 3.0, "spent/tokens": 900.0, "spent/seconds": 1.5}
    assert notes is not None and (notes.metrics, notes.step, notes.axis) == (told, 40, "spent/scorer_calls")
    assert not notes.tags
    end = notes_of(Spending("", Spent(40, 3, 900, 0.02, 1.5)))
    assert end is not None and end.metrics == {**told, "spent/usd": 0.02} and end.tags == {"state": "ended"}


def test_prompts_are_compared_by_figures_and_a_table() -> None:
    first = PromptRecord(instructions={}, metrics=metrics(0.25), intervals={"accuracy": (0.0, 0.5)}, outcomes=[])
    other = PromptRecord(instructions={}, metrics=metrics(0.75), intervals={"score": (0.5, 1.0)}, outcomes=[])
    less = Comparison(
        score=0.5,
        low=0.1,
        high=0.9,
        p_value=0.02,
        n=4,
        examples_needed=math.inf,
        by_metric={"accuracy": (0.5, 0.2, 0.8)},
    )
    sides = SideBySide(
        examples=[], prompts={"original": first, "best source": other}, differences={"best source": less}
    )
    notes = _compared("held_out", sides)
    assert notes.metrics == {
        "held_out/examples": 0.0,
        **{f"held_out/{name}/{metric}": value for name in ("original", "best_source") for metric, value in
           {"ifr": 1.0, "ece": 0.25, "coverage": 1.0}.items()},
        "held_out/original/accuracy": 0.25,
        "held_out/original/accuracy_low": 0.0,
        "held_out/original/accuracy_high": 0.5,
        "held_out/original/score": 0.25,
        "held_out/best_source/accuracy": 0.75,
        "held_out/best_source/score": 0.75,
        "held_out/best_source/score_low": 0.5,
        "held_out/best_source/score_high": 1.0,
        "held_out/best_source/difference": 0.5,
        "held_out/best_source/difference_low": 0.1,
        "held_out/best_source/difference_high": 0.9,
        "held_out/best_source/difference_p_value": 0.02,
    }  # fmt: skip
    row = next(r for r in notes.tables["held_out"] if r["prompt"] == "best source" and r["metric"] == "accuracy")
    ends = {"value": 0.75, "low": None, "high": None, "difference": 0.5, "difference_low": 0.2, "difference_high": 0.8}
    assert row == {"prompt": "best source", "metric": "accuracy", **ends}


def test_the_end_of_an_experiment_is_told_as_its_result_has_it(lab: Lab) -> None:
    heard: list[Event] = []
    report = lab.experiment(heard.append)
    found = next(event for event in heard if isinstance(event, Compiled)).result
    notes = notes_of(next(event for event in heard if isinstance(event, Compiled)))
    assert notes is not None and notes.metrics["final/score"] == found.winner.score
    assert notes.metrics["final/original_score"] == found.original.score
    assert notes.metrics["final/gain"] == found.winner.score - found.original.score
    assert notes.metrics["final/scorer_calls"] == found.scorer_usage.calls
    assert notes.metrics["final/reference_calls"] == found.reference_usage.calls
    assert notes.metrics["selection/target/score"] == found.selection.prompts["target"].metrics.score
    assert notes.tags["origin"] == found.winner.origin and notes.tags["stopped"] == "all rounds done"
    assert notes.tags["state"] == "compiled" and notes.tags["version_dspy"] == found.versions["dspy"]

    measured = notes_of(next(event for event in heard if isinstance(event, Measured)))
    paired = report.held_out.compare("target")
    assert measured is not None and measured.metrics["held_out/examples"] == 10
    assert measured.metrics["held_out/scorer_calls"] == report.held_out.usage.calls
    told = [measured.metrics[f"held_out/target/difference{end}"] for end in ("", "_low", "_high", "_p_value")]
    assert told == [paired.score, paired.low, paired.high, paired.p_value]

    text = prompts_text(found)
    assert text.startswith("== Original (original), score") and "== Best source prompt" in text
    assert text.endswith(f"{next(iter(found.winner.instructions.values()))}\n")


def test_source_prompts_are_told_as_the_file_that_they_are_saved_to(lab: Lab) -> None:
    prompts = lab.construct()
    notes = notes_of(Constructed("source", prompts))
    assert notes is not None and not notes.target and not notes.metrics and set(notes.texts) == {"source_prompts.json"}
    loaded = SourcePrompts.model_validate_json(notes.texts["source_prompts.json"])
    assert loaded.model_dump_json() == prompts.model_dump_json()  # as JSON: one NaN is no other NaN


def test_a_failure_tells_its_reason() -> None:
    notes = notes_of(Failed("", KeyboardInterrupt()))
    assert notes is not None and notes.tags == {"state": "failed", "error": "KeyboardInterrupt: "}


@pytest.mark.parametrize("event", [PhaseBegan("source", 3, 2), OutcomeArrived("source", Outcome("ok"))])
def test_single_outcomes_are_not_logged(event: Event) -> None:
    assert notes_of(event) is None


def test_text_that_no_file_takes_is_made_writable() -> None:
    notes = notes_of(PhaseEnded("source", result(scored("Answer \ud800 \0.", 0.5))))
    assert notes is not None and notes.texts["source_prompts.txt"] == "== 1 (proposal), score 0.500\n\nAnswer ? ?.\n"
    assert notes.tables["source_rounds"][0]["instructions"] == "Answer ? ?."
    failed = notes_of(Failed("", ValueError("\udfff")))
    assert failed is not None and failed.tags["error"] == "ValueError: ?"


def test_names_are_made_so_that_every_tracker_takes_them() -> None:
    assert key("f1@0.5 (macro)/x") == "f1_0.5_macro_x"
    assert keys(["a/b", "a:b", "c"]) == {"a/b": "a_b-0", "a:b": "a_b-1", "c": "c"}
    assert flattened({"a": {"b c": {"d": [1]}}, "e": None}) == {"a.b_c.d": "[1]", "e": None}
