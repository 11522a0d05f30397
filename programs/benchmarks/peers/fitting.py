"""How settings of the optimisers are made to fit a budget and few examples."""

from __future__ import annotations

import math

__all__ = ["capo_block", "simba_settings", "smallest_budget", "source_examples"]

# Of a source task: fewer say nothing of it.
_LEAST_EXAMPLES = 4


def source_examples(examples: int, sources: int) -> int:
    """Say how many examples of each source task to take: half as many in all as of the target."""
    return max(_LEAST_EXAMPLES, examples // (2 * sources))


def simba_settings(budget: int, examples: int) -> dict[str, int]:
    """Choose the settings with the most steps, up to the default of eight, that end before the budget does."""

    def runs(bsize: int, candidates: int, steps: int) -> int:
        return steps * bsize * (candidates + min(candidates + 1, bsize)) + examples * min(candidates + 1, steps + 1)

    fitting = [
        {"max_steps": steps, "num_candidates": candidates, "bsize": bsize}
        for candidates in range(2, 7)
        for bsize in (8, 16, 32)
        for steps in range(1, 9)
        if bsize <= examples and runs(bsize, candidates, steps) <= budget
    ]
    if not fitting:
        raise ValueError(f"SIMBA does not fit: {budget} scorer calls for {examples} examples")
    return max(fitting, key=lambda one: (one["max_steps"], one["num_candidates"], one["bsize"]))


def capo_block(examples: int) -> int:
    """Divide examples into blocks of at least four, three of them where possible, without a remainder.

    CAPO would leave that out.
    """
    return next(n for n in range(min(examples, max(4, math.ceil(examples / 3))), examples + 1) if examples % n == 0)


def smallest_budget(name: str, train: int, validation: int) -> float:
    """Say how many pairs a method cannot do without; 0 where it takes what there is, infinite where none will do."""
    both = train + validation
    if name == "copro":
        return 2 * validation
    if name == "miprov2":
        return train + 2 * validation
    if name == "simba":
        return next((b for b in range(both, 100 * both) if _fits(b, both)), math.inf)
    return 0


def _fits(budget: int, examples: int) -> bool:
    try:
        simba_settings(budget, examples)
    except ValueError:
        return False
    return True
