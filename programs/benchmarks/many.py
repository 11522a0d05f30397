"""What it is worth to have several targets under way at once.

    uv run python -m programs.benchmarks.many --targets 8 --at-once 1 4 8

Source prompts are carried over to targets of a scripted world; a reply of the scorer LM takes lognormal time (median
200 ms, sigma 1), one of the reference LM two seconds. Prints one JSON line; by the number of targets at once:
``seconds``, and ``speedup`` over the first of them. ``same_result``: whether each target has the same winner, with the
same score. `--executor dask` runs it on two worker processes of this machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from typing import Any

import dspy

from programs.benchmarks.scaling import Travelling, cluster
from programs.benchmarks.scripted import PromptView, scripted_lm
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, SourcePrompts, TransferPrompting
from tp_dspy.runs.transfers import Transfers

_SEED = 5
_MEDIAN, _SIGMA, _REFERENCE = 0.2, 1.0, 2.0
_EACH = 24


def optimiser(world: World, **settings: Any) -> TransferPrompting:
    """Make an optimiser whose LMs take their time."""
    scorer = dspy.LM("scripted/travelling", engine=Travelling(_MEDIAN, _SEED, _SIGMA), cache=False, num_retries=0)
    return TransferPrompting(
        ObjectiveEvaluator(),
        reference_lm=_slow_reference(world),
        scorer_lm=scorer,
        rounds=3,
        proposals=4,
        examples=_EACH,
        top_k=3,
        verbose=False,
        **settings,
    )


def _slow_reference(world: World) -> dspy.LM:
    """Make a reference LM that takes its time after it has thought: what it says depends on the order of its calls."""
    propose = world.reference_lm().scripted.rule

    def slow(prompt: PromptView) -> Any:
        reply = propose(prompt)
        time.sleep(_REFERENCE)
        return reply

    return scripted_lm(slow, name="scripted/reference")


def made(world: World, threads: int) -> SourcePrompts:
    """Make source prompts."""
    tasks = [world.task(name, train=_EACH, validation=_EACH) for name in ("law", "medicine")]
    return optimiser(world, num_threads=threads).construct_source_prompts(_student(), source_tasks=tasks)


def carried(sources: SourcePrompts, targets: int, at_once: int, **settings: Any) -> tuple[Transfers, float]:
    """Carry them over; returns the seconds that it took, too."""
    world = World(_SEED)
    tasks = [world.task(f"target{index}", train=_EACH, validation=_EACH) for index in range(targets)]
    tp, began = optimiser(world, **settings), time.perf_counter()
    return tp.transfer_to(_student(), tasks, source_prompts=sources, at_once=at_once), time.perf_counter() - began


def winners(transfers: Transfers) -> dict[str, tuple[dict[str, str], float]]:
    """Say what was found."""
    return {name: (dict(r.winner.instructions), r.winner.score) for name, r in transfers.results.items()}


def _student() -> dspy.Predict:
    return dspy.Predict(dspy.Signature("question -> answer", "Answer."))


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", type=int, default=8, help="how many targets (default 8)")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 4, 8], help="how many at once (default 1 4 8)")
    parser.add_argument("--threads", type=int, default=64, help="calls at once (default 64)")
    parser.add_argument("--executor", choices=["threads", "dask"], default="threads", help="where the program runs")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    with dspy.context(adapter=InstructionAdapter()):
        sources = made(World(_SEED), args.threads)
        if args.executor == "dask":
            with cluster(2, args.threads // 2) as client:
                found = {n: carried(sources, args.targets, n, executor=client) for n in args.at_once}
        else:
            found = {n: carried(sources, args.targets, n, num_threads=args.threads) for n in args.at_once}
    first, slowest = found[args.at_once[0]]
    calls = sum(result.scorer_usage.calls for result in first.results.values())
    figures = {
        "seconds": {str(n): round(seconds, 1) for n, (_, seconds) in found.items()},
        "speedup": {str(n): round(slowest / seconds, 2) for n, (_, seconds) in found.items()},
        "scorer_calls": calls,
        "same_result": all(winners(transfers) == winners(first) for transfers, _ in found.values()),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
