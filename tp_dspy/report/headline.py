"""What came of a run, in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tp_dspy.optimization.candidates import Origin
from tp_dspy.runs.snapshots import RUNNING
from tp_dspy.sheets import number

if TYPE_CHECKING:
    from tp_dspy.runs.artifacts import TransferResult
    from tp_dspy.runs.records import CandidateRecord, PhaseRecord
    from tp_dspy.runs.side_by_side import SideBySide
    from tp_dspy.scoring.comparison import Comparison

__all__ = ["ORIGINS", "Gain", "Headline", "chance", "gain", "headline", "measured", "target_name", "verdict"]

ORIGINS: dict[Origin, str] = {
    "original": "the program's own instruction",
    "seed": "one of the instructions that were given as seeds",
    "general": "a general instruction that ships with tp_dspy",
    "source": "a source prompt, carried over as it is",
    "proposal": "a prompt that the reference LM wrote",
}
"""Where a prompt came from."""


@dataclass(frozen=True)
class Headline:
    """The outcome at a glance.

    Attributes:
        verdict: In a few words.
        kind: "better", "worse", "unclear" or "same", for the looks.
        before: Score of the original; NaN where it has none.
        after: Score of the target prompt; NaN where it has none.
        basis: What both were measured on.
        chosen_on_it: Whether those examples chose the winner, so that its score is too good.
        lines: Sentences that say more.
        difference: The paired difference, where there is one.
    """

    verdict: str
    kind: str
    before: float
    after: float
    basis: str
    chosen_on_it: bool
    lines: list[str]
    difference: Comparison | None


@dataclass(frozen=True)
class Gain:
    """What the winner has more than the original: the one figure of it, for page and plots alike.

    Attributes:
        before: Score of the original; NaN where it has none.
        after: Score of the winner; NaN where it has none.
        change: What was gained; NaN where both have not been measured on the same.
        basis: What both were measured on.
    """

    before: float
    after: float
    change: float
    basis: str


def gain(result: TransferResult) -> Gain:
    """Say what the winner gained, on held-out examples where they were measured, else on what it was chosen on."""
    found = measured(result)
    if found is None:
        return _gain_of_search(result)
    first, target = next(iter(found.prompts)), target_name(found)
    which = "held-out examples" if result.held_out is not None else "examples that the winner was chosen on"
    of, difference = len(found.examples), found.differences.get(target)
    before, after = found.paired.get(target) or (found.prompts[name].metrics.score for name in (first, target))
    if difference is None and target != first:
        return Gain(before, after, math.nan, f"{of} {which}, none of which both prompts answered")
    change, n = (0.0, found.prompts[first].metrics.n) if difference is None else (difference.score, difference.n)
    some = f"{n} of {of} {which}: those that both prompts answered"
    return Gain(before, after, change, f"{of} {which}" if n == of else some)


def _gain_of_search(result: TransferResult) -> Gain:
    """Say what was gained where nothing is set side by side, as after an interruption."""
    original, winner = result.original, result.winner
    phase = _deciding(result)
    chosen = phase is not None and phase.selection is not None
    which = "examples that the winner was chosen on" if chosen else "examples of the search"
    own, n = _answered(original), _answered(winner)
    if not n:
        return Gain(original.score, winner.score, winner.score - original.score, f"the {which}")
    if not own or own == n:
        return Gain(original.score, winner.score, winner.score - original.score, f"{n} {which}")
    return Gain(original.score, winner.score, math.nan, f"{n} {which}; the original on {own}")


def headline(result: TransferResult) -> Headline:
    """Say what came of a run: on held-out examples where they were measured, else on those that chose the winner."""
    found, winning = measured(result), result.winner.instructions
    gained = gain(result)
    difference = found.differences.get(target_name(found)) if found is not None else None
    same = result.winner.id == result.original.id
    kind = "same" if same else verdict(difference)
    told = {
        "better": "The target prompt is better than the original",
        "worse": "The target prompt is worse than the original",
        "unclear": "No clear difference to the original",
        "same": "No better prompt was found",
    }[kind]
    if kind == "better" and result.held_out is None:
        told = "Better than the original, on the examples that chose it"
    if result.stopped == RUNNING:
        told = "Nothing better yet" if same else "Best so far"
    elif not same and (result.target is None or not result.target.history):
        told = "The best source prompt so far"
    elif not same and difference is None:
        told = "Best so far: the run was stopped before the final comparison"
        if found is not None:
            told = "The two cannot be compared: no example was answered by both"
    elif kind == "worse" and found is not None and _keeps_more(found):
        told, kind = "The target prompt keeps the constraints better; its score is lower", "unclear"
    lines = [_where_from(result), *([] if same or difference is None else [chance(difference)])]
    if found is not None and (source := found.prompts.get("best source")) and source.instructions != winning:
        alike = difference is not None and difference.n == source.metrics.n == len(found.examples)
        where = "on the same" if alike else f"on the {source.metrics.n} that it answered"
        lines.append(f"The best source prompt, as it was carried over, has {number(source.metrics.score)} {where}.")
    if found is not None:
        lines += _constraints(found)
    chosen_on_it = result.held_out is None
    return Headline(told, kind, gained.before, gained.after, gained.basis, chosen_on_it, lines, difference)


def _keeps_more(found: SideBySide) -> bool:
    first, target = found.prompts[next(iter(found.prompts))], found.prompts[target_name(found)]
    return target.metrics.violation < first.metrics.violation


def _constraints(found: SideBySide) -> list[str]:
    """Say who misses the constraints, which come before any score; nothing where all keep them."""
    target = found.prompts[target_name(found)]
    if target.metrics.violation > 0:
        return [f"The target prompt misses the objective's constraints by {number(target.metrics.violation)} here."]
    return ["The original misses the objective's constraints; this one keeps them."] if _keeps_more(found) else []


def measured(result: TransferResult) -> SideBySide | None:
    """Give the side-by-side measurement to show first, if there is one."""
    return result.held_out if result.held_out is not None else result.selection


def target_name(found: SideBySide) -> str:
    """Say what the target prompt is called in a measurement."""
    return "target" if "target" in found.prompts else list(found.prompts)[-1]


def verdict(difference: Comparison | None) -> str:
    """Say "better" or "worse" where the interval of a difference leaves 0 out, else "unclear"."""
    if difference is None or math.isnan(difference.low):
        return "unclear"
    return "better" if difference.low > 0.0 else "worse" if difference.high < 0.0 else "unclear"


def chance(difference: Comparison) -> str:
    """Say in words how far a difference may be chance."""
    p = difference.p_value
    if math.isnan(p):
        return "How far that may be chance cannot be said."
    share = max(1, round(1000 * p))
    words = "is hardly chance" if p < 0.01 else "is unlikely to be chance" if p < 0.05 else "may well be chance"
    said = (
        f"That {words}: between two equally good prompts, about {share} in 1,000 comparisons would show a "
        f"difference this large (p = {p:.3f}, two-sided paired bootstrap)."
    )
    needed = difference.examples_needed
    if p >= 0.05 and math.isfinite(needed) and difference.score:
        said += f" About {int(needed):,} examples would be needed to see a difference of this size."
    return said


def _where_from(result: TransferResult) -> str:
    """Say where the winner came from."""
    winner = result.winner
    if winner.id == result.original.id:
        ran = [phase for phase in (result.source, result.target) if phase is not None]
        tried = len({record.id for phase in ran for record in phase.history} - {winner.id})
        return f"The target prompt is the program's own instruction: none of {tried} others that were tried was chosen."
    said = ORIGINS[winner.origin]
    earlier = result.source.history if result.source is not None and winner.origin == "source" else []
    before = next((record for record in earlier if record.id == winner.id), None)
    if winner.origin == "proposal":
        phase = "target" if result.target is not None and result.target.history else "source"
        said += f" in round {winner.round} of the {phase} phase"
    elif before is not None and before.origin == "proposal":
        said += f"; the reference LM wrote it in round {before.round} of the source phase"
    elif before is not None:
        said += f"; before that, it was {ORIGINS[before.origin]}"
    return f"The target prompt is {said}."


def _deciding(result: TransferResult) -> PhaseRecord | None:
    """Give the phase that the winner is of: the source phase, where the target phase ended before it scored one."""
    return next((phase for phase in (result.target, result.source) if phase is not None and phase.history), None)


def _answered(record: CandidateRecord) -> int:
    return sum(metrics.n for metrics in record.by_task.values())
