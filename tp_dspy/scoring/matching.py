"""Whether a free-text answer is right."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from tp_dspy.lms.answers import as_text, last_number, normalized, same_answer

__all__ = ["MATCH_KINDS", "MatchKind", "expected_answers", "match_answer"]

MatchKind = Literal["auto", "text", "number", "f1"]
MATCH_KINDS: tuple[str, ...] = get_args(MatchKind)


def expected_answers(value: Any) -> list[str]:
    """List the answers that an example accepts: one, or several in a list."""
    if isinstance(value, list | tuple | set | frozenset):
        return [as_text(item) for item in value]
    return [] if value is None else [as_text(value)]


def match_answer(given: str, expected: str, kind: MatchKind, tolerance: float) -> float:
    """Say how right a free-text answer is.

    Args:
        given: The answer.
        expected: What was expected.
        kind: ``"auto"``: equal as numbers where both are numbers, else as text that was normalised as SQuAD does.
            ``"text"``: as normalised text only. ``"number"``: the last number in the answer against the expected one.
            ``"f1"``: the overlap of words, SQuAD's F1.
        tolerance: Relative difference at which two numbers are equal, at least 0 (for an expected 0: absolute).

    Returns:
        How right it is, in [0, 1]; 0 or 1 but for ``"f1"``.
    """
    if kind == "number":
        numbers = last_number(given), last_number(expected)
        if numbers[0] is None or numbers[1] is None:
            return 0.0
        return float(_close(numbers[0], numbers[1], tolerance))
    if kind == "text":
        return float(normalized(given) == normalized(expected))
    if same_answer(given, expected, tolerance=tolerance):
        return 1.0
    return _word_overlap(normalized(given), normalized(expected)) if kind == "f1" else 0.0


def _close(given: float, expected: float, tolerance: float) -> bool:
    return math.isclose(given, expected, rel_tol=tolerance, abs_tol=tolerance if expected == 0 else 1e-12)


def _word_overlap(given: str, expected: str) -> float:
    if not given or not expected:
        return 0.0
    from dspy.evaluate.metrics import f1_score

    return float(f1_score(given, expected))
