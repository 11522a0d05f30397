"""``tp-dspy evaluate`` and ``tp-dspy compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.output import Debug, Json, reporting
from tp_dspy.cli.settings import Effort, Job, LMs, Run, Scoring

__all__ = ["register"]

Split = Annotated[Literal["test", "validation", "train"], typer.Option(help="Which examples.")]
On = Annotated[str | None, typer.Option("--on", help="A task: a file, starter/DOMAIN, or a name of the catalogue.")]
ProgramOrRun = Annotated[
    str, typer.Argument(help="The folder of a run (then the rest is known), or as in `tp-dspy compile`.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        epilog="Examples: [bold]tp-dspy evaluate runs/mine[/], "
        "[bold]tp-dspy evaluate my_program.py --load mine.json --on mine.csv --scorer-lm openai/gpt-4o-mini[/]"
    )(evaluate)
    app.command(
        epilog="Examples: [bold]tp-dspy compare runs/mine runs/mine/program.json runs/other/program.json[/], "
        "[bold]tp-dspy compare my_program.py old.json new.json --on mine.csv --scorer-lm openai/gpt-4o-mini[/]"
    )(compare)


@o.takes(scoring=o.scoring_of, lms=o.lms_of)
def evaluate(
    program: ProgramOrRun,
    scoring: Scoring,
    lms: LMs,
    on: On = None,
    split: Split = "test",
    load: Annotated[Path | None, typer.Option(help="What program.save wrote.")] = None,
    instruction: o.Instruction = None,
    test_limit: o.TestLimit = 200,
    seed: o.Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a program on a task: every metric with its interval, replies by status, reliability."""
    with reporting(as_json, debug) as shown:
        job = _job(program, on, instruction, scoring, lms, test_limit, seed)
        if load is None and Path(program).is_dir():
            load = Path(program) / "program.json"
        student = _with_state(job, load)
        examples = _examples(job, split)
        with job.lms.configured(student) as lm:
            found = job.scoring.objective().evaluate(student, examples, lm=lm, seed=job.effort.seed)
        shown.show(found)
        shown.document(found.to_dict())


@o.takes(scoring=o.scoring_of, lms=o.lms_of)
def compare(
    program: ProgramOrRun,
    states: Annotated[
        list[Path], typer.Argument(help="Files that program.save wrote; all are compared with the program as it is.")
    ],
    scoring: Scoring,
    lms: LMs,
    on: On = None,
    split: Split = "test",
    base: Annotated[Path | None, typer.Option(help="Compare with this file instead.")] = None,
    instruction: o.Instruction = None,
    test_limit: o.TestLimit = 200,
    seed: o.Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure several saved states of a program on the same examples, with paired differences."""
    with reporting(as_json, debug) as shown:
        job = _job(program, on, instruction, scoring, lms, test_limit, seed)
        first = "as it is" if base is None else base.as_posix()
        programs = {first: _with_state(job, base if base is not None else job.load)}
        programs |= {path.as_posix(): _with_state(job, path) for path in states}
        examples = _examples(job, split)
        with job.lms.configured(programs[first]) as lm:
            found = job.scoring.objective().evaluate_all(programs, examples, lm=lm, seed=job.effort.seed)
        shown.show(found)
        shown.document(found.to_dict())


def _job(
    program: str, on: str | None, instruction: str | None, scoring: Scoring, lms: LMs, test_limit: int, seed: int
) -> Job:
    """Take what a run folder knows, where the program is one; else what was given."""
    if Path(program).is_dir():
        job = Run.of_folder(Path(program)).job
        return job if on is None else job.model_copy(update={"target": on})
    return Job(
        program=program,
        target=on,
        instruction=instruction,
        scoring=scoring,
        lms=lms,
        test_limit=test_limit,
        effort=Effort(seed=seed),
    )


def _with_state(job: Job, state: Path | str | None) -> Any:
    return job.model_copy(update={"load": str(state) if state is not None else None}).student()


def _examples(job: Job, split: str) -> list[object]:
    from tp_dspy.errors import ConfigurationError, DataError
    from tp_dspy.tasks.task import stratified_order

    if job.target is None:
        raise ConfigurationError("There is nothing to measure on; name a task with --on, e.g. mine.csv.")
    task = job.load_target()
    examples = getattr(task, split)
    if not examples:
        raise DataError(f"{task.name} has no {split} split; take another one with --split.")
    return list(stratified_order(examples, seed=job.effort.seed, answer=job.scoring.answer)[: job.test_limit])
