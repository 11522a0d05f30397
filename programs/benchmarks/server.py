"""An OpenAI-compatible server on loopback that answers by a rule: for benchmarks that need a real connection.

    with served(world_rule(World())) as server:
        lm = dspy.LM("openai/scripted", api_base=server.url, api_key="none")

It outlives the processes that call it, and remembers every request that it answered.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from programs.benchmarks.scripted import Reply

__all__ = ["Rule", "Server", "completion", "served"]

Rule = Callable[[str], Reply]
"""From the text of a prompt (all of its messages) to the reply."""

Fault = Callable[[str, BaseHTTPRequestHandler], bool]
"""May answer a request with a fault of its own; whether it did."""


@dataclass
class Server:
    """A running server.

    Attributes:
        url: Where it listens, for ``api_base``.
        latency: Median seconds of a reply; lognormal.
        answered: The prompts that were answered, in order; those whose client was gone by then are among them.
        faults: Requests that were answered with a fault.
    """

    rule: Rule
    latency: float = 0.0
    sigma: float = 0.5
    fault: Fault | None = None
    url: str = ""
    answered: list[str] = field(default_factory=list)
    faults: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    def seconds(self) -> float:
        """Draw how long a reply takes."""
        if not self.latency:
            return 0.0
        with self.lock:
            return self.latency * self.rng.lognormvariate(0.0, self.sigma)


def completion(model: str, reply: Reply, logprobs: bool) -> dict[str, Any]:
    """Write a reply as the chat completions of OpenAI's API."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": "stop",
    }
    if logprobs and reply.logprobs is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": token,
                    "logprob": logprob,
                    "bytes": list(token.encode()),
                    "top_logprobs": [
                        {"token": other, "logprob": value, "bytes": list(other.encode())}
                        for other, value in alternatives.items()
                    ],
                }
                for token, logprob, alternatives in reply.logprobs
            ]
        }
    words = len(reply.text.split())
    usage = {"prompt_tokens": 10, "completion_tokens": words, "total_tokens": 10 + words}
    return {
        "id": "scripted", "object": "chat.completion", "created": 0, "model": model, "choices": [choice],
        "usage": usage,
    }  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        state: Server = self.server.state  # type: ignore[attr-defined]
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "\n\n".join(message["content"] for message in request["messages"])
        time.sleep(state.seconds())
        if state.fault is not None and state.fault(text, self):
            with state.lock:
                state.faults += 1
            return
        body = json.dumps(completion(request["model"], state.rule(text), bool(request.get("logprobs")))).encode()
        with state.lock:
            state.answered.append(text)
        with contextlib.suppress(OSError):  # The client may be gone.
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error here."""


@contextlib.contextmanager
def served(rule: Rule, *, latency: float = 0.0, fault: Fault | None = None) -> Iterator[Server]:
    """Serve a rule for the length of a block."""
    state = Server(rule, latency, fault=fault)
    http = _Quiet(("127.0.0.1", 0), _Handler)
    http.state = state  # type: ignore[attr-defined]
    state.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
