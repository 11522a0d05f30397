"""What a run folder tells: whether somebody works on it, what was found, whether more will come, why nothing has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tp_dspy.cli.settings import RUN_FILE, RUNNING, Run
from tp_dspy.errors import ArtifactError, ConfigurationError, JournalError

__all__ = [
    "RESULT",
    "SOURCE_PROMPTS",
    "at_work",
    "has_ended",
    "how_to_go_on",
    "is_busy",
    "is_of_a_run",
    "result_file",
    "why_no_result",
    "written",
]

RESULT = "result.json"
SOURCE_PROMPTS = "source_prompts.json"
_JOURNAL = "journal.sqlite"
_JOURNAL_LOCK = f"{_JOURNAL}.lock"
_COMMAND_LOCK = "run.lock"
# Seconds; a look at a lock takes it for an instant, which is no reason to refuse a command.
_PATIENCE = 1.0


@contextlib.contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """Hold a run folder for as long as a command works on it: before and after its compile, which holds the journal.

    The lock is the operating system's, and goes with the process, however that ends.

    Raises:
        JournalError: If another command holds it.
    """
    import filelock

    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / _COMMAND_LOCK)
    try:
        lock.acquire(timeout=_PATIENCE)
    except filelock.Timeout:
        raise JournalError(
            f"{folder.as_posix()} is in use by another process. Wait until it has ended, or choose another folder."
        ) from None
    try:
        yield
    finally:
        lock.release()


def is_busy(folder: Path) -> bool | None:
    """Say whether a process works on a run; None where that cannot be told, as in a folder that may only be read."""
    # The command's first: while it is held, nobody need touch that of the journal, which a compile does not wait for.
    held = _is_held(folder / _COMMAND_LOCK)
    return _is_held(_owner(folder) / _JOURNAL_LOCK) if held is False else held


def _is_held(path: Path) -> bool | None:
    import filelock

    if not path.exists():
        return False
    try:
        with filelock.FileLock(path).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:
        return None


def _owner(folder: Path) -> Path:
    """Give the folder with the journal of a run: of one of several targets it is the folder above."""
    alone = any((folder / name).exists() for name in (_JOURNAL, RUN_FILE))
    above = folder.resolve().parent  # Of "." it is not what its name says.
    return folder if alone or not (above / _JOURNAL).exists() else above


def is_of_a_run(folder: Path) -> bool:
    """Say whether a folder is that of a run, of a command or of Python code, that may have found nothing yet."""
    from tp_dspy.runs.snapshots import SNAPSHOT

    return any((folder / name).is_file() for name in (RUN_FILE, _JOURNAL, RESULT, SNAPSHOT))


def result_file(run: Path, busy: bool | None) -> Path | None:
    """Find the file with what a run found: its result; while somebody works on it, what was written last.

    Args:
        run: The folder, or the file itself.
        busy: As `is_busy` said just before.
    """
    from tp_dspy.runs.snapshots import SNAPSHOT

    if run.is_file():
        return run
    there = [path for path in (run / RESULT, run / SNAPSHOT) if path.is_file()]
    return max(there, key=written, default=None) if busy else next(iter(there), None)


def written(path: Path) -> int:
    """Say when a file was written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return 0


def has_ended(run: Path, busy: bool | None) -> bool:
    """Say whether a run has come to its end; one that broke off has not.

    Args:
        run: The folder, or a file, of which nothing more will come.
        busy: As `is_busy` said just before.
    """
    from tp_dspy.runs.snapshots import SNAPSHOT

    if run.is_file():
        return True
    # A target among several is done when its result is there, whatever becomes of the others.
    if busy and _owner(run) == run:
        return False
    # What a command says of its run counts; where that is damaged, what is there.
    with contextlib.suppress(ArtifactError, ConfigurationError):
        return Run.of_folder(run).state != RUNNING
    result, so_far = written(run / RESULT), written(run / SNAPSHOT)
    return result > so_far or (not so_far and (run / SOURCE_PROMPTS).is_file())


def how_to_go_on(folder: Path) -> str:
    """Say what takes up a run that broke off."""
    if (folder / RUN_FILE).is_file():
        return f"`tp-dspy resume {folder.as_posix()}` goes on with it"
    return "the same call with the same run_dir, or the same command with the same folder, goes on with it"


def why_no_result(folder: Path) -> str:
    """Say why a folder holds no result, and what to do."""
    busy = is_busy(folder)
    if (folder / RUN_FILE).is_file():
        try:
            state = Run.of_folder(folder).state
        except ArtifactError as error:
            said = str(error).removesuffix(".")
            return said[:1].lower() + said[1:]
        if state == RUNNING and busy is not False:
            return "it is running; wait until it has ended"
        return f"it is {'unfinished' if state == RUNNING else state}; {how_to_go_on(folder)}"
    made = folder / SOURCE_PROMPTS
    if made.is_file() and not busy:
        return f"it holds source prompts; `tp-dspy sources show {made.as_posix()}` shows them"
    if not is_of_a_run(folder):
        return "it is no run; `tp-dspy runs` lists those there are"
    targets = sorted(path.as_posix() for path in folder.iterdir() if path.is_dir() and is_of_a_run(path))
    if targets:
        more = f" (and {len(targets) - 5} more)" if len(targets) > 5 else ""
        return f"it is the run of several targets; look at one of them: {', '.join(targets[:5])}{more}"
    # `demo` and `sources` keep no record either: they are resumed by typing them again.
    said = "it is a run of Python code, of `demo` or of `sources`, that"
    if busy is not False:
        return f"{said} is running and has found nothing yet; wait until it has"
    return f"{said} was broken off before it found anything; {how_to_go_on(folder)}"
