"""Panels of examples, and having candidates scored on them: nothing twice, errors held against nobody."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import dspy

from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.scorer import Job, Scorer

__all__ = ["OutcomeStore", "Pair", "Panel", "PanelScorer", "fingerprint", "on_common_examples"]

logger = logging.getLogger(__name__)

Panel = Mapping[str, Sequence[dspy.Example]]
"""What candidates are scored on: examples by task name, in the one order that every candidate meets."""

Pair = tuple[str, str]
"""A candidate's id and an example's fingerprint."""

OutcomeStore = MutableMapping[Pair, Outcome]
"""Keeps every outcome by candidate id and example fingerprint; what it holds is not paid for again."""


def fingerprint(example: dspy.Example) -> str:
    """Identify an example by its content: the first 16 hex digits of a sha256."""
    text = json.dumps(example.toDict(), sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


@dataclass
class PanelScorer:
    """Scores candidates on panels during one phase.

    Attributes:
        program: The program that takes the candidates' instructions; never changed.
        scorer: Runs and judges pairs.
        store: Keeps outcomes.
        prepared: The programs of the candidates that were scored last, which the next step of a race scores again.
        failed: Pairs that got no answer in this phase. They stay out of the store, so that a later phase or run tries
            them again; in this phase the scorer has tried twice already.
    """

    program: dspy.Module
    scorer: Scorer
    store: OutcomeStore
    failed: dict[Pair, Outcome] = field(default_factory=dict)
    prepared: dict[str, dspy.Module] = field(default_factory=dict)

    def standings(
        self,
        candidates: Sequence[Candidate],
        panel: Panel,
        *,
        begins: Callable[[int], None],
        arrives: Callable[[Outcome], None],
    ) -> list[Standing]:
        """Have every pair scored that is not known yet.

        Args:
            candidates: The candidates.
            panel: What they are scored on.
            begins: Told the number of pairs to be scored.
            arrives: Told every new outcome, in order of arrival.

        Returns:
            One standing per candidate, in their order, with one outcome per example, in the panel's order.
        """
        keys = {name: [fingerprint(example) for example in examples] for name, examples in panel.items()}
        jobs = self._jobs(candidates, panel, keys)
        begins(len(jobs))
        for pair, outcome in self.scorer.score(jobs):
            (self.failed if outcome.status == "error" else self.store)[pair] = outcome
            arrives(outcome)
        return [
            Standing(c, {name: [self._known((c.id, key)) for key in task_keys] for name, task_keys in keys.items()})
            for c in candidates
        ]

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
                    if pair in self.store or pair in self.failed or pair in jobs:
                        continue
                    if program is None:
                        program = self.scorer.prepare(candidate.apply(self.program))
                    self.prepared[candidate.id] = program
                    jobs[pair] = Job(pair, program, example)
        return list(jobs.values())

    def _known(self, pair: Pair) -> Outcome:
        return self.failed[pair] if pair in self.failed else self.store[pair]


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
