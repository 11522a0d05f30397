"""What a small budget is best spent on, in scripted worlds (`programs.benchmarks.worlds`), where true quality is known.

    uv run python -m programs.benchmarks.tight --worlds 48 --calls 120 200 400 --top-k 2 --source-examples 5

compiles with a hard budget of scorer calls in each world in three ways: the target alone, both phases out of the one
budget, and the target phase with source prompts at hand, which were paid for by a budget of their own that is as large.
One JSON line for each number of calls: of each way the mean true quality with its standard error over worlds, the mean
number of proposals that the budget was enough for, and the mean of the calls.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import dspy

from programs.benchmarks.transfer import NO_END
from programs.benchmarks.worlds import DirectStudent, World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, ScorerCalls, TransferPrompting
from tp_dspy.optimization.events import Event

_WAYS = ("alone", "scratch", "at_hand")


@dataclass(frozen=True)
class Setting:
    """One experiment.

    Attributes:
        world: Seed of the world.
        calls: Scorer calls of a compile.
        examples: Target examples to search on, and as many to choose on.
        source_examples: The same for each of two source tasks; None leaves that to the library.
        top_k: As in `TransferPrompting`.
        noise: See `World`.
        shift: See `World`.
    """

    world: int
    calls: int
    examples: int
    source_examples: int | None
    top_k: int
    noise: float
    shift: float


class Row(NamedTuple):
    """What came of one way: true quality (share of right answers), proposals asked for, scorer calls."""

    quality: float
    proposals: int
    calls: int


def run(setting: Setting) -> dict[str, Row]:
    """Compile in all ways."""
    dspy.configure(adapter=InstructionAdapter())
    world = World(setting.world, noise=setting.noise, shift=setting.shift)
    student = DirectStudent(world, "Answer.")
    size, source_size = setting.examples, setting.source_examples or setting.examples
    sources = [world.task(name, train=source_size, validation=source_size) for name in ("medicine", "law")]
    target = world.task("finance", train=size, validation=size)
    scored: list[Event] = []
    tp = TransferPrompting(
        ObjectiveEvaluator(confidence=lambda example, prediction: prediction.sure),
        reference_lm=world.reference_lm(),
        scorer_lm=world.scorer_lm(),
        rounds=NO_END,
        proposals=8,
        examples=size,
        source_examples=setting.source_examples,
        top_k=setting.top_k,
        stop=[ScorerCalls(setting.calls)],
        num_threads=1,
        seed=setting.world,
        verbose=False,
        listeners=[lambda event: scored.append(event) if event.kind == "outcome" else None],
    )
    made = {}
    for way in _WAYS:
        prompts = tp.construct_source_prompts(student, source_tasks=sources) if way == "at_hand" else None
        scored.clear()
        compiled = tp.compile(
            student,
            trainset=target.train,
            valset=target.validation,
            source_tasks=sources if way == "scratch" else None,
            source_prompts=prompts,
        )
        phases = [phase for phase in (compiled.detailed_results.source, compiled.detailed_results.target) if phase]
        quality = world.quality(compiled.predict.signature.instructions)
        made[way] = Row(quality, sum(len(phase.proposals) for phase in phases), len(scored))
    return made


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=48, help="how many worlds, at least 2 (default 48)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (default 0)")
    parser.add_argument("--calls", type=int, nargs="+", default=[120, 200, 400], help="budgets (default 120 200 400)")
    parser.add_argument("--examples", type=int, default=20, help="target examples to search on (default 20)")
    parser.add_argument("--source-examples", type=int, help="of each source task (by default what the library takes)")
    parser.add_argument("--top-k", type=int, default=3, help="default 3")
    parser.add_argument("--noise", type=float, default=0.5, help="share of luck that is the words' (default 0.5)")
    parser.add_argument(
        "--shift", type=float, default=0.05, help="what words are worth on one task only (default 0.05)"
    )
    args = parser.parse_args()
    if args.worlds < 2:
        parser.error(f"--worlds is {args.worlds}; expected at least 2, for a standard error.")
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    base = Setting(0, 0, args.examples, args.source_examples, args.top_k, args.noise, args.shift)
    with ProcessPoolExecutor() as pool:
        for calls in args.calls:
            worlds = range(args.first, args.first + args.worlds)
            rows = list(pool.map(run, [replace(base, world=world, calls=calls) for world in worlds]))
            print(
                json.dumps({"calls": calls} | {way: _summary([row[way] for row in rows]) for way in _WAYS}), flush=True
            )


def _summary(rows: list[Row]) -> dict[str, float]:
    quality = [row.quality for row in rows]
    return {
        "quality": round(statistics.mean(quality), 3),
        "se": round(statistics.stdev(quality) / len(rows) ** 0.5, 3),
        "proposals": round(statistics.mean(row.proposals for row in rows), 1),
        "calls": round(statistics.mean(row.calls for row in rows)),
    }


if __name__ == "__main__":
    main()
