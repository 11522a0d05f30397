"""Making sense of a table's answers: letters of options, labels or free text."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

from tp_dspy.tasks.tables import Table, clean, plain
from tp_dspy.tasks.task import MOST_ANSWERS

__all__ = ["OPTION_LETTERS", "find_labels", "letters", "lists", "one_of", "warn_if_constant"]

logger = logging.getLogger(__name__)

OPTION_LETTERS = ascii_uppercase
"""The letters of options; the catalogue's end at H."""


def lists(table: Table, columns: Sequence[str], what: str) -> list[list[str]]:
    """Return the options or choices of each row, from one list column or from a column each."""
    if len(columns) == 1:
        rows = [_as_list(cell) for cell in table.cells[columns[0]]]
    else:
        rows = [list(row) for row in zip(*(table.texts(column) for column in columns), strict=True)]
    shown = rows if len(columns) > 1 else table.cells[columns[0]]
    mend = f'Expected a list in each row, e.g. ["yes", "no"]; or pass {what}=... with other columns.'
    if wrong := [index for index, row in enumerate(rows) if row is None]:
        table.refuse(f"column {columns[0]!r} is not a list", wrong, mend, shown)
    kept = [[part.strip() for part in row or ()] for row in rows]
    for row in kept:
        while row and not row[-1]:
            row.pop()
    if wrong := [index for index, row in enumerate(kept) if not all(row)]:
        table.refuse(f"the {what} have a gap", wrong, "Fill it; only the last may be missing.", shown)
    if wrong := [index for index, row in enumerate(kept) if not 2 <= len(row) <= len(OPTION_LETTERS)]:
        table.refuse(f"there are not 2 to {len(OPTION_LETTERS)} {what}", wrong, "Mend or delete these rows.", shown)
    return kept


def _as_list(cell: Any) -> list[str] | None:
    if isinstance(cell, str):
        for parse in (json.loads, ast.literal_eval):  # the latter for what pandas writes into a CSV file
            try:
                cell = clean(parse(cell))
                break
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    if isinstance(cell, dict) and [plain(key) for key in cell] == list(OPTION_LETTERS.lower()[: len(cell)]):
        cell = list(cell.values())
    return cell if isinstance(cell, list) and all(isinstance(part, str) for part in cell) else None


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def _by_letter(answer: str, options: Sequence[str]) -> int | None:
    match = re.fullmatch(r"\W*([A-Za-z])\W*", answer)
    place = OPTION_LETTERS.index(match[1].upper()) if match else len(options)
    return place if place < len(options) else None


def _by_number(first: int) -> Callable[[str, Sequence[str]], int | None]:
    def read(answer: str, options: Sequence[str]) -> int | None:
        match = re.fullmatch(r"\s*([0-9]{1,3})(?:\.0)?\s*", answer)
        place = int(match[1]) - first if match else -1
        return place if 0 <= place < len(options) else None

    return read


def _by_text(answer: str, options: Sequence[str]) -> int | None:
    places = [place for place, option in enumerate(options) if _fold(option) == _fold(answer)]
    return places[0] if len(places) == 1 else None


_READINGS = {
    "letters": _by_letter,
    "numbers from 0": _by_number(0),
    "numbers from 1": _by_number(1),
    "texts of options": _by_text,
}


def letters(table: Table, column: str, options: Sequence[Sequence[str]]) -> list[str]:
    """Turn the answers into letters by the one reading that fits all rows."""
    cells = table.texts(column)
    read = {how: [one(*row) for row in zip(cells, options, strict=True)] for how, one in _READINGS.items()}
    whole = {how: places for how, places in read.items() if None not in places}
    if not whole:
        how, places = max(read.items(), key=lambda item: len(cells) - item[1].count(None))
        wrong = [row for row, place in enumerate(places) if place is None]
        mend = f"Read as {how}, the others fit. Write a letter, a number or an option's text, the same in all rows."
        table.refuse(f"column {column!r} is none of the row's options", wrong, mend, cells)
    places = next(iter(whole.values()))
    for rival in whole.values():
        if wrong := [row for row in range(len(cells)) if rival[row] != places[row]]:
            mend = f"They could be {' or '.join(whole)}, and nothing in the file settles it. Write letters instead."
            table.refuse(f"column {column!r} is not plain", wrong, mend, cells)
    logger.info("%s: multiple choice, the answers are %s.", table.source, next(iter(whole)))
    return [OPTION_LETTERS[place] for place in places if place is not None]


def one_of(table: Table, column: str, cells: Sequence[str], allowed: Sequence[Sequence[str]]) -> list[str]:
    """Spell each answer as its row's allowed ones do."""
    known = [{_fold(choice): choice for choice in choices} for choices in allowed]
    spelled = [choices.get(_fold(cell)) for choices, cell in zip(known, cells, strict=True)]
    if wrong := [row for row, answer in enumerate(spelled) if answer is None]:
        expected = ", ".join(map(repr, allowed[wrong[0]]))
        mend = f"Expected, in {table.places[wrong[0]]}, one of {expected}. Correct these rows, or allow their answers."
        table.refuse(f"column {column!r} is no allowed answer", wrong, mend, cells)
    return [answer for answer in spelled if answer is not None]


def find_labels(table: Table, cells: Sequence[str]) -> list[str] | None:
    """Return the answer space, each label in its most frequent spelling, or None for free text."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        spellings[_fold(cell)][cell.strip()] += 1
    if len(spellings) > min(MOST_ANSWERS, len(cells) / 2):
        logger.info("%s: the answers are free text (%d distinct of %d).", table.source, len(spellings), len(cells))
        return None
    labels = []
    for counts in spellings.values():
        ranked = sorted(counts, key=lambda spelling: (-counts[spelling], spelling))
        labels.append(ranked[0])
        if ranked[1:]:
            others = ", ".join(map(repr, ranked[1:]))
            logger.info("%s: %s counts as %r, the most frequent spelling.", table.source, others, ranked[0])
    logger.info("%s: the answers are labels: %s.", table.source, ", ".join(map(repr, sorted(labels))))
    return sorted(labels)


def warn_if_constant(table: Table, column: str, answers: Sequence[str]) -> None:
    """Warn when all answers are the same label."""
    if len(set(answers)) == 1:
        what = "%s: all %d answers in column %r are %r, which leaves nothing to tell apart. Is it the right column?"
        logger.warning(what, table.source, len(answers), column, answers[0])
