"""Guessing which column of a table is what."""

from __future__ import annotations

import difflib
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Protocol

from tp_dspy.errors import DataError
from tp_dspy.tasks.tables import Table, plain

__all__ = ["SPLITS", "Named", "Roles", "find_roles"]

logger = logging.getLogger(__name__)

_NAMES = {
    "question": "q question query text input prompt sentence stem questiontext questionstem instruction problem review",
    "answer": "a answer label target output gold correct correctanswer goldanswer goldlabel correctoption "
    "correctchoice answerkey answeridx answerindex cop class completion response finaldecision",
    "options": "options choices answeroptions answerchoices candidates",
    "context": "context contexts passage background abstract facts",
    "id": "id uid qid questionid exampleid index",
    "split": "split fold partition",
}
_OPTION_COLUMN = re.compile(r"(option|opt|op|choice)?(?:([a-z])|(?<=\w)([0-9]|1[0-9]|2[0-6]))")  # of plain names
SPLITS = dict.fromkeys(("train", "training"), "train") | dict.fromkeys(("test", "testing"), "test")
SPLITS |= dict.fromkeys(("validation", "val", "valid", "dev", "development", "eval", "evaluation"), "validation")
"""What the names of splits stand for, by the plain name."""


class Named(Protocol):
    """The columns that the user named; see `tp_dspy.tasks.tabular.Layout`."""

    @property
    def question(self) -> str | None:
        """Column of the question."""

    @property
    def answer(self) -> str | None:
        """Column of the answer."""

    @property
    def options(self) -> str | Sequence[str] | None:
        """Columns of the options, or the one that holds them."""

    @property
    def choices(self) -> str | None:
        """Column of the answers that are allowed in a row."""

    @property
    def id(self) -> str | None:
        """Column that tells the rows apart."""

    @property
    def split(self) -> str | None:
        """Column of the splits."""

    @property
    def inputs(self) -> Mapping[str, str] | None:
        """Columns by input field."""

    def named(self) -> list[str]:
        """Return all columns that were given by name."""


@dataclass(frozen=True)
class Roles:
    """Which column is what.

    Attributes:
        inputs: The column of each input field.
        main: The input field that must not be empty and that options are shown in.
        answer: Column of the answer.
        context: Column of what is shown before the question.
        options: Columns of the options, or the one that holds them as a list.
        id: Column that tells the rows apart.
        split: Column of the splits.
    """

    inputs: dict[str, str]
    main: str
    answer: str
    context: str | None
    options: tuple[str, ...]
    id: str | None
    split: str | None


def find_roles(table: Table, layout: Named) -> Roles:
    """Return the columns that were named and, for the others, the ones that are plain."""
    for column in layout.named():
        _check_named(table, column)
    free = [column for column in table.cells if column not in layout.named()]
    options = (layout.options,) if isinstance(layout.options, str) else tuple(layout.options or ())
    if not options and layout.choices is None:
        options = _guess_options(table, free)
        free = [column for column in free if column not in options]
    answer = layout.answer or _guess_one(table, free, "answer")
    free = [column for column in free if column != answer]
    inputs = dict(layout.inputs or {"question": layout.question or _guess_one(table, free, "question")})
    context = None
    if layout.inputs is None and (contexts := _candidates(free, "context")):
        context = contexts[0] if len(contexts) == 1 else _guess_one(table, free, "context")
    roles = Roles(
        inputs=inputs,
        main=next((field for field in inputs if plain(field) in _NAMES["question"].split()), list(inputs)[-1]),
        answer=answer,
        context=context,
        options=options,
        id=layout.id or next(iter(_candidates(free, "id")), None),
        split=layout.split or next((c for c in _candidates(free, "split") if _known_splits(table, c)), None),
    )
    _log_guesses(table, layout, roles)
    return roles


def _candidates(columns: Iterable[str], role: str) -> list[str]:
    return [column for column in columns if plain(column) in _NAMES[role].split()]


def _guess_one(table: Table, columns: Sequence[str], role: str) -> str:
    found = _candidates(columns, role)
    if len(found) == 1:
        return found[0]
    mend = f"Pass {role}='<column>'"
    if role != "answer":
        mend = f"{mend}, or inputs={{'<field>': '<column>', ...}} for several"
    if role == "context":
        mend = "Pass inputs={'context': '<column>', 'question': '<column>'}, with what the program is to be given"
    if not found:
        looked = ", ".join(_NAMES[role].split()[1:6])
        raise DataError(
            f"{table.source}: no column is plainly the {role} ({looked}, ...). {mend}. {table.listing()} "
            "Are they the names of the columns? The file has to begin with them."
        )
    raise DataError(f"{table.source}: {' and '.join(map(repr, found))} could be the {role}. {mend}. {table.listing()}")


def _guess_options(table: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns A, B, ... (or option_a, choice1, ...), or the one list column, or nothing."""
    groups: dict[tuple[str, bool], dict[int, str]] = defaultdict(dict)
    for column in columns:
        if match := _OPTION_COLUMN.fullmatch(plain(column)):
            prefix, letter, number = match.groups(default="")
            place = ascii_lowercase.index(letter) if letter else int(number)
            groups[prefix, bool(letter)][place] = column
    found: list[tuple[str, ...]] = []
    for (_, in_letters), group in groups.items():
        places = sorted(group)
        if not group.keys() >= set(range(places[0], 11)):
            # Only after ten others are K and on, or 10 and on, options: a question's column may be "Q".
            places = [place for place in places if place < 10]
        if len(places) > 1 and places[0] in ((0,) if in_letters else (0, 1)):
            if places != list(range(places[0], places[-1] + 1)):
                names = ", ".join(repr(column) for place, column in group.items() if place in places)
                raise DataError(f"{table.source}: the option columns {names} have a gap. Pass options=[...] with all.")
            found.append(tuple(group[place] for place in places))
    taken = {column for group in found for column in group}  # "option_s" among them is no list of "options"
    found = [(column,) for column in _candidates(columns, "options") if column not in taken] + found
    if len(found) > 1:
        sets = " and ".join(str(list(columns)) for columns in found)
        raise DataError(f"{table.source}: {sets} could be the options. Pass options=... {table.listing()}")
    return found[0] if found else ()


def _check_named(table: Table, column: str) -> None:
    if column not in table.cells:
        folded = {name.casefold(): name for name in table.cells}
        near = difflib.get_close_matches(str(column).casefold(), folded, n=3)
        hint = f" Nearest: {', '.join(repr(folded[name]) for name in near)}." if near else ""
        raise DataError(f"{table.source}: there is no column {column!r}.{hint} {table.listing()}")


def _known_splits(table: Table, column: str) -> list[str]:
    """Return the splits that occur in the column; a fold number is none."""
    return [value for cell in table.cells[column] if (value := SPLITS.get(plain(str(cell))))]


def _log_guesses(table: Table, layout: Named, roles: Roles) -> None:
    guessed = [
        f"{role} = {getattr(roles, role)!r}"
        for role in ("answer", "id", "split", "context")
        if getattr(roles, role) not in (None, *layout.named())
    ]
    if layout.inputs is None and layout.question is None:
        guessed.insert(0, f"question = {roles.inputs['question']!r}")
    if roles.options and layout.options is None:
        guessed.append(f"options = {', '.join(map(repr, roles.options))}")
    used = {*layout.named(), *roles.inputs.values(), *roles.options, roles.answer, roles.id, roles.split, roles.context}
    unused = ", ".join(repr(column) for column in table.cells if column not in used) or "none"
    if guessed:
        logger.info("%s: guessed the columns %s; not used: %s.", table.source, ", ".join(guessed), unused)
