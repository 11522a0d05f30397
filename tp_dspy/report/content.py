"""What the page shows as it is loaded: prompts and their differences, metrics, cost, settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tp_dspy.report.headline import target_name, verdict
from tp_dspy.report.rows import phases
from tp_dspy.report.words import difference
from tp_dspy.scoring.metrics import LOWER_IS_BETTER, METRIC_NAMES, OF_CONFIDENCE
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.reports import LABELS
from tp_dspy.sheets import number, signed

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.side_by_side import SideBySide
    from tp_dspy.scoring.comparison import Comparison

__all__ = ["CAPTIONS", "cost", "facts", "flat", "metric_rows", "moment", "prompts", "target_task"]

CAPTIONS: Mapping[str, str] = {
    "score_curve": "Each point is a candidate, in the order they were scored; the line is the best so far. A line that "
    "still rises at the end says that more rounds might pay. Examples met are not calls: what was known costs none.",
    "metric_bars": "The same examples for each prompt, with 95 % intervals. Whether a difference is more than chance "
    "is said by the paired interval in the table above, not by how far these overlap.",
    "metric_curves": "Each panel follows one metric of the prompt that had the best score so far: the score can rise "
    "while one of its parts falls.",
    "reliability": "How often answers of a given confidence are right. On the diagonal, confidence is what it says; "
    "below it, the LM is too sure of itself. The bars below count the answers: few answers, little to go by.",
    "roc": "How well confidence tells right answers from wrong ones: the nearer to the upper left corner, the better; "
    "the diagonal is no better than a guess.",
    "precision_recall": "How pure the answers above a confidence are, against how many of all such answers they hold: "
    "the higher, the better; the dotted lines are what a guess would get.",
    "race_source": "Each bar is a candidate, as long as the examples it has met. What is missing on the right was "
    "saved by dropping it early.",
    "race_target": "Each bar is a candidate, as long as the examples it has met. What is missing on the right was "
    "saved by dropping it early.",
    "heat_map": "Darker is better. A prompt that is dark on every task is one that transfers.",
}
"""How to read each plot."""


def target_task(result: TransferResult) -> str | None:
    """Name the task that was compiled for; None where it has no name of its own."""
    if result.name:
        return result.name
    phase = result.target
    names = [*phase.search, *result.winner.by_task] if phase is not None else []
    return names[0] if names and names[0] != "target" else None


def moment(iso: str) -> str:
    """Write a date for people; as it is, where it is none."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{when.day} {when:%B %Y, %H:%M} {when.tzname() or ''}".strip()


# Prompts.


def prompts(result: TransferResult) -> list[dict[str, Any]]:
    """Give the prompts by predictor: their texts, where they are the same, and what changed from one to the next."""
    named = _named_prompts(result)
    shown = []
    for predictor in named["target"]:
        texts = {name: by_predictor[predictor] for name, by_predictor in named.items() if predictor in by_predictor}
        cards: list[dict[str, Any]] = []
        for name, text in texts.items():
            same = next((card["name"] for card in cards if card["text"] == text), None)
            cards.append({"name": name, "text": text, "same": same})
        names = list(texts)
        changes = [
            {"before": before, "after": after, "ops": difference(texts[before], texts[after])}
            for before, after in pairwise(names)
        ]
        if len(names) > 2 and texts["original"] != texts["best source"] != texts["target"]:
            changes.append(
                {"before": "original", "after": "target", "ops": difference(texts["original"], texts["target"])}
            )
        shown.append({"predictor": predictor, "cards": cards, "changes": changes})
    return shown


def _named_prompts(result: TransferResult) -> dict[str, Mapping[str, str]]:
    source = _best_source(result)
    between = {} if source is None else {"best source": source}
    return {"original": result.original.instructions, **between, "target": result.winner.instructions}


def _best_source(result: TransferResult) -> Mapping[str, str] | None:
    """Give the best source prompt as the target phase had it; None where it cannot be told which that is."""
    for found in (result.held_out, result.selection):
        if found is not None and "best source" in found.prompts:
            return found.prompts["best source"].instructions
    if result.target is None:
        return None
    # Not the first that came: those that a race dropped come behind the others. And not one that the target phase does
    # not know: its predictors may have other names there, or it was never tried.
    tried = {record.id: record for record in result.target.history}
    if result.source is not None:
        best = tried.get(result.source.ranked[0].id)
        return None if best is None else best.instructions
    carried = [record for record in tried.values() if record.origin == "source"]
    return carried[0].instructions if len(carried) == 1 else None


# Metrics.


# What looks like better or worse confidence may be nothing but another share of right answers.
_NOTES = {
    "auprc_positive": "by chance: the share of right answers",
    "auprc_negative": "by chance: the share of wrong answers",
}


def metric_rows(found: SideBySide, weights: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give a row for each metric that any prompt has: figures with intervals, and the target's paired difference."""
    first, target = next(iter(found.prompts)), target_name(found)
    weighed = any(weights.get(name) for name in (*OF_CONFIDENCE, "coverage"))
    sure = weighed or any(one.metrics.coverage > 0.0 or one.metrics.violation > 0.0 for one in found.prompts.values())
    change = found.differences.get(target) if target != first else None
    own = {name: None for prompt in found.prompts.values() for name in prompt.metrics.custom}
    rows = []
    for name in ("score", *METRIC_NAMES, *own):
        values = {prompt: one.metrics.as_dict().get(name, math.nan) for prompt, one in found.prompts.items()}
        # Where nobody asks for a confidence and nothing has one, there is no word to be said of it.
        if all(math.isnan(value) for value in values.values()) or (name == "coverage" and not sure):
            continue
        weight = weights.get(name)
        cells = [
            {"value": number(value), "interval": _interval(found.prompts[prompt].intervals.get(name))}
            for prompt, value in values.items()
        ]
        rows.append(
            {
                "name": LABELS.get(name, name),
                "lower": name in LOWER_IS_BETTER,
                "weight": f"{weight:.2f}" if isinstance(weight, int | float) and name != "score" else None,
                "cells": cells,
                "change": _change(name, change),
                "note": _NOTES.get(name),
                "main": name == "score",
            }
        )
    return rows


def _interval(interval: tuple[float, float] | None) -> str:
    return "" if interval is None or math.isnan(interval[0]) else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _change(name: str, change: Comparison | None) -> dict[str, str] | None:
    if change is None:
        return None
    overall = (change.score, change.low, change.high)
    value, low, high = overall if name == "score" else change.by_metric.get(name, (math.nan,) * 3)
    if math.isnan(low):
        return {"value": signed(value), "interval": "", "word": ""}
    clear = low > 0.0 or high < 0.0
    better = (value > 0.0) != (name in LOWER_IS_BETTER)
    word = "" if name in _NOTES else ("better" if better else "worse") if clear else "unclear"
    if name == "score":
        word = verdict(change)
    return {"value": signed(value), "interval": f"{low:+.2f} to {high:+.2f}", "word": word}


# Cost and settings.


def cost(result: TransferResult) -> list[dict[str, Any]]:
    """Give a row for each LM and phase, and one of all together."""
    rows: list[tuple[str, str, Usage]] = [
        (f"{name} phase", lm, usage)
        for name, phase in reversed(phases(result).items())
        for lm, usage in (("scorer LM", phase.scorer_usage), ("reference LM", phase.reference_usage))
    ]
    rows.append(("all", "", result.scorer_usage + result.reference_usage))
    return [
        {
            "phase": phase,
            "lm": lm,
            "figures": [f"{n:,}" for n in (u.calls, u.cached, u.prompt_tokens, u.completion_tokens)] + [_usd(u)],
        }
        for phase, lm, u in rows
    ]


def facts(result: TransferResult) -> list[tuple[str, str, str]]:
    """Give what a reader wants to know of the effort: name, figure, remark."""
    ran = list(phases(result).values())
    usage = result.scorer_usage + result.reference_usage
    scored, dropped = (
        len({id for phase in ran for id in ids(phase)})
        for ids in (lambda phase: [record.id for record in phase.history], lambda phase: phase.dropped)
    )
    asked, usable, better = (sum(figures) for figures in zip(*(phase.proposal_yield for phase in ran), strict=True))
    tokens = usage.prompt_tokens + usage.completion_tokens
    return [
        ("Candidates scored", f"{scored:,}", f"{dropped:,} of them dropped early"),
        ("Proposals", f"{asked:,}", f"{asked - usable:,} rejected, {better:,} better than their parent"),
        ("Scorer calls", f"{result.scorer_usage.calls:,}", f"and {result.scorer_usage.cached:,} from the cache"),
        ("Reference calls", f"{result.reference_usage.calls:,}", f"and {result.reference_usage.cached:,} cached"),
        ("Tokens", f"{tokens:,}", f"{usage.completion_tokens:,} of them generated"),
        ("Cost", _price(usage), "" if usage.usd is not None else "the LM has no known price"),
        ("Time", _duration(result.seconds), ""),
    ]


def _price(usage: Usage) -> str:
    return _usd(usage) if usage.usd is None else f"{_usd(usage)} USD"


def _usd(usage: Usage) -> str:
    return "unknown" if usage.usd is None else f"{usage.usd:,.2f}" if usage.usd >= 1 else f"{usage.usd:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Give nested settings one by one, with dots in their names."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{before}{name}.")
        elif isinstance(value, float):
            yield f"{before}{name}", f"{value:.6g}"
        elif isinstance(value, list | tuple):
            yield f"{before}{name}", ", ".join(map(str, value)) or "none"
        else:
            yield f"{before}{name}", "none" if value is None or value == {} else str(value)
