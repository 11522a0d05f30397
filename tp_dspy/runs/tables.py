"""What was kept of a run, laid out to look at."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tp_dspy.runs.snapshots import RUNNING
from tp_dspy.sheets import Cell, Line, Sheet, Table, number, signed

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.influence import SourceInfluence
    from tp_dspy.runs.records import CandidateRecord, PhaseRecord
    from tp_dspy.runs.side_by_side import SideBySide
    from tp_dspy.runs.source_prompts import SourcePrompts
    from tp_dspy.runs.transfers import Transfers

__all__ = ["in_words", "influence_sheet", "result_sheet", "source_prompts_sheet", "transfers_sheet"]


def source_prompts_sheet(sources: SourcePrompts) -> Sheet:
    """Lay out source prompts: their scores on each task, then their texts."""
    names = [task.name for task in sources.tasks]
    records = {str(index): record for index, record in enumerate(sources.prompts, start=1)}
    if all(record.id != sources.original.id for record in sources.prompts):
        records["original"] = sources.original
    rows = [
        [label, record.origin, number(record.score), *(_on(record, name) for name in names)]
        for label, record in records.items()
    ]
    prompts, tasks = _count(len(sources.prompts), "source prompt"), _count(len(names), "task")
    title = f"{prompts} of {tasks}: score (IFR, ACC)"
    texts = [Line(f"{label}: {in_words(record)}") for label, record in records.items()]
    return Sheet([Table(title, ["prompt", "from", "mean", *names], rows), *texts])


def transfers_sheet(transfers: Transfers) -> Sheet:
    """Lay out what came of many targets."""
    rows, texts = [], []
    for name, row in transfers.to_frame().to_dict("index").items():
        scores = [number(row[column]) for column in ("original", "source", "target_prompt")]
        rows.append([str(name), *scores, signed(row["gain"]), row["origin"], str(row["scorer_calls"])])
        texts.append(Line(f"{name}: {in_words(transfers.results[str(name)].winner)}"))
    head = ["target", "original", "best source", "target prompt", "gain", "from", "scorer LM calls"]
    if transfers.missing:
        texts.append(Line(f"Not reached before the run ended: {', '.join(transfers.missing)}."))
    return Sheet([Table("Scores on what each prompt was selected on", head, rows), *texts])


def influence_sheet(found: SourceInfluence) -> Sheet:
    """Lay out which source task helped which target."""
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
    return Sheet([Table(title, ["source task", *found.by_target], rows)])


def in_words(record: CandidateRecord) -> str:
    """Give the instructions of a prompt, with their predictors' names where there are several."""
    if len(record.instructions) == 1:
        return next(iter(record.instructions.values()))
    return "\n".join(f"[{name}] {text}" for name, text in record.instructions.items())


def result_sheet(result: TransferResult, top: int = 5) -> Sheet:
    """Lay out a result: the winner against the original, the best prompts of each phase, held-out figures, cost."""
    gain = result.winner.score - result.original.score
    said = f"Winner ({result.winner.origin}), {signed(gain)} against the original on what it was selected on:"
    if result.stopped == RUNNING:
        said = f"Best so far ({result.winner.origin}), {signed(gain)} against the original; {RUNNING}:"
    parts: list[Table | Line] = [Line(said, strong=True), Line(in_words(result.winner)), Line("")]
    if result.held_out is not None:
        parts += _side_by_side("held-out examples", result.held_out)
    elif result.selection is not None:
        parts += _side_by_side("examples that the winner was chosen on", result.selection)
    for name, phase in (("source", result.source), ("target", result.target)):
        if phase is not None:
            parts += _phase(name, phase, top)
    return Sheet([*parts, Line(_cost(result))])


def _cost(result: TransferResult) -> str:
    spent, asked = result.scorer_usage, result.reference_usage
    total = spent + asked
    usd = f", {total.usd:.4f} USD" if total.usd else ""
    return (
        f"{spent.calls} calls of the scorer LM, {asked.calls} of the reference LM, "
        f"{total.prompt_tokens + total.completion_tokens:,} tokens{usd}, {result.seconds:.0f} s. "
        f"Stopped: {result.stopped}. Scorer LM: {result.settings.get('scorer_lm')}; reference LM: "
        f"{result.settings.get('reference_lm')}; tp_dspy {result.versions.get('tp_dspy')}, dspy "
        f"{result.versions.get('dspy')}; {result.created}."
    )


def _phase(name: str, phase: PhaseRecord, top: int) -> list[Table | Line]:
    tasks = list(dict.fromkeys(task for record in phase.ranked for task in record.by_task))
    best = phase.ranked[:top]
    rows = [
        [str(index), record.origin, number(record.score), *(_on(record, task) for task in tasks)]
        for index, record in enumerate(best, start=1)
    ]
    title = (
        f"The {name} phase: {len(phase.history)} prompts scored, {len(phase.dropped)} of them dropped early; "
        f"{phase.proposal_yield}; finalists, score (IFR, ACC)"
    )
    texts = (Line(f"{index}: {in_words(record)}") for index, record in enumerate(best, 1))
    return [Line(title), Table("", ["", "from", "score", *tasks], rows), *texts, Line("")]


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _on(record: CandidateRecord, task: str) -> str:
    metrics = record.by_task.get(task)
    if metrics is None or math.isnan(metrics.score):
        return "-"
    return f"{metrics.score:.3f} ({metrics.ifr:.2f}, {metrics.accuracy:.2f})"


def _side_by_side(title: str, found: SideBySide) -> list[Table | Line]:
    from tp_dspy.scoring.held_out import HEADINGS

    rows = []
    for name, prompt in found.prompts.items():
        metrics = prompt.metrics.as_dict()
        cells = []
        for metric in HEADINGS:
            low, high = prompt.intervals.get(metric, (math.nan, math.nan))
            shown = f"{low:.2f}-{high:.2f}" if not math.isnan(low) else ""
            cells.append("-" if math.isnan(metrics[metric]) else Cell(f"{metrics[metric]:.2f}", shown))
        rows.append([name, *cells])
    shown = f"On {len(found.examples)} {title} (95 % intervals below)"
    lines = [
        Line(
            f"{name} against {next(iter(found.prompts))}, paired: score {d.score:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
            f"p = {d.p_value:.3f} (two-sided bootstrap, {d.n} examples)."
        )
        for name, d in found.differences.items()
    ]
    return [Table(shown, ["prompt", *HEADINGS.values()], rows, narrow=True), *lines, Line("")]
