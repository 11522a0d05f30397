"""Stop rules: when a phase has done enough. Each is a callable; a phase takes any number of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tp_dspy.errors import ConfigurationError

__all__ = ["Patience", "Progress", "ScorerCalls", "StopRule", "TargetScore"]


@dataclass(frozen=True)
class Progress:
    """Where a phase stands when a stop rule is asked, before a round begins.

    Attributes:
        round: The round that would begin now; the first one after the first population is 1.
        best: The best score so far, in [0, 1] without a spread penalty; NaN while nothing keeps the constraints.
        rounds_without_gain: Rounds since `best` last rose.
        scorer_calls: Scored pairs so far in this compile, as a count.
        next_calls: Scored pairs that the coming round would add, at most.
    """

    round: int
    best: float
    rounds_without_gain: int
    scorer_calls: int
    next_calls: int


StopRule = Callable[[Progress], str | None]
"""Tells why to stop, or None to go on."""


@dataclass(frozen=True)
class Patience:
    """Stop after so many rounds without a better score."""

    rounds: int

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigurationError(f"Patience is {self.rounds!r} rounds; expected at least 1.")

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rule."""
        if progress.rounds_without_gain >= self.rounds:
            return f"no gain in {self.rounds} rounds"
        return None


@dataclass(frozen=True)
class TargetScore:
    """Stop once the best score reaches a value in [0, 1]."""

    score: float

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rule."""
        return f"target score {self.score:g} reached" if progress.best >= self.score else None


@dataclass(frozen=True)
class ScorerCalls:
    """Stop before a round that would bring the compile above so many scored pairs.

    What a phase cannot do without, its first population and its selection, is scored in any case.
    """

    limit: int

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigurationError(f"ScorerCalls is {self.limit!r}; expected at least 1.")

    def __call__(self, progress: Progress) -> str | None:
        """Apply the rule."""
        if progress.scorer_calls + progress.next_calls > self.limit:
            return f"the next round would pass {self.limit} scorer calls"
        return None
