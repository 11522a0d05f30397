"""Tasks from a user's own files: CSV, TSV, JSON Lines, JSON, parquet and data frames.

Examples get the catalogue's shape: the input `question` and the output `answer`, beside `choices` (the allowed answers,
where there are any), `id` and, for multiple choice, `stem` and `options`. Columns that are not named are guessed from
their names, whatever their case and punctuation, and only where one reading is plain; what was guessed is logged.

- A context-like column (context, passage, background, abstract, facts) is shown before the question, as "Context: ...",
  then "Question: ..."; `inputs={"question": "<column>"}` leaves it out.
- Options become lettered lines below the question, and the answer a letter. In the file it may be a letter, a number
  counted from 0 or from 1, or the option's text; all rows together decide which.
- At most 12 distinct answers, each there twice on average, are labels and become the answer space; labels that differ
  only in case and space are one. Other answers are free text. A file whose answers are all the same gets a warning.

Cells are text: "NA" and "null" are words, leading zeros stay. Values of JSON and data frames become text: 1.0 is "1",
true is "true", and nothing (null, NaN) is an empty cell; a list in an input column is joined by spaces.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from tp_dspy.errors import ConfigurationError, DataError
from tp_dspy.tasks.catalog import LETTERS, lettered
from tp_dspy.tasks.columns import SPLITS, Roles, find_roles
from tp_dspy.tasks.labels import OPTION_LETTERS, find_labels, letters, lists, one_of, warn_if_constant
from tp_dspy.tasks.tables import READERS, PathLike, Table, plain, read_csv, read_frame, read_jsonl
from tp_dspy.tasks.task import Task, answer_space

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Layout", "load_csv", "load_dataframe", "load_file", "load_jsonl"]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a table becomes a task. Columns that are None are guessed.

    Attributes:
        name: The task's name; by default the file's, without its suffix.
        question: Column of the question.
        answer: Column of the answer.
        options: Columns of a multiple-choice item's options, in order, 2 to 26; or the one column that holds them as a
            list (in CSV: a JSON list). Single rows may have fewer, at the end.
        choices: Column that holds the answers that are allowed in that row as a list. They are not lettered.
        id: Column that tells the rows apart; without one, ids are made of the inputs.
        split: Column whose values are train, validation (or val, valid, dev, eval) and test.
        inputs: The program's input fields, and the column of each, in place of `question`. A field named like a
            question, else the last, is the one that must not be empty and that options are shown in.
        answer_field: The output field that holds the answer.
        answers: The answer space, where the file is not to settle it; case and space do not count.
        domain: As in `Task`.
        description: As in `Task`.
        shares: As in `Task.from_examples`; for files without a `split` column.
        seed: As `shares`.

    Raises:
        ConfigurationError: Two arguments exclude each other, or a name cannot be a field's.
    """

    name: str | None = None
    question: str | None = None
    answer: str | None = None
    options: str | Sequence[str] | None = None
    choices: str | None = None
    id: str | None = None
    split: str | None = None
    inputs: Mapping[str, str] | None = None
    answer_field: str = "answer"
    answers: Sequence[str] | None = None
    domain: str | None = None
    description: str = ""
    shares: tuple[float, float, float] = (0.4, 0.3, 0.3)
    seed: int = 0

    def __post_init__(self) -> None:
        answer_space(self.answers, ())
        if self.inputs is not None and (not isinstance(self.inputs, Mapping) or not self.inputs):
            raise ConfigurationError(
                f'inputs is {self.inputs!r}; expected columns by field, as in {{"question": "q"}}.'
            )
        for one, other in (("question", "inputs"), ("options", "choices")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigurationError(f"{one} and {other} were both given; expected one of them. Leave one out.")
        for field in (*(self.inputs or {}), self.answer_field):
            if not isinstance(field, str) or not field.isidentifier():
                raise ConfigurationError(f"{field!r} cannot be a field; expected a name like 'query'. Rename it.")
        if self.answer_field in (self.inputs or {"question": ""}):
            raise ConfigurationError(f"{self.answer_field!r} is an input and the answer's field. Rename one of them.")
        if repeated := [column for column, count in Counter(self.named()).items() if count > 1]:
            raise ConfigurationError(f"Column {repeated[0]!r} was given for two things; expected a column for each.")

    def named(self) -> list[str]:
        """Return all columns that were given by name."""
        options = [self.options] if isinstance(self.options, str) else list(self.options or ())
        single = (self.question, self.answer, self.choices, self.id, self.split, *(self.inputs or {}).values())
        return [*options, *(column for column in single if column is not None)]


def load_file(path: PathLike, **layout: Any) -> Task:
    """Make a task of a file, read by its suffix: .csv, .tsv, .jsonl, .json (a list of objects) or .parquet.

    Args:
        path: The file.
        **layout: What `Layout` takes.

    Raises:
        ConfigurationError: The suffix is another one, or an argument cannot work.
        DataError: The file or a row of it cannot be used; the message names the rows, the header being row 1.
        SplitOverlapError: By the file's `split` column, a question of test is also in train or validation.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in READERS:
        raise ConfigurationError(f"{str(path)!r} ends in {suffix!r}; expected {', '.join(READERS)}. Convert it.")
    return _task(Layout(**layout), READERS[suffix], path)


def load_csv(path: PathLike, **layout: Any) -> Task:
    """Make a task of a CSV file in UTF-8 with `,`, `;`, `|` or tabs between the cells; else as `load_file`."""
    return _task(Layout(**layout), read_csv, path)


def load_jsonl(path: PathLike, **layout: Any) -> Task:
    """Make a task of a file with one JSON object a line; else as `load_file`."""
    return _task(Layout(**layout), read_jsonl, path)


def load_dataframe(frame: pd.DataFrame, *, name: str, **layout: Any) -> Task:
    """Make a task of a pandas data frame, whose index plays no part; else as `load_file`."""
    return _make(Layout(name=name, **layout), read_frame(frame, f"Data frame {name!r}"), name)


# --- Making the task


def _task(layout: Layout, read: Callable[[PathLike], Table], path: PathLike) -> Task:
    return _make(layout, read(path), Path(path).stem if layout.name is None else layout.name)


def _make(layout: Layout, table: Table, name: str) -> Task:
    roles = find_roles(table, layout)
    _check_rows(table, roles)
    examples = _examples(table, layout, roles)
    about: dict[str, Any] = {"domain": layout.domain, "description": layout.description, "answers": layout.answers}
    if roles.split is not None:
        parts = _parts(table, roles.split, examples)
        return Task(name, train=parts["train"], validation=parts["validation"], test=parts["test"], **about)
    how: dict[str, Any] = {"shares": layout.shares, "seed": layout.seed, "answer": layout.answer_field}
    return Task.from_examples(name, examples, **how, **about)


def _parts(table: Table, column: str, examples: Iterable[dspy.Example]) -> dict[str, list[dspy.Example]]:
    cells = table.texts(column)
    splits = [SPLITS.get(plain(cell), "") for cell in cells]
    if wrong := [row for row, split in enumerate(splits) if not split]:
        table.refuse(f"column {column!r} is no split", wrong, "Write train, validation or test.", cells)
    parts: dict[str, list[dspy.Example]] = {"train": [], "validation": [], "test": []}
    for split, example in zip(splits, examples, strict=True):
        parts[split].append(example)
    if not parts["train"]:
        raise DataError(f"{table.source}: column {column!r} puts no row in train. Write 'train' in some rows.")
    return parts


def _check_rows(table: Table, roles: Roles) -> None:
    for column in (roles.inputs[roles.main], roles.answer):
        if empty := [row for row, text in enumerate(table.texts(column, join=True)) if not text.strip()]:
            table.refuse(f"column {column!r} is empty", empty, "Fill in these cells or delete the rows.")
    if roles.id is not None:
        ids = table.texts(roles.id)
        counts = Counter(ids)
        if repeated := [row for row, text in enumerate(ids) if text.strip() and counts[text] > 1]:
            mend = "Make each id unique, or delete or rename the column."
            table.refuse(f"column {roles.id!r} repeats an id", repeated, mend, ids)


def _examples(table: Table, layout: Layout, roles: Roles) -> list[dspy.Example]:
    inputs = {field: table.texts(column, join=True) for field, column in roles.inputs.items()}
    extra: dict[str, list[Any]] = {}
    answers = table.texts(roles.answer)
    if roles.options:
        options = lists(table, roles.options, "options")
        answers = letters(table, roles.answer, options)
        extra["choices"] = [list(OPTION_LETTERS[: len(row)]) for row in options]
        extra |= {"stem": [text.strip() for text in inputs[roles.main]], "options": options}
    elif layout.choices is not None:
        extra["choices"] = lists(table, (layout.choices,), "choices")
    elif labels := layout.answers or find_labels(table, answers):
        extra["choices"] = [list(labels) for _ in answers]
    if layout.answers:
        answers = one_of(table, roles.answer, answers, [layout.answers] * len(answers))
    elif "choices" in extra:
        answers = one_of(table, roles.answer, answers, extra["choices"])
    if "choices" in extra:
        warn_if_constant(table, roles.answer, answers)
    if roles.context is not None:
        contexts = table.texts(roles.context, join=True)
        inputs[roles.main] = [_in_context(*pair) for pair in zip(contexts, inputs[roles.main], strict=True)]
    if roles.options:
        inputs[roles.main] = [_with_options(*pair) for pair in zip(inputs[roles.main], options, strict=True)]
    extra["id"] = _ids(table, roles, inputs)
    if clash := extra.keys() & {*inputs, layout.answer_field}:
        raise ConfigurationError(f"The field {min(clash)!r} is already the examples' own. Give yours another name.")
    columns = inputs | {layout.answer_field: answers} | extra
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [dspy.Example(**row).with_inputs(*inputs) for row in rows]


def _in_context(context: str, question: str) -> str:
    return f"Context: {context.strip()}\nQuestion: {question.strip()}" if context.strip() else question


def _with_options(question: str, options: Sequence[str]) -> str:
    """Letter the options as the catalogue does, whose letters end at H; the others go on in the same way."""
    more = list(zip(OPTION_LETTERS, options, strict=False))[len(LETTERS) :]
    return "\n".join([lettered(question, options), *(f"{letter}. {option}" for letter, option in more)])


def _ids(table: Table, roles: Roles, inputs: Mapping[str, Sequence[str]]) -> list[str]:
    texts = ["\n".join(row) for row in zip(*inputs.values(), strict=True)]
    made = [hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:12] for text in texts]
    given = [""] * len(made) if roles.id is None else table.texts(roles.id)
    return [text.strip() or identity for text, identity in zip(given, made, strict=True)]
