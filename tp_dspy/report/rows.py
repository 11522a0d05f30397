"""The rows of the page's tables as plain JSON values: candidates, rejected proposals, examples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tp_dspy.report.headline import target_name
from tp_dspy.scoring.held_out import HEADINGS
from tp_dspy.scoring.set_objective import Metrics

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.records import CandidateRecord, PhaseRecord
    from tp_dspy.runs.side_by_side import OutcomeRecord, SideBySide

__all__ = ["candidates", "phases", "questions", "rejected"]

# Of a task, in the order of the table that shows them.
_BY_TASK = tuple(name for name in HEADINGS if name != "score")
_MEANS = ("ifr", "accuracy", "ece", "auroc")


def phases(result: TransferResult) -> dict[str, PhaseRecord]:
    """Give the phases that ran, the last first: its candidates are what a reader looks for."""
    both = {"target": result.target, "source": result.source}
    return {name: phase for name, phase in both.items() if phase is not None}


def candidates(result: TransferResult) -> dict[str, Any]:
    """Give every candidate of both phases.

    Returns:
        ``rows``: one for each candidate and phase, finalists first; ``texts``: instruction by predictor, by id;
        ``tasks``: names; ``metrics``: headings of what there is by task.
    """
    rows: list[dict[str, Any]] = []
    texts: dict[str, dict[str, str]] = {}
    tasks: dict[str, int] = {}
    for name, phase in phases(result).items():
        finals = {record.id: (place, record) for place, record in enumerate(phase.ranked, 1)}
        searched = {record.id for record in phase.history}
        known = [*phase.history, *(record for record in phase.ranked if record.id not in searched)]
        dropped, unfinished = set(phase.dropped), set(phase.unfinished)
        made = []
        for number, record in enumerate(known, 1):
            for task in record.by_task:
                tasks.setdefault(task, len(tasks))
            texts.setdefault(record.id, record.instructions)
            place, final = finals.get(record.id, (0, None))
            row = _candidate(record, tasks) | {"phase": name, "no": number}
            if record.id in unfinished:
                row |= _unfinished(record, phase, place)
            else:
                row |= _fate(record, phase, place, record.id in dropped)
            if place and record.id == result.winner.id and name == next(iter(phases(result))):
                row["fate"] += ", the winner"
            if final is not None and phase.selection is not None:
                row["final"] = [_short(final.score), sum(metrics.n for metrics in final.by_task.values())]
            made.append(row)
        rows += sorted(made, key=lambda row: (row["rank"], -(row["score"] if row["score"] is not None else -1.0)))
    headings = [HEADINGS[name] for name in (*_BY_TASK, "score")]
    return {"rows": rows, "texts": texts, "tasks": list(tasks), "metrics": headings}


def _candidate(record: CandidateRecord, tasks: dict[str, int]) -> dict[str, Any]:
    measurement = record.measurement
    low, high = measurement.intervals.get("score", (None, None)) if measurement else (None, None)
    met = measurement.examples if measurement else sum(m.n + m.errors for m in record.by_task.values())
    return {
        "id": record.id,
        "parent": record.parent,
        "round": record.round,
        "origin": record.origin,
        "score": _short(record.score),
        "low": _short(low),
        "high": _short(high),
        "expected": _short(record.expected.mean) if record.expected else None,
        "sd": _short(record.expected.sd) if record.expected else None,
        "met": met,
        "by_task": [[tasks[task], m.n, *_figures(m)] for task, m in record.by_task.items()],
        **{name: _mean(getattr(m, name) for m in record.by_task.values()) for name in _MEANS},
    }


def _figures(metrics: Metrics) -> list[float | None]:
    return [_short(getattr(metrics, name)) for name in (*_BY_TASK, "score")]


def _unfinished(record: CandidateRecord, phase: PhaseRecord, place: int) -> dict[str, Any]:
    """Say how far a candidate had come when its race was halted."""
    met, total = record.measurement.examples if record.measurement else 0, sum(phase.search.values())
    halted = f"race halted after {met} of {total} examples"
    if place:
        return {"kind": "finalist", "rank": place, "fate": f"finalist {place}", "race": halted, "why": ""}
    return {"kind": "unfinished", "rank": 1e5 - met, "fate": halted, "why": ""}


def _fate(record: CandidateRecord, phase: PhaseRecord, place: int, dropped: bool) -> dict[str, Any]:
    """Say what became of a candidate, in words and in an order: finalists, all examples met, dropped, not scored."""
    total = sum(phase.search.values())
    of = f" of {total}" if total else ""
    measurement = record.measurement
    met = measurement.examples if measurement else None
    after = "dropped" if met is None else f"dropped after {met}{of} {'example' if (total or met) == 1 else 'examples'}"
    why = ""
    if measurement is not None and measurement.rival is not None and not math.isnan(record.score):
        why = f"{record.score:.2f} where the best had {measurement.rival:.2f} on the same ones"
    if place:
        race = (f"{after}: {why}" if why else after) if dropped else ""
        return {"kind": "finalist", "rank": place, "fate": f"finalist {place}", "race": race, "why": ""}
    if dropped:
        return {"kind": "dropped", "rank": 1e6 - (met or 0), "fate": after, "why": why}
    if math.isnan(record.score):
        return {"kind": "unscored", "rank": 1e7, "fate": "not scored", "why": ""}
    return {"kind": "met", "rank": 1e4, "fate": "all examples met", "why": ""}


def rejected(result: TransferResult) -> list[dict[str, str]]:
    """Give the reference LM's replies that were not used, with the reason."""
    return [
        {"phase": name, "predictor": one.predictor, "reason": one.reason, "reply": one.reply or one.text}
        for name, phase in phases(result).items()
        for one in phase.proposals
        if one.reason is not None
    ]


def questions(found: SideBySide | None) -> dict[str, Any]:
    """Give the examples on which the first prompt and the target differ, or on which the target falls short.

    Returns:
        ``prompts``: names; ``rows``: inputs, what was expected, an outcome for each prompt, and ``kinds``: "fixed" (the
        target is more right than the first), "broken" (less), "wrong" (neither is right), "unfollowed" (the target does
        not keep to the form), "failed" (one of both got no answer), "other"; ``total``: of all examples.
    """
    if found is None:
        return {"prompts": [], "rows": [], "total": 0}
    target = target_name(found)
    # A source prompt that was carried over as it is has nothing of its own to show.
    same = [n for n, one in found.prompts.items() if one.instructions == found.prompts[target].instructions]
    first = next(iter(found.prompts))
    names = [name for name in found.prompts if name in (first, target) or name not in same]
    merged = " = ".join(name for name in same if name != first or target == first)
    rows = []
    for number, example in enumerate(found.examples):
        outcomes = [found.prompts[name].outcomes[number] for name in names]
        kinds = _kinds(outcomes[0], outcomes[names.index(target)])
        if kinds:
            expected = next((o.expected for o in outcomes if o.expected is not None), None)
            row = {"no": number + 1, "inputs": example.inputs, "expected": expected, "kinds": kinds}
            rows.append(row | {"said": [_outcome(outcome) for outcome in outcomes]})
    shown = [merged if name == target else name for name in names]
    return {"prompts": shown, "rows": rows, "total": len(found.examples)}


def _kinds(first: OutcomeRecord, target: OutcomeRecord) -> list[str]:
    kinds = []
    if "error" in (first.status, target.status):
        kinds.append("failed")
    elif target.correct > first.correct:
        kinds.append("fixed")
    elif target.correct < first.correct:
        kinds.append("broken")
    elif target.correct < 1.0:
        kinds.append("wrong")
    if target.status != "error" and not target.followed:
        kinds.append("unfollowed")
    if not kinds and (first.followed != target.followed or first.answer != target.answer):
        kinds.append("other")
    return kinds


def _outcome(outcome: OutcomeRecord) -> dict[str, Any]:
    return {
        "status": outcome.status,
        "followed": outcome.followed,
        "correct": _short(outcome.correct),
        "confidence": _short(outcome.confidence),
        "answer": outcome.answer,
        "reply": outcome.reply,
        "feedback": outcome.feedback,
    }


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return _short(math.fsum(known) / len(known)) if known else None


def _short(value: float | None) -> float | None:
    """Leave four digits, and nothing of what is no number: the page holds thousands of these."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)
