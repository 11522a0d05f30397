"""What is known of a compile from its events: values only; the time is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from tp_dspy.optimization.candidates import ScoredCandidate
from tp_dspy.optimization.events import (
    CandidateScored,
    Event,
    OutcomeArrived,
    PhaseBegan,
    PhaseEnded,
    Planned,
    Proposed,
    Resumed,
    RoundEnded,
    SelectionBegan,
    Spending,
    StepBegan,
)
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.optimization.plan import PhasePlan
from tp_dspy.progress.pace import Pace
from tp_dspy.progress.view import Ended, counted, named
from tp_dspy.runs.events import Failed, Measured
from tp_dspy.scoring.outcomes import Outcome

__all__ = ["MILESTONES", "SHORT", "Phase", "State"]

_STEPS = (PhaseBegan, RoundEnded)
MILESTONES = (*_STEPS, Resumed, Planned, PhaseEnded, Spending, Measured, Failed)
"""Events after which something new is there to be read."""

_TITLES = {"source": "Source prompts", "target": "Target prompt", "test": "Held-out test"}
# More phases than this are summed up where the plan is told.
_LISTED = 4
SHORT = 22
"""Characters of a title in a table, at most."""


@dataclass(frozen=True)
class Phase:
    """A phase while it goes on.

    Attributes:
        name: As in the events.
        title: What it is called.
        short: The same, shorter.
        began: When.
        total: Pairs to be scored at most: as planned, else those of the steps that have begun.
        planned: Whether that is from the plan.
        searches: Whether it looks for a prompt; else it only measures.
        rounds: Rounds at most.
        round: The present one; 0 is the first population.
        doing: What goes on in it.
        usable: How many replies of the reference LM could be used in the present round, in words.
        choosing: Whether the search is over.
        scored: Pairs scored, as a count.
        errors: Those of them without an answer.
        cached: Those of them that DSPy's cache knew.
        best: The best of those that have met all examples.
        original: The original's score there; NaN while it has not met them.
        behind: By how much the original was below the best, on the examples that it had met when the race dropped it;
            NaN while it was not.
    """

    name: str
    title: str
    short: str
    began: float
    total: int = 0
    planned: bool = False
    searches: bool = False
    rounds: int = 0
    round: int = 0
    doing: str = ""
    usable: str = ""
    choosing: bool = False
    scored: int = 0
    errors: int = 0
    cached: int = 0
    best: ScoredCandidate | None = None
    original: float = math.nan
    behind: float = math.nan

    @property
    def rounds_left(self) -> int:
        """Rounds whose proposals have not come yet."""
        return 0 if self.choosing else max(0, self.rounds - self.round)

    def with_outcome(self, outcome: Outcome) -> Phase:
        """Count a scored pair."""
        cached = outcome.usage.cached > 0 and outcome.usage.calls == 0
        lost = outcome.status == "error"
        return replace(self, scored=self.scored + 1, errors=self.errors + lost, cached=self.cached + cached)

    def with_candidate(self, event: CandidateScored) -> Phase:
        """Take in a candidate's score; of those that have not met all examples it is on others, and does not count."""
        scored, dropped = event.scored, event.dropped
        own = scored.candidate.origin == "original"
        if not event.complete or math.isnan(scored.score):
            rival = scored.measurement.rival if scored.measurement is not None else None
            return replace(self, behind=rival - scored.score) if own and dropped and rival is not None else self
        original = scored.score if own else self.original
        better = self.best is None or scored.merit > self.best.merit
        return replace(self, best=scored if better else self.best, original=original)

    def begins(self, event: PhaseBegan | StepBegan) -> Phase:
        """Take in that it begins, or a step of scoring in it."""
        if isinstance(event, PhaseBegan):
            first = "prompt" if event.candidates == 1 else f"{event.candidates} prompts"
            doing = f"scoring the first {first}" if self.planned else ""
            return replace(self, searches=self.planned, rounds=event.rounds, doing=doing)
        return self if self.planned else replace(self, total=self.total + event.total)

    def goes_on(self, event: Proposed | RoundEnded | SelectionBegan) -> Phase:
        """Take in where its search is."""
        match event:
            case Proposed():
                new = f"scoring {counted(event.usable, 'new prompt')}" if event.usable else "nothing new to score"
                usable = f"{event.usable} of {event.asked} replies usable"
                return replace(self, round=event.round, doing=f"{new} ({usable})", usable=usable)
            case RoundEnded():
                then = "waiting for proposals" if event.round < self.rounds else "the last round"
                return replace(self, doing=f"{self.usable or 'first prompts scored'}, {then}")
            case SelectionBegan():
                return replace(self, doing=f"choosing among {counted(event.candidates, 'finalist')}", choosing=True)

    def ended(self, now: float, score: float = math.nan, gain: float = math.nan, why: str = "", on: str = "") -> Ended:
        """Sum it up."""
        return Ended(self.title, self.short, self.scored, now - self.began, score, gain, on, why, self.errors)


@dataclass(frozen=True)
class State:
    """What is known of a compile, or of other work that is told as events.

    Attributes:
        summary: Whether what is planned and what was spent are to be told in words.
        began: When; None before the first event.
        plan: What is planned, what it may spend, and what it has spent.
        before: Remarks from before the first phase.
        going: The phases that go on, in the order in which they began.
        ended: Those that are over.
        begun: Names of all that have begun since the plan was told.
        earlier: How many were over by then, as a count.
        after: Remarks from after the last phase.
        pace: How fast it goes.
        stepping: Name of the phase in which a step began last.
        step: Counts what is worth a line of its own.
    """

    summary: bool = True
    began: float | None = None
    plan: Planned = field(default_factory=lambda: Planned("", (), ""))
    before: tuple[str, ...] = ()
    going: tuple[Phase, ...] = ()
    ended: tuple[Ended, ...] = ()
    begun: frozenset[str] = frozenset()
    earlier: int = 0
    after: tuple[str, ...] = ()
    pace: Pace = field(default_factory=Pace)
    stepping: str = ""
    step: int = 0

    def take(self, event: Event, now: float) -> State:
        """Return what is known after an event.

        Args:
            event: The event.
            now: Seconds of a clock that never goes back.
        """
        state = self if self.began is not None else replace(self, began=now)
        state = replace(state, step=state.step + isinstance(event, _STEPS))
        match event:
            case Planned() | Resumed() | Spending() | Failed():
                return state._around(event, now)
            case PhaseBegan() | StepBegan():
                return state._begins(event, now)
            case OutcomeArrived():
                pace = state.pace.scored(event.outcome.usage, now, stepping=event.phase == state.stepping)
                return replace(
                    state, going=state._each(event.phase, lambda p: p.with_outcome(event.outcome)), pace=pace
                )
            case CandidateScored():
                return replace(state, going=state._each(event.phase, lambda phase: phase.with_candidate(event)))
            case Proposed() | RoundEnded() | SelectionBegan():
                return state._goes_on(event, now)
            case PhaseEnded():
                return state._over(event.phase, now, *_outcome_of(event.result))
            case Measured():
                scores = {name: one.metrics.score for name, one in event.held_out.evaluations.items()}
                score, own = scores.get("target", math.nan), scores.get("original", math.nan)
                return state._over(event.phase, now, score, score - own, "", "test")
        return state

    def closed(self, now: float, error: BaseException | None = None) -> State:
        """Return what is known in the end, when nobody will be told any more.

        Args:
            now: As in `take`.
            error: What ended it.
        """
        why = "" if error is None else f"broken off: {type(error).__name__}"
        state = self
        for phase in self.going:
            if phase.best is None:
                state = state._over(phase.name, now, why=why)
            else:
                best = phase.best.score
                state = state._over(phase.name, now, best, best - phase.original, why, "search")
        return state

    def _around(self, event: Event, now: float) -> State:
        """Take in what concerns the whole compile."""
        match event:
            case Planned():
                told = (_plan_in_words(event),) if self.summary else ()
                # A new compile: what it has in common with an earlier one is the display.
                state = self.closed(now)
                before, earlier = self.before + told, len(state.ended)
                return replace(state, plan=event, before=before, begun=frozenset(), earlier=earlier)
            case Resumed():
                told = (f"The journal knows {counted(event.outcomes, 'outcome')}; none is paid for again.",)
                return replace(self, before=self.before + told, pace=self.pace.resumes(event.outcomes))
            case Spending() if not event.phase:
                told = (PhasePlan.beside(self.plan.plans, event.spent),) if self.summary else ()
                return replace(self.closed(now), after=self.after + told)
            case Failed():
                return self.closed(now, event.error)
        return self

    def _begins(self, event: PhaseBegan | StepBegan, now: float) -> State:
        """Begin a phase, or a step of scoring in one."""
        state = self
        if not any(phase.name == event.phase for phase in self.going):
            plans = {plan.phase: plan.scorer_calls for plan in self.plan.plans}
            phase = Phase(
                event.phase,
                *_titles(event.phase, list(plans)),
                now,
                total=plans.get(event.phase, 0),
                planned=event.phase in plans,
            )
            # Not all that comes to an end says so.
            before = self if self.side_by_side else self.closed(now)
            state = replace(before, going=(*before.going, phase), begun=self.begun | {event.phase})
        pace = state.pace.begins(now, alone=len(state.going) == 1)
        going = state._each(event.phase, lambda phase: phase.begins(event))
        return replace(state, going=going, pace=pace, stepping=event.phase)

    @property
    def side_by_side(self) -> bool:
        """Whether phases go on at once."""
        return self.plan.at_once > 1

    def _goes_on(self, event: Proposed | RoundEnded | SelectionBegan, now: float) -> State:
        """Take in where the search of a phase is."""
        pace = self.pace
        if isinstance(event, Proposed):
            # While others go on, nobody waits for proposals.
            pace = pace.proposed(now, waited=not self.side_by_side)
        elif isinstance(event, RoundEnded) and not self.side_by_side:
            pace = pace.begins(now)
        return replace(self, going=self._each(event.phase, lambda phase: phase.goes_on(event)), pace=pace)

    def _each(self, name: str, change: Callable[[Phase], Phase]) -> tuple[Phase, ...]:
        """Change the phase of a name, if it goes on."""
        return tuple(change(phase) if phase.name == name else phase for phase in self.going)

    def _over(
        self, name: str, now: float, score: float = math.nan, gain: float = math.nan, why: str = "", on: str = ""
    ) -> State:
        """End a phase, if it goes on."""
        ended = tuple(phase.ended(now, score, gain, why, on) for phase in self.going if phase.name == name)
        left = tuple(phase for phase in self.going if phase.name != name)
        return replace(self, going=left, ended=(*self.ended, *ended))

    def to_come(self) -> tuple[int, int]:
        """Count what is to come at most: pairs to be scored, and rounds of proposals."""
        each = int(self.plan.settings.get("rounds", 0) or 0)
        later = [plan for plan in self.plan.plans if plan.phase not in self.begun]
        pairs = sum(plan.scorer_calls for plan in later)
        rounds = sum(each for plan in later if plan.reference_calls)
        for phase in self.going:
            pairs += max(0, phase.total - phase.scored)
            rounds += phase.rounds_left
        return pairs, rounds


def _outcome_of(result: PhaseResult) -> tuple[float, float, str, str]:
    """Say what came of a phase: the winner's score and gain, why the phase ended, and what the winner was chosen on."""
    own = next((one.score for one in result.ranked if one.candidate.origin == "original"), math.nan)
    why = named(result.stopped, len(result.stopped))
    if result.best.candidate.origin == "original":
        why += "; nothing better found"
    searched = result.selection is None or result.finals is None
    return result.best.score, result.best.score - own, why, "search" if searched else "selection"


def _titles(phase: str, planned: list[str]) -> tuple[str, str]:
    """Give the title of a phase, and a short one for a table."""
    if phase.startswith("target ") and phase in planned:
        name = phase.removeprefix("target ")
        several = f"{planned.index(phase) + 1}/{len(planned)} " if len(planned) > 1 else ""
        return f"Target {several}{named(name)}", f"{several}{named(name, SHORT - len(several))}"
    return _TITLES.get(phase, named(phase)), _TITLES.get(phase, named(phase, SHORT))


def _plan_in_words(plan: Planned) -> str:
    """Give the plan's own words; where there are many phases, without the figures of each."""
    in_all = f"; {sum(one.scorer_calls for one in plan.plans)} scorer calls in all"
    _, found, rest = plan.words.partition(in_all)
    if len(plan.plans) <= _LISTED or not found:
        return named(plan.words, len(plan.words))
    asked = sum(one.reference_calls for one in plan.plans)
    return f"At most: {len(plan.plans)} phases, {asked} reference calls{found}{rest}"
