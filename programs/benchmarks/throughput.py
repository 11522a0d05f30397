"""How well the scorer fills its threads, and what a call costs in CPU: beside dspy.COPRO and dspy.Evaluate.

    uv run python -m programs.benchmarks.throughput --threads 128 --calls 4000

A scripted engine whose replies take lognormal time (median 200 ms, sigma 1). Prints one JSON line: ``efficiency``, the
ideal (sum of latencies / threads) over what it took until the last call had begun and a thread fell idle, without the
tail that no scheduler can avoid; ``tail_seconds``, that tail; ``speedup_over_copro``, the time of COPRO over ours at
equal calls and threads (ten candidates on as many examples each); ``cpu_ms_per_call`` and
``evaluate_cpu_ms_per_call``, at no latency.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import math
import random
import threading
import time
from typing import Any

import dspy

from programs.benchmarks.scripted import PromptView, scripted_lm
from tp_dspy import InstructionAdapter, ObjectiveEvaluator
from tp_dspy.scoring.scorer import Job, Scorer

_MEDIAN, _SIGMA = 0.2, 1.0
_CANDIDATES = 10


def latency(prompt: PromptView) -> float:
    """How long a reply takes: it depends on the prompt alone."""
    return _MEDIAN * math.exp(_SIGMA * random.Random(prompt.text).gauss(0.0, 1.0))


def examples(count: int) -> list[dspy.Example]:
    """Make questions."""
    return [dspy.Example(question=f"Item {i}.", answer="B").with_inputs("question") for i in range(count)]


def program(text: str) -> dspy.Predict:
    """Make the program of one candidate."""
    return dspy.Predict(dspy.Signature("question -> answer", text))


def ours(calls: int, threads: int) -> dict[str, float]:
    """Score ten candidates in one pool."""
    began: list[float] = []
    slept: list[float] = []
    lock = threading.Lock()

    def timed(prompt: PromptView) -> float:
        seconds = latency(prompt)
        with lock:
            began.append(time.perf_counter())
            slept.append(seconds)
        return seconds

    lm = scripted_lm(lambda prompt: "B", latency=timed)
    scorer = Scorer(ObjectiveEvaluator(confidence=None), lm=lm, num_threads=threads)
    programs = [scorer.prepare(program(f"Candidate {i}.")) for i in range(_CANDIDATES)]
    jobs = [
        Job((number, index), one, example)
        for number, one in enumerate(programs)
        for index, example in enumerate(examples(calls // _CANDIDATES))
    ]
    start = time.perf_counter()
    assert all(outcome.status == "ok" for _, outcome in scorer.score(jobs))
    end = time.perf_counter()
    # From when the last call began, threads fall idle whatever one does: what was slept after that is no fault.
    last = max(began)
    busy = sum(min(slept_, last - at) for at, slept_ in zip(began, slept, strict=True))
    return {
        "efficiency": busy / threads / (last - start),
        "seconds": end - start,
        "tail_seconds": end - last,
        "ideal_seconds": sum(slept) / threads,
    }


def copro(calls: int, threads: int) -> float:
    """Have COPRO score as many candidates on as many examples; returns its seconds."""
    proposed = iter(range(10_000))

    def propose(prompt: PromptView) -> str:
        text = f"Candidate {next(proposed)}."
        return f"Proposed instruction: {text}\nProposed prefix for output field: Reply"

    lm = scripted_lm(lambda prompt: "B", latency=latency)
    optimizer = dspy.COPRO(
        metric=lambda example, prediction, trace=None: float(prediction.answer == example.answer),
        prompt_model=scripted_lm(propose),
        breadth=_CANDIDATES,
        depth=1,
    )
    start = time.perf_counter()
    with dspy.context(lm=lm), contextlib.redirect_stdout(io.StringIO()):  # It prints.
        optimizer.compile(
            program("Answer."),
            trainset=examples(calls // _CANDIDATES),
            eval_kwargs={"num_threads": threads, "display_progress": False},
        )
    seconds = time.perf_counter() - start
    # Where it scored fewer or more than ours, in proportion.
    return seconds * calls / lm.scripted.calls


def cpu(calls: int, threads: int) -> tuple[float, float]:
    """CPU milliseconds of a call at no latency: ours, and dspy.Evaluate's; the least of three, by turns."""
    devset, mine, theirs = examples(calls), [], []
    for _ in range(3):
        lm = scripted_lm(lambda prompt: "B")
        scorer = Scorer(ObjectiveEvaluator(confidence=None), lm=lm, num_threads=threads)
        began = time.process_time()
        scorer.outcomes(program("Answer."), devset)
        mine.append(time.process_time() - began)
        lm = scripted_lm(lambda prompt: "B")
        evaluate = dspy.Evaluate(
            devset=devset, metric=ObjectiveEvaluator(confidence=None), num_threads=threads, display_progress=False
        )
        with dspy.context(lm=lm):
            began = time.process_time()
            evaluate(program("Answer."))
            theirs.append(time.process_time() - began)
    return 1000 * min(mine) / calls, 1000 * min(theirs) / calls


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=128, help="concurrent calls (default 128)")
    parser.add_argument("--calls", type=int, default=2000, help="calls in all (default 2000)")
    args = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.ERROR)
    with dspy.context(adapter=InstructionAdapter()):
        figures: dict[str, Any] = ours(args.calls, args.threads)
        figures["speedup_over_copro"] = copro(args.calls, args.threads) / figures["seconds"]
        figures["cpu_ms_per_call"], figures["evaluate_cpu_ms_per_call"] = cpu(args.calls // 2, 8)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
