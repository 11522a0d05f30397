"""Options that several commands have."""

from __future__ import annotations

import difflib
import functools
import inspect
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import typer

from tp_dspy.cli.settings import Budgets, Effort, LMs, Scoring

__all__ = [
    "AnswerField",
    "Auto",
    "Column",
    "Config",
    "Examples",
    "Instruction",
    "Position",
    "Program",
    "ReferenceLM",
    "ScorerLM",
    "Seed",
    "Sources",
    "Target",
    "TestLimit",
    "budgets_of",
    "effort_of",
    "lms_of",
    "scoring_of",
    "sources_of",
    "takes",
    "task_names",
    "was_typed",
]

_TASKS = "Task"
_LMS = "LM"
_EFFORT = "Effort"
_MONEY = "Budget"
_FILES = "Your files"

AdapterName = Literal["auto", "plain", "chat", "json"]
ConfidenceName = Literal["logits", "verbalized", "agreement", "none"]
PositionName = Literal["before", "start", "end", "answer"]


def task_names(incomplete: str) -> list[str]:
    """Complete a task's name."""
    from tp_dspy.tasks.catalog import CATALOG
    from tp_dspy.tasks.starter import STARTER_DOMAINS

    names = [*(f"starter/{domain}" for domain in STARTER_DOMAINS), *CATALOG]
    return [name for name in names if name.casefold().startswith(incomplete.casefold())]


def _configured(context: typer.Context, path: Path | None) -> Path | None:
    """Take the options of a command from a TOML file; what is typed wins."""
    if path is None:
        return None
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"there is no file {str(path)!r}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{str(path)!r} is not TOML ({error}).") from None
    except OSError as error:
        raise typer.BadParameter(f"{str(path)!r} cannot be read ({error.strerror}).") from None
    names = _options(context)
    repeated = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    taken: dict[str, Any] = {}
    for key, value in given.items():
        name = names.get(key.replace("_", "-").lower())
        if name is None:
            near = difflib.get_close_matches(key.replace("_", "-").lower(), names, n=3, cutoff=0.4)
            hint = f" Near to it: {', '.join(near)}." if near else f" There are: {', '.join(sorted(names))}."
            raise typer.BadParameter(f"{str(path)!r} sets {key!r}, which this command does not have.{hint}")
        if isinstance(value, dict):
            value = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in value.items()]
        taken[name] = [value] if name in repeated and isinstance(value, str) else value
    context.default_map = {**(context.default_map or {}), **taken}
    return path


def _options(context: typer.Context) -> dict[str, str]:
    """List the names a file may set, and the parameters they are."""
    names = {}
    for parameter in context.command.params:
        if parameter.name in ("config", "help") or parameter.name is None:
            continue
        long = [option.removeprefix("--") for option in parameter.opts if option.startswith("--")]
        for name in long or [parameter.name.replace("_", "-")]:
            names[name] = parameter.name
    return names


Program = Annotated[
    str, typer.Argument(help="module:object, file.py:object, or a signature such as 'question -> answer'.")
]
Instruction = Annotated[str | None, typer.Option(help="The instruction of a program that is a signature.")]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source", "-s", help="A source task; may be repeated.", autocompletion=task_names, rich_help_panel=_TASKS
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        "-t",
        help="The target task: a file, starter/DOMAIN[:KIND], or a name of the catalogue.",
        autocompletion=task_names,
        rich_help_panel=_TASKS,
    ),
]
Description = Annotated[
    str, typer.Option(help="What the target's items are, for the reference LM.", rich_help_panel=_TASKS)
]
TestLimit = Annotated[int, typer.Option(min=1, help="Test examples, at most.", rich_help_panel=_TASKS)]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Where a file's columns cannot be guessed: question=COL, answer=COL, id=COL, split=COL, options=A,B,C, or "
        "input.FIELD=COL for another input field of the program.",
        rich_help_panel=_FILES,
    ),
]
AnswerField = Annotated[
    str, typer.Option("--answer", help="The program's output field that holds the answer.", rich_help_panel=_FILES)
]
Confidence = Annotated[ConfidenceName, typer.Option(help="Where confidence comes from.", rich_help_panel=_TASKS)]
Weight = Annotated[
    list[str] | None, typer.Option(help="METRIC=WEIGHT, e.g. accuracy=0.6; repeated.", rich_help_panel=_TASKS)
]
ScorerLM = Annotated[
    str,
    typer.Option(help="Runs the program: 'embedded', a .gguf file, or provider/model.", rich_help_panel=_LMS),
]
ReferenceLM = Annotated[
    str | None, typer.Option(help="Proposes instructions; by default the scorer LM.", rich_help_panel=_LMS)
]
Adapter = Annotated[
    AdapterName,
    typer.Option(help="auto: plain prompts for an LM on this machine, DSPy's chat otherwise.", rich_help_panel=_LMS),
]
Position = Annotated[PositionName, typer.Option(help="Where plain prompts have the instruction.", rich_help_panel=_LMS)]
ReplyTokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a reply of the program, at most.", rich_help_panel=_LMS)
]
Threads = Annotated[int | None, typer.Option(min=1, help="Concurrent calls.", rich_help_panel=_LMS)]
_WHERE = (
    "Where the program runs: by default in threads; 'dask' for worker processes on this machine, 'dask://host:port' "
    "for a Dask cluster."
)
Executor = Annotated[str | None, typer.Option(help=_WHERE, metavar="dask[://HOST:PORT]", rich_help_panel=_LMS)]
Auto = Annotated[str, typer.Option(help="How much to do: quick, light, medium or heavy.", rich_help_panel=_EFFORT)]
Seed = Annotated[int, typer.Option(help="Makes the choice of examples repeatable.", rich_help_panel=_EFFORT)]
Rounds = Annotated[
    int | None, typer.Option(min=0, help="Rounds of a phase; overrides --auto.", rich_help_panel=_EFFORT)
]
Proposals = Annotated[
    int | None, typer.Option(min=1, help="Proposals of a round; overrides --auto.", rich_help_panel=_EFFORT)
]
Examples = Annotated[
    int | None, typer.Option(min=1, help="Examples per task and panel; overrides --auto.", rich_help_panel=_EFFORT)
]
SourceExamples = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="The same for each source task; by default as --examples, or fewer, for a small --max-calls.",
        rich_help_panel=_EFFORT,
    ),
]
TopK = Annotated[
    int | None, typer.Option(min=1, help="Source prompts carried over; overrides --auto.", rich_help_panel=_EFFORT)
]
MaxScorerCalls = Annotated[
    int | None, typer.Option("--max-calls", min=1, help="Scorer calls, at most.", rich_help_panel=_MONEY)
]
MaxReferenceCalls = Annotated[int | None, typer.Option(min=1, help="Reference calls.", rich_help_panel=_MONEY)]
MaxTokens = Annotated[int | None, typer.Option(min=1, help="Tokens in all.", rich_help_panel=_MONEY)]
MaxUsd = Annotated[
    float | None, typer.Option(min=0, help="US dollars, where prices are known.", rich_help_panel=_MONEY)
]
MaxSeconds = Annotated[float | None, typer.Option(min=0, help="Seconds of wall time.", rich_help_panel=_MONEY)]
Patience = Annotated[
    int | None, typer.Option(min=1, help="Rounds without a gain that end a phase.", rich_help_panel=_MONEY)
]
Config = Annotated[
    Path | None,
    typer.Option(
        callback=_configured,
        is_eager=True,
        help="A TOML file with options of this command by their names; what is typed wins.",
    ),
]


def lms_of(
    scorer_lm: ScorerLM = "embedded",
    reference_lm: ReferenceLM = None,
    adapter: Adapter = "auto",
    position: Position = "start",
    reply_tokens: ReplyTokens = None,
    threads: Threads = None,
    executor: Executor = None,
) -> LMs:
    """Options of the LMs, and what they make."""
    return LMs(
        scorer=scorer_lm,
        reference=reference_lm,
        adapter=adapter,
        position=position,
        reply_tokens=reply_tokens,
        threads=threads,
        executor=executor,
    )


def sources_of(
    source: Sources = None,
    description: Description = "",
    confidence: Confidence = "logits",
    weight: Weight = None,
    answer: AnswerField = "answer",
    column: Column = None,
) -> Scoring:
    """Options of what a compile scores on and by, and what they make."""
    scoring = scoring_of(confidence, weight, answer, column)
    return scoring.model_copy(update={"sources": source or [], "description": description})


def scoring_of(
    confidence: Confidence = "logits",
    weight: Weight = None,
    answer: AnswerField = "answer",
    column: Column = None,
) -> Scoring:
    """Options of what is scored by, and what they make."""
    weights = {name: _number(name, value) for name, value in _pairs("--weight", weight or [])}
    return Scoring(columns=_layout(column or []), answer=answer, confidence=confidence, weights=weights or None)


def budgets_of(
    max_calls: MaxScorerCalls = None,
    max_reference_calls: MaxReferenceCalls = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_seconds: MaxSeconds = None,
    patience: Patience = None,
) -> Budgets:
    """Options of the budgets, and what they make."""
    return Budgets(
        scorer_calls=max_calls,
        reference_calls=max_reference_calls,
        tokens=max_tokens,
        usd=max_usd,
        seconds=max_seconds,
        patience=patience,
    )


def effort_of(
    auto: Auto = "light",
    rounds: Rounds = None,
    proposals: Proposals = None,
    examples: Examples = None,
    source_examples: SourceExamples = None,
    top_k: TopK = None,
    seed: Seed = 0,
) -> Effort:
    """Options of how much is done, and what they make."""
    return Effort(
        auto=auto,
        rounds=rounds,
        proposals=proposals,
        examples=examples,
        source_examples=source_examples,
        top_k=top_k,
        seed=seed,
    )


def was_typed(context: typer.Context, parameter: str) -> bool:
    """Say whether a command was given a parameter, and it has not its default only."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name != "DEFAULT"


def takes(**makers: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options that are parameters of some functions, and pass it what these make of them.

    Args:
        **makers: The functions, by the command's parameter that takes what they make.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: _parameters(maker) for name, maker in makers.items()}
        own = [parameter for parameter in _parameters(command) if parameter.name not in makers]
        shared = [parameter for parameters in options.values() for parameter in parameters]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            made = {
                name: makers[name](**{parameter.name: given.pop(parameter.name) for parameter in parameters})
                for name, parameters in options.items()
            }
            command(**given, **made)

        last = [parameter for parameter in own if parameter.name in ("config", "as_json", "debug")]
        first = [parameter for parameter in own if parameter not in last]
        every = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*first, *shared, *last)]
        run.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        return run

    return decorate


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    return [parameter.replace(annotation=hints.get(parameter.name)) for parameter in parameters]


def _layout(columns: list[str]) -> dict[str, Any]:
    """Read what was said of a file's columns."""
    layout: dict[str, Any] = {}
    for name, value in _pairs("--column", columns):
        if name.startswith("input."):
            layout.setdefault("inputs", {})[name.removeprefix("input.")] = value
        elif name == "options":
            names = value.split(",")
            layout[name] = names if len(names) > 1 else value
        elif name in ("question", "answer", "choices", "id", "split"):
            layout[name] = value
        else:
            raise typer.BadParameter(
                f"{name!r} is none of question, answer, options, choices, id, split, input.FIELD.",
                param_hint="--column",
            )
    return layout


def _pairs(option: str, given: list[str]) -> list[tuple[str, str]]:
    pairs = []
    for one in given:
        name, equals, value = one.partition("=")
        if not (name and equals and value):
            raise typer.BadParameter(f"{one!r} is not of the form NAME=VALUE.", param_hint=option)
        pairs.append((name.strip(), value.strip()))
    return pairs


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise typer.BadParameter(
            f"the weight of {name!r} is {value!r}; expected a number.", param_hint="--weight"
        ) from None
