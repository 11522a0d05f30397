"""What a prefix cache saves: prompt tokens that the embedded LM's server worked through, of those that it was sent.

    uv run python -m programs.benchmarks.serving

The same pairs (instructions x questions of the starter sets), candidate by candidate as the scorer hands them out, and
question by question; with the instruction before the question, and after it. The figures are the server's own
(``cached_tokens`` of each reply's usage). One JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from tp_dspy import InstructionAdapter, ObjectiveEvaluator, Task, embedded_lm
from tp_dspy.lms.adapter import Position
from tp_dspy.lms.embedded import stop_embedded
from tp_dspy.scoring.scorer import Job, Scorer

_INSTRUCTIONS = tuple(
    f"You are given a statement about {field}. Decide whether it is right, by what is commonly taught in that field, "
    f"and not by how the statement sounds; {manner}. Reply with one of the words yes and no, and nothing else."
    for field in ("medicine, law or finance", "a profession")
    for manner in ("think of an exception first", "do not be misled by long words", "when in doubt, say no")
)


class _Usage(BaseCallback):  # type: ignore[misc]
    """Adds up what replies say of their prompts."""

    def __init__(self) -> None:
        self.sent = self.cached = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _Usage:
        return self

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        """Take in one reply."""
        usage = dspy.settings.caller_modules[-1].history[-1]["usage"] if dspy.settings.caller_modules else {}
        self.sent += usage.get("prompt_tokens") or 0
        self.cached += (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def pairs(scorer: Scorer, questions: int, by: str) -> Iterator[Job[tuple[int, int]]]:
    """Give the pairs in an order."""
    programs = [scorer.prepare(dspy.Predict(dspy.Signature("question -> answer", text))) for text in _INSTRUCTIONS]
    asked = [e for domain in ("medical", "legal") for e in Task.starter(domain, kind="yes_no").train][:questions]
    jobs = [Job((n, i), program, e) for n, program in enumerate(programs) for i, e in enumerate(asked)]
    return iter(jobs if by == "candidate" else sorted(jobs, key=lambda job: job.key[::-1]))


def measure(questions: int, by: str, position: Position, slots: int) -> dict[str, float]:
    """Score the pairs on a server that has seen nothing."""
    stop_embedded()
    usage = _Usage()
    lm = embedded_lm(max_tokens=2, parallel=slots, cache=False)
    with dspy.context(adapter=InstructionAdapter(position), callbacks=[usage]):
        scorer = Scorer(ObjectiveEvaluator(confidence=None), lm=lm, num_threads=slots)
        began = time.perf_counter()
        count = sum(1 for _ in scorer.score(pairs(scorer, questions, by)))
    return {
        "calls": count,
        "sent": usage.sent,
        "processed_share": round(1 - usage.cached / usage.sent, 3),
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=24, help="questions of each instruction (default 24)")
    parser.add_argument("--slots", type=int, default=4, help="requests at once (default 4)")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    positions: tuple[Position, ...] = ("start", "end")
    found = {
        f"by {by}, instruction at the {position}": measure(args.questions, by, position, args.slots)
        for position in positions
        for by in ("candidate", "question")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
