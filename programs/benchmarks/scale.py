"""A journal of a million outcomes: how fast it takes them, and how fast and how big a run is that goes on from it.

    uv run python -m programs.benchmarks.scale --outcomes 1000000

Prints one JSON line: ``writes_per_second``, each outcome committed by itself; ``resume_seconds``, to open the journal
in a new process and look every pair up; ``peak_mb``, what that process held at most, all outcomes among it, and
``start_mb``, what it held before.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tp_dspy.runs.journal import Journal
from tp_dspy.scoring.outcomes import Outcome, Usage

_EXAMPLES = 400


def outcome(number: int) -> Outcome:
    """Make an outcome as a run would have it: every third one is wrong, and says so."""
    usage = Usage(1, 0, 180 + number % 50, 2, 0.00012)
    sure = (number % 1000) / 1000
    if number % 3:
        return Outcome("ok", True, 1.0, sure, "B", "B", "B", "", usage)
    words = f"The answer is 'B'; expected 'C'. Its confidence is {sure:.2f}, though it is wrong. This costs accuracy."
    return Outcome("ok", True, 0.0, sure, "B", "C", "B", words, usage)


def opened(path: Path) -> Journal:
    """Open the journal, always as the same run."""
    return Journal(path, context="context", compile="compile")


def peak() -> float:
    """What this process held at most, in MB (Linux)."""
    # Not getrusage: a child begins there with what its parent had held.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def write(path: Path, count: int) -> float:
    """Write outcomes; returns how many a second."""
    with opened(path) as journal:
        began = time.perf_counter()
        for number in range(count):
            journal.keep_outcome((f"{number // _EXAMPLES:016x}", f"{number % _EXAMPLES:016x}"), outcome(number))
        return count / (time.perf_counter() - began)


def resume(path: Path, count: int) -> dict[str, float]:
    """Look everything up, and hold it as a history does."""
    before = peak()
    began = time.perf_counter()
    held = []
    with opened(path) as journal:
        for number in range(count):
            found = journal.outcome((f"{number // _EXAMPLES:016x}", f"{number % _EXAMPLES:016x}"))
            assert found is not None
            held.append(found)
        seconds = time.perf_counter() - began
    assert held[-1] == outcome(count - 1)
    return {"resume_seconds": round(seconds, 2), "peak_mb": round(peak()), "start_mb": round(before)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcomes", type=int, default=1_000_000, help="how many (default 1000000)")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resume is not None:
        print(json.dumps(resume(args.resume, args.outcomes)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        writes = write(path, args.outcomes)
        size = path.stat().st_size / 2**20
        command = [sys.executable, "-m", "programs.benchmarks.scale", "--resume", str(path)]
        child = subprocess.run([*command, "--outcomes", str(args.outcomes)], capture_output=True, text=True, check=True)
    figures = {"outcomes": args.outcomes, "writes_per_second": round(writes), "file_mb": round(size)}
    print(json.dumps({**figures, **json.loads(child.stdout)}))


if __name__ == "__main__":
    main()
