"""The choice among the finalists of a phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tp_dspy.optimization.candidates import ScoredCandidate, Standing
from tp_dspy.optimization.evidence import Reading, paired_error, weigh
from tp_dspy.optimization.history import History
from tp_dspy.optimization.phase_score import PhaseScore

__all__ = ["choose"]


def choose(standings: Sequence[Standing], history: History, worth: PhaseScore, *, fresh: bool) -> list[ScoredCandidate]:
    """Rank the finalists.

    What was expected of a finalist before counts beside what is measured now: a panel of a dozen examples is not
    believed against all that was seen earlier. But nobody that measures below the original here is ranked above it.

    Args:
        standings: The original's, then the others', on equal examples.
        history: What was expected of them.
        worth: How outcomes make a score.
        fresh: Whether these are other examples than those of the history; if not, they say nothing new.

    Returns:
        Those that did not measure below the original, best expected first, then the others; of equals, the one that
        came first.
    """
    scored = [_known(worth.of(standing), history) for standing in standings]
    if fresh:
        scored = _weighed(scored, standings, worth)
    own = scored[0].merit
    # reverse=True keeps the order of equals.
    return sorted(scored, key=lambda entry: (not entry.merit < own, *entry.rank), reverse=True)


def _known(scored: ScoredCandidate, history: History) -> ScoredCandidate:
    if scored.candidate not in history:
        return scored
    known = history[scored.candidate]
    return replace(scored, round=known.round, expected=known.expected, measurement=known.measurement)


def _weighed(
    scored: Sequence[ScoredCandidate], standings: Sequence[Standing], worth: PhaseScore
) -> list[ScoredCandidate]:
    measured = [index for index, entry in enumerate(scored) if not math.isnan(entry.score)]
    if not measured:
        return list(scored)
    draws = np.array([worth.combine(worth.draws(standings[index])) for index in measured])
    examples = sum(map(len, standings[0].outcomes.values()))
    readings = [Reading(scored[index].score, scored[index].expected) for index in measured]
    beliefs = dict(zip(measured, weigh(readings, paired_error(draws, examples)), strict=True))
    return [replace(entry, expected=beliefs.get(index)) for index, entry in enumerate(scored)]
