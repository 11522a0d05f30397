"""The kinds of confidence side by side: how well each tells right from wrong answers, and what it costs.

    TP_DSPY_DATA=folder uv run python -m programs.benchmarks.confidence --limit 60 --json confidence.json

The same LM, the same instruction and the same held-out questions for all: log-probabilities of the answer; a number
that the LM states on a second line, or when asked in a call of its own; and how many of five further answers agree.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import dspy

from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.demo import load_task
from tp_dspy.lms.embedded import embedded_lm
from tp_dspy.scoring.evaluation import Evaluation
from tp_dspy.tasks.splitting import stratified_order
from tp_dspy.tasks.task import Task

TASKS = (
    "cais/mmlu:clinical_knowledge",
    "cais/mmlu:international_law",
    "takala/financial_phrasebank:sentences_allagree",
)
KINDS = ("logits", "verbalized", "verbalized, asked apart", "agreement")
SHOWN = ("ifr", "accuracy", "coverage", "ece", "auroc")


class AskedApart(dspy.Module):  # type: ignore[misc]
    """Answers first, and is then asked how sure it is: small LMs seldom write two fields in one reply."""

    def __init__(self, instruction: str) -> None:
        super().__init__()
        self.answer = dspy.Predict(dspy.Signature("question -> answer", instruction))
        self.doubt = dspy.Predict(
            dspy.Signature(
                "question, answer -> confidence",
                "How likely is it that the answer is right? Reply with only a number from 0 (surely wrong) to 1 "
                "(surely right).",
            )
        )

    def forward(self, question: str) -> dspy.Prediction:
        """Ask twice."""
        answer = self.answer(question=question).answer
        confidence = self.doubt(question=question, answer=answer).confidence
        return dspy.Prediction(answer=answer, confidence=confidence)


def instruction(task: Task) -> str:
    """What one would write by hand, so that the answer's form is no obstacle."""
    answers = task.test[0].choices
    if all(len(answer) == 1 for answer in answers):
        return "Answer with only the letter of the correct option."
    return f"Reply with one of these answers and nothing else: {', '.join(answers)}."


def program(kind: str, text: str) -> dspy.Module:
    """Make the program that gives this kind of confidence."""
    if kind == "verbalized":
        stated = " On a second line state your confidence as a number from 0 to 1."
        return dspy.Predict(dspy.Signature("question -> answer, confidence", text + stated))
    if kind == "verbalized, asked apart":
        return AskedApart(text)
    return dspy.Predict(dspy.Signature("question -> answer", text))


def measure(task: Task, kind: str, limit: int, samples: int, threads: int) -> tuple[Evaluation, float]:
    """Evaluate one kind on one task; returns the seconds too."""
    objective = ObjectiveEvaluator(confidence=kind.partition(",")[0], samples=samples)  # type: ignore[arg-type]
    examples = stratified_order(task.test, seed=0)[:limit]
    started = time.monotonic()
    evaluation = objective.evaluate(program(kind, instruction(task)), examples, num_threads=threads)
    return evaluation, time.monotonic() - started


def row(task: Task, kind: str, evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """Give the figures of one evaluation as plain values."""
    values = evaluation.to_dict()
    shown = {name: values["metrics"][name] for name in SHOWN}
    intervals = {name: values["intervals"][name] for name in ("ece", "auroc")}
    usage = evaluation.usage
    cost = {"calls": usage.calls + usage.cached, "tokens": usage.prompt_tokens + usage.completion_tokens}
    about = {"task": task.name, "kind": kind, "n": evaluation.metrics.n}
    return {**about, **shown, "intervals": intervals, **cost, "seconds": round(seconds, 1)}


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """Write the table for a README."""

    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    def ranged(entry: dict[str, Any], name: str) -> str:
        low, high = entry["intervals"][name]
        return "-" if entry[name] is None else f"{cell(entry[name])} [{cell(low)}, {cell(high)}]"

    lines = ["| task | confidence | n | IFR | ACC | with one | ECE | AUROC | calls |", "|---" * 9 + "|"]
    for entry in rows:
        shares = " | ".join(cell(entry[name]) for name in ("ifr", "accuracy", "coverage"))
        measured = f"{ranged(entry, 'ece')} | {ranged(entry, 'auroc')} | {entry['calls']}"
        lines.append(f"| {entry['task']} | {entry['kind']} | {entry['n']} | {shares} | {measured} |")
    return "\n".join(lines)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="names of tasks with a test split")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of confidence")
    parser.add_argument("--gguf", help="another LM than the embedded one: a GGUF file")
    parser.add_argument("--limit", type=int, default=60, help="test questions per task (default 60)")
    parser.add_argument("--samples", type=int, default=5, help="further answers for agreement (default 5)")
    parser.add_argument("--threads", type=int, default=4, help="concurrent calls (default 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    # Replies are cut off on purpose; a line for each would bury the table.
    logging.getLogger("dspy.clients.lm").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    with dspy.context(lm=embedded_lm(args.gguf, max_tokens=16), adapter=InstructionAdapter("start")):
        for name in args.tasks:
            task = load_task(name)
            for kind in args.kinds:
                rows.append(row(task, kind, *measure(task, kind, args.limit, args.samples, args.threads)))
                print(json.dumps(rows[-1]), flush=True)
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(as_markdown(rows))


if __name__ == "__main__":
    main()
