"""The cycle that both phases share: propose, race, record, stop; then choose on the selection panel."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
import numpy as np

from tp_dspy.errors import NoUsableProposalWarning
from tp_dspy.optimization.candidates import Candidate, History, ScoredCandidate
from tp_dspy.optimization.racing import Racing, Standing, step_ends
from tp_dspy.optimization.reference import Proposal, Proposer
from tp_dspy.optimization.stopping import Progress, StopRule
from tp_dspy.scoring.outcomes import Outcome, Usage
from tp_dspy.scoring.scorer import Job, Scorer

__all__ = ["Cycle", "Event", "Listener", "OutcomeStore", "Panel", "PhaseResult", "fingerprint"]

logger = logging.getLogger(__name__)

Panel = Mapping[str, Sequence[dspy.Example]]
"""What candidates are scored on: examples by task name, in the one order that every candidate meets."""

OutcomeStore = MutableMapping[tuple[str, str], Outcome]
"""Keeps every outcome by candidate id and example fingerprint; what it holds is not paid for again."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a phase, for whoever shows or records it.

    Attributes:
        kind: ``plan``, ``phase`` (begins), ``step`` (of scoring; `total` pairs), ``outcome``, ``scored``,
            ``proposals``, ``selection`` (begins), ``end``.
        phase: "source" or "target".
        data: What belongs to the kind.
    """

    kind: str
    phase: str
    data: Mapping[str, Any] = field(default_factory=dict)


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class PhaseResult:
    """What a phase found.

    Attributes:
        ranked: The finalists, best first, with their scores on the selection panel (on the search panel when there is
            no other).
        history: Everything that was scored on the search panel, in order of arrival.
        dropped: Candidates that the race dropped.
        proposals: Every reply of the reference LM.
        stopped: Why the phase ended.
        scorer_usage: What the scorer LM cost.
        reference_usage: What the reference LM cost.
    """

    ranked: tuple[ScoredCandidate, ...]
    history: tuple[ScoredCandidate, ...]
    dropped: tuple[Candidate, ...]
    proposals: tuple[Proposal, ...]
    stopped: str
    scorer_usage: Usage
    reference_usage: Usage

    @property
    def best(self) -> ScoredCandidate:
        """The winner."""
        return self.ranked[0]


def fingerprint(example: dspy.Example) -> str:
    """Identify an example by its content: the first 16 hex digits of a sha256."""
    text = json.dumps(example.toDict(), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Cycle:
    """Runs phases for one program.

    Attributes:
        program: The program whose instructions are optimised; never changed.
        scorer: Runs and judges pairs.
        racing: The rule that drops candidates.
        store: Keeps outcomes.
        spread_penalty: Times the standard deviation over tasks, taken off the mean score; at least 0.
        listener: Is told what happens.
        calls: Pairs scored so far.
    """

    program: dspy.Module
    scorer: Scorer
    racing: Racing
    store: OutcomeStore
    spread_penalty: float = 0.0
    listener: Listener = lambda event: None
    calls: int = 0

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
            phase: "source" or "target".
            population: The first candidates; the first of them is the original, which is always a finalist.
            search: What candidates are scored on while new ones are proposed.
            selection: What the finalists are chosen on; None to choose by the search scores.
            proposer: Asks the reference LM.
            rounds: Rounds of proposals at most.
            proposals_per_round: Proposals asked for in a round.
            finalists: How many of the best go to the selection, the original aside.
            stop: Rules asked before every round.
            prior: Source prompts with their source scores, shown to the reference LM.

        Returns:
            The result. After Ctrl-C it holds the best so far; the original wins where nothing else was scored.
        """
        run = _Phase(self, phase, population[0], search, selection, proposer, prior)
        self.listener(Event("phase", phase, {"candidates": len(population), "rounds": rounds}))
        try:
            run.score(population, round=0)
            run.search_rounds(rounds, proposals_per_round, stop)
            ranked = run.select(finalists)
        except KeyboardInterrupt:
            logger.warning("Interrupted in the %s phase; ending with the best so far.", phase)
            run.stopped = "interrupted"
            ranked = run.fallback(finalists)
        self.listener(Event("end", phase, {"stopped": run.stopped, "best": ranked[0]}))
        return PhaseResult(
            ranked=tuple(ranked),
            history=tuple(run.history),
            dropped=tuple(run.dropped),
            proposals=tuple(run.proposals),
            stopped=run.stopped,
            scorer_usage=run.usage,
            reference_usage=proposer.usage,
        )

    def value(self, candidate: Candidate, outcomes: Mapping[str, Sequence[Outcome]], round: int) -> ScoredCandidate:
        """Turn outcomes by task into one score: the mean over tasks, less the spread penalty."""
        by_task = {name: self.scorer.objective.measure(results) for name, results in outcomes.items()}
        scores = np.array([metrics.score for metrics in by_task.values()])
        score = float(scores.mean() - self.spread_penalty * scores.std())
        return ScoredCandidate(candidate, score, by_task, round)


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
    history: History = field(default_factory=History)
    dropped: list[Candidate] = field(default_factory=list)
    proposals: list[Proposal] = field(default_factory=list)
    stopped: str = "all rounds done"
    usage: Usage = field(default_factory=Usage)

    def tell(self, kind: str, **data: Any) -> None:
        self.cycle.listener(Event(kind, self.name, data))

    def score(self, candidates: Sequence[Candidate], round: int) -> None:
        """Race candidates on the search panel and record those that reach its end."""
        standings = self.race(candidates, self.search)
        for standing in standings:
            scored = self.cycle.value(standing.candidate, standing.outcomes, round)
            self.history.add(scored)
            self.tell("scored", scored=scored)

    def race(self, candidates: Sequence[Candidate], panel: Panel) -> list[Standing]:
        """Score candidates step by step on equal examples, dropping those that the racing rule drops."""
        racing = self.cycle.racing
        alive = list(dict.fromkeys(candidates))
        standings: list[Standing] = []
        sizes = {name: len(examples) for name, examples in panel.items()}
        for share, ends in zip(racing.checkpoints, step_ends(sizes, racing.checkpoints), strict=True):
            seen = {name: list(examples)[: ends[name]] for name, examples in panel.items()}
            standings = self.outcomes(alive, seen)
            kept = set(racing.survivors(standings, share))
            self.dropped += [candidate for candidate in alive if candidate not in kept]
            alive = [candidate for candidate in alive if candidate in kept]
            standings = [standing for standing in standings if standing.candidate in kept]
        return standings

    def outcomes(self, candidates: Sequence[Candidate], panel: Panel) -> list[Standing]:
        """Have every pair scored that is not known yet. Candidate by candidate, so that prefix caches hold."""
        store = self.cycle.store
        keys = {name: [fingerprint(example) for example in examples] for name, examples in panel.items()}
        jobs: dict[tuple[str, str], Job[tuple[str, str]]] = {}
        for candidate in candidates:
            program = None
            for name, examples in panel.items():
                for key, example in zip(keys[name], examples, strict=True):
                    pair = (candidate.id, key)
                    if pair in store or pair in jobs:
                        continue
                    if program is None:
                        program = self.cycle.scorer.prepare(candidate.apply(self.cycle.program))
                    jobs[pair] = Job(pair, program, example)
        self.tell("step", total=len(jobs))
        failed: dict[tuple[str, str], Outcome] = {}
        for pair, outcome in self.cycle.scorer.score(jobs.values()):
            self.cycle.calls += 1
            self.usage += outcome.usage
            # An error is no result: it stays out of the store, so that it is tried again when it is next needed.
            (failed if outcome.status == "error" else store)[pair] = outcome
            self.tell("outcome", outcome=outcome)
        known = {pair: failed.get(pair) or store[pair] for pair in _pairs(candidates, keys)}
        return [
            Standing(c, {name: [known[c.id, key] for key in task_keys] for name, task_keys in keys.items()})
            for c in candidates
        ]

    def search_rounds(self, rounds: int, count: int, stop: Sequence[StopRule]) -> None:
        """Propose and score until the rounds are done or a rule says stop."""
        usable = 0
        without_gain = 0
        for round in range(1, rounds + 1):
            best = self.history.ranked()[0].score
            pairs = count * sum(len(examples) for examples in self.search.values())
            progress = Progress(round, best, without_gain, self.cycle.calls, pairs)
            reason = next((reason for rule in stop if (reason := rule(progress))), None)
            if reason is not None:
                self.stopped = reason
                break
            proposals = self.proposer.propose(
                self.history.worst_first(), count, failures=self.failures(), prior=self.prior
            )
            self.proposals += proposals
            new = [p.candidate for p in proposals if p.candidate is not None and p.candidate not in self.history]
            self.tell("proposals", round=round, usable=len(new), asked=len(proposals))
            usable += len(new)
            if new:
                self.score(new, round)
            without_gain = 0 if self.history.ranked()[0].score > best else without_gain + 1
        if rounds and self.proposals and not usable:
            reasons = "; ".join(dict.fromkeys(p.reason for p in self.proposals if p.reason))
            warnings.warn(
                f"In the {self.name} phase none of {len(self.proposals)} replies of the reference LM could serve as an "
                f"instruction ({reasons}). The best of the first population was kept; use a stronger reference LM.",
                NoUsableProposalWarning,
                stacklevel=5,
            )

    def failures(self, limit: int = 3) -> list[tuple[dspy.Example, Outcome]]:
        """List what the best candidate got wrong on the search panel, unfollowed ones first."""
        best = self.history.best
        if best is None:
            return []
        pairs = [
            (example, outcome)
            for examples in self.search.values()
            for example in examples
            if (outcome := self.cycle.store.get((best.candidate.id, fingerprint(example)))) is not None
            and (not outcome.followed or outcome.correct < 1.0)
        ]
        return sorted(pairs, key=lambda pair: pair[1].followed)[:limit]

    def select(self, finalists: int) -> list[ScoredCandidate]:
        """Choose among the best on the selection panel; the original always takes part, and wins ties."""
        best = [scored.candidate for scored in self.history.ranked()[:finalists]]
        candidates = list(dict.fromkeys([self.original, *best]))
        if self.selection is None:
            return self.fallback(finalists)
        self.tell("selection", candidates=len(candidates))
        standings = _on_common_examples(self.outcomes(candidates, self.selection))
        rounds = {scored.candidate.id: scored.round for scored in self.history}
        scored = [self.cycle.value(s.candidate, s.outcomes, rounds.get(s.candidate.id, 0)) for s in standings]
        return sorted(scored, key=lambda entry: -entry.score)

    def fallback(self, finalists: int) -> list[ScoredCandidate]:
        """Rank by the search scores, the original among them; alone when nothing was scored yet."""
        ranked = self.history.ranked()
        if not any(scored.candidate == self.original for scored in ranked):
            return [ScoredCandidate(self.original, float("nan"), {})]
        kept = ranked[:finalists]
        return kept + [scored for scored in ranked[finalists:] if scored.candidate == self.original]


def _pairs(candidates: Iterable[Candidate], keys: Mapping[str, Sequence[str]]) -> Iterable[tuple[str, str]]:
    return ((c.id, key) for c in candidates for task_keys in keys.values() for key in task_keys)


def _on_common_examples(standings: Sequence[Standing]) -> list[Standing]:
    """Leave out the examples on which any candidate ended in an error, so that all are compared on equal terms."""
    kept = {
        name: [
            index
            for index in range(len(outcomes))
            if all(standing.outcomes[name][index].status != "error" for standing in standings)
        ]
        for name, outcomes in standings[0].outcomes.items()
    }
    return [
        Standing(s.candidate, {name: [s.outcomes[name][i] for i in indices] for name, indices in kept.items()})
        for s in standings
    ]
