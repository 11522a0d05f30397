"""Reading a user's own files: whatever the format, a table of clean cells."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tp_dspy.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["READERS", "PathLike", "Table", "clean", "plain", "read_csv", "read_frame", "read_jsonl"]

PathLike = str | os.PathLike[str]
"""A path, as text or not."""

_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """What was read.

    Attributes:
        source: The file as the user named it.
        places: Where the user finds each row, e.g. "row 2".
        cells: The cells of each column: text, or a list or dict of text.
    """

    source: str
    places: list[str]
    cells: dict[str, list[Any]]

    @classmethod
    def of(cls, source: str, names: Iterable[object], rows: Mapping[str, Sequence[Any]]) -> Table:
        """Make a table of rows by their places; all have a cell for each name."""
        columns = [str(name).strip() or f"column {number}" for number, name in enumerate(names, 1)]
        if repeated := [column for column, count in Counter(columns).items() if count > 1]:
            raise DataError(f"{source}: the column name {repeated[0]!r} occurs twice. Rename or delete one of them.")
        if not rows:
            raise DataError(f"{source} has no rows; expected at least one question below the names of the columns.")
        table = zip(*rows.values(), strict=True)
        cells = {column: [clean(cell) for cell in row] for column, row in zip(columns, table, strict=True)}
        return cls(source, list(rows), cells)

    def texts(self, column: str, *, join: bool = False) -> list[str]:
        """Return a column of text; with `join`, lists of text are joined by spaces."""
        cells = self.cells[column]
        if join:
            flat = (isinstance(cell, list) and all(isinstance(part, str) for part in cell) for cell in cells)
            cells = [" ".join(cell) if is_flat else cell for cell, is_flat in zip(cells, flat, strict=True)]
        if wrong := [row for row, cell in enumerate(cells) if not isinstance(cell, str)]:
            self.refuse(f"column {column!r} holds a list or an object", wrong, "Make it text or a number.", cells)
        return cells

    def refuse(self, what: str, rows: Sequence[int], mend: str, shown: Sequence[object] | None = None) -> NoReturn:
        """Raise a DataError that counts the rows and shows the first three."""
        first = [self.places[row] + (f" ({_cut(shown[row])})" if shown else "") for row in rows[:3]]
        more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
        count = f"{len(rows)} of {len(self.places)} rows"
        raise DataError(f"{self.source}: {what} in {count}: {', '.join(first)}{more}. {mend}")

    def listing(self) -> str:
        """Return the columns in words, each with the first value that it holds."""
        shown = [f"{column!r} (e.g. {_cut(next(filter(None, cells), ''))})" for column, cells in self.cells.items()]
        more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
        return f"The columns are {', '.join(shown[:20])}{more}."


def _cut(value: object) -> str:
    text = " ".join(str(value).split())
    return repr(text if len(text) <= 40 else text[:39] + "\u2026")


def clean(value: Any) -> Any:
    """Return a cell as text, or as a list or dict of text."""
    value = value.tolist() if hasattr(value, "tolist") else value  # a number or an array of numpy's
    match value:
        case str():
            return value
        case bool():
            return str(value).lower()
        case float() if value != value:
            return ""
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case list() | tuple():
            return [clean(part) for part in value]
        case dict():
            return {str(key): clean(part) for key, part in value.items()}
    return "" if value is None else str(value)


def plain(name: str) -> str:
    """Return a name without case, space and punctuation."""
    return re.sub(r"[\W_]+", "", name).casefold()


def _read_text(path: PathLike) -> str:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {str(path)!r} in {str(Path.cwd())!r}. Check the path.") from error
    except OSError as error:
        raise DataError(f"{str(path)!r} cannot be read ({error.strerror}); expected a readable file.") from error
    if not data.strip(b"\xef\xbb\xbf \t\r\n"):
        raise DataError(f"{str(path)!r} is empty; expected questions with their answers.")
    try:
        text = data.decode("utf-8-sig")
        wrong = text[: text.index("\0")].count("\n") if "\0" in text else None  # UTF-16 can pass for UTF-8
    except UnicodeDecodeError as error:
        wrong = data[: error.start].count(b"\n")
    if wrong is not None:
        raise DataError(f"{str(path)!r}, line {wrong + 1}: the text is not UTF-8. Save as UTF-8 (Excel: 'CSV UTF-8').")
    return text


def read_csv(path: PathLike, delimiters: str = _DELIMITERS) -> Table:
    """Read a CSV file, whose delimiter is the one of these that fits best."""
    source, text = repr(str(path)), _read_text(path)
    rows, error = _split_cells(text, max(delimiters, key=lambda delimiter: _fit(text, delimiter)))
    if error is not None:
        raise DataError(
            f"{source}: row {len(rows) + 1} cannot be read ({error}). A cell that begins with a quotation mark has to "
            "end with one; inside, write it twice."
        ) from error
    # A spreadsheet shows a cell with line breaks as one row, and counts empty rows.
    (first, header), *numbered = [(n, row) for n, row in enumerate(rows, 1) if any(map(str.strip, row))] or [(1, [])]
    if wide := [f"row {n} ({len(row)})" for n, row in numbered if len(row) > len(header)]:
        raise DataError(
            f"{source}: there are more cells than the {len(header)} columns that row {first} names in {len(wide)} of "
            f"{len(numbered)} rows: {', '.join(wide[:3])}. Put cells that hold the delimiter in quotation marks."
        )
    return Table.of(source, header, {f"row {n}": row + [""] * (len(header) - len(row)) for n, row in numbered})


def _split_cells(text: str, delimiter: str, most: int | None = None) -> tuple[list[list[str]], csv.Error | None]:
    """Return the rows, at most so many, up to the first that is malformed, and what is wrong with that."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    limit = csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # long documents are no error
    try:
        rows.extend(islice(reader, most))
    except csv.Error as error:
        return rows, error
    finally:
        csv.field_size_limit(limit)
    return rows, None


def _fit(text: str, delimiter: str) -> tuple[int, int]:
    """Rank a delimiter by the rows that have as many cells as the header, then by the header's cells."""
    header, *rows = [row for row in _split_cells(text, delimiter, 50)[0] if row] or [[]]
    return (sum(len(row) == len(header) for row in rows), len(header)) if len(header) > 1 else (-1, 0)


def read_jsonl(path: PathLike) -> Table:
    """Read a file with one JSON object a line."""
    objects: dict[str, Any] = {}
    # Not splitlines, which also breaks at characters that JSON allows within a text.
    for number, line in enumerate(_read_text(path).split("\n"), 1):
        if line.strip():
            objects[f"line {number}"] = _parse(line, f"{str(path)!r}, line {number}")
    return _table_of_objects(repr(str(path)), objects)


def _read_json(path: PathLike) -> Table:
    listed = _parse(_read_text(path), repr(str(path)))
    if not isinstance(listed, list):
        raise DataError(f"{str(path)!r} holds one {type(listed).__name__}; expected a list of objects: [{{...}}, ...].")
    return _table_of_objects(repr(str(path)), {f"item {number}": value for number, value in enumerate(listed, 1)})


def _parse(text: str, where: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(kept := dict(pairs)) < len(pairs):
            repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise DataError(f"{where}: the column name {repeated!r} occurs twice. Rename or delete one of them.")
        return kept

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, character {error.colno}" if "\n" in text.strip() else f"character {error.colno}"
        mend = 'Write objects like {"question": "...", "answer": "..."}, in .jsonl one a line.'
        raise DataError(f"{where}: broken JSON ({error.msg} at {at}). {mend}") from error


def _table_of_objects(source: str, objects: Mapping[str, Any]) -> Table:
    for place, value in objects.items():
        if not isinstance(value, dict):
            mend = 'Write objects like {"question": "...", "answer": "..."}; lists of them are for .json files.'
            raise DataError(f"{source}, {place} is {_cut(json.dumps(value))}; expected a JSON object. {mend}")
    names = list(dict.fromkeys(name for value in objects.values() for name in value))
    return Table.of(source, names, {place: [value.get(n) for n in names] for place, value in objects.items()})


def _read_parquet(path: PathLike) -> Table:
    import pandas as pd

    if not Path(path).is_file():
        raise DataError(f"There is no file {str(path)!r} in {str(Path.cwd())!r}. Check the path.")
    try:
        frame = pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are either
        raise DataError(f"{str(path)!r} cannot be read as parquet ({error}). Write it anew.") from error
    return read_frame(frame, repr(str(path)))


def read_frame(frame: pd.DataFrame, source: str) -> Table:
    """Read a pandas data frame; `source` is what messages call it."""
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise DataError(f"{source} is of type {type(frame).__name__}; expected a pandas DataFrame.")
    whole = frame.astype(object).where(frame.notna(), None)
    cells = enumerate(whole.itertuples(index=False, name=None))
    return Table.of(source, frame.columns, {f"row {number} of the frame": row for number, row in cells})


READERS: dict[str, Callable[[PathLike], Table]] = {
    ".csv": read_csv,
    ".tsv": lambda path: read_csv(path, "\t"),
    ".jsonl": read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
"""How to read a file, by its suffix."""
