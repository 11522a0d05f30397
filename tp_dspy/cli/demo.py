"""``tp-dspy demo``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.output import Debug, Json, Output, reporting

if TYPE_CHECKING:
    from tp_dspy.demo import Demo
    from tp_dspy.experiment import Report

__all__ = ["register"]

SMALL_LM_NOTE = (
    "This LM (135M parameters) guesses whatever the instruction says: only the form of its replies (IFR) really moves, "
    "and accuracy with it, as a reply that cannot be read counts as wrong."
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: [bold]tp-dspy demo --examples 12 --gguf model.gguf[/]")(demo)


def demo(
    source: o.Sources = None,
    target: o.Target = None,
    reference_lm: o.ReferenceLM = None,
    scorer_lm: o.ScorerLM = "embedded",
    gguf: Annotated[str | None, typer.Option(help="A GGUF file (or hf://owner/repo/file.gguf) for both.")] = None,
    auto: o.Auto = "quick",
    examples: o.Examples = None,
    seed: o.Seed = 0,
    test_limit: o.TestLimit = 200,
    position: o.Position = "start",
    executor: o.Executor = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Improve a small QA program on held-out questions, with an LM on this machine and no API key."""
    with reporting(as_json, debug) as shown:
        from tp_dspy.cli.compiling import exit_if_interrupted, show_report
        from tp_dspy.cli.settings import LMs
        from tp_dspy.demo import DEFAULT_SOURCES, DEFAULT_TARGET, Demo
        from tp_dspy.lms.specs import resolve_lm

        scorer, reference = gguf or scorer_lm, reference_lm or gguf or "embedded"
        runner = Demo(
            source or list(DEFAULT_SOURCES),
            target or DEFAULT_TARGET,
            scorer_lm=resolve_lm(scorer, "scorer"),
            reference_lm=resolve_lm(reference, "reference"),
            auto=auto,
            examples=examples,
            seed=seed,
            out=out,
            test_limit=test_limit,
            position=position,
            executor=executor,
        )
        report = _run(runner, shown)
        show_report(report, shown, "question -> answer", LMs(scorer=scorer, adapter="plain", position=position))
        if scorer == "embedded":
            shown.show(SMALL_LM_NOTE, style="italic")
        shown.document(report.to_dict())
        exit_if_interrupted(report.result.stopped)


def _run(runner: Demo, shown: Output) -> Report:
    from tp_dspy.cli.folders import at_work
    from tp_dspy.optimization.events import Event, Planned
    from tp_dspy.progress import LiveProgress

    tasks, target = runner.load()
    shown.remark(f"Sources: {', '.join(task.name for task in tasks)}. Target: {target.name}.")
    shown.remark(f"Scorer LM: {runner.scorer_lm.model}. Reference LM: {runner.reference_lm.model}.")
    with LiveProgress(shown.remarks, summary=False) as live, contextlib.ExitStack() as held:

        def hold(event: Event) -> None:
            # Not before: what is wrong with the options shows first, and leaves no folder.
            if isinstance(event, Planned):
                held.enter_context(at_work(runner.out))

        runner.listeners = [live, hold]
        return runner.run(tasks, target)
