"""Events and clocks that the tests of the display share."""

from __future__ import annotations

from typing import Any

from tp_dspy.optimization.candidates import Candidate, Measurement, ScoredCandidate
from tp_dspy.optimization.events import (
    CandidateScored,
    Event,
    OutcomeArrived,
    PhaseBegan,
    PhaseEnded,
    Planned,
    Proposed,
    RoundEnded,
    SelectionBegan,
    StepBegan,
)
from tp_dspy.optimization.phase_result import Finals, PhaseResult
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.optimization.stopping import Budget, Spent
from tp_dspy.progress.rows import view
from tp_dspy.progress.state import State
from tp_dspy.progress.view import View
from tp_dspy.scoring.outcomes import Outcome, Usage

HOSTILE = "[red]<script>x\x1b[2J\u202e"


class Told:
    """A state, and a clock that is set by hand."""

    def __init__(self, state: State | None = None) -> None:
        self.state = state or State()
        self.now = 100.0

    def tell(self, event: Event, after: float = 0.0) -> Told:
        self.now += after
        self.state = self.state.take(event, self.now)
        return self

    @property
    def view(self) -> View:
        return view(self.state, self.now)

    @property
    def rows(self) -> dict[str, str]:
        return dict(self.view.rows)


def plans(*names: str) -> list[PhasePlan]:
    return [PhasePlan(name, population=60, proposals=30, selection=10, reference_calls=8) for name in names]


def planned(*names: str, budgets: tuple[Budget, ...] = (), spent: Spent | None = None, words: str = "") -> Planned:
    made = plans(*(names or ("source", "target")))
    words = words or PhasePlan.in_words(made)
    return Planned("", made, words, {"rounds": 4}, budgets, lambda: spent or Spent())


def scored(text: str, score: float, origin: Any = "proposal") -> ScoredCandidate:
    return ScoredCandidate(Candidate({"self": text}, origin), score, {})


def candidate(text: str, score: float, origin: Any = "proposal", phase: str = "source") -> CandidateScored:
    return CandidateScored(phase, scored(text, score, origin), dropped=False)


def dropped(text: str, score: float, rival: float, origin: Any = "proposal") -> CandidateScored:
    there = ScoredCandidate(Candidate({"self": text}, origin), score, {}, measurement=Measurement(5, rival=rival))
    return CandidateScored("source", there, dropped=True, complete=False)


def answer(phase: str = "source", *, status: Any = "ok", calls: int = 1, cached: int = 0) -> OutcomeArrived:
    return OutcomeArrived(phase, Outcome(status, usage=Usage(calls, cached)))


def result(*ranked: ScoredCandidate, stopped: str = "all rounds done", selected: bool = True) -> PhaseResult:
    chosen: Any = {"selection": {"law": 10}, "finals": Finals({}, ())} if selected else {}
    return PhaseResult(ranked, ranked, (), (), stopped, Usage(), Usage(), **chosen)


def a_phase(phase: str = "source", pairs: int = 20, each: float = 0.5) -> list[tuple[Event, float]]:
    """A phase of one round, as (event, seconds since the last one)."""
    best, own = scored("Only.", 0.712), scored("Answer.", 0.628, "original")
    return [
        (PhaseBegan(phase, 6, 4), 0.0),
        (StepBegan(phase, pairs), 0.0),
        *[(answer(phase), each)] * pairs,
        (candidate("Answer.", 0.628, "original", phase), 0.0),
        (RoundEnded(phase, 0, result(own)), 0.0),
        (Proposed(phase, 1, 5, 8), 10.0),
        (candidate("Only.", 0.712, phase=phase), 0.0),
        (RoundEnded(phase, 1, result(best, own)), 0.0),
        (SelectionBegan(phase, 3), 0.0),
        (PhaseEnded(phase, result(best, own)), 2.0),
    ]
