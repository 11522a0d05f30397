"""What saved files are made of: candidates, proposals, phases and tasks as plain values."""

from __future__ import annotations

import math
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from tp_dspy.optimization.candidates import Candidate, Measurement, Origin, ScoredCandidate
from tp_dspy.optimization.evidence import Belief
from tp_dspy.optimization.phase_result import PhaseResult
from tp_dspy.scoring.outcomes import Usage
from tp_dspy.scoring.set_objective import Metrics
from tp_dspy.tasks.task import Task

__all__ = ["CandidateRecord", "PhaseRecord", "ProposalRecord", "Record", "TaskRecord", "Yield"]


class Record(BaseModel):
    """A part of a saved file: read-only, checked when it is read."""

    # NaN is a value here (AUROC of a set with one class), and plain JSON has none: it is written as "NaN".
    model_config = ConfigDict(ser_json_inf_nan="strings", frozen=True, extra="forbid")


class CandidateRecord(Record):
    """A candidate with its scores.

    Attributes:
        id: Stable id of the instructions.
        instructions: Instruction by predictor name.
        origin: Where it came from.
        score: Its score in the phase, in [0, 1] without a spread penalty; NaN if it was never scored.
        by_task: Metrics by task name.
        round: The round it was first scored in; 0 is the first population.
        parent: Id of the candidate that the reference LM was to better with it; None where it did not write it.
        prior: What the source phase let expect of its score, up to the task's difficulty.
        expected: What is expected of it, all that is known taken together.
        measurement: How the score in the search came about; None where that was not kept.
    """

    id: str
    instructions: dict[str, str]
    origin: Origin
    score: float
    by_task: dict[str, Metrics]
    round: int
    parent: str | None = None
    prior: Belief | None = None
    expected: Belief | None = None
    measurement: Measurement | None = None

    @classmethod
    def of(cls, scored: ScoredCandidate) -> CandidateRecord:
        """Record a scored candidate."""
        candidate = scored.candidate
        return cls(
            id=candidate.id,
            instructions=dict(candidate.instructions),
            origin=candidate.origin,
            score=scored.score,
            by_task=dict(scored.by_task),
            round=scored.round,
            parent=candidate.parent,
            prior=candidate.prior,
            expected=scored.expected,
            measurement=scored.measurement,
        )

    def scored(self) -> ScoredCandidate:
        """Give the candidate back."""
        return ScoredCandidate(
            Candidate(self.instructions, self.origin, self.prior, self.parent),
            self.score,
            self.by_task,
            self.round,
            self.expected,
            self.measurement,
        )


class ProposalRecord(Record):
    """One reply of the reference LM, and why it was rejected (None when it was not)."""

    predictor: str
    text: str
    reply: str
    reason: str | None
    candidate: str | None


class Yield(NamedTuple):
    """What the replies of the reference LM were good for.

    Attributes:
        asked: Replies.
        usable: Those that passed the guards.
        better: Those that scored above their parent, on all examples of the search.
    """

    asked: int = 0
    usable: int = 0
    better: int = 0

    def __str__(self) -> str:
        return f"{self.usable} of {self.asked} proposals usable, {self.better} better than their parent"


class PhaseRecord(Record):
    """What a phase did.

    Attributes:
        ranked: The finalists, best first, with their scores on the selection panel.
        history: Every candidate scored on the search panel, in order of arrival.
        dropped: Ids of those that a race dropped before they had met all examples.
        unfinished: Ids of those that were in a race when it was halted.
        proposals: Every reply of the reference LM.
        stopped: Why the phase ended.
        scorer_usage: What the scorer LM cost.
        reference_usage: What the reference LM cost.
        interaction: How much what a candidate is worth differs from task to task, as a standard deviation.
        search: How many examples of each task candidates are scored on; empty where that was not kept.
        selection: How many the finalists are chosen on; None where the search scores choose.
    """

    ranked: list[CandidateRecord]
    history: list[CandidateRecord]
    dropped: list[str]
    proposals: list[ProposalRecord]
    stopped: str
    scorer_usage: Usage
    reference_usage: Usage
    interaction: float
    search: dict[str, int] = Field(default_factory=dict)
    selection: dict[str, int] | None = None
    unfinished: list[str] = Field(default_factory=list)

    @property
    def incomplete(self) -> set[str]:
        """Ids of those that have not met all examples: their scores are on fewer than those of the others."""
        return {*self.dropped, *self.unfinished}

    @property
    def proposal_yield(self) -> Yield:
        """What the replies of the reference LM were good for."""
        scores = {record.id: record.score for record in self.history if record.id not in self.incomplete}
        better = [
            record
            for record in self.history
            if record.origin == "proposal"
            and record.parent in scores
            and scores.get(record.id, -math.inf) > scores[record.parent]
        ]
        return Yield(len(self.proposals), sum(one.reason is None for one in self.proposals), len(better))

    @classmethod
    def of(cls, result: PhaseResult) -> PhaseRecord:
        """Record a phase."""
        return cls(
            ranked=[CandidateRecord.of(scored) for scored in result.ranked],
            history=[CandidateRecord.of(scored) for scored in result.history],
            dropped=[candidate.id for candidate in result.dropped],
            unfinished=[candidate.id for candidate in result.unfinished],
            proposals=[
                ProposalRecord(
                    predictor=p.predictor,
                    text=p.text,
                    reply=p.reply,
                    reason=p.reason,
                    candidate=p.candidate.id if p.candidate else None,
                )
                for p in result.proposals
            ],
            stopped=result.stopped,
            scorer_usage=result.scorer_usage,
            reference_usage=result.reference_usage,
            interaction=result.interaction,
            search=dict(result.search),
            # Planned, but not reached: then the finalists have the scores of the search.
            selection=None if result.selection is None or result.finals is None else dict(result.selection),
        )


class TaskRecord(Record):
    """A task that took part, by name and size."""

    name: str
    domain: str | None
    description: str
    train: int
    validation: int

    @classmethod
    def of(cls, task: Task) -> TaskRecord:
        """Record a task; its test split is not touched."""
        sizes = {"train": len(task.train), "validation": len(task.validation)}
        return cls(name=task.name, domain=task.domain, description=task.description, **sizes)
