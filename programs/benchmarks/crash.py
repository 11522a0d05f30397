"""Is anything lost when a run is killed? A real compile in a child process, killed with SIGKILL again and again.

    uv run python -m programs.benchmarks.crash --kills 20

The child compiles against an OpenAI-compatible server on loopback, which lives on and remembers what it answered. It is
killed at random moments and started again with the same call, until it gets to the end. Prints one JSON line: ``lost``,
the outcomes that were in the journal after some kill and not in the end, plus those of them that were asked for again;
``paid_twice``, the requests that the server answered more than once (what was under way at a kill is asked for again:
at most ``kills x threads``); ``same_result``, whether the result is that of a run that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from programs.benchmarks.scripted import PromptView, Reply
from programs.benchmarks.server import Server, served
from programs.benchmarks.worlds import World
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.optimization.panel import fingerprint

THREADS = 8
_SOURCES = ("medicine", "law")
_EXAMPLES = 24


def rule(world: World) -> Any:
    """Answer as the LMs of a world do; equal prompts of the reference LM get equal replies."""

    def answer(text: str) -> Reply:
        view = PromptView("", text, (("user", text),), None, "scripted")  # type: ignore[arg-type]
        if "<INS>" not in text and "Reply with the word: ready" not in text:
            return world.reply(view)
        # A new LM each time: it counts from the beginning.
        return Reply(world.reference_lm().scripted.rule(view))

    return answer


def compile_once(url: str, run_dir: Path) -> None:
    """The child: one compile."""
    import dspy

    from tp_dspy import InstructionAdapter, ObjectiveEvaluator, TransferPrompting

    world = World(1)
    sources = [world.task(name, train=_EXAMPLES, validation=_EXAMPLES) for name in _SOURCES]
    target = world.task("finance", train=_EXAMPLES, validation=_EXAMPLES)
    # Without DSPy's cache, which would hide what is asked for again.
    scorer, reference = (dspy.LM(f"openai/{n}", api_base=url, api_key="none", cache=False) for n in ("s", "r"))
    with dspy.context(adapter=InstructionAdapter()):
        TransferPrompting(
            ObjectiveEvaluator(), reference_lm=reference, scorer_lm=scorer, rounds=8, proposals=1,
            examples=_EXAMPLES, seed_instructions=["Answer only calmly."], num_threads=THREADS, run_dir=run_dir,
            verbose=False,
        ).compile(
            dspy.Predict(dspy.Signature("question -> answer", "Answer.")),
            trainset=target.train, valset=target.validation, source_tasks=sources,
        )  # fmt: skip


def start(url: str, run_dir: Path) -> subprocess.Popen[bytes]:
    """Start the child."""
    command = [sys.executable, "-m", "programs.benchmarks.crash", "--child", url, str(run_dir)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def journal(run_dir: Path) -> set[tuple[str, str]]:
    """The pairs in a journal."""
    path = run_dir / "journal.sqlite"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as database:
        try:
            return set(database.execute("SELECT candidate, example FROM outcomes"))
        except sqlite3.OperationalError:  # It was killed before there was a table.
            return set()


def result(run_dir: Path) -> dict[str, Any]:
    """What a compile wrote, without what differs between any two."""
    written = json.loads((run_dir / "result.json").read_text())
    return {name: value for name, value in written.items() if name not in ("created", "seconds")}


def pair(prompt: str, world: World) -> tuple[str, str]:
    """The pair that a prompt of the scorer LM is of."""
    instruction, _, block = prompt.partition("\n\n")
    question = block.removeprefix("Question: ").split("\nAnswer:")[0]
    return Candidate({"self": instruction}).id, fingerprint(_example(question, world))


def _example(question: str, world: World) -> Any:
    name, number = question.split(" of ")[1].split(" in ")[0], int(question.split(" ")[1])
    return world.example(name, number)


def until_first_call(server: Server, child: subprocess.Popen[bytes], before: int) -> None:
    """Wait until the child has had an answer, or has ended."""
    while len(server.answered) == before and child.poll() is None:
        time.sleep(0.005)


def killed(server: Server, run_dir: Path, kills: int, work: float, seed: int, world: World) -> dict[str, Any]:
    """Kill the child again and again, and let the last one get to the end.

    Args:
        server: What it calls.
        run_dir: Its run folder.
        kills: How often, at most: fewer where it gets to the end before.
        work: Seconds that an unbroken run is at work.
        seed: Of the moments.
        world: What it works on.
    """
    rng = random.Random(seed)
    known: set[tuple[str, str]] = set()
    lost = again = done = 0
    while True:
        before = len(server.answered)
        child = start(server.url, run_dir)
        if done < kills:
            # Now and then while it still reads what is known; else some way into its work.
            if rng.random() < 0.1:
                time.sleep(rng.uniform(0.0, 1.0))
            else:
                until_first_call(server, child, before)
                time.sleep(rng.uniform(0.0, work / kills))
            os.kill(child.pid, signal.SIGKILL)
        child.wait()
        if child.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"The child ended with {child.returncode}.")
        time.sleep(0.3)  # What is under way at the server is answered, and heard by nobody.
        asked = [prompt for prompt in server.answered[before:] if "<INS>" not in prompt and "\nAnswer:" in prompt]
        again += sum(pair(prompt, world) in known for prompt in asked)
        now = journal(run_dir)
        lost, known = lost + len(known - now), now
        if child.returncode == 0:
            return {"lost": lost + again, "kills": done}
        done += 1


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how often it is killed, at most (default 10)")
    parser.add_argument("--latency", type=float, default=0.05, help="median seconds of a reply (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--child", nargs=2, metavar=("URL", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        compile_once(args.child[0], Path(args.child[1]))
        return
    world = World(1)
    answer = rule(world)
    for name in (*_SOURCES, "finance"):
        world.task(name, train=_EXAMPLES, validation=_EXAMPLES)  # The server must know the questions.
    with tempfile.TemporaryDirectory() as folder, served(answer, latency=args.latency) as server:
        child = start(server.url, Path(folder) / "whole")
        until_first_call(server, child, 0)
        began = time.monotonic()
        if child.wait() != 0:
            raise SystemExit("The compile that nobody kills failed.")
        whole = time.monotonic() - began
        calls = len(server.answered)
        del server.answered[:]
        figures = killed(server, Path(folder) / "killed", args.kills, whole, args.seed, world)
        twice = sum(count - 1 for count in Counter(server.answered).values())
        same = result(Path(folder) / "whole") == result(Path(folder) / "killed")
    print(
        json.dumps(
            {
                "lost": figures["lost"], "paid_twice": twice, "same_result": same, "kills": figures["kills"],
                "threads": THREADS, "calls": calls, "seconds_of_work": round(whole, 1),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
