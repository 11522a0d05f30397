"""``tp-dspy runs`` and ``tp-dspy report``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from tp_dspy.cli.output import Debug, Json, reporting

__all__ = ["register", "why_no_result"]


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
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    top: Annotated[int, typer.Option(min=1, help="How many prompts of each phase to show.")] = 5,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a run found: prompts of each phase, the gain, the held-out table, cost and settings."""
    with reporting(as_json, debug) as shown:
        from tp_dspy.errors import ConfigurationError
        from tp_dspy.runs.artifacts import TransferResult
        from tp_dspy.runs.tables import result_table

        path = run / "result.json"
        if not path.is_file():
            raise ConfigurationError(f"{run.as_posix()!r} holds no result: {why_no_result(run)}.")
        result = TransferResult.load(path)
        shown.show(result_table(result, top))
        shown.document(result.model_dump())


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
    from tp_dspy.scoring.reports import number, signed, table

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
