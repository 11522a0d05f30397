"""The command line."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from tp_dspy.demo import Demo, DemoReport

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)

SMALL_LM_NOTE = (
    "This LM (135M parameters) guesses whatever the instruction says: only the form of its replies (IFR) really moves, "
    "and accuracy with it, as a reply that cannot be read counts as wrong."
)
_HEADINGS = {
    "ifr": "IFR",
    "accuracy": "ACC",
    "ece": "ECE ↓",
    "auroc": "AUROC",
    "auprc_positive": "PR-P",
    "auprc_negative": "PR-N",
    "score": "Score",
}


@app.callback()
def main() -> None:
    """Transfer-Prompting for DSPy programs: find instructions on source tasks, carry them over to a target task."""


@app.command()
def demo(
    source: Annotated[
        list[str] | None, typer.Option(help="A source task: starter/DOMAIN[:KIND] or owner/data-set[:config].")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The target task.")] = None,
    reference_lm: Annotated[
        str | None, typer.Option(help="Proposes: 'embedded', a .gguf file, or provider/model.")
    ] = None,
    scorer_lm: Annotated[
        str | None, typer.Option(help="Runs the program: 'embedded', a .gguf file, or provider/model.")
    ] = None,
    gguf: Annotated[str | None, typer.Option(help="A GGUF file (or hf://owner/repo/file.gguf) for both.")] = None,
    auto: Annotated[str, typer.Option(help="How much to do: quick, light, medium or heavy.")] = "quick",
    examples: Annotated[int | None, typer.Option(min=1, help="Examples per task and panel; overrides --auto.")] = None,
    seed: Annotated[int, typer.Option(help="Makes the choice of examples repeatable.")] = 0,
    test_limit: Annotated[int, typer.Option(min=1, help="Test questions, at most.")] = 200,
    position: Annotated[
        Literal["before", "start", "end", "answer"], typer.Option(help="Where the instruction stands in the prompt.")
    ] = "start",
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("runs/demo"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON too.")] = None,
) -> None:
    """Improve a small QA program on held-out questions, with an LM on this machine and no API key."""
    from rich.console import Console

    from tp_dspy.errors import TransferPromptingError

    console = Console()
    # One line per cut-off reply would bury everything else; that replies are short is the point here.
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from tp_dspy.demo import DEFAULT_SOURCES, DEFAULT_TARGET

        runner = _prepare(
            source or list(DEFAULT_SOURCES), target or DEFAULT_TARGET, reference_lm or gguf, scorer_lm or gguf
        )
        runner.auto, runner.examples, runner.seed = auto, examples, seed
        runner.out, runner.test_limit, runner.position = out, test_limit, position
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning  # type: ignore[assignment]  # it takes whatever comes
            report = _run(runner, console)
    except TransferPromptingError as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]:", end=" ")
        Console(stderr=True).print(str(error), markup=False, highlight=False)
        raise typer.Exit(2) from None
    _print(report, console, scorer=scorer_lm or gguf or "embedded", position=position)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
        console.print(f"As JSON: {json_file}")


def _show_warning(message: Warning | str, *_: object) -> None:
    """Show a warning as a sentence: where in the library it was raised helps nobody here."""
    from rich.console import Console

    Console(stderr=True).print(f"Warning: {message}", style="yellow", markup=False, highlight=False)


def _prepare(sources: list[str], target: str, reference: str | None, scorer: str | None) -> Demo:
    from tp_dspy.demo import Demo, resolve_lm

    return Demo(
        sources,
        target,
        scorer_lm=resolve_lm(scorer or "embedded", "scorer"),
        reference_lm=resolve_lm(reference or "embedded", "reference"),
    )


def _run(runner: Demo, console: object) -> DemoReport:
    from rich.console import Console

    from tp_dspy.runs.progress import LiveProgress

    assert isinstance(console, Console)
    tasks, target = runner.load()
    console.print(f"Sources: {', '.join(task.name for task in tasks)}. Target: {target.name}.")
    console.print(f"Scorer LM: {runner.scorer_lm.model}. Reference LM: {runner.reference_lm.model}.")
    with LiveProgress(Console(stderr=True), summary=False) as live:
        runner.listeners = [live]
        return runner.run(tasks, target)


def _print(report: DemoReport, console: object, *, scorer: str, position: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from tp_dspy.optimization.ledger import INTERRUPTED

    assert isinstance(console, Console)
    title = f"On {report.original.metrics.n} held-out test questions (95 % intervals below)"
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("prompt", no_wrap=True)
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    rows = {"original": report.original, "best source": report.source, "target": report.target}
    for name, row in rows.items():
        cells = [_cell(getattr(row.metrics, metric), row.intervals.get(metric)) for metric in _HEADINGS]
        table.add_row(name, *cells)
    console.print(table)
    d = report.difference
    console.print(
        f"Target prompt against original, paired: score {d.score:+.3f} [{d.low:+.3f}, {d.high:+.3f}], "
        f"p = {d.p_value:.3f} (two-sided bootstrap, {d.n} questions)."
    )
    if scorer == "embedded":
        console.print(SMALL_LM_NOTE, style="italic")
    if report.result.stopped == INTERRUPTED:
        console.print(
            "Interrupted: what follows is the best so far. The same command goes on from here.", style="yellow"
        )
    console.print("Instruction found:", style="bold")
    console.print(report.instructions["target"], markup=False, highlight=False)
    console.print(f"It came from {report.lineage()}.")
    scored, asked = report.result.scorer_usage, report.result.reference_usage
    total = scored + asked + report.test_usage
    console.print(
        f"{scored.calls} scorer calls, {asked.calls} reference calls, {report.test_usage.calls} for the test, "
        f"{total.cached} more from DSPy's cache; {total.prompt_tokens + total.completion_tokens:,} tokens; "
        f"{report.seconds:.0f} s."
    )
    saved = report.saved
    console.print(f"Saved: {', '.join(map(str, saved.values()))}. To use it:")
    local = f'"{scorer}"' if scorer.endswith(".gguf") else ""
    lm = f"tp_dspy.embedded_lm({local})" if local or scorer == "embedded" else f'dspy.LM("{scorer}")'
    console.print(
        f'  dspy.configure(lm={lm}, adapter=tp_dspy.InstructionAdapter("{position}"))\n'
        f'  program = dspy.Predict("question -> answer")\n'
        f'  program.load("{saved["program"]}")',
        markup=False,
        highlight=False,
        soft_wrap=True,  # to be copied
    )


def _cell(value: float, interval: tuple[float, float] | None) -> str:
    if value != value:
        return "-"
    low, high = interval or (float("nan"), float("nan"))
    return f"[bold]{_short(value)}[/]\n[dim]{_short(low)}-{_short(high)}[/]"


def _short(value: float) -> str:
    """Two digits, without the leading zero: seven intervals are to fit on 80 columns."""
    return "1.0" if value >= 0.995 else f"{value:.2f}".removeprefix("0")


if __name__ == "__main__":
    app()
