"""Reading answers: which of the allowed ones a text gives, and whether two answers are the same."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections.abc import Sequence

__all__ = ["bare", "normalized", "read_choice", "same_answer"]

_WRAPPERS = " \t\r\n\"'`*_()[]{}<>“”‘’"  # noqa: RUF001
_ENDS = ".,;:!"
# After an answer; a hyphen or apostrophe continues the word ("non-smoker", "A's").
_WORD_ENDS = r"(?!\w|[-'’]\w)"  # noqa: RUF001
# "A heart attack" is prose, "A is correct" and "A. Heart" are answers.
_PROSE = re.compile(r"[ \t]+(?!is\b|because\b)[a-z]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans({mark: " " for mark in string.punctuation})
_NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:[eE][-+]?\d+)?|[-+]?\.\d+")


def bare(text: str) -> str:
    """Take off what LMs wrap around a short answer (quotes, brackets, bold, a final mark), and its case."""
    return text.strip(_WRAPPERS).rstrip(_ENDS).strip(_WRAPPERS).casefold()


def read_choice(text: str, choices: Sequence[str]) -> tuple[str | None, bool]:
    """Read one of several allowed answers from the start of a text.

    ``B``, ``(B)``, ``**b**.`` are the choice B exactly; ``B. Heart`` and ``No, because ...`` begin with a choice.
    ``A heart attack`` begins with an article, not with the choice A.

    Args:
        text: The reply, or the value of one field of it.
        choices: The allowed answers.

    Returns:
        The choice as it is spelled in `choices`, or None; and whether the text is that choice and nothing else.
    """
    for same in (str.strip, bare):
        for choice in choices:
            if same(text) == same(choice):
                return choice, True
    reply = text.lstrip(_WRAPPERS)
    for choice in sorted(choices, key=len, reverse=True):
        leading = re.match(re.escape(choice.strip(_WRAPPERS)) + _WORD_ENDS, reply, re.IGNORECASE)
        if leading and leading.end():
            is_article = choice.casefold() in ("a", "i") and _PROSE.match(reply[leading.end() :])
            if not is_article:
                return choice, False
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
