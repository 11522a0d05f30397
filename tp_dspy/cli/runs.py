"""``tp-dspy runs`` and ``tp-dspy report``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tp_dspy.cli import watching
from tp_dspy.cli.folders import (
    RESULT,
    SOURCE_PROMPTS,
    is_busy,
    is_of_a_run,
    result_file,
    why_no_result,
    written,
)
from tp_dspy.cli.output import Debug, Json, Output, reporting
from tp_dspy.cli.settings import RUN_FILE, RUNNING, Run
from tp_dspy.errors import ArtifactError, ConfigurationError

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult

__all__ = ["register"]


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
        found = [_row(path.parent) for path in sorted(folder.glob(f"**/{RESULT}"))]
        known = {row["run"] for row in found}
        found += [
            _row(path.parent) for path in sorted(folder.glob(f"**/{RUN_FILE}")) if path.parent.as_posix() not in known
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
        from tp_dspy.runs.artifacts import TransferResult
        from tp_dspy.runs.tables import result_sheet

        if watch and not page:
            raise ConfigurationError("--watch writes the page, which --no-page leaves out. Take one of them.")
        run = _resolved(run, watch)
        place = out if out is not None else (run if run.is_dir() else run.parent) / "report.html"
        path = result_file(run, is_busy(run))
        if path is None and not (watch and is_of_a_run(run)):
            raise _nothing(run)
        if page:
            watching.check_place(place)
        found = TransferResult.load(path) if path is not None and not watch else None
        if watch:
            found = watching.watch(run, place, every, shown)
        if found is None:
            raise _nothing(run)
        shown.show(result_sheet(found, top).drawn())
        if page and not watch:
            watching.write(found, place, None, shown)
        _tell_of_more(run, found, shown)
        shown.document(found.model_dump() | {"page": place.as_posix() if page else None})


def _resolved(run: Path, watch: bool) -> Path:
    """Give the folder in the place of the file of what was found so far, which goes when the result comes."""
    from tp_dspy.runs.snapshots import SNAPSHOT

    return run.parent if run.name == SNAPSHOT and (watch or not run.is_file()) else run


def _nothing(run: Path) -> ConfigurationError:
    return ConfigurationError(f"{run.as_posix()!r} holds no result: {why_no_result(run)}.")


def _tell_of_more(run: Path, result: TransferResult, shown: Output) -> None:
    """Say what else there is beside the result that was shown."""
    from tp_dspy.runs.snapshots import RUNNING, SNAPSHOT

    later, made = run / SNAPSHOT, run / SOURCE_PROMPTS
    if result.stopped != RUNNING and written(later) > written(run / RESULT):
        shown.remark(
            "This is the result of an earlier run. A later one in the same folder has not ended; how far it came: "
            f"`tp-dspy report {later.as_posix()}`.",
            "yellow",
        )
    if result.stopped != RUNNING and result_file(run, busy=False) is None and made.is_file():
        shown.remark(f"The source prompts are made; `tp-dspy sources show {made.as_posix()}` shows them.")


def _row(folder: Path) -> dict[str, Any]:
    """Say what is known of a run folder."""
    from tp_dspy.runs.artifacts import TransferResult

    row: dict[str, Any] = {"run": folder.as_posix(), "state": "?", "program": None, "target": None}
    try:
        if (folder / RUN_FILE).is_file():
            run = Run.load(folder / RUN_FILE)
            row |= {"program": run.job.program, "target": run.job.target, "created": run.created, "state": run.state}
            broken_off = run.state == RUNNING and is_busy(folder) is False
            row["state"] = "unfinished" if broken_off else run.state
        if (folder / RESULT).is_file():
            result = TransferResult.load(folder / RESULT)
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
    return table(title, ["run", "target", "state", "score", "gain", "scorer LM calls"], cells)
