"""How sure an LM was of its answer: read from the logprobs of the reply's tokens, or from what it said itself.

Logprobs cover the raw reply, field markers included, so the answer is first found by its characters and then scored by
the tokens that spell it. Everything here takes values and returns values; nothing calls an LM.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

__all__ = [
    "answer_probability",
    "find_answer_span",
    "prediction_logprobs",
    "reply_text",
    "sequence_probability",
    "verbalized_confidence",
]

# What may stand between a marker and the answer; "Ġ" and "▁" are the spaces of tokenizers that were not decoded.
_WRAPPERS = " \t\r\n\"'`*_([{<“‘Ġ▁"  # noqa: RUF001
# A reply may say yes where the parsed answer is True.
_SPELLINGS = {"true": ("true", "yes"), "false": ("false", "no")}
_VERBALIZED = re.compile(
    # Not a range, such as the "(0-1)" that names the scale, and not part of a word or date.
    r"(?<![\w.,–-])(?P<number>-?(?:\d++(?:[.,]\d++)?+|[.,]\d++)(?:e[-+]?\d++)?+)(?!\s*[–-]\s*\d)"  # noqa: RUF001
    r"(?:\s*(?P<percent>%|per\s?cent\b)|\s*(?:/|out\s+of)\s*(?P<whole>\d+(?:[.,]\d+)?)|(?!\w))",
    re.IGNORECASE,
)


def prediction_logprobs(prediction: Any) -> Any | None:
    """Return the logprobs that DSPy put on a prediction.

    Args:
        prediction: A ``dspy.Prediction``.

    Returns:
        The logprobs in OpenAI's shape; None when there are none, or none for any token.
    """
    logprobs = getattr(prediction, "logprobs", None)
    return logprobs if logprobs is not None and _get(logprobs, "content") else None


def reply_text(logprobs: Any) -> tuple[str, list[tuple[int, int]]]:
    """Join the tokens to the raw reply.

    Args:
        logprobs: OpenAI's shape, an object or a dict: ``content`` is a list of tokens with ``token``, ``logprob``,
            ``bytes`` (UTF-8, or None) and ``top_logprobs``.

    Returns:
        The reply, and for each token its (start, end) characters in it. A character that is split over several tokens
        belongs to the last of them; the others are empty at its start.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text, spans = "", []
    for token in _get(logprobs, "content") or ():
        start = len(text)
        text += decoder.decode(_bytes(token))
        spans.append((start, len(text)))
    return text + decoder.decode(b"", final=True), spans


def find_answer_span(text: str, field: str, answer: str) -> tuple[int, int] | None:
    """Find the answer in a raw reply, where the adapters' parsers look for it.

    These are the value after the first ``[[ ## field ## ]]`` (ChatAdapter), else after the last ``"field":`` of JSON
    (JSONAdapter), else after the first ``Field:`` line, or the start of the reply (InstructionAdapter). A place counts
    only if the answer stands there.

    Args:
        text: The raw reply.
        field: Name of the output field, such as ``patient_note``, or its label in words.
        answer: The answer as it was parsed; compared without regard to case, quotes, brackets and bold.

    Returns:
        (start, end) characters of the answer; None when it is at none of these places.
    """
    for start in _value_starts(text, field):
        # An answer may begin with a wrapper itself, such as "[1, 2]", hence the second place.
        for wrappers in (_WRAPPERS, None):
            place = len(text) - len(text[start:].lstrip(wrappers))
            for pattern in _raw_spellings(answer):
                if found := pattern.match(text, place):
                    return found.span()
    return None


def answer_probability(logprobs: Any, *, field: str, answer: str, allowed: Sequence[str]) -> float | None:
    """Compute how likely the LM was to give this answer, out of the allowed ones.

    The walk begins at the answer's first token and ends where no other allowed answer can follow any more. At each step
    an alternative token that leads to exactly one allowed answer adds the probability of the steps before it times its
    own; spelling variants of the token that was chosen ("b", " B") count as that token. An alternative that leads to
    several answers is undecided and left out, as is one that leads to none.

    ``top_logprobs`` show the likeliest tokens only. Allowed answers that are not among them are given the most that
    they can have: no more each than the least likely token that is shown, and together no more than is left. An LM that
    is on its way to say something else is thus not certain of the answer it ends up with; one that is sure stays sure.

    Args:
        logprobs: See `reply_text`.
        field: Name of the output field.
        answer: The answer as it was parsed.
        allowed: All possible answers, ``answer`` among them, compared without regard to case.

    Returns:
        Probability in [0, 1], normalised over ``allowed``; without any ``top_logprobs`` at least that of the tokens
        themselves. None when the answer is not in the reply or not among ``allowed``.
    """
    text, spans = reply_text(logprobs)
    span = find_answer_span(text, field, answer)
    target, mass = _norm(answer), dict.fromkeys(map(_norm, allowed), 0.0)
    if span is None or target not in mass:
        return None
    path = 1.0
    for token, (start, end) in zip(_get(logprobs, "content"), spans, strict=True):
        # A token without characters of its own at the answer's start may be the first bytes of its first character.
        if end < span[0] or (end == span[0] and (start < end or not _bytes(token))):
            continue
        chosen = text[span[0] : end].casefold()
        step = math.exp(_logprob(token))
        emitted, lead = text[span[0] : max(start, span[0])], text[start : span[0]]
        # The answers that this token decided against.
        hidden = {option for option in mass if _leads(emitted.casefold(), option) and not _leads(chosen, option)}
        for fragment, probability in _alternatives(token, emitted, lead):
            leads_to = [option for option in mass if _leads(fragment, option)]
            hidden -= set(leads_to)
            if fragment == chosen:
                step += probability
            elif len(leads_to) == 1:
                mass[leads_to[0]] += path * probability
        for option in hidden:
            mass[option] += path * _most_each(token, len(hidden))
        path *= step
        if not any(_leads(chosen, option) for option in mass if option != target):
            break
    mass[target] += path
    total = math.fsum(mass.values())
    return min(1.0, mass[target] / total) if total > 0 else None


def sequence_probability(logprobs: Any, *, field: str, answer: str) -> float | None:
    """Compute the length-normalised probability of a free-text answer: exp(mean logprob over its tokens).

    Args:
        logprobs: See `reply_text`.
        field: Name of the output field.
        answer: The answer as it was parsed.

    Returns:
        The geometric mean of the tokens' probabilities, in [0, 1]; None when the answer is not in the reply.
    """
    text, spans = reply_text(logprobs)
    span = find_answer_span(text, field, answer)
    if span is None:
        return None
    pairs = zip(_get(logprobs, "content"), spans, strict=True)
    values = [
        _logprob(token) for token, (start, end) in pairs if start < span[1] and (end > span[0] or start == span[0])
    ]
    return math.exp(math.fsum(values) / len(values)) if values else None


def verbalized_confidence(value: Any) -> float | None:
    """Read a confidence that the LM stated in words or as a number.

    Args:
        value: A number, or text with one: ``"0.8"``, ``"80%"``, ``"80 percent"``, ``"0,8"``, ``"~0.8"``, ``"8/10"``,
            ``"Confidence: 0.8"``, ``"0.8 (high)"``.

    Returns:
        Confidence in [0, 1]. None for text without a number, for a bool, and for anything outside the range: a bare 80
        may be a percentage or a slip, and guessing would reward it.
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, Real):
        return _in_range(float(value))
    if not isinstance(value, str):
        return None
    # The scale may be named before the number: "Confidence (0-1): 0.8".
    stated = re.sub(r"^\W*confidence\b[^:=]*[:=]", "", value.strip(), flags=re.IGNORECASE)
    found = _VERBALIZED.search(stated)
    if not found:
        return None
    number = float(found["number"].replace(",", "."))
    whole = 100.0 if found["percent"] else float((found["whole"] or "1").replace(",", "."))
    return _in_range(number / whole) if whole else None


def _in_range(number: float) -> float | None:
    return number if 0.0 <= number <= 1.0 else None


def _get(item: Any, name: str) -> Any:
    """Attribute or key: DSPy's own results have both, litellm's objects and plain dicts one each."""
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _bytes(token: Any) -> bytes:
    raw = _get(token, "bytes")
    return bytes(raw) if raw is not None else str(_get(token, "token") or "").encode("utf-8", "replace")


def _logprob(token: Any) -> float:
    """The token's logprob, at most 0 (some servers round it to just above); -inf when there is none."""
    value = _get(token, "logprob")
    return -math.inf if value is None or math.isnan(value) else min(0.0, float(value))


def _norm(text: str) -> str:
    return text.strip().casefold()


def _end_of(spelling: str) -> str:
    """A pattern for the end of an answer: a word must not go on."""
    return r"(?!\w)" if spelling[-1:].isalnum() else ""


def _value_starts(text: str, field: str) -> list[int]:
    """Where the field's value may begin, likeliest first."""
    in_chat, in_json, header = _labels(field)
    if marker := in_chat.search(text):
        return [marker.end(), 0]
    keys = [match.end() for match in in_json.finditer(text)]
    if keys and "{" in text:
        return [*reversed(keys), 0]
    labelled = [match.end() for match in header.finditer(text.lstrip())]
    labelled = [place + len(text) - len(text.lstrip()) for place in labelled]
    # A field may carry a label of its own, which its name does not tell; of several lines, it could be another field's.
    custom = re.match(r"\W*\w+(?: \w+){0,4}[*_]*[ \t]*:[*_]*", text) if "\n" not in text.strip() else None
    # Unless a label opens the reply, its very start comes first: a single answer may be repeated on a labelled line.
    starts = labelled if header.match(text.lstrip()) else [0, *labelled]
    return [*starts, 0, *([custom.end()] if custom else [])]


@functools.lru_cache(maxsize=256)
def _labels(field: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """What stands before a field's value: of ChatAdapter, of JSON, and in a line of its own."""
    words = re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])|\d+", field) or [field]
    name = r"[ _]*".join(re.escape(word) for word in words)
    return (
        re.compile(rf"^[ \t]*\[\[ ## {re.escape(field)} ## \]\]", re.MULTILINE),
        re.compile(rf'(?<!\\)"{re.escape(field)}"\s*:'),
        re.compile(rf"^[ \t>#*_-]*(?:{re.escape(field)}|{name})[*_]*[ \t]*:[*_]*", re.IGNORECASE | re.MULTILINE),
    )


@functools.lru_cache(maxsize=256)
def _raw_spellings(answer: str) -> list[re.Pattern[str]]:
    """Patterns of the ways in which the raw reply may write a parsed answer."""
    answer = answer.strip()
    spellings = [answer, json.dumps(answer)[1:-1], json.dumps(answer, ensure_ascii=False)[1:-1]]
    spellings += _SPELLINGS.get(answer.casefold(), ())
    distinct = [spelling for spelling in dict.fromkeys(spellings) if spelling]
    return [re.compile(re.escape(spelling) + _end_of(spelling), re.IGNORECASE) for spelling in distinct]


def _leads(fragment: str, option: str) -> bool:
    """Whether a reply that begins with ``fragment`` may be ``option``: on the way to it, or already past its end."""
    for spelling in _SPELLINGS.get(option, (option,)):
        if spelling.startswith(fragment):
            return True
        if fragment.startswith(spelling) and re.compile(_end_of(spelling)).match(fragment, len(spelling)):
            return True
    return False


def _most_each(token: Any, count: int) -> float:
    """The most that each of so many tokens can have had that are not shown among the alternatives."""
    shown = {_bytes(entry): math.exp(_logprob(entry)) for entry in (*(_get(token, "top_logprobs") or ()), token)}
    return min(min(shown.values()), max(0.0, 1.0 - math.fsum(shown.values())) / count)


def _alternatives(token: Any, emitted: str, lead: str) -> Iterator[tuple[str, float]]:
    """The beginning of the answer after each token that could have stood here, with its probability.

    Args:
        token: One token of the logprobs; it is not among its own alternatives here.
        emitted: The answer's characters before this token.
        lead: What the token holds before the answer, such as a quote.
    """
    seen = {_bytes(token)}
    for alternative in _get(token, "top_logprobs") or ():
        raw = _bytes(alternative)
        piece = raw.decode("utf-8", "ignore")
        if not emitted:
            piece = piece.removeprefix(lead).lstrip(_WRAPPERS)
        if piece and raw not in seen:
            seen.add(raw)
            yield (emitted + piece).casefold(), math.exp(_logprob(alternative))
