"""Which source tasks helped which target: the choice of source prompts made again without each of them.

A source task helps a target by the prompts that it brings to the front. So, source by source, the prompts of the source
phase are ranked once more without its scores; and what the best of the chosen is worth on the target is compared with
the best of those chosen with all sources. All of that is known from saved outcomes, once the prompts that any of the
choices holds have been scored on the target. It does not undo that the reference LM had the source's examples in sight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tp_dspy.errors import ConfigurationError
from tp_dspy.optimization.candidates import Standing
from tp_dspy.optimization.panel import on_common_examples
from tp_dspy.optimization.phase_score import PhaseScore
from tp_dspy.runs.records import CandidateRecord
from tp_dspy.runs.source_prompts import SourcePrompts
from tp_dspy.scoring.resampling import covering, percentile_interval
from tp_dspy.scoring.set_objective import Metrics
from tp_dspy.sheets import Sheet, Shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Choices", "Influence", "SourceInfluence", "choices_without_each", "influence"]

FloatArray = npt.NDArray[np.float64]

# Examples whose word weighs as much as the mean of all prompts: single answers vary by about 0.4, prompts by 0.2.
_DOUBT = 4


@dataclass(frozen=True)
class Choices:
    """The source prompts that would be carried over, with all source tasks and without each of them.

    Attributes:
        records: Every prompt that one of the choices holds.
        with_all: The choice with all tasks, as indices of `records`, best first.
        without: The choice without a task, by its name.
    """

    records: tuple[CandidateRecord, ...]
    with_all: tuple[int, ...]
    without: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Influence:
    """What a source task brought to a target.

    Attributes:
        gain: Score on the target of the best prompt chosen with all source tasks, less that of the best one chosen
            without this task; positive where the task helped.
        low: Lower end of its 95 % bootstrap interval over the target's examples, which are the same for both.
        high: Upper end.
        replaced: How many of the chosen prompts differ; with 0 the gain is 0 for certain.
    """

    gain: float
    low: float
    high: float
    replaced: int


@dataclass(frozen=True, repr=False)
class SourceInfluence(Shown):
    """A table of source tasks by targets. Prints as one; `to_frame` gives the figures.

    Attributes:
        by_target: Influence of each source task, by target and source task.
        scores: Score on the target of the best prompt chosen with all sources, by target.
    """

    by_target: Mapping[str, Mapping[str, Influence]]
    scores: Mapping[str, float]

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each source task and target, with the attributes of `Influence` as columns."""
        import pandas as pd

        rows = [
            {"source": source, "target": target, **vars(one)}
            for target, found in self.by_target.items()
            for source, one in found.items()
        ]
        return pd.DataFrame(rows).set_index(["source", "target"])

    def _sheet(self) -> Sheet:
        from tp_dspy.runs.tables import influence_sheet

        return influence_sheet(self)


def choices_without_each(sources: SourcePrompts, top_k: int) -> Choices:
    """Choose the source prompts again without the scores of each source task.

    Prompts are ranked by their scores in the search of the source phase: by how far they lie above the mean of each
    task, as merged prompts have met different tasks. Those that a race dropped take part, as it may have dropped them
    for the very task that is left out; a score on few examples is drawn towards the mean.

    Args:
        sources: Of at least two tasks.
        top_k: How many are carried over.

    Raises:
        ConfigurationError: If there are fewer than two source tasks, or no prompt has scores.
    """
    names = [task.name for task in sources.tasks]
    records = [record for record in sources.phase.history if any(m.n for m in record.by_task.values())]
    if len(names) < 2 or not records:
        raise ConfigurationError(
            f"The source prompts have {len(names)} source tasks ({names}) and {len(records)} prompts with scores on "
            "them; expected at least 2 tasks, so that one can be left out."
        )
    level = {name: _level(records, name) for name in names}

    def chosen(tasks: Sequence[str]) -> list[CandidateRecord]:
        above = {
            record.id: float(np.mean([_above(record.by_task[name], level[name]) for name in met]))
            for record in records
            if (met := [name for name in tasks if name in record.by_task and record.by_task[name].n])
        }
        known = [record for record in records if record.id in above]
        return sorted(known, key=lambda record: above[record.id], reverse=True)[:top_k]

    picked = {name: chosen([other for other in names if other != name]) for name in names}
    best = chosen(names)
    union = list({record.id: record for some in (best, *picked.values()) for record in some}.values())
    place = {record.id: index for index, record in enumerate(union)}

    def indices(some: Sequence[CandidateRecord]) -> tuple[int, ...]:
        return tuple(place[record.id] for record in some)

    return Choices(tuple(union), indices(best), {name: indices(some) for name, some in picked.items()})


def _level(records: Sequence[CandidateRecord], task: str) -> float:
    """The mean score on a task, each prompt weighted by the examples it has met."""
    met = [record.by_task[task] for record in records if task in record.by_task and record.by_task[task].n]
    return float(np.average([metrics.score for metrics in met], weights=[metrics.n for metrics in met])) if met else 0.0


def _above(metrics: Metrics, level: float) -> float:
    return (metrics.score - level) * metrics.n / (metrics.n + _DOUBT)


def influence(choices: Choices, standings: Mapping[str, Sequence[Standing]], worth: PhaseScore) -> SourceInfluence:
    """Set the choices against each other on the targets.

    Args:
        choices: The choices.
        standings: By target, how each of the choices' records did on it, in their order.
        worth: How outcomes make a score.
    """
    by_target: dict[str, dict[str, Influence]] = {}
    scores: dict[str, float] = {}
    for target, found in standings.items():
        fair = on_common_examples(found)
        score = np.array([worth.of(standing).score for standing in fair])
        draws = np.array([worth.combine(worth.draws(standing)) for standing in fair])
        scores[target] = float(score[list(choices.with_all)].max())
        by_target[target] = {
            source: _influence(score, draws, choices.with_all, without) for source, without in choices.without.items()
        }
    return SourceInfluence(by_target, scores)


def _influence(score: FloatArray, draws: FloatArray, with_all: Sequence[int], without: Sequence[int]) -> Influence:
    one, other = list(with_all), list(without)
    gain = float(score[one].max() - score[other].max())
    low, high = covering(gain, percentile_interval(draws[one].max(axis=0) - draws[other].max(axis=0)))
    return Influence(gain, low, high, len(set(other) - set(one)))
