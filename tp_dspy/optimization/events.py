"""What happens in a compile, for whoever shows or records it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from tp_dspy.optimization.candidates import Candidate, ScoredCandidate
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import Budget, Spent
from tp_dspy.scoring.outcomes import Outcome

__all__ = [
    "CandidateScored",
    "Decided",
    "Event",
    "Listener",
    "OutcomeArrived",
    "PhaseBegan",
    "PhaseEnded",
    "Planned",
    "Proposed",
    "Resumed",
    "RoundEnded",
    "SelectionBegan",
    "Spending",
    "StepBegan",
]


@dataclass(frozen=True)
class Event:
    """Something that happened; each kind is a class of its own.

    Attributes:
        kind: The kind in a word, for those who count or filter.
        phase: "source", "target", or "target <name>" where there are several; empty for what concerns the whole
            compile.
    """

    kind: ClassVar[str]
    phase: str


@dataclass(frozen=True)
class Resumed(Event):
    """The journal of the run folder knows so many outcomes already."""

    kind: ClassVar[str] = "resume"
    outcomes: int


@dataclass(frozen=True)
class Planned(Event):
    """What the phases will cost at most; told before the first call.

    Attributes:
        plans: The phases, in order.
        words: The same in one line, with tokens, and dollars where they are known.
        settings: How the compile is set up, as plain values.
        budgets: What it may spend.
        spent: Says what has been spent, at any time.
        at_once: How many phases go on at once; with more than one their events come in turns.
    """

    kind: ClassVar[str] = "plan"
    plans: Sequence[PhasePlan]
    words: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    budgets: Sequence[Budget] = ()
    spent: Callable[[], Spent] = Spent
    at_once: int = 1


@dataclass(frozen=True)
class PhaseBegan(Event):
    """A phase begins with so many candidates, and has so many rounds at most."""

    kind: ClassVar[str] = "phase"
    candidates: int
    rounds: int


@dataclass(frozen=True)
class StepBegan(Event):
    """A step of scoring begins, with so many pairs that are new to this compile."""

    kind: ClassVar[str] = "step"
    total: int


@dataclass(frozen=True)
class OutcomeArrived(Event):
    """A pair of candidate and example was scored, or is known from an earlier try of this compile."""

    kind: ClassVar[str] = "outcome"
    outcome: Outcome


@dataclass(frozen=True)
class Decided(Event):
    """The race let some candidates go on, and dropped others.

    Attributes:
        share: The share of the examples that they have met, in (0, 1).
        kept: Those that go on.
        dropped: Those that do not.
    """

    kind: ClassVar[str] = "decision"
    share: float
    kept: Sequence[Candidate]
    dropped: Sequence[Candidate]


@dataclass(frozen=True)
class CandidateScored(Event):
    """A candidate joined the history.

    Attributes:
        scored: The candidate and its score.
        dropped: Whether the race dropped it.
        complete: Whether it has met all examples: not when it was dropped, nor when the race was halted before.
    """

    kind: ClassVar[str] = "scored"
    scored: ScoredCandidate
    dropped: bool
    complete: bool = True


@dataclass(frozen=True)
class Proposed(Event):
    """The reference LM was asked for so many candidates, and so many of its replies can be used."""

    kind: ClassVar[str] = "proposals"
    round: int
    usable: int
    asked: int


@dataclass(frozen=True)
class RoundEnded(Event):
    """The first population (round 0) or a round of proposals has been scored.

    Attributes:
        round: The round.
        so_far: What the phase would have found, were it to end now; the ranking is by the search alone.
    """

    kind: ClassVar[str] = "round"
    round: int
    so_far: PhaseResult


@dataclass(frozen=True)
class SelectionBegan(Event):
    """The finalists are being scored on the examples that they are chosen on."""

    kind: ClassVar[str] = "selection"
    candidates: int


@dataclass(frozen=True)
class Spending(Event):
    """What has been spent so far; told after the first population, each round and each phase, and at the very end."""

    kind: ClassVar[str] = "spent"
    spent: Spent


@dataclass(frozen=True)
class PhaseEnded(Event):
    """A phase ended: with which winner (`PhaseResult.best`), why, and all that was found."""

    kind: ClassVar[str] = "end"
    result: PhaseResult


class Listener(Protocol):
    """Is told every event as it happens, in the thread that compiles; with several targets at once, in that of each.

    It hears one event after the other all the same.

    What it raises ends the compile, resumably; at `Compiled`, when all is done, it is logged.
    """

    def __call__(self, event: Event, /) -> None:
        """Take in an event."""
        ...
