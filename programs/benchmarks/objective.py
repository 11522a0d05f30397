"""The objective beside a loop over scikit-learn: how much faster, how equal, and what its intervals cover.

    uv run python -m programs.benchmarks.objective --json

prints one JSON line. ``speedup``: seconds of the loop over seconds of ours (the median of five), for all metrics of so
many resamples of so many outcomes, one after the other in the same process. ``max_abs_error``: the largest difference
between the two, over those resamples and over ten thousand random sets with ties and extremes. ``coverage``: the share
of simulated experiments whose 95 % interval holds the truth.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from tp_dspy.scoring import metrics
from tp_dspy.scoring.evaluation import evaluate
from tp_dspy.scoring.metrics import METRIC_NAMES
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.resampling import OutcomeArrays, bootstrap_weights, weighted_metrics
from tp_dspy.scoring.set_objective import SetObjective
from tp_dspy.scoring.weights import Weights

FloatArray = npt.NDArray[np.float64]

_BINS = 10


def reference(followed: FloatArray, correct: FloatArray, confidence: FloatArray) -> dict[str, float]:
    """Every metric of a set as one would write it with scikit-learn; ECE, which it lacks, by its definition."""
    edges = np.arange(1, _BINS) / _BINS
    bins = np.searchsorted(edges, confidence, side="left")
    ece = 0.0
    for number in np.unique(bins):
        inside = bins == number
        ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    both = 0.0 < correct.mean() < 1.0
    return {
        "ifr": float(followed.mean()),
        "accuracy": float(correct.mean()),
        "ece": float(ece),
        "auroc": float(roc_auc_score(correct, confidence)) if both else math.nan,
        "auprc_positive": float(average_precision_score(correct, confidence)) if both else math.nan,
        "auprc_negative": float(average_precision_score(1 - correct, 1 - confidence)) if both else math.nan,
        "brier": float(brier_score_loss(correct, confidence, pos_label=1)),
        "coverage": 1.0,
    }


def random_set(rng: np.random.Generator, n: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw followed, correct and confidence: distinct, tied, extreme or all equal; one class now and then."""
    kind = rng.integers(4)
    confidence = [rng.random(n), rng.integers(0, 11, n) / 10, rng.choice([0.0, 0.5, 1.0], n), np.full(n, rng.random())]
    share = rng.choice([0.02, 0.3, 0.7, 0.98])
    return (rng.random(n) < 0.9).astype(float), (rng.random(n) < share).astype(float), confidence[kind]


def distance(ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """The largest difference; two NaN are equal, one NaN is infinitely far from a number."""
    gaps = []
    for name in METRIC_NAMES:
        undefined = math.isnan(ours[name]), math.isnan(theirs[name])
        gaps.append(0.0 if all(undefined) else math.inf if any(undefined) else abs(ours[name] - theirs[name]))
    return max(gaps)


def speed(outcomes: int, resamples: int, seed: int) -> tuple[float, float]:
    """Time both on the same resamples; returns the ratio, and the largest difference."""
    rng = np.random.default_rng(seed)
    followed, confidence = (rng.random(outcomes) < 0.9).astype(float), rng.random(outcomes)
    correct = (rng.random(outcomes) < 0.3 + 0.5 * confidence).astype(float)
    arrays = OutcomeArrays(followed > 0, correct, confidence, np.ones(outcomes, dtype=bool))
    times = []
    for _ in range(5):  # The first one of a process pays for fresh memory; the loop below does a thousand.
        started = time.perf_counter()
        weights = bootstrap_weights(outcomes, resamples, rng)
        ours = weighted_metrics(arrays, weights, n_bins=_BINS)
        Weights.of(None).score(ours)
        times.append(time.perf_counter() - started)
    mine = statistics.median(times)
    worst, theirs = 0.0, 0.0
    for row, counts in enumerate(weights):
        drawn = np.repeat(np.arange(outcomes), counts)
        started = time.perf_counter()
        values = reference(followed[drawn], correct[drawn], confidence[drawn])
        theirs += time.perf_counter() - started
        worst = max(worst, distance({name: float(ours[name][row]) for name in METRIC_NAMES}, values))
    return theirs / mine, worst


def equality(sets: int, seed: int) -> float:
    """The largest difference on random sets of 1 to 60 outcomes, for the plain functions."""
    rng = np.random.default_rng(seed)
    worst = 0.0
    for _ in range(sets):
        followed, correct, confidence = random_set(rng, int(rng.integers(1, 60)))
        ours = {
            "ifr": metrics.instruction_following_rate(followed),
            "accuracy": metrics.accuracy(correct),
            "ece": metrics.expected_calibration_error(correct, confidence, n_bins=_BINS),
            "auroc": metrics.auroc(correct, confidence),
            "auprc_positive": metrics.auprc_positive(correct, confidence),
            "auprc_negative": metrics.auprc_negative(correct, confidence),
            "brier": metrics.brier_score(correct, confidence),
            "coverage": metrics.coverage(confidence),
        }
        worst = max(worst, distance(ours, reference(followed, correct, confidence)))
    return worst


def coverage(experiments: int, n: int, seed: int) -> dict[str, float]:
    """The share of 95 % intervals that hold the truth, for an LM that is right in 0.2 + 0.6 x confidence of cases."""
    rng = np.random.default_rng(seed)
    sure = np.random.default_rng(seed + 1).random(1_000_000)
    right = 0.2 + 0.6 * sure
    bins = np.searchsorted(np.arange(1, _BINS) / _BINS, sure, side="left")
    sums = [np.bincount(bins, weights=values, minlength=_BINS) for values in (right, sure)]
    order = np.argsort(sure)
    below = np.cumsum(1 - right[order]) - (1 - right[order])
    truth = {
        "accuracy": float(right.mean()),
        "ece": float(np.abs(sums[0] - sums[1]).sum() / sure.size),
        "auroc": float((right[order] * below).sum() / (right.sum() * (1 - right).sum())),
    }
    held = dict.fromkeys(truth, 0)
    rule = SetObjective(Weights.of(None), n_bins=_BINS)
    for number in range(experiments):
        confidence = rng.random(n)
        hits = rng.random(n) < 0.2 + 0.6 * confidence
        outcomes = [Outcome("ok", True, float(hit), float(c)) for hit, c in zip(hits, confidence, strict=True)]
        intervals = evaluate(outcomes, rule, seed=number).intervals
        for name, value in truth.items():
            held[name] += intervals[name][0] <= value <= intervals[name][1]
    return {name: round(count / experiments, 3) for name, count in held.items()}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--json", action="store_true", help="one JSON line, as always; accepted for the sake of scripts"
    )
    parser.add_argument("--outcomes", type=int, default=5000, help="outcomes in the timed set (default 5000)")
    parser.add_argument("--resamples", type=int, default=1000, help="resamples in the timed set (default 1000)")
    parser.add_argument("--sets", type=int, default=10_000, help="random sets to compare on (default 10000)")
    parser.add_argument("--experiments", type=int, default=500, help="simulated experiments (default 500)")
    parser.add_argument("-n", type=int, default=200, help="examples in each of them (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    speedup, apart = speed(args.outcomes, args.resamples, args.seed)
    figures = {
        "speedup": round(speedup, 1),
        "max_abs_error": max(apart, equality(args.sets, args.seed)),
        "coverage": coverage(args.experiments, args.n, args.seed),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
