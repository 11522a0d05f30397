"""What was wrong with an answer, in words: for GEPA's reflection, for the reference LM, and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Part", "in_words", "question"]

_GIVEN_CHARS = 80
_ASKED_CHARS = 300
# From where on a confidence says that the answer is right.
_SURE = 0.5


@dataclass(frozen=True)
class Part:
    """What became of one answer field.

    Attributes:
        field: Its name.
        allowed: The allowed answers; None for free text.
        given: The text of the field; None when the reply has none.
        answer: The answer that was read from it; None when none could be.
        exact: Whether the field holds the answer and nothing else.
        expected: The expected answer; None when the example has none.
        correct: How right the answer is, in [0, 1].
        confidence: How sure the LM is of it, in [0, 1]; None when there is none.
        reply: The raw reply that it came from, where known.
    """

    field: str
    allowed: tuple[str, ...] | None = None
    given: str | None = None
    answer: str | None = None
    exact: bool = True
    expected: str | None = None
    correct: float = 0.0
    confidence: float | None = None
    reply: str | None = None


def in_words(parts: Sequence[Part], correct: float, confidence: float | None, unfollowed: str) -> str:
    """Say what was wrong with a reply, and which part of the objective suffered.

    Args:
        parts: Its answer fields.
        correct: How right they are together.
        confidence: How sure the LM is of them together.
        unfollowed: Why the reply does not keep to the asked format; empty when it does.

    Returns:
        Sentences; empty when nothing was wrong.
    """
    said = [text for part in parts if (text := _about(part, several=len(parts) > 1))]
    costs = []
    if unfollowed:
        said.append(unfollowed)
        costs.append("instruction following")
    if correct < 1.0:
        costs.append("accuracy")
    if confidence is not None and (confidence >= _SURE) != (correct >= _SURE):
        said.append(f"Its confidence is {confidence:.2f}, though it is {'right' if correct >= _SURE else 'wrong'}")
        costs.append("calibration")
    if not costs:
        return ""
    return f"{'. '.join(said)}{'.' if said else ''} This costs {' and '.join(costs)}.".strip()


def _about(part: Part, *, several: bool) -> str:
    name = f"{part.field!r}" if several else "The answer"
    if part.given is None:
        return f"{name} could not be read: the reply is not in the asked format"
    if part.answer is None:
        wanted = f"expected one of {', '.join(part.allowed)}" if part.allowed else "expected an answer"
        return f"{name} is given as {_cut(part.given, _GIVEN_CHARS)!r}; {wanted}"
    if part.correct < 1.0:
        expected = f"; expected {_cut(part.expected, _GIVEN_CHARS)!r}" if part.expected is not None else ""
        share = f" ({part.correct:.0%} right)" if part.correct > 0 else ""
        return f"{name} is {_cut(part.answer, _GIVEN_CHARS)!r}{expected}{share}"
    return ""


def question(inputs: Mapping[str, Any]) -> str:
    """Say what was asked: ``question: Is it?; choices: yes, no``, cut to a few hundred characters."""
    fields = (
        f"{name}: {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}"
        for name, value in inputs.items()
    )
    return _cut("; ".join(" ".join(field.split()) for field in fields), _ASKED_CHARS)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."
