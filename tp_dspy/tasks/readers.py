"""Making an example of one row of a public data set.

Every example has the input `question` and the output `answer`, `choices` (the allowed answers) where they are closed,
and `id`; multiple-choice items also have `stem` and `options`. A reader raises ValueError for a row that is not as it
should be, and `Skip` for one that the task leaves out on purpose.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dspy

__all__ = [
    "LETTERS",
    "Row",
    "Skip",
    "aqua",
    "casehold",
    "free_text",
    "gsm8k",
    "keyed",
    "labelled",
    "lettered",
    "logiqa",
    "medmcqa",
    "medqa",
    "mmlu",
    "options_inside",
    "pubmedqa",
    "strategyqa",
    "tatqa",
    "tatqa_rows",
    "titled",
    "worded",
]

LETTERS = ("A", "B", "C", "D", "E", "F", "G", "H")

Row = Mapping[str, Any]
Reader = Callable[[Row], dspy.Example]

_OPTION_LINE = re.compile(r"^\(([A-Z])\)[ \t]*(.*)$", re.MULTILINE)
_AQUA_OPTION = re.compile(r"([A-H])\s*\)\s*(.*)", re.DOTALL)
# Accountants write a loss of 20 as "(20)" or "$(20)".
_LOSS = re.compile(r"([$€£]?)\s*\(([\d.,]*\d[a-z%]*)\)")
_HAS_SCALE = re.compile(r"%|percent|per cent|thousand|million|billion")


class Skip(Exception):
    """A row that the task leaves out; the message says why, and is counted in the log."""


def lettered(question: str, options: Sequence[str]) -> str:
    """Return the question with its options below it, one a line: "A. ..."."""
    lines = (f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    return "\n".join([question.strip(), *lines])


def mmlu(row: Row) -> dspy.Example:
    """Read a row of MMLU."""
    return _choice(row["question"], row["choices"], row["answer"])


def keyed(stem: str = "question") -> Reader:
    """Make the reader of rows with options that have their own labels (ARC, OpenBookQA, CommonsenseQA).

    Args:
        stem: The column that holds the question.
    """

    def to_example(row: Row) -> dspy.Example:
        # Some exams number their options; by position, all are lettered.
        labels = list(row["choices"]["label"])
        right = _index(row["answerKey"], labels, "answerKey")
        return _choice(row[stem], row["choices"]["text"], right, id=row["id"])

    return to_example


def medqa(row: Row) -> dspy.Example:
    """Read a row of MedQA with four options."""
    letters = sorted(row["options"])
    options = [row["options"][letter] for letter in letters]
    return _choice(row["question"], options, _index(row["answer_idx"], letters, "answer_idx"))


def medmcqa(row: Row) -> dspy.Example:
    """Read a row of MedMCQA; its own ids are left alone, since not every copy has them all."""
    return _choice(row["question"], [row[column] for column in ("opa", "opb", "opc", "opd")], row["cop"])


def casehold(row: Row) -> dspy.Example:
    """Read a row of CaseHOLD as LexGLUE has it."""
    stem = f"{row['context'].strip()}\nQuestion: Which holding stood in place of <HOLDING>?"
    return _choice(stem, row["endings"], row["label"])


def logiqa(row: Row) -> dspy.Example:
    """Read a row of LogiQA."""
    return _choice(f"{row['context'].strip()}\n{row['query'].strip()}", row["options"], row["correct_option"])


def aqua(row: Row) -> dspy.Example:
    """Read a row of AQuA, whose options carry their letters: "A)40"."""
    parsed = [_AQUA_OPTION.fullmatch(option.strip()) for option in row["options"]]
    letters = [match[1] for match in parsed if match]
    if letters != list(LETTERS[: len(row["options"])]):
        raise ValueError(f"options are {row['options']!r}, expected 'A)...', 'B)...' and so on")
    return _choice(row["question"], [match[2] for match in parsed if match], _index(row["correct"], letters, "correct"))


def labelled(labels: tuple[str, ...]) -> Reader:
    """Make the reader of rows with a sentence and the index of a label."""

    def to_example(row: Row) -> dspy.Example:
        if row["label"] not in range(len(labels)):
            raise ValueError(f"label is {row['label']!r}, expected 0 to {len(labels) - 1}")
        return _example(f"Sentence: {row['sentence'].strip()}", labels[row["label"]], sorted(labels))

    return to_example


def titled(columns: Mapping[str, str], question: str, labels: tuple[str, ...]) -> Reader:
    """Make the reader of rows with texts and an `answer` in words (LegalBench).

    Args:
        columns: What to write before each text, and the column that holds it.
        question: What is asked about them.
        labels: The allowed answers.
    """

    def to_example(row: Row) -> dspy.Example:
        texts = [f"{title}: {row[column].strip()}" for title, column in columns.items()]
        return _example("\n".join([*texts, f"Question: {question}"]), row["answer"], labels)

    return to_example


def pubmedqa(row: Row) -> dspy.Example:
    """Read a row of PubMedQA: the abstract without its conclusion, then the question."""
    question = f"Context: {' '.join(row['context']['contexts'])}\nQuestion: {row['question'].strip()}"
    return _example(question, row["final_decision"], ("yes", "no", "maybe"), id=str(row["pubid"]))


def strategyqa(row: Row) -> dspy.Example:
    """Read a row of StrategyQA; its facts give the answer away and are left out."""
    if not isinstance(row["answer"], bool):
        raise ValueError(f"answer is {row['answer']!r}, expected True or False")
    return _example(row["question"].strip(), "yes" if row["answer"] else "no", ("yes", "no"), id=row["qid"])


def gsm8k(row: Row) -> dspy.Example:
    """Read a row of GSM8K: the answer is the number after "####", without thousands separators."""
    _, mark, number = row["answer"].rpartition("####")
    if not mark:
        raise ValueError(f"answer is {row['answer'][-40:]!r}, expected '#### <number>' at its end")
    return _example(row["question"].strip(), number.strip().replace(",", ""))


def options_inside(row: Row) -> dspy.Example:
    """Read a row of BIG-Bench-Hard whose input ends with lettered options: "(A) ..."."""
    text = row["input"].strip()
    letters, options = zip(*_OPTION_LINE.findall(text), strict=True) if _OPTION_LINE.search(text) else ((), ())
    target = re.fullmatch(r"\(([A-Z])\)", row["target"].strip())
    if not target:  # options with a comma were cut apart there, so that the answer is none of them
        raise Skip("the answer is not the letter of an option")
    stem = text.partition("\nOptions:")[0]
    return _example(text, target[1], letters, stem=stem, options=list(options))


def worded(labels: tuple[str, ...]) -> Reader:
    """Make the reader of rows of BIG-Bench-Hard with a few allowed answers."""
    return lambda row: _example(row["input"].strip(), row["target"].strip(), labels)


def free_text(row: Row) -> dspy.Example:
    """Read a row of BIG-Bench-Hard whose answer is free."""
    return _example(row["input"].strip(), row["target"].strip())


def tatqa(row: Row) -> dspy.Example:
    """Read a question of TAT-QA, in the flat form that `tatqa_rows` makes."""
    table = "\n".join(" | ".join(map(str, cells)) for cells in row["table"])
    text = "\n".join(row["paragraphs"])
    question = f"Table:\n{table}\nText:\n{text}\nQuestion: {row['question'].strip()}"
    return _example(question, _short_answer(json.loads(row["answer"]), row["scale"]), id=row["uid"])


def tatqa_rows(contexts: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Flatten the JSON of TAT-QA, which nests questions below the table they are about.

    Args:
        contexts: The contents of one of its files.

    Returns:
        A row for each question, in order, with `uid`, `table` (rows of cells), `paragraphs` (texts), `question`,
        `answer` (as JSON, since it may be a text, a number or a list) and `scale`.
    """
    return [
        {
            "uid": question["uid"],
            "table": context["table"]["table"],
            "paragraphs": [paragraph["text"] for paragraph in context["paragraphs"]],
            "question": question["question"],
            "answer": json.dumps(question["answer"]),
            "scale": question["scale"],
        }
        for context in contexts
        for question in context["questions"]
    ]


def _short_answer(answer: Any, scale: str) -> str:
    """Write an answer of TAT-QA as one writes it in a report: "1,234.5 million", "-3.1%"."""
    values = answer if isinstance(answer, list) else [answer]
    if len(values) != 1:
        raise Skip("there are several answers")
    value = values[0]
    text = value.strip() if isinstance(value, str) else f"{value:,}"
    if loss := _LOSS.fullmatch(text):
        text = f"-{loss[1]}{loss[2]}"
    # Scoring compares whole numbers as numbers, "%" included, and anything else by its words: so no "5 percent".
    if not scale or not re.search(r"\d", text) or _HAS_SCALE.search(text):
        return text
    return f"{text}%" if scale == "percent" else f"{text} {scale}"


def _index(key: Any, keys: Sequence[Any], column: str) -> int:
    if key not in keys:
        raise ValueError(f"{column} is {key!r}, expected one of {', '.join(map(str, keys))}")
    return keys.index(key)


def _choice(stem: str, options: Sequence[str], right: Any, **extra: Any) -> dspy.Example:
    if not len(options) <= len(LETTERS):
        raise ValueError(f"there are {len(options)} options, expected at most {len(LETTERS)}")
    if right not in range(len(options)):
        raise ValueError(f"option {right!r} is the answer, expected 0 to {len(options) - 1}")
    letters = LETTERS[: len(options)]
    stem = stem.strip()
    return _example(lettered(stem, options), letters[right], letters, stem=stem, options=list(options), **extra)


def _example(
    question: str, answer: str, choices: Sequence[str] | None = None, *, id: str = "", **extra: Any
) -> dspy.Example:
    identity = id or hashlib.sha256(question.encode(errors="backslashreplace")).hexdigest()[:12]
    closed = {} if choices is None else {"choices": list(choices)}
    return dspy.Example(question=question, answer=answer, **closed, id=identity, **extra).with_inputs("question")
