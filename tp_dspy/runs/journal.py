"""The journal of a run folder: every outcome and every answer of the reference LM, written down as it is known.

One SQLite file, content-addressed. An outcome is found by what decides it: the context (program, LMs, adapter,
objective), the candidate and the example; an answer by the reference LM, its settings and the prompt. So the same call
on the same folder goes on where the last one was killed, one with other settings uses what it can, and nothing is paid
twice. One process at a time may write.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tp_dspy.errors import JournalError
from tp_dspy.optimization.memory import Answer, Pair
from tp_dspy.scoring.outcomes import Outcome, Usage

__all__ = ["Journal"]

# Answers and the replies that hold little else.
_SHORT = 40
# "tpds" in ASCII, so that `file` and others can tell.
_APPLICATION = 0x74706473
# One entry for each version of the schema; a file of an older version goes through those that it lacks.
_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE names (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (kind, name));
    CREATE TABLE outcomes (
        context INTEGER NOT NULL, candidate TEXT NOT NULL, example TEXT NOT NULL, compile INTEGER NOT NULL,
        status TEXT NOT NULL, followed INTEGER NOT NULL, correct REAL NOT NULL, confidence REAL,
        answer TEXT, expected TEXT, reply TEXT, feedback TEXT NOT NULL,
        calls INTEGER NOT NULL, cached INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, usd REAL,
        PRIMARY KEY (context, candidate, example)
    ) WITHOUT ROWID;
    CREATE TABLE answers (
        call TEXT PRIMARY KEY, compile INTEGER NOT NULL, reply TEXT NOT NULL, cut_off INTEGER NOT NULL,
        calls INTEGER NOT NULL, cached INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL, usd REAL
    ) WITHOUT ROWID;
    """,
)
_OUTCOME = "status, followed, correct, confidence, answer, expected, reply, feedback"
_USAGE = "calls, cached, prompt_tokens, completion_tokens, usd"


class Journal:
    """A journal on disk; a `tp_dspy.optimization.memory.Memory` for one compile in one context.

    Use it in a ``with`` block, and from one thread at a time. A commit is in the operating system's hands when a method
    returns: it survives the process, and all but the last few survive a power cut.

    Args:
        path: The file; it is made, with its folder, when missing.
        context: Identifies program, LMs, adapter and objective.
        compile: Identifies the compile: what others paid for is known, and costs this one nothing.

    Raises:
        JournalError: If another process is using it, or it is no journal, damaged, or of a newer version.
    """

    def __init__(self, path: str | os.PathLike[str], *, context: str, compile: str) -> None:
        import filelock

        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The lock is the operating system's, and goes with the process, however that ends.
        self._lock = filelock.FileLock(f"{self.path}.lock")
        try:
            # Whoever watches the run looks whether it is held, for an instant.
            self._lock.acquire(timeout=1)
        except filelock.Timeout:
            raise JournalError(
                f"{self.path} is in use by another process. Wait until it has ended, or choose another run_dir."
            ) from None
        self._at_work = threading.Lock()
        # By candidate; those that this compile has come across.
        self._known: dict[str, dict[str, Outcome]] = {}
        try:
            self._database = self._open()
            self._context = self._name("context", context)
            self._compile = self._name("compile", compile)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file and let others use it."""
        # To close a connection that another thread writes to ends Python 3.11 with a fault.
        with self._at_work, contextlib.suppress(sqlite3.Error):
            self._database.close()
        self._lock.release()

    # As a Memory.

    def outcome(self, pair: Pair) -> Outcome | None:
        """Look a pair up; all of its candidate's are read at once."""
        candidate, example = pair
        if candidate not in self._known:
            self._known[candidate] = self._of(candidate)
        return self._known[candidate].get(example)

    def keep_outcome(self, pair: Pair, outcome: Outcome) -> None:
        """Commit an outcome.

        Raises:
            JournalError: If it cannot be written, as on a full disk.
        """
        candidate, example = pair
        row = (
            *(self._context, candidate, example, self._compile),
            *(outcome.status, outcome.followed, outcome.correct, outcome.confidence),
            *map(_text, (outcome.answer, outcome.expected, outcome.reply, outcome.feedback)),
            *_spent(outcome.usage),
        )
        self._write(
            f"INSERT OR REPLACE INTO outcomes (context, candidate, example, compile, {_OUTCOME}, {_USAGE}) "
            f"VALUES ({', '.join('?' * len(row))})",
            row,
        )
        self._known.setdefault(candidate, self._known.get(candidate) or self._of(candidate))[example] = outcome

    def answer(self, call: str) -> Answer | None:
        """Look a call of the reference LM up."""
        found = self._read(f"SELECT compile, reply, cut_off, {_USAGE} FROM answers WHERE call = ?", (call,))
        for compile, reply, cut_off, *spent in found:
            return Answer(reply, bool(cut_off), None, self._own(compile, spent))
        return None

    def keep_answer(self, call: str, answer: Answer) -> None:
        """Commit an answer.

        Raises:
            JournalError: If it cannot be written.
        """
        row = (call, self._compile, _text(answer.reply), answer.cut_off, *_spent(answer.usage))
        self._write(
            f"INSERT OR REPLACE INTO answers (call, compile, reply, cut_off, {_USAGE}) "
            f"VALUES ({', '.join('?' * len(row))})",
            row,
        )

    def __len__(self) -> int:
        """Number of outcomes in this context."""
        return int(next(self._read("SELECT count(*) FROM outcomes WHERE context = ?", (self._context,)))[0])

    # SQLite.

    def _open(self) -> sqlite3.Connection:
        # Autocommit: each outcome is a transaction of its own. Phases that go on at once take turns, in their threads.
        database = sqlite3.connect(self.path, isolation_level=None, timeout=10.0, check_same_thread=False)
        try:
            version = int(database.execute("PRAGMA user_version").fetchone()[0])
            owner = int(database.execute("PRAGMA application_id").fetchone()[0])
            tables = int(database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
            if (tables or owner) and owner != _APPLICATION:
                raise JournalError(f"{self.path} is a database, but no journal of tp_dspy. Choose another run_dir.")
            if version > len(_MIGRATIONS):
                raise JournalError(
                    f"{self.path} has version {version}; this tp_dspy reads up to {len(_MIGRATIONS)}. Update tp_dspy, "
                    "or choose another run_dir."
                )
            database.execute("PRAGMA journal_mode = WAL")
            # With WAL a commit is safe against the end of the process without waiting for the disk each time.
            database.execute("PRAGMA synchronous = NORMAL")
            for number, script in enumerate(_MIGRATIONS[version:], start=version + 1):
                database.executescript(
                    f"BEGIN; {script} PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {number}; COMMIT;"
                )
        except sqlite3.DatabaseError as error:
            database.close()
            raise JournalError(
                f"{self.path} cannot be used as a journal ({error}). If it is damaged, move it away; DSPy's cache may "
                "still answer what was paid for."
            ) from error
        except BaseException:
            database.close()
            raise
        return database

    def _name(self, kind: str, name: str) -> int:
        self._write("INSERT OR IGNORE INTO names (kind, name) VALUES (?, ?)", (kind, name))
        return int(next(self._read("SELECT id FROM names WHERE kind = ? AND name = ?", (kind, name)))[0])

    def _of(self, candidate: str) -> dict[str, Outcome]:
        rows = self._read(
            f"SELECT example, compile, {_OUTCOME}, {_USAGE} FROM outcomes WHERE context = ? AND candidate = ?",
            (self._context, candidate),
        )
        known = {}
        for example, compile, status, followed, correct, confidence, answer, expected, reply, feedback, *spent in rows:
            # One example is met by every candidate.
            known[sys.intern(example)] = Outcome(
                status=status,
                followed=bool(followed),
                correct=correct,
                confidence=confidence,
                answer=_shared(answer),
                expected=_shared(expected),
                reply=_shared(reply),
                feedback=feedback,
                usage=self._own(compile, spent),
            )
        return known

    def _own(self, compile: int, spent: Sequence[Any]) -> Usage:
        return _usage(*spent) if compile == self._compile else _usage()

    def _read(self, query: str, values: Sequence[Any]) -> Iterator[Any]:
        try:
            with self._at_work:
                return iter(self._database.execute(query, values).fetchall())
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path} cannot be read ({error}).") from error

    def _write(self, query: str, values: Sequence[Any]) -> None:
        try:
            with self._at_work:
                self._database.execute(query, values)
        except sqlite3.DatabaseError as error:
            raise JournalError(
                f"{self.path} cannot be written ({error}). What it holds is safe; free some space, then make the same "
                "call again."
            ) from error


@functools.lru_cache(maxsize=65536)
def _usage(*spent: Any) -> Usage:
    """Make a usage, once for all outcomes that cost the same: a million of them fill a hundred MB."""
    return Usage(*spent)


def _shared(text: str | None) -> str | None:
    """Hold a short text once, however many outcomes have it."""
    return sys.intern(text) if text is not None and len(text) <= _SHORT else text


def _spent(usage: Usage) -> tuple[int, int, int, int, float | None]:
    return usage.calls, usage.cached, usage.prompt_tokens, usage.completion_tokens, usage.usd


def _text(value: str | None) -> str | None:
    """Half a surrogate pair, as LMs that are cut off leave it, is no text that a file can hold."""
    return value if value is None else value.encode("utf-8", "replace").decode()
