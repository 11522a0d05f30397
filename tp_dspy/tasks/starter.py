"""Question sets that ship with the library: a first try without a network, and tests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import dspy

from tp_dspy.errors import DataError
from tp_dspy.tasks.catalog import LETTERS, lettered
from tp_dspy.tasks.task import Task

__all__ = ["STARTER_DOMAINS", "STARTER_KINDS", "load_starter"]

STARTER_DOMAINS = ("financial", "legal", "medical")
STARTER_KINDS = ("choice", "yes_no", "sentiment")

_SUBJECTS = {"financial": "finance and economics", "legal": "law", "medical": "medicine"}
_DESCRIPTIONS = {
    "choice": "multiple-choice questions about {subject}, each with four lettered options of which one is right",
    "yes_no": "yes/no questions about {subject}",
    "sentiment": "sentences from the news, to be judged as positive, negative or neutral for an investor",
}
_ANSWERS = {"yes_no": ("yes", "no"), "sentiment": ("positive", "negative", "neutral")}


def load_starter(domain: str, *, kind: str | None = None) -> Task:
    """Load one of the sets in `STARTER_DOMAINS`.

    Args:
        domain: "financial", "legal" or "medical".
        kind: "choice", "yes_no" or (financial only) "sentiment"; None for all that the domain has.

    Returns:
        A task named "starter/<domain>" or "starter/<domain>:<kind>". Its examples have the catalogue's shape: input
        `question`, output `answer`, and `choices`, `id`, `kind` and `topic`.

    Raises:
        DataError: There is no such domain or kind.
    """
    if domain not in STARTER_DOMAINS:
        raise DataError(f"There is no starter set {domain!r}; there is {', '.join(map(repr, STARTER_DOMAINS))}.")
    lines = (_data_folder() / f"{domain}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]
    kinds = [known for known in STARTER_KINDS if any(row["kind"] == known for row in rows)]
    if kind is not None and kind not in kinds:
        known = ", ".join(map(repr, kinds))
        raise DataError(f"The starter set {domain!r} has no kind {kind!r}; it has {known}, or None for all of them.")
    splits: dict[str, list[dspy.Example]] = defaultdict(list)
    for row in rows:
        if kind in (None, row["kind"]):
            splits[row["split"]].append(_example(row))
    return Task(
        f"starter/{domain}" + (f":{kind}" if kind else ""),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        domain=domain,
        description=_describe(domain, [kind] if kind else kinds),
    )


def _data_folder() -> Traversable:
    return resources.files("tp_dspy.tasks") / "data"


def _describe(domain: str, kinds: Iterable[str]) -> str:
    return "; ".join(_DESCRIPTIONS[kind].format(subject=_SUBJECTS[domain]) for kind in kinds)


def _example(row: dict[str, Any]) -> dspy.Example:
    """Bring one line of the file into the catalogue's shape."""
    kind, question = row["kind"], row["question"]
    extra = {"id": row["id"], "kind": kind, "topic": row["topic"]}
    if kind == "choice":
        extra |= {"stem": question, "options": row["options"]}
        question = lettered(question, row["options"])
        choices = LETTERS[: len(row["options"])]
    else:
        question = f"Sentence: {question}" if kind == "sentiment" else question
        choices = _ANSWERS[kind]
    example = dspy.Example(question=question, answer=row["answer"], choices=list(choices), **extra)
    return example.with_inputs("question")
