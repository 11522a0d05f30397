"""Racing rules on real prompts: how much of the panel each of them scores, and how much its pick is worse for it.

    TP_DSPY_DATA=folder uv run python -m programs.benchmarks.racing --pool 16 --keep 1

Replays scores of real prompts, block by block (``replay/capo_block_scores.parquet`` in the folder, or ``--data FILE``:
a row per prompt, ``block_0`` ..., and columns that tell apart which prompts met the same examples). Pools are drawn at
random, blocks come in random order, and after each a rule may drop prompts; a race ends when no more are left than
wanted. For each rule, over its own knob: ``used``, the share of all blocks that it scored; ``regret_points``, how far
the full means of its picks are below those of the best, in points of accuracy, with the standard error. One JSON line.

The rules: ours (`tp_dspy.optimization.racing.ExpectedGain`); a test of each against the last one wanted with the pooled
variance of paired differences; CAPO's paired t-tests; successive halving; Wilcoxon signed-rank tests as in Optuna's
pruner; scoring everything. ``--simulate`` shows instead what prior means from a source phase save, on simulated ones.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tp_dspy.optimization.racing import ExpectedGain, worth_going_on

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Rule = Callable[[FloatArray, int, int], BoolArray]
"""From the scores so far (prompts x blocks), the number of blocks and how many are wanted to those that go on."""

_EXAMPLES = 30  # In a block of the shared file; only for the chance in a first block, before blocks can be compared.


def block_error(scores: FloatArray) -> float:
    """Standard deviation by chance of one prompt's mean over the blocks, what all prompts share left out."""
    prompts, blocks = scores.shape
    mean = float(scores.mean())
    # Binomial, half of it shared by all prompts; counts as much as eight residuals.
    prior = 0.5 * max(mean * (1.0 - mean), 1e-4) / _EXAMPLES
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + mean
    freedom = (prompts - 1) * (blocks - 1)
    return math.sqrt((8 * prior + float((rest**2).sum())) / (8 + freedom) / blocks)


def ours(price: float) -> Rule:
    """Ours, at a price in points."""

    def rule(scores: FloatArray, blocks: int, keep: int) -> BoolArray:
        met = scores.shape[1]
        ahead = [later / blocks for later in range(met + 1, blocks)]
        error = block_error(scores)
        return worth_going_on(scores.mean(axis=1), error, met / blocks, keep=keep, price=price / 100, ahead=ahead)

    return rule


def pooled(alpha: float) -> Rule:
    """A z-test of each against the last one wanted, with the pooled variance of paired differences."""

    def rule(scores: FloatArray, blocks: int, keep: int) -> BoolArray:
        if scores.shape[1] < 2:
            return np.ones(len(scores), dtype=bool)
        means = scores.mean(axis=1)
        order = np.argsort(-means)
        z = (means - means[order[keep - 1]]) / (math.sqrt(2) * block_error(scores))
        stay = stats.norm.cdf(z) > alpha
        stay[order[:keep]] = True
        return stay

    return rule


def capo(alpha: float) -> Rule:
    """CAPO: out is whoever is worse than `keep` others by a one-sided paired t-test."""

    def rule(scores: FloatArray, blocks: int, keep: int) -> BoolArray:
        if scores.shape[1] < 2:
            return np.ones(len(scores), dtype=bool)
        differences = scores[None] - scores[:, None]
        mean, sd = differences.mean(axis=2), differences.std(axis=2, ddof=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            p = stats.t.sf(mean / (sd / math.sqrt(scores.shape[1])), scores.shape[1] - 1)
        p = np.where(sd == 0.0, np.where(mean > 0.0, 0.0, 1.0), p)
        return _at_least((p < alpha).sum(axis=1) < keep, scores, keep)

    return rule


def wilcoxon(alpha: float) -> Rule:
    """Optuna's WilcoxonPruner: out is whoever is worse than the best by a one-sided signed-rank test."""

    def rule(scores: FloatArray, blocks: int, keep: int) -> BoolArray:
        if scores.shape[1] < 2:
            return np.ones(len(scores), dtype=bool)
        best = np.argsort(-scores.mean(axis=1), kind="stable")[keep - 1]
        differences = scores - scores[best]
        p = np.array([_signed_rank(row) for row in differences])
        return _at_least(p >= alpha, scores, keep)

    return rule


def _signed_rank(row: FloatArray) -> float:
    """The exact one-sided p-value, over all signs; SciPy's takes a hundred times as long."""
    if not row.any():
        return 1.0
    ranks = stats.rankdata(np.abs(row))
    ranks, positive = ranks[row != 0], row[row != 0] > 0
    signs = (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks))) & 1
    return float((signs @ ranks <= ranks[positive].sum() + 1e-9).mean())


def halving(points: Sequence[int]) -> Rule:
    """Successive halving after so many blocks."""

    def rule(scores: FloatArray, blocks: int, keep: int) -> BoolArray:
        left = max(keep, len(scores) // 2) if scores.shape[1] in points else len(scores)
        return _at_least(np.zeros(len(scores), dtype=bool), scores, left)

    return rule


def full(_: float) -> Rule:
    """Score everything."""
    return lambda scores, blocks, keep: np.ones(len(scores), dtype=bool)


def _at_least(stay: BoolArray, scores: FloatArray, keep: int) -> BoolArray:
    stay = stay.copy()
    if stay.sum() < keep:
        stay[np.argsort(-scores.mean(axis=1), kind="stable")[:keep]] = True
    return stay


RULES: dict[str, tuple[Callable[[Any], Rule], Sequence[Any]]] = {
    "ours": (ours, (0.005, 0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0)),
    "pooled": (pooled, (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)),
    "capo": (capo, (0.05, 0.1, 0.15, 0.2, 0.3, 0.4)),
    "wilcoxon": (wilcoxon, (0.05, 0.1, 0.2, 0.3, 0.4)),
    "halving": (halving, ((1, 2, 3, 4), (1, 2, 4, 6), (1, 3, 5, 7), (2, 4, 6, 8), (3, 5, 7, 9), (4, 6, 8), (6, 8))),
    "full": (full, (0.0,)),
}


def play(matrix: FloatArray, rule: Rule, keep: int, level: FloatArray | None = None) -> tuple[float, float]:
    """Run one race.

    Args:
        matrix: Scores, prompts x blocks.
        rule: Says who goes on.
        keep: How many are wanted.
        level: For ours: what each prompt is expected to score, up to the difficulty of the task.

    Returns:
        The share of blocks used, and the regret in points.
    """
    alive, used, blocks = np.arange(len(matrix)), 0, matrix.shape[1]
    for met in range(1, blocks + 1):
        used += len(alive)
        if met == blocks:
            break
        scores = matrix[alive, :met]
        if level is None:
            stay = rule(scores, blocks, keep)
        else:
            means, told = scores.mean(axis=1), level[alive]
            price = ExpectedGain().price
            told = told + means.mean() - told.mean()
            ahead = [later / blocks for later in range(met + 1, blocks)]
            stay = worth_going_on(
                means, block_error(scores), met / blocks, keep=keep, price=price, level=told, ahead=ahead
            )
        alive = alive[stay]
        if len(alive) <= keep:
            break
    means = matrix.mean(axis=1)
    picks = alive[np.argsort(-matrix[alive, :met].mean(axis=1), kind="stable")[:keep]]
    regret = np.sort(means)[::-1][:keep].mean() - means[picks].mean()
    return used / matrix.size, 100 * float(regret)


def pools(groups: Sequence[FloatArray], size: int, draws: int, seed: int) -> Iterator[FloatArray]:
    """Draw pools of prompts with their blocks in random order, the same for every rule."""
    rng = np.random.default_rng(seed)
    for group in groups:
        for _ in range(draws):
            chosen = rng.choice(len(group), min(size, len(group)), replace=False)
            yield group[chosen][:, rng.permutation(group.shape[1])]


def point(races: Sequence[FloatArray], rule: Rule, keep: int) -> dict[str, float]:
    """Run all races under one rule."""
    used, regret = np.array([play(race, rule, keep) for race in races]).T
    error = regret.std(ddof=1) / math.sqrt(len(regret))
    return {
        "used": round(used.mean(), 4),
        "regret_points": round(regret.mean(), 4),
        "se": round(error, 4),
    }


def load(path: Path) -> list[FloatArray]:
    """Read the blocks of prompts that met all of them, by what they met."""
    import pandas as pd

    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    blocks = [name for name in table.columns if name.startswith("block_")]
    by = [name for name in ("dataset", "model", "seed") if name in table.columns]
    whole = table.dropna(subset=blocks)
    groups = [part for _, part in whole.groupby(by)] if by else [whole]
    return [group[blocks].to_numpy(dtype=float) for group in groups if len(group) > 1]


def simulate(pool: int, keep: int, races: int, seed: int) -> dict[str, Any]:
    """What prior means save: prompts whose worth a source phase knows with some error, read on blocks of a new task."""
    rng = np.random.default_rng(seed)
    price = 100 * ExpectedGain().price
    figures: dict[str, Any] = {}
    for prior_sd in (0.01, 0.02, 0.04):
        rows = []
        for _ in range(races):
            worth = rng.normal(0.7, 0.04, pool)
            told = worth + rng.normal(0.0, prior_sd, pool)
            trust = 0.04**2 / (0.04**2 + prior_sd**2)
            level = 0.7 + trust * (told - told.mean())
            matrix = rng.normal(0.0, 0.06, 10) + worth[:, None] + rng.normal(0.0, 0.06, (pool, 10))
            rows.append([*play(matrix, ours(price), keep), *play(matrix, ours(price), keep, level)])
        used, regret, used_with, regret_with = np.array(rows).mean(axis=0)
        figures[str(prior_sd)] = {
            "without": {"used": round(used, 3), "regret_points": round(regret, 3)},
            "with": {"used": round(used_with, 3), "regret_points": round(regret_with, 3)},
        }
    return {"prior_sd": figures}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the file; by default the one in the folder of TP_DSPY_DATA")
    parser.add_argument("--pool", type=int, default=16, help="prompts in a race (default 16)")
    parser.add_argument("--keep", type=int, default=1, help="how many are wanted (default 1)")
    parser.add_argument("--draws", type=int, default=15, help="races for each group of prompts (default 15)")
    parser.add_argument("--seed", type=int, default=0, help="of pools and orders (default 0)")
    parser.add_argument("--simulate", action="store_true", help="what prior means save, on simulated prompts")
    args = parser.parse_args()
    if args.simulate:
        print(json.dumps(simulate(args.pool, args.keep, 25 * args.draws, args.seed)))
        return
    path = args.data
    if path is None:
        folder = os.environ.get("TP_DSPY_DATA")
        if not folder:
            parser.error("pass --data FILE, or set TP_DSPY_DATA to a folder with replay/capo_block_scores.parquet.")
        path = Path(folder) / "replay" / "capo_block_scores.parquet"
    races = list(pools(load(path), args.pool, args.draws, args.seed))
    rules = {
        name: [{"knob": knob, **point(races, make(knob), args.keep)} for knob in knobs]
        for name, (make, knobs) in RULES.items()
    }
    default = point(races, ours(100 * ExpectedGain().price), args.keep)
    print(json.dumps({"keep": args.keep, "races": len(races), "rules": rules, "default": default}))


if __name__ == "__main__":
    main()
