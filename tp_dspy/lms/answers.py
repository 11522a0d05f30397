"""Reading answers: which of the allowed ones a text gives, and whether two answers are the same."""

from __future__ import annotations

import enum
import math
import re
import string
import types
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from dspy.experimental import Choice, Noul, Score

__all__ = [
    "as_text",
    "bare",
    "choices_of_type",
    "holds_nothing_else",
    "last_number",
    "listed_choices",
    "normalized",
    "read_choice",
    "same_answer",
]

_WRAPPERS = " \t\r\n\"'`*_()[]{}<>“”‘’"  # noqa: RUF001
_ENDS = ".,;:!"
# After an answer; a hyphen or apostrophe continues the word ("non-smoker", "A's").
_WORD_ENDS = r"(?!\w|[-'’]\w|[+#])"  # noqa: RUF001
# After an answer that is a number: "1.5" and "1/2" do not begin with the choice 1.
_NUMBER_ENDS = r"(?![.,/:]\d)"
# Between the options where they are only repeated: "A/B", "Yes or No".
_ALTERNATIVES = r"[\s\"'`*_)\]]*(?:[/|&]|\bor\b|\band\b{comma})[\s\"'`*_(\[]*(?:{others})" + _WORD_ENDS
# "A heart attack" is prose, "A is correct" and "A. Heart" are answers.
_PROSE = re.compile(r"[ \t]+(?!is\b|because\b)[a-z]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = {ord(mark): " " for mark in string.punctuation + "“”‘’„«»–—…¿¡。、，"}  # noqa: RUF001
# A line of one field: "Answer: B".
_LABELLED = re.compile(r"\w+(?:[ _]\w+){0,4}: *(?P<value>.+)")
# The hyphen or minus of a number, not the hyphen of "COVID-19".
_SIGN = re.compile(r"(?<![\w.])[-\u2212]\s?[$€£]?(?=\.?\d)")
_NUMBER = re.compile(
    r"(?:(?P<sign>[-+\u2212])\s?)?[$€£]?\s?(?P<digits>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?(?:e[-+]?\d+)?|\.\d+)\s?[%€£]?",
    re.IGNORECASE,
)


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
        key = same(text)
        for choice in choices:
            if key and key == same(choice):
                return choice, True
    reply = text.lstrip(_WRAPPERS)
    for choice in sorted(choices, key=len, reverse=True):
        core = choice.strip(_WRAPPERS)
        ends = _WORD_ENDS + (_NUMBER_ENDS if core[-1:].isdigit() else "")
        leading = re.match(re.escape(core) + ends, reply, re.IGNORECASE)
        if not leading or not leading.end():
            continue
        rest = reply[leading.end() :]
        is_article = choice.casefold() in ("a", "i") and _PROSE.match(rest)
        if not is_article and not _names_another(rest, choice, choices):
            return choice, False
    return None, False


def _names_another(rest: str, choice: str, choices: Sequence[str]) -> bool:
    """Whether a text goes on from one choice to the next: it repeats the options and picks none."""
    others = [re.escape(core) for other in choices if other != choice and (core := other.strip(_WRAPPERS))]
    if not others:
        return False
    # "Yes, no doubt" is an answer; "A, B, C or D" is none.
    comma = "|," if len(choice) == 1 else ""
    return re.match(_ALTERNATIVES.format(comma=comma, others="|".join(others)), rest, re.IGNORECASE) is not None


def normalized(text: str) -> str:
    """Normalise a free-text answer as SQuAD does: case, punctuation, articles and white space do not count.

    Unlike there, a text of articles alone keeps them ("A" may be the answer), and the sign of a number counts.
    """
    text = _SIGN.sub("minus ", unicodedata.normalize("NFKC", text).casefold()).translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split()) or " ".join(text.split())


def choices_of_type(annotation: Any) -> tuple[str, ...] | None:
    """List the values of a closed type as text: ``Literal``, enum, ``bool``, DSPy's decisions; also ``... | None``.

    Returns:
        The values in their order; None for a type that takes any text.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return choices_of_type(kinds[0]) if len(kinds) == 1 else None
    if get_origin(annotation) is Literal:
        return tuple(as_text(value) for value in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(as_text(member) for member in annotation)
    decision: Any = annotation if isinstance(annotation, type) else object
    if issubclass(decision, Score):
        return tuple(str(level) for level in range(len(decision.criteria() or ()))) or None
    if issubclass(decision, Choice | Noul):
        return choices_of_type(decision.model_fields["value"].annotation)
    return ("True", "False") if annotation is bool else None


def as_text(value: Any) -> str:
    """Write an answer as text: an enum's member or a decision as its value, a ``Score`` as its level."""
    if isinstance(value, Score):
        return str(value.level if value.level is not None else value.value)
    return str(value.value if isinstance(value, enum.Enum | Choice | Noul) else value)


def listed_choices(choices: Any) -> tuple[str, ...]:
    """Read a list of allowed answers as text.

    Raises:
        ValueError: If it is a single text (which would fall apart into letters), a mapping, empty, or has blanks.
    """
    listed: tuple[str, ...] = ()
    if isinstance(choices, Iterable) and not isinstance(choices, str | bytes | Mapping):
        listed = tuple(as_text(choice) for choice in choices)
    if not listed or not all(choice.strip() for choice in listed):
        raise ValueError(f"{choices!r}; expected a list of the allowed answers, at least one, none blank.")
    return listed


def holds_nothing_else(reply: str | None, answer: str) -> bool:
    """Whether a raw reply holds nothing outside the format it is in: field markers, JSON, labelled lines, or just it.

    Args:
        reply: The raw reply; None, when it is not known, passes.
        answer: The answer that was read from it.
    """
    if reply is None:
        return True
    text = reply.strip()
    if "[[ ##" in text:
        return text.startswith("[[ ##") and text.endswith("[[ ## completed ## ]]")
    if text.startswith("{"):
        return text.endswith("}")
    if read_choice(text, [answer]) == (answer, True):
        return True
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        labelled = _LABELLED.fullmatch(lines[0])
        return labelled is not None and read_choice(labelled["value"], [answer]) == (answer, True)
    # One line per field: what each holds was checked when it was read, but nothing may stand before or after them.
    return bool(lines) and all(_LABELLED.fullmatch(line) for line in (lines[0], lines[-1]))


def _number(text: str) -> float | None:
    """Read a text that is one number (with thousands separators, a currency or percent sign); else None."""
    match = _NUMBER.fullmatch(unicodedata.normalize("NFKC", text).strip())
    return float((match["sign"] or "").replace("\u2212", "-") + match["digits"].replace(",", "")) if match else None


def last_number(text: str) -> float | None:
    """Read the last number of a text, as answers to sums end with theirs; None without any.

    Thousands separators, a currency or percent sign and a sign before the number are understood.
    """
    found = [match for match in _NUMBER.finditer(unicodedata.normalize("NFKC", text)) if match["digits"]]
    if not found:
        return None
    last = found[-1]
    # The hyphen of "COVID-19" or "3-5" is no minus.
    before = last.string[: last.start()][-1:]
    sign = "" if before.isalnum() and last["sign"] else (last["sign"] or "")
    return float(sign.replace("\u2212", "-") + last["digits"].replace(",", ""))


def same_answer(given: str, expected: str, *, tolerance: float = 1e-6) -> bool:
    """Whether two free answers agree: as numbers within a relative tolerance, else as normalised text."""
    numbers = _number(given), _number(expected)
    if numbers[0] is not None and numbers[1] is not None:
        return math.isclose(numbers[0], numbers[1], rel_tol=tolerance, abs_tol=tolerance)
    plain = normalized(given)
    # Two answers of punctuation only ("+" and "-") are compared as they stand.
    return plain == normalized(expected) if plain else given.strip() == expected.strip()
