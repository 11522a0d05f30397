"""A flaky endpoint: is anything of its faults held against a prompt, and does the result stay what it was?

    uv run python -m programs.benchmarks.faults

The same compile twice against an OpenAI-compatible server on loopback: one that answers, and one that answers 30 % of
requests, in bursts, with 429 (and Retry-After), 500, silence, a reset connection, a body that breaks off, or an empty
reply. Prints one JSON line: ``same_result``; ``scored_as_prompt_failure``, the outcomes that are ``unparsed`` and were
not without the faults; ``errors``, those that got no answer at all; ``wall_ratio``, the time of the second over the
first; ``faults``, how many there were of each.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import socket
import sqlite3
import struct
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import dspy

from programs.benchmarks.crash import rule
from programs.benchmarks.scripted import Reply
from programs.benchmarks.server import completion, served
from programs.benchmarks.worlds import World
from tp_dspy import Event, InstructionAdapter, ObjectiveEvaluator, TransferPrompting

KINDS = ("429", "500", "hang", "reset", "truncated", "empty")
_TIMEOUT = 0.5


class Weather:
    """Faults in bursts: good and bad spells take turns, of a few requests each."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.rng, self.lock = share, random.Random(seed), threading.Lock()
        self.left, self.bad = 0, False
        self.counts: Counter[str] = Counter()

    def __call__(self, text: str, handler: BaseHTTPRequestHandler) -> bool:
        """Answer with a fault, or leave the request to the server."""
        with self.lock:
            if self.left <= 0:
                self.bad = not self.bad
                # A bad spell is of about 6 requests, and half of them fail; the good ones make up for the share.
                self.left = self.rng.randint(3, 9) if self.bad else round(6 * (0.8 / self.share - 1))
            self.left -= 1
            kind = self.rng.choice(KINDS) if self.bad and self.rng.random() < 0.8 else None
            if kind is not None:
                self.counts[kind] += 1
        if kind is None:
            return False
        getattr(self, f"_{kind}" if kind[0].isalpha() else f"_status_{kind}")(handler)
        return True

    def _send(self, handler: BaseHTTPRequestHandler, status: int, body: bytes, length: int, **headers: str) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(length))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    def _status_429(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}).encode()
        self._send(handler, 429, body, len(body), Retry_After="1")

    def _status_500(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"error": {"message": "internal error"}}).encode()
        self._send(handler, 500, body, len(body))

    def _hang(self, handler: BaseHTTPRequestHandler) -> None:
        time.sleep(2 * _TIMEOUT)
        handler.close_connection = True

    def _reset(self, handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
        handler.close_connection = True

    def _truncated(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps(completion("x", Reply("B"), False)).encode()
        self._send(handler, 200, body[: len(body) // 2], len(body))
        handler.close_connection = True

    def _empty(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps(completion("x", Reply("", []), True)).encode()
        self._send(handler, 200, body, len(body))


def compile_on(url: str, run_dir: Path, examples: int) -> tuple[dict[str, Any], int, float]:
    """Compile; returns the result, how many outcomes were errors, and the seconds."""
    world = World(1)
    sources = [world.task(name, train=examples, validation=examples) for name in ("medicine", "law")]
    target = world.task("finance", train=examples, validation=examples)
    statuses: Counter[str] = Counter()

    def hear(event: Event) -> None:
        if event.kind == "outcome":
            statuses[event.outcome.status] += 1

    scorer, reference = (
        dspy.LM(f"openai/{n}", api_base=url, api_key="none", cache=False, timeout=_TIMEOUT) for n in ("s", "r")
    )
    began = time.monotonic()
    with dspy.context(adapter=InstructionAdapter()):
        TransferPrompting(
            ObjectiveEvaluator(), reference_lm=reference, scorer_lm=scorer, rounds=2, proposals=1, examples=examples,
            seed_instructions=["Answer only calmly."], num_threads=16, run_dir=run_dir, verbose=False, listeners=[hear],
        ).compile(
            dspy.Predict(dspy.Signature("question -> answer", "Answer.")),
            trainset=target.train, valset=target.validation, source_tasks=sources,
        )  # fmt: skip
    seconds = time.monotonic() - began
    written = json.loads((run_dir / "result.json").read_text())
    return {"winner": written["winner"], "original": written["original"]}, statuses["error"], seconds


def by_pair(run_dir: Path) -> dict[tuple[str, str], str]:
    """The status of each pair in a journal."""
    with sqlite3.connect(run_dir / "journal.sqlite") as database:
        return {(c, e): status for c, e, status in database.execute("SELECT candidate, example, status FROM outcomes")}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.3, help="share of requests that fail (default 0.3)")
    parser.add_argument("--examples", type=int, default=4, help="examples per task and panel (default 4)")
    parser.add_argument("--latency", type=float, default=0.05, help="median seconds of a reply (default 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of the faults (default 0)")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    world = World(1)
    for name in ("medicine", "law", "finance"):
        world.task(name, train=args.examples, validation=args.examples)
    weather = Weather(args.share, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        with served(rule(world), latency=args.latency) as server:
            clean, _, quick = compile_on(server.url, Path(folder) / "clean", args.examples)
        with served(rule(world), latency=args.latency, fault=weather) as server:
            flaky, errors, slow = compile_on(server.url, Path(folder) / "flaky", args.examples)
            answered = len(server.answered)
        before, after = by_pair(Path(folder) / "clean"), by_pair(Path(folder) / "flaky")
        blamed = [p for p, status in after.items() if status == "unparsed" and before.get(p, "unparsed") != status]
    print(
        json.dumps(
            {
                "same_result": clean == flaky,
                "scored_as_prompt_failure": len(blamed),
                "errors": errors,
                "wall_ratio": round(slow / quick, 1),
                "requests": answered + sum(weather.counts.values()),
                "faults": dict(weather.counts),
            }
        )
    )


if __name__ == "__main__":
    main()
