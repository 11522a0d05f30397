"""``tp-dspy runs`` and ``tp-dspy report``."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tp_dspy.cli.output import Debug, Json, Output, reporting

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult

__all__ = ["register", "why_no_result"]

# What tells the folder of a run, of a command or of Python code, that has found nothing yet.
_OF_A_RUN = ("run.json", "journal.sqlite", "result.json", "so_far.json")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: [bold]tp-dspy runs[/]")(runs)
    app.command(epilog="Example: [bold]tp-dspy report runs/mine[/]")(report)


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder: what they were asked for, how far they are, what they gained."""
    with reporting(as_json, debug) as shown:
        found = [_row(path.parent) for path in sorted(folder.glob("**/result.json"))]
        known = {row["run"] for row in found}
        found += [
            _row(path.parent) for path in sorted(folder.glob("**/run.json")) if path.parent.as_posix() not in known
        ]
        shown.show(_listing(found) if found else f"There are no runs in {folder.as_posix()}.")
        shown.document({"runs": found})


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, or a result's file.")],
    top: Annotated[int, typer.Option(min=1, help="How many prompts of each phase to show.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="Where to write the page.", show_default="report.html beside the result")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether to write the page.")] = True,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again as the run goes on, to its end.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --watch.")] = 5.0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a run found, in words here and as a page: prompts, gain, held-out table, plots, candidates, cost."""
    with reporting(as_json, debug) as shown:
        from tp_dspy.errors import ConfigurationError
        from tp_dspy.runs.artifacts import TransferResult
        from tp_dspy.runs.tables import result_sheet

        if watch and not page:
            raise ConfigurationError("--watch writes the page, which --no-page leaves out. Take one of them.")
        target = out if out is not None else (run if run.is_dir() else run.parent) / "report.html"
        if watch:
            _watch(run, target, every, shown)
        path = _result_file(run)
        if path is None:
            raise ConfigurationError(f"{run.as_posix()!r} holds no result: {why_no_result(run)}.")
        result = TransferResult.load(path)
        shown.show(result_sheet(result, top).drawn())
        if page and not watch:
            _write(result, target, None, shown)
        shown.document(result.model_dump() | {"page": target.as_posix() if page else None})


def _result_file(run: Path) -> Path | None:
    """Find the file with what a run found, or has found so far; the later one, where a run was taken up again."""
    from tp_dspy.runs.snapshots import SNAPSHOT

    there = [run] if run.is_file() else [path for path in (run / "result.json", run / SNAPSHOT) if path.is_file()]
    return max(there, key=_written, default=None)


def _written(path: Path) -> int:
    """Say when a file was written, in nanoseconds; 0 where it is gone."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _watch(run: Path, page: Path, every: float, shown: Output) -> None:
    """Write the page whenever there is more to see, until the run has ended or Ctrl-C."""
    from tp_dspy.errors import ConfigurationError

    if not run.is_file() and not any((run / name).exists() for name in _OF_A_RUN):
        raise ConfigurationError(f"{run.as_posix()!r} holds no result: {why_no_result(run)}.")
    shown.remark(f"Watching {run.as_posix()}; Ctrl-C ends it.", "dim")
    before, result, ended = 0, None, False
    try:
        while not ended:
            path = _result_file(run)
            now, ended = (0, False) if path is None else (_written(path), _has_ended(run, path))
            if path is not None and (now != before or ended):
                found = _loaded(path)
                if found is not None:
                    _write(found, page, None if ended else every, shown, again=result is not None)
                    before, result = now, found
            if not ended:
                time.sleep(every)
    except KeyboardInterrupt:
        if result is not None:
            _write(result, page, None, shown, again=True)  # Nobody writes it any more: it need not look for that.
        raise


def _loaded(path: Path) -> TransferResult | None:
    """Read a result; None where the file of what was found so far has just given way to the result."""
    from tp_dspy.runs.artifacts import TransferResult

    try:
        return TransferResult.load(path)
    except FileNotFoundError:
        return None


def _has_ended(run: Path, path: Path) -> bool:
    """Say whether nothing more will come; a command goes on after its compile, to measure on held-out examples."""
    from tp_dspy.cli.settings import RUN_FILE, Run
    from tp_dspy.runs.snapshots import SNAPSHOT

    if run.is_file():
        return path.name != SNAPSHOT
    if path.name == SNAPSHOT:
        return False
    return not (run / RUN_FILE).is_file() or Run.load(run / RUN_FILE).state != "running"


def _write(result: TransferResult, page: Path, refresh: float | None, shown: Output, *, again: bool = False) -> None:
    from tp_dspy.report.page import write_page

    write_page(result, page, refresh=refresh)
    if not again:
        shown.remark(f"The page is {page.as_posix()}.")


def why_no_result(folder: Path) -> str:
    """Say why a folder holds no result, and what to do."""
    if not (folder / "run.json").is_file():
        return "it is no run; `tp-dspy runs` lists those there are"
    state = _row(folder)["state"]
    if state == "running":
        return "it is running; wait until it has ended"
    return f"it is {state}; `tp-dspy resume {folder.as_posix()}` goes on with it"


def _row(folder: Path) -> dict[str, Any]:
    """Say what is known of a run folder."""
    from tp_dspy.cli.settings import RUN_FILE, Run
    from tp_dspy.errors import ArtifactError
    from tp_dspy.runs.artifacts import TransferResult

    row: dict[str, Any] = {"run": folder.as_posix(), "state": "?", "program": None, "target": None}
    try:
        if (folder / RUN_FILE).is_file():
            run = Run.load(folder / RUN_FILE)
            row |= {"program": run.job.program, "target": run.job.target, "created": run.created, "state": run.state}
            row["state"] = "unfinished" if run.state == "running" and not _is_busy(folder) else run.state
        if (folder / "result.json").is_file():
            result = TransferResult.load(folder / "result.json")
            gain = result.winner.score - result.original.score
            row |= {
                "original": _number(result.original.score),
                "score": _number(result.winner.score),
                "gain": _number(gain),
                "scorer_calls": result.scorer_usage.calls,
            }
            row.setdefault("created", result.created)
            row["state"] = result.stopped if row["state"] == "?" else row["state"]
    except ArtifactError as error:
        row["state"] = f"cannot be read: {error}"
    return row


def _is_busy(folder: Path) -> bool:
    """Say whether a process is writing to a run folder."""
    import filelock

    lock = filelock.FileLock(folder / "journal.sqlite.lock")
    if not (folder / "journal.sqlite.lock").exists():
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)


def _listing(rows: list[dict[str, Any]]) -> Any:
    from tp_dspy.sheets import number, signed, table

    def figure(row: dict[str, Any], name: str) -> float:
        return math.nan if row.get(name) is None else float(row[name])

    cells = [
        [
            row["run"],
            row["target"] or "-",
            row["state"],
            number(figure(row, "score")),
            signed(figure(row, "gain")),
            str(row.get("scorer_calls", "-")),
        ]
        for row in rows
    ]
    title = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    return table(title, ["run", "target", "state", "score", "gain", "scorer calls"], cells)
