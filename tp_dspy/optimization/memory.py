"""What was paid for once: outcomes of pairs and answers of the reference LM, as the cycle sees them.

A compile is a function of these: whoever has all of them gets the same result again, without a call. That is how a run
that was killed goes on. `tp_dspy.runs.journal` keeps them on disk; without a run folder they are kept in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tp_dspy.scoring.outcomes import Outcome, Usage

__all__ = ["Answer", "Memory", "Pair", "PlainMemory"]

Pair = tuple[str, str]
"""A candidate's id and an example's fingerprint."""


@dataclass(frozen=True)
class Answer:
    """What one call of the reference LM brought.

    Attributes:
        reply: What came back; empty when nothing did.
        cut_off: Whether the token limit broke it off.
        failure: Why there is no reply; None when there is one.
        usage: What it cost.
    """

    reply: str
    cut_off: bool = False
    failure: str | None = None
    usage: Usage = field(default_factory=Usage)


class Memory(Protocol):
    """Keeps outcomes and answers; what it holds is not paid for again.

    What another compile paid for comes back with a usage of nothing, so that a compile reports its own cost.
    """

    def outcome(self, pair: Pair) -> Outcome | None:
        """Look a pair up."""
        ...

    def keep_outcome(self, pair: Pair, outcome: Outcome) -> None:
        """Keep an outcome that is no ``error``; when this returns, a killed process has it still."""
        ...

    def answer(self, call: str) -> Answer | None:
        """Look a call of the reference LM up, by what identifies it."""
        ...

    def keep_answer(self, call: str, answer: Answer) -> None:
        """Keep an answer that is no failure."""
        ...


class PlainMemory:
    """Keeps everything in this process, for one compile. Iterates over the pairs."""

    def __init__(self) -> None:
        self._outcomes: dict[Pair, Outcome] = {}
        self._answers: dict[str, Answer] = {}

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._outcomes)

    def outcome(self, pair: Pair) -> Outcome | None:
        """Look a pair up."""
        return self._outcomes.get(pair)

    def keep_outcome(self, pair: Pair, outcome: Outcome) -> None:
        """Keep an outcome."""
        self._outcomes[pair] = outcome

    def answer(self, call: str) -> Answer | None:
        """Look a call up."""
        return self._answers.get(call)

    def keep_answer(self, call: str, answer: Answer) -> None:
        """Keep an answer."""
        self._answers[call] = answer
