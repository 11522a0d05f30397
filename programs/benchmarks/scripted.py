"""The scripted LM that tests and benchmarks share: it answers by a rule, with latency, faults and logprobs on demand.

A rule is a function of the prompt::

    def rule(prompt: PromptView) -> Reply | str | Exception:
        return "B" if "heart" in prompt.user else RateLimitError("slow down")

    lm = scripted_lm(rule, logprobs=True, top_logprobs=5)
    dspy.Predict("question -> answer")(question="...", lm=lm)
    lm.scripted.calls  # how often the engine was reached (cache hits are not calls)
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import dspy
from dspy.lm15 import Config, Message, Request, Response, TextPart, TokenLogprob, TopLogprob, Usage

__all__ = [
    "AsyncScriptedEngine",
    "Call",
    "PromptView",
    "Reply",
    "Rule",
    "ScriptedEngine",
    "Token",
    "answer_logprobs",
    "certain",
    "scripted_lm",
]

Token = tuple[str, float, Mapping[str, float]]
"""A token of a reply: its text, its logprob, and the logprobs of the alternatives, itself perhaps among them."""


@dataclass(frozen=True)
class PromptView:
    """What an LM was sent, as plain text.

    Attributes:
        system: The system message; empty when there is none.
        user: The text of the last user message.
        messages: (role, text) of every message but the system message, in order.
        config: Generation settings: ``temperature``, ``max_tokens``, ``logprobs`` and so on.
        model: The model name of the request.
    """

    system: str
    user: str
    messages: tuple[tuple[str, str], ...]
    config: Config
    model: str

    @property
    def text(self) -> str:
        """Everything: the system message and all others, a blank line between them."""
        return "\n\n".join(filter(None, [self.system, *(text for _, text in self.messages)]))

    @classmethod
    def of(cls, request: Request) -> PromptView:
        """Read a request."""
        system = request.system or ""
        if not isinstance(system, str):
            system = "".join(part.text for part in system if isinstance(part, TextPart))
        messages = tuple((message.role, _text_of(message)) for message in request.messages)
        users = [text for role, text in messages if role == "user"]
        return cls(system, users[-1] if users else "", messages, request.config, request.model)


@dataclass(frozen=True)
class Reply:
    """What the LM answers.

    Attributes:
        text: The reply.
        logprobs: The reply's tokens; sent only to callers that ask for logprobs, as real LMs do.
        prompt_tokens: Reported usage; None counts the prompt's words.
        completion_tokens: Reported usage; None counts the tokens, or else the words, of the reply.
        finish_reason: Why it ended: "stop", "length" or "content_filter".
    """

    text: str
    logprobs: Sequence[Token] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: Literal["stop", "length", "content_filter"] = "stop"

    @classmethod
    def of(cls, *tokens: Token) -> Reply:
        """A reply that is the text of its tokens."""
        return cls("".join(token for token, _, _ in tokens), tokens)


Rule = Callable[[PromptView], Reply | str | Exception]


@dataclass(frozen=True)
class Call:
    """One finished call: the prompt, and the reply or the error."""

    prompt: PromptView
    reply: Reply | None
    error: Exception | None = None


class ScriptedEngine:
    """A DSPy engine that answers by rule.

    Args:
        rule: Maps a prompt to a reply, its text, or an exception to raise (``dspy.lm15.RateLimitError("...")``,
            ``ServerError``, ``AuthError``: DSPy turns these into its own; ``retry_after=0.0`` retries without a pause).
        latency: Seconds per call, or a function of the prompt that returns seconds.

    Attributes:
        calls: Calls begun, retries included, DSPy's cache hits excluded.
        log: Finished calls, in order of completion.
        max_concurrency: The most calls that were in flight at one time.
    """

    supported_params = ("temperature", "max_tokens", "top_p", "stop", "logprobs", "top_logprobs", "response_format")

    _alive: ClassVar[weakref.WeakValueDictionary[str, ScriptedEngine]] = weakref.WeakValueDictionary()

    def __init__(self, rule: Rule, *, latency: float | Callable[[PromptView], float] = 0.0) -> None:
        self.rule = rule
        self.latency = latency
        self.key = uuid.uuid4().hex
        self.calls = 0
        self.log: list[Call] = []
        self.max_concurrency = 0
        self._active = 0
        self._lock = threading.Lock()
        self._alive[self.key] = self

    def __deepcopy__(self, memo: dict[int, Any]) -> ScriptedEngine:
        # program.deepcopy() copies LMs and their engines; the call count must stay one.
        return self

    def complete(self, request: Request) -> Response:
        """Answer one request."""
        prompt = PromptView.of(request)
        self._begin()
        try:
            if seconds := self._seconds(prompt):
                time.sleep(seconds)
            return self._answer(prompt)
        finally:
            self._end()

    def dump_state(self) -> dict[str, Any]:
        """For ``program.save`` with the LM attached; the rule itself is not saved."""
        return {"key": self.key}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> ScriptedEngine:
        """Find the engine again, within the same process."""
        return cls._alive[state["key"]]

    def _begin(self) -> None:
        with self._lock:
            self.calls += 1
            self._active += 1
            self.max_concurrency = max(self.max_concurrency, self._active)

    def _end(self) -> None:
        with self._lock:
            self._active -= 1

    def _seconds(self, prompt: PromptView) -> float:
        return self.latency(prompt) if callable(self.latency) else self.latency

    def _answer(self, prompt: PromptView) -> Response:
        answer = self.rule(prompt)
        if isinstance(answer, Exception):
            self._record(Call(prompt, None, answer))
            raise answer
        reply = Reply(answer) if isinstance(answer, str) else answer
        self._record(Call(prompt, reply))
        return _response(prompt, reply)

    def _record(self, call: Call) -> None:
        with self._lock:
            self.log.append(call)


class AsyncScriptedEngine:
    """The same engine for ``acall``: shares rule, counters and log with its sync twin."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine = engine

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncScriptedEngine:
        return self

    async def complete(self, request: Request) -> Response:
        """Answer one request."""
        prompt = PromptView.of(request)
        self.engine._begin()
        try:
            if seconds := self.engine._seconds(prompt):
                await asyncio.sleep(seconds)
            return self.engine._answer(prompt)
        finally:
            self.engine._end()

    def dump_state(self) -> dict[str, Any]:
        """As its twin."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> AsyncScriptedEngine:
        """As its twin."""
        return cls(ScriptedEngine.load_state(state))


def scripted_lm(
    rule: Rule,
    *,
    name: str | None = None,
    cache: bool = False,
    latency: float | Callable[[PromptView], float] = 0.0,
    **lm_kwargs: Any,
) -> dspy.LM:
    """Make a ``dspy.LM`` on a scripted engine.

    Args:
        rule: See `ScriptedEngine`.
        name: Model name; a new one per engine by default, because DSPy's cache tells engines apart by it alone.
        cache: Whether DSPy caches the replies.
        latency: See `ScriptedEngine`.
        **lm_kwargs: For ``dspy.LM``: ``temperature``, ``logprobs=True``, ``top_logprobs=5`` ... ``num_retries`` is 0
            unless given: DSPy sleeps 1, 2, 4 ... seconds between retries.

    Returns:
        The LM; its engine is the attribute ``scripted``.
    """
    engine = ScriptedEngine(rule, latency=latency)
    lm_kwargs.setdefault("num_retries", 0)
    lm = dspy.LM(
        name or f"scripted/{engine.key}",
        engine=engine,
        async_engine=AsyncScriptedEngine(engine),
        cache=cache,
        **lm_kwargs,
    )
    lm.scripted = engine
    return lm


def answer_logprobs(answer: str, probabilities: Mapping[str, float]) -> list[Token]:
    """The tokens of a one-token answer.

    Args:
        answer: The token the LM emits; a key of ``probabilities``.
        probabilities: Probability of each token at this place, in [0, 1]; those of 0 are not reported.

    Raises:
        ValueError: When the answer has no positive probability.
    """
    if not probabilities.get(answer, 0.0) > 0.0:
        raise ValueError(f"answer {answer!r} has no positive probability in {dict(probabilities)!r}; add one.")
    alternatives = {token: math.log(p) for token, p in probabilities.items() if p > 0.0}
    return [(answer, alternatives[answer], alternatives)]


def certain(*texts: str) -> list[Token]:
    """Tokens that the LM was sure of, such as field markers."""
    return [(text, 0.0, {text: 0.0}) for text in texts]


def _text_of(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _response(prompt: PromptView, reply: Reply) -> Response:
    tokens = reply.logprobs
    words = len(reply.text.split()) if tokens is None else len(tokens)
    return Response(
        id=None,
        model=prompt.model,
        message=Message.assistant(reply.text),
        finish_reason=reply.finish_reason,
        usage=Usage(
            input_tokens=len(prompt.text.split()) if reply.prompt_tokens is None else reply.prompt_tokens,
            output_tokens=words if reply.completion_tokens is None else reply.completion_tokens,
        ),
        logprobs=_lm15_logprobs(tokens, prompt.config.logprobs),
    )


def _lm15_logprobs(tokens: Sequence[Token] | None, top: int | None) -> tuple[TokenLogprob, ...] | None:
    """The tokens with their ``top`` likeliest alternatives; None when they were not asked for."""
    if tokens is None or top is None:
        return None
    return tuple(
        TokenLogprob(
            token=token,
            logprob=logprob,
            bytes=tuple(token.encode()),
            top=tuple(
                TopLogprob(token=other, logprob=other_logprob, bytes=tuple(other.encode()))
                for other, other_logprob in sorted(alternatives.items(), key=lambda item: -item[1])[:top]
            ),
        )
        for token, logprob, alternatives in tokens
    )
