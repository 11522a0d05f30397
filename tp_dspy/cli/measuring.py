"""``tp-dspy evaluate`` and ``tp-dspy compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import dspy
import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.output import Debug, Json, reporting
from tp_dspy.cli.settings import Effort, Job, LMs, Run, Scoring
from tp_dspy.runs.records import Record

__all__ = ["register"]

R = TypeVar("R", bound=Record)

Split = Annotated[Literal["test", "validation", "train"], typer.Option(help="Which examples.")]
On = Annotated[
    str | None,
    typer.Option(
        "--on", help="A task: a file, starter/DOMAIN, or a name of the catalogue.", autocompletion=o.task_names
    ),
]
ProgramOrRun = Annotated[
    str, typer.Argument(help="The folder of a run (then the rest is known), or as in `tp-dspy compile`.")
]


@dataclass(frozen=True)
class Data:
    """What is measured, and on what; see the options."""

    on: str | None
    split: str
    instruction: str | None
    test_limit: int
    seed: int


def data_of(
    on: On = None,
    split: Split = "test",
    instruction: o.Instruction = None,
    test_limit: o.TestLimit = 200,
    seed: o.Seed = 0,
) -> Data:
    """Options of what is measured on, and what they make."""
    return Data(on, split, instruction, test_limit, seed)


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


@o.takes(data=data_of, scoring=o.scoring_of, lms=o.lms_of)
def evaluate(
    context: typer.Context,
    program: ProgramOrRun,
    data: Data,
    scoring: Scoring,
    lms: LMs,
    load: Annotated[Path | None, typer.Option(help="What program.save wrote.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a program on a task: every metric with its interval, replies by status, reliability."""
    with reporting(as_json, debug) as shown:
        job = _job(context, program, data, scoring, lms)
        if load is None and Path(program).is_dir():
            load = _compiled(Path(program))
        student = _with_state(job, load)
        examples = _examples(job, data.split)
        with job.lms.configured(student) as lm:
            settings: dict[str, Any] = {"lm": lm, "seed": job.effort.seed, **job.lms.concurrency}
            found = job.scoring.objective().evaluate(student, examples, **settings)
        shown.show(found)
        shown.document(found.to_dict())


@o.takes(data=data_of, scoring=o.scoring_of, lms=o.lms_of)
def compare(
    context: typer.Context,
    program: ProgramOrRun,
    states: Annotated[
        list[Path], typer.Argument(help="Files that program.save wrote; all are compared with the program as it is.")
    ],
    data: Data,
    scoring: Scoring,
    lms: LMs,
    base: Annotated[Path | None, typer.Option(help="Compare with this file instead.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure several saved states of a program on the same examples, with paired differences."""
    with reporting(as_json, debug) as shown:
        job = _job(context, program, data, scoring, lms)
        first = "as it is" if base is None else base.as_posix()
        programs = {first: _with_state(job, base if base is not None else job.load)}
        programs |= {path.as_posix(): _with_state(job, path) for path in states}
        examples = _examples(job, data.split)
        with job.lms.configured(programs[first]) as lm:
            settings: dict[str, Any] = {"lm": lm, "seed": job.effort.seed, **job.lms.concurrency}
            found = job.scoring.objective().evaluate_all(programs, examples, **settings)
        shown.show(found)
        shown.document(found.to_dict())


def _job(context: typer.Context, program: str, data: Data, scoring: Scoring, lms: LMs) -> Job:
    """Take what was given; where the program is a run folder, what it knows, and in its place what was typed."""
    given = Job(
        program=program,
        target=data.on,
        instruction=data.instruction,
        scoring=scoring,
        lms=lms,
        test_limit=data.test_limit,
        effort=Effort(seed=data.seed),
    )
    if not Path(program).is_dir():
        return given
    job = Run.of_folder(Path(program)).job
    parts = {
        "scoring": _overridden(context, job.scoring, scoring, weight="weights", column="columns"),
        "lms": _overridden(context, job.lms, lms, scorer_lm="scorer", reference_lm="reference"),
        "effort": _overridden(context, job.effort, given.effort),
    }
    whole = _overridden(context, job, given, on="target")
    return whole.model_copy(update=parts)


def _overridden(context: typer.Context, record: R, given: R, **names: str) -> R:
    """Put what was typed in the place of what a record holds; `names` of fields by those of options that differ."""
    typed = [name for name in context.params if o.was_typed(context, name)]
    fields = [name for name in (names.get(name, name) for name in typed) if name in type(record).model_fields]
    return record.model_copy(update={name: getattr(given, name) for name in fields if name not in ("program", "load")})


def _compiled(folder: Path) -> Path:
    from tp_dspy.cli.folders import why_no_result
    from tp_dspy.errors import ConfigurationError

    path = folder / "program.json"
    if not path.is_file():
        raise ConfigurationError(f"{folder.as_posix()!r} holds no compiled program: {why_no_result(folder)}.")
    return path


def _with_state(job: Job, state: Path | str | None) -> dspy.Module:
    return job.model_copy(update={"load": str(state) if state is not None else None}).student()


def _examples(job: Job, split: str) -> list[dspy.Example]:
    from tp_dspy.errors import ConfigurationError, DataError
    from tp_dspy.tasks.splitting import stratified_order

    if job.target is None:
        raise ConfigurationError("There is nothing to measure on; name a task with --on, e.g. mine.csv.")
    task = job.load_target()
    examples = getattr(task, split)
    if not examples:
        raise DataError(f"{task.name} has no {split} split; take another one with --split.")
    return list(stratified_order(examples, seed=job.effort.seed, answer=job.scoring.answer)[: job.test_limit])
