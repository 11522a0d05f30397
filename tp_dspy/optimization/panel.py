"""Panels of examples, and having candidates scored on them: nothing twice, errors held against nobody."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from tp_dspy.optimization.candidates import Candidate, Panel, Standing
from tp_dspy.optimization.ledger import Ledger
from tp_dspy.optimization.memory import Memory, Pair
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.scorer import Job, Scorer

__all__ = ["Panel", "PanelScorer", "fingerprint", "on_common_examples"]

logger = logging.getLogger(__name__)


def fingerprint(example: dspy.Example) -> str:
    """Identify an example by its content: the first 16 hex digits of a sha256."""
    text = json.dumps(example.toDict(), sort_keys=True, ensure_ascii=False, default=_spelled)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def _spelled(value: Any) -> Any:
    # A set is spelled in another order in every process.
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


@dataclass
class PanelScorer:
    """Scores candidates on panels during one phase.

    Attributes:
        program: The program that takes the candidates' instructions; never changed.
        scorer: Runs and judges pairs.
        memory: Keeps outcomes.
        ledger: Lets pairs begin, and adds up what they cost.
        met: The pairs that this compile has come across, in this phase or an earlier one.
        prepared: The programs of the candidates that were scored last, which the next step of a race scores again.
        aside: Waits for what is scored; others may have their turns meanwhile, see `tp_dspy.optimization.turns`.
        failed: Pairs that got no answer in this phase. They stay out of the memory, so that a later phase or run tries
            them again; in this phase the scorer has tried twice already.
    """

    program: dspy.Module
    scorer: Scorer
    memory: Memory
    ledger: Ledger = field(default_factory=Ledger)
    met: set[Pair] = field(default_factory=set)
    aside: Callable[[Generator[Any, None, None]], Generator[Any, None, None]] = iter
    failed: dict[Pair, Outcome] = field(default_factory=dict)
    prepared: dict[str, dspy.Module] = field(default_factory=dict)

    def standings(
        self,
        candidates: Sequence[Candidate],
        panel: Panel,
        *,
        begins: Callable[[int], None],
        counts: Callable[[Outcome], None],
        arrives: Callable[[Outcome], None],
    ) -> list[Standing]:
        """Have every pair scored that is not known yet.

        Args:
            candidates: The candidates.
            panel: What they are scored on.
            begins: Told the number of pairs that are new to this compile.
            counts: Told every one of their outcomes, to add up what they cost: first those that the memory has, from
                before this compile was broken off, then those that are scored, in order of arrival. If this breaks
                off, also of those that had come and were not looked at.
            arrives: Told the same, but for the last.

        Returns:
            One standing per candidate, in their order, with one outcome per example, in the panel's order.

        Raises:
            HaltedError: If the ledger lets a pair not begin, after those that had begun were kept.
        """
        keys = {name: [fingerprint(example) for example in examples] for name, examples in panel.items()}
        pairs = {(c.id, key) for c in candidates for task_keys in keys.values() for key in task_keys}
        jobs = self._jobs(candidates, panel, keys)
        new = {job.key for job in jobs}
        remembered = [pair for pair in sorted(pairs - self.met - new) if pair not in self.failed]

        def keep(pair: Pair, outcome: Outcome) -> None:
            self.met.add(pair)
            if outcome.status == "error":
                self.failed[pair] = outcome
            else:
                self.memory.keep_outcome(pair, outcome)
            counts(outcome)

        begins(len(jobs) + len(remembered))
        for pair in remembered:
            self.met.add(pair)
            self.ledger.known("scorer", self._known(pair).usage)
            counts(self._known(pair))
            arrives(self._known(pair))
        # Closed at once when something breaks it off, while the memory still takes what was paid for.
        before = len(self.met), len(self.failed)
        late: list[tuple[Pair, Outcome]] = []
        scoring = self.scorer.score(
            jobs, late=lambda *found: late.append(found), gate=self.ledger.scorer, before=before
        )
        try:
            with contextlib.closing(self.aside(scoring)) as scored:
                for pair, outcome in scored:
                    # Before anybody is told: what was heard of is not lost, whatever comes.
                    keep(pair, outcome)
                    arrives(outcome)
        finally:
            for pair, outcome in late:
                keep(pair, outcome)
        return self._standings(candidates, keys)

    def known(self, candidates: Sequence[Candidate], panel: Panel) -> list[Standing]:
        """Gather what is known of candidates, on the first examples of each task: as many as all of them have met."""
        keys = {name: [fingerprint(example) for example in examples] for name, examples in panel.items()}
        met = {
            name: list(itertools.takewhile(lambda key: all((c.id, key) in self.met for c in candidates), task_keys))
            for name, task_keys in keys.items()
        }
        return self._standings(candidates, met)

    def _jobs(
        self, candidates: Sequence[Candidate], panel: Panel, keys: Mapping[str, Sequence[str]]
    ) -> list[Job[Pair]]:
        """List what is to be run, candidate by candidate, so that prefix caches hold."""
        jobs: dict[Pair, Job[Pair]] = {}
        known, self.prepared = self.prepared, {}
        for candidate in candidates:
            program = known.get(candidate.id)
            for name, examples in panel.items():
                for key, example in zip(keys[name], examples, strict=True):
                    pair = (candidate.id, key)
                    if pair in jobs or pair in self.failed or self.memory.outcome(pair) is not None:
                        continue
                    if program is None:
                        program = self.scorer.prepare(candidate.apply(self.program))
                    self.prepared[candidate.id] = program
                    jobs[pair] = Job(pair, program, example)
        return list(jobs.values())

    def _standings(self, candidates: Sequence[Candidate], keys: Mapping[str, Sequence[str]]) -> list[Standing]:
        return [
            Standing(c, {name: [self._known((c.id, key)) for key in task_keys] for name, task_keys in keys.items()})
            for c in candidates
        ]

    def _known(self, pair: Pair) -> Outcome:
        outcome = self.failed.get(pair) or self.memory.outcome(pair)
        assert outcome is not None, pair  # It was scored above.
        return outcome


def on_common_examples(standings: Iterable[Standing]) -> list[Standing]:
    """Leave out the examples on which any candidate ended in an error, so that all are compared on equal terms.

    A task without any example left is left out whole; if none is left at all, the tasks stay, empty.
    """
    standings = list(standings)
    if not standings:
        return []
    kept = {
        name: [
            index
            for index in range(len(outcomes))
            if all(standing.outcomes[name][index].status != "error" for standing in standings)
        ]
        for name, outcomes in standings[0].outcomes.items()
    }
    lost = sum(len(outcomes) - len(kept[name]) for name, outcomes in standings[0].outcomes.items())
    if lost:
        logger.info("%d examples are left out of the comparison: not every candidate got an answer to them.", lost)
    kept = {name: indices for name, indices in kept.items() if indices} or kept
    return [
        Standing(s.candidate, {name: [s.outcomes[name][i] for i in indices] for name, indices in kept.items()})
        for s in standings
    ]
