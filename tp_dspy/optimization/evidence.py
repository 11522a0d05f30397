"""What is expected of a candidate, given all that is known of it and of its kin.

A score on few examples is a noisy reading of what a candidate is worth, and the best of many readings is one that was
lucky. So each reading is weighed against what was to be expected before it was seen. Three things are known then:

* A **derived** candidate differs from the one it was derived from by an edit. Edits of one search are of one kind: how
  much they move on average, and how much they differ, is learnt from all of them. A family of good readings speaks for
  each of its members; a lone lucky one is not believed.
* A **source prompt** was read on other tasks. That reading carries over up to the new task's difficulty, which is the
  same for all, and as far as candidates keep their rank from task to task (`interaction`). Where the new task
  contradicts the sources, their word is discounted.
* Of any other candidate nothing is known.

This is a linear Gaussian model with two unknown variances (of edits, and of what the sources do not know of the new
task); what is expected is averaged over a grid of both, each weighted by how well it explains all readings. That the
search chose what to derive from what by the same readings does no harm: the model sees all that the choice saw.

Readings are *paired*: all candidates meet the same examples, so what counts as chance is how much their differences
vary, not how hard the examples are (`paired_error`).

References:
    Efron and Morris, "Data analysis using Stein's estimator and its generalizations", JASA 70, 1975.
    Higgins, Thompson and Spiegelhalter, "A re-evaluation of random-effects meta-analysis", JRSS A 172, 2009.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Belief", "Reading", "interaction", "paired_error", "weigh"]

FloatArray = npt.NDArray[np.float64]

# Scores are in [0, 1]: half of that is as good as nothing known.
_VAGUE = 0.5
# On average, an edit hardly moves a score by more.
_DRIFT = 0.1
# Standard deviations that edits may have, and what sources may fail to know of a new task.
_EDITS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
_SURPRISES = (0.0, 0.05, 0.1, 0.2, 0.4)
# No reading is exact: ten right answers of ten do not prove that the eleventh is.
_LEAST_ERROR = 1e-3


@dataclass(frozen=True)
class Belief:
    """What is expected of a candidate.

    Attributes:
        mean: The expected score.
        sd: Its standard deviation, at least 0.
    """

    mean: float
    sd: float


@dataclass(frozen=True)
class Reading:
    """One score.

    Attributes:
        score: The score, at the level of the examples that all readings are on.
        prior: What other evidence lets expect, up to a constant that is the same for all; None where there is none.
        parent: Index of the reading of the candidate that this one was derived from, an earlier one; None where there
            is none. With a prior it does not count: what was read is worth more than where it came from.
        share: The share of those examples that it has met, in (0, 1]; a smaller one means more chance.
    """

    score: float
    prior: Belief | None = None
    parent: int | None = None
    share: float = 1.0


def paired_error(draws: FloatArray, examples: int) -> float:
    """Standard deviation by chance of one score, what all candidates share left out.

    Args:
        draws: Bootstrap scores of shape (candidates, resamples); a resample holds the same examples for everyone.
        examples: How many examples were resampled.

    Returns:
        The root mean square over candidates, at least 0; those that score the same on every resample are left out: one
        that never keeps to the form says nothing of how much chance there is in those that do. With a single candidate:
        by chance altogether.
    """
    draws = draws[:, ~np.isnan(draws).any(axis=0)]
    draws = draws[np.ptp(draws, axis=1) > 1e-12] if draws.size else draws
    count = len(draws)
    if not draws.size:
        return 0.0
    own = draws - draws.mean(axis=0) if count > 1 else draws
    # The mean over candidates takes 1 / count of each one's own chance along; a resample has n - 1 degrees of freedom.
    shares = count / max(1, count - 1) * examples / max(1, examples - 1)
    return math.sqrt(float(own.var(axis=1).mean()) * shares)


def interaction(scores: FloatArray, error: float) -> float:
    """Standard deviation of what a candidate is worth on one task beyond its mean over tasks.

    Args:
        scores: Of shape (candidates, tasks).
        error: Standard deviation by chance of one of them.

    Returns:
        At least 0. With a single task it cannot be known: then the spread of the candidates beyond chance, as if
        one task told half of what there is to tell of another. 0 for fewer than two candidates.
    """
    candidates, tasks = scores.shape
    if candidates < 2:
        return 0.0
    rest = scores - scores.mean(axis=0)
    if tasks > 1:
        rest = rest - rest.mean(axis=1, keepdims=True)
    freedom = (candidates - 1) * max(1, tasks - 1)
    return math.sqrt(max(0.0, float((rest**2).sum()) / freedom - error**2))


def weigh(readings: Sequence[Reading], error: float) -> list[Belief]:
    """Say what is expected of each candidate, given the readings of all.

    Time and memory grow with the number of candidates, not with its square.

    Args:
        readings: One per candidate, parents before those derived from them.
        error: Standard deviation by chance of one of them that has met all examples, at least 0.

    Returns:
        What is expected of each, in their order.
    """
    if not readings:
        return []
    family = _Family(readings, max(error, _LEAST_ERROR) ** 2)
    family.gather()
    mean, variance = family.spread()
    share = np.exp(family.evidence - family.evidence.max())
    share /= share.sum()
    expected = mean @ share
    doubt = variance @ share + ((mean - expected[:, None]) ** 2) @ share
    return [Belief(float(m), math.sqrt(max(0.0, float(v)))) for m, v in zip(expected, doubt, strict=True)]


class _Family:
    """The model of this module, for every point of the grid at once: the last axis of all arrays.

    Each candidate's worth is ``t + e``: ``t`` is a constant, plus the level of the new task (carried candidates) or the
    parent's worth and the mean effect of an edit (derived ones); ``e`` has the variance of its kind. Level and mean
    effect are the two unknowns ``z`` that all share. As the candidates form a tree but for these, what the readings
    say is gathered from the leaves to the roots, and what is expected is spread from there (Gaussian belief
    propagation). All factors are kept as precision ``p`` and linear terms ``h + r.z`` of a candidate's worth.
    """

    def __init__(self, readings: Sequence[Reading], variance: float) -> None:
        self.readings = readings
        edits = _EDITS if any(r.parent is not None and r.prior is None for r in readings) else (0.0,)
        surprises = _SURPRISES if any(r.prior is not None for r in readings) else (0.0,)
        grid = np.array(list(itertools.product(edits, surprises))).T
        points = grid.shape[1]
        self.links = [_link(reading, grid) for reading in readings]
        weight = np.array([reading.share / variance for reading in readings])
        score = np.array([reading.score for reading in readings])
        self.p = np.repeat(weight[:, None], points, axis=1)
        self.h = np.repeat((weight * score)[:, None], points, axis=1)
        self.r = np.zeros((len(readings), 2, points))
        # Of z: precision, linear term; and the log-probability of all readings, up to a constant.
        self.zz = np.repeat(np.diag([_VAGUE**-2, _DRIFT**-2])[:, :, None], points, axis=2)
        self.z = np.zeros((2, points))
        self.evidence = np.zeros(points)

    def gather(self) -> None:
        """Pass what is known of each candidate on to its parent and to z, the youngest first."""
        for index in range(len(self.readings) - 1, -1, -1):
            constant, shared, parent, precision = self.links[index]
            p, h, r = self.p[index], self.h[index], self.r[index]
            total = p + precision
            self.evidence += 0.5 * h**2 / total + 0.5 * np.log(precision / total)
            self.z += h * r / total
            self.zz -= r[:, None] * r[None] / total
            # Seen from t, the candidate itself averaged out.
            part = precision / total
            p, h, r = p * part, h * part, r * part
            self.evidence += constant * h - 0.5 * constant**2 * p
            self.z += constant * r
            if shared is not None:
                self.z[shared] += h - constant * p
                self.zz[shared, shared] += p
                self.zz[shared] -= r
                self.zz[:, shared] -= r
            if parent is not None and shared is not None:
                self.p[parent] += p
                self.h[parent] += h
                self.r[parent] += r
                self.r[parent, shared] -= p

    def spread(self) -> tuple[FloatArray, FloatArray]:
        """Work out mean and variance of each worth, the eldest first; both of shape (candidates, points)."""
        zz = np.moveaxis(self.zz, 2, 0)
        cov = np.moveaxis(np.linalg.inv(zz), 0, 2)
        z = np.einsum("ijg,jg->ig", cov, self.z)
        self.evidence += 0.5 * (self.z * z).sum(axis=0) - 0.5 * np.linalg.slogdet(zz)[1]
        mean, variance, with_z = np.zeros_like(self.p), np.zeros_like(self.p), np.zeros_like(self.r)
        for index, (constant, shared, parent, precision) in enumerate(self.links):
            t, t_variance, t_with_z = constant + np.zeros_like(precision), np.zeros_like(precision), np.zeros_like(z)
            if parent is not None and shared is not None:
                t, t_with_z = t + mean[parent], t_with_z + with_z[parent]
                t_variance = variance[parent] + 2 * with_z[parent, shared]
            if shared is not None:
                t, t_with_z, t_variance = t + z[shared], t_with_z + cov[shared], t_variance + cov[shared, shared]
            total, r = self.p[index] + precision, self.r[index]
            mean[index] = (precision * t + self.h[index] + (r * z).sum(axis=0)) / total
            r_cov = np.einsum("ig,ijg->jg", r, cov)
            with_z[index] = (precision * t_with_z + r_cov) / total
            spread = precision**2 * t_variance + 2 * precision * (r * t_with_z).sum(axis=0) + (r * r_cov).sum(axis=0)
            variance[index] = 1 / total + spread / total**2
        return mean, variance


def _link(reading: Reading, grid: FloatArray) -> tuple[float, int | None, int | None, FloatArray]:
    """Say where a candidate's worth comes from: a constant, which part of z, which parent; and with what precision."""
    edit, surprise = grid
    if reading.prior is not None:
        return reading.prior.mean, 0, None, 1.0 / np.maximum(reading.prior.sd**2 + surprise**2, _LEAST_ERROR**2)
    if reading.parent is not None:
        return 0.0, 1, reading.parent, 1.0 / edit**2
    return 0.5, None, None, np.full_like(edit, _VAGUE**-2)
