"""What are saved source prompts worth? Adapting them to a new target against searching from scratch.

In scripted worlds (`programs.benchmarks.worlds`), where the true quality of every instruction is known. Source prompts
are made once, on two source tasks, and are then at hand; what that took is reported apart. A new target is compiled for
with them and without, with growing budgets of scorer calls.

    uv run python -m programs.benchmarks.adapt --worlds 20

prints one JSON line: mean true quality by budget, with source prompts (``adapted``) and without (``scratch``); and,
as a ratio to each budget of the search from scratch, the smallest with which adapting is as good (null: with none).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import dspy

from programs.benchmarks.transfer import NO_END, Setting, optimiser, student_of, tasks_of
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ScorerCalls, SourcePrompts

BUDGETS = (50, 75, 100, 150, 200, 300, 450, 700, 1000, 1500, 2200)


@dataclass(frozen=True)
class Curves:
    """True quality by budget in one world, and the scorer calls that the source phase took."""

    adapted: list[float]
    scratch: list[float]
    source_calls: int


def run(setting: Setting, budgets: Sequence[int], other_lm: float = 0.0) -> Curves:
    """Compile for the target with each budget, with source prompts and without.

    Args:
        setting: The world, and how much data there is.
        budgets: Scorer calls, ascending.
        other_lm: How much the words' effects differ for the LM that the source prompts were made with, as a ``shift``
            of its tasks; 0 for the same LM.
    """
    dspy.configure(adapter=InstructionAdapter())
    world = World(setting.world, noise=setting.noise, shift=setting.shift)
    tasks, target = tasks_of(world, setting)
    made_in = World(setting.world, noise=setting.noise, shift=other_lm) if other_lm else world
    # Its program makes no LM calls, so that the usage of the phase says nothing.
    scored = Counter[str]()
    listeners = [lambda event: scored.update([event.kind])]
    first = optimiser(made_in, setting, rounds=setting.rounds, listeners=listeners)
    prompts = first.construct_source_prompts(student_of(made_in, setting), source_tasks=tasks)
    # Whatever is at hand has been to disk and back.
    prompts = SourcePrompts.model_validate_json(prompts.model_dump_json())

    def quality(budget: int, source_prompts: SourcePrompts | None) -> float:
        tp = optimiser(world, setting, rounds=NO_END, stop=[ScorerCalls(budget)])
        made = tp.compile(
            student_of(world, setting),
            trainset=target.train,
            valset=target.validation,
            source_prompts=source_prompts,
        )
        return world.quality(next(iter(made.detailed_results.winner.instructions.values())))

    adapted = [quality(budget, prompts) for budget in budgets]
    scratch = [quality(budget, None) for budget in budgets]
    return Curves(adapted, scratch, scored["outcome"])


def summary(curves: Sequence[Curves], budgets: Sequence[int]) -> dict[str, object]:
    """Put curves into figures."""
    adapted, scratch = (
        [statistics.mean(values) for values in zip(*rows, strict=True)]
        for rows in ([c.adapted for c in curves], [c.scratch for c in curves])
    )

    def ratio(budget: int, goal: float) -> float | None:
        reached = next((b for b, value in zip(budgets, adapted, strict=True) if value >= goal), None)
        return None if reached is None else round(reached / budget, 3)

    last = [c.adapted[-1] - c.scratch[-1] for c in curves]
    return {
        "budgets": list(budgets),
        "adapted": [round(value, 3) for value in adapted],
        "scratch": [round(value, 3) for value in scratch],
        "ratio": [ratio(budget, goal) for budget, goal in zip(budgets, scratch, strict=True)],
        "difference_at_the_end": round(statistics.mean(last), 3),
        "se": round(statistics.stdev(last) / len(last) ** 0.5, 3),
        "source_calls": round(statistics.mean(c.source_calls for c in curves)),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=20, help="how many worlds, at least 2 (default 20)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (default 0)")
    parser.add_argument("--target", type=int, default=10, help="target examples to search on (default 10)")
    parser.add_argument("--source", type=int, default=16, help="examples of each source task (default 16)")
    parser.add_argument("--rounds", type=int, default=12, help="rounds of the source phase (default 12)")
    parser.add_argument("--noise", type=float, default=0.5, help="share of luck that is the words' (default 0.5)")
    parser.add_argument("--shift", type=float, default=0.0, help="what words are worth on one task only (default 0)")
    parser.add_argument(
        "--other-lm", type=float, default=0.0, help="how the LM of the source phase differs (default 0)"
    )
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS), help=f"default {list(BUDGETS)}")
    args = parser.parse_args()
    if args.worlds < 2:
        parser.error(f"--worlds is {args.worlds}; expected at least 2, for a standard error.")
    settings = [
        Setting(world, args.target, args.source, args.rounds, args.noise, args.shift)
        for world in range(args.first, args.first + args.worlds)
    ]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    budgets = sorted(args.budgets)
    with ProcessPoolExecutor() as pool:
        curves = list(pool.map(partial(run, budgets=budgets, other_lm=args.other_lm), settings))
    print(json.dumps(vars(args) | summary(curves, budgets)))


if __name__ == "__main__":
    main()
