"""What the cells say: means with intervals, paired differences, ranks, curves. No LM is needed for it."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tp_dspy import ObjectiveEvaluator
from tp_dspy.runs.folders import write_whole
from tp_dspy.scoring.outcomes import Outcome
from tp_dspy.scoring.resampling import bootstrap_weights

__all__ = ["METRICS", "Difference", "Found", "Mean", "Ranks", "Table", "keep", "read"]

METRICS = ("score", "ifr", "accuracy", "ece", "auroc", "auprc_positive", "auprc_negative")
_RESAMPLES = 1000
# Scores that differ by less are a tie: less than an answer of sixty, in one metric of six.
_TIE = 0.005
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Found:
    """A cell that was run, and how its prompts did on the held-out questions.

    Attributes:
        cell: As it was kept.
    """

    cell: Mapping[str, Any]

    @property
    def block(self) -> tuple[str, int]:
        """What is compared: the same target with the same examples."""
        return self.cell["target"], self.cell["seed"]

    @cached_property
    def by_prompt(self) -> list[dict[str, float]]:
        """Metrics of each prompt."""
        objective = ObjectiveEvaluator()
        sets = [[Outcome(o[0], bool(o[1]), o[2], o[3]) for o in one] for one in self.cell["outcomes"]]
        return [objective.measure(outcomes).as_dict() for outcomes in sets]

    @cached_property
    def draws(self) -> dict[str, FloatArray]:
        """Metrics of the prompt that was found, on resampled questions: the same ones for all cells of a target."""
        found = [Outcome(o[0], bool(o[1]), o[2], o[3]) for o in self.cell["outcomes"][self.cell["final"]]]
        # All seeds of a target are measured on the same questions.
        rng = np.random.default_rng([len(found), zlib.crc32(self.block[0].encode())])
        return ObjectiveEvaluator().resample(found, bootstrap_weights(len(found), _RESAMPLES, rng))

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the prompt that was found."""
        return self.by_prompt[self.cell["final"]]

    @cached_property
    def curve(self) -> list[tuple[int, float]]:
        """The held-out score of the best so far, by the scorer calls after which it was that."""
        steps = [(pairs, self.by_prompt[index]["score"]) for pairs, index in self.cell["incumbents"]]
        return [*steps, (self.cell["pairs"], self.metrics["score"])]

    def score_at(self, calls: float) -> float:
        """Give the held-out score of the best after so many scorer calls; NaN before there is one."""
        known = [score for pairs, score in self.curve if pairs <= calls]
        return known[-1] if known else math.nan


@dataclass(frozen=True)
class Mean:
    """A mean over targets, each of which is the mean of its seeds, with its 95 % interval.

    However many seeds a target has, it weighs as much as another. For the interval targets, seeds of each and
    questions are drawn anew.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A method against another on the same targets and seeds.

    Attributes:
        mean: Of the differences of the held-out score.
        wins, ties, losses: Of how many blocks.
        p_value: Of a Wilcoxon signed-rank test over targets, each with the mean of its seeds; NaN where there are
            fewer than six that differ.
    """

    mean: Mean
    wins: int
    ties: int
    losses: int
    p_value: float


@dataclass(frozen=True)
class Ranks:
    """Average ranks of the held-out score over targets, 1 is best, and a Friedman test of whether they differ."""

    by_method: Mapping[str, float]
    targets: int
    p_value: float


class Table:
    """The cells of one setting.

    Args:
        cells: As they were kept.
        methods: Those to compare, in order; others are left out.
    """

    def __init__(self, cells: Iterable[Mapping[str, Any]], methods: Sequence[str]) -> None:
        self.found: dict[str, dict[tuple[str, int], Found]] = {name: {} for name in methods}
        for cell in cells:
            if cell["method"] in self.found:
                one = Found(cell)
                self.found[cell["method"]][one.block] = one
        self.found = {name: blocks for name, blocks in self.found.items() if blocks}

    @property
    def methods(self) -> list[str]:
        """The methods that there is something of."""
        return list(self.found)

    @cached_property
    def blocks(self) -> list[tuple[str, int]]:
        """Targets and seeds that all methods were run on."""
        sets = [set(blocks) for blocks in self.found.values()]
        return sorted(set.intersection(*sets)) if sets else []

    @property
    def targets(self) -> list[str]:
        """The targets of these."""
        return list(dict.fromkeys(target for target, _ in self.blocks))

    def mean(self, method: str, metric: str = "score") -> Mean:
        """Average a metric over targets and their seeds; where it is undefined a block is left out."""
        cells = {block: self.found[method][block] for block in self.blocks}
        return _mean({block: (one.metrics[metric], one.draws[metric]) for block, one in cells.items()})

    def of_target(self, method: str, target: str, metric: str = "score") -> float:
        """Average a metric over the seeds of a target."""
        return _known_mean([found.metrics[metric] for found in self._seeds(method, target)])

    def _seeds(self, method: str, target: str) -> list[Found]:
        return [self.found[method][block] for block in self.blocks if block[0] == target]

    def total(self, method: str, name: str) -> float:
        """Average what a compile took, as a mean does: "pairs", "runs", "reference_replies" or "seconds"."""
        return float(np.mean([np.mean([f.cell[name] for f in self._seeds(method, t)]) for t in self.targets]))

    def errors(self, method: str) -> int:
        """Count the compiles in which the optimiser raised an error of its own."""
        return sum("error" in self.found[method][block].cell["ended"] for block in self.blocks)

    def difference(self, method: str, other: str) -> Difference:
        """Set a method against another."""
        pairs = {block: (self.found[method][block], self.found[other][block]) for block in self.blocks}
        apart = {
            block: (a.metrics["score"] - b.metrics["score"], a.draws["score"] - b.draws["score"])
            for block, (a, b) in pairs.items()
        }
        values = np.array([value for value, _ in apart.values()])
        wins, losses = int((values > _TIE).sum()), int((values < -_TIE).sum())
        means = np.array([self.of_target(method, t) - self.of_target(other, t) for t in self.targets])
        differ = means[np.abs(means) > 1e-12]
        p_value = float(stats.wilcoxon(differ).pvalue) if len(differ) >= 6 else math.nan
        return Difference(_mean(apart), wins, len(values) - wins - losses, losses, p_value)

    def ranks(self) -> Ranks:
        """Rank the methods target by target: seeds of one are no other data."""
        scores = np.array([[self.of_target(m, target) for m in self.methods] for target in self.targets])
        if len(scores) < 2 or len(self.methods) < 3:
            return Ranks({}, len(scores), math.nan)
        ranks = stats.rankdata(-np.round(scores, 9), axis=1).mean(axis=0)
        p_value = float(stats.friedmanchisquare(*scores.T).pvalue)
        return Ranks(dict(zip(self.methods, ranks.tolist(), strict=True)), len(scores), p_value)

    def curve(self, method: str, calls: Sequence[float]) -> FloatArray:
        """Average the held-out score of the best so far, as a mean does; NaN where some have none yet."""
        cells = [self._seeds(method, target) for target in self.targets]
        return np.array([np.mean([np.mean([f.score_at(c) for f in seeds]) for seeds in cells]) for c in calls])

    def calls_to_reach(self, method: str, target: str, peers: Sequence[str]) -> tuple[str, float | None]:
        """Say how soon a method is as good as the best peer at its end, on one target.

        Returns:
            The peer, and the ratio of the calls of both until then; None where the method never is, NaN where the peer
            made none: it ended with the original prompt.
        """
        best = max(peers, key=lambda peer: self.of_target(peer, target))
        goal = self.of_target(best, target)
        mine, theirs = self._first(method, target, goal), self._first(best, target, goal)
        return best, None if mine is None or theirs is None else mine / theirs if theirs else math.nan

    def _first(self, method: str, target: str, goal: float) -> int | None:
        """Say after how many calls the mean of a method's best so far reaches a score."""
        cells = self._seeds(method, target)
        places = sorted({pairs for one in cells for pairs, _ in one.curve})
        reached = (calls for calls in places if np.mean([one.score_at(calls) for one in cells]) >= goal - 1e-12)
        return next(reached, None)


def read(source: Path) -> list[dict[str, Any]]:
    """Read cells: of a folder of them, or of a file with one in each line."""
    if source.is_dir():
        return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(source.glob("*.json"))]
    return [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]


def keep(cells: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Write cells to a file that can be passed on, one in a line: all figures, and no text.

    Prompts and errors of an optimiser may quote its examples.
    """
    lines = []
    for cell in cells:
        said, told, _ = cell["ended"].partition(": ")
        bare = {**cell, "prompts": [], "ended": said + ")" if told else said}
        lines.append(json.dumps(bare, separators=(",", ":")) + "\n")
    write_whole(file, "".join(lines).encode())


def _mean(values: Mapping[tuple[str, int], tuple[float, FloatArray]]) -> Mean:
    """Average over blocks; of each its value, and its values on resampled questions."""
    by_target: dict[str, list[tuple[float, FloatArray]]] = {}
    for (target, _), one in values.items():
        if not math.isnan(one[0]):
            by_target.setdefault(target, []).append(one)
    if not by_target:
        return Mean(math.nan, math.nan, math.nan)
    groups = [np.array([draws for _, draws in group]) for group in by_target.values()]
    rng = np.random.default_rng(0)
    drawn = []
    for number in range(_RESAMPLES):
        targets = (groups[i] for i in rng.integers(len(groups), size=len(groups)))
        drawn.append(_known_mean([_known_mean(g[rng.integers(len(g), size=len(g)), number]) for g in targets]))
    known = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(known, [2.5, 97.5]) if known.size else (math.nan, math.nan)
    value = np.mean([np.mean([value for value, _ in group]) for group in by_target.values()])
    return Mean(float(value), float(low), float(high))


def _known_mean(values: npt.ArrayLike) -> float:
    """Average what is not NaN; NaN where all is."""
    array = np.asarray(values, dtype=float)
    known = array[~np.isnan(array)]
    return float(known.mean()) if known.size else math.nan
