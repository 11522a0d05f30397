"""Racing: which candidates earn more examples, and which are out.

A race scores a set of candidates on one panel of tasks in several steps. Every candidate still in the race meets
the same examples, so what a rule compares is paired.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["FullScoring", "Racing", "Standing", "step_ends"]


@dataclass(frozen=True)
class Standing:
    """How far a candidate has come in a race.

    Attributes:
        candidate: The candidate.
        outcomes: Its outcomes so far by task name, in the panel's order of examples; all standings that a rule is
            shown hold the same examples, and none that got no answer.
    """

    candidate: Candidate
    outcomes: Mapping[str, Sequence[Outcome]]


class Racing(Protocol):
    """A rule that drops candidates while a race goes on."""

    @property
    def checkpoints(self) -> Sequence[float]:
        """Shares of each task's examples at which a step ends: increasing, in (0, 1], the last 1.

        The rule is asked after every step but the last: who gets that far is paid for, and recorded.
        """
        ...

    def survivors(self, standings: Sequence[Standing], share: float) -> Sequence[Candidate]:
        """Name the candidates that go on, at least one.

        Args:
            standings: The candidates still in the race, on equal examples.
            share: The share of the examples that they have met.
        """
        ...


class FullScoring:
    """Drops nobody: every candidate is scored on every example."""

    checkpoints: Sequence[float] = (1.0,)

    def survivors(self, standings: Sequence[Standing], share: float) -> Sequence[Candidate]:
        """Keep everyone."""
        return [standing.candidate for standing in standings]


def step_ends(sizes: Mapping[str, int], checkpoints: Sequence[float]) -> list[dict[str, int]]:
    """Translate shares into numbers of examples.

    Args:
        sizes: Number of examples by task name.
        checkpoints: A rule's checkpoints.

    Returns:
        For each checkpoint, how many examples of each task have been met by then.

    Raises:
        ConfigurationError: If the checkpoints are not increasing shares in (0, 1] that end with 1.
    """
    shares = list(checkpoints)
    if not shares or shares[0] <= 0 or shares[-1] != 1 or any(a >= b for a, b in itertools.pairwise(shares)):
        raise ConfigurationError(f"checkpoints is {shares}; expected increasing shares in (0, 1], the last of them 1.")
    # Rounded first: 0.1 x 30 is a hair above 3.
    return [{name: math.ceil(round(share * size, 9)) for name, size in sizes.items()} for share in shares]
