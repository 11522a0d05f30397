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


def choose(
    standings: Sequence[Standing],
    history: History,
    worth: PhaseScore,
    *,
    fresh: bool,
    before: Sequence[tuple[Standing, Standing]] | None = None,
) -> list[ScoredCandidate]:
    """Rank the finalists.

    What was expected of a finalist before counts beside what is measured now: a panel of a dozen examples is not
    believed against all that was seen earlier. But nobody that measures below the original is ranked above it, all
    examples taken together that both have met: a hundredth on the last dozen does not undo what the search has shown.

    Args:
        standings: The original's, then the others', on equal examples.
        history: What was expected of them.
        worth: How outcomes make a score.
        fresh: Whether these are other examples than those of the history; if not, they say nothing new.
        before: For each finalist the original's standing and its own on the examples of the search that both have met;
            None where nothing is known but what is measured now.

    Returns:
        Those that did not measure below the original, best expected first, then the others; of equals, the one that
        came first.
    """
    scored = [_known(worth.of(standing), history) for standing in standings]
    if fresh:
        scored = _weighed(scored, standings, worth)
    kept = [not _measures_below(standings[0], standing, worth) for standing in standings]
    if fresh and before is not None:
        met = [(_with(standings[0], first), _with(standings[i], own)) for i, (first, own) in enumerate(before)]
        kept = [not _measures_below(first, own, worth) for first, own in met]
    # reverse=True keeps the order of equals.
    ranked = sorted(zip(kept, scored, strict=True), key=lambda pair: (pair[0], *pair[1].rank), reverse=True)
    return [entry for _, entry in ranked]


def _measures_below(original: Standing, other: Standing, worth: PhaseScore) -> bool:
    return worth.of(other).merit < worth.of(original).merit


def _with(standing: Standing, earlier: Standing) -> Standing:
    """Add earlier outcomes on other examples."""
    names = dict.fromkeys([*standing.outcomes, *earlier.outcomes])
    outcomes = {n: [*earlier.outcomes.get(n, ()), *standing.outcomes.get(n, ())] for n in names}
    return replace(standing, outcomes=outcomes)


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
