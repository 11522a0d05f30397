"""The cycle that both phases share: propose, race, record, stop; then choose on the selection panel."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import dspy

from tp_dspy.errors import NoUsableProposalWarning
from tp_dspy.optimization.candidates import Candidate, ScoredCandidate, Standing
from tp_dspy.optimization.events import (
    CandidateScored,
    Decided,
    Event,
    Listener,
    OutcomeArrived,
    PhaseBegan,
    PhaseEnded,
    Proposed,
    RoundEnded,
    SelectionBegan,
    Spending,
    StepBegan,
)
from tp_dspy.optimization.history import History
from tp_dspy.optimization.ledger import INTERRUPTED, Ledger
from tp_dspy.optimization.memory import Memory, Pair
from tp_dspy.optimization.panel import Panel, PanelScorer, fingerprint, on_common_examples
from tp_dspy.optimization.phase_result import Finals, PhaseResult
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.optimization.racing import Racing, race, usual_share
from tp_dspy.optimization.reference import Proposal, Proposer
from tp_dspy.optimization.selection import choose
from tp_dspy.optimization.stopping import Progress, StopRule
from tp_dspy.scoring.gate import HaltedError
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.scorer import Scorer

__all__ = ["Cycle"]

logger = logging.getLogger(__name__)

# Rounds, each asked twice, of which no reply could be used: a reference LM that is no help costs all the same.
_MOST_BARREN = 5


@dataclass
class Cycle:
    """Runs phases for one program.

    Attributes:
        program: The program whose instructions are optimised; never changed.
        scorer: Runs and judges pairs.
        racing: The rule that drops candidates.
        memory: Keeps outcomes.
        spread_penalty: Times the standard deviation over tasks, taken off the mean score; at least 0.
        listener: Is told what happens.
        ledger: Says what may still be spent.
        met: Pairs scored so far, by this compile or, before it was broken off, for it.
        checked: Set when the reference LM was found to answer.
        aside: Waits for an LM; where phases go on at once, others have their turns meanwhile.
    """

    program: dspy.Module
    scorer: Scorer
    racing: Racing
    memory: Memory
    spread_penalty: float = 0.0
    listener: Listener = lambda event: None
    ledger: Ledger = field(default_factory=Ledger)
    met: set[Pair] = field(default_factory=set)
    checked: threading.Event = field(default_factory=threading.Event)
    aside: Callable[[Any], Any] = iter

    def run(
        self,
        phase: str,
        population: Sequence[Candidate],
        *,
        search: Panel,
        selection: Panel | None,
        proposer: Proposer,
        rounds: int,
        proposals_per_round: int,
        finalists: int,
        stop: Sequence[StopRule] = (),
        prior: Sequence[ScoredCandidate] = (),
    ) -> PhaseResult:
        """Run one phase.

        Args:
            phase: "source", "target", or "target <name>" where there are several.
            population: The first candidates; the first of them is the original, which is always a finalist.
            search: What candidates are scored on while new ones are proposed.
            selection: What the finalists are chosen on; None to choose by the search scores.
            proposer: Asks the reference LM.
            rounds: Rounds of proposals at most.
            proposals_per_round: Proposals asked for in a round.
            finalists: How many of the best go to the selection, the original aside.
            stop: Rules asked before every round. Budgets and halts are the ledger's.
            prior: Source prompts with their source scores, shown to the reference LM.

        Returns:
            The result. After a halt it holds the best so far; the original wins where nothing else was scored.

        Raises:
            ConfigurationError: If the racing rule breaks its contract.
            ScoringFailedError, LMUnavailableError, LogprobsUnavailableError: As the scorer and the proposer do.
            KeyboardInterrupt: If it comes when a halt is under way already.
        """
        panels = PanelScorer(self.program, self.scorer, self.memory, self.ledger, self.met, self.aside)
        worth = PhaseScore(self.scorer.objective, self.spread_penalty)
        run = _Phase(self, phase, population[0], search, selection, proposer, prior, panels, worth)
        try:
            self.listener(PhaseBegan(phase, len(population), rounds))
            if rounds and not self.checked.is_set():
                # A wrong key or name is to show before the scorer is paid for a whole population.
                proposer.check()
                self.checked.set()
            run.find(population, rounds, proposals_per_round, stop, finalists)
            ranked = run.select(finalists)
        except KeyboardInterrupt:
            if self.ledger.halted is not None:
                raise  # The second one: stop now.
            self.ledger.halt(INTERRUPTED)
            ranked = run.best_so_far(finalists)
        except HaltedError as halt:
            run.stopped = halt.reason
            ranked = run.best_so_far(finalists)
        if self.ledger.halted is not None:
            logger.warning("The %s phase was halted (%s); ending with the best so far.", phase, self.ledger.halted)
            run.stopped = self.ledger.halted
        run.tell_spent()
        result = run.result(ranked)
        self.listener(PhaseEnded(phase, result))
        return result

    def standings(self, phase: str, candidates: Sequence[Candidate], panel: Panel) -> list[Standing]:
        """Score candidates on a panel, outside any race; what the memory knows is not scored again.

        Raises:
            HaltedError: If the ledger lets a pair not begin.
        """
        self.ledger.enter(phase, "search")
        panels = PanelScorer(self.program, self.scorer, self.memory, self.ledger, self.met)
        return panels.standings(
            candidates,
            panel,
            begins=lambda total: self.listener(StepBegan(phase, total)),
            counts=lambda outcome: None,
            arrives=lambda outcome: self.listener(OutcomeArrived(phase, outcome)),
        )


@dataclass
class _Phase:
    """One phase while it runs: a place for what accumulates."""

    cycle: Cycle
    name: str
    original: Candidate
    search: Panel
    selection: Panel | None
    proposer: Proposer
    prior: Sequence[ScoredCandidate]
    panels: PanelScorer
    worth: PhaseScore
    history: History = field(init=False)
    dropped: list[Candidate] = field(default_factory=list)
    unfinished: list[Candidate] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    stopped: str = "all rounds done"
    usage: Usage = field(default_factory=Usage)
    finals: Finals | None = None

    def __post_init__(self) -> None:
        self.history = History(self.worth)

    def result(self, ranked: Sequence[ScoredCandidate]) -> PhaseResult:
        return PhaseResult(
            ranked=tuple(ranked),
            history=tuple(self.history),
            dropped=tuple(self.dropped),
            unfinished=tuple(self.unfinished),
            proposals=tuple(self.proposals),
            stopped=self.stopped,
            scorer_usage=self.usage,
            reference_usage=self.proposer.usage,
            interaction=self.history.interaction(),
            search=_sizes(self.search),
            selection=None if self.selection is None else _sizes(self.selection),
            finals=self.finals,
        )

    def tell(self, event: Event) -> None:
        self.cycle.listener(event)

    def tell_round(self, round: int, finalists: int) -> None:
        self.tell_spent()
        self.tell(RoundEnded(self.name, round, self.result(self.by_search_score(finalists))))

    def tell_spent(self) -> None:
        self.tell(Spending(self.name, self.cycle.ledger.spent))

    def find(
        self, population: Sequence[Candidate], rounds: int, count: int, stop: Sequence[StopRule], finalists: int
    ) -> None:
        """Search, until the rounds are done, a rule says stop, or this phase's share of a budget is spent."""
        self.cycle.ledger.enter(self.name, "search")
        try:
            self.score(population, round=0, finalists=finalists)
            self.tell_round(0, finalists)
            self.search_rounds(rounds, count, stop, finalists)
        except HaltedError as halt:
            if self.cycle.ledger.halted is not None:
                raise
            # There is something set aside to choose with.
            self.stopped = halt.reason

    def score(self, candidates: Sequence[Candidate], round: int, finalists: int) -> None:
        """Race candidates on the search panel against the best so far, and record how they did.

        Raises:
            HaltedError: If the race was halted, after what it had found out was recorded.
        """
        ended = race(
            candidates,
            self.search,
            rule=self.cycle.racing,
            worth=self.worth,
            outcomes=self.outcomes,
            decides=lambda share, kept, out: self.tell(Decided(self.name, share, kept, out)),
            incumbents=[scored.candidate for scored in self.history.complete()[:finalists]],
        )
        dropped, unfinished = ([entry.candidate for entry in some] for some in (ended.dropped, ended.unfinished))
        self.dropped += dropped
        self.unfinished += unfinished
        # All are recorded before anybody is told: a listener may be interrupted, and then nothing paid for is lost.
        for scored in self.history.record(ended.reached, [*ended.dropped, *ended.unfinished], round):
            out = scored.candidate in dropped
            self.tell(CandidateScored(self.name, scored, out, complete=not out and scored.candidate not in unfinished))
        if ended.halted is not None:
            raise HaltedError(ended.halted)

    def outcomes(self, candidates: Sequence[Candidate], panel: Panel) -> list[Standing]:
        """Have candidates scored on a panel; what is known already is not scored again."""
        return self.panels.standings(
            candidates,
            panel,
            begins=lambda total: self.tell(StepBegan(self.name, total)),
            counts=self.count,
            arrives=lambda outcome: self.tell(OutcomeArrived(self.name, outcome)),
        )

    def count(self, outcome: Outcome) -> None:
        """Count a new outcome."""
        self.usage += outcome.usage

    def search_rounds(self, rounds: int, count: int, stop: Sequence[StopRule], finalists: int) -> None:
        """Propose and score until the rounds are done or a rule says stop."""
        usable = barren = 0
        without_gain = 0
        for round in range(1, rounds + 1):
            best = self.history.ranked()[0]
            # A score that breaks the constraints is no score to stop at.
            score = best.score if best.violation == 0 else math.nan
            progress = Progress(round, score, without_gain, self.name, self.cycle.ledger.spent)
            reason = next((reason for rule in stop if (reason := rule(progress))), None)
            # A round that is likely to be paid for to its end is worth more than a larger one that is not.
            affordable, blamed = self.cycle.ledger.affordable(count, self.usual_cost(), calls=1)
            if barren == _MOST_BARREN:
                reason = reason or f"no usable proposal in {barren} rounds"
            if reason is not None or affordable == 0:
                self.stopped = reason or blamed or self.stopped
                break
            proposals = self.proposer.propose(
                self.history.worst_first(), affordable, failures=self.failures(best.candidate), prior=self.prior
            )
            self.proposals += proposals
            made = dict.fromkeys(proposal.candidate for proposal in proposals if proposal.candidate is not None)
            new = [candidate for candidate in made if candidate not in self.history]
            self.tell(Proposed(self.name, round, len(new), len(proposals)))
            usable += len(new)
            barren = 0 if made else barren + 1
            if new:
                self.score(new, round, finalists)
            without_gain = 0 if self.history.ranked()[0].round == round else without_gain + 1
            self.tell_round(round, finalists)
        if rounds and self.proposals and not usable:
            reasons = "; ".join(dict.fromkeys(p.reason for p in self.proposals if p.reason))
            warnings.warn(
                f"In the {self.name} phase none of {len(self.proposals)} replies of the reference LM could serve as an "
                f"instruction ({reasons}). The best of the first population was kept; use a stronger reference LM.",
                NoUsableProposalWarning,
                stacklevel=5,
            )

    def usual_cost(self) -> int:
        """Say how many pairs a proposal is likely to take: as many as those before it, until a race dropped them."""
        whole = sum(map(len, self.search.values()))
        usual = usual_share(self.cycle.racing, self.search)
        if usual == 1.0:
            # What is not paid for to its end may be lost.
            return whole
        met = [
            scored.measurement.examples
            for scored in self.history
            if scored.measurement is not None and scored.candidate.origin == "proposal"
        ]
        return math.ceil((usual * whole + sum(met)) / (1 + len(met)))

    def failures(self, candidate: Candidate, limit: int = 3) -> list[tuple[dspy.Example, Outcome]]:
        """List what a candidate got wrong on the search panel: unfollowed ones first, the tasks taking turns."""
        by_task = [
            [
                (example, outcome)
                for example in examples
                if (outcome := self.cycle.memory.outcome((candidate.id, fingerprint(example)))) is not None
                and (not outcome.followed or outcome.correct < 1.0)
            ]
            for examples in self.search.values()
        ]
        in_turn = (pair for turn in zip_longest(*by_task) for pair in turn if pair is not None)
        return sorted(in_turn, key=lambda pair: pair[1].followed)[:limit]

    def select(self, finalists: int) -> list[ScoredCandidate]:
        """Choose among the best on the selection panel; the original always takes part.

        Without a selection panel it is the search panel, whose outcomes are known; but there, too, the comparison is
        on the examples that all finalists have an answer to.

        Raises:
            HaltedError: If it was halted before they were all scored.
        """
        best = self.history.complete() if self.selection is None else self.history.ranked()
        if self.selection is not None:
            finalists = self.affordable_finalists(finalists)
        candidates = list(dict.fromkeys([self.original, *(scored.candidate for scored in best[:finalists])]))
        if self.selection is not None:
            self.tell(SelectionBegan(self.name, len(candidates)))
        panel = self.search if self.selection is None else self.selection
        self.finals = Finals(panel, self.outcomes(candidates, panel))
        standings = on_common_examples(self.finals.standings)
        before = None if self.selection is None else [self.met_with_original(candidate) for candidate in candidates]
        return choose(standings, self.history, self.worth, fresh=before is not None, before=before)

    def met_with_original(self, candidate: Candidate) -> tuple[Standing, Standing]:
        """Give how the original and a candidate did on the examples of the search that both have met."""
        first, *_, own = on_common_examples(self.panels.known([self.original, candidate], self.search))
        return first, own

    def affordable_finalists(self, finalists: int) -> int:
        """Say how many finalists can be scored on the selection panel, the original aside.

        Raises:
            HaltedError: If none can.
        """
        ledger = self.cycle.ledger
        ledger.enter(self.name, "selection")
        affordable, blamed = ledger.affordable(1 + finalists, sum(map(len, (self.selection or {}).values())))
        if affordable < 2:
            raise HaltedError(blamed or self.stopped)
        return affordable - 1

    def best_so_far(self, finalists: int) -> list[ScoredCandidate]:
        """Rank the best by the search alone, without a further call."""
        self.finals = None  # Whatever was known of them did not decide.
        if self.history.complete():
            return self.by_search_score(finalists)
        # The first population did not come to its end: on the examples that the best of it have met.
        candidates = [self.original, *(scored.candidate for scored in self.history.ranked()[:finalists])]
        known = self.panels.known(list(dict.fromkeys(candidates)), self.search)
        if not any(known[0].outcomes.values()):
            return self.by_search_score(finalists)
        return choose(on_common_examples(known), self.history, self.worth, fresh=False)

    def by_search_score(self, finalists: int) -> list[ScoredCandidate]:
        """Rank those that have met all examples; the original comes last where it has not."""
        ranked = self.history.complete()
        own = next((scored for scored in ranked if scored.candidate == self.original), None)
        kept = ranked[:finalists]
        if own is None:
            seen = self.original in self.history
            return [*kept, self.history[self.original] if seen else ScoredCandidate(self.original, float("nan"), {})]
        kept = kept if own in kept else [*kept, own]
        return sorted(kept, key=lambda scored: not scored.merit < own.merit, reverse=True)


def _sizes(panel: Panel) -> dict[str, int]:
    return {name: len(examples) for name, examples in panel.items()}
