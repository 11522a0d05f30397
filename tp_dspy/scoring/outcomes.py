"""What one candidate did on one example."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Outcome", "Status", "Usage"]

Status = Literal["ok", "unparsed", "error"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What LM calls cost.

    Attributes:
        calls: Calls that reached the LM (cache hits excluded), as a count.
        cached: Calls answered from DSPy's cache, as a count.
        prompt_tokens: Tokens sent, as reported by the LM.
        completion_tokens: Tokens generated, as reported by the LM.
        usd: US dollars, as estimated by DSPy; None when any call has no known price.
    """

    calls: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Add two usages; an unknown price makes the sum unknown."""
        return Usage(
            self.calls + other.calls,
            self.cached + other.cached,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one candidate did on one example.

    Attributes:
        status: ``ok``; ``unparsed`` (the LM answered, but not in the asked format: the prompt's fault);
            ``error`` (no answer could be had: the world's fault, never held against a prompt).
        followed: Whether the reply keeps to the asked format.
        correct: How right the answer is, in [0, 1].
        confidence: How sure the LM is of its answer, in [0, 1]; None when there is none.
        uncalibrated: The confidence before a calibration that was fitted afterwards; None where there is no such.
        answer: The answer as it was read from the reply; None when none could be read. Of several output fields
            ``name: answer`` of each, with "; " between them.
        expected: The expected answer, spelled alike; None when the example has none.
        reply: The raw reply of the LM call that gave the answer, where known.
        feedback: What was wrong, in words; empty when nothing was.
        usage: What this outcome cost.
        error: For ``error`` outcomes: the exception's type and message.
    """

    status: Status
    followed: bool = False
    correct: float = 0.0
    confidence: float | None = None
    answer: str | None = None
    expected: str | None = None
    reply: str | None = None
    feedback: str = ""
    usage: Usage = field(default_factory=Usage)
    error: str | None = None
    uncalibrated: float | None = None

    def __post_init__(self) -> None:
        if self.status not in ("ok", "unparsed", "error"):
            raise ValueError(f"status is {self.status!r}; expected 'ok', 'unparsed' or 'error'.")
        if not 0.0 <= self.correct <= 1.0:
            raise ValueError(f"correct is {self.correct!r}; expected a number in [0, 1].")
        if self.confidence is not None and not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence is {self.confidence!r}; expected a number in [0, 1], or None.")
