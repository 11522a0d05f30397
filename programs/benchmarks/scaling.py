"""How a cluster of worker processes scales, and whether it finds what threads find.

    uv run --extra distributed python -m programs.benchmarks.scaling --workers 1 2 4 --json

Each worker has 64 threads, and a scripted engine that takes 200 ms for a reply. By the number of workers, once they
have imported everything and scored a first step: ``throughput``, scorer calls a second; ``efficiency``, of what workers
x threads / latency would be; ``driver_us``, CPU microseconds of the driver (a local cluster's scheduler among it) per
outcome, and ``workers_us`` of the workers; ``threads_us``, of one process with 64 threads and no cluster.
``same_result``: whether a compile in a scripted world, with racing and a budget, finds what it finds with threads, to
the last digit.
``--outcomes 1000000`` scores so many pairs at no latency instead: ``peak_mb`` is what the driver held at most, with a
tenth of them and with all.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy

from programs.benchmarks.scale import peak
from programs.benchmarks.scripted import Call, PromptView, Reply, ScriptedEngine, answer_logprobs
from programs.benchmarks.worlds import World
from tp_dspy import InstructionAdapter, ObjectiveEvaluator, ScorerCalls, TransferPrompting
from tp_dspy.scoring.clusters import LEAN
from tp_dspy.scoring.scorer import Job, Scorer

_THREADS = 64
_LATENCY = 0.2
_CANDIDATES = 8
_SEED = 5
_REPLY = Reply.of(*answer_logprobs("B", {"A": 0.1, "B": 0.8, "C": 0.1}))


class Travelling(ScriptedEngine):
    """An engine for any process: it is saved as what it is made of.

    Args:
        latency: Seconds of a reply, as a median.
        seed: Of the world as whose scorer LM it answers; without one, it says the same to everything.
        sigma: How much that differs from prompt to prompt, as of a lognormal distribution; 0 for not at all.
    """

    def __init__(self, latency: float, seed: int | None = None, sigma: float = 0.0) -> None:
        self.state = {"latency": latency, "seed": seed, "sigma": sigma}

        def seconds(prompt: PromptView) -> float:
            return latency * math.exp(sigma * random.Random(prompt.text).gauss(0.0, 1.0))

        super().__init__(_same if seed is None else World(seed).reply, latency=seconds if sigma else latency)

    def dump_state(self) -> dict[str, Any]:
        """Say what it is made of."""
        return dict(self.state)

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Travelling:
        """Make it anew."""
        return cls(**state)

    def _record(self, call: Call) -> None:
        """Keep nothing."""


def _same(prompt: PromptView) -> Reply:
    return _REPLY


def scorer_lm(latency: float, seed: int | None = None) -> dspy.LM:
    """Make the scorer LM."""
    return dspy.LM("scripted/travelling", engine=Travelling(latency, seed), cache=False, num_retries=0)


@contextmanager
def cluster(workers: int, threads: int = _THREADS) -> Iterator[Any]:
    """Start workers, and a client that has spoken to them."""
    import dask
    from distributed import Client, LocalCluster

    settings = {"memory_limit": 0, "dashboard_address": None, "silence_logs": logging.ERROR}
    with (
        dask.config.set(LEAN),
        LocalCluster(n_workers=workers, threads_per_worker=threads, **settings) as made,
        Client(made, direct_to_workers=True) as client,
    ):
        client.run(_warm)
        yield client


def _warm() -> None:
    """Import what the first call would import, and be as quiet as the driver."""
    logging.getLogger("dspy").setLevel(logging.ERROR)
    scorer = Scorer(ObjectiveEvaluator(), lm=scorer_lm(0.0), num_threads=1)
    scorer.outcomes(dspy.Predict("question -> answer"), World(_SEED).task("warm", train=4).train)


def jobs(scorer: Scorer, calls: int) -> list[Job[int]]:
    """Make pairs, candidate by candidate."""
    each = calls // _CANDIDATES
    examples = World(_SEED).task("finance", train=each).train
    texts = [f"Reply {i} with only the letter." for i in range(_CANDIDATES)]
    programs = [scorer.prepare(dspy.Predict(dspy.Signature("question -> answer", text))) for text in texts]
    return [Job(n * each + i, program, e) for n, program in enumerate(programs) for i, e in enumerate(examples)]


def _cpu() -> float:
    """CPU seconds of this process so far."""
    return time.process_time()


def throughput(workers: int, seconds: float) -> dict[str, float]:
    """Score as many pairs as the workers can in about so many seconds."""
    calls = round(workers * _THREADS / _LATENCY * seconds / _CANDIDATES) * _CANDIDATES
    with cluster(workers) as client:
        scorer = Scorer(ObjectiveEvaluator(), lm=scorer_lm(_LATENCY), executor=client)
        for _ in scorer.score(jobs(scorer, workers * _THREADS * _CANDIDATES)):  # as in a compile, of many steps
            pass
        todo = jobs(scorer, calls)
        before, theirs = _cpu(), sum(client.run(_cpu).values())
        began = time.perf_counter()
        done = sum(1 for _ in scorer.score(todo))
        took = time.perf_counter() - began
        mine, theirs = _cpu() - before, sum(client.run(_cpu).values()) - theirs
    assert done == calls
    return {"throughput": calls / took, "driver_us": 1e6 * mine / calls, "workers_us": 1e6 * theirs / calls}


def in_threads(seconds: float) -> float:
    """Say how many CPU microseconds an outcome takes with as many threads in one process, and nothing else."""
    scorer = Scorer(ObjectiveEvaluator(), lm=scorer_lm(_LATENCY), num_threads=_THREADS)
    todo, before = jobs(scorer, round(_THREADS / _LATENCY * seconds)), _cpu()
    done = sum(1 for _ in scorer.score(todo))
    return 1e6 * (_cpu() - before) / done


def compiled(executor: Any) -> str:
    """Compile in a scripted world, with racing and a budget; returns all that was found and decided."""
    world = World(_SEED)
    sources = [world.task(name, train=24, validation=12) for name in ("law", "medicine")]
    target = world.task("finance", train=30, validation=20)
    with dspy.context(adapter=InstructionAdapter()):
        made = TransferPrompting(
            ObjectiveEvaluator(),
            reference_lm=world.reference_lm(name="scripted/reference"),
            scorer_lm=scorer_lm(0.0, _SEED),
            rounds=4,
            stop=[ScorerCalls(1200)],
            num_threads=8,
            executor=executor,
            verbose=False,
        ).compile(
            dspy.Predict("question -> answer"), trainset=target.train, valset=target.validation, source_tasks=sources
        )
    return json.dumps(_without_clocks(made.detailed_results.model_dump(mode="json")))


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_clocks(item) for name, item in value.items() if name not in ("seconds", "created")}
    return [_without_clocks(item) for item in value] if isinstance(value, list) else value


def million(outcomes: int, workers: int) -> dict[str, Any]:
    """Score many pairs over a cluster at no latency, and see what the driver holds."""
    held: dict[str, float] = {}
    with cluster(workers, 16) as client:
        for share in (10, 1):
            scorer = Scorer(ObjectiveEvaluator(), lm=scorer_lm(0.0), executor=client)
            began = time.perf_counter()
            for _ in scorer.score(jobs(scorer, outcomes // share)):
                pass
            held[str(outcomes // share)] = round(peak())
            rate = outcomes / share / (time.perf_counter() - began)
    return {"outcomes": outcomes, "workers": workers, "peak_mb": held, "per_second": round(rate)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", help="worker processes (default 1 2 4)")
    parser.add_argument("--seconds", type=float, default=45.0, help="length of each measurement (default 45)")
    parser.add_argument(
        "--outcomes", type=int, help="score so many pairs instead, at no latency; one core is left free"
    )
    parser.add_argument("--json", action="store_true", help="one JSON line")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    if args.outcomes:
        workers = max(args.workers or [(os.cpu_count() or 2) - 1, 1])
        figures: dict[str, Any] = million(args.outcomes, workers)
    else:
        args.workers = args.workers or [1, 2, 4]
        with dspy.context(adapter=InstructionAdapter()):
            alone = in_threads(args.seconds / 4)
            found = {workers: throughput(workers, args.seconds) for workers in args.workers}
        figures = {name: {str(w): round(f[name], 1) for w, f in found.items()} for name in found[args.workers[0]]}
        figures["threads_us"] = round(alone, 1)
        ideal = _THREADS / _LATENCY
        figures["efficiency"] = {str(w): round(f["throughput"] / (w * ideal), 3) for w, f in found.items()}
        with cluster(max(args.workers), 8) as client:
            figures["same_result"] = compiled(None) == compiled(client)
    print(json.dumps(figures) if args.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
