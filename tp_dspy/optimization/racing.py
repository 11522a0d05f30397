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
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Candidate, Standing
from tp_dspy.optimization.evidence import Belief, paired_error
from tp_dspy.optimization.panel import Panel, on_common_examples
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.scoring.gate import HaltedError

__all__ = [
    "ExpectedGain",
    "FullScoring",
    "PairedBootstrap",
    "RaceResult",
    "Racing",
    "expected_level",
    "race",
    "step_ends",
    "usual_share",
    "worth_going_on",
]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

# Checkpoints with fewer examples behind them are passed over: resamples of a handful are all alike.
_LEAST_EXAMPLES = 8
# With an idea of how much chance there is before anything was seen, a handful will do.
_LEAST_WITH_PRIOR = 4
# What that idea counts for, in examples met by one more candidate.
_PRIOR_WEIGHT = 8
# Of what first populations could take: races took 0.48 of it on a real target, 0.64 on the starter sets.
_USUAL_SHARE = 0.5
# Ends of a race that are played through: the gain of one more candidate is known to a hundredth of a point.
_ENDS = 2000


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


@dataclass(frozen=True)
class ExpectedGain:
    """Drops candidates that are not worth their examples.

    A test asks whether a candidate is worse; what matters is what would be lost without it. A near tie loses nothing,
    however long it cannot be told apart, and one that is far behind may still be worth a few examples. So this rule
    foretells what each candidate will have scored at the end of the panel, and goes on with the first n of them as long
    as the next one is expected to add more than it costs: `price` times the share of the panel that it meets until the
    rule is asked again, at whichever later checkpoint speaks most for it.

    A score foretold is what was measured so far, and for the rest what is expected: the score drawn towards those of
    all (empirical Bayes), or towards what a source phase lets expect of the candidate. Chance is that of paired
    differences, pooled over candidates, of the whole objective.

    Attributes:
        keep: How many of the best are wanted at the end; at least 1. They are never dropped.
        price: Gain in score, in (0, 1), that one more candidate must promise to be scored on a whole panel.
        checkpoints: Shares of the examples after which it is asked.

    Raises:
        ConfigurationError: If `keep` or `price` is out of range.

    References:
        Raiffa and Schlaifer, "Applied Statistical Decision Theory", 1961 (expected value of sample information).
        Chick and Inoue, "New two-stage and sequential procedures for selecting the best simulated system", Operations
        Research 49, 2001.
    """

    keep: int = 1
    price: float = 0.001
    checkpoints: Sequence[float] = (0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        if self.keep < 1 or not 0.0 < self.price < 1.0:
            raise ConfigurationError(
                f"ExpectedGain has keep={self.keep!r} and price={self.price!r}; expected keep of at least 1 and a "
                "price between 0 and 1."
            )

    def survivors(self, standings: Sequence[Standing], share: float, worth: PhaseScore) -> Sequence[Candidate]:
        """Keep those that promise more than they cost."""
        sizes = [len(outcomes) for outcomes in standings[0].outcomes.values()]
        met = sum(sizes)
        everyone = [standing.candidate for standing in standings]
        # A single example of a task says nothing of chance.
        if len(standings) <= self.keep or met < _LEAST_WITH_PRIOR or min(sizes) < 2:
            return everyone
        scored = [worth.of(standing) for standing in standings]
        scores = np.array([entry.score for entry in scored])
        if np.isnan(scores).any():
            return everyone
        draws = [worth.resamples(standing) for standing in standings]
        measured = paired_error(np.array([worth.combine(scores_) for scores_, _ in draws]), met)
        error = _with_prior(measured, scores, met, met - len(sizes))
        chance = np.array([(violations.mean(axis=0) == 0.0).mean() for _, violations in draws])
        level = expected_level(scores, [candidate.prior for candidate in everyone])
        ahead = [later for later in self.checkpoints if later > share]
        stay = worth_going_on(
            scores, error, share, keep=self.keep, price=self.price, level=level, chance=chance, ahead=ahead
        )
        return [candidate for candidate, stays in zip(everyone, stay, strict=True) if stays]


def _with_prior(error: float, scores: FloatArray, met: int, free: int) -> float:
    """Draw an error that was measured on few examples towards what is usual: right or wrong, half of it shared."""
    mean = min(max(float(scores.mean()), 0.05), 0.95)
    usual = 0.5 * mean * (1.0 - mean) / met
    freedom = (len(scores) - 1) * free
    return math.sqrt((_PRIOR_WEIGHT * usual + freedom * error**2) / (_PRIOR_WEIGHT + freedom))


def expected_level(scores: FloatArray, priors: Sequence[Belief | None]) -> FloatArray:
    """What each candidate was expected to score before it was seen.

    Args:
        scores: What they have scored, of shape (candidates,).
        priors: What a source phase lets expect of each, up to the new task's difficulty.

    Returns:
        The mean of all; for those with a prior, the prior brought to the level of the new task.
    """
    known = [index for index, prior in enumerate(priors) if prior is not None]
    level = np.full(len(scores), scores.mean())
    if len(known) > 1:
        means = np.array([prior.mean for prior in priors if prior is not None])
        level[known] = means + (scores[known].mean() - means.mean())
    return level


def worth_going_on(
    scores: FloatArray,
    error: float,
    share: float,
    *,
    keep: int,
    price: float,
    level: FloatArray | None = None,
    chance: FloatArray | None = None,
    ahead: Sequence[float] = (),
) -> BoolArray:
    """Say which candidates promise more than they cost; see `ExpectedGain`.

    Args:
        scores: What they have scored so far, of shape (candidates,).
        error: Standard deviation by chance of one of these scores, what all candidates share left out.
        share: The share of the panel that they have met, in (0, 1).
        keep: How many of the best are wanted.
        price: What a whole panel costs, in score.
        level: What each was expected to score before it was seen; the mean of all by default.
        chance: The chance that each keeps the constraints at the end; 1 by default.
        ahead: The shares at which this will be asked again, above `share`: whoever is worth its examples up to one of
            them goes on, as it can be dropped there. The end is always one of them.

    Returns:
        True for those that go on, at least `keep`.
    """
    level = np.full(len(scores), scores.mean()) if level is None else level
    noise = error**2
    spread = float(((scores - level) ** 2).sum()) / max(1, len(scores) - 1) - noise
    # Candidates are never all alike: a tenth of the noise keeps the door open for those that had bad luck.
    spread = max(spread, noise / 10.0)
    trust = spread / (spread + noise) if spread > 0 else 1.0
    expected = level + trust * (scores - level)
    rest = 1.0 - share
    mean = share * scores + rest * expected
    chance = np.ones(len(scores)) if chance is None else chance
    # Whoever misses a constraint is below all that keep them: by more than any score.
    order = np.argsort(2.0 * (1.0 - chance) - mean, kind="stable")
    rng = np.random.default_rng(0)
    luck = rng.standard_normal((_ENDS, len(scores)))
    keeps = rng.random(luck.shape) < chance[order]
    last = keep
    for look in sorted({*ahead, 1.0}):
        sd = _foreseen(look - share, rest, trust * noise, noise * share)
        ends = mean[order] + sd * luck
        ends = np.where(keeps, ends, ends - 2.0)
        last = max(last, _first_worth(ends, keep, price * (look - share)))
    stay = np.zeros(len(scores), dtype=np.bool_)
    stay[order[:last]] = True
    return stay


def _foreseen(ahead: float, rest: float, worth: float, example: float) -> float:
    """How far what is expected of a candidate will have moved, as a standard deviation, after some more examples.

    Args:
        ahead: The share of the panel that will have been met by then beyond what was, in (0, `rest`].
        rest: The share that is still to be met.
        worth: Variance of what it is worth, given what was met.
        example: Variance by chance of a score on a whole panel.
    """

    def unknown(left: float, worth: float) -> float:
        return left**2 * worth + left * example

    after = 1.0 / (1.0 / worth + ahead / example) if worth > 0 and example > 0 else 0.0
    return math.sqrt(max(0.0, unknown(rest, worth) - unknown(rest - ahead, after)))


def _first_worth(ends: FloatArray, keep: int, price: float) -> int:
    """How many of the best promise at least this price, each beyond what those before it do; at least `keep`."""
    best = np.sort(ends[:, :keep], axis=1)
    last = keep
    for place in range(keep, ends.shape[1]):
        if float(np.maximum(ends[:, place] - best[:, 0], 0.0).mean()) >= price:
            last = place + 1
        best[:, 0] = np.maximum(best[:, 0], ends[:, place])
        if keep > 1:
            best.sort(axis=1)
    return last


@dataclass(frozen=True)
class RaceResult:
    """How a race ended.

    Attributes:
        reached: The standings of those that met all examples.
        dropped: Of those that the rule dropped, on the examples that they had met by then.
        unfinished: Of those that were still in it when it was halted, on the examples of the last step that was done.
        halted: Why it was halted; None when it was not.
    """

    reached: Sequence[Standing] = ()
    dropped: Sequence[Standing] = ()
    unfinished: Sequence[Standing] = ()
    halted: str | None = None


def race(
    candidates: Sequence[Candidate],
    panel: Panel,
    *,
    rule: Racing,
    worth: PhaseScore,
    outcomes: Callable[[Sequence[Candidate], Panel], Sequence[Standing]],
    incumbents: Sequence[Candidate] = (),
    decides: Callable[[float, Sequence[Candidate], Sequence[Candidate]], None] = lambda share, kept, dropped: None,
) -> RaceResult:
    """Run a race.

    Args:
        candidates: Those that run.
        panel: What they are scored on.
        rule: Says who is out.
        worth: How outcomes make a score.
        outcomes: Has candidates scored on a panel; what is known already costs nothing.
        incumbents: The best of earlier races on the same panel.
        decides: Told, after each step but the last, the share of the examples that were met, who of the candidates goes
            on, and who does not.

    Raises:
        ConfigurationError: If the rule breaks its contract.
    """
    alive = list(dict.fromkeys(candidates))
    rivals = [candidate for candidate in dict.fromkeys(incumbents) if candidate not in alive]
    dropped: list[Standing] = []
    own: list[Standing] = []
    sizes = {name: len(examples) for name, examples in panel.items()}
    for share, ends in zip(rule.checkpoints, step_ends(sizes, rule.checkpoints), strict=True):
        met = {name: list(examples)[: ends[name]] for name, examples in panel.items()}
        try:
            standings = list(outcomes([*rivals, *alive], met))
        except HaltedError as halt:
            unfinished = [standing for standing in own if standing.candidate in alive]
            return RaceResult(dropped=dropped, unfinished=unfinished, halted=halt.reason)
        own = standings[len(rivals) :]
        if share == 1:
            return RaceResult(own, dropped)
        kept = set(rule.survivors(on_common_examples(standings), share, worth)) & {*rivals, *alive}
        if not kept:
            raise ConfigurationError(
                f"{type(rule).__name__}.survivors kept none of {len(standings)} candidates; expected at least one."
            )
        out = [standing for standing in own if standing.candidate not in kept]
        dropped += out
        alive = [candidate for candidate in alive if candidate in kept]
        decides(share, alive, [standing.candidate for standing in out])
        if not alive:
            break
    return RaceResult(dropped=dropped)


def usual_share(rule: Racing, panel: Panel) -> float:
    """Say what share of a panel candidates are likely to meet: all where a rule cannot drop any before its end."""
    looks = step_ends({name: len(examples) for name, examples in panel.items()}, rule.checkpoints)[:-1]
    return _USUAL_SHARE if looks and sum(looks[-1].values()) >= _LEAST_WITH_PRIOR else 1.0


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
