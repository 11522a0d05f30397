"""The journal: what was paid for once is known for ever, whatever became of the process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tp_dspy.errors import JournalError
from tp_dspy.optimization.memory import Answer
from tp_dspy.runs.journal import Journal
from tp_dspy.scoring.outcomes import Outcome, Usage

USAGE = Usage(2, 1, 30, 4, 0.25)
FULL = Outcome("ok", True, 0.5, 0.9, "B", "C", "B.", "The answer is 'B'; expected 'C'.", USAGE)
EMPTY = Outcome("unparsed", usage=Usage(1, usd=None))


def opened(path: Path, context: str = "program", compile: str = "first") -> Journal:
    return Journal(path / "run" / "journal.sqlite", context=context, compile=compile)


def test_what_was_kept_comes_back_to_the_last_field(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        assert journal.outcome(("c1", "e1")) is None
        journal.keep_outcome(("c1", "e1"), FULL)
        journal.keep_outcome(("c1", "e2"), EMPTY)
        journal.keep_answer("call", Answer("<INS>Do.</INS>", True, None, USAGE))
        assert journal.outcome(("c1", "e1")) == FULL
    with opened(tmp_path) as again:
        assert [again.outcome(("c1", e)) for e in ("e1", "e2", "e3")] == [FULL, EMPTY, None]
        assert again.outcome(("c2", "e1")) is None and len(again) == 2
        assert again.answer("call") == Answer("<INS>Do.</INS>", True, None, USAGE) and again.answer("other") is None


def test_what_another_compile_paid_for_is_known_and_costs_this_one_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.keep_outcome(("c", "e"), FULL)
        journal.keep_answer("call", Answer("text", usage=USAGE))
    with opened(tmp_path, compile="second") as journal:
        found = journal.outcome(("c", "e"))
        assert found is not None and found.usage == Usage() and found.reply == FULL.reply
        answer = journal.answer("call")
        assert answer is not None and answer.usage == Usage()


def test_another_context_knows_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.keep_outcome(("c", "e"), FULL)
    with opened(tmp_path, context="another program") as journal:
        assert journal.outcome(("c", "e")) is None


def test_half_a_surrogate_pair_does_not_lose_an_outcome(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.keep_outcome(("c", "e"), Outcome("ok", True, 1.0, None, "B\ud83d", None, "B\ud83d"))
    with opened(tmp_path) as journal:
        found = journal.outcome(("c", "e"))
        assert found is not None and found.reply == "B?"


def test_a_second_process_is_refused_and_let_in_afterwards(tmp_path: Path) -> None:
    with opened(tmp_path), pytest.raises(JournalError, match=r"in use by another process.*choose another run_dir"):
        opened(tmp_path)
    opened(tmp_path).close()


def _writes(path: str, ready: Any) -> None:
    journal = Journal(path, context="program", compile="first")
    for number in range(100_000):
        journal.keep_outcome(("c", f"e{number}"), FULL)
        ready.value = number + 1


def test_kill_9_loses_nothing_that_was_kept_and_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "run" / "journal.sqlite"
    spawn = multiprocessing.get_context("spawn")
    told = spawn.Value("i", 0)
    process = spawn.Process(target=_writes, args=(str(path), told))
    process.start()
    while told.value < 500:
        pass
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    with opened(tmp_path) as journal:
        assert len(journal) >= told.value >= 500
        assert all(journal.outcome(("c", f"e{number}")) == FULL for number in range(told.value))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path.write_text("no database at all, " * 20), "cannot be used as a journal.*damaged"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE t (x);"), "no journal of tp_dspy"),
    ],
)
def test_other_files_are_refused_and_left_as_they_are(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "run" / "journal.sqlite"
    path.parent.mkdir()
    make(path)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=says):
        opened(tmp_path)
    assert path.read_bytes() == before
    path.unlink()
    opened(tmp_path).close()  # And the lock is free.


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    sqlite3.connect(tmp_path / "run" / "journal.sqlite").execute("PRAGMA user_version = 99")
    with pytest.raises(JournalError, match="version 99; this tp_dspy reads up to 1"):
        opened(tmp_path)


def test_a_full_disk_is_told_and_what_was_kept_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as journal:
        journal.keep_outcome(("c", "e"), FULL)
        pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
        journal._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(JournalError, match=r"cannot be written .*full.*make the same call"):
            for number in range(1000):
                journal.keep_outcome(("c", f"e{number}"), FULL)
    with opened(tmp_path) as journal:
        assert journal.outcome(("c", "e")) == FULL
        journal.keep_outcome(("c", "more"), FULL)


def test_it_is_closed_between_two_writes_of_other_threads(tmp_path: Path) -> None:
    """Else Python 3.11 ends with a fault; in a process of its own, for that."""
    code = """
import sys, threading
from tp_dspy.errors import JournalError
from tp_dspy.runs.journal import Journal
from tp_dspy.scoring.outcomes import Outcome

for number in range(30):
    journal = Journal(f"{sys.argv[1]}/{number}/journal.sqlite", context="c", compile="k")
    begun = threading.Barrier(3)

    def write(who):
        begun.wait()
        try:
            for index in range(100_000):
                journal.keep_outcome((who, str(index)), Outcome("ok"))
        except JournalError:
            pass

    threads = [threading.Thread(target=write, args=(who,)) for who in "ab"]
    for thread in threads:
        thread.start()
    begun.wait()
    threading.Event().wait(0.02)
    journal.close()
    for thread in threads:
        thread.join()
print("fine")
"""
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert ended.stdout == "fine\n", (ended.returncode, ended.stderr)
