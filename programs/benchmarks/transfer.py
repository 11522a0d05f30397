"""Does transfer pay? Both phases against the target phase alone, at the same number of scorer calls.

In scripted worlds (`programs.benchmarks.worlds`), where the true quality of every instruction is known. The single
stage is the same optimiser with the same settings, without source tasks; it goes on until it has made as many scorer
calls.

    uv run python -m programs.benchmarks.transfer --worlds 24 --target 4

prints one JSON line: mean true quality with both phases and with the target phase alone, the mean difference with its
standard error over worlds, the worlds won and lost, a Wilcoxon signed-rank test, and the mean scorer calls of each.
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

import dspy

from programs.benchmarks.worlds import DirectStudent, World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, ScorerCalls, Task, TransferPrompting, TransferResult
from tp_dspy.optimization.events import Listener
from tp_dspy.optimization.stopping import StopRule

# More rounds than any budget here lasts for.
NO_END = 10_000
_INSTRUCTION = "Answer."


@dataclass(frozen=True)
class Setting:
    """One experiment.

    Attributes:
        world: Seed of the world.
        target: Target examples to search on, and as many again to choose on.
        source: The same, for each of two source tasks.
        rounds: Rounds of each phase, of six proposals.
        noise: See `World`.
        shift: See `World`.
        engine: Whether answers come through adapter, scripted LM and parser, or from a program that shortens the way.
    """

    world: int
    target: int = 4
    source: int = 16
    rounds: int = 8
    noise: float = 0.5
    shift: float = 0.0
    engine: bool = False


@dataclass(frozen=True)
class Row:
    """What came of it: true quality (share of right answers), and scorer calls."""

    both: float
    alone: float
    found: float
    calls_both: int
    calls_alone: int


def optimiser(
    world: World, setting: Setting, *, rounds: int, stop: Sequence[StopRule] = (), listeners: Sequence[Listener] = ()
) -> TransferPrompting:
    """Make the optimiser of an experiment."""
    sure = "logits" if setting.engine else lambda example, prediction: prediction.sure
    return TransferPrompting(
        ObjectiveEvaluator(confidence=sure),
        reference_lm=world.reference_lm(),
        scorer_lm=world.scorer_lm(),
        rounds=rounds,
        proposals=6,
        examples=max(setting.source, setting.target),
        seed_instructions=[],
        stop=stop,
        verbose=False,
        listeners=listeners,
    )


def student_of(world: World, setting: Setting) -> dspy.Module:
    """Make the program of an experiment."""
    if setting.engine:
        return dspy.Predict(dspy.Signature("question -> answer", _INSTRUCTION))
    return DirectStudent(world, _INSTRUCTION)


def tasks_of(world: World, setting: Setting) -> tuple[list[Task], Task]:
    """Make the source tasks and the target."""
    sources = [world.task(name, train=setting.source, validation=setting.source) for name in ("medicine", "law")]
    return sources, world.task("finance", train=setting.target, validation=setting.target)


def run(setting: Setting) -> Row:
    """Compile twice in one world."""
    dspy.configure(adapter=InstructionAdapter())
    world = World(setting.world, noise=setting.noise, shift=setting.shift)
    student = student_of(world, setting)
    tasks, target = tasks_of(world, setting)

    def compiled(rounds: int, sources: Sequence[Task] | None, stop: Sequence[StopRule]) -> tuple[TransferResult, int]:
        scored = Counter[str]()
        tp = optimiser(world, setting, rounds=rounds, stop=stop, listeners=[lambda event: scored.update([event.kind])])
        made = tp.compile(student, trainset=target.train, valset=target.validation, source_tasks=sources)
        return made.detailed_results, scored["outcome"]

    both, calls = compiled(setting.rounds, tasks, [])
    alone, calls_alone = compiled(NO_END, None, [ScorerCalls(calls)])
    texts = [next(iter(r.instructions.values())) for r in (both.winner, alone.winner, both.source.ranked[0])]
    return Row(*(world.quality(text) for text in texts), calls, calls_alone)


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Put rows into one line of figures."""
    from scipy.stats import wilcoxon

    differences = [row.both - row.alone for row in rows]
    return {
        "both": round(statistics.mean(row.both for row in rows), 3),
        "alone": round(statistics.mean(row.alone for row in rows), 3),
        "source_prompt": round(statistics.mean(row.found for row in rows), 3),
        "difference": round(statistics.mean(differences), 3),
        "se": round(statistics.stdev(differences) / len(rows) ** 0.5, 3),
        "won": sum(difference > 1e-9 for difference in differences),
        "lost": sum(difference < -1e-9 for difference in differences),
        "p_value": round(float(wilcoxon(differences).pvalue), 4) if any(differences) else 1.0,
        "calls_both": round(statistics.mean(row.calls_both for row in rows)),
        "calls_alone": round(statistics.mean(row.calls_alone for row in rows)),
    }


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=16, help="how many worlds, at least 2 (default 16)")
    parser.add_argument("--first", type=int, default=0, help="seed of the first one (default 0)")
    parser.add_argument("--target", type=int, default=4, help="target examples to search on (default 4)")
    parser.add_argument("--source", type=int, default=16, help="examples of each source task (default 16)")
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each phase (default 8)")
    parser.add_argument("--engine", action="store_true", help="go through adapter, scripted LM and parser: slower")
    parser.add_argument("--noise", type=float, default=0.5, help="share of luck that is the words' (default 0.5)")
    parser.add_argument("--shift", type=float, default=0.0, help="what words are worth on one task only (default 0)")
    args = parser.parse_args()
    if args.worlds < 2:
        parser.error(f"--worlds is {args.worlds}; expected at least 2, for a standard error.")
    settings = [
        Setting(w, args.target, args.source, args.rounds, args.noise, args.shift, args.engine)
        for w in range(args.first, args.first + args.worlds)
    ]
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with ProcessPoolExecutor() as pool:
        rows = list(pool.map(run, settings))
    print(json.dumps(vars(args) | summary(rows)))


if __name__ == "__main__":
    main()
