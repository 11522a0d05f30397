"""How long a run takes, what it costs, and where the driver becomes the limit: simulated, not measured.

    uv run python -m programs.benchmarks.sizing --calls 1000 100000 10000000 --concurrency 8 64 1024

Every reply takes lognormal time. A call begins when a place is free and the driver has got to it: the driver takes a
fixed time for each, one after the other; so does the process that makes the call, of which there are as many as are
needed for so many threads each. Both figures are of steps of some hundred pairs; `programs.benchmarks.scaling` measures
them in a large one, where the driver takes less (one process: `programs.benchmarks.throughput`). More than a hundred
thousand calls are simulated as so many, and the rate of their middle goes on. Rounds, in which all wait for the
slowest, are simulated too: steps of so many pairs.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_SIMULATED = 100_000


@dataclass(frozen=True)
class Assumptions:
    """What is taken for given.

    Attributes:
        median: Seconds of a reply, the median.
        sigma: Of its lognormal distribution.
        driver_us: CPU microseconds of the driver per outcome.
        worker_us: CPU microseconds of a worker process per outcome; with threads, of the one process there is.
        threads: Calls at once of a worker process.
        step: Pairs that are scored before the next are chosen.
        prompt_tokens: Of a call.
        completion_tokens: Of a call.
        usd_prompt: US dollars per million tokens sent.
        usd_completion: US dollars per million tokens generated.
    """

    median: float = 1.0
    sigma: float = 0.6
    driver_us: float = 800.0
    worker_us: float = 1600.0
    threads: int = 64
    step: int = 500
    prompt_tokens: int = 300
    completion_tokens: int = 5
    usd_prompt: float = 0.15
    usd_completion: float = 0.60


def seconds(calls: int, concurrency: int, given: Assumptions, seed: int = 0) -> float:
    """Simulate a run.

    Args:
        calls: Scorer calls, at least 1.
        concurrency: Calls at once.
        given: The assumptions.
        seed: Of the latencies.

    Returns:
        Seconds from the first call to the last.
    """
    rng = random.Random(seed)
    simulated = min(calls, _SIMULATED)
    processes = math.ceil(concurrency / given.threads)
    driver, workers, now = 0.0, [0.0] * processes, 0.0
    left = simulated
    while left:
        step = min(left, given.step)
        left -= step
        free: list[float] = [now] * min(concurrency, step)
        for number in range(step):
            driver = max(driver, heapq.heappop(free)) + given.driver_us / 1e6
            process = number % processes
            workers[process] = max(workers[process], driver) + given.worker_us / 1e6
            heapq.heappush(free, workers[process] + given.median * rng.lognormvariate(0.0, given.sigma))
        now = max(free)
    return now * calls / simulated


def row(calls: int, concurrency: int, given: Assumptions) -> dict[str, float]:
    """Size one run."""
    took = seconds(calls, concurrency, given)
    mean = given.median * math.exp(given.sigma**2 / 2)
    usd = given.prompt_tokens * given.usd_prompt + given.completion_tokens * given.usd_completion
    return {
        "calls": calls,
        "concurrency": concurrency,
        "hours": round(took / 3600, 3),
        "tokens": calls * (given.prompt_tokens + given.completion_tokens),
        "usd": round(calls * usd / 1e6, 2),
        "busy": round(calls * mean / took / concurrency, 2),
    }


def driver_limit(given: Assumptions) -> int:
    """Say how many calls at once keep the driver busy all the time."""
    return math.floor(given.median * math.exp(given.sigma**2 / 2) / (given.driver_us / 1e6))


def _shown(rows: Sequence[dict[str, float]]) -> str:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return "\n".join(lines + ["| " + " | ".join(f"{row[name]:,}" for name in names) + " |" for row in rows])


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--calls", type=int, nargs="+", default=[10**3, 10**4, 10**5, 10**6, 10**7], help="scorer calls"
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[8, 64, 256, 1024, 4096], help="calls at once")
    for name, value in asdict(Assumptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    args = vars(parser.parse_args())
    given = Assumptions(**{name: args[name] for name in asdict(Assumptions())})
    rows = [row(calls, concurrency, given) for calls in args["calls"] for concurrency in args["concurrency"]]
    if args["json"]:
        print(json.dumps({"assumptions": asdict(given), "rows": rows, "driver_limit": driver_limit(given)}))
        return
    print("Assumed:", ", ".join(f"{name} {value}" for name, value in asdict(given).items()))
    print(_shown(rows))
    print(f"The driver is busy all the time from {driver_limit(given):,} calls at once on, in one large step.")


if __name__ == "__main__":
    main()
