"""The history of a phase: its scored candidates, ranked by what is expected of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tp_dspy.optimization.candidates import Candidate, Measurement, ScoredCandidate, Standing
from tp_dspy.optimization.evidence import Reading, interaction, paired_error, weigh
from tp_dspy.optimization.phase_score import PhaseScore

__all__ = ["History"]

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Entry:
    """A scored candidate, and what is needed to weigh its score.

    Attributes:
        scored: The candidate.
        standing: Its outcomes.
        draws: Resampled scores of shape (tasks, resamples); None for one that has not met all examples.
        level: Its score at the level of those that have met all examples.
        share: The share of the examples that it has met.
    """

    scored: ScoredCandidate
    standing: Standing
    draws: FloatArray | None
    level: float
    share: float = 1.0

    @property
    def met(self) -> int:
        """How many examples it has met."""
        return sum(map(len, self.standing.outcomes.values()))


class History:
    """The scored candidates of a phase. Iterates in the order of arrival; a candidate is held once.

    Args:
        worth: How outcomes make a score.
    """

    def __init__(self, worth: PhaseScore) -> None:
        self.worth = worth
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ScoredCandidate]:
        return (entry.scored for entry in self._entries.values())

    def __contains__(self, candidate: object) -> bool:
        return isinstance(candidate, Candidate) and candidate.id in self._entries

    def __getitem__(self, candidate: Candidate) -> ScoredCandidate:
        return self._entries[candidate.id].scored

    def record(self, reached: Sequence[Standing], partial: Sequence[Standing], round: int) -> list[ScoredCandidate]:
        """Take in the outcome of a race, and weigh everything anew.

        Args:
            reached: Those that have met all examples.
            partial: Those that have not.
            round: The round.

        Returns:
            What was taken in, `reached` first.
        """
        for standing in reached:
            scored, draws = self.worth.measured(standing, round)
            self._keep(_Entry(scored, standing, draws, scored.score))
        for standing in partial:
            self._keep(self._partial(standing, round))
        self._weigh()
        return [self[standing.candidate] for standing in (*reached, *partial)]

    def ranked(self) -> list[ScoredCandidate]:
        """List everything, best first; of equals, the one that came first (so the original wins ties).

        One that a race dropped is never the first: it was worse than another on the examples that both have met. Where
        nobody has met all, as the first race was halted, those come first that have met most.
        """
        entries = list(self._entries.values())
        ended = any(entry.draws is not None for entry in entries)
        # reverse=True keeps the order of equals.
        entries.sort(key=lambda entry: (0 if ended else entry.met, entry.scored.rank), reverse=True)
        first = next((entry for entry in entries if entry.draws is not None), None)
        rest = [entry.scored for entry in entries if entry is not first]
        return rest if first is None else [first.scored, *rest]

    def complete(self) -> list[ScoredCandidate]:
        """List those that have met all examples, best first."""
        return [scored for scored in self.ranked() if self._entries[scored.candidate.id].draws is not None]

    def worst_first(self) -> list[ScoredCandidate]:
        """List everything, worst first: the order in which OPRO shows it."""
        return self.ranked()[::-1]

    def interaction(self) -> float:
        """Standard deviation of what a candidate is worth on one of the tasks beyond its mean over them."""
        entries = self._measured()
        if not entries:
            return 0.0
        by_task = np.array([[metrics.score for metrics in entry.scored.by_task.values()] for entry in entries])
        draws = np.array([entry.draws for entry in entries])
        sizes = [len(outcomes) for outcomes in entries[0].standing.outcomes.values()]
        errors = [paired_error(draws[:, task], size) for task, size in enumerate(sizes)]
        return interaction(by_task, math.sqrt(float(np.mean(np.square(errors)))))

    def _keep(self, entry: _Entry) -> None:
        self._entries[entry.scored.candidate.id] = entry

    def _measured(self) -> list[_Entry]:
        """List the entries with a score on all examples of all tasks."""
        entries = [e for e in self._entries.values() if e.draws is not None and not math.isnan(e.scored.score)]
        return [entry for entry in entries if not np.isnan([m.score for m in entry.scored.by_task.values()]).any()]

    def _partial(self, standing: Standing, round: int) -> _Entry:
        """Bring a score on some of the examples to the level of all, by one that has met both."""
        scored = self.worth.of(standing, round)
        met = sum(map(len, standing.outcomes.values()))
        complete = self.complete()
        if not complete:
            return _Entry(replace(scored, measurement=Measurement(met)), standing, None, scored.score)
        best = self._entries[complete[0].candidate.id]
        seen = {name: len(outcomes) for name, outcomes in standing.outcomes.items()}
        same = {name: best.standing.outcomes[name][:count] for name, count in seen.items()}
        there = self.worth.of(Standing(best.standing.candidate, same), round).score
        share = met / sum(map(len, best.standing.outcomes.values()))
        scored = replace(scored, measurement=Measurement(met, rival=there))
        return _Entry(scored, standing, None, scored.score + best.scored.score - there, share)

    def _weigh(self) -> None:
        measured = self._measured()
        entries = [entry for entry in self._entries.values() if not math.isnan(entry.level)]
        if not measured or not entries:
            return
        place = {entry.scored.candidate.id: index for index, entry in enumerate(entries)}
        readings = []
        for index, entry in enumerate(entries):
            candidate = entry.scored.candidate
            parent = place.get(candidate.parent or "")
            earlier = parent if parent is not None and parent < index else None
            readings.append(Reading(entry.level, candidate.prior, earlier, entry.share))
        draws = np.array([self.worth.combine(entry.draws) for entry in measured if entry.draws is not None])
        examples = sum(map(len, measured[0].standing.outcomes.values()))
        for entry, belief in zip(entries, weigh(readings, paired_error(draws, examples)), strict=True):
            self._keep(replace(entry, scored=replace(entry.scored, expected=belief)))
