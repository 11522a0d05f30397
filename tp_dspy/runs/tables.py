"""What was kept of a run, drawn for a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tp_dspy.scoring.reports import literal, number, signed, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.influence import SourceInfluence
    from tp_dspy.runs.records import CandidateRecord, PhaseRecord
    from tp_dspy.runs.side_by_side import SideBySide
    from tp_dspy.runs.source_prompts import SourcePrompts
    from tp_dspy.runs.transfers import Transfers

__all__ = ["in_words", "influence_table", "result_table", "source_prompts_table", "transfers_table"]


def source_prompts_table(sources: SourcePrompts) -> RenderableType:
    """Draw source prompts: their scores on each task, then their texts."""
    from rich.console import Group

    names = [task.name for task in sources.tasks]
    records = {str(index): record for index, record in enumerate(sources.prompts, start=1)}
    if all(record.id != sources.original.id for record in sources.prompts):
        records["original"] = sources.original
    rows = [
        [label, record.origin, number(record.score), *(_on(record, name) for name in names)]
        for label, record in records.items()
    ]
    title = f"{len(sources.prompts)} source prompts of {len(names)} tasks: score (IFR, ACC)"
    texts = [literal(f"{label}: {in_words(record)}") for label, record in records.items()]
    return Group(table(title, ["prompt", "from", "mean", *names], rows), *texts)


def transfers_table(transfers: Transfers) -> RenderableType:
    """Draw what came of many targets."""
    from rich.console import Group

    rows, texts = [], []
    for name, row in transfers.to_frame().to_dict("index").items():
        scores = [number(row[column]) for column in ("original", "source", "target_prompt")]
        rows.append([str(name), *scores, signed(row["gain"]), row["origin"], str(row["scorer_calls"])])
        texts.append(literal(f"{name}: {in_words(transfers.results[str(name)].winner)}"))
    head = ["target", "original", "best source", "target prompt", "gain", "from", "scorer calls"]
    if transfers.missing:
        texts.append(literal(f"Not reached before the run ended: {', '.join(transfers.missing)}."))
    return Group(table("Scores on what each prompt was selected on", head, rows), *texts)


def influence_table(found: SourceInfluence) -> RenderableType:
    """Draw which source task helped which target."""
    sources = list(dict.fromkeys(source for by_source in found.by_target.values() for source in by_source))
    rows = []
    for source in sources:
        cells = []
        for by_source in found.by_target.values():
            one = by_source[source]
            same = one.replaced == 0
            cells.append("same prompts" if same else f"{signed(one.gain)} [{signed(one.low)}, {signed(one.high)}]")
        rows.append([source, *cells])
    rows.append(["score with all sources", *(number(score) for score in found.scores.values())])
    title = "What each source task brought: score with it less score without it, 95 % intervals"
    return table(title, ["source task", *found.by_target], rows)


def in_words(record: CandidateRecord) -> str:
    """Give the instructions of a prompt, with their predictors' names where there are several."""
    if len(record.instructions) == 1:
        return next(iter(record.instructions.values()))
    return "\n".join(f"[{name}] {text}" for name, text in record.instructions.items())


def _on(record: CandidateRecord, task: str) -> str:
    metrics = record.by_task.get(task)
    if metrics is None or math.isnan(metrics.score):
        return "-"
    return f"{metrics.score:.3f} ({metrics.ifr:.2f}, {metrics.accuracy:.2f})"


def result_table(result: TransferResult, top: int) -> RenderableType:
    """Draw a result: the winner against the original, the best prompts of each phase, held-out figures, cost."""
    from rich.console import Group

    gain = result.winner.score - result.original.score
    parts: list[RenderableType] = [
        literal(f"Winner ({result.winner.origin}), {signed(gain)} against the original on what it was selected on:"),
        literal(in_words(result.winner)),
        literal(""),
    ]
    if result.held_out is not None:
        parts.append(_side_by_side_table("held-out examples", result.held_out))
    for name, phase in (("source", result.source), ("target", result.target)):
        if phase is not None:
            parts += _phase_table(name, phase, top)
    spent, asked = result.scorer_usage, result.reference_usage
    tokens = sum(u.prompt_tokens + u.completion_tokens for u in (spent, asked))
    parts.append(
        literal(
            f"{spent.calls} scorer calls, {asked.calls} reference calls, {tokens:,} tokens, {result.seconds:.0f} s. "
            f"Stopped: {result.stopped}. Scorer LM: {result.settings.get('scorer_lm')}; reference LM: "
            f"{result.settings.get('reference_lm')}; tp_dspy {result.versions.get('tp_dspy')}, dspy "
            f"{result.versions.get('dspy')}; {result.created}."
        )
    )
    return Group(*parts)


def _phase_table(name: str, phase: PhaseRecord, top: int) -> list[RenderableType]:
    tasks = list(dict.fromkeys(task for record in phase.ranked for task in record.by_task))
    best = phase.ranked[:top]
    rows = [
        [str(index), record.origin, number(record.score), *(_on(record, task) for task in tasks)]
        for index, record in enumerate(best, start=1)
    ]
    usable = sum(proposal.reason is None for proposal in phase.proposals)
    title = (
        f"The {name} phase: {len(phase.history)} prompts scored, {len(phase.dropped)} of them dropped early; {usable} "
        f"of {len(phase.proposals)} proposals usable; finalists, score (IFR, ACC)"
    )
    drawn = table("", ["", "from", "score", *tasks], rows)
    texts = (literal(f"{index}: {in_words(record)}") for index, record in enumerate(best, 1))
    return [literal(title), drawn, *texts, literal("")]


def _side_by_side_table(title: str, found: SideBySide) -> RenderableType:
    from tp_dspy.scoring.held_out import HEADINGS

    rows = []
    for name, prompt in found.prompts.items():
        metrics = prompt.metrics.as_dict()
        low, high = prompt.intervals.get("score", (math.nan, math.nan))
        interval = "-" if math.isnan(low) else f"{low:.3f} - {high:.3f}"
        rows.append([name, *(number(metrics[metric]) for metric in HEADINGS), interval])
    return table(f"On {len(found.examples)} {title}", ["prompt", *HEADINGS.values(), "95 % interval"], rows)
