"""What a phase found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tp_dspy.optimization.candidates import Candidate, Panel, ScoredCandidate, Standing
from tp_dspy.optimization.reference import Proposal
from tp_dspy.scoring.outcomes import Usage

__all__ = ["Finals", "PhaseResult"]


@dataclass(frozen=True)
class Finals:
    """The finalists on the examples that they were chosen on.

    Attributes:
        panel: The examples, by task.
        standings: The finalists' outcomes, one for each example of the panel; some may be errors.
    """

    panel: Panel
    standings: Sequence[Standing]


@dataclass(frozen=True)
class PhaseResult:
    """What a phase found.

    Attributes:
        ranked: The finalists, the original always among them, with their scores on the selection panel (on the search
            panel when there is no other, or the phase was interrupted): those that did not measure below the original,
            on all examples that both have met, best expected first, then the others. A score is NaN for an original
            that was interrupted before its last example.
        history: Everything that was scored on the search panel, in order of arrival.
        dropped: Those of them that a race dropped, which have met fewer examples.
        unfinished: Those of them that were in a race when it was halted, which have met fewer examples, too.
        proposals: Every reply of the reference LM.
        stopped: Why the phase ended.
        scorer_usage: What the scorer LM cost.
        reference_usage: What the reference LM cost.
        interaction: Standard deviation of what a candidate is worth on one of the tasks beyond its mean over them; at
            least 0. It limits what the scores let expect of another task.
        search: How many examples of each task candidates are scored on.
        selection: How many examples of each task the finalists are chosen on; None where the search scores choose.
        finals: What the finalists did on the examples they were chosen on; None where the phase did not get there.
    """

    ranked: tuple[ScoredCandidate, ...]
    history: tuple[ScoredCandidate, ...]
    dropped: tuple[Candidate, ...]
    proposals: tuple[Proposal, ...]
    stopped: str
    scorer_usage: Usage
    reference_usage: Usage
    interaction: float = 0.0
    search: Mapping[str, int] = field(default_factory=dict)
    selection: Mapping[str, int] | None = None
    finals: Finals | None = None
    unfinished: tuple[Candidate, ...] = ()

    @property
    def best(self) -> ScoredCandidate:
        """The winner."""
        return self.ranked[0]
