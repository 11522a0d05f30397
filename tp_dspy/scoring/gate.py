"""The gate before every paid call: whether another one may begin, and what those that began have cost."""

from __future__ import annotations

import threading
from typing import Protocol

from tp_dspy.scoring.outcomes import Usage

__all__ = ["Gate", "HaltedError"]


class HaltedError(Exception):
    """No further call may begin. What was under way has ended, and was handed over.

    Ends a step of scoring or of asking inside a compile; it never leaves one.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Gate(Protocol):
    """Asked by every thread before a call; safe in threads."""

    @property
    def ending(self) -> threading.Event:
        """Set when no further call is to begin: whoever waits for a better moment need not wait any longer."""
        ...

    @property
    def by_cost(self) -> bool:
        """Whether what calls have cost decides if others may begin: then no more are to begin at once than must."""
        ...

    @property
    def by_time(self) -> bool:
        """Whether the clock decides: then none are to begin later than they were let."""
        ...

    def begin(self) -> str | None:
        """Let a call begin, and count it: None; or say why no further one may."""
        ...

    def unsent(self) -> None:
        """Take back that a call began: it was never sent, as no further one is to be."""
        ...

    def spent(self, usage: Usage) -> None:
        """Take in what a call that began has cost."""
        ...
