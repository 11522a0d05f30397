"""How much a compile does, and what it will cost at most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Panel
from tp_dspy.optimization.stopping import Spent

__all__ = ["PRESETS", "Effort", "PhasePlan", "effort"]


@dataclass(frozen=True)
class Effort:
    """How much each phase does.

    Attributes:
        rounds: Rounds of proposals.
        proposals: Proposals asked for in a round.
        examples: Examples per panel of a target, at most.
        source_examples: Examples per panel of each source task, at most; None for as many, as far as a budget allows.
        top_k: Source prompts that go on to the target, and finalists of a phase.
    """

    rounds: int
    proposals: int
    examples: int
    top_k: int
    source_examples: int | None = None


PRESETS = {
    # A first look: less than two minutes on a small local LM.
    "quick": Effort(rounds=2, proposals=3, examples=10, top_k=2),
    "light": Effort(rounds=2, proposals=4, examples=20, top_k=3),
    "medium": Effort(rounds=4, proposals=8, examples=50, top_k=4),
    # Eight proposals a round are OPRO's published setting.
    "heavy": Effort(rounds=10, proposals=8, examples=120, top_k=5),
}
_LEAST = {"rounds": 0, "proposals": 1, "examples": 1, "source_examples": 1, "top_k": 1}


def effort(auto: str, **overrides: int | None) -> Effort:
    """Take a preset, with some of its numbers replaced.

    Raises:
        ConfigurationError: If there is no such preset, or a number is too small.
    """
    if auto not in PRESETS:
        raise ConfigurationError(f"auto is {auto!r}; expected one of {sorted(PRESETS)}.")
    given = {name: value for name, value in overrides.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name]:
            raise ConfigurationError(f"{name} is {value!r}; expected a whole number of at least {_LEAST[name]}.")
    return replace(PRESETS[auto], **given)


@dataclass(frozen=True)
class PhasePlan:
    """What a phase costs at most: nothing dropped, nothing known already, every proposal usable.

    All are counts of scored pairs, but for the last; a program of several predictors makes several LM calls for each.

    Attributes:
        phase: "source", "target", or "target <name>" where there are several.
        population: To score the first population.
        proposals: To score what is proposed.
        selection: To choose among the finalists.
        reference_calls: Calls of the reference LM, the check before the first phase aside; a round none of whose
            replies can be used is asked once more.
        raced: The share of these pairs that a race is likely to take of a first population, in (0, 1].
        round: Proposals of a round; 0 where there is none.
    """

    phase: str
    population: int
    proposals: int
    selection: int
    reference_calls: int
    raced: float = 1.0
    round: int = 0

    @property
    def scorer_calls(self) -> int:
        """Scored pairs in all."""
        return self.population + self.proposals + self.selection

    @property
    def first(self) -> int:
        """Scored pairs that the first population is likely to take."""
        return math.ceil(self.population * self.raced)

    @property
    def necessary(self) -> int:
        """Scored pairs that it is likely to take whatever is proposed."""
        return self.first + self.selection

    @property
    def wanted(self) -> int:
        """Scored pairs that all proposals are likely to take."""
        return math.ceil(self.proposals * self.raced)

    @classmethod
    def of(
        cls, phase: str, population: int, search: Panel, selection: Panel | None, work: Effort, raced: float = 1.0
    ) -> PhasePlan:
        """Plan a phase that begins with `population` candidates."""
        pairs = sum(map(len, search.values()))
        held = sum(map(len, selection.values())) if selection else 0
        asked = work.rounds * work.proposals
        finals, each = (1 + work.top_k) * held, work.proposals if work.rounds else 0
        return cls(phase, population * pairs, asked * pairs, finals, asked, raced, each)

    @staticmethod
    def beside(plans: Sequence[PhasePlan], spent: Spent) -> str:
        """Compare what was spent with the plan, in one line."""
        planned = [sum(plan.scorer_calls for plan in plans), sum(plan.reference_calls for plan in plans)]
        usd = "price unknown" if spent.usd is None else f"{spent.usd:.4f} USD"
        return (
            f"Spent: {spent.scorer_calls} scorer calls (planned: at most {planned[0]}), {spent.reference_calls} "
            f"reference calls (planned: {planned[1]}), {spent.tokens:,} tokens, {usd}, {spent.seconds:.0f} s."
        )

    @staticmethod
    def in_words(plans: Sequence[PhasePlan], runs: int = 1) -> str:
        """Say it in one line; `runs` is how often the program runs for each pair."""
        parts = [f"{p.phase} phase {p.scorer_calls} scorer and {p.reference_calls} reference calls" for p in plans]
        again = f", each with {runs} runs of the program" if runs > 1 else ""
        said = f"At most: {'; '.join(parts)}; {sum(p.scorer_calls for p in plans)} scorer calls in all{again}."
        if not any(plan.reference_calls for plan in plans):
            return said
        return f"{said} The reference LM is checked with one call more, and asked twice where no reply can be used."
