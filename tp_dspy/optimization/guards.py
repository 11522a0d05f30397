"""What comes back from the reference LM: unwrapped, and checked before a call is spent on it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from tp_dspy.lms.answers import normalized

__all__ = ["MARK", "Guard", "unwrap"]

MARK = "<INS>"
_END = "</INS>"
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)
_LABEL = re.compile(r"\A\W{0,3}(?:new |improved |final )?(?:instruction|prompt)s?\W{0,3}:\W{0,3}\s*", re.IGNORECASE)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "«": "»"}  # noqa: RUF001
_FIELD_MARKER = re.compile(r"\[\[\s*##|##\s*\]\]|\{\{|<\|")
# Eight words in a row that stand in a training example are no coincidence.
_NGRAM = 8


def unwrap(reply: str) -> str:
    """Take the instruction out of a reply.

    It stands between ``<INS>`` and ``</INS>``, or else it is the whole reply; a fence, quotes around it and a leading
    "Instruction:" are taken off, and so is a score that was copied along.
    """
    start = reply.find(MARK)
    text = reply[start + len(MARK) :] if start >= 0 else reply
    text = text.split(_END, 1)[0].strip()
    if fence := _FENCE.match(text):
        text = fence.group(1).strip()
    text = _LABEL.sub("", text)
    text = re.split(r"\n\s*Score\s*:", text, maxsplit=1)[0].strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _ngrams(text: str) -> set[str]:
    words = normalized(text).split()
    return {" ".join(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)}


class Guard:
    """Decides whether a text can serve as an instruction.

    Args:
        examples: Texts of training examples; an instruction that copies from one only fits that one.
        prompt: The fixed text of the reference prompt; weak LMs hand parts of it back.
        labels: Field labels such as "Question"; a text with such a line is an item, not an instruction.
        limit: Longest instruction, in characters.
    """

    def __init__(
        self, examples: Iterable[str], *, prompt: str = "", labels: Collection[str] = (), limit: int = 1500
    ) -> None:
        texts = list(examples)
        self._copied = set().union(*map(_ngrams, texts)) if texts else set()
        # Short items hold no long n-gram; they are looked for whole.
        self._short = {plain for text in texts if 3 <= len((plain := normalized(text)).split()) < _NGRAM}
        self._prompt = _ngrams(prompt)
        self._item = re.compile(rf"^\W*(?:{'|'.join(map(re.escape, labels))})\s*:", re.I | re.M) if labels else None
        self._limit = limit

    def reject(self, text: str, known: Collection[str]) -> str | None:
        """Tell why a text cannot serve; None when it can.

        Args:
            text: An unwrapped proposal.
            known: Normalised instructions (`tp_dspy.lms.answers.normalized`) that have been tried already.
        """
        plain = normalized(text)
        if not plain:
            return "it is empty"
        if len(text) > self._limit:
            return f"it has {len(text)} characters; at most {self._limit} are allowed"
        if plain in known:
            return "it repeats an instruction that was tried already"
        if MARK in text or _END in text or _FIELD_MARKER.search(text):
            return "it still carries a marker"
        if self._item and self._item.search(text):
            return "it is an item, not an instruction"
        grams = _ngrams(text)
        if grams & self._copied or any(f" {short} " in f" {plain} " for short in self._short):
            return "it copies a training example"
        if grams & self._prompt:
            return "it repeats the request"
        return None
