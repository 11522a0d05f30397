"""``tp-dspy sources``: make source prompts, look at them, put them together, carry them over to many targets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.compiling import exit_if_interrupted
from tp_dspy.cli.output import Debug, Json, Output, reporting
from tp_dspy.cli.settings import Budgets, Effort, Job, LMs, Scoring

if TYPE_CHECKING:
    from tp_dspy.runs.source_prompts import SourcePrompts

__all__ = ["register"]

File = Annotated[Path, typer.Argument(help="A file of source prompts.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(no_args_is_help=True, help="Make source prompts, look at them, merge, filter and use them.")
    group.command(
        epilog="Example: [bold]tp-dspy sources make 'question -> answer' -s anatomy -s virology "
        "--scorer-lm openai/gpt-4o-mini -o medical.json[/]"
    )(make)
    group.command(epilog="Example: [bold]tp-dspy sources show medical.json[/]")(show)
    group.command(epilog="Example: [bold]tp-dspy sources merge medical.json legal.json -o both.json[/]")(merge)
    group.command("filter", epilog="Example: [bold]tp-dspy sources filter both.json --domain legal -o legal.json[/]")(
        filter_prompts
    )
    group.command(
        epilog="Example: [bold]tp-dspy sources transfer medical.json 'question -> answer' -t a.csv -t b.csv "
        "--scorer-lm openai/gpt-4o-mini --out runs/both --influence[/]"
    )(transfer)
    app.add_typer(group, name="sources")


@o.takes(scoring=o.sources_of, lms=o.lms_of, effort=o.effort_of, budgets=o.budgets_of)
def make(
    program: o.Program,
    scoring: Scoring,
    lms: LMs,
    effort: Effort,
    budgets: Budgets,
    out: Out = Path("source_prompts.json"),
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the journal; without one nothing resumes.")] = None,
    instruction: o.Instruction = None,
    config: o.Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the source phase alone: make source prompts once, for many targets."""
    with reporting(as_json, debug) as shown:
        from tp_dspy.progress import LiveProgress

        job = Job(program=program, instruction=instruction, scoring=scoring, lms=lms, budgets=budgets, effort=effort)
        student = job.student()
        with lms.configured(student) as lm, LiveProgress(shown.remarks) as live:
            teleprompter, tasks = job.teleprompter(run_dir, [live], lm), job.load_sources()
            made = teleprompter.construct_source_prompts(student, source_tasks=tasks)
        _written(made, out, shown)
        exit_if_interrupted(made.phase.stopped)


def show(file: File, as_json: Json = False, debug: Debug = False) -> None:
    """Show source prompts: each with its scores on each task."""
    with reporting(as_json, debug) as shown:
        made = _read(file)
        shown.show(made)
        shown.document(_plain(made))


def merge(
    files: Annotated[list[Path], typer.Argument(help="Two files or more.")],
    out: Out = Path("merged.json"),
    top_k: Annotated[int | None, typer.Option(min=1, help="Prompts to keep; by default all.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put source prompts of several runs together, brought to one level by the prompts they share."""
    with reporting(as_json, debug) as shown:
        first, *others = [_read(file) for file in files]
        _written(first.merge(*others, top_k=top_k), out, shown)


def filter_prompts(
    file: File,
    task: Annotated[list[str] | None, typer.Option(help="A source task to keep; may be repeated.")] = None,
    domain: Annotated[list[str] | None, typer.Option(help="A domain to keep; may be repeated.")] = None,
    out: Out = Path("filtered.json"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Judge source prompts by some of their tasks only."""
    with reporting(as_json, debug) as shown:
        _written(_read(file).filter(tasks=task or (), domains=domain or ()), out, shown)


@o.takes(scoring=o.scoring_of, lms=o.lms_of, effort=o.effort_of, budgets=o.budgets_of)
def transfer(
    file: File,
    program: o.Program,
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", help="A target task; may be repeated.", autocompletion=o.task_names),
    ],
    scoring: Scoring,
    lms: LMs,
    effort: Effort,
    budgets: Budgets,
    out: Annotated[Path, typer.Option(help="Folder of the run; each target gets a folder in it.")] = Path("runs/many"),
    influence: Annotated[
        bool, typer.Option("--influence", help="Also say which source task helped which target; a few more calls.")
    ] = False,
    at_once: Annotated[
        int, typer.Option(min=1, help="Targets under way at once; each then has a fixed share of the budgets.")
    ] = 1,
    instruction: o.Instruction = None,
    config: o.Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Carry source prompts over to many targets in one run, with one budget."""
    with reporting(as_json, debug) as shown:
        job = Job(program=program, instruction=instruction, scoring=scoring, lms=lms, budgets=budgets, effort=effort)
        _transfer(job, _read(file), target, out, at_once, influence, shown)


def _transfer(
    job: Job, made: SourcePrompts, targets: list[str], out: Path, at_once: int, influence: bool, shown: Output
) -> None:
    from tp_dspy.optimization.ledger import INTERRUPTED
    from tp_dspy.progress import LiveProgress

    student = job.student()
    tasks = [job.model_copy(update={"target": name}).load_target() for name in targets]
    document: dict[str, Any] = {}
    with job.lms.configured(student) as lm, LiveProgress(shown.remarks) as live:
        teleprompter = job.teleprompter(out, [live], lm)
        programs = teleprompter.transfer_to(student, tasks, source_prompts=made, at_once=at_once)
        stopped = [result.stopped for result in programs.results.values()]
        # A run that was ended early has nothing left to spend on that.
        asked = influence and not programs.missing and INTERRUPTED not in stopped
    # Before more is asked for: it may fail, and this is there.
    shown.show(programs)
    shown.show(f"Saved under {out.as_posix()}, a folder for each target.")
    rows = programs.to_frame().reset_index().to_dict("records")
    document |= {"targets": rows, "missing": list(programs.missing)}
    if asked:
        with job.lms.configured(student), LiveProgress(shown.remarks) as live:
            teleprompter.listeners = (live,)
            found = teleprompter.source_influence(student, tasks, source_prompts=made)
        shown.show(found)
        document["influence"] = found.to_frame().reset_index().to_dict("records")
    shown.document(document)
    exit_if_interrupted(*stopped)


def _read(file: Path) -> SourcePrompts:
    from tp_dspy.runs.source_prompts import SourcePrompts

    return SourcePrompts.load(file)


def _written(made: SourcePrompts, out: Path, shown: Output) -> None:
    made.save(out)
    shown.show(made)
    shown.show(f"Saved: {out.as_posix()}.")
    shown.document(_plain(made) | {"saved": out.as_posix()})


def _plain(made: SourcePrompts) -> dict[str, Any]:
    names = ("prompts", "original", "tasks", "settings", "created")
    whole: dict[str, Any] = made.model_dump(include=set(names))
    return whole
