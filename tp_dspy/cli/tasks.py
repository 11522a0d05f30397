"""``tp-dspy tasks``."""

from __future__ import annotations

from string import ascii_uppercase
from typing import Annotated, Any

import typer

from tp_dspy.cli import options as o
from tp_dspy.cli.output import Debug, Json, reporting

__all__ = ["register"]

_EXAMPLE = "Examples: [bold]tp-dspy tasks --domain legal[/], [bold]tp-dspy tasks mine.csv[/]"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog=_EXAMPLE)(tasks)


def tasks(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Load this one and show it: a file, starter/DOMAIN, or a name below.", autocompletion=o.task_names
        ),
    ] = None,
    domain: Annotated[str | None, typer.Option(help="Only medical, legal, financial or general ones.")] = None,
    column: o.Column = None,
    answer: o.AnswerField = "answer",
    seed: o.Seed = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the tasks that can be named, with their terms; or load one and show its splits and first example."""
    with reporting(as_json, debug) as shown:
        if name is None:
            rows = _rows(domain)
            shown.show(_listing(rows))
            shown.document({"tasks": rows})
        else:
            scoring = o.scoring_of("none", None, answer, column)
            about = _about(scoring.task(name, seed), answer)
            shown.show(_description(about))
            shown.document(about)


def _rows(domain: str | None) -> list[dict[str, Any]]:
    from tp_dspy.errors import ConfigurationError
    from tp_dspy.tasks.catalog import CATALOG
    from tp_dspy.tasks.starter import STARTER_DOMAINS

    rows: list[dict[str, Any]] = [
        {
            "name": f"starter/{one}",
            "domain": one,
            "answers": None,
            "description": "questions that ship with the library, for a first try",
            "licence": "MIT",
            "non_commercial": False,
        }
        for one in STARTER_DOMAINS
    ]
    rows += [
        {
            "name": data.name,
            "domain": data.domain,
            "answers": list(data.answers) if data.answers else None,
            "description": data.description,
            "licence": data.licence,
            "non_commercial": data.non_commercial,
            "citation": data.citation,
        }
        for data in CATALOG.values()
    ]
    domains = sorted({str(row["domain"]) for row in rows})
    if domain is not None and domain not in domains:
        raise ConfigurationError(f"There is no domain {domain!r}; there are {', '.join(domains)}.")
    return [row for row in rows if domain in (None, row["domain"])]


def _listing(rows: list[dict[str, Any]]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # A name is there to be copied.
    table.add_column("name", no_wrap=True)
    table.add_column("answers")
    table.add_column("licence")
    for domain in dict.fromkeys(row["domain"] for row in rows):
        table.add_row(Text(str(domain), style="bold"))
        for row in rows:
            if row["domain"] == domain:
                terms = f"{row['licence']}{', no commercial use' if row['non_commercial'] else ''}"
                table.add_row(*map(Text, (f"  {row['name']}", _in_short(row["answers"]), terms)))
        table.add_section()
    return table


def _in_short(answers: list[str] | None) -> str:
    if not answers:
        return "-"
    if len(answers) > 2 and answers == list(ascii_uppercase[: len(answers)]):
        return f"{answers[0]}-{answers[-1]}"
    listed = ", ".join(answers)
    return listed if len(listed) < 10 else f"{len(answers)} labels"


def _about(task: Any, answer: str) -> dict[str, Any]:
    first = task.train[0]
    return {
        "name": task.name,
        "domain": task.domain,
        "description": task.description,
        "answers": list(task.answers) if task.answers else None,
        "inputs": list(task.inputs),
        "splits": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        "first": {"inputs": dict(first.inputs()), "answer": first.get(answer)},
    }


def _description(about: dict[str, Any]) -> str:
    sizes = ", ".join(f"{count} {split}" for split, count in about["splits"].items())
    answers = f"answers: {', '.join(about['answers'])}" if about["answers"] else "free or varying answers"
    shown = "\n".join(f"  {field}: {value}" for field, value in about["first"]["inputs"].items())
    lines = [f"{about['name']} ({about['domain'] or 'no domain'}): {sizes}; {answers}."]
    if about["description"]:
        lines.append(f"{about['description'][0].upper()}{about['description'][1:]}.")
    return "\n".join([*lines, "The first example:", shown, f"  expected: {about['first']['answer']}"])
