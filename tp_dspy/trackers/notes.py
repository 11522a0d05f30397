"""What trackers log of a compile: figures, settings, tags, texts and tables, made of its events.

Nothing here knows a tracker, a clock or a disk. Figures are grouped by a name before a slash:

- ``source/`` and ``target/`` by round: the best so far (``best_score``, ``best_expected``, ``best_ifr`` and so on), its
  ``gain`` over the original, and how many candidates, dropped ones, replies and usable replies there have been;
  with ``final_`` before them the winner's on what it was chosen on.
- ``spent/`` by scorer calls.
- ``final/``: the winner, the original, and what it all cost.
- ``selection/`` and ``held_out/``, by prompt: metrics with the ends of their 95 % intervals, and the paired difference
  to the original.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tp_dspy.optimization.candidates import ScoredCandidate
from tp_dspy.optimization.events import Event, PhaseEnded, Planned, RoundEnded, Spending
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.stopping import Spent
from tp_dspy.runs.artifacts import TransferResult
from tp_dspy.runs.events import Compiled, Constructed, Failed, Measured
from tp_dspy.runs.records import CandidateRecord
from tp_dspy.runs.side_by_side import SideBySide
from tp_dspy.scoring.metrics import METRIC_NAMES
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.set_objective import Metrics

__all__ = ["Notes", "flattened", "key", "keys", "notes_of", "prompts_text", "target_of"]

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Notes:
    """What is to be logged at one time.

    Attributes:
        target: The target that it is about, where a run has several; empty for the whole.
        params: Settings by name, as plain values.
        metrics: Figures by name; each is finite.
        step: Where on `axis` they belong.
        axis: The figure that counts the steps, among `metrics`; empty for figures that have no course.
        tags: Words by name.
        texts: Text files by name.
        tables: Tables by name: rows with the same columns.
    """

    target: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    axis: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Rows] = field(default_factory=dict)


def notes_of(event: Event) -> Notes | None:
    """Say what is to be logged of an event; None where it is nothing."""
    if isinstance(event, Planned):
        return _planned(event)
    if isinstance(event, RoundEnded):
        return _round(event)
    if isinstance(event, Spending):
        ended = {} if event.phase else {"state": "ended"}
        at = event.spent.scorer_calls
        return Notes(metrics=_spent(event.spent), step=at, axis="spent/scorer_calls", tags=ended)
    if isinstance(event, PhaseEnded):
        return _phase(event)
    if isinstance(event, Constructed):
        # As `SourcePrompts.load` reads it.
        return Notes(texts={"source_prompts.json": event.prompts.model_dump_json(indent=2)})
    if isinstance(event, Compiled):
        return replace(_compiled(event.result), target=target_of(event.phase))
    if isinstance(event, Measured):
        return _measured(event)
    if isinstance(event, Failed):
        error = event.error
        return Notes(tags={"state": "failed", "error": _writable(f"{type(error).__name__}: {error}")})
    return None


def target_of(phase: str) -> str:
    """Give the name of the target of a phase where there are several; empty where there is one."""
    return phase.removeprefix("target ") if phase.startswith("target ") else ""


def key(text: str) -> str:
    """Make a name that every tracker takes as a part of another."""
    return re.sub(r"[^\w.-]+", "_", text)


def keys(names: Sequence[str]) -> dict[str, str]:
    """Make such a name for each of several, no two the same."""
    made = [key(name) for name in names]
    return {n: k if made.count(k) == 1 else f"{k}-{i}" for i, (n, k) in enumerate(zip(names, made, strict=True))}


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Write nested settings in one level, with dots between the names; lists become JSON."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key(name)}.")
        else:
            flat[prefix + key(name)] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat


def prompts_text(result: TransferResult) -> str:
    """Write out the prompts that matter, for people."""
    shown = {"Original": result.original}
    if result.source is not None:
        shown["Best source prompt"] = result.source.ranked[0]
    shown["Target prompt"] = result.winner
    return "\n\n".join(_prompt(f"{name} ({record.origin})", record) for name, record in shown.items()) + "\n"


def _planned(event: Planned) -> Notes:
    named = keys([plan.phase for plan in event.plans])
    plans = {
        named[plan.phase]: {"scorer_calls": plan.scorer_calls, "reference_calls": plan.reference_calls}
        for plan in event.plans
    }
    budgets = {re.sub(r"(?<!^)(?=[A-Z])", "_", type(b).__name__).lower(): b.limit for b in event.budgets}
    params = flattened({**event.settings, "budget": budgets, "plan": plans})
    return Notes(params=params, tags={"state": "running", "plan": event.words})


def _round(event: RoundEnded) -> Notes:
    phase, so_far = _group(event.phase), event.so_far
    usable = sum(proposal.candidate is not None for proposal in so_far.proposals)
    counts = {
        "round": event.round,
        "candidates": len(so_far.history),
        "dropped": len(so_far.dropped),
        "proposals": len(so_far.proposals),
        "usable": usable,
    }
    figures = _best(so_far, "best_") | counts
    return Notes(target_of(event.phase), metrics=_named(phase, figures), step=event.round, axis=f"{phase}/round")


def _phase(event: PhaseEnded) -> Notes:
    phase, result = _group(event.phase), event.result
    texts = {}
    if phase == "source":
        records = [CandidateRecord.of(scored) for scored in result.ranked]
        prompts = [_prompt(f"{rank} ({r.origin})", r) for rank, r in enumerate(records, start=1)]
        texts["source_prompts.txt"] = "\n\n".join(prompts) + "\n"
    return Notes(
        target_of(event.phase),
        metrics=_named(phase, _best(result, "final_")),
        tags={f"{phase}_stopped": result.stopped},
        texts=texts,
        tables={f"{phase}_rounds": _rounds(result)} if result.history else {},
    )


def _compiled(result: TransferResult) -> Notes:
    winner, original = result.winner, result.original
    figures = {"score": winner.score, **_means(winner.by_task), "original_score": original.score}
    figures |= {"gain": winner.score - original.score, "seconds": result.seconds}
    figures |= _usage("scorer", result.scorer_usage) | _usage("reference", result.reference_usage)
    compared = _compared("selection", result.selection)
    tags = {"state": "compiled", "stopped": result.stopped, "origin": winner.origin, "winner": winner.id}
    tags |= {f"version_{package}": version for package, version in result.versions.items()}
    return replace(compared, metrics={**_named("final", figures), **compared.metrics}, tags=tags)


def _measured(event: Measured) -> Notes:
    compared = _compared("held_out", event.result.held_out)
    spent = _named("held_out", _usage("scorer", event.held_out.usage))
    return replace(compared, metrics={**compared.metrics, **spent})


def _compared(group: str, sides: SideBySide | None) -> Notes:
    """Set prompts side by side: figures by prompt, and all of them in a table."""
    if sides is None:
        return Notes()
    figures: dict[str, float] = {"examples": len(sides.examples)}
    rows: list[dict[str, Any]] = []
    for name, prompt in sides.prompts.items():
        paired = sides.differences.get(name)
        differences = {} if paired is None else {**paired.by_metric, "score": (paired.score, paired.low, paired.high)}
        for metric, value in {**_figures(prompt.metrics), "score": prompt.metrics.score}.items():
            ends = prompt.intervals.get(metric, (math.nan, math.nan))
            figures |= _with_ends(f"{key(name)}/{key(metric)}", value, ends)
            measured = dict(zip(("value", "low", "high"), (value, *ends), strict=True))
            less = differences.get(metric, (math.nan,) * 3)
            measured |= dict(zip(("difference", "difference_low", "difference_high"), less, strict=True))
            rows.append({"prompt": name, "metric": metric} | {k: _or_none(v) for k, v in measured.items()})
        if paired is not None:
            figures |= _with_ends(f"{key(name)}/difference", paired.score, (paired.low, paired.high))
            figures[f"{key(name)}/difference_p_value"] = paired.p_value
    return Notes(metrics=_named(group, figures), tables={group: rows})


def _best(result: PhaseResult, prefix: str) -> dict[str, float]:
    """Give the figures of the best, and by how much it is better than the original."""
    best = result.best
    original = next((s for s in result.ranked if s.candidate.origin == "original"), None)
    figures = {"score": best.score, **_means(best.by_task)}
    figures["expected"] = math.nan if best.expected is None else best.expected.mean
    named = {prefix + name: value for name, value in figures.items()}
    return named | {f"{prefix}gain": math.nan if original is None else best.score - original.score}


def _rounds(result: PhaseResult) -> Rows:
    """Give the best so far after each round, with its instructions."""
    dropped = {candidate.id for candidate in result.dropped}
    partial = dropped | {candidate.id for candidate in result.unfinished}
    rows: list[dict[str, Any]] = []
    best: ScoredCandidate | None = None
    for round in sorted({scored.round for scored in result.history}):
        scored = [s for s in result.history if s.round == round]
        whole = [s for s in scored if s.candidate.id not in partial]
        best = max([*([best] if best else []), *whole], key=lambda s: s.rank, default=None)
        row: dict[str, Any] = {"round": round, "candidates": len(scored)}
        row["dropped"] = sum(s.candidate.id in dropped for s in scored)
        row |= {"best": best.candidate.id if best else None, "score": _or_none(best.score) if best else None}
        rows.append(row | {"instructions": _instructions(best.candidate.instructions) if best else None})
    return rows


def _spent(spent: Spent) -> dict[str, float]:
    figures: dict[str, float | None] = dict(vars(spent))
    return _named("spent", {name: math.nan if value is None else value for name, value in figures.items()})


def _usage(whose: str, usage: Usage) -> dict[str, float]:
    tokens = usage.prompt_tokens + usage.completion_tokens
    usd = math.nan if usage.usd is None else usage.usd
    return {f"{whose}_calls": usage.calls, f"{whose}_tokens": tokens, f"{whose}_usd": usd}


def _figures(metrics: Metrics) -> dict[str, float]:
    return {name: getattr(metrics, name) for name in METRIC_NAMES} | dict(metrics.custom)


def _means(by_task: Mapping[str, Metrics]) -> dict[str, float]:
    """Average metrics over the tasks; one that some task leaves undefined is left out, for it would change in kind."""
    each = [_figures(metrics) for metrics in by_task.values()]
    return {name: math.fsum(one[name] for one in each) / len(each) for name in (each[0] if each else ())}


def _group(phase: str) -> str:
    return "target" if target_of(phase) else phase


def _named(group: str, figures: Mapping[str, float]) -> dict[str, float]:
    """Put a group's name before each figure, and leave out those that are undefined."""
    finite = {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    return {f"{group}/{'/'.join(map(key, name.split('/')))}": value for name, value in finite.items()}


def _with_ends(name: str, value: float, ends: tuple[float, float]) -> dict[str, float]:
    return {name: value, f"{name}_low": ends[0], f"{name}_high": ends[1]}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _instructions(instructions: Mapping[str, str]) -> str:
    if len(instructions) == 1:
        return _writable(next(iter(instructions.values())))
    return _writable("\n\n".join(f"[{predictor}]\n{text}" for predictor, text in instructions.items()))


def _writable(text: str) -> str:
    """Replace what an LM may write and neither files nor databases take: half surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _prompt(title: str, record: CandidateRecord) -> str:
    score = "not scored" if math.isnan(record.score) else f"score {record.score:.3f}"
    return f"== {title}, {score}\n\n{_instructions(record.instructions)}"
