"""What every command shares: where output goes, how errors are told, and what the exit code says."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "Commands", "Debug", "Json", "Output", "reporting"]

FAILED = 1
"""Exit code: the world did not play along (no LM, no hub, too many failed calls); what was paid for is kept."""
BAD_INPUT = 2
"""Exit code: something given cannot work; no call was paid."""
INTERRUPTED = 130
"""Exit code: Ctrl-C; what was written is the best so far."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and all that the library logs.")]

# The library's errors name what a Python caller would pass; where the words on the left occur, here is the option.
_HINTS = {
    r"^The program takes ": "--column input.FIELD=COL for each field of a file; other tasks give a question only",
    r"ObjectiveEvaluator\(answer=": "--answer FIELD",
    r"ObjectiveEvaluator\(choices=": "--column choices=COL, for a column that lists what is allowed in each row",
    r"^weights names .*ObjectiveEvaluator\(metrics=": "--weight takes the metrics named here, and none of your own",
    r"confidence='": "--confidence logits, verbalized, agreement or none",
    r"<column>'": "--column question=COL (answer=COL, options=A,B,C, input.FIELD=COL, ...)",
    r"options=": "--column options=A,B,C",
    r"has no '\w+' \(it has": "only a file can have an answer field of another name than 'answer', with --answer FIELD",
    r"^A budget in USD": "--max-tokens, --max-calls or --max-reference-calls",
    r"source_tasks and source_prompts": "either --source or --source-prompts",
    r"source_tasks is \[\]": "--source NAME, once or more",
    r"source_tasks are named": "each --source once; a file goes by its name without the suffix",
    r"targets are named": "each --target once; a file goes by its name without the suffix",
    r"`mapping`": "take a program with the same predictors; a mapping can be given in Python only",
    r"seed_instructions": "the same program with the same --instruction in both runs of `sources make`",
    r"(?<!same )run_dir": "the folder of a run is --out, or --run-dir of `sources make`",
}


class Output:
    """Where a command writes: tables on standard output, remarks on standard error; with ``--json`` one document.

    With ``--json``, what others print (a program of the user's, say) goes to standard error, too.

    Attributes:
        as_json: Whether standard output is for one JSON document.
        console: For people; standard error where standard output is taken.
        remarks: Always standard error.
    """

    def __init__(self, as_json: bool) -> None:
        from rich.console import Console

        self.as_json = as_json
        self.remarks = Console(stderr=True)
        self.console: Console = self.remarks if as_json else Console()
        self._stdout = sys.stdout

    def show(self, renderable: Any, **style: Any) -> None:
        """Show something to people; a text as it is, without markup."""
        if not self.as_json:
            plain = _as_it_is(self.console) if isinstance(renderable, str) else {}
            self.console.print(renderable, **{**plain, **style})

    def remark(self, text: str, style: str | None = None) -> None:
        """Say something on standard error."""
        self.remarks.print(text, style=style, **_as_it_is(self.remarks))

    def document(self, data: Any) -> None:
        """Print the JSON document, where one is wanted; what is no number (NaN) is null."""
        if self.as_json:
            text = json.dumps(_without_nan(data), indent=2, ensure_ascii=False, allow_nan=False, default=str)
            self._stdout.write(f"{text}\n")

    def fail(self, kind: str, said: str) -> None:
        """Say in one line what is wrong, in the document, too."""
        self.remarks.print(f"[bold red]{kind}[/]:", end=" ")
        self.remark(said)
        self.document({"error": {"type": kind, "message": said}})


def _as_it_is(console: Console) -> dict[str, Any]:
    """Say how to print a text without markup; in a pipe or a file a line stays a line."""
    return {"markup": False, "highlight": False, "soft_wrap": not console.is_terminal}


def _without_nan(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _without_nan(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_without_nan(value) for value in data]
    return None if isinstance(data, float) and data != data else data


class Commands(TyperGroup):
    """The whole command line: with ``--json``, an option that cannot be read is told as a JSON document, too."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Any:
        """Run a command."""
        if "--json" not in (sys.argv[1:] if args is None else args):
            return super().main(args, *rest, **settings)
        try:
            code = super().main(args, *rest, **{**settings, "standalone_mode": False})
        except typer.TyperException as error:
            Output(as_json=True).fail("UsageError", error.format_message())
            code = error.exit_code
        except typer.Abort:
            code = FAILED
        sys.exit(code)


@contextlib.contextmanager
def reporting(as_json: bool, debug: bool) -> Iterator[Output]:
    """Run a command: its errors become one clear line and an exit code.

    Args:
        as_json: As in `Output`.
        debug: Whether errors are raised with their traceback.
    """
    from tp_dspy.errors import TransferPromptingError

    out = Output(as_json)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    elsewhere = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with _logging(out, debug), warnings.catch_warnings(), elsewhere:
        warnings.showwarning = lambda message, *rest: out.remark(f"Warning: {message}", "yellow")
        try:
            yield out
        except (typer.Exit, typer.Abort, typer.TyperException, BrokenPipeError):
            raise
        except (TransferPromptingError, FileNotFoundError, IsADirectoryError, PermissionError) as error:
            _fail(out, error, debug, _code(error))
        except KeyboardInterrupt as error:
            _fail(out, error, debug, INTERRUPTED, "Interrupted. What was paid for is kept; the same command goes on.")
        except Exception as error:
            text = f"{error} (unexpected; --debug shows where it comes from)"
            _fail(out, error, debug, FAILED, text)


def _code(error: BaseException) -> int:
    """Tell bad input, which is a ValueError (or a file that is not there), from a world that does not play along."""
    if isinstance(error, ValueError | FileNotFoundError | IsADirectoryError | ImportError):
        return BAD_INPUT
    return FAILED


def _fail(out: Output, error: BaseException, debug: bool, code: int, text: str | None = None) -> None:
    if debug:
        raise error
    out.fail(type(error).__name__, text if text is not None else _words(error))
    raise typer.Exit(code) from None


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"There is no file {str(error.filename)!r}."
    said = " ".join(map(str.strip, str(error).splitlines()))  # What LM clients say may have several lines.
    hint = next((hint for words, hint in _HINTS.items() if re.search(words, said)), None)
    return said if hint is None else f"{said} On the command line: {hint}."


@contextlib.contextmanager
def _logging(out: Output, debug: bool) -> Iterator[None]:
    """Show what the library warns of, and the terms of data sets; with ``--debug`` everything."""
    # One line per cut-off reply would bury everything else; that replies are short is often the point here.
    lm = logging.getLogger("dspy.clients.lm")
    before = lm.level
    lm.setLevel(logging.ERROR)
    logger = logging.getLogger("tp_dspy")
    handler = _Remarks(out, logging.DEBUG if debug else logging.WARNING)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
        lm.setLevel(before)


class _Remarks(logging.Handler):
    """Writes log records on standard error; of the tasks also what is only for information, such as terms."""

    def __init__(self, out: Output, level: int) -> None:
        super().__init__(logging.DEBUG)
        self._out = out
        self._least = level

    def emit(self, record: logging.LogRecord) -> None:
        about_data = record.name.startswith("tp_dspy.tasks") and record.levelno >= logging.INFO
        if record.levelno >= self._least or about_data:
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self._out.remark(record.getMessage(), style)
