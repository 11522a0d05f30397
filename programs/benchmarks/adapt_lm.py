"""The same question as `programs.benchmarks.adapt`, with real LMs and real tasks.

Source prompts are made once; each target is compiled for with them and without, with growing budgets of scorer calls,
and measured on held-out questions that no compile has seen.

    TP_DSPY_DATA=folder uv run python -m programs.benchmarks.adapt_lm --lm model.gguf
        --source learned_hands_courts takala/financial_phrasebank:sentences_allagree strategyqa
        --target hearsay fomc pubmedqa --budgets 60 120 240

prints one JSON line for each target: held-out score (with its 95 % interval) and accuracy by budget, adapted and from
scratch, the instructions, and as a ratio to each budget of the search from scratch the smallest with which adapting is
as good (null: with none). What was paid for is kept in --out: the same command goes on where the last one ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import dspy

from tp_dspy import InstructionAdapter, ObjectiveEvaluator, ScorerCalls, SourcePrompts, Task, TransferPrompting
from tp_dspy.lms.specs import resolve_lm
from tp_dspy.runs.folders import file_name
from tp_dspy.tasks.loading import load_task
from tp_dspy.tasks.splitting import stratified_order

_INSTRUCTION = "Answer the question."
_ROUNDS = 1_000


class Bench:
    """What all compiles share: the LMs, the settings, and where they are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.scorer = resolve_lm(args.lm, "scorer")
        self.reference = resolve_lm(args.reference_lm or args.lm, "reference")
        self.objective = ObjectiveEvaluator()
        self.program = dspy.Predict(dspy.Signature("question -> answer", _INSTRUCTION))
        dspy.configure(lm=self.scorer, adapter=InstructionAdapter("start"), num_threads=args.threads)

    def optimiser(self, name: str, **settings: Any) -> TransferPrompting:
        """Make the optimiser; each course has a folder of its own."""
        return TransferPrompting(
            self.objective,
            reference_lm=self.reference,
            scorer_lm=self.scorer,
            auto="light",
            examples=self.args.examples,
            seed=self.args.seed,
            run_dir=self.args.out / name,
            verbose=False,
            **settings,
        )

    def sources(self) -> SourcePrompts:
        """Make the source prompts, or read those of an earlier try."""
        path = self.args.out / "sources" / "source_prompts.json"
        if not path.exists():
            tasks = [load_task(name, seed=self.args.seed) for name in self.args.source]
            self.optimiser("sources").construct_source_prompts(self.program, source_tasks=tasks)
        return SourcePrompts.load(path)

    def course(self, target: Task, prompts: SourcePrompts | None, budget: int) -> dspy.Module:
        """Compile for a target with a budget."""
        kind = "scratch" if prompts is None else "adapted"
        tp = self.optimiser(f"{file_name(target.name)}-{kind}-{budget}", rounds=_ROUNDS, stop=[ScorerCalls(budget)])
        return tp.compile(
            self.program,
            trainset=target.train,
            valset=target.validation,
            source_prompts=prompts,
            description=target.description,
        )

    def figures(self, target: Task, prompts: SourcePrompts) -> dict[str, Any]:
        """Run both courses with each budget, and measure what came of them."""
        programs: dict[str, dspy.Module] = {"original": self.program}
        for budget in self.args.budgets:
            programs[f"adapted {budget}"] = self.course(target, prompts, budget)
            programs[f"scratch {budget}"] = self.course(target, None, budget)
        test = stratified_order(target.test, seed=self.args.seed)[: self.args.test_limit]
        held_out = self.objective.evaluate_all(programs, test, verbose=False)
        rows = {
            name: {
                "score": round(found.metrics.score, 3),
                "interval": [round(end, 3) for end in found.intervals["score"]],
                "accuracy": round(found.metrics.accuracy, 3),
                "ifr": round(found.metrics.ifr, 3),
                "instruction": programs[name].signature.instructions,
            }
            for name, found in held_out.evaluations.items()
        }
        last = self.args.budgets[-1]
        difference = held_out.compare(f"adapted {last}", f"scratch {last}")
        return {
            "target": target.name,
            "n": len(test),
            "rows": rows,
            "ratio": [self.ratio(rows, budget) for budget in self.args.budgets],
            "difference_at_the_end": [round(v, 3) for v in (difference.score, difference.low, difference.high)],
        }

    def ratio(self, rows: dict[str, Any], budget: int) -> float | None:
        """Set the smallest budget with which adapting is as good against a budget from scratch."""
        goal = rows[f"scratch {budget}"]["score"]
        reached = next((b for b in self.args.budgets if rows[f"adapted {b}"]["score"] >= goal), None)
        return None if reached is None else round(reached / budget, 3)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lm", default="embedded", help="'embedded', a .gguf file, or provider/model")
    parser.add_argument("--reference-lm", help="by default the same")
    parser.add_argument("--source", nargs="+", required=True, help="source tasks")
    parser.add_argument("--target", nargs="+", required=True, help="target tasks")
    parser.add_argument("--budgets", type=int, nargs="+", default=[60, 120, 240], help="default 60 120 240")
    parser.add_argument("--examples", type=int, default=12, help="examples per task and panel (default 12)")
    parser.add_argument("--test-limit", type=int, default=60, help="held-out questions, at most (default 60)")
    parser.add_argument("--threads", type=int, default=4, help="concurrent calls (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    parser.add_argument("--out", type=Path, default=Path("runs/adapt"), help="default runs/adapt")
    args = parser.parse_args()
    args.budgets.sort()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    bench = Bench(args)
    prompts = bench.sources()
    calls = prompts.phase.scorer_usage.calls
    print(json.dumps({"sources": args.source, "lm": bench.scorer.model, "source_calls": calls}), flush=True)
    for name in args.target:
        target = load_task(name, seed=args.seed).split_validation(seed=args.seed)
        print(json.dumps(bench.figures(target, prompts), ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
