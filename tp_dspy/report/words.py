"""The difference of two texts, word by word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import Literal

__all__ = ["Op", "difference"]

Op = Literal["equal", "delete", "insert"]

_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
# With the space behind it: were spaces words of their own, most matches would be those of spaces.
_SPACED = re.compile(r"\w+\s*|\s+|[^\w\s]\s*")
_SENTENCES = re.compile(r".+?(?:[.!?]\s+|\n+|$)|\n+", re.DOTALL)
# Pairs of equal words beyond which words are compared within sentences only: difflib's time grows with them.
_MOST_PAIRS = 1_500_000


def difference(before: str, after: str) -> list[tuple[Op, str]]:
    """Compare two texts word by word.

    Space and punctuation are words of their own. Texts of many thousand words that have little in common are compared
    more coarsely, so that it takes no more than about a second.

    Args:
        before: The earlier text.
        after: The later text.

    Returns:
        Pieces in reading order, a deletion before the insertion that takes its place; no piece is empty, and no two of
        a kind are neighbours. What is not inserted makes the earlier text, what is not deleted the later one.
    """
    return _merged(_compared(before, after))


def _compared(before: str, after: str) -> Iterator[tuple[Op, str]]:
    a, b = _SPACED.findall(before), _SPACED.findall(after)
    if _pairs(a, b) <= _MOST_PAIRS:
        yield from _matched(a, b)
        return
    # Sentences first; then words, within those that took the place of others.
    left = _MOST_PAIRS
    for same, old, new in _blocks(_SENTENCES.findall(before), _SENTENCES.findall(after), frequent=False):
        a, b = _SPACED.findall(old), _SPACED.findall(new)
        left -= 0 if same else _pairs(a, b)
        if same:
            yield "equal", old
        elif left >= 0:
            yield from _matched(a, b)
        else:
            yield from _replaced(old, new)


def _matched(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[Op, str]]:
    for same, old, new in _blocks(a, b, frequent=True):
        if same:
            yield "equal", old
        else:
            yield from _replaced(old, new)


def _blocks(a: Sequence[str], b: Sequence[str], *, frequent: bool) -> Iterator[tuple[bool, str, str]]:
    """Give the blocks of two sequences: whether they are the same, and both texts.

    Args:
        a: The earlier sequence.
        b: The later one.
        frequent: Whether to match those that make more than a hundredth of a long text, which takes long.
    """
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=not frequent).get_opcodes():
        yield tag == "equal", "".join(a[i:j]), "".join(b[k:m])


def _replaced(old: str, new: str) -> Iterator[tuple[Op, str]]:
    """Give a deletion and an insertion, but for what they have in common at both ends."""
    a, b = _WORDS.findall(old), _WORDS.findall(new)
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    yield "equal", "".join(a[:start])
    yield "delete", "".join(a[start : len(a) - end])
    yield "insert", "".join(b[start : len(b) - end])
    yield "equal", "".join(a[len(a) - end :])


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """How many words they have in common at the beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _pairs(a: Sequence[str], b: Sequence[str]) -> int:
    """How many pairs of equal words there are: what difflib's time goes by."""
    there = Counter(b)
    return sum(count * there[word] for word, count in Counter(a).items())


def _merged(pieces: Iterator[tuple[Op, str]]) -> list[tuple[Op, str]]:
    """Join what belongs together; a space between two changes is taken as changed, too: it reads better."""
    merged: list[tuple[Op, str]] = []
    deleted = inserted = space = ""

    def flush() -> None:
        nonlocal deleted, inserted, space
        changed: list[tuple[Op, str]] = [("delete", deleted), ("insert", inserted), ("equal", space)]
        for op, text in changed:
            if text and merged and merged[-1][0] == op:
                merged[-1] = op, merged[-1][1] + text
            elif text:
                merged.append((op, text))
        deleted = inserted = space = ""

    for op, text in pieces:
        if not text:
            continue
        if op == "equal":
            if (deleted or inserted) and not space and text.isspace():
                space = text
                continue
            space += text
            flush()
            continue
        deleted, inserted, space = deleted + space, inserted + space, ""
        if op == "delete":
            deleted += text
        else:
            inserted += text
    flush()
    return merged
