"""What every command shares: where output goes, how errors are told, and what the exit code says."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "Debug", "Json", "Output", "reporting"]

FAILED = 1
"""Exit code: the world did not play along (no LM, no hub, too many failed calls); what was paid for is kept."""
BAD_INPUT = 2
"""Exit code: something given cannot work; no call was paid."""
INTERRUPTED = 130
"""Exit code: Ctrl-C; what was written is the best so far."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else, on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks, and all that the library logs.")]


class Output:
    """Where a command writes: tables on standard output, remarks on standard error; with ``--json`` one document.

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

    def show(self, renderable: Any, **style: Any) -> None:
        """Show something to people; a text as it is, without markup."""
        if not self.as_json:
            plain = {"markup": False, "highlight": False} if isinstance(renderable, str) else {}
            self.console.print(renderable, **{**plain, **style})

    def remark(self, text: str, style: str | None = None) -> None:
        """Say something on standard error."""
        self.remarks.print(text, markup=False, highlight=False, style=style)

    def document(self, data: Any) -> None:
        """Print the JSON document, where one is wanted."""
        if self.as_json:
            sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n")


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
    with _logging(out, debug), warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest: out.remark(f"Warning: {message}", "yellow")
        try:
            yield out
        except (typer.Exit, typer.Abort):
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
    said = text if text is not None else _words(error)
    out.remarks.print(f"[bold red]{type(error).__name__}[/]:", end=" ")
    out.remark(said)
    out.document({"error": {"type": type(error).__name__, "message": said}})
    raise typer.Exit(code) from None


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and error.filename is not None:
        return f"There is no file {str(error.filename)!r}."
    return str(error)


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
