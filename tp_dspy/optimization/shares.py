"""How budgets are divided: among the parts of phases that follow each other, and among phases that go on at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tp_dspy.optimization.plan import PhasePlan

__all__ = ["Part", "Stage", "makespan", "parts_of", "shares_of", "stages_of"]

Part = Literal["search", "selection"]


@dataclass(frozen=True)
class Stage:
    """A part of a phase, with what is planned for it.

    Attributes:
        phase: "source", "target", or "target <name>" where there are several.
        part: "search" or "selection".
        least: Scored pairs that it cannot do without, as a rule, as a count.
        more: Scored pairs beyond these, most of them of proposals, as a count: a search can end earlier.
        reference_calls: Calls of the reference LM, as a count.
        can_wait: Whether it is a choice among source prompts, which targets in the same plan make again.
    """

    phase: str
    part: Part
    least: int
    more: int = 0
    reference_calls: int = 0
    can_wait: bool = False


def stages_of(plan: PhasePlan, more_to_come: bool) -> list[Stage]:
    """List the parts of a phase; more to come are phases after it."""
    more = plan.population - plan.first + plan.proposals
    return [
        Stage(plan.phase, "search", plan.first, more, plan.reference_calls),
        Stage(plan.phase, "selection", plan.selection, can_wait=plan.phase == "source" and more_to_come),
    ]


def makespan(loads: Sequence[float], lanes: int) -> float:
    """Say when the last of some loads ends, each of which goes to the lane that is free first."""
    ends = [0.0] * lanes
    for load in loads:
        first = ends.index(min(ends))
        ends[first] += load
    return max(ends)


def parts_of(limit: float, wants: Sequence[float], whole: bool) -> list[float]:
    """Divide a limit in proportion; what is counted in whole ones, the largest remainders rounded up.

    Args:
        limit: The limit.
        wants: In proportion to these; where all are 0, each has all of it.
        whole: Whether it is counted in whole ones.
    """
    total = sum(wants)
    if not total:
        return [limit] * len(wants)
    parts = [limit * want / total for want in wants]
    if not whole:
        return parts
    floors = [float(math.floor(part + 1e-9)) for part in parts]
    left = round(limit - sum(floors))
    for index in sorted(range(len(parts)), key=lambda index: floors[index] - parts[index])[:left]:
        floors[index] += 1.0
    return floors


def shares_of(limit: float, stages: Sequence[Stage]) -> list[float]:
    """Divide scored pairs among stages: `limit` pairs in all, or what all of them can take.

    What cannot be done without comes first, then what can wait, then proposals; where one of them is too much, it
    shrinks alike for all stages.
    """
    shares = [0.0] * len(stages)
    for wants in (
        [0 if stage.can_wait else stage.least for stage in stages],
        [stage.least if stage.can_wait else 0 for stage in stages],
        [stage.more for stage in stages],
    ):
        wanted = sum(wants)
        part = min(1.0, limit / wanted) if wanted else 0.0
        shares = [share + part * want for share, want in zip(shares, wants, strict=True)]
        limit -= part * wanted
    return shares
