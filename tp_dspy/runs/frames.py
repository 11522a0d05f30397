"""What was kept of a run as a table to compute with, or to open in a spreadsheet."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tp_dspy.runs.records import CandidateRecord, PhaseRecord

if TYPE_CHECKING:
    import pandas as pd

    from tp_dspy.runs.artifacts import TransferResult

__all__ = ["fate", "mean_metrics", "result_frame", "write_csv"]

# Columns that a metric of the user's own may not replace.
_FIXED = "phase place id round origin parent fate examples score low high expected final instruction"
_COLUMNS = frozenset(_FIXED.split())
# What makes a spreadsheet take a cell for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001


def result_frame(result: TransferResult) -> pd.DataFrame:
    """Make a row for each candidate of each phase, in order of arrival.

    Returns:
        Indexed by phase and place of arrival (from 0). Columns: id, round, origin, parent, fate, examples (met in the
        search), score with low and high (95 % bootstrap, search), expected, the metrics (means over
        tasks; one that has the name of another column as "metric: NAME"), final (the
        score on what finalists are chosen on; NaN for others), and the instruction, or one column for each predictor
        named "instruction: NAME".
    """
    import pandas as pd

    rows = [
        {"phase": name, "place": place, **row}
        for name, phase in (("source", result.source), ("target", result.target))
        if phase is not None
        for place, row in enumerate(_rows(phase))
    ]
    return pd.DataFrame(rows).set_index(["phase", "place"]) if rows else pd.DataFrame()


def _rows(phase: PhaseRecord) -> Iterator[dict[str, Any]]:
    finals = {record.id: record.score for record in phase.ranked}
    for record in phase.history:
        measurement = record.measurement
        low, high = (math.nan, math.nan)
        if measurement is not None:
            low, high = measurement.intervals.get("score", (low, high))
        texts = record.instructions
        one = len(texts) == 1
        named = {"instruction" if one else f"instruction: {name}": text for name, text in texts.items()}
        yield {
            "id": record.id,
            "round": record.round,
            "origin": record.origin,
            "parent": record.parent,
            "fate": fate(record, phase),
            "examples": measurement.examples if measurement is not None else None,
            "score": record.score,
            "low": low,
            "high": high,
            "expected": record.expected.mean if record.expected is not None else math.nan,
            **{f"metric: {name}" if name in _COLUMNS else name: v for name, v in mean_metrics(record).items()},
            "final": finals.get(record.id, math.nan),
            **named,
        }


def mean_metrics(record: CandidateRecord) -> dict[str, float]:
    """Average a candidate's metrics over its tasks; NaN where one of them has none."""
    by_task = [metrics.as_dict() for metrics in record.by_task.values()]
    leave = ("n", "errors", "score", "violation")
    names = [name for name in (by_task[0] if by_task else ()) if name not in leave]
    return {name: math.fsum(metrics[name] for metrics in by_task) / len(by_task) for name in names}


def fate(record: CandidateRecord, phase: PhaseRecord) -> str:
    """Say what became of a candidate of a phase's search: "winner", "finalist", "scored", "dropped" or "unfinished"."""
    if phase.ranked and record.id == phase.ranked[0].id:
        return "winner"
    if any(record.id == finalist.id for finalist in phase.ranked):
        return "finalist"
    if record.id in phase.unfinished:
        return "unfinished"
    return "dropped" if record.id in phase.dropped else "scored"


def write_csv(frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Write a table for spreadsheets: texts that one would take for a formula get an apostrophe in front."""

    def harmless(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    safe = frame.reset_index().map(harmless).rename(columns=harmless)
    # With a mark at its head, spreadsheets read it as UTF-8. Half a surrogate pair is no text a file can hold. All
    # texts are in quotes: a lone carriage return outside them begins a row, and so a cell.
    safe.to_csv(target, index=False, encoding="utf-8-sig", errors="replace", quoting=csv.QUOTE_NONNUMERIC)
    return target
