"""``tp-dspy compile`` and ``tp-dspy resume``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.folders import at_work
from tp_dspy.cli.output import INTERRUPTED, Debug, Json, Output, reporting
from tp_dspy.cli.settings import RUN_FILE, RUNNING, Budgets, Effort, Job, LMs, Run, Scoring

if TYPE_CHECKING:
    from tp_dspy.experiment import Report

__all__ = ["carry_out", "exit_if_interrupted", "register", "show_report"]

_COMPILE_EXAMPLE = (
    "Example: [bold]tp-dspy compile 'question -> answer' --target mine.csv --source medqa --source pubmedqa "
    "--scorer-lm openai/gpt-4o-mini --reference-lm openai/gpt-4o --max-usd 2 --out runs/mine[/]"
)
_TOY = "Scorer LM: the embedded one (135M parameters), for a first try; it guesses. Name yours with --scorer-lm."
_RESUME_EXAMPLE = "Example: [bold]tp-dspy resume runs/mine --max-usd 5[/]"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("compile", epilog=_COMPILE_EXAMPLE)(compile_program)
    app.command(epilog=_RESUME_EXAMPLE)(resume)


@o.takes(scoring=o.sources_of, lms=o.lms_of, effort=o.effort_of, budgets=o.budgets_of)
def compile_program(
    program: o.Program,
    scoring: Scoring,
    lms: LMs,
    effort: Effort,
    budgets: Budgets,
    target: o.Target = None,
    source_prompts: Annotated[
        Path | None, typer.Option(help="Source prompts of an earlier run, instead of --source.", rich_help_panel="Task")
    ] = None,
    test_limit: o.TestLimit = 200,
    instruction: o.Instruction = None,
    load: Annotated[Path | None, typer.Option(help="What program.save wrote, to begin with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/TARGET.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would cost; no call is made.")] = False,
    config: o.Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compile a program for a target task, measure it on held-out examples, and save it."""
    with reporting(as_json, debug) as shown:
        job = Job(
            program=program,
            target=target,
            instruction=instruction,
            load=str(load) if load is not None else None,
            source_prompts=str(source_prompts) if source_prompts is not None else None,
            scoring=scoring,
            lms=lms,
            budgets=budgets,
            effort=effort,
            test_limit=test_limit,
        )
        if dry_run:
            _plan(job, shown)
        else:
            carry_out(Run(job=job), out if out is not None else default_folder(job), shown)


@o.takes(more=o.budgets_of)
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    more: Budgets,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go on with a run that was interrupted, killed, or out of budget; what was paid for is not paid for again."""
    with reporting(as_json, debug) as shown:
        record = Run.of_folder(run)
        given = {name: value for name, value in more.model_dump().items() if value is not None}
        budgets = record.job.budgets.model_copy(update=given)
        job = record.job.model_copy(update={"budgets": budgets})
        carry_out(record.model_copy(update={"job": job, "state": RUNNING}), run, shown)


def carry_out(record: Run, out: Path, shown: Output) -> None:
    """Compile, measure, save, and show what came of it.

    Args:
        record: What is asked for.
        out: The folder of the run.
        shown: Where to show it.

    Raises:
        JournalError: If another process works on the run.
        typer.Exit: With `INTERRUPTED`, after Ctrl-C: what was written is the best so far.
    """
    from tp_dspy.progress import LiveProgress

    job = record.job
    with contextlib.ExitStack() as held:
        # A run that is taken up again is held from the start: whoever watches it is not to think that it broke off.
        known = (out / RUN_FILE).is_file()
        if known:
            held.enter_context(at_work(out))
        program = job.student()
        with job.lms.configured(program) as lm, LiveProgress(shown.remarks) as live:
            experiment = job.experiment(out, [live], program, lm)
            # Whatever is wrong shows now, before there is a run to go on with.
            experiment.plan()
            if job.lms.scorer == "embedded":
                shown.remark(_TOY, "yellow")
            if not known:
                held.enter_context(at_work(out))
            record.keep(out)
            report = experiment.run()
        record.model_copy(update={"state": report.result.stopped}).keep(out)
    show_report(report, shown, job.program, job.lms)
    shown.document(report.to_dict())
    exit_if_interrupted(report.result.stopped)


def exit_if_interrupted(*stopped: str) -> None:
    """End with the exit code of Ctrl-C, where that is among the reasons why something stopped."""
    from tp_dspy.optimization.ledger import INTERRUPTED as BROKEN_OFF

    if BROKEN_OFF in stopped:
        raise typer.Exit(INTERRUPTED)


def show_report(report: Report, shown: Output, program: str, lms: LMs) -> None:
    """Show what an experiment found, and how to use it."""
    from tp_dspy.optimization.ledger import INTERRUPTED as BROKEN_OFF
    from tp_dspy.runs.tables import in_words

    if report.held_out is not None:
        shown.show(report.held_out)
    elif report.result.stopped != BROKEN_OFF:
        shown.show("The target has no test split, so there is no table on held-out examples.", style="yellow")
    if report.result.stopped == BROKEN_OFF:
        shown.show("Interrupted: what follows is the best so far. The same command goes on from here.", style="yellow")
    shown.show("Instruction found:" if len(report.instructions) == 1 else "Instructions found:", style="bold")
    shown.show(in_words(report.result.winner))
    shown.show(f"From {report.lineage()}.")
    scored, asked = report.result.scorer_usage, report.result.reference_usage
    total = scored + asked + report.test_usage
    price = f", {total.usd:.4f} USD" if total.usd else ""
    shown.show(
        f"{scored.calls} calls of the scorer LM, {asked.calls} of the reference LM, "
        f"{report.test_usage.calls} for the test, {total.cached} more from DSPy's cache; "
        f"{total.prompt_tokens + total.completion_tokens:,} tokens{price}; "
        f"{report.seconds:.0f} s."
    )
    if report.saved:
        folder = report.saved["result"].parent.as_posix()
        shown.show(f"Saved: {', '.join(path.as_posix() for path in report.saved.values())}.")
        shown.show(f"To look at every candidate, the plots and each answer: tp-dspy report {folder}", soft_wrap=True)
        shown.show("To use it:")
        shown.show(_in_python(report, program, lms), soft_wrap=True)  # to be copied


def _in_python(report: Report, program: str, lms: LMs) -> str:
    from tp_dspy.cli.programs import in_python

    load = f"program.load({report.saved['program'].as_posix()!r})"
    lines = ["import dspy, tp_dspy", lms.in_python(report.program), *in_python(program), load]
    return "\n".join(f"  {line}" for line in lines)


def _plan(job: Job, shown: Output) -> None:
    program = job.student()
    with job.lms.configured(program) as lm:
        plan = job.experiment(None, [], program, lm).plan()
    shown.show(plan.words)
    shown.show("Nothing was called. Without --dry-run it begins.")
    shown.document({"plan": plan.to_dict()})


def default_folder(job: Job) -> Path:
    """Choose a folder by the target's name."""
    from tp_dspy.runs.folders import file_name
    from tp_dspy.tasks.loading import is_file

    name = job.target or ""
    return Path("runs") / file_name(Path(name).stem if is_file(name) else name)
