"""Racing: which candidates earn more examples, and which are out.

A race scores candidates on one panel of tasks in several steps. Every candidate meets the same examples, so what a rule
compares is paired. The best of earlier races run along: their outcomes are known, and cost nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.panel import Panel, on_common_examples
from tp_dspy.optimization.phase_score import PhaseScore

__all__ = ["FullScoring", "PairedBootstrap", "Racing", "race", "step_ends"]

# Checkpoints with fewer examples behind them are passed over: resamples of a handful are all alike.
_LEAST_EXAMPLES = 8


class Racing(Protocol):
    """A rule that drops candidates while a race goes on."""

    @property
    def checkpoints(self) -> Sequence[float]:
        """Shares of each task's examples at which a step ends: increasing, in (0, 1], the last 1.

        The rule is asked after every step but the last: who gets that far is paid for, and recorded.
        """
        ...

    def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
        """Name the candidates that go on, at least one.

        Args:
            standings: The best of earlier races and the candidates still in this one, on equal examples, none of
                which any of them got no answer to.
            share: The share of the examples that they have met.
            worth: How outcomes make a score, and what chance does to it.
        """
        ...


@dataclass(frozen=True)
class FullScoring:
    """Drops nobody: every candidate is scored on every example."""

    checkpoints: Sequence[float] = (1.0,)

    def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
        """Keep everyone."""
        return [standing.candidate for standing in standings]


@dataclass(frozen=True)
class PairedBootstrap:
    """Drops a candidate once it is worse than the best, by a paired bootstrap of the whole objective.

    Metrics of a set (ECE, AUROC, AUPRC) have no value per example that a t-test could take: so whole scores are
    compared, resample by resample of the same examples. A candidate is out when it does at least as well as the
    `keep`-th best in too few of them.

    Attributes:
        keep: How many are not to be dropped; at least 1.
        alpha: Chance, at most, that one which is as good as the `keep`-th best is dropped at some checkpoint; in
            (0, 1), and an equal part of it is spent at each.
        checkpoints: Shares of the examples after which it is asked.

    Raises:
        ConfigurationError: If `keep` or `alpha` is out of range.
    """

    keep: int = 1
    alpha: float = 0.3
    checkpoints: Sequence[float] = (0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        if self.keep < 1 or not 0.0 < self.alpha < 1.0:
            raise ConfigurationError(
                f"PairedBootstrap has keep={self.keep!r} and alpha={self.alpha!r}; expected keep of at least 1 and "
                "alpha between 0 and 1."
            )

    def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
        """Keep those that may be among the best."""
        met = sum(len(outcomes) for outcomes in standings[0].outcomes.values())
        everyone = [standing.candidate for standing in standings]
        if len(standings) <= self.keep or met < _LEAST_EXAMPLES:
            return everyone
        scores = np.array([worth.merit(worth.of(standing)) for standing in standings])
        draws = np.array([worth.merit_draws(standing) for standing in standings])
        rival = np.argsort(-np.nan_to_num(scores), kind="stable")[self.keep - 1]
        # Equal is as good; so is a resample that leaves nothing to compare. Rounding must not tell equals apart.
        as_good = ~(draws < draws[rival] - 1e-12)
        looks = max(1, len(self.checkpoints) - 1)
        stay = (as_good.mean(axis=1) > self.alpha / looks) | ~(scores < scores[rival])
        return [candidate for candidate, stays in zip(everyone, stay, strict=True) if stays]


def race(
    candidates: Sequence[Candidate],
    panel: Panel,
    *,
    rule: Racing,
    worth: PhaseScore,
    outcomes: Callable[[Sequence[Candidate], Panel], Sequence[Standing]],
    incumbents: Sequence[Candidate] = (),
) -> tuple[list[Standing], list[Standing]]:
    """Run a race.

    Args:
        candidates: Those that run.
        panel: What they are scored on.
        rule: Says who is out.
        worth: How outcomes make a score.
        outcomes: Has candidates scored on a panel; what is known already costs nothing.
        incumbents: The best of earlier races on the same panel.

    Returns:
        The standings of those that reached the end, and of those that were dropped, with fewer outcomes.

    Raises:
        ConfigurationError: If the rule breaks its contract.
    """
    alive = list(dict.fromkeys(candidates))
    rivals = [candidate for candidate in dict.fromkeys(incumbents) if candidate not in alive]
    dropped: list[Standing] = []
    sizes = {name: len(examples) for name, examples in panel.items()}
    for share, ends in zip(rule.checkpoints, step_ends(sizes, rule.checkpoints), strict=True):
        met = {name: list(examples)[: ends[name]] for name, examples in panel.items()}
        standings = list(outcomes([*rivals, *alive], met))
        own = standings[len(rivals) :]
        if share == 1:
            return own, dropped
        kept = set(rule.survivors(on_common_examples(standings), share, worth)) & {*rivals, *alive}
        if not kept:
            raise ConfigurationError(
                f"{type(rule).__name__}.survivors kept none of {len(standings)} candidates; expected at least one."
            )
        dropped += [standing for standing in own if standing.candidate not in kept]
        alive = [candidate for candidate in alive if candidate in kept]
        if not alive:
            break
    return [], dropped


def step_ends(sizes: Mapping[str, int], checkpoints: Sequence[float]) -> list[dict[str, int]]:
    """Translate shares into numbers of examples.

    Args:
        sizes: Number of examples by task name.
        checkpoints: A rule's checkpoints.

    Returns:
        For each checkpoint, how many examples of each task have been met by then.

    Raises:
        ConfigurationError: If the checkpoints are not increasing shares in (0, 1] that end with 1.
    """
    shares = list(checkpoints)
    if not shares or shares[0] <= 0 or shares[-1] != 1 or any(a >= b for a, b in itertools.pairwise(shares)):
        raise ConfigurationError(f"checkpoints is {shares}; expected increasing shares in (0, 1], the last of them 1.")
    # Rounded first: 0.1 x 30 is a hair above 3.
    return [{name: math.ceil(round(share * size, 9)) for name, size in sizes.items()} for share in shares]
