"""When two examples are one question, and how examples are divided: by their contents, with labels in proportion."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import dspy

__all__ = ["divide", "drop_repeats", "example_key", "find_overlap", "normalize", "stratified_order"]

_MOST_LABELS = 200  # more distinct answers than this are free text, which has no labels to balance

# What makes "5%", "a*b", "-3", "1.5" and "3/4" other questions stays: "%", "*" and a sign directly before a digit; so
# do brackets that stand alone, as in "( ( True ) )" and "[ { (", where they are what the question is about.
_APOSTROPHES = re.compile("['\u2018\u2019\u02bc]")
_PUNCTUATION = re.compile(
    r"(?![-./]\d)(?![%*])(?!(?<!\S)[()\[\]{}](?!\S))["
    + re.escape("".join(c for c in map(chr, range(0x10000)) if unicodedata.category(c).startswith("P")))
    + "]"
)


def example_key(example: dspy.Example) -> str:
    """Return the text by which two examples count as the same question.

    Args:
        example: An example with inputs set.

    Returns:
        The input fields in the order of their names, NFKC-normalised, case-folded, without punctuation and with white
        space collapsed. Outputs do not count.
    """
    fields = example.inputs()
    return "\n".join(normalize(str(fields[name])) for name in sorted(fields.keys()))


def normalize(text: str) -> str:
    """Reduce a text to what makes it the same to a reader; a text of nothing but punctuation keeps it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _PUNCTUATION.sub(" ", _APOSTROPHES.sub("", folded)).split()
    return " ".join(words or folded.split())


def find_overlap(
    a: Iterable[dspy.Example],
    b: Iterable[dspy.Example],
    *,
    key: Callable[[dspy.Example], str] = example_key,
) -> list[dspy.Example]:
    """Return the examples of `a`, in order, whose `key` also occurs in `b`."""
    known = {key(example) for example in b}
    return [example for example in a if key(example) in known]


def drop_repeats(examples: Iterable[dspy.Example], *, answer: str = "answer") -> list[dspy.Example]:
    """Keep one example of each question.

    Where repeats disagree in their answer, which one stays is settled by a hash and so does not depend on row order.

    Args:
        examples: Examples with inputs set.
        answer: Name of the field that holds the answer.

    Returns:
        The kept examples, in the order given.
    """
    listed = list(examples)
    kept: dict[str, int] = {}
    for index, example in enumerate(listed):
        rival = kept.setdefault(example_key(example), index)
        if rival != index and _rank(example, 0, answer) < _rank(listed[rival], 0, answer):
            kept[example_key(example)] = index
    return [listed[index] for index in sorted(kept.values())]


def stratified_order(examples: Iterable[dspy.Example], *, seed: int, answer: str = "answer") -> list[dspy.Example]:
    """Put examples in one fixed order whose every prefix has nearly the labels of the whole.

    In a prefix of m examples each label occurs within one of m times its share (Tijdeman's rule for the chairman
    assignment problem, 1980). The order depends on the seed and the examples' contents, not on the order given.
    Answers that are mostly unique, or more than 200, are free text and are only shuffled.

    Args:
        examples: Examples with inputs set.
        seed: Picks the order.
        answer: Name of the field that holds the label; examples without it share one label.

    Returns:
        All examples, reordered.
    """
    shuffled = sorted(examples, key=lambda example: _rank(example, seed, answer))
    groups: dict[str, list[dspy.Example]] = defaultdict(list)
    for example in shuffled:
        groups[_label(example, answer)].append(example)
    n, k = len(shuffled), len(groups)
    if k < 2 or k > min(n / 2, _MOST_LABELS):
        return shuffled
    # The hash of the label breaks ties, lest the first label of the alphabet lead every time.
    size = {label: len(groups[label]) for label in sorted(groups, key=lambda label: _hash(seed, label))}
    taken = dict.fromkeys(size, 0)
    order = []
    for m in range(1, n + 1):
        # All lags are in units of 1 / n, so that the comparison stays in whole numbers.
        lag = {label: m * size[label] - n * taken[label] for label in size}
        due = [label for label in size if (2 * k - 2) * lag[label] >= n]
        label = min(due, key=lambda label: ((2 * k - 3) * n - (2 * k - 2) * lag[label]) / size[label])
        order.append(groups[label][taken[label]])
        taken[label] += 1
    return order


def divide(ordered: Sequence[dspy.Example], shares: Sequence[float]) -> list[list[dspy.Example]]:
    """Cut a (stratified) order into consecutive parts.

    Args:
        ordered: At least as many examples as there are shares above 0.
        shares: Not negative, 1 in all.

    Returns:
        One list for each share; a share above 0 gets at least one example.
    """
    sizes = [max(1, round(len(ordered) * share)) if share else 0 for share in shares]
    while excess := sum(sizes) - len(ordered):
        sizes[sizes.index(max(sizes))] -= 1 if excess > 0 else -1
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    return [list(ordered[start : start + size]) for start, size in zip(starts, sizes, strict=True)]


def _label(example: dspy.Example, answer: str) -> str:
    return str(example.get(answer)).strip().casefold()


def _rank(example: dspy.Example, seed: int, answer: str) -> tuple[str, str, str]:
    """A sort key that shuffles; texts that are the same to a reader are told apart last."""
    key, label = example_key(example), _label(example, answer)
    return _hash(seed, key), _hash(seed, label), str(sorted(example.inputs().items()))


def _hash(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\x1f{text}".encode(errors="backslashreplace")).hexdigest()
