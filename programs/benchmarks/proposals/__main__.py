"""Ask for instructions in several ways, and measure what comes back.

A cell is one way on one task with one seed. Its history is that of a first population: the original instruction and
the library's general ones, scored on the search examples. The reference LM is asked `--replies` times how to better it.
Every reply that passes the guards is scored on the search examples, and on questions that neither it nor the history
has seen. Cells are kept; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import numpy as np
from rich.console import Console
from rich.table import Table

from programs.benchmarks.peers.setting import Setting, lms_of
from programs.benchmarks.peers.student import Answer
from programs.benchmarks.peers.suite import listed
from programs.benchmarks.proposals.ways import WAYS
from tp_dspy import ObjectiveEvaluator, Task
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.phases import target_input
from tp_dspy.optimization.population import first_population
from tp_dspy.optimization.reference import Proposer
from tp_dspy.runs.folders import file_name, write_whole
from tp_dspy.scoring.evaluation import Evaluation
from tp_dspy.tasks.loading import load_task
from tp_dspy.tasks.splitting import stratified_order

CHOOSE = (
    "takala/financial_phrasebank:sentences_allagree",
    "nguha/legalbench:proa",
    "ChilleD/StrategyQA",
)
"""Tasks to choose a way by."""
CONFIRM = (
    "nguha/legalbench:learned_hands_courts",
    "lukaemon/bbh:disambiguation_qa",
    "allenai/openbookqa:main",
)
"""Tasks to see whether it holds. None of either is a target of the table of peers."""

_MOST_FAILURES = 6
# Of the questions and the ways; to be raised when cells that were kept can no longer be compared with new ones.
_VERSION = 2


@dataclass
class Study:
    """Runs cells.

    Attributes:
        scorer: The scorer LM.
        reference: The reference LM.
        threads: Concurrent calls.
        examples: Search examples.
        questions: Unseen questions, at most.
        replies: Replies asked for.
    """

    scorer: dspy.LM
    reference: dspy.LM
    threads: int
    examples: int
    questions: int
    replies: int

    def __post_init__(self) -> None:
        self.objective = ObjectiveEvaluator()

    def run(self, task: Task, way: str, seed: int) -> dict[str, Any]:
        """Run one cell."""
        kind, temperature = WAYS[way]
        data = target_input(task.train, [], self.examples, seed, "answer", task.description, answers=task.answers)
        search = next(iter(data.search.values()))
        unseen = stratified_order(task.test, seed=0)[: self.questions]
        original = Candidate.of(Answer())
        first = first_population(original, "predict", None, task.answers)
        scores = self._measure(first, search)
        history = sorted(
            (
                ScoredCandidate(one, e.metrics.score, {task.name: e.metrics})
                for one, e in zip(first, scores, strict=True)
            ),
            key=lambda scored: scored.score,
        )
        best = history[-1].candidate
        failed = [
            (example, outcome)
            for example, outcome in zip(search, scores[first.index(best)].outcomes, strict=True)
            if not outcome.followed or outcome.correct < 1.0
        ]
        failures = sorted(failed, key=lambda pair: pair[1].followed)[:_MOST_FAILURES]
        prompt = kind(data.briefs, ("answer",))
        proposer = Proposer(self.reference, {"predict": [prompt]}, temperature, seed, threads=self.threads)
        replies = proposer.propose(history, self.replies, failures=failures)
        made = [reply.candidate for reply in replies if reply.candidate is not None]
        candidates = list(dict.fromkeys([best, original, *made]))
        found = {
            one.id: [self._row(evaluation) for evaluation in pair]
            for one, *pair in zip(
                candidates, self._measure(candidates, search), self._measure(candidates, unseen), strict=True
            )
        }
        return {
            "task": task.name,
            "way": way,
            "seed": seed,
            "parent": {"text": best.instructions["predict"], "measured": found[best.id]},
            "original": {"text": original.instructions["predict"], "measured": found[original.id]},
            "replies": [
                {
                    "reply": reply.reply,
                    "rejected": reply.reason,
                    "text": reply.text,
                    "measured": found[reply.candidate.id] if reply.candidate is not None else None,
                }
                for reply in replies
            ],
        }

    def _measure(self, candidates: Sequence[Candidate], examples: Sequence[dspy.Example]) -> list[Evaluation]:
        programs = {one.id: one.apply(Answer()) for one in candidates}
        with dspy.context(lm=self.scorer, adapter=None, num_threads=self.threads):
            found = self.objective.evaluate_all(programs, examples, verbose=False, num_threads=self.threads)
        return list(found.evaluations.values())

    @staticmethod
    def _row(evaluation: Evaluation) -> dict[str, Any]:
        metrics = evaluation.metrics
        outcomes = [[o.status, int(o.followed), o.correct, o.confidence] for o in evaluation.outcomes]
        return {"score": metrics.score, "ifr": metrics.ifr, "accuracy": metrics.accuracy, "outcomes": outcomes}


def table(cells: Sequence[dict[str, Any]]) -> Table:
    """Sum cells up by the way, over the tasks and seeds that all ways were run on.

    Shares are of all replies. Gains are in score on the unseen questions, against the parent: of the usable replies,
    and of what the search examples would choose among them and the parent; means over cells, with the standard error.
    """
    ways = list(dict.fromkeys(cell["way"] for cell in cells))
    had = {way: {(cell["task"], cell["seed"]) for cell in cells if cell["way"] == way} for way in ways}
    blocks = set.intersection(*had.values()) if had else set()
    made = Table(
        title=f"On unseen questions of {len(blocks)} tasks and seeds, against the parent", title_justify="left"
    )
    for heading in ("way", "replies", "usable", "beat parent", "gain, mean", "gain, chosen", "gain in ACC", "why not"):
        made.add_column(heading, justify="left" if heading in ("way", "why not") else "right")
    for way in ways if blocks else ():
        mine = [cell for cell in cells if cell["way"] == way and (cell["task"], cell["seed"]) in blocks]
        replies = [reply for cell in mine for reply in cell["replies"]]
        gains = [_gains(cell) for cell in mine]
        chosen = [_chosen(cell) for cell in mine]
        reasons = Counter(reply["rejected"] for reply in replies if reply["rejected"])
        made.add_row(
            way,
            str(len(replies)),
            f"{sum(map(len, gains)) / len(replies):.2f}",
            f"{sum(gain > 0 for some in gains for gain in some) / len(replies):.2f}",
            _mean([float(np.mean(some)) for some in gains if some]),
            _mean([score for score, _ in chosen]),
            _mean([accuracy for _, accuracy in chosen]),
            ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(2)),
        )
    return made


def _gains(cell: dict[str, Any]) -> list[float]:
    """Give the gains of the usable replies of a cell."""
    parent = cell["parent"]["measured"][1]["score"]
    return [reply["measured"][1]["score"] - parent for reply in cell["replies"] if reply["measured"]]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    error = f" ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.3f}{error}"


def _chosen(cell: dict[str, Any]) -> tuple[float, float]:
    """Give the gain, in score and accuracy, of what the search examples would choose; ties go to the parent."""
    parent = cell["parent"]["measured"]
    rows = [parent, *(reply["measured"] for reply in cell["replies"] if reply["measured"])]
    best = max(rows, key=lambda row: row[0]["score"])
    return best[1]["score"] - parent[1]["score"], best[1]["accuracy"] - parent[1]["accuracy"]


def main() -> None:
    """Run it."""
    args = _arguments()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    setting = Setting(args.lm, args.reference_lm or args.lm, 0, args.replies, args.examples, args.questions)
    folder = args.out / f"{setting.key}-{_VERSION}"
    if not args.table:
        dspy.configure_cache(disk_cache_dir=str(args.out / "cache"))
        study = Study(
            *lms_of(setting, args.threads, args.lm_threads, args.server, args.reference_server),
            args.threads,
            args.examples,
            args.questions,
            args.replies,
        )
        for seed in range(args.seeds):
            for name in args.tasks:
                task = listed(load_task(name, seed=0))
                for way in args.ways:
                    path = folder / f"{file_name(name)}-{way}-{seed}.json"
                    if path.exists():
                        continue
                    write_whole(path, (json.dumps(study.run(task, way, seed), ensure_ascii=False) + "\n").encode())
                    print(path.stem, file=sys.stderr, flush=True)
    cells = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    Console(width=140).print(table([c for c in cells if c["way"] in args.ways and c["task"] in args.tasks]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="programs.benchmarks.proposals", description=__doc__)
    parser.add_argument("--lm", default="embedded", help="scorer: 'embedded', a .gguf file, or provider/model")
    parser.add_argument("--reference-lm", help="by default the same")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--tasks", nargs="+", default=list(CHOOSE), help="'choose', 'confirm', or names")
    parser.add_argument("--replies", type=int, default=8)
    parser.add_argument("--examples", type=int, default=20, help="search examples (20)")
    parser.add_argument("--questions", type=int, default=40, help="unseen questions, at most (40)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--lm-threads", type=int)
    parser.add_argument("--server", help="URL of a llama.cpp server that has loaded the local LM's file, with its /v1")
    parser.add_argument("--reference-server", help="likewise for --reference-lm, if another file")
    parser.add_argument("--table", action="store_true", help="run nothing: the table of the cells that are there")
    parser.add_argument("--out", type=Path, default=Path("runs/proposals"))
    args = parser.parse_args()
    args.tasks = {"choose": list(CHOOSE), "confirm": list(CONFIRM)}.get(args.tasks[0], args.tasks)
    return args


if __name__ == "__main__":
    main()
