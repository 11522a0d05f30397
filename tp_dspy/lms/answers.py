"""Reading answers: which of the allowed ones a text gives, and whether two answers are the same."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Sequence

__all__ = ["normalized", "read_choice", "same_answer"]

_WRAPPING = " \t\r\n\"'`*_()[]{}<>“”‘’"
_ENDING = " \t\r\n.,;:!"
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation})
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|[-+]?\.\d+")


def _bare(text: str) -> str:
    """Take off what LMs wrap around a short answer: quotes, brackets, bold, a final full stop."""
    return unicodedata.normalize("NFKC", text).strip(_WRAPPING).rstrip(_ENDING).strip(_WRAPPING).casefold()


def read_choice(text: str, choices: Sequence[str]) -> tuple[str | None, bool]:
    """Read one of several allowed answers from the start of a text.

    ``B``, ``(B)``, ``**b**.`` are the choice B exactly; ``B. Heart`` and ``No, because ...`` begin with a choice.
    A single letter must be set off by a mark: ``A dished face`` is an article, not the choice A.

    Args:
        text: The reply, or the value of one field of it.
        choices: The allowed answers.

    Returns:
        The choice as it is spelled in `choices`, or None; and whether the text is that choice and nothing else.
    """
    bare = _bare(text)
    by_text = {_bare(choice): choice for choice in choices}
    if bare in by_text:
        return by_text[bare], True
    start = unicodedata.normalize("NFKC", text).lstrip(_WRAPPING).casefold()
    for key in sorted(filter(None, by_text), key=len, reverse=True):
        if not start.startswith(key):
            continue
        rest = start[len(key) :]
        if not rest or (re.match(r"\s*[^\w\s]|\s*\n", rest) if len(key) == 1 else not re.match(r"[\w-]", rest)):
            return by_text[key], False
    return None, False


def normalized(text: str) -> str:
    """Normalise a free-text answer as SQuAD does: case, punctuation, articles and white space do not count."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def _number(text: str) -> float | None:
    """Read a text that is one number (with thousands separators, a currency or percent sign); else None."""
    match = _NUMBER.fullmatch(text.strip().strip("$€£%").strip())
    return float(match.group().replace(",", "")) if match else None


def same_answer(given: str, expected: str, *, tolerance: float = 1e-6) -> bool:
    """Whether two free answers agree: as numbers within a relative tolerance, else as normalised text."""
    numbers = _number(given), _number(expected)
    if numbers[0] is not None and numbers[1] is not None:
        return math.isclose(numbers[0], numbers[1], rel_tol=tolerance, abs_tol=tolerance)
    plain = normalized(given)
    # Two answers of punctuation only ("+" and "-") are compared as they stand.
    return plain == normalized(expected) if plain else given.strip() == expected.strip()
