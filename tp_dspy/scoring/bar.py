"""A progress bar around work that takes long."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from tp_dspy.scoring.outcomes import Outcome

__all__ = ["watched"]

Key = TypeVar("Key")


def watched(
    scored: Generator[tuple[Key, Outcome], None, None], total: int, what: str
) -> Generator[tuple[Key, Outcome], None, None]:
    """Pass scored pairs on, with a bar on a terminal (on standard error) or in a notebook; elsewhere nothing is shown.

    Args:
        scored: The pairs.
        total: How many there will be.
        what: What the bar is called.
    """
    # The display of a compile, which knows of events, and so of this package.
    from tp_dspy.progress import counting

    return counting(scored, total, what)
